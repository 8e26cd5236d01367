"""JAX: values and gradients inside its transformations, cotangents of integers, second derivatives, training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from fastloss.backends import mapping
from tests.conftest import assert_close
from tests.frameworks import CASES, DENSE, Case, every_case, every_loop, has_huge_pages
from tests.reference import REDUCTIONS

jax = pytest.importorskip("jax", reason='JAX is not installed: pip install -e ".[jax]"')

import jax.numpy as jnp  # noqa: E402


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def double() -> Iterator[None]:
    """JAX with float64, which it has only if asked."""
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def heads(value: Any) -> Any:
    return jnp.linspace(-1, 2, value.size, dtype=value.dtype).reshape(value.shape)


@pytest.mark.usefixtures("double")
@every_case(reduction=REDUCTIONS)
def test_values_and_gradients_are_numpys(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    inputs = {name: jnp.asarray(x) for name, x in case.inputs.items()}

    def call(*x: Any) -> Any:
        return loss(**(inputs | dict(zip(case.targets, x, strict=True))))

    targets = [inputs[name] for name in case.targets]
    value, flow = jax.vjp(call, *targets)
    assert isinstance(value, jax.Array)
    assert np.array_equal(value, loss(**case.inputs))
    assert value.dtype == np.float64
    head = heads(value)
    want = loss.grad(**case.inputs, wrt=case.targets, head_grad=np.asarray(head))
    for got, gradient in zip(flow(head), want, strict=True):
        np.testing.assert_allclose(got, gradient, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ["L1", "BCE pos_weight", "softmax ignore", "SDML", "CTC"])
@pytest.mark.parametrize("reduction", ["mean", "example"])
def test_transformations(name: str, reduction: str) -> None:
    case = CASES[name]
    loss = case.build(reduction=reduction)
    first, *others = [jnp.asarray(x) for x in case.inputs.values()]

    def total(x: Any) -> Any:
        return loss(**dict(zip(case.inputs, (x, *others), strict=True))).sum()

    arrays = dict(zip(case.inputs, map(np.asarray, (first, *others)), strict=True))
    want = loss.grad(**arrays)
    np.testing.assert_allclose(jax.grad(total)(first), want, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(first), want, rtol=1e-6, atol=1e-7)
    value, gradient = jax.jit(jax.value_and_grad(total))(first)
    np.testing.assert_allclose(value, np.sum(loss(**arrays)), rtol=1e-6)
    np.testing.assert_allclose(gradient, want, rtol=1e-6, atol=1e-7)
    batch = jnp.stack([first, first / 2])
    np.testing.assert_array_equal(jax.vmap(total)(batch), jnp.stack([total(x) for x in batch]))
    each = jnp.stack([jax.grad(total)(x) for x in batch])
    np.testing.assert_allclose(jax.jit(jax.vmap(jax.grad(total)))(batch), each, rtol=1e-6, atol=1e-7)


def test_a_loss_itself_is_transformed() -> None:
    loss, x, y = fl.L2Loss(reduction="mean"), jnp.arange(3.0), jnp.ones(3)
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(x, y), (x - y) / 3)
    np.testing.assert_allclose(jax.vmap(loss)(x, y), (x - y) ** 2 / 2)


@pytest.mark.parametrize("reduction", ["mean", "example"])
def test_a_compiled_loss_is_differentiated_in_different_inputs(reduction: str) -> None:
    """The rules share what JAX keeps of the compiled function: the passes backward come after all passes forward."""
    loss = fl.L2Loss(reduction=reduction)
    inputs = [jnp.arange(3.0), jnp.ones(3), jnp.arange(3.0) + 1]
    compiled = jax.jit(lambda *x: loss(*x).sum())
    wanted = [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2), (0, 1, 2)]
    flows = []
    for wrt in (*wanted, *wanted[::-1]):

        def call(*x: Any, wrt: Any = wrt) -> Any:
            given = dict(enumerate(inputs)) | dict(zip(wrt, x, strict=True))
            return compiled(*given.values())

        flows.append((wrt, jax.vjp(call, *[inputs[k] for k in wrt])[1]))
    for wrt, flow in flows:
        names = tuple([loss.inputs[k] for k in wrt])
        want = loss.grad(*map(np.asarray, inputs), wrt=names)
        for a, b in zip(flow(jnp.float32(1)), want, strict=True):
            np.testing.assert_array_equal(a, b)


def test_vmap_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "call_each", None)
    rng = np.random.default_rng(3)
    x, label = jnp.asarray(rng.normal(size=(2, 3, 4, 5))), jnp.asarray(rng.integers(0, 5, (2, 3, 4)))
    weight = jnp.asarray(rng.uniform(size=(3, 4)))
    for reduction in REDUCTIONS:
        loss = fl.SoftmaxCELoss(reduction=reduction, ignore_index=0)
        call = jax.value_and_grad(lambda *inputs, loss=loss: loss(*inputs).sum())
        got = jax.vmap(jax.vmap(call), in_axes=(0, 0, None))(x, label, weight)
        for index in np.ndindex(2, 3):
            want = call(x[index], label[index], weight[index[1]])
            for a, b in zip(got, want, strict=True):
                np.testing.assert_allclose(a[index], b, rtol=1e-5, atol=1e-6)


def test_vmap_of_several_axes() -> None:
    loss = fl.SoftmaxCELoss(reduction="mean")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 4, 5)), jnp.float32)
    y = jnp.asarray(np.random.default_rng(2).integers(0, 5, (3, 4)))
    call = jax.vmap(jax.vmap(jax.value_and_grad(loss)), in_axes=(0, None))
    for value, gradient in (call(x, y), jax.jit(call)(x, y)):
        for i, k in np.ndindex(2, 3):
            want = loss.value_and_grad(np.asarray(x[i, k]), np.asarray(y[k]))
            assert value[i, k] == np.float32(want[0])
            np.testing.assert_array_equal(gradient[i, k], want[1])
    behind = jax.vmap(loss, in_axes=(2, None))(jnp.moveaxis(x[0], 0, -1), y[0])
    np.testing.assert_array_equal(behind, jnp.stack([loss(one, y[0]) for one in x[0]]))
    assert jax.vmap(loss)(x[0, :0], y[:0]).shape == (0,)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["L2", "BCE", "KL", "softmax class_weight ignore", "cosine"])
def test_a_weight_of_zero_leaves_out(name: str, value: float, reduction: str) -> None:
    case = CASES[name]
    loss = case.build(reduction=reduction)
    for spoilt in loss.inputs[: loss.required]:
        given = case.inputs | {spoilt: case.inputs[spoilt].astype(float)}
        given["sample_weight"] = np.array([1.0, 0.0, 2.0, 0.0])
        given[spoilt][[1, 3]] = value
        arrays = {name: jnp.asarray(x) for name, x in given.items()}
        targets = [name for name in case.targets if name != "sample_weight"]

        def total(*x: Any, arrays: Any = arrays, targets: Any = targets) -> Any:
            return loss(**(arrays | dict(zip(targets, x, strict=True)))).sum()

        found, flow = jax.vjp(total, *[arrays[name] for name in targets])
        assert np.isfinite(found)
        want = loss.grad(**given, wrt=tuple(targets))
        for a, b in zip(flow(found), want, strict=True):
            np.testing.assert_allclose(a, found * b, rtol=1e-12, atol=1e-14)
            assert not np.any(a[np.array([1, 3])])
        if loss.is_elementwise:
            second = jax.grad(
                lambda x, total=total, rest=targets[1:], arrays=arrays: jax.grad(total)(
                    x, *[arrays[name] for name in rest]
                ).sum()
            )(arrays["pred"])
            np.testing.assert_allclose(second, loss.grad_and_hess(**given)[1], rtol=1e-12, atol=1e-14)
            assert not np.any(second[np.array([1, 3])])


SHAPES = [((5, 1), (5,)), ((5,), (1, 5)), ((2, 1, 3), (2, 3)), ((), (1, 1))]


@pytest.mark.parametrize(("shape", "other"), SHAPES)
def test_shapes_fit_but_for_axes_of_size_1(shape: Any, other: Any) -> None:
    rng = np.random.default_rng(2)
    x, y, r, s = rng.random(shape), rng.random(other), rng.random((*shape, 3)), rng.random((*other, 3))
    for loss, given in (
        (fl.L2Loss(), (x, y)),
        (fl.SoftmaxCELoss(), (r, np.round(y).astype(int))),
        (fl.TripletLoss(), (r, s, r)),
    ):
        arrays = tuple([a.astype(np.float32) if a.dtype.kind == "f" else a for a in given])
        value, gradient = jax.jit(loss.value_and_grad)(*map(jnp.asarray, arrays))
        want = loss.value_and_grad(*arrays)
        assert value.shape == np.shape(want[0])
        np.testing.assert_array_equal(value, want[0])
        np.testing.assert_array_equal(gradient, want[1])


def holes(make: Any) -> list[tuple[Any, Any]]:
    """Calls of which the first example, or element, is left out, and what is differentiated in; all have 0 there."""
    y, weight = np.array([[0.0], [0], [0]]), np.array([0.0, 1, 2])
    return [
        (lambda p: fl.L2Loss()(p, make(y), make(weight)), np.array([[0.0], [1], [2]])),
        (lambda p: fl.L2Loss(reduction="none")(p, make(y), make(weight[:, None])), np.array([[0.0], [1], [2]])),
        (lambda p: fl.SoftmaxCELoss(ignore_index=-1)(p, make(np.array([-1, 0, 1]))), np.eye(3)[:, :2]),
        (lambda p: fl.SoftmaxCELoss(axis=0)(p, make(y[:, 0]), make(weight[None])), np.eye(3)[:2]),
        (lambda p: fl.CTCLoss()(p, make(np.ones((3, 1))), sample_weight=make(weight)), np.ones((3, 2, 3))),
    ]


@pytest.mark.parametrize("k", range(5))
def test_infinity_does_not_flow_into_what_is_left_out(k: int) -> None:
    """The derivative of a root at 0 is infinite."""
    call, x = holes(jnp.asarray)[k]
    for f in (jax.grad, lambda f: jax.jit(jax.grad(f))):
        gradient = f(lambda p: jnp.sqrt(call(p)).sum())(jnp.asarray(x))
        out = gradient[..., 0] if x.shape == (2, 3) else gradient[0]
        assert not np.asarray(out).any()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted_mean"])
def test_infinity_does_not_flow_where_all_is_left_out(reduction: str) -> None:
    loss, x, nothing = fl.SigmoidBCELoss(reduction=reduction), jnp.ones((3, 1)), np.zeros(3)
    gradients = jax.grad(lambda p, y, q: jnp.sqrt(loss(p, y, nothing, q)), (0, 1, 2))(x, x[:, 0], x[:1, 0])
    assert [g.tolist() for g in gradients] == [[[0]] * 3, [0] * 3, [0]]
    second = jax.grad(lambda p: jnp.sqrt(jax.grad(lambda p: loss(p, x, nothing))(p)).sum())(x)
    assert not second.any()


@pytest.mark.parametrize(("shape", "other"), [((5, 1), (1, 5)), ((2, 3, 1), (2, 1, 3)), ((4,), (2, 2)), ((3,), (4,))])
def test_shapes_that_do_not_fit(shape: Any, other: Any) -> None:
    """They are known before the program runs."""
    x, y, r, s = jnp.ones(shape), jnp.ones(other), jnp.ones((*shape, 3)), jnp.ones((*other, 3))
    for loss, given in (
        (fl.L2Loss(), (x, y)),
        (fl.SoftmaxCELoss(), (r, y)),
        (fl.SoftmaxCELoss(sparse_label=False), (r, s)),
        (fl.TripletLoss(), (r, r, s)),
        (fl.CosineEmbeddingLoss(), (r, r, y)),
        (fl.SDMLLoss(), (r, s)),
    ):
        for call in (loss, loss.grad, jax.jit(loss)):
            with pytest.raises(ValueError, match="though one of the two may lack axes of size 1") as info:
                call(*given)
            assert all(str(a)[1:-1].rstrip(",") in str(info.value) for a in (shape, other))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x, loss: loss(x, x, jnp.ones(4)), r"sample_weight must be one weight per example .* got shape \(4,\)"),
        (
            lambda x, loss: loss.grad(x, x, head_grad=jnp.ones(4)),
            r"head_grad must be a number or have the value's shape",
        ),
        (lambda x, _: fl.SigmoidBCELoss()(x, x, pos_weight=jnp.ones(4)), "pos_weight must broadcast to pred's shape"),
        (lambda x, _: fl.SDMLLoss()(x, x), "x1 must have an axis of examples and one of features"),
        (lambda x, _: fl.CTCLoss()(x, x), "pred must have 3 axes, NTC"),
        (lambda x, loss: loss(x, x, x[:0]), r"got shape \(0,\); for no weights, give None"),
        (lambda x, _: fl.CTCLoss()(x[:, None, None], np.ones((2, 1))), r"for 3 examples, got shape \(2, 1\)$"),
        (lambda x, _: fl.CTCLoss(blank=1)(x[:, None, None], x[:, None]), "blank must be between -1 and 0 for a pred"),
        (
            lambda x, _: fl.SoftmaxCELoss(class_weight=(1, 2))(x[:, None], x),
            r"as many classes as class_weight, 2, got shape \(3, 1\) with 1",
        ),
    ],
)
def test_other_shapes_that_do_not_fit(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(jnp.ones(3), fl.L2Loss())


def test_sizes_may_be_symbols() -> None:
    """A program that is exported for any number of examples."""
    export = pytest.importorskip("jax.export")
    shape = jax.ShapeDtypeStruct(export.symbolic_shape("n, 3"), np.float32)
    loss = fl.L2Loss(reduction="example")
    checks = [export.DisabledSafetyCheck.custom_call("fastloss_call")]
    program = export.export(jax.jit(loss), disabled_checks=checks)(shape, shape)
    x = jnp.arange(12.0).reshape(4, 3)
    want = loss(np.asarray(x), 2 * np.asarray(x))
    np.testing.assert_array_equal(program.call(x, 2 * x), want)
    pytest.importorskip("flatbuffers", reason="JAX saves programs by it: pip install flatbuffers")
    np.testing.assert_array_equal(export.deserialize(program.serialize()).call(x, 2 * x), want)


def test_labels_that_are_integers_get_float0() -> None:
    x, y = jnp.ones((3, 4)), jnp.array([0, 3, 1])
    for reduction in ("mean", "none"):
        value, flow = jax.vjp(fl.SoftmaxCELoss(reduction=reduction), x, y)
        gradient, cotangent = flow(jnp.ones_like(value))
        assert gradient.shape == x.shape
        assert cotangent.dtype == jax.dtypes.float0
        assert cotangent.shape == y.shape


@pytest.mark.usefixtures("double")
@every_loop(reduction=["none", "example", "mean"])
def test_second_derivatives_are_right_or_refused(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    first, *others = [jnp.asarray(x) for x in case.inputs.values()]

    def gradient(x: Any) -> Any:
        return jax.grad(lambda x: (loss(**dict(zip(case.inputs, (x, *others), strict=True))) ** 2).sum() / 2)(x).sum()

    if loss.no_product is not None or not loss.is_separable(first.ndim):
        with pytest.raises(NotImplementedError, match=f"(of {type(loss).__name__}|^{type(loss).__name__} has no) "):
            jax.grad(gradient)(first)
        return
    step = 1e-6
    got = jax.grad(gradient)(first)
    for position in [numbers[: first.ndim] for numbers in ((0, 0, 0), (1, 2, 1), (3, 1, 2))]:
        moved = [gradient(first.at[position].add(sign * step)) for sign in (1, -1)]
        np.testing.assert_allclose(got[position], (moved[0] - moved[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    if reduction == "mean":
        given = dict(zip(case.inputs, (first, *others), strict=True))
        whole = jax.jacrev(jax.jacrev(lambda x: loss(**given | {loss.inputs[0]: x})))(first)
        want = loss.hvp(**given, vector=jnp.cos(first))
        np.testing.assert_allclose(
            whole.reshape(first.size, -1) @ jnp.cos(first).ravel(), want.ravel(), rtol=1e-10, atol=1e-12
        )


@pytest.mark.usefixtures("double")
def test_what_is_not_used_has_no_part_in_the_gradient() -> None:
    loss, x, y = fl.L2Loss(reduction="sum"), jnp.arange(3.0), jnp.ones(3)
    np.testing.assert_array_equal(jax.grad(lambda x: jax.lax.stop_gradient(loss(x, y)) + x.sum())(x), y)
    np.testing.assert_array_equal(jax.grad(lambda x: jax.value_and_grad(loss)(x, y)[0])(x), x - y)
    np.testing.assert_array_equal(jax.grad(lambda x: jax.value_and_grad(loss)(x, y)[1].sum())(x), y)


@pytest.mark.usefixtures("double")
@every_loop(reduction=["none", "example", "mean"])
def test_forward_mode(case: Case, reduction: str) -> None:
    """Along all inputs that reverse mode knows, for values that are a number, else along those of pred's shape."""
    loss = case.build(reduction=reduction)
    given = {name: jnp.asarray(x) for name, x in case.inputs.items()}
    first = given[loss.inputs[0]]
    moved = [name for name in case.targets if reduction == "mean" or given[name].shape == first.shape]
    tangents = [jnp.cos(jnp.arange(given[name].size, dtype=float)).reshape(given[name].shape) for name in moved]

    def call(*x: Any) -> Any:
        return loss(**given | dict(zip(moved, x, strict=True)))

    inputs = [given[name] for name in moved]
    if reduction != "mean" and not loss.is_separable(first.ndim):
        again = lambda f, x, t: jax.jvp(lambda *x: jax.jvp(f, x, t)[1], x, t)  # noqa: E731
        for forward in (jax.jvp, jax.jit(jax.jvp, static_argnums=0), again):
            with pytest.raises(NotImplementedError, match=f"derivative of {type(loss).__name__} in .* is not known"):
                forward(call, tuple(inputs), tuple(tangents))
        return
    value, change = jax.jvp(call, inputs, tangents)
    np.testing.assert_array_equal(value, loss(**case.inputs))
    flow, linear = jax.vjp(call, *inputs)[1], jax.linearize(call, *inputs)[1]
    head = heads(value)
    want = sum(np.vdot(g, t) for g, t in zip(flow(head), tangents, strict=True))
    for found in (change, linear(*tangents)):
        assert found.shape == value.shape
        np.testing.assert_allclose(np.vdot(found, head), want, rtol=1e-11, atol=1e-13)


