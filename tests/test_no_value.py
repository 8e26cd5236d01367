"""Where a loss has no value, it has no derivatives either: NaN in one is NaN in all, whichever of them is asked for."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.reference import LOSSES

Array = np.ndarray[Any, Any]
DTYPES = [np.float32, np.float64]

# how to build a loss, and its third input; those over rows stand beside the cases over elements
FORMULAS: dict[str, tuple[Callable[..., fl.Loss], str | None]] = {
    **{name: (case.build, case.third) for name, case in LOSSES.items() if not case.row},
    "softmax dense": (lambda **k: fl.SoftmaxCELoss(sparse_label=False, **k), None),
    "softmax dense smooth": (lambda **k: fl.SoftmaxCELoss(sparse_label=False, label_smoothing=0.1, **k), None),
    "softmax dense log": (lambda **k: fl.SoftmaxCELoss(sparse_label=False, from_logits=True, **k), None),
    "KL logits": (lambda **k: fl.KLDivLoss(from_logits=False, **k), None),
}


def special(dtype: Any) -> Array:
    """Numbers at which something changes: signs, ends of the range and of the domains, and their neighbours."""
    info = np.finfo(dtype)
    eps = dtype(1e-12)
    positive = [0, info.smallest_subnormal, info.tiny, eps, 0.25, 1 - info.epsneg, 1, 1 + info.eps, 2, 90, 800, 1e30]
    found = np.array([*positive, info.max, np.inf, 1 - eps, 1 + eps], dtype)
    return np.concatenate([found, -found, [dtype(np.nan)]])


def results(loss: fl.Loss, inputs: dict[str, Array], wrt: tuple[str, ...]) -> dict[str, list[Array]]:
    """Each result, as every pass that has it returns it."""
    value, gradient, hessian = loss.value_grad_and_hess(**inputs)
    with_value = loss.value_and_grad(**inputs)
    with_hessian = loss.grad_and_hess(**inputs)
    everything = loss.value_and_grad(**inputs, wrt=wrt)
    found = {
        "value": [value, loss(**inputs), with_value[0], everything[0]],
        "pred": [gradient, loss.grad(**inputs), with_value[1], with_hessian[0]],
        "hessian": [hessian, with_hessian[1]],
    }
    for name in loss.twice_differentiable[1:]:
        found[f"hessian of {name}"] = [loss.grad_and_hess(**inputs, wrt=name)[1]]
    for name, a in zip(wrt, everything[1], strict=True):
        found.setdefault(name, []).append(a)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FORMULAS)
def test_no_value_no_derivatives(name: str, dtype: Any) -> None:
    build, third = FORMULAS[name]
    loss = build(reduction="none")
    third = None if third in loss.fixed and loss.required == 2 else third
    numbers = special(dtype)
    thirds: list[Any] = [None] if third is None else numbers.tolist()
    for q in thirds:
        x, y = (a.ravel() for a in np.meshgrid(numbers, numbers))
        # a row each: the losses over rows have two elements in one, the other of them ordinary
        over_rows = "softmax" in name or "logits" in name
        x, y = (np.stack([a, np.full_like(a, 0.5)], 1) if over_rows else a for a in (x, y))
        inputs = {"pred": x, loss.inputs[1]: y} | ({} if third is None else {third: np.full(x.shape, q, dtype)})
        wrt = tuple(kind for kind in inputs if kind not in loss.fixed)
        found = results(loss, inputs, wrt)
        none = np.isnan(found["value"][0])
        if third is not None:
            # what is finite may have an infinite product, and a value that is the difference of two infinities
            none &= ~(abs(y) == np.finfo(dtype).max)
        assert none.any()
        assert not none.all() or not loss.domains[str(third)].holds(np.array(q), 0)
        for kind, arrays in found.items():
            for a in arrays:
                np.testing.assert_array_equal(a, arrays[0], err_msg=kind)
                missing = none if a.ndim == none.ndim else np.broadcast_to(none[:, None], a.shape)
                wrong = missing & ~np.isnan(a)
                assert not wrong.any(), (kind, x[wrong][:5], y[wrong][:5], q)


def nan_at(shape: tuple[int, ...], position: tuple[int, ...], dtype: Any) -> Array:
    a = np.random.default_rng(1).normal(size=shape).astype(dtype)
    a[position] = np.nan
    return a


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [5, 400])
@pytest.mark.parametrize("class_weight", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_class_ids(classes: int, class_weight: bool, bad: float, dtype: Any) -> None:
    for position, label in itertools.product((0, 3), (0, 1, 3)):
        x = nan_at((3, classes), (1, position), dtype)
        x[1, position] = bad
        weights = np.where(np.arange(classes) == 1, 0.0, 1.0) if class_weight else None
        for smoothing in (0, 0.1):
            loss = fl.SoftmaxCELoss(class_weight=weights, label_smoothing=smoothing)
            value, gradient, hessian = loss.value_grad_and_hess(x, np.full(3, label))
            # an example of a class without weight is left out
            left_out = class_weight and label == 1 and not smoothing
            np.testing.assert_array_equal(np.isnan(value), [False, not left_out, False])
            for a in (gradient, hessian, loss.grad(x, np.full(3, label))):
                np.testing.assert_array_equal(np.isnan(a), np.broadcast_to(np.isnan(value)[:, None], a.shape))


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_probabilities(dtype: Any) -> None:
    """Of class ids only the label's own entry is read, without smoothing; of dense labels all are."""
    x = nan_at((2, 3), (0, 1), dtype)
    loss = fl.SoftmaxCELoss(from_logits=True)
    for label, seen in ((1, True), (0, False)):
        value, gradient, hessian = loss.value_grad_and_hess(x, [label, 0])
        assert np.isnan(value).tolist() == [seen, False]
        assert np.isnan(gradient).tolist() == np.isnan(hessian).tolist() == [[seen] * 3, [False] * 3]
    smooth = fl.SoftmaxCELoss(from_logits=True, label_smoothing=0.1)
    dense = fl.SoftmaxCELoss(from_logits=True, sparse_label=False)
    for value, gradient, hessian in (
        smooth.value_grad_and_hess(x, [0, 0]),
        dense.value_grad_and_hess(x, [[1.0, 0, 0]] * 2),
    ):
        assert np.isnan(value).tolist() == [True, False]
        assert np.isnan(gradient).tolist() == np.isnan(hessian).tolist() == [[True] * 3, [False] * 3]
    # the logarithm of a class without a target may be -inf
    x[0, 1] = -np.inf
    np.testing.assert_array_equal(dense([x[0]], [[1.0, 0, 0]]), -x[:1, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors(bad: float, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    for loss in (
        fl.TripletLoss(),
        fl.TripletLoss(margin=1e3),
        fl.CosineEmbeddingLoss(),
        fl.CosineEmbeddingLoss(margin=0.9),
    ):
        for which in range(3 if isinstance(loss, fl.TripletLoss) else 2):
            inputs = [rng.normal(size=(3, 4)).astype(dtype) for _ in range(3)]
            inputs[which][1, 2] = bad
            if isinstance(loss, fl.CosineEmbeddingLoss):
                inputs[2] = np.array([1, rng.choice([-1, 1]), -1])
            value, gradient, hessian = loss.value_grad_and_hess(*inputs)
            others = loss.grad(*inputs, wrt=loss.differentiable[1:-1])
            assert np.isnan(value[1]) or not np.isnan(bad)
            assert not np.isnan(value[[0, 2]]).any()
            for a in (gradient, hessian, *others):
                assert np.isnan(a[1]).all() or not np.isnan(value[1])
                assert not np.isnan(a[[0, 2]]).any()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_pairs(bad: float, dtype: Any) -> None:
    x, y = np.random.default_rng(3).normal(size=(2, 5, 3)).astype(dtype)
    x[1, 2] = bad
    loss = fl.SDMLLoss()
    value, (first, second) = loss.value_and_grad(x, y, wrt=("x1", "x2"))
    assert np.isnan(value).tolist() == [False, True, False, False, False]
    assert np.isnan(first).tolist() == [[k == 1] * 3 for k in range(5)]
    # every second vector is in the sum that has no value
    assert np.isnan(second).all()
    # in the second array it is in every row's sum
    value, gradient = loss.value_and_grad(y, x)
    if np.isnan(bad):
        assert np.isnan(value).all()
        assert np.isnan(gradient).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("zero_infinity", [False, True])
def test_sequences(zero_infinity: bool, bad: float, dtype: Any) -> None:
    """A label without an alignment, too, needs logits; but those behind an example's frames are not read."""
    x = np.random.default_rng(4).normal(size=(4, 3, 4)).astype(dtype)
    x[1, 1, 2] = x[3, 1, 2] = bad
    label, lengths = [[0, 0, 0], [0, 0, 0], [0, 1, 2], [0, 1, 2]], [3, 3, 3, 3]
    loss = fl.CTCLoss(zero_infinity=zero_infinity)
    value, gradient = loss.value_and_grad(x, label, [3, 3, 3, 3], lengths)
    assert np.isnan(value).tolist() == [False, True, False, True]
    assert np.isnan(gradient).reshape(4, -1).tolist() == [[isnan] * 12 for isnan in (False, True, False, True)]
    np.testing.assert_array_equal(loss(x, label, [3, 3, 3, 3], lengths), value)
    assert value[0] == (0 if zero_infinity else np.inf)
    assert not gradient[0].any()
    value, gradient = loss.value_and_grad(x, label, [3, 1, 3, 1], lengths)
    assert not np.isnan(value).any()
    assert not np.isnan(gradient).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_examples(dtype: Any) -> None:
    """Out of the domains: a negative target, rate and probability, and one above 1."""
    kl = fl.KLDivLoss().value_grad_and_hess(np.array([-1, np.nan, 0], dtype), np.array([-0.5, 0.5, -1], dtype))
    rate = fl.PoissonNLLLoss(from_logits=False).value_grad_and_hess(np.array([-0.5, np.nan], dtype), [1, 0])
    share = fl.SigmoidBCELoss(from_sigmoid=True).value_grad_and_hess(
        np.array([-0.5, 1.5, -0.5, 1.5], dtype), [0, 0, 1, 1]
    )
    for results_ in (kl, rate, share):
        for a in results_:
            assert np.isnan(a).all()
