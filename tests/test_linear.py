"""The loss of a linear predictor: what a dense computation gives, and the same bits on any number of threads."""

from __future__ import annotations

import itertools
import pickle
from typing import Any

import mpmath
import numpy as np
import pytest

import fastloss as fl
from fastloss.linear import LinearObjective

RNG = np.random.default_rng(23)
N = 203


def problem(d: int, outputs: int | None, dtype: Any, n: int = N) -> tuple[Any, Any, Any]:
    """Rows of numbers, weights and biases: small multiples of powers of 2, of which products are exact."""
    shape = () if outputs is None else (outputs,)
    X = RNG.integers(-16, 17, (n, d)) / 16
    weight, bias = RNG.integers(-8, 9, (*shape, d)) / 16, RNG.integers(-8, 9, shape) / 8
    return X.astype(dtype), weight.astype(dtype), np.asarray(bias, dtype)[()]


LOSSES: dict[str, tuple[fl.Loss, int | None, Any]] = {
    "logistic": (fl.SigmoidBCELoss(reduction="sum"), None, RNG.integers(0, 2, N)),
    "several outputs": (fl.HuberLoss(reduction="mean"), 3, RNG.normal(size=(N, 3))),
    "an example's mean": (fl.HuberLoss(), 3, RNG.normal(size=(N, 3))),
    "a weighted mean": (fl.PoissonNLLLoss(reduction="weighted_mean"), None, RNG.poisson(2, N)),
    "few classes": (fl.SoftmaxCELoss(reduction="sum"), 3, RNG.integers(0, 3, N)),
    "more classes": (fl.SoftmaxCELoss(reduction="none", ignore_index=0), 16, RNG.integers(0, 16, N)),
    "dense labels": (fl.SoftmaxCELoss(sparse_label=False), 4, RNG.dirichlet(np.ones(4), N)),
    "a number of its own": (fl.QuantileLoss(0.9, weight=2, reduction="none"), None, RNG.normal(size=N)),
}


def dense(loss: fl.Loss, X: Any, weight: Any, bias: Any, *given: Any) -> tuple[Any, Any, Any]:
    X = X.astype(np.float64)
    value, gradient = loss.value_and_grad(X @ weight.T.astype(np.float64) + bias, *given)
    return value, (X.T @ gradient).T, gradient.sum(0)


def assert_close(found: Any, expected: Any, dtype: Any) -> None:
    tolerance = 3e-6 if dtype == np.float32 else 1e-13
    size = np.abs(expected).max(initial=1e-3)
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * size)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("weighted", [False, True])
def test_what_a_dense_computation_gives(name: str, weighted: bool, dtype: Any) -> None:
    loss, outputs, label = LOSSES[name]
    linear = fl.LinearLoss(loss)
    examples = RNG.integers(0, 3, N).astype(dtype) if weighted else None
    for d in (1, 5, 24, 71):
        X, weight, bias = problem(d, outputs, dtype)
        value, (gw, gb) = linear.value_and_grad(X, weight, label, examples, bias, wrt=("weight", "bias"))
        for found, expected in zip((value, gw, gb), dense(loss, X, weight, bias, label, examples), strict=True):
            assert_close(found, expected, dtype)
        assert gw.dtype == dtype
        assert gw.shape == weight.shape
        assert np.shape(gb) == np.shape(bias)
        np.testing.assert_array_equal(linear(X, weight, label, examples, bias), value)
        np.testing.assert_array_equal(linear.grad(X, weight, label, examples, bias, wrt="bias"), gb)
        assert_close(linear(X, weight, label, examples), loss(X @ weight.T, label, examples), dtype)