@pytest.mark.usefixtures("double")
def test_second_derivatives_in_forward_mode() -> None:
    rng = np.random.default_rng(4)
    x, label, vector = (
        jnp.asarray(rng.normal(size=(4, 3))),
        jnp.array([0, 2, 1, -1]),
        jnp.asarray(rng.normal(size=(4, 3))),
    )
    for reduction in ("none", "mean"):
        loss = fl.SoftmaxFocalLoss(reduction=reduction, ignore_index=-1)
        want = loss.hvp(x, label, vector)

        def total(x: Any, loss: Any = loss) -> Any:
            return loss(x, label).sum()

        np.testing.assert_allclose(jax.jvp(jax.grad(total), (x,), (vector,))[1], want, rtol=1e-12)
        for hessian in (jax.hessian, lambda f: jax.jacfwd(jax.jacfwd(f)), lambda f: jax.jacrev(jax.jacfwd(f))):
            whole = jax.jit(hessian(total))(x)
            np.testing.assert_allclose(jnp.tensordot(whole, vector, 2), want, rtol=1e-11, atol=1e-14)
        batch = jnp.stack([x, 2 * x])
        got = jax.grad(lambda x, total=total: jax.vmap(lambda x: jax.jvp(total, (x,), (vector,))[1])(x).sum())(batch)
        np.testing.assert_allclose(got, jnp.stack([loss.hvp(b, label, vector) for b in batch]), rtol=1e-11, atol=1e-14)
    with pytest.raises(NotImplementedError, match="no third derivatives of SoftmaxFocalLoss"):
        jax.jvp(jax.hessian(total), (x,), (vector,))


