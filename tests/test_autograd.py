"""HIPS autograd: derivatives through it are those of the loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.frameworks import CASES, every_case
from tests.reference import LOSSES, REDUCTIONS, draw

autograd = pytest.importorskip("autograd", reason="differentiates through autograd")
anp = pytest.importorskip("autograd.numpy", reason="differentiates through autograd")
check_grads = pytest.importorskip("autograd.test_util", reason="differentiates through autograd").check_grads

SMOOTH = ["L2", "logistic signed", "logistic binary", "BCE", "BCE pos_weight", "Poisson", "KL"]


@every_case(fixture=False, reduction=REDUCTIONS)
def test_gradients(name: str, reduction: str) -> None:
    case = CASES[name]
    loss, given, names = case.build(reduction=reduction), case.inputs, case.targets
    head = np.cos(loss(**given))

    def downstream(*inputs: Any) -> Any:
        return anp.sum(anp.sin(loss(**given | dict(zip(names, inputs, strict=True)))))

    together = autograd.grad(downstream, argnum=tuple(range(len(names))))(*[given[name] for name in names])
    for wrt, got in zip(names, together, strict=True):
        want = loss.grad(**given, wrt=wrt, head_grad=head)
        np.testing.assert_array_equal(got, want)
        alone = autograd.grad(lambda x, wrt=wrt: anp.sum(anp.sin(loss(**given | {wrt: x}))))(given[wrt])
        np.testing.assert_array_equal(alone, want)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", SMOOTH)
def test_differences(name: str, reduction: str) -> None:
    case = CASES[name]
    loss, given = case.build(reduction=reduction), case.inputs
    # check_grads draws from it
    np.random.seed(1)  # noqa: NPY002
    check_grads(lambda x: loss(**given | {"pred": x}), modes=["rev"], order=2)(given["pred"])
    check_grads(lambda x: anp.sin(loss(**given | {"pred": x})), modes=["rev"], order=2)(given["pred"])
    for wrt in case.targets:
        check_grads(lambda x, wrt=wrt: loss(**given | {wrt: x}), modes=["rev"], order=1)(given[wrt])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", SMOOTH)
def test_the_hessian(rng: np.random.Generator, name: str, reduction: str) -> None:
    loss, given = CASES[name].build(reduction=reduction), CASES[name].inputs

    def total(x: Any) -> Any:
        return anp.sum(loss(**given | {"pred": x}))

    hessian = loss.grad_and_hess(**given)[1]
    x, v = given["pred"], rng.normal(size=given["pred"].shape)
    np.testing.assert_array_equal(autograd.elementwise_grad(autograd.grad(total))(x), hessian)
    np.testing.assert_allclose(autograd.hessian_vector_product(total)(x, v), hessian * v, rtol=1e-14)
    np.testing.assert_allclose(autograd.hessian(total)(x).reshape(x.size, x.size), np.diag(hessian.ravel()), rtol=1e-14)
    # of the gradient, as a call of its own
    np.testing.assert_array_equal(
        autograd.grad(lambda x: anp.sum(loss.grad(**given | {"pred": x})))(x),
        hessian,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["softmax class_weight ignore", "softmax dense", "KL logits axis=1", "softmax focal"])
def test_the_hessian_of_rows(rng: np.random.Generator, name: str, reduction: str) -> None:
    loss, given = CASES[name].build(reduction=reduction), CASES[name].inputs
    x, v = given["pred"], rng.normal(size=given["pred"].shape)

    def total(x: Any) -> Any:
        return anp.sum(loss(**given | {"pred": x}))

    want = loss.hvp(**given, vector=v)
    np.testing.assert_allclose(autograd.hessian_vector_product(total)(x, v), want, rtol=1e-14)
    whole = autograd.hessian(total)(x).reshape(x.size, x.size)
    np.testing.assert_allclose(whole @ v.ravel(), want.ravel(), rtol=1e-12, atol=1e-14)
    # twice, by a primitive of its own
    np.testing.assert_array_equal(autograd.grad(lambda v: anp.sum(loss.hvp(**given, vector=v) * v))(v), 2 * want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtypes_and_scalars(rng: np.random.Generator, dtype: Any) -> None:
    pred, label = draw(LOSSES["BCE"], rng, (5,), dtype)
    loss = fl.SigmoidBCELoss(reduction="mean")
    gradient = autograd.grad(loss)(pred, label)
    assert gradient.dtype == dtype
    np.testing.assert_array_equal(gradient, loss.grad(pred, label))
    assert autograd.grad(fl.L2Loss())(3.0, 1.0) == 2.0
    assert autograd.grad(autograd.grad(fl.L2Loss()))(3.0, 1.0) == 1.0


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["L2", "BCE", "Poisson rate", "KL", "softmax class_weight ignore", "cosine"])
def test_a_weight_of_zero_leaves_out(name: str, value: float, reduction: str) -> None:
    case = CASES[name]
    loss = case.build(reduction=reduction)
    targets = tuple([wrt for wrt in case.targets if wrt != "sample_weight"])
    for spoilt in loss.inputs[: loss.required]:
        given = case.inputs | {spoilt: case.inputs[spoilt].astype(float)}
        given["sample_weight"] = np.array([1.0, 0.0, 2.0, 0.0])
        given[spoilt][[1, 3]] = value

        def total(*inputs: Any, given: Any = given) -> Any:
            return anp.sum(loss(**given | dict(zip(targets, inputs, strict=True))))

        found = autograd.grad(total, argnum=tuple(range(len(targets))))(*[given[wrt] for wrt in targets])
        for got, want in zip(found, loss.grad(**given, wrt=targets), strict=True):
            assert np.isfinite(got).all()
            np.testing.assert_array_equal(got, want)
            assert not got[[1, 3]].any()
        if loss.is_elementwise:
            rest = [given[wrt] for wrt in targets[1:]]
            second = autograd.elementwise_grad(autograd.grad(lambda x, rest=rest, total=total: total(x, *rest)))
            got = second(given["pred"])
            np.testing.assert_array_equal(got, loss.grad_and_hess(**given)[1])
            assert not got[[1, 3]].any()


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_infinity_does_not_flow_into_what_is_left_out() -> None:
    """The derivative of a root at 0 is infinite."""
    x, weight, loss = np.arange(3.0), np.array([0.0, 1, 2]), fl.L2Loss()
    y = np.zeros(3)

    def gradient(p: Any, head: Any) -> Any:
        return anp.sum(anp.sqrt(loss.grad(p, y, weight, head_grad=head)))

    for wrt in (0, 1):
        found = autograd.grad(gradient, wrt)(x, np.ones(3))
        assert found[0] == 0
        assert np.isfinite(found).all()
    found = autograd.grad(lambda p: anp.sum(anp.sqrt(loss(p, y, weight))))(x)
    assert found[0] == 0
    assert np.isfinite(found).all()


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted_mean"])
def test_totals_are_what_numpys_arrays_give(rng: np.random.Generator, reduction: str) -> None:
    pred, label = draw(LOSSES["BCE"], rng, (5,), np.float32)
    loss = fl.SigmoidBCELoss(reduction=reduction)
    value, gradient = autograd.differential_operators.value_and_grad(loss)(pred, label)
    assert value == loss(pred, label)
    assert gradient.dtype == np.float32
    np.testing.assert_array_equal(gradient, loss.grad(pred, label))
    # a downstream factor does not turn the gradient into float64
    scaled = autograd.grad(lambda x: 3.0 * loss(x, label) ** 2)(pred)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, 6 * value * gradient, rtol=1e-6)


@pytest.mark.parametrize(("shape", "other"), [((5, 1), (1, 5)), ((2, 3, 1), (2, 1, 3)), ((4,), (2, 2))])
def test_shapes_that_do_not_fit(shape: Any, other: Any) -> None:
    x, y = np.ones(shape), np.ones(other)
    for call in (fl.L2Loss(), fl.L2Loss().grad):
        with pytest.raises(ValueError, match="though one of the two may lack axes of size 1"):
            autograd.grad(lambda x, call=call: anp.sum(call(x, y)))(x)


def test_shapes_fit_but_for_axes_of_size_1() -> None:
    x, y = np.arange(5.0), np.ones((5, 1))
    np.testing.assert_array_equal(autograd.elementwise_grad(fl.L2Loss())(x, y), x - 1)
    np.testing.assert_array_equal(autograd.elementwise_grad(fl.L2Loss())(y, x), 1 - x[:, None])
    # of the second derivative as well
    np.testing.assert_array_equal(autograd.elementwise_grad(autograd.elementwise_grad(fl.L2Loss()))(y, x), y)


def test_methods_of_boxes(rng: np.random.Generator) -> None:
    pred, label = draw(LOSSES["BCE"], rng, (4, 3))
    loss = fl.SigmoidBCELoss()
    gradient, hessian = loss.grad_and_hess(pred, label)

    def both(x: Any) -> Any:
        value, (to_pred, to_label) = loss.value_and_grad(x, label, wrt=("pred", "label"))
        return anp.sum(value) + anp.sum(to_pred) + 0 * anp.sum(autograd.tracer.getval(to_label))

    np.testing.assert_allclose(autograd.grad(both)(pred), gradient + hessian, rtol=1e-14)

    # the gradient is linear in head_grad, whether that is a number or the value's shape
    unit = loss.grad(pred, label)
    got = autograd.grad(lambda h: anp.sum(loss.grad(pred, label, head_grad=h)))(2.0)
    np.testing.assert_allclose(got, unit.sum(), rtol=1e-14)
    got = autograd.grad(lambda h: anp.sum(loss.grad(pred, label, head_grad=h)))(np.ones(4))
    np.testing.assert_allclose(got, unit.sum(1), rtol=1e-14)


def test_a_users_subclass_is_called_once(rng: np.random.Generator) -> None:
    class Twice(fl.HuberLoss):
        def __call__(self, pred: Any, label: Any) -> Any:  # type: ignore[override]
            return 2 * super().__call__(pred, label)

    pred, label = rng.normal(size=(2, 5))
    got = autograd.grad(lambda x: anp.sum(Twice()(x, label)))(pred)
    np.testing.assert_array_equal(got, 2 * fl.HuberLoss().grad(pred, label))


def test_the_class_axis_as_batch_axis(rng: np.random.Generator) -> None:
    pred, label = draw(LOSSES["softmax"], rng, (6,))
    loss = fl.SoftmaxCELoss(batch_axis=1)
    gradient = autograd.grad(lambda x: anp.sum(anp.sin(loss(x, label))))(pred)
    np.testing.assert_array_equal(gradient, loss.grad(pred, label, head_grad=np.cos(loss(pred, label))))
    got = autograd.grad(lambda h: anp.sum(pred * loss.grad(pred, label, head_grad=h)))(np.ones(1))
    np.testing.assert_allclose(got, [(pred * loss.grad(pred, label)).sum()], rtol=1e-14)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].build().no_product])
def test_unknown_second_derivatives(name: str) -> None:
    loss, given = CASES[name].build(reduction="sum"), CASES[name].inputs
    first = loss.inputs[0]
    total = autograd.grad(lambda x: loss(**given | {first: x}))
    with pytest.raises(NotImplementedError, match=f"{type(loss).__name__} has no Hessian-vector product"):
        autograd.grad(lambda x: anp.sum(total(x)))(given[first])


def test_errors(rng: np.random.Generator) -> None:
    pred, label = draw(LOSSES["BCE"], rng, (4, 3))
    loss = fl.SigmoidBCELoss(reduction="sum")

    def mixed(y: Any) -> Any:
        return anp.sum(autograd.grad(loss)(pred, y))

    with pytest.raises(NotImplementedError, match="SigmoidBinaryCrossEntropyLoss in pred and label"):
        autograd.grad(mixed)(label)
    third = autograd.elementwise_grad(autograd.elementwise_grad(autograd.elementwise_grad(loss)))
    with pytest.raises(NotImplementedError, match="third derivatives of SigmoidBinaryCrossEntropyLoss"):
        third(pred, label)
    examples = fl.SigmoidBCELoss()
    with pytest.raises(
        NotImplementedError, match="in head_grad of the gradient of SigmoidBinaryCrossEntropyLoss in label"
    ):
        autograd.grad(lambda h: anp.sum(examples.grad(pred, label, wrt="label", head_grad=h)))(np.ones(4))
    for method in ("grad_and_hess", "value_grad_and_hess"):
        with pytest.raises(TypeError, match=f"{method} cannot be differentiated by autograd; give it plain arrays"):
            autograd.grad(lambda x, method=method: getattr(loss, method)(x, label)[0])(pred)
    with pytest.raises(TypeError, match="out must be None in a call that autograd differentiates"):
        autograd.grad(lambda x: loss(x, label, out=np.empty(())))(pred)
    with pytest.raises(TypeError, match="unexpected keyword argument 'head_grad'"):
        autograd.grad(lambda x: loss(x, label, head_grad=1.0))(pred)
    with pytest.raises(TypeError, match="pred must be an array for autograd to differentiate, got list"):
        autograd.grad(lambda x: loss(x, [1.0]))([1.0])
    with pytest.raises(ValueError, match="wrt='label': class ids are not differentiable"):
        autograd.grad(lambda y: anp.sum(fl.SoftmaxCELoss()(np.eye(2), y)))(np.ones(2))
    with pytest.raises(ValueError, match="label must have pred's shape"):
        autograd.grad(loss)(pred, label[:2])
