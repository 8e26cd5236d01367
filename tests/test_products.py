"""The Hessian times a vector, against differences of the gradient, of every loss that has it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import fastloss as fl
from tests.calls import ENTRIES, Entry, inputs_of
from tests.conftest import assert_close
from tests.reference import REDUCTIONS

PRODUCTS = {name: entry for name, entry in ENTRIES.items() if entry.build().no_product is None}
ROWS = {name: entry for name, entry in PRODUCTS.items() if not entry.build().is_elementwise}


def drawn(entry: Entry, rng: np.random.Generator, dtype: Any = np.float64) -> tuple[dict[str, Any], Any]:
    """Inputs, one of the examples of weight 0, and a vector."""
    inputs = inputs_of(entry, rng, 6, dtype)
    inputs["sample_weight"][2] = 0
    return inputs, rng.normal(size=next(iter(inputs.values())).shape).astype(dtype)


def test_most_losses_have_it() -> None:
    missing = {entry.loss.__name__ for name, entry in ENTRIES.items() if name not in PRODUCTS}
    assert missing == {
        "CTCLoss",
        "CrammerSingerLoss",
        "MultiMarginLoss",
        "SDMLLoss",
    }


@pytest.mark.parametrize("name", [name for name in ENTRIES if name not in PRODUCTS])
def test_a_loss_without_it_says_why(name: str, rng: np.random.Generator) -> None:
    loss, inputs = ENTRIES[name].build(), inputs_of(ENTRIES[name], rng, 4)
    with pytest.raises(NotImplementedError, match=f"^{type(loss).__name__} has no Hessian-vector product: "):
        loss.hvp(**inputs, vector=inputs[loss.inputs[0]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name in PRODUCTS if name not in ROWS])
def test_of_elements_it_is_the_hessian_times_the_vector(name: str, dtype: Any, rng: np.random.Generator) -> None:
    entry = PRODUCTS[name]
    inputs, vector = drawn(entry, rng, dtype)
    for reduction in REDUCTIONS:
        loss = entry.build(reduction=reduction)
        head = np.full_like(loss(**inputs), 0.7)
        want = loss.grad_and_hess(**inputs, head_grad=head)[1] * vector
        assert_close(loss.hvp(**inputs, vector=vector, head_grad=head), want, dtype)


@pytest.mark.parametrize("name", ROWS)
def test_of_rows_it_is_the_change_of_the_gradient(name: str, rng: np.random.Generator) -> None:
    entry = ROWS[name]
    inputs, vector = drawn(entry, rng)
    plain = {name: a for name, a in inputs.items() if name != "sample_weight"}
    first, step = next(iter(inputs)), 1e-6
    for reduction in REDUCTIONS:
        loss = entry.build(reduction=reduction)
        for given in (inputs, plain):
            head = rng.normal(size=np.shape(loss(**given)))
            ends = [
                loss.grad(**given | {first: given[first] + sign * step * vector}, head_grad=head) for sign in (1, -1)
            ]
            got = loss.hvp(**given, vector=vector, head_grad=head)
            np.testing.assert_allclose(got, (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-8)
        assert not loss.hvp(**inputs, vector=vector)[2].any()


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name].build().has_rows])
def test_its_rows_are_those_of_the_hessian(name: str, rng: np.random.Generator) -> None:
    """The product with a unit vector is a column, whose own element is the diagonal's."""
    inputs, _ = drawn(ROWS[name], rng)
    loss = ROWS[name].build()
    for kind in loss.hessians:
        hessian = loss.grad_and_hess(**inputs, hessian=kind)[1]
        axis = loss.row_axis(hessian.ndim)
        for k in range(hessian.shape[axis]):
            unit = np.zeros_like(hessian)
            unit.swapaxes(0, axis)[k] = 1
            found = loss.hvp(**inputs, vector=unit, hessian=kind)
            np.testing.assert_allclose(found.take(k, axis), hessian.take(k, axis), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", ROWS)
def test_in_single_precision(name: str, rng: np.random.Generator) -> None:
    loss = ROWS[name].build(reduction="none")
    inputs, vector = drawn(ROWS[name], rng, np.float32)
    got = loss.hvp(**inputs, vector=vector)
    doubles = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in inputs.items()}
    want = loss.hvp(**doubles, vector=vector.astype(np.float64))
    assert got.dtype == np.float32
    largest = np.abs(want).max(-1, keepdims=True)
    assert (np.abs(got - want) <= 8 * np.finfo(np.float32).eps * largest).all()