@pytest.mark.parametrize("reduction", ["mean", "example"])
def test_a_mapped_call_is_differentiated(reduction: str) -> None:
    """In inputs that the entries share, too."""
    loss = fl.SigmoidBCELoss(reduction=reduction)
    x, y, weight = jnp.linspace(-2, 2, 24).reshape(2, 4, 3), jnp.ones((4, 3)), jnp.array([0.0, 1, 2, 3])
    factor = jnp.array([1.0, 2, 3])

    def total(x: Any, y: Any, factor: Any) -> Any:
        return jax.vmap(loss, (0, None, None, None))(x, y, weight, factor).sum()

    def each(x: Any, y: Any, factor: Any) -> Any:
        return sum(loss(x[k], y, weight, factor).sum() for k in range(2))

    inputs = x, y, factor
    for got, want in zip(*[jax.grad(f, (0, 1, 2))(*inputs) for f in (total, each)], strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-7)
    moved = [jax.jvp(lambda x, f=f: f(x, y, factor), (x,), (x,))[1] for f in (total, each)]
    np.testing.assert_allclose(*moved, rtol=1e-6)
    second = [jax.grad(lambda x, f=f: (jax.grad(f)(x, y, factor) ** 2).sum())(x) for f in (total, each)]
    np.testing.assert_allclose(*second, rtol=1e-5, atol=1e-7)
    slopes = [jax.grad(lambda y, f=f: jnp.sqrt(f(x, y, factor)))(y) for f in (total, each)]
    np.testing.assert_allclose(*slopes, rtol=1e-5, atol=1e-7)


