"""What tests/test_jax_sharding.py runs in a process of its own, which JAX gives four devices: losses beside jnp's.

Prints what has failed of each program, and as what.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import fastloss as fl

DEVICES = 4
Function = Callable[..., Any]


def l2(x: Any, y: Any) -> Any:
    return (x - y) ** 2 / 2


def bce(x: Any, y: Any) -> Any:
    return jnp.maximum(x, 0) - x * y + jnp.log1p(jnp.exp(-jnp.abs(x)))


def softmax(x: Any, y: Any) -> Any:
    return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1)[:, 0]


LOSSES: dict[str, tuple[Function, type[fl.Loss]]] = {
    "L2": (l2, fl.L2Loss),
    "BCE": (bce, fl.SigmoidBCELoss),
    "softmax": (softmax, fl.SoftmaxCELoss),
}


def jnp_loss(unreduced: Function, reduction: str, x: Any, y: Any, w: Any = None) -> Any:
    """A loss as jnp writes it."""
    terms = unreduced(x, y)
    weights = jnp.ones(len(x), x.dtype) if w is None else w
    weights = weights[(slice(None), *[None] * (terms.ndim - 1))]
    terms = terms if w is None else terms * weights
    if reduction == "example":
        return terms.mean(tuple(range(1, terms.ndim)))
    if reduction == "weighted_mean":
        return terms.sum() / (weights.sum() * (terms.size // len(x)))
    return {"none": lambda: terms, "mean": terms.mean, "sum": terms.sum}[reduction]()


def both(name: str, reduction: str) -> tuple[Function, Function]:
    unreduced, kind = LOSSES[name]
    # compiled: outside of a program each of jnp's operations takes a compilation
    return jax.jit(partial(jnp_loss, unreduced, reduction)), kind(reduction=reduction)


def data(name: str) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    x = jnp.asarray(rng.normal(size=(8, 3)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 3, 8) if name == "softmax" else rng.random((8, 3)), None)
    return x, y, jnp.asarray(rng.uniform(0.5, 2, 8), jnp.float32)


def kinds(results: Any) -> list[str]:
    """The types of arrays, with the axes of the mesh that they are cut along; jnp rounds nothing."""
    return [str(jax.typeof(x)) for x in jax.tree.leaves(results)]


def outcome(program: Function, loss: Function) -> Any:
    """What a program returns, or the error that JAX raises for it."""
    try:
        return program(loss)
    except (ValueError, TypeError, NotImplementedError) as error:
        return f"{type(error).__name__}: " + str(error).partition("\n")[0]


def compare(program: Function, name: str = "L2", reduction: str = "mean") -> None:
    """A program of a loss gives what it gives with jnp: the values, where they lie, and the error."""
    want, got = [outcome(program, loss) for loss in both(name, reduction)]
    if isinstance(want, str) or isinstance(got, str):
        # functions have names in these
        want, got = [re.sub("the function .* was", "", str(x)) for x in (want, got)]
        assert got == want, (got, want)
        return
    assert kinds(got) == kinds(want), (kinds(got), kinds(want))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def sharded(mesh: Any, *arrays: Any, spec: Any = None) -> tuple[Any, ...]:
    spec = P("b") if spec is None else spec
    return tuple([jax.device_put(x, jax.NamedSharding(mesh, spec)) for x in arrays])


def automatic(*shape: int) -> Any:
    return jax.make_mesh(shape, ("b", "m")[: len(shape)], axis_types=(AxisType.Auto,) * len(shape))


def total(loss: Function, axes: Any = "b") -> Function:
    """The mean over all devices of the sum of what a loss gives on each."""
    return lambda *x: jax.lax.pmean(loss(*x).sum(), axes)


def mapped(function: Function, out: Any = None, **options: Any) -> Function:
    """A function of pred, label and weights, all cut along the axis b, whose result is the same on all devices."""
    options = {"mesh": automatic(2), "in_specs": (P("b"), P("b"), P("b"))} | options
    return jax.shard_map(function, out_specs=P() if out is None else out, **options)


def values_and_gradients(name: str, reduction: str) -> None:
    """Outside of shard_map, of weights that are cut; inside, of weights that all devices share."""
    x, y, w = data(name)
    shared = {"in_specs": (P("b"), P("b"), P()), "out": (P("b"), P())}

    def program(loss: Function) -> Any:
        outside = jax.value_and_grad(mapped(total(loss)), (0, 2))
        inside = mapped(jax.grad(lambda *x: loss(*x).sum(), (0, 2)), **shared)
        return jax.jit(lambda x, y, w: (outside(x, y, w), inside(x, y, w[:4])))(x, y, w)

    compare(program, name, reduction)


def eager() -> None:
    """Programs that are not compiled as a whole."""
    x, y, w = data("L2")
    compare(lambda loss: jax.value_and_grad(mapped(total(loss)), (0, 2))(x, y, w), reduction="example")
    compare(lambda loss: mapped(jax.grad(loss), P("b"))(x, y, w))
    compare(lambda loss: mapped(jax.grad(lambda *x: loss(*x).sum(), (1, 2)), P("b"))(x, y, w), reduction="example")


def false_claims() -> None:
    """A result that differs between the devices, and is said not to."""
    x, y, w = data("L2")
    for function in (lambda loss: loss, jax.grad):
        for wrap in (jax.jit, lambda f: f):
            message = outcome(lambda loss, f=function, wrap=wrap: wrap(mapped(f(loss)))(x, y, w), both("L2", "mean")[0])
            assert "require replication which can't be statically inferred" in message
            compare(lambda loss, f=function, wrap=wrap: wrap(mapped(f(loss)))(x, y, w))
    # nor does it if only the weights are cut
    compare(lambda loss: jax.jit(mapped(loss, in_specs=(P(), P(), P("b"))))(x, y, jnp.tile(w, 2)))


def nothing_is_cut() -> None:
    x, y, w = data("softmax")

    def program(loss: Function) -> Any:
        return jax.jit(mapped(jax.value_and_grad(loss), in_specs=(P(), P(), P())))(x, y, w)

    compare(program, "softmax")


def no_checks() -> None:
    x, y, w = data("L2")
    compare(lambda loss: jax.grad(mapped(total(loss), check_vma=False))(x, y, w))
    compare(lambda loss: mapped(jax.grad(loss), P("b"), check_vma=False)(x, y, w))


def constants() -> None:
    """Labels that the function brings along, of JAX and of NumPy."""
    x, y, w = data("L2")
    for label, wrap in ((y[:4], jax.jit), (np.asarray(y[:4]), lambda f: f)):

        def program(loss: Function, label: Any = label, wrap: Any = wrap) -> Any:
            return wrap(mapped(jax.grad(lambda x, _, w: loss(x, label, w)), P("b")))(x, y, w)

        compare(program)


def transformations() -> None:
    """The compiled function, each of a batch, and what is computed again."""
    x, y, w = data("softmax")

    def inside(loss: Function, *x: Any) -> Any:
        compiled, again = jax.jit(jax.grad(loss)), jax.grad(jax.checkpoint(lambda *x: loss(*x)))

        def one(x: Any, y: Any) -> Any:
            return loss(x[None], y[None])

        return compiled(*x), again(*x), jax.vmap(one)(*x[:2]), jax.vmap(jax.grad(one))(*x[:2])

    def program(loss: Function, label: Any, wrap: Any = jax.jit) -> Any:
        outside = jax.grad(jax.checkpoint(mapped(total(loss))))
        return wrap(lambda *x: (outside(*x), mapped(partial(inside, loss), P("b"))(*x)))(x, label, w)

    compare(lambda loss: program(loss, y), "softmax")
    compare(lambda loss: program(loss, data("L2")[1]))
    compare(lambda loss: mapped(partial(inside, loss), P("b"))(x, data("L2")[1], w))


def second_derivatives() -> None:
    x, y, w = data("BCE")

    def program(loss: Function) -> Any:
        inside = mapped(jax.grad(lambda x, y, w: (jax.grad(loss)(x, y, w) ** 2).sum()), P("b"))
        outside = jax.grad(lambda *x: (jax.grad(mapped(total(loss)))(*x) ** 2).sum())
        return jax.jit(lambda *x: (inside(*x), outside(*x)))(x, y, w)

    compare(program, "BCE")


def forward_mode() -> None:
    x, y, w = data("BCE")

    def along(loss: Function, *x: Any) -> Any:
        value, change = jax.jvp(loss, x, x)
        return value[None], change[None], jax.linearize(loss, *x)[1](*x)[None]

    def curvature(loss: Function, *x: Any) -> Any:
        return jax.jvp(jax.grad(lambda p: loss(p, *x[1:])), x[:1], x[:1])[1]

    for wrap in (jax.jit, lambda f: f):
        compare(lambda loss, wrap=wrap: wrap(mapped(partial(along, loss), P("b")))(x, y, w), "BCE")
        compare(lambda loss, wrap=wrap: wrap(mapped(partial(curvature, loss), P("b")))(x, y, w), "BCE")
    compare(lambda loss: jax.jvp(mapped(total(loss)), (x, y, w), (x, y, w)), "BCE")


def several_axes() -> None:
    x, y, w = data("L2")
    mesh = automatic(2, 2)
    across = {"mesh": mesh, "in_specs": (P("b"), P("m"), P())}
    shared = {"mesh": mesh, "in_specs": (P(("b", "m")), P(("b", "m")), P("b"))}

    def program(loss: Function) -> Any:
        outside = jax.grad(mapped(total(loss, ("b", "m")), **across), (0, 1, 2))
        inside = mapped(jax.grad(loss, (0, 2)), (P(("b", "m")), P("b")), **shared)
        return jax.jit(lambda *x: (outside(*x), inside(*x)))(x, y, w[:4])

    compare(program)


def partly_manual() -> None:
    """The compiler cuts the other axis as it likes."""
    x, y, w = data("softmax")
    x = jnp.concatenate([x, x[:, :1]], 1)
    mesh = automatic(2, 2)
    pred, label, weight = *sharded(mesh, x, spec=P("b", "m")), *sharded(mesh, y, w)
    options = {"mesh": mesh, "axis_names": {"b"}}

    def program(loss: Function) -> Any:
        outside, inside = jax.grad(mapped(total(loss), **options), (0, 2)), mapped(jax.grad(loss), P("b"), **options)
        return jax.jit(lambda *x: (outside(*x), inside(*x)))(pred, label, weight)

    compare(program, "softmax")


def other_methods() -> None:
    """Each device's results are NumPy's of its part."""
    x, y, w = data("BCE")
    loss = fl.SigmoidBCELoss()
    for method in ("grad", "value_and_grad", "grad_and_hess", "value_grad_and_hess"):
        call = getattr(loss, method)
        parts = [jax.tree.leaves(call(*[np.asarray(a[s]) for a in (x, y, w)])) for s in (slice(4), slice(4, None))]
        for wrap in (jax.jit, lambda f: f):
            got = jax.tree.leaves(wrap(mapped(call, P("b")))(x, y, w))
            for a, *b in zip(got, *parts, strict=True):
                np.testing.assert_array_equal(a, np.concatenate(b))
    shared = mapped(partial(loss.grad, wrt=("label", "sample_weight")), P("b"), in_specs=(P("b"), P(), P()))
    got = shared(x, y[:4], w[:4])
    for k, a in enumerate(got):
        want = [loss.grad(*map(np.asarray, (part, y[:4], w[:4])), wrt=loss.inputs[k + 1]) for part in (x[:4], x[4:])]
        np.testing.assert_array_equal(a, np.concatenate(want))


def bad_values() -> None:
    """An error on one device: the others wait for no sum in vain, the results are NaN, and the error is logged."""
    x, y, w = data("softmax")
    messages: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(record.getMessage())

    handler = Handler()
    logging.getLogger("fastloss").addHandler(handler)
    loss = fl.SoftmaxCELoss(reduction="mean")
    value, gradient = jax.value_and_grad(mapped(total(loss)))(x, y.at[6].set(9), w)
    logging.getLogger("fastloss").removeHandler(handler)
    assert np.isnan(value)
    assert np.isfinite(gradient[:4]).all()
    assert np.isnan(gradient[4:]).all()
    assert len(messages) == 1
    assert (
        "its results are NaN: ValueError('label must hold class ids from 0 to 2, got 9 at position (2,)" in messages[0]
    )
    # shapes are known before
    for wrap in (jax.jit, lambda f: f):
        message = outcome(lambda loss, wrap=wrap: wrap(mapped(total(loss)))(x, y[:6], w), loss)
        assert message.startswith("ValueError: label must have pred's shape (4, 3) without axis 1, (4,)"), message
    # one device waits for none
    alone = mapped(loss, mesh=automatic(1))
    with pytest.raises(Exception, match=r"got 9 at position \(6,\)"):
        jax.block_until_ready(alone(x, y.at[6].set(9), w))


def gathers(program: Function, *given: Any) -> bool:
    return "all-gather" in str(jax.jit(program).lower(*given).compile().as_text())


def same_as_on_one_device(program: Function, plain: Any, cut: Any) -> None:
    got, want = jax.jit(program)(*cut), jax.jit(program)(*plain)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def batches_that_are_cut() -> None:
    """Each device computes its own examples, and nothing is gathered."""
    mesh = automatic(2, 2)
    factor = jnp.asarray([1.0, 2, 3])
    for name, reduction in itertools.product(LOSSES, ("none", "example", "sum", "mean", "weighted_mean")):
        loss: Any = LOSSES[name][1](reduction=reduction)  # type: ignore[call-arg]
        given: Any = (*data(name), factor) if name == "BCE" else data(name)
        wrt = (0, 2, 3)[: len(given) - 1]
        if reduction == "weighted_mean":
            # what a weight's derivative needs is gathered
            wrt = tuple([k for k in wrt if k != 2])

        def program(*x: Any, loss: Any = loss, wrt: Any = wrt) -> Any:
            total = lambda *x: (loss(*x) ** 2).sum()  # noqa: E731
            moved = jax.jvp(jax.grad(lambda p: total(p, *x[1:])), x[:1], x[:1])
            return loss(*x), jax.value_and_grad(total, wrt)(*x), loss.grad_and_hess(*x), moved

        for spec in (P("b"), P(("b", "m"))):
            cut = *sharded(mesh, *given[:3], spec=spec), *sharded(mesh, *given[3:], spec=P())
            assert not gathers(program, *cut), (name, reduction)
            same_as_on_one_device(program, given, cut)
    x, y, _ = data("softmax")
    for weights in (None, [0.5, 2, 3]):
        for loss in (
            fl.SoftmaxCELoss(reduction="weighted_mean", ignore_index=1, class_weight=weights),
            fl.SoftmaxCELoss(reduction="weighted_mean", sparse_label=False, class_weight=weights),
        ):
            label = y if loss.sparse_label else jax.nn.one_hot(y, 3)
            slopes = jax.value_and_grad(loss)
            assert not gathers(slopes, *sharded(mesh, x, label))
            same_as_on_one_device(slopes, (x, label), sharded(mesh, x, label))
    loss = fl.SoftmaxCELoss(reduction="mean")
    cut = sharded(mesh, x[:, None], y[:, None])
    each = jax.vmap(jax.value_and_grad(loss))
    assert not gathers(each, *cut)
    same_as_on_one_device(each, (x[:, None], y[:, None]), cut)


def what_is_gathered() -> None:
    mesh = automatic(4)
    x, y, w = data("softmax")
    pairs = x, data("L2")[1]
    for loss, plain in (
        (fl.SoftmaxCELoss(reduction="weighted_mean"), (x, y, w)),
        (fl.SDMLLoss(reduction="mean"), pairs),
        (fl.CTCLoss(reduction="sum"), (jnp.stack([x, x + 1, x], 2), jnp.ones((8, 2), int), None, jnp.full(8, 2))),
    ):
        given = [a for a in plain if a is not None]
        names = [name for name, a in zip(loss.inputs, plain, strict=False) if a is not None]

        def program(*x: Any, loss: Any = loss, names: Any = names) -> Any:
            call = lambda *x: loss(**dict(zip(names, x, strict=True)))  # noqa: E731
            return jax.value_and_grad(call, [k for k in range(len(x)) if names[k] in ("pred", "x1", "sample_weight")])(
                *x
            )

        same_as_on_one_device(program, given, sharded(mesh, *given))
    # 6 examples for 4 devices, and classes
    for spec in (P("b"), P(None, "b")):
        put = lambda a, spec=spec: jax.lax.with_sharding_constraint(a, jax.NamedSharding(mesh, spec))  # noqa: E731
        slope = jax.grad(fl.L2Loss(reduction="mean"))
        part = lambda x, y, put=put, slope=slope: slope(put(x[:6]), y[:6])  # noqa: E731
        same_as_on_one_device(part, pairs, sharded(mesh, *pairs))
    row = jnp.stack([x, x + 1, x], 2), jnp.ones(16, int), jnp.full(8, 2)
    one = lambda p, y, n: fl.CTCLoss()(p, y, label_lengths=n)  # noqa: E731
    same_as_on_one_device(one, row, sharded(mesh, *row))


def linear_predictors() -> None:
    """The loss of a linear predictor, of rows that are cut: each device's chunks inside shard_map, else all or none."""
    rng = np.random.default_rng(5)
    X, weight = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((8, 3), (20, 3))]
    label, examples = jnp.asarray(rng.integers(0, 20, 8)), jnp.asarray(rng.uniform(0.5, 2, 8), jnp.float32)
    for reduction in ("mean", "sum", "none", "weighted_mean"):
        loss = fl.SoftmaxCELoss(reduction=reduction)
        linear = fl.LinearLoss(loss, chunk_bytes=240)

        def slopes(call: Function) -> Any:
            return jax.jit(jax.value_and_grad(lambda *x: call(*x).sum(), (0, 1)))

        def composed(X: Any, w: Any, y: Any, *rest: Any, loss: Any = loss) -> Any:
            return loss(X @ w.T, y, *rest)

        want = slopes(composed)(X, weight, label, examples)
        mesh = automatic(2)
        cut = [*sharded(mesh, X), *sharded(mesh, weight, spec=P()), *sharded(mesh, label, examples)]
        for got in (slopes(linear)(X, weight, label, examples), slopes(linear)(*cut)):
            for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        specs = {"mesh": mesh, "in_specs": (P("b"), P(), P("b"), P("b"))}
        got, want = [slopes(mapped(total(call), **specs))(*cut) for call in (linear, composed)]
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    with jax.set_mesh(jax.make_mesh((2,), ("b",))):
        got = slopes(linear)(jax.device_put(X, P("b")), weight, jax.device_put(label, P("b")))
        assert kinds(got[1][0]) == ["float32[8@b,3]"]


