"""The ends of the range: numbers next to 0 and to the largest, in inputs and in the losses' arguments."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import pytest

import fastloss as fl

DTYPES = [np.float32, np.float64]
SINGLE = np.finfo(np.float32)


@pytest.mark.parametrize(
    ("a", "b"), [(1e-315, 1e308), (2e-312, 1e307), (1e-200, 1e250), (1e-160, 1e160), (1e200, 1e200)]
)
def test_angles_of_tiny_and_huge_vectors(a: float, b: float) -> None:
    x, y = np.array([[3 * a, 4 * a], [a, 0], [a, 0], [a, a]]), np.array([[0.3 * b, 0.4 * b], [0, b], [-b, 0], [b, 0]])
    value, (gradient, other) = fl.CosineEmbeddingLoss().value_and_grad(x, y, [1, 1, 1, 1], wrt=("input1", "input2"))
    # the components of the tiny ones have few digits themselves
    np.testing.assert_allclose(value, [0, 1, 2, 1 - np.sqrt(0.5)], rtol=1e-7, atol=1e-7)
    assert not np.isnan(gradient).any()
    assert (abs(gradient[[0, 2]]) <= 1e-15 / a).all()
    np.testing.assert_allclose(other[3, 1] * b, -np.sqrt(0.5), rtol=1e-7)
    hessian = fl.CosineEmbeddingLoss().grad_and_hess(x, y, [1, 1, 1, 1])[1]
    assert not np.isnan(hessian).any()


def test_vectors_that_are_subnormal() -> None:
    """Of norms whose product is below 1e-12 the loss is Gluon's, whatever their scale."""
    smallest = 5e-324
    loss = fl.CosineEmbeddingLoss()
    np.testing.assert_array_equal(loss([[smallest, 0], [smallest, 0]], [[1.0, 0], [smallest, 0]], [1, 1]), [1, 1])
    assert loss([[smallest, 0]], [[1.7e308, 0]], [1]) == pytest.approx(1 - smallest * 1.7e308 * 1e12)
    assert loss([[1.7e308, 1.7e308]], [[-1.7e308, 1.7e308]], [1]) == 1


def test_pairs_that_are_far() -> None:
    far, tiny = [[1e200, 0.0], [0.0, 0.0]], np.log1p(1e-12)
    for smoothing, first in ((0.0, far), (1.0, far[::-1])):
        value, gradient = fl.SDMLLoss(smoothing).value_and_grad(first, far)
        np.testing.assert_allclose(value, [tiny, tiny], rtol=1e-3)
        assert not gradient.any()
    np.testing.assert_array_equal(fl.SDMLLoss()(far, far), [np.inf, np.inf])
    value, gradient = fl.SDMLLoss().value_and_grad([[1.0, 2.0]], [[3.0, 5.0]])
    assert value == pytest.approx(-np.log1p(1e-12), rel=1e-3) or value == pytest.approx(tiny, rel=1e-3)
    assert not gradient.any()


@pytest.mark.parametrize("weight", [1e300, -1e300, 1e39, 1e31, 1e-31, 1e-45, 1e-60])
@pytest.mark.parametrize("how", ["weight", "head_grad"])
@pytest.mark.parametrize("reduction", ["none", "example", "sum", "mean"])
def test_factors_that_float32_does_not_hold(reduction: Any, how: str, weight: float) -> None:
    """0 stays 0, and what the product is in the range of is right."""
    x = np.array([0, 1e-20, -1e-5, 1, 1e10, 1e30], np.float32)
    loss = fl.L2Loss(weight if how == "weight" else 1, reduction=reduction)
    options = (
        {} if how == "weight" else {"head_grad": np.full(6, weight) if reduction in ("none", "example") else weight}
    )
    if how == "head_grad" and reduction in ("none", "example"):
        # an array is read in pred's precision
        return
    value, gradient = loss.value_and_grad(x, np.zeros(6), **options)
    count = 6 if reduction == "mean" else 1
    wide = x.astype(float)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(gradient, (weight / count * wide).astype(np.float32), rtol=1e-6, atol=1e-45)
        if how == "weight":
            terms = weight / count * wide * wide / 2
            total = terms if reduction in ("none", "example") else terms.sum()
            if reduction in ("none", "example"):
                total = total.astype(np.float32)
            np.testing.assert_allclose(value, total, rtol=1e-6, atol=1e-45)
    out = np.zeros(6, np.float32)
    assert loss.grad(x, np.zeros(6), **options, out=out) is out
    np.testing.assert_array_equal(out, gradient)