def test_large_results_have_huge_pages() -> None:
    x = jnp.ones(4 << 20)
    gradient = jax.jit(jax.grad(fl.L2Loss(reduction="mean")))(x, x)
    assert has_huge_pages(gradient.unsafe_buffer_pointer() + gradient.nbytes // 2)


def test_value_and_gradient_are_one_call() -> None:
    x, y = jnp.ones((4, 3)), jnp.array([0, 1, 2, 1])
    for reduction in ("mean", "example"):
        loss = fl.SoftmaxCELoss(reduction=reduction)
        program = jax.jit(jax.value_and_grad(lambda x, loss=loss: loss(x, y).sum())).lower(x).compile().as_text()
        assert program.count(" custom-call(") == 1


def test_other_methods() -> None:
    loss, x, y = fl.SigmoidBCELoss(), jnp.linspace(-2, 2, 12).reshape(4, 3), jnp.ones((4, 3))
    arrays = np.asarray(x), np.asarray(y)
    assert jnp.array_equal(loss.hvp(x, y, y, hessian="majorizer"), loss.grad_and_hess(x, y, hessian="majorizer")[1])
    for method in ("grad", "value_and_grad", "grad_and_hess", "value_grad_and_hess"):
        want = getattr(loss, method)(*arrays)
        for got in (getattr(loss, method)(x, y), jax.jit(getattr(loss, method))(x, y)):
            parts = got if isinstance(got, tuple) else (got,)
            for a, b in zip(parts, want if isinstance(want, tuple) else (want,), strict=True):
                assert isinstance(a, jax.Array)
                assert np.array_equal(a, b)
    head = np.arange(4, dtype=np.float32)
    got = loss.grad(x, y, jnp.ones(4), wrt=("sample_weight", "label"), head_grad=head)
    for a, b in zip(got, loss.grad(*arrays, np.ones(4), wrt=("sample_weight", "label"), head_grad=head), strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16, np.float32, np.int32])