def mixed_differences(value: Callable[..., Any], point: list[float], vector: list[float], digits: int) -> list[float]:
    """The Hessian of a function at a point times a vector, from mixed second differences."""
    with mpmath.workdps(digits):
        x, along = [list(map(mpmath.mpf, numbers)) for numbers in (point, vector)]
        step, found = mpmath.mpf(10) ** -100, []
        for k in range(len(point)):
            total = 0
            for a in (1, -1):
                for b in (1, -1):
                    moved = [u + a * step * v for u, v in zip(x, along, strict=True)]
                    moved[k] += b * step
                    total += a * b * value(moved)
            found.append(float(total / (4 * step**2)))
        return found


def entropy(logits: Any, label: int) -> Any:
    return mpmath.log(sum(map(mpmath.exp, logits))) - logits[label]


def focal(logits: Any, label: int) -> Any:
    s = entropy(logits, label)
    return (1 - mpmath.exp(-s)) ** 2 * s


@pytest.mark.parametrize(
    ("loss", "value"),
    [
        (fl.SoftmaxCELoss(), entropy),
        (fl.SoftmaxFocalLoss(gamma=2), focal),
        (fl.PolyCELoss(epsilon=2), lambda x, y: entropy(x, y) + 2 * (1 - mpmath.exp(-entropy(x, y)))),
        (fl.GeneralizedCELoss(q=0.5), lambda x, y: (1 - mpmath.exp(-entropy(x, y) / 2)) / 0.5),
    ],
)
@pytest.mark.parametrize("label", [0, 1, 3])
def test_of_confident_predictions_no_digits_are_lost(loss: fl.Loss, value: Callable[..., Any], label: int) -> None:
    """The label's class or another has nearly all of the probability: p.v is v of that class, nearly."""
    logits, vector = [40.0, 3.0, -2.0, -500.0], [3.0, 1.0, -1.0, 2.0]
    want = mixed_differences(lambda x: value(x, label), logits, vector, 700)
    got = loss.hvp(np.array([logits]), [label], np.array([vector]))[0]
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize("label", [1, -1])
@pytest.mark.parametrize("scale", [1.0, 1e-200, 1e150])
def test_of_angles(label: int, scale: float, rng: np.random.Generator) -> None:
    """Of vectors at any angle, some nearly parallel, of any length."""

    def value(x: list[Any]) -> Any:
        dot = sum(a * b for a, b in zip(x, map(mpmath.mpf, y), strict=True))
        c = dot / mpmath.sqrt(sum(a * a for a in x) * sum(mpmath.mpf(b) ** 2 for b in y))
        return 1 - c if label == 1 else c + 1

    for turn in (1.0, 1e-8, 0):
        x, v = rng.normal(size=(2, 5))
        y = x + turn * rng.normal(size=5)
        want = mixed_differences(value, x.tolist(), v.tolist(), 400)
        got = fl.CosineEmbeddingLoss(margin=-1).hvp([scale * x], [y / min(scale, 1e10)], [label], [scale * v])[0]
        np.testing.assert_allclose(got * scale, want, rtol=0, atol=1e-14 * np.abs(v).max() / (x @ x))


def test_of_vectors_without_a_direction_it_is_0() -> None:
    x = np.array([[0.0, 0.0], [3e-13, 1e-13]])
    assert not fl.CosineEmbeddingLoss().hvp(x, np.ones((2, 2)) / 4, [1, -1], np.ones((2, 2))).any()
    # and where the hinge is flat, whatever the vector is
    assert not fl.CosineEmbeddingLoss().hvp([[1.0, 0.0]], [[-1.0, 0.5]], [-1], [[np.inf, 1.0]]).any()


def test_the_vector_stands_behind_the_inputs_that_must_be(rng: np.random.Generator) -> None:
    x, y, v, w = rng.normal(size=(4, 5))
    np.testing.assert_array_equal(fl.LogCoshLoss().hvp(x, y, v, w), fl.LogCoshLoss().hvp(x, y, w, vector=v))
    scale = rng.normal(size=5)
    got = fl.GaussianNLLLoss().hvp(x, y, scale, v, w)
    assert_close(got, np.exp(-scale) * v * w, np.float64)
    got = fl.SigmoidBCELoss().hvp(x, y > 0, v, w, np.float64(2))
    assert_close(got, fl.SigmoidBCELoss().grad_and_hess(x, y > 0, w, np.float64(2))[1] * v, np.float64)