def explicit_mesh() -> None:
    """Every way of cutting pred and its label along an axis that belongs to the types."""
    x, y = [a[:, :2] for a in data("L2")[:2]]
    cuts = [(P("b"), P("b")), (P("b"), P()), (P(None, "b"), P(None, "b")), (P(), P("b")), (P(), P(None, "b"))]
    with jax.set_mesh(jax.make_mesh((2,), ("b",))):
        for reduction in ("mean", "example", "none"):
            for cut in cuts:
                given = [jax.device_put(a, spec) for a, spec in zip((x, y), cut, strict=True)]

                def program(loss: Function, given: Any = given) -> Any:
                    gradients = jax.grad(lambda *x: loss(*x).sum(), (0, 1))
                    return jax.jit(lambda *x: (loss(*x), gradients(*x)))(*given)

                compare(program, reduction=reduction)
        label = jax.device_put(y, P("b"))
        compare(lambda loss: loss(np.asarray(x), label), reduction="none")
        compare(lambda loss: jax.grad(loss)(label, label))


def explicit_programs() -> None:
    """Weights, softmax, all methods, vmap along the axis that is cut, and shard_map."""
    x, y, w = data("softmax")
    with jax.set_mesh(jax.make_mesh((2,), ("b",))):
        pred, label, weight = [jax.device_put(a, P("b")) for a in (x, y, w)]
        for reduction in ("mean", "sum", "example", "none", "weighted_mean"):
            compare(
                lambda loss: jax.jit(jax.value_and_grad(lambda *x: loss(*x).sum(), (0, 2)))(pred, label, weight),
                "softmax",
                reduction,
            )
        target = jax.device_put(data("L2")[1], P("b"))
        compare(lambda loss: jax.grad(lambda x: jax.vmap(loss)(x, target).sum())(pred))
        compare(lambda loss: jax.jit(jax.grad(jax.shard_map(total(loss), out_specs=P())))(pred, target, weight))
        # along the classes, too
        pred = jax.device_put(x[:, :2], P(None, "b"))
        value, gradient = jax.value_and_grad(fl.SoftmaxCELoss(reduction="mean"))(pred, label % 2)
        want = fl.SoftmaxCELoss(reduction="mean").value_and_grad(np.asarray(x[:, :2]), np.asarray(y) % 2)
        np.testing.assert_allclose(value, want[0], rtol=1e-6)
        np.testing.assert_allclose(gradient, want[1], rtol=1e-6)
        assert kinds(gradient) == ["float32[8,2@b]"]
        loss = fl.L2Loss()
        results = loss.value_grad_and_hess(jax.device_put(x, P("b")), target, weight)
        assert kinds(results) == ["float32[8@b]", "float32[8@b,3]", "float32[8@b,3]"]
        for a, b in zip(results, loss.value_grad_and_hess(*map(np.asarray, (x, target, w))), strict=True):
            np.testing.assert_array_equal(a, b)