def test_dtypes(dtype: Any) -> None:
    x, y = jnp.array([1, 2, 4], dtype), np.zeros(3)
    value = fl.HuberLoss(reduction="sum")(x, y, out=None)
    assert value == 5.5
    assert value.dtype == np.float32
    if dtype != np.int32:
        gradient = jax.grad(fl.HuberLoss(reduction="sum"))(x, y)
        assert gradient.dtype == dtype
        assert gradient.tolist() == [1, 1, 1]
        for result in jax.jit(fl.HuberLoss().value_grad_and_hess)(x, y):
            assert result.dtype == dtype
        parts = jax.vmap(fl.HuberLoss(reduction="sum").value_and_grad)(jnp.stack([x, 2 * x]), jnp.stack([y, y]))
        for part, single in zip(parts, (value, gradient), strict=True):
            assert part.dtype == single.dtype
            assert np.array_equal(part[0], single)


def test_values_that_share_an_element() -> None:
    """The gradient for a head is no multiple of one: its derivative in pred is known, and that in the head refused."""
    rng = np.random.default_rng(0)
    loss, (x, p, head, tangent) = fl.KLDivLoss(from_logits=False, reduction="none"), rng.random((4, 4, 5))
    found = jax.vjp(jax.grad(lambda x: (loss(x, jnp.asarray(p)) * head).sum()), jnp.asarray(x))[1](jnp.asarray(tangent))
    assert_close(found[0], loss.hvp(x, p, tangent, head_grad=head), found[0].dtype)
    with pytest.raises(NotImplementedError, match="no derivative in head_grad of the gradient of KLDivLoss"):
        jax.grad(lambda q: jax.grad(lambda x: (loss(x, jnp.asarray(p)) ** 2).sum())(q).sum())(jnp.asarray(x))