def test_against_many_digits() -> None:
    X, weight, _ = problem(7, None, np.float64, 5)
    y = [0, 1, 1, 0, 1]
    with mpmath.workdps(40):
        scores = [mpmath.fdot(map(mpmath.mpf, row), map(mpmath.mpf, weight)) for row in X.tolist()]
        slopes = [1 / (1 + mpmath.exp(-s)) - label for s, label in zip(scores, y, strict=True)]
        value = mpmath.fsum(mpmath.log1p(mpmath.exp(s)) - label * s for s, label in zip(scores, y, strict=True))
        gradient = [mpmath.fdot(slopes, map(mpmath.mpf, column)) for column in X.T.tolist()]
    found = fl.LinearLoss(fl.SigmoidBCELoss(reduction="sum")).value_and_grad(X, weight, y)
    assert found[0] == pytest.approx(float(value), rel=4e-16)
    np.testing.assert_allclose(found[1], [float(g) for g in gradient], rtol=1e-14, atol=1e-16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_second_derivatives(dtype: Any) -> None:
    for name in ("logistic", "several outputs", "a weighted mean"):
        loss, outputs, label = LOSSES[name]
        linear = fl.LinearLoss(loss)
        X, weight, bias = problem(30, outputs, dtype)
        examples = RNG.integers(0, 3, N).astype(dtype)
        h = loss.grad_and_hess(X.astype(np.float64) @ weight.T + bias, label, examples)[1]
        v, vb = problem(30, outputs, dtype)[1:]
        moved = h * (X.astype(np.float64) @ v.T + vb)
        product, edge = linear.hvp(X, weight, label, (v, vb), examples, bias)
        assert_close(product, (X.T @ moved).T, dtype)
        assert_close(edge, moved.sum(0), dtype)
        whole = linear.hess(X, weight, label, examples, bias)
        assert_close(
            whole @ np.concatenate([v.ravel(), np.ravel(vb)]), np.concatenate([product.ravel(), np.ravel(edge)]), dtype
        )
        np.testing.assert_array_equal(whole, whole.T)
        h = loss.grad_and_hess(X.astype(np.float64) @ weight.T, label, examples)[1]
        assert_close(linear.hvp(X, weight, label, v, examples), (X.T @ (h * (X.astype(np.float64) @ v.T))).T, dtype)


CLASSES: dict[str, tuple[fl.Loss, Any]] = {
    "ids": (fl.SoftmaxCELoss(reduction="mean", ignore_index=0), RNG.integers(0, 4, N)),
    "dense labels": (fl.SoftmaxCELoss(sparse_label=False), RNG.dirichlet(np.ones(4), N)),
    "a divergence": (fl.KLDivLoss(from_logits=False, reduction="sum"), RNG.dirichlet(np.ones(4), N)),
    "focal": (fl.SoftmaxFocalLoss(reduction="weighted_mean"), RNG.integers(0, 4, N)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CLASSES)
def test_second_derivatives_over_classes(name: str, dtype: Any) -> None:
    loss, label = CLASSES[name]
    linear = fl.LinearLoss(loss)
    X, weight, bias = problem(30, 4, dtype)
    v, vb = problem(30, 4, dtype)[1:]
    wide, examples = X.astype(np.float64), RNG.integers(0, 3, N).astype(dtype)
    moved = loss.hvp(wide @ weight.T + bias, label, wide @ v.T + vb, sample_weight=examples)
    product, edge = linear.hvp(X, weight, label, (v, vb), examples, bias)
    assert_close(product, moved.T @ X, dtype)
    assert_close(edge, moved.sum(0), dtype)
    whole = linear.hess(X, weight, label, examples, bias)
    np.testing.assert_array_equal(whole, whole.T)
    assert_close(whole @ np.concatenate([v.ravel(), vb]), np.concatenate([product.ravel(), edge]), dtype)
    moved = loss.hvp(wide @ weight.T, label, wide @ v.T)
    assert_close(linear.hvp(X, weight, label, v), moved.T @ X, dtype)
    assert_close(linear.hess(X, weight, label) @ v.ravel(), (moved.T @ X).ravel(), dtype)


# of 40 outputs: they go by chunks of rows, of seven or fewer
MANY: dict[str, tuple[fl.Loss, Any, dict[str, Any]]] = {
    "a mean over classes": (fl.SoftmaxCELoss(reduction="mean", ignore_index=0), RNG.integers(0, 40, N), {}),
    "a weighted mean": (
        fl.SoftmaxCELoss(reduction="weighted_mean", class_weight=RNG.random(40)),
        RNG.integers(0, 40, N),
        {},
    ),
    "each example": (fl.HuberLoss(), RNG.normal(size=(N, 40)), {}),
    "each element": (fl.QuantileLoss(weight=2, reduction="none"), RNG.normal(size=(N, 40)), {"quantile": 0.9}),
    "a number for each output": (
        fl.QuantileLoss(reduction="sum"),
        RNG.normal(size=(N, 40)),
        {"quantile": RNG.uniform(0.1, 0.9, 40)},
    ),
    "dense labels": (fl.SoftmaxCELoss(sparse_label=False), RNG.dirichlet(np.ones(40), N), {}),
    "a divergence": (fl.KLDivLoss(from_logits=False, reduction="mean"), RNG.dirichlet(np.ones(40), N), {}),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("weighted", [False, True])
def test_many_outputs(name: str, weighted: bool, dtype: Any) -> None:
    loss, label, more = MANY[name]
    linear = fl.LinearLoss(loss, chunk_bytes=7 * 40 * np.dtype(dtype).itemsize)
    X, weight, bias = problem(24, 40, dtype)
    examples = RNG.integers(0, 3, N).astype(dtype) if weighted else None
    if loss.value_axes(2) == ():
        head: Any = 3.0
    else:
        head = RNG.normal(size=np.shape(loss(X @ weight.T, label, **more))).astype(dtype)
    wide = X.astype(np.float64)
    value, gradient = loss.value_and_grad(wide @ weight.T + bias, label, examples, head_grad=head, **more)
    given = {"head_grad": head, "wrt": ("weight", "bias", "X")} | more
    found = linear.value_and_grad(X, weight, label, examples, bias, **given)
    assert_close(found[0], value, dtype)
    for a, b in zip(found[1], (gradient.T @ wide, gradient.sum(0), gradient @ weight), strict=True):
        assert_close(a, b, dtype)
        assert a.dtype == dtype
    np.testing.assert_array_equal(linear(X, weight, label, examples, bias, **more), found[0])
    np.testing.assert_array_equal(linear.grad(X, weight, label, examples, bias, **given)[2], found[1][2])
    v, vb = problem(24, 40, dtype)[1:]
    moved = loss.hvp(wide @ weight.T + bias, label, vector=wide @ v.T + vb, sample_weight=examples, **more)
    product, edge = linear.hvp(X, weight, label, (v, vb), examples, bias, **more)
    assert_close(product, moved.T @ wide, dtype)
    assert_close(edge, moved.sum(0), dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_in_the_rows(name: str, dtype: Any) -> None:
    loss, outputs, label = LOSSES[name]
    X, weight, bias = problem(24, outputs, dtype)
    gradient = loss.grad(X.astype(np.float64) @ weight.T + bias, label)
    expected = gradient @ weight if outputs else gradient[:, None] * weight
    found = fl.LinearLoss(loss).grad(X, weight, label, None, bias, wrt="X")
    assert_close(found, expected, dtype)
    assert found.dtype == dtype


def test_what_is_left_out_is_in_no_product() -> None:
    X, weight, _ = problem(24, 40, np.float64)
    label = RNG.integers(1, 40, N)
    linear = fl.LinearLoss(fl.SoftmaxCELoss(ignore_index=0), chunk_bytes=4000)
    label[:50], examples = 0, np.ones(N)
    examples[100:] = 0
    X[:50], X[100:] = np.nan, np.inf
    value, (gw, gx) = linear.value_and_grad(X, weight, label, examples, wrt=("weight", "X"))
    kept = slice(50, 100)
    expected = linear.value_and_grad(X[kept], weight, label[kept], wrt=("weight", "X"))
    np.testing.assert_array_equal(value[kept], expected[0])
    assert not value[:50].any()
    assert not value[100:].any()
    assert_close(gw, expected[1][0], np.float64)
    np.testing.assert_array_equal(gx[kept], expected[1][1])
    assert not gx[:50].any()
    # one weight for all
    assert not linear(X, weight, label, [0.0]).any()
    assert linear(X, weight, label, [2.0])[60] == 2 * value[60]


def test_many_outputs_of_few_rows() -> None:
    linear = fl.LinearLoss(fl.SoftmaxCELoss(reduction="mean"))
    weight = np.ones((40, 3))
    value, (gw, gx) = linear.value_and_grad(np.zeros((0, 3)), weight, [], wrt=("weight", "X"))
    assert value == 0
    assert not gw.any()
    assert gx.shape == (0, 3)
    assert linear([[1.0, 2.0, 3.0]], weight, [1]) == pytest.approx(np.log(40))


def test_many_outputs_in_other_dtypes() -> None:
    loss, label, _ = MANY["a mean over classes"]
    X, weight, bias = problem(24, 40, np.float32)
    linear = fl.LinearLoss(loss)
    expected = linear.value_and_grad(X, weight, label, None, bias, wrt=("weight", "X"))
    for given in (X.astype(np.float16), np.asfortranarray(X), X.astype(X.dtype.newbyteorder())):
        value, (gw, gx) = linear.value_and_grad(given, weight, label, None, bias, wrt=("weight", "X"))
        assert value == pytest.approx(expected[0], rel=1e-6)
        assert_close(gw, expected[1][0], np.float32)
        assert gx.dtype == given.dtype
        np.testing.assert_allclose(gx, expected[1][1], rtol=2e-3, atol=1e-5)
    assert linear.grad((16 * X).astype(int), weight, label, wrt="X").dtype == np.float64
    assert linear.grad(X, weight.astype(np.float16), label).dtype == np.float16
    # an objective is in float64
    f = fl.linear_objective(loss, X, np.concatenate([np.arange(40), label[40:]]))
    w = f.start() + RNG.normal(size=1000)
    whole = fl.linear_objective(loss, X.astype(np.float64), np.concatenate([np.arange(40), label[40:]]))
    np.testing.assert_allclose(f(w)[1], whole(w)[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("outputs", [3, 40])
def test_the_callers_arrays(outputs: int) -> None:
    label = RNG.integers(0, outputs, N)
    for reduction in ("mean", "none"):
        linear = fl.LinearLoss(fl.SoftmaxCELoss(reduction=reduction))
        X, weight, bias = problem(24, outputs, np.float32)
        wrt = ("weight", "bias", "X")
        value, gradients = linear.value_and_grad(X, weight, label, None, bias, wrt=wrt)
        outs = np.empty(np.shape(value)), tuple([np.full(np.shape(x), 7, np.float32) for x in gradients])
        found = linear.value_and_grad(X, weight, label, None, bias, wrt=wrt, out=outs)
        assert found[0] is outs[0]
        np.testing.assert_array_equal(found[0], value)
        for a, b, c in zip(found[1], outs[1], gradients, strict=True):
            assert a is b
            np.testing.assert_array_equal(a, c)
        turned = np.empty((24, outputs)).T
        assert linear.grad(X, weight, label, None, bias, out=turned) is turned
        assert_close(turned, gradients[0], np.float32)
        assert linear(X, weight, label, out=outs[0]) is outs[0]
        assert linear.value_and_grad(X, weight, label, out=(None, None))[0] is not None
        vector, head = (weight + 1, bias), np.full(np.shape(value), 3.0)
        products = linear.hvp(X, weight, label, vector, bias=bias, head_grad=head)
        assert_close(products[0], 3 * linear.hvp(X, weight, label, vector, bias=bias)[0], np.float32)
        found = linear.hvp(X, weight, label, vector, bias=bias, head_grad=head, out=outs[1][:2])
        for a, b, c in zip(found, outs[1], products, strict=False):
            assert a is b
            np.testing.assert_array_equal(a, c)
        assert linear.hvp(X, weight, label, vector[0], out=turned) is turned
        assert_close(turned, linear.hvp(X, weight, label, vector[0]), np.float32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_on_any_number_of_threads(dtype: Any) -> None:
    n = 20_011
    for loss, outputs, d in ((fl.SigmoidBCELoss(reduction="mean"), None, 37), (fl.SoftmaxCELoss(), 5, 20)):
        X, weight, bias = problem(d, outputs, dtype, n)
        label = RNG.integers(0, 2, n)
        found = []
        for threads in (1, 2, 3):
            with fl.num_threads(threads):
                value, gradients = fl.LinearLoss(loss).value_and_grad(
                    X, weight, label, None, bias, wrt=("weight", "bias")
                )
                found.append([np.asarray(x).tobytes() for x in (value, *gradients)])
        assert found[0] == found[1] == found[2]


def layouts(X: Any) -> dict[str, Any]:
    padded = np.zeros((2 * len(X), X.shape[1] + 3), X.dtype)
    padded[::2, 1:-2] = X
    shown = X.copy()
    shown.flags.writeable = False
    return {
        "Fortran": np.asfortranarray(X),
        "strided": padded[::2, 1:-2],
        "reversed": X[::-1].copy()[::-1],
        "swapped": X.astype(X.dtype.newbyteorder()),
        "read-only": shown,
        "nested": X.tolist(),
    }


@pytest.mark.parametrize("layout", layouts(np.zeros((1, 1))))
def test_any_layout(layout: str) -> None:
    X, weight, _ = problem(30, None, np.float64)
    loss, _, label = LOSSES["logistic"]
    linear = fl.LinearLoss(loss)
    value, gradient = linear.value_and_grad(layouts(X)[layout], weight, label)
    expected = linear.value_and_grad(X, weight, label)
    assert value == expected[0]
    np.testing.assert_array_equal(gradient, expected[1])


def test_dtypes() -> None:
    X, weight, _ = problem(30, None, np.float64)
    loss, _, label = LOSSES["logistic"]
    linear = fl.LinearLoss(loss)
    whole = (16 * X).astype(np.int8)
    assert linear(whole, weight, label) == linear(16 * X, weight, label)
    assert linear(X.astype(np.float16), weight, label) == linear(X.astype(np.float32), weight, label)
    # gradients are summed in float64, and rounded to what the weights are
    single = linear.grad(X.astype(np.float32), weight, label)
    assert single.dtype == np.float64
    np.testing.assert_array_equal(
        single.astype(np.float32), linear.grad(X.astype(np.float32), weight.astype(np.float32), label)
    )
    assert linear.grad(X, weight.astype(int), label).dtype == np.float64


@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_rows(form: str, dtype: Any) -> None:
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy is not installed")
    for name in ("logistic", "few classes", "several outputs"):
        loss, outputs, label = LOSSES[name]
        linear = fl.LinearLoss(loss)
        X, weight, bias = problem(50, outputs, dtype)
        X *= RNG.random(X.shape) < 0.1
        given = sparse.csr_array(X).asformat(form)
        found = linear.value_and_grad(given, weight, label, None, bias, wrt=("weight", "bias"))
        expected = linear.value_and_grad(X, weight, label, None, bias, wrt=("weight", "bias"))
        assert_close(found[0], expected[0], dtype)
        for a, b in zip(found[1], expected[1], strict=True):
            assert_close(a, b, dtype)
        if loss.is_elementwise:
            assert_close(linear.hvp(given, weight, label, weight), linear.hvp(X, weight, label, weight), dtype)
            assert_close(
                linear.hess(given, weight, label, None, bias), linear.hess(X, weight, label, None, bias), dtype
            )
    assert linear(sparse.csr_matrix(X), weight, label) == linear(sparse.csr_array(X), weight, label)
    with pytest.raises(TypeError, match=r"got coo; take X.tocsr\(\)"):
        linear(sparse.coo_array(X), weight, label)
    counts = sparse.csr_array(RNG.poisson(0.1, X.shape))
    assert_close(linear(counts, weight, label), linear(counts.toarray(), weight, label), np.float64)
    broken = sparse.csr_array(X)
    broken.indices[0] = 99
    with pytest.raises(ValueError, match="X must have indices of its columns"):
        linear(broken, weight, label)


def test_few_rows() -> None:
    loss = fl.SigmoidBCELoss(reduction="mean")
    linear = fl.LinearLoss(loss)
    value, (gw, gb) = linear.value_and_grad(np.zeros((0, 3)), np.ones(3), [], bias=1.0, wrt=("weight", "bias"))
    assert value == gb == 0
    np.testing.assert_array_equal(gw, np.zeros(3))
    assert fl.LinearLoss(fl.HuberLoss())(np.zeros((0, 3)), np.ones((2, 3)), np.zeros((0, 2))).shape == (0,)
    assert linear([[1.0, 2.0]], [3.0, 4.0], [1]) == loss([11.0], [1])
    # a bias alone is a model, too
    assert linear(np.zeros((4, 0)), [], [0, 1, 0, 1], bias=0.5) == pytest.approx(loss(np.full(4, 0.5), [0, 1, 0, 1]))


def test_what_is_no_number_stays_where_it_is() -> None:
    X, weight, _ = problem(30, 2, np.float64)
    label = RNG.normal(size=(N, 2))
    linear = fl.LinearLoss(fl.L2Loss(reduction="none"))
    X[7, 3] = np.nan
    value, gradient = linear.value_and_grad(X, weight, label)
    assert np.isnan(value[7]).all()
    assert not np.isnan(np.delete(value, 7, 0)).any()
    assert np.isnan(gradient).all()
    # a row of weight 0 is left out, whatever it holds
    X[8, 4] = np.inf
    examples = np.ones(N)
    examples[7:9] = 0
    kept = examples > 0
    found = linear.value_and_grad(X, weight, label, examples)
    assert_close(found[1], linear.grad(X[kept], weight, label[kept]), np.float64)
    assert not found[0][7:9].any()
    assert_close(
        linear.hvp(X, weight, label, weight, examples), linear.hvp(X[kept], weight, label[kept], weight), np.float64
    )


def test_beyond_the_range_of_float32() -> None:
    X, weight, _ = problem(3, None, np.float32, 20)
    label = RNG.normal(size=20)
    loss = fl.HuberLoss(rho=1e-35, reduction="sum")
    expected = dense(loss, X, weight, 0.0, label)
    found = fl.LinearLoss(loss).value_and_grad(X, weight.astype(np.float64), label)
    assert_close(found[0], expected[0], np.float64)
    assert_close(found[1], expected[1], np.float64)
    ids, classes = RNG.integers(0, 2, 20), np.ones((2, 3), np.float32)
    far, near = (fl.LinearLoss(fl.SoftmaxCELoss(reduction="sum", weight=w)) for w in (1e39, 1.0))
    assert_close(far.hess(X, classes, ids), 1e39 * near.hess(X.astype(np.float64), classes, ids), np.float64)
    found = fl.LinearLoss(loss).value_and_grad(X, weight.astype(np.float64), label, wrt="X")
    assert_close(found[0], expected[0], np.float64)
    linear = fl.LinearLoss(fl.L2Loss(reduction="weighted_mean"))
    examples = np.full(20, 1e-300)
    assert linear(X, weight, label, examples) == pytest.approx(linear(X, weight, label), rel=1e-6)
    examples = RNG.random(20)
    expected = dense(loss, X, weight, 0.0, label, examples)
    assert_close(fl.LinearLoss(loss)(X, weight.astype(np.float64), label, examples), expected[0], np.float64)


def test_a_head_grad() -> None:
    X, weight, _ = problem(9, None, np.float64)
    head, label = RNG.normal(size=N), RNG.normal(size=N)
    loss = fl.HuberLoss(reduction="none")
    expected = X.T @ loss.grad(X @ weight, label, head_grad=head)
    assert_close(fl.LinearLoss(loss).grad(X, weight, label, head_grad=head), expected, np.float64)
    total = fl.LinearLoss(fl.HuberLoss(reduction="sum"))
    assert_close(total.grad(X, weight, label, head_grad=3), 3 * total.grad(X, weight, label), np.float64)


X, WEIGHT, _ = problem(3, None, np.float64)
Y = RNG.integers(0, 2, N)
LOGISTIC = fl.LinearLoss(fl.SigmoidBCELoss(reduction="sum"))
BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "no loss": (lambda: fl.LinearLoss(1), TypeError, "loss must be a loss of fastloss, .* got int"),  # type: ignore[arg-type]
    "no label": (
        lambda: fl.LinearLoss(fl.TripletLoss()),
        ValueError,
        "loss must have a prediction and a label, got Tri",
    ),
    "sequences": (
        lambda: fl.LinearLoss(fl.SDMLLoss()),
        ValueError,
        "loss must have a prediction and a label, got SDML",
    ),
    "a sequence": (
        lambda: fl.LinearLoss(fl.CTCLoss())(X, np.ones((4, 3)), [0, 1]),
        ValueError,
        "loss must have a loss for each example by itself, got CTCLoss",
    ),
    "another axis": (
        lambda: fl.LinearLoss(fl.SoftmaxCELoss(axis=0))(X, np.ones((2, 3)), np.zeros(2)),
        ValueError,
        r"loss must have batch_axis=0 and axis=-1 for predictions of shape \(203, 2\)",
    ),
    "one axis": (lambda: LOGISTIC(X[0], WEIGHT, Y), ValueError, r"X must have two axes, .* got shape \(3,\)"),
    "a longer type": (lambda: LOGISTIC(X.astype(np.longdouble), WEIGHT, Y), TypeError, r"X must be float32 or float64"),
    "no numbers": (lambda: LOGISTIC([["a"]], WEIGHT, Y), TypeError, "X must be an array of real numbers"),
    "columns": (lambda: LOGISTIC(X, WEIGHT[:2], Y), ValueError, r"weight must have shape \(3,\), .* got shape \(2,\)"),
    "no outputs": (lambda: LOGISTIC(X, np.ones((0, 3)), Y), ValueError, r"weight must .* got shape \(0, 3\)"),
    "labels": (lambda: LOGISTIC(X, WEIGHT, Y[:5]), ValueError, r"label must have pred's shape \(203,\)"),
    "weights": (lambda: LOGISTIC(X, WEIGHT, Y, [1, 2]), ValueError, "sample_weight must be one weight per example"),
    "bias": (lambda: LOGISTIC(X, WEIGHT, Y, bias=[1.0]), ValueError, r"bias must have shape \(\), .* got shape \(1,\)"),
    "wrt": (lambda: LOGISTIC.grad(X, WEIGHT, Y, wrt="Y"), ValueError, "wrt must be 'weight', 'bias', .* got 'Y'"),
    "no wrt": (lambda: LOGISTIC.grad(X, WEIGHT, Y, wrt=()), ValueError, r"wrt must be .* got \(\)"),
    "sparse rows": (
        lambda: LOGISTIC.grad(
            pytest.importorskip("scipy.sparse", reason="SciPy is not installed").csr_array(X), WEIGHT, Y, wrt="X"
        ),
        ValueError,
        "X is sparse, and its gradient is not; take X.toarray",
    ),
    "no chunk": (
        lambda: fl.LinearLoss(fl.L1Loss(), chunk_bytes=0),
        ValueError,
        "chunk_bytes must be above 0, got 0",
    ),
    "out": (
        lambda: LOGISTIC.value_and_grad(X, WEIGHT, Y, out=WEIGHT),
        TypeError,
        "out must be a tuple of 2, .* got ndarray",
    ),
    "outs": (
        lambda: LOGISTIC.grad(X, WEIGHT, Y, wrt=("weight",), out=WEIGHT),
        TypeError,
        "out for the derivatives must be a tuple of 1, an array or None for each of weight, got ndarray",
    ),
    "out of another kind": (
        lambda: LOGISTIC.grad(X, WEIGHT, Y, out=[1.0]),
        TypeError,
        "out for the gradient in weight must be an array of floats or None, got list",
    ),
    "out of integers": (
        lambda: LOGISTIC.grad(X, WEIGHT, Y, out=np.zeros(3, int)),
        TypeError,
        "out for the gradient in weight must be an array of floats or None, got int64",
    ),
    "out's shape": (
        lambda: LOGISTIC(X, WEIGHT, Y, out=np.zeros(3)),
        ValueError,
        r"out for the value must have shape \(\), got \(3,\)",
    ),
    "out that is read-only": (
        lambda: LOGISTIC.grad(X, WEIGHT, Y, out=np.broadcast_to(0.0, 3)),
        ValueError,
        "out for the gradient in weight is read-only",
    ),
    "out that is the vector": (
        lambda: LOGISTIC.hvp(X, WEIGHT, Y, (D := WEIGHT + 1), out=D),
        ValueError,
        "out for the product in weight shares memory with vector; give it memory of its own",
    ),
    "out of products": (
        lambda: LOGISTIC.hvp(X, WEIGHT, Y, (WEIGHT, 1.0), bias=0.0, out=(None,)),
        TypeError,
        "out for the derivatives must be a tuple of 2, an array or None for each of weight, bias, got tuple",
    ),
    "out that is an input": (
        lambda: LOGISTIC.grad(X, WEIGHT, Y, out=WEIGHT),
        ValueError,
        "out for the gradient in weight shares memory with weight; give it memory of its own",
    ),
    "no bias": (lambda: LOGISTIC.grad(X, WEIGHT, Y, wrt="bias"), ValueError, "the call has no bias; give bias=0.0"),
    "a keyword": (
        lambda: LOGISTIC(X, WEIGHT, Y, wight=1),
        TypeError,
        "unexpected keyword argument 'wight'; its inputs",
    ),
    "ids": (
        lambda: fl.LinearLoss(fl.SoftmaxCELoss())(X, np.ones((2, 3)), Y + 1),
        ValueError,
        r"label must hold .* got 2 at position",
    ),
    "no Hessian": (
        lambda: fl.LinearLoss(fl.MultiMarginLoss()).hvp(X, np.ones((2, 3)), Y, np.ones((2, 3))),
        NotImplementedError,
        "MultiMarginLoss has no Hessian-vector product",
    ),
    "no axis of classes": (
        lambda: fl.LinearLoss(fl.SoftmaxCELoss())(X, WEIGHT, Y[0]),
        ValueError,
        "weight must have two axes, a row for each output of SoftmaxCrossEntropyLoss",
    ),
    "a vector": (
        lambda: LOGISTIC.hvp(X, WEIGHT, Y, WEIGHT, bias=0.0),
        TypeError,
        "vector must be a tuple of 2, .* got ndarray",
    ),
    "a vector's shape": (
        lambda: fl.LinearLoss(fl.L2Loss()).hvp(X, np.ones((2, 3)), np.ones((N, 2)), np.ones((1, 3))),
        ValueError,
        r"vector must have weight's shape \(2, 3\), got shape \(1, 3\)",
    ),
    "a vector's axes": (
        lambda: fl.LinearLoss(fl.L2Loss()).hvp(X, WEIGHT, Y, np.ones((1, 3))),
        ValueError,
        r"vector must have as many axes as weight, 1, got shape \(1, 3\)",
    ),
    "how many outputs": (
        lambda: fl.linear_objective(fl.MultiMarginLoss(), X, Y),
        NotImplementedError,
        "MultiMarginLoss does not tell how many outputs there are; call LinearLoss",
    ),
    "a change": (lambda: setattr(LOGISTIC, "loss", None), AttributeError, "a loss is immutable"),
    "labels of another kind": (
        lambda: fl.linear_objective(fl.LogisticLoss(), X, Y),
        ValueError,
        "label must hold",
    ),
    "l2": (lambda: fl.linear_objective(fl.SigmoidBCELoss(), X, Y, l2=-1), ValueError, "l2 must be at least 0"),
    "parameters": (
        lambda: fl.linear_objective(fl.SigmoidBCELoss(), X, Y)([1.0]),
        ValueError,
        r"w must have shape \(4,\), as start\(\) has, got shape \(1,\)",
    ),
    "no curvature": (
        lambda: fl.LinearLoss(fl.CrammerSingerLoss()).hess(X, np.ones((2, 3)), Y),
        NotImplementedError,
        "CrammerSingerLoss has no Hessian-vector product",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message):
        call()


def test_it_is_a_value() -> None:
    other = pickle.loads(pickle.dumps(LOGISTIC))
    assert other == LOGISTIC != fl.LinearLoss(fl.SigmoidBCELoss())
    assert hash(other) == hash(LOGISTIC)
    assert LOGISTIC.loss != LOGISTIC
    assert repr(LOGISTIC).startswith("LinearLoss(SigmoidBinaryCrossEntropyLoss(")


def differences(f: LinearObjective, w: Any, step: float = 1e-5) -> Any:
    return [(f(w + e)[0] - f(w - e)[0]) / (2 * step) for e in step * np.eye(len(w))]


@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("fit_intercept", [False, True])
def test_an_objective(fit_intercept: bool, outputs: int | None) -> None:
    label = RNG.poisson(2, (N, *(() if outputs is None else (outputs,))))
    examples = RNG.integers(0, 3, N)
    f = fl.linear_objective(fl.PoissonNLLLoss(), X, label, examples, l2=2.0, fit_intercept=fit_intercept)
    w = f.start() + 0.1
    value, gradient = f(w)
    assert type(value) is float
    assert gradient.dtype == np.float64
    np.testing.assert_allclose(gradient, differences(f, w), rtol=1e-6, atol=1e-5)
    v = RNG.normal(size=len(w))
    step = (f(w + 1e-5 * v)[1] - f(w - 1e-5 * v)[1]) / 2e-5
    np.testing.assert_allclose(f.hvp(w, v), step, rtol=1e-6, atol=1e-5)
    np.testing.assert_allclose(f.hess(w) @ v, f.hvp(w, v), rtol=1e-10, atol=1e-9)
    weight, bias = f.split(w)
    np.testing.assert_allclose(f.predict(w, X), np.exp(X @ weight.T + bias))
    if fit_intercept:
        # no constant is better
        assert abs(f(f.start())[1][-1]) < 1e-8


@pytest.mark.parametrize("d", [9, 30])
def test_an_objective_widens_float32(d: int) -> None:
    rows, _, _ = problem(d, None, np.float32)
    label = LOSSES["logistic"][2]
    w = RNG.normal(size=d + 1)
    expected = fl.linear_objective(fl.SigmoidBCELoss(), rows.astype(np.float64), label)
    for given in (rows, np.asfortranarray(rows)):
        f = fl.linear_objective(fl.SigmoidBCELoss(), given, label)
        assert f(w)[0] == expected(w)[0]
        np.testing.assert_array_equal(f(w)[1], expected(w)[1])
        np.testing.assert_array_equal(f.hvp(w, w), expected.hvp(w, w))


def test_a_loss_without_a_best_constant() -> None:
    f = fl.linear_objective(fl.HingeLoss(), X, 2 * Y - 1)
    np.testing.assert_array_equal(f.start(), np.zeros(4))
    raw = X @ [1, 2, 3] + 4
    np.testing.assert_allclose(f.predict([1, 2, 3, 4], X), raw)


def test_inputs_of_a_loss_by_name() -> None:
    label = RNG.normal(size=N)
    low, high = fl.QuantileLoss(0.1, reduction="sum"), fl.QuantileLoss(0.9, reduction="sum")
    assert fl.LinearLoss(low)(X, WEIGHT, label, quantile=0.9) == fl.LinearLoss(high)(X, WEIGHT, label)
    found = fl.linear_objective(low, X, label, quantile=0.9)([1, 2, 3, 4])[0]
    assert found == fl.linear_objective(high, X, label)([1, 2, 3, 4])[0]


def test_several_classes() -> None:
    label = np.concatenate([np.arange(3), RNG.integers(0, 3, N - 3)])
    f = fl.linear_objective(fl.SoftmaxCELoss(reduction="mean"), X.astype(np.float32), label, l2=0.1)
    assert f.outputs == (3,)
    assert f.start().shape == (12,)
    w = f.start() + RNG.normal(size=12)
    np.testing.assert_allclose(f(w)[1], differences(f, w), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(f.predict(w, X).sum(1), 1)
    v = RNG.normal(size=12)
    step = (f(w + 1e-5 * v)[1] - f(w - 1e-5 * v)[1]) / 2e-5
    np.testing.assert_allclose(f.hvp(w, v), step, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(f.hess(w) @ v, f.hvp(w, v), rtol=1e-10, atol=1e-10)
    assert "X of shape (203, 3), l2=0.1, fit_intercept=True" in repr(f)


def two_classes(rows: Any, rng: Any) -> Any:
    return rng.random(len(rows)) < 1 / (1 + np.exp(-rows.sum(1) / 4))


def three_classes(rows: Any, rng: Any) -> Any:
    return (rows[:, :3] + rng.gumbel(size=(len(rows), 3))).argmax(1)


FITS = {"logistic": (fl.SigmoidBCELoss(), two_classes), "multinomial": (fl.SoftmaxCELoss(), three_classes)}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize("method", ["trust-ncg", "Newton-CG", "trust-exact", "L-BFGS-B"])
def test_an_optimiser_arrives(method: str, name: str, dtype: Any) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="SciPy is not installed")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(4000, 12)).astype(dtype)
    loss, make = FITS[name]
    f = fl.linear_objective(loss, rows, make(rows, rng), l2=1.0)
    first = np.linalg.norm(f(f.start())[1])
    more = {"hess": f.hess} if method == "trust-exact" else {} if method == "L-BFGS-B" else {"hessp": f.hvp}
    options: dict[str, Any] = {"gtol": 1e-6 * first}
    if method == "Newton-CG":
        options = {"xtol": 1e-6}
    elif method == "L-BFGS-B":
        # of the largest entry
        options = {"gtol": 1e-7 * first, "ftol": 0}
    found = optimize.minimize(f, f.start(), jac=True, method=method, options=options, **more)
    assert np.linalg.norm(f(found.x)[1]) < 1e-6 * first
    if method != "L-BFGS-B":
        assert found.success, found.message


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 1500])
def test_several_outputs_in_any_number(n: int, order: Any, dtype: Any) -> None:
    """Rows are read column by column in tiles of 32, outputs four at a time, columns two at a time."""
    for d, outputs in itertools.product((1, 2, 3, 33), (2, 3, 4, 5, 9)):
        X, weight, bias = problem(d, outputs, dtype, n)
        X = np.asarray(X, order=order)
        label = np.arange(n) % outputs
        for loss in (fl.SoftmaxCELoss(reduction="sum"), fl.MultiMarginLoss(reduction="sum")):
            found = fl.LinearLoss(loss).value_and_grad(X, weight, label, bias=bias, wrt=("weight", "bias"))
            for result, expected in zip((found[0], *found[1]), dense(loss, X, weight, bias, label), strict=True):
                # no term of the sums is above 1; NumPy adds them one after another
                eps = 1.2e-7 if dtype == np.float32 else 1e-14
                np.testing.assert_allclose(result, expected, 20 * eps, n * eps)


@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_that_are_left_out(dtype: Any, outputs: int | None) -> None:
    """A derivative of 0 leaves its row out, whatever the row holds; all others have NaN."""
    X, weight, _ = problem(5, outputs, dtype, 70)
    label = RNG.normal(size=(70, *weight.shape[:-1]))
    examples = np.ones(70)
    examples[[3, 40, 69]] = 0
    linear = fl.LinearLoss(fl.L2Loss(reduction="sum"))
    want = linear.grad(X[examples > 0], weight, label[examples > 0])
    X[3], X[40, 1], X[69, 4] = np.nan, np.inf, -np.inf
    assert_close(linear.grad(X, weight, label, examples), want, dtype)
    X[5, 2] = np.nan
    assert np.isnan(linear.grad(X, weight, label, examples)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_several_outputs_with_tiny_derivatives(dtype: Any) -> None:
    """Derivatives below the normal numbers count with all the digits that they have."""
    tiny = float(np.finfo(dtype).smallest_subnormal) * 12
    X = np.asarray(RNG.integers(1, 16, (40, 6)), dtype) * dtype(2.0**60)
    label = np.zeros((40, 3))
    label[::3, 1] = -tiny
    label[1::5, 2] = -1
    found = fl.LinearLoss(fl.L2Loss(reduction="sum")).grad(X, np.zeros((3, 6), dtype), label)
    expected = -label.T @ X.astype(np.float64)
    assert expected[1].all()
    np.testing.assert_allclose(found[:2], expected[:2], rtol=2e-7)
    np.testing.assert_allclose(found[2], expected[2], rtol=2e-7)