@pytest.mark.parametrize("rho", [1e39, 10**39, 1e45, 1e300, 3e38, 1e31, 1e-31, 1e-40, 1e-300])
def test_huber_in_float32(rho: float) -> None:
    x = np.array([3e38, 1e20, 1, 1e-20, 1e-45, 0], np.float32)
    value, gradient, hessian = fl.HuberLoss(rho=rho).value_grad_and_hess(x, np.zeros(6))
    z = x.astype(float)
    near = z <= float(rho)
    with np.errstate(over="ignore"):
        want = (np.where(near, z * (z / rho) / 2, z - rho / 2), np.minimum(z / rho, 1), np.where(near, 1 / rho, 0))
        for got, exact in zip((value, gradient, hessian), want, strict=True):
            np.testing.assert_allclose(got, exact.astype(np.float32), rtol=1e-6, atol=1e-45)


def test_other_arguments_in_float32() -> None:
    value = fl.HingeLoss(margin=1e39)(np.float32([3e38, 0]), np.float32([3.3, 1]))
    np.testing.assert_allclose(value, [1e39 - float(np.float32(3e38)) * float(np.float32(3.3)), np.inf], rtol=1e-6)
    loss = fl.SoftmaxCELoss(class_weight=[1e-60, 1e-60], reduction="weighted_mean")
    x = np.float32([[0, 1], [2, 0]])
    value, gradient = loss.value_and_grad(x, [0, 1])
    want = fl.SoftmaxCELoss(reduction="mean").value_and_grad(x, [0, 1])
    np.testing.assert_allclose(value, want[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, want[1], rtol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit", [1e-310, 5e-324, 1e-300, 1e300, 1e308, 1e-42, 1e-38, 1e37])
def test_weighted_means_of_tiny_and_huge_weights(unit: float, dtype: Any) -> None:
    x, w = np.array([1.0, 2.0], dtype), np.full(2, unit)
    if dtype is np.float32 and not float(SINGLE.smallest_subnormal) < unit < float(SINGLE.max):
        # read in pred's precision they are 0 or infinite; their sum is not
        return
    w = w.astype(dtype)
    loss = fl.L2Loss(reduction="weighted_mean")
    value, (gradient, weights) = loss.value_and_grad(x, np.zeros(2), w, wrt=("pred", "sample_weight"))
    np.testing.assert_allclose(value, 1.25, rtol=1e-6)
    np.testing.assert_allclose(gradient, [0.5, 1], rtol=1e-6)
    with np.errstate(over="ignore"):
        want = np.array([-0.375, 0.375]) / w.astype(float)
        np.testing.assert_allclose(weights, want.astype(dtype), rtol=1e-6)
    np.testing.assert_array_equal(loss(x, np.zeros(2), w), value)


@pytest.mark.parametrize("logit", [1e15, 1e16, 1e20, 1e100, 1e300, 1e307, 1e308])
def test_sequences_of_huge_logits(logit: float) -> None:
    """One alignment is all there is: the likeliest, of which the gradient takes each frame's class."""
    value, gradient = fl.CTCLoss().value_and_grad([[[0, logit, -logit]]], [[0]])
    np.testing.assert_allclose(value, [logit], rtol=1e-15)
    np.testing.assert_array_equal(gradient, [[[-1, 1, 0]]])
    # of five frames, the second and the fourth cost least
    x = np.zeros((1, 5, 3))
    x[0, :, 2] = logit / 16 * np.array([1, 0, 2, 0, 3])
    x[0, [1, 3], 0] = logit / 16
    value, gradient = fl.CTCLoss().value_and_grad(x, [[0, 0]])
    np.testing.assert_array_equal(value, [0])
    assert abs(gradient).max() <= 1 + 1e-15
    x = np.random.default_rng(1).normal(size=(20, 6, 4)) * (logit / 100)
    value, gradient = fl.CTCLoss().value_and_grad(x, np.full((20, 2), 1))
    assert np.isfinite(value).all()
    assert abs(gradient).max() <= 1 + 1e-15
    np.testing.assert_allclose(gradient.sum(2), 0, atol=1e-15)
    # every frame's alignment is one class
    assert np.isin(abs(gradient).sum(2).round(6), [0, 2]).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rates_of_about_0(dtype: Any) -> None:
    info = np.finfo(dtype)
    rates = np.array(
        [info.smallest_subnormal, info.smallest_subnormal * 1000, info.tiny / 100, info.tiny, 1e-20], dtype
    )
    loss = fl.PoissonNLLLoss(from_logits=False)
    for count in (0, 1e-30, 1e-3, 1, 1e10):
        counts = np.full(rates.shape, count, dtype)
        value, gradient, hessian = loss.value_grad_and_hess(rates, counts, None, 0.0)
        for x, got in zip(rates.tolist(), zip(value, gradient, hessian, strict=True), strict=True):
            y, x_ = mpmath.mpf(float(counts[0])), mpmath.mpf(x)
            for a, exact in zip(got, (x_ - y * mpmath.log(x_), 1 - y / x_, y / x_ / x_), strict=True):
                if abs(exact) > float(info.max):
                    assert np.isinf(a)
                else:
                    assert a == pytest.approx(
                        float(exact), rel=10 * float(info.eps), abs=2 * float(info.smallest_subnormal)
                    )
    example = loss.grad(np.float32([1e-40]), np.float32([1e-3]), None, 0.0)
    assert example == pytest.approx(-1e37, rel=1e-4)


@pytest.mark.parametrize("weight", [1e-310, 1e-200, 1e308])
def test_class_weights_at_the_ends_of_the_range(weight: float) -> None:
    """A weighted mean divides by them: what they have in common is no matter."""
    pred = np.array([[1.0, 0], [0, 1]])
    want = fl.SoftmaxCELoss(reduction="weighted_mean").value_and_grad(pred, [0, 0])
    got = fl.SoftmaxCELoss(class_weight=[weight] * 2, reduction="weighted_mean").value_and_grad(pred, [0, 0])
    np.testing.assert_allclose(got[0], want[0], rtol=1e-12)
    np.testing.assert_allclose(got[1], want[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("pred", "weight", "dtype"),
    [(1e10, 1e20, np.float32), (1e-10, 1e-25, np.float32), (1e-10, 1e-29, np.float32), (1e30, 1e269, np.float64)],
)
def test_weights_times_losses_stay_in_the_range(pred: float, weight: float, dtype: Any) -> None:
    loss = fl.L2Loss(reduction="weighted_mean")
    x = np.array([pred, 2 * pred], dtype)
    value, (gradient, to_weight) = loss.value_and_grad(x, [0, 0], [weight] * 2, wrt=("pred", "sample_weight"))
    plain = loss.value_and_grad(x.astype(np.float64), [0, 0], [1, 1], wrt=("pred", "sample_weight"))
    np.testing.assert_allclose(value, plain[0], rtol=1e-6)
    np.testing.assert_allclose(gradient, plain[1][0], rtol=1e-6)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(to_weight, (plain[1][1] / weight).astype(dtype), rtol=1e-5)


def test_a_call_in_float64_reads_each_argument_once() -> None:
    class Once:
        def __init__(self, a: Any) -> None:
            self.left = [np.asarray(a, float)]

        def __array__(self, *args: Any, **options: Any) -> Any:
            return self.left.pop()

    value, gradient, hessian = fl.L2Loss(weight=1e35).value_grad_and_hess(np.float32([1, 2]), Once([0, 0]))
    np.testing.assert_allclose(value, [5e34, 2e35], rtol=1e-6)
    np.testing.assert_allclose(gradient, [1e35, 2e35], rtol=1e-6)
    np.testing.assert_allclose(hessian, [1e35, 1e35], rtol=1e-6)
    with np.errstate(all="raise"):
        assert fl.L2Loss(reduction="weighted_mean")([1.0, 1, 1], [0, 0, 0], [1e308, 1e308, 1e-10]) == pytest.approx(0.5)


def test_a_head_of_0_hides_no_nan() -> None:
    """Only a weight of 0 leaves out. A head_grad may lack axes of size 1, and one example have a list of weights."""
    assert np.isnan(fl.L2Loss().grad([np.nan, 2.0], [0, 0], [1.0, 1], head_grad=[0.0, 1])).tolist() == [True, False]
    np.testing.assert_array_equal(fl.L2Loss().grad([1.0, 2], [0, 0], head_grad=[[1.0], [2.0]]), [1, 4])
    assert fl.L2Loss()(1.0, 2.0, [2.0]) == 1
    for result in fl.SigmoidBCELoss(reduction="none").value_grad_and_hess([2.0], [1e308], None, [2.5]):
        assert np.isnan(result).all()
