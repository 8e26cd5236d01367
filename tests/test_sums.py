"""Sums of float64: within 2 units in the last place of the absolute terms' sum, the same for any number of threads."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import fastloss as fl

Array = np.ndarray[Any, Any]
KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "uniform": lambda rng, shape: rng.random(shape),
    # every addition to a lane rounds as the one before
    "equal": lambda rng, shape: np.full(shape, 0.1),
    "wide": lambda rng, shape: rng.random(shape) * 10.0 ** rng.uniform(-6, 6, shape),
}


def error(got: Any, terms: Array) -> float:
    """How far a sum is off, in units in the last place of the sum of the absolute terms."""
    return abs(math.fsum([*terms.ravel().tolist(), -float(got)])) / float(
        np.spacing(math.fsum(abs(terms).ravel().tolist()))
    )


def for_any_threads(call: Callable[[], Any]) -> Any:
    with fl.num_threads(1):
        alone = call()
    with fl.num_threads(2):
        together = call()
    np.testing.assert_array_equal(alone, together)
    return alone


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1025, 5000, 65_536, 300_003])
def test_totals(kind: str, size: int) -> None:
    x = KINDS[kind](np.random.default_rng(1), (size,))
    zeros = np.zeros(size)
    losses: dict[fl.Loss, Array] = {fl.L1Loss(reduction="sum"): x, fl.L2Loss(reduction="sum"): 0.5 * x * x}
    for loss, terms in losses.items():
        value = for_any_threads(functools.partial(loss, x, zeros))
        assert error(value, terms) <= 2
        assert value == loss.value_and_grad(x, zeros)[0]
        # from stored values
        assert error(loss.value_grad_and_hess(x, zeros)[0], terms) <= 2
    mean = fl.L1Loss(reduction="mean")(x, zeros)
    assert error(mean, np.array([math.fsum(x.tolist()) / size])) <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("shape", "weights"),
    [((5, 861, 9, 5), (5, 861, 9, 5)), ((5, 861, 9, 5), (861, 1, 1)), ((50_000, 3), (3,)), ((3, 50_000), (3, 1))],
)
def test_weighted(kind: str, shape: tuple[int, ...], weights: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    x, w = KINDS[kind](rng, shape), rng.random(weights) + 0.1
    zeros = np.zeros(shape)
    # one axis is that of the examples
    given = w if w.ndim > 1 else w[None]
    spread = np.broadcast_to(w, shape)
    value = for_any_threads(lambda: fl.L1Loss(reduction="weighted_mean")(x, zeros, given))
    exact = math.fsum((x * spread).ravel().tolist()) / math.fsum(spread.ravel().tolist())
    assert error(value, np.array([exact])) <= 2
    total = fl.L1Loss(reduction="sum")
    gradient = for_any_threads(lambda: total.grad(x, zeros, given, wrt="sample_weight"))
    np.testing.assert_array_equal(total.value_and_grad(x, zeros, given, wrt=("sample_weight", "pred"))[1][0], gradient)
    if weights == shape:
        return
    axes = [k for k in range(-len(shape), 0) if -k > len(weights) or weights[k] == 1]
    rows = np.moveaxis(x, axes, range(len(axes))).reshape(-1, gradient.size)
    worst = [error(got, rows[:, k]) for k, got in list(enumerate(gradient.ravel()))[:50]]
    assert max(worst) <= 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("shape", "batch_axis"), [((3, 50_000), 0), ((50_000, 3), 1), ((200, 3, 200), 1)])
def test_examples(kind: str, shape: tuple[int, ...], batch_axis: int) -> None:
    x = KINDS[kind](np.random.default_rng(3), shape)
    value = for_any_threads(lambda: fl.L1Loss(batch_axis=batch_axis)(x, np.zeros(shape)))
    rows = np.moveaxis(x, batch_axis, 0).reshape(3, -1)
    for got, row in zip(value, rows, strict=True):
        assert error(got, np.array([math.fsum(row.tolist()) / row.size])) <= 2


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_positive_labels(kind: str) -> None:
    """The gradient in an input that is broadcast over the rows."""
    rng = np.random.default_rng(4)
    y = KINDS[kind](rng, (50_000, 3)) * 1e-6
    x = np.ones_like(y)
    gradient = fl.SigmoidBCELoss(reduction="sum").grad(x, y, None, np.ones(3), wrt="pos_weight")
    loss = fl.SigmoidBCELoss(reduction="none").grad(x, y, None, np.ones_like(y), wrt="pos_weight")
    for k in range(3):
        assert error(gradient[k], loss[:, k]) <= 2


def test_infinite_terms() -> None:
    """What rounding leaves of an infinite sum is NaN, and not a part of it."""
    x = np.ones(5000)
    x[[10, 3000]] = np.inf
    zeros = np.zeros(5000)
    assert fl.L1Loss(reduction="sum")(x, zeros) == np.inf
    gradient = fl.L1Loss(reduction="sum").grad(
        x.reshape(-1, 2), zeros.reshape(-1, 2), np.ones((1, 2)), wrt="sample_weight"
    )
    np.testing.assert_array_equal(gradient, [[np.inf, 2500]])
    x[4000] = np.nan
    assert np.isnan(fl.L1Loss(reduction="sum")(x, zeros))


@pytest.mark.parametrize("classes", [1025, 5000, 20_003])
@pytest.mark.parametrize("kind", ["equal", "normal"])
def test_classes(kind: str, classes: int) -> None:
    """A row's sum over many classes, for class ids and for targets."""
    x = np.full(classes, 0.1) if kind == "equal" else np.random.default_rng(5).normal(size=classes)
    exact = mpmath.log(mpmath.fsum([mpmath.exp(mpmath.mpf(a) - mpmath.mpf(x[0])) for a in x.tolist()]))
    value = fl.SoftmaxCELoss()(x[None], [0])[0]
    assert abs(value - exact) <= 2 * np.spacing(float(exact))
    target = np.zeros((1, classes))
    target[0, 0] = 1
    assert abs(fl.SoftmaxCELoss(sparse_label=False)(x[None], target)[0] - exact) <= 3 * np.spacing(float(exact))
    uniform = np.full((1, classes), 1 / classes)
    mean = fl.SoftmaxCELoss(sparse_label=False, from_logits=True)(x[None], uniform)[0]
    assert error(mean, -x / classes) <= 3


def test_mean_over_rows() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(3000, 200)), rng.integers(0, 200, 3000)
    value = for_any_threads(lambda: fl.SoftmaxCELoss(reduction="sum")(x, y))
    assert error(value, fl.SoftmaxCELoss()(x, y)) <= 2


def test_long_vectors() -> None:
    rng = np.random.default_rng(7)
    for x, y in (rng.random((2, 1, 50_000)), np.stack([np.full((1, 50_000), 0.1), np.full((1, 50_000), 0.3)])):
        value = fl.TripletLoss(margin=0)(x, y, x)[0]
        assert error(value, (y - x) ** 2) <= 2