def test_third_derivatives_are_refused() -> None:
    loss, x, v = fl.LogCoshLoss(reduction="sum"), jnp.linspace(-1, 1, 6), jnp.arange(6.0)
    slope = jax.grad(lambda x: loss(x, jnp.zeros(6)))
    with pytest.raises(NotImplementedError, match="no third derivatives of LogCoshLoss"):
        jax.grad(lambda x: jax.grad(lambda y: slope(y).sum())(x).sum())(x)
    # in the vector the product is linear
    got = jax.grad(lambda w: (jax.vjp(slope, x)[1](w)[0] * v).sum())(jnp.ones(6))
    assert_close(got, loss.hvp(x, jnp.zeros(6), v), got.dtype)


class Mine(fl.L2Loss):
    pass


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (
            lambda loss, x: loss(x.astype(jnp.float8_e5m2), x),
            TypeError,
            r"pred must have a dtype .* got float8_e5m2; make it float32: \.astype\('f4'\)",
        ),
        (
            lambda loss, x: loss(x, x.astype(complex)),
            TypeError,
            "label must have a dtype .* got complex64; take its .real",
        ),
        (lambda loss, x: loss(jax.random.key(0), x), TypeError, "pred must have a dtype .* give an array of numbers"),
        (
            lambda loss, x: loss(x, np.array(["a"] * 3)),
            TypeError,
            "label must be an array of real numbers, .*number cl",
        ),
        (lambda loss, x: loss(x, np.array([1, None, 2])), TypeError, r"at position \(1,\) is a NoneType: np.nan"),
        (lambda loss, x: loss(x, np.zeros(3, "M8[D]")), TypeError, "label must be .* count from a date"),
        (lambda loss, x: jax.jit(loss.validate)(x, x), TypeError, "holds none, got .* call validate outside of JAX"),
        (lambda loss, x: jax.grad(lambda a: loss.validate(x, a) or 0.0)(x), TypeError, "call validate outside of JAX"),
        (lambda loss, x: loss(x, x, out=np.empty(3)), TypeError, "out must be None for JAX's arrays"),
        (lambda loss, x: loss(x, x, head_grad=x), TypeError, "unexpected keyword argument 'head_grad'"),
        (lambda loss, x: loss.grad(x, x, hed=x), TypeError, "unexpected keyword argument 'hed'"),
        (lambda loss, x: loss.grad(x, x, wrt="x"), ValueError, "wrt must name inputs of L2Loss, 'pred', 'label'"),
        (lambda loss, x: loss.grad(x, x, wrt=()), ValueError, "wrt must name one or more different inputs"),
        (lambda loss, x: loss.grad(x, x, wrt="sample_weight"), ValueError, "but the call has no sample_weight"),
        (lambda loss, x: Mine()(x, x), TypeError, "takes only fastloss's own losses, no subclass, got Mine"),
        (lambda loss, x: loss(x), TypeError, "L2Loss needs pred and label"),
        (
            lambda loss, x: jax.grad(lambda a: loss.grad(a, x).sum())(x),
            NotImplementedError,
            "nothing flows back through grad of L2Loss: differentiate the call",
        ),
        (lambda loss, x: loss(x, jnp.ones(4)), Exception, "label must have pred's shape"),
        (
            lambda loss, x: jax.grad(fl.SoftmaxCELoss(reduction="sum"), 1)(jnp.ones((3, 4)), x),
            ValueError,
            "label is not differentiable",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call(fl.L2Loss(), jnp.ones(3))


def test_an_interrupted_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA would not hear of an exception that leaves the call, and take the results as they are."""
    loss, x = fl.L2Loss(reduction="mean"), jnp.ones(3)
    loss(x, x).block_until_ready()

    def interrupt(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastloss.backends.jax_calls.run", interrupt)
    with pytest.raises((ValueError, RuntimeError), match="CANCELLED: KeyboardInterrupt"):
        loss(x, x).block_until_ready()


def test_dense_layer_like_mxnet() -> None:
    loss = fl.L2Loss()

    def total(parameters: dict[str, Any]) -> Any:
        return loss(parameters["X"] @ parameters["W"].T + parameters["b"], DENSE["y"]).sum()

    gradients = jax.jit(jax.grad(total))({k: jnp.asarray(DENSE[k]) for k in ("W", "b", "X")})
    for k, gradient in gradients.items():
        np.testing.assert_allclose(gradient, DENSE[f"grad_{k}"], rtol=1e-6)


def test_training_like_the_framework() -> None:
    """Two layers on the digits: the same curve of losses as with JAX's own log_softmax."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    data, target = datasets.load_digits(return_X_y=True)
    x, y = jnp.asarray(data / 16, jnp.float32), jnp.asarray(target)
    rng = np.random.default_rng(0)
    start = [jnp.asarray(rng.normal(scale=n**-0.5, size=(n, m)), jnp.float32) for n, m in ((64, 32), (32, 10))]

    def own(logits: Any, y: Any) -> Any:
        return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y].mean()

    curves = []
    for loss in (fl.SoftmaxCELoss(reduction="mean"), own):
        step = jax.jit(jax.value_and_grad(lambda p, loss=loss: loss(jax.nn.relu(x @ p[0]) @ p[1], y)))
        parameters, curve = start, []
        for _ in range(100):
            value, gradients = step(parameters)
            parameters = [p - 0.5 * g for p, g in zip(parameters, gradients, strict=True)]
            curve.append(float(value))
        curves.append(curve)
    assert curves[0][-1] < 0.4 < 2 < curves[0][0]
    np.testing.assert_allclose(*curves, rtol=0, atol=1e-5)