def explicit_weights() -> None:
    """The gradient is cut as its input, however the weights are cut, and what they leave out has none."""
    x, weight = np.ones((4, 3), np.float32), np.array([0, 1, 1, 1], np.float32)
    with jax.set_mesh(jax.make_mesh((2,), ("b",))):
        for reduction in ("sum", "example", "none"):
            loss = fl.L2Loss(reduction=reduction)
            for cuts in itertools.product((P(), P("b")), repeat=2):
                pred, w = [jax.device_put(a, spec) for a, spec in zip((x, weight), cuts, strict=True)]
                gradient = jax.grad(lambda p, w=w, loss=loss: jnp.sqrt(loss(p, p * 0, w)).sum())(pred)
                assert kinds(gradient) == kinds(pred)
                assert np.isfinite(gradient).all()
                assert not np.asarray(gradient)[0].any()


def sums_to_be_taken() -> None:
    """What is still to be summed over the devices is refused, as jnp refuses it."""
    loss = fl.L2Loss(reduction="mean")
    with jax.set_mesh(jax.make_mesh((2,), ("b",))):
        a, b = jax.device_put(jnp.ones((4, 2)), P(None, "b")), jax.device_put(jnp.ones((2, 3)), P("b"))

        def product(a: Any, b: Any) -> Any:
            return jnp.matmul(a, b, out_sharding=P(None, None, unreduced={"b"}))

        for program in (
            lambda loss: jax.jit(lambda a, b: loss(product(a, b), jnp.zeros((4, 3))))(a, b),
            lambda loss: loss(jnp.zeros((4, 3)), jax.reshard(jnp.ones((4, 3)), P(None, None, reduced={"b"}))),
        ):
            message = outcome(program, loss)
            assert re.match(r"TypeError: (pred|label) must have no unreduced or reduced mesh axes", message), message


PROGRAMS: dict[str, Function] = {
    f"{name} {reduction}": partial(values_and_gradients, name, reduction)
    for name in LOSSES
    for reduction in ("none", "example", "sum", "mean", "weighted_mean")
} | {
    function.__name__: function
    for function in (
        eager,
        false_claims,
        nothing_is_cut,
        no_checks,
        constants,
        transformations,
        second_derivatives,
        forward_mode,
        several_axes,
        partly_manual,
        other_methods,
        bad_values,
        batches_that_are_cut,
        what_is_gathered,
        linear_predictors,
        explicit_mesh,
        explicit_programs,
        explicit_weights,
        sums_to_be_taken,
    )
}


def failure(program: Function) -> str:
    try:
        program()
    except Exception:
        return traceback.format_exc()
    return ""


if __name__ == "__main__":
    import traceback

    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
    import jax
    import jax.numpy as jnp
    from jax.sharding import AxisType
    from jax.sharding import PartitionSpec as P

    names = sys.argv[1:] or PROGRAMS
    print(json.dumps({name: failure(PROGRAMS[name]) for name in names}))