def test_the_callers_buffer(rng: np.random.Generator) -> None:
    x, y, v = rng.normal(size=(3, 7, 9))
    ids = rng.integers(0, 9, 7)
    for loss, label in [(fl.LogCoshLoss(), y), (fl.SoftmaxCELoss(), ids), (fl.KLDivLoss(from_logits=False), y**2)]:
        want = loss.hvp(x, label, v)
        out = np.empty_like(x)
        assert loss.hvp(x, label, v, out=out) is out
        np.testing.assert_array_equal(out, want)
        # over the vector, which is read before
        over = v.copy()
        np.testing.assert_array_equal(loss.hvp(x, label, over, out=over), want)
        apart = np.empty((7, 18))[:, ::2]
        np.testing.assert_array_equal(loss.hvp(x, label, np.asfortranarray(v), out=apart), want)
        with pytest.raises(ValueError, match=r"^out for the Hessian must have shape \(7, 9\), got \(7, 8\)$"):
            loss.hvp(x, label, v, out=np.empty((7, 8)))


def test_where_there_is_no_value_there_is_no_product() -> None:
    pred = np.zeros((4, 3))
    pred[1, 2], pred[2, 0] = np.nan, np.inf
    vector, label = np.ones((4, 3)), [0, 1, 2, 1]
    vector[3, 1] = np.inf
    for loss in (fl.SoftmaxCELoss(), fl.SoftmaxCELoss(z_loss=0.1), fl.SoftmaxFocalLoss(), fl.PolyCELoss()):
        got = loss.hvp(pred, label, vector)
        assert np.isnan(got[1:]).all()
        assert np.isfinite(got[0]).all()
        assert not loss.hvp(pred, label, vector, [1, 0, 0, 0])[1:].any()
    got = fl.LogCoshLoss().hvp(pred, np.zeros((4, 3)), vector, np.array([1, 1, 0, 1]))
    assert np.isnan(got[1, 2])
    assert got[3, 1] == np.inf
    assert not got[2].any()


def test_ignored_ids_have_none(rng: np.random.Generator) -> None:
    x, v = rng.normal(size=(2, 3, 4))
    got = fl.SoftmaxCELoss(ignore_index=-1).hvp(x, [0, -1, 2], v)
    assert not got[1].any()
    np.testing.assert_array_equal(got[[0, 2]], fl.SoftmaxCELoss().hvp(x[[0, 2]], [0, 2], v[[0, 2]]))


def test_long_rows_and_many(rng: np.random.Generator) -> None:
    """Rows of several blocks; blocks of several rows; the classes first."""
    for shape in [(2, 5000), (700, 30), (3, 2)]:
        x, v = rng.normal(size=(2, *shape))
        label = rng.integers(0, shape[1], shape[0])
        p = np.exp(x - np.log(np.exp(x).sum(1, keepdims=True)))
        want = p * (v - (p * v).sum(1, keepdims=True))
        np.testing.assert_allclose(fl.SoftmaxCELoss().hvp(x, label, v), want, rtol=1e-9, atol=1e-15)
        got = fl.SoftmaxCELoss(axis=0, batch_axis=1).hvp(x.T, label, v.T)
        np.testing.assert_allclose(got, want.T, rtol=1e-9, atol=1e-15)


def test_factors_beyond_the_range(rng: np.random.Generator) -> None:
    x, v = rng.normal(size=(2, 3, 4)).astype(np.float32)
    got = fl.SoftmaxCELoss(weight=1e300).hvp(x, [0, 1, 2], v, np.full(3, 1e-300))
    np.testing.assert_allclose(got, fl.SoftmaxCELoss().hvp(x, [0, 1, 2], v), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda x: fl.L2Loss().hvp(x, x), TypeError, "hvp of L2Loss needs a vector of pred's shape, behind label or"),
        (lambda x: fl.L2Loss().hvp(x, x, x[:2]), ValueError, r"vector must have pred's shape \(3,\), "),
        (lambda x: fl.L2Loss().hvp(x, x, x + 1j), TypeError, "vector must be an array of real numbers"),
        (lambda x: fl.L2Loss().hvp(x, x, x, x, x), TypeError, "L2Loss takes at most 3 inputs"),
        (lambda x: fl.L2Loss().hvp(x, x, x, wrt="pred"), TypeError, "argument 'wrt'; hvp takes .*, vector, head_grad,"),
        (lambda x: fl.L2Loss().grad(x, x, vector=x), TypeError, "unexpected keyword argument 'vector'; grad takes"),
        (lambda x: fl.L2Loss()(x, x, head_grad=x), TypeError, "unexpected keyword argument 'head_grad'; a call takes"),
    ],
)
def test_what_is_refused(make: Callable[..., Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(np.zeros(3))