def test_sequences_in_one_row_and_single_weights() -> None:
    pred = np.random.default_rng(1).normal(size=(2, 5, 4)).astype(np.float32)
    row = [0, 1, 2], None, [1, 2]
    one = [0, 1], None, None, [2.0]
    np.testing.assert_array_equal(fl.CTCLoss()(jnp.asarray(pred), *row), fl.CTCLoss()(pred, *row))
    np.testing.assert_array_equal(fl.CTCLoss()(jnp.asarray(pred[0]), *one), fl.CTCLoss()(pred[0], *one))


def test_hessians_in_two_predictions() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    loss = fl.GaussianNLLLoss(reduction="weighted_mean")

    def call(pred: Any, label: Any, log_variance: Any) -> Any:
        return loss.value_grad_and_hess(pred, label, log_variance, wrt=("pred", "log_variance"))

    value, *want = call(x, y, x[0])
    for compiled in (call, jax.jit(call)):
        found, *got = compiled(*map(jnp.asarray, (x, y, x[0])))
        assert found == np.float32(value)
        for parts, others in zip(got, want, strict=True):
            for a, b in zip(parts, others, strict=True):
                np.testing.assert_array_equal(a, b)


def test_tangents_of_a_head_and_of_tangents() -> None:
    x, w, t = jnp.arange(6.0).reshape(3, 2), jnp.array([1.0, 2.0, 3.0]), jnp.array([1.0, 2.0, 0.0])
    loss = fl.L2Loss()

    def slopes(head: Any) -> Any:
        return jax.grad(lambda w: (head * loss(x, 0 * x, w)).sum())(w)

    found, change = jax.jvp(slopes, (jnp.ones(3),), (t,))
    np.testing.assert_allclose(found, loss(x, 0 * x), rtol=1e-6)
    np.testing.assert_allclose(change, t * found, rtol=1e-6)

    def twice(w: Any) -> Any:
        return jax.jvp(lambda w: jax.jvp(lambda v: loss(x, 0 * x, v), (w,), (w,))[1], (w,), (w,))

    for call in (twice, jax.jit(twice)):
        with pytest.raises(NotImplementedError, match="derivative of L2Loss in sample_weight is not known"):
            call(w)
