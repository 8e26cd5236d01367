"""Accuracy against exact arithmetic: the tails, where textbook formulas return 0, and errors in the last place."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

import fastloss as fl
from fastloss import _isa
from tests import elementary
from tests.conftest import BUILT

mpmath.mp.prec = 200
DTYPES = [np.float32, np.float64]
# baseline rounds products before it adds them, but for arm64's, where FMA is in it
FUSED = _isa.name != "baseline" or platform.machine() in ("aarch64", "arm64")


def ulps(got: Any, want: list[Any], dtype: Any) -> float:
    """The largest error in units in the last place of the exact results."""
    worst = 0.0
    for a, exact in zip(np.asarray(got).ravel().tolist(), want, strict=True):
        unit = float(np.spacing(dtype(min(abs(float(exact)), float(np.finfo(dtype).max)))))
        if np.isinf(a) and abs(exact) > float(np.finfo(dtype).max):
            continue
        worst = max(worst, float(abs(mpmath.mpf(a) - exact) / unit))
    return worst


def logits(dtype: Any) -> Any:
    """From tail to tail, subnormal results included."""
    edge = 103 if dtype == np.float32 else 744
    rng = np.random.default_rng(3)
    return np.unique(
        np.concatenate(
            [
                np.linspace(-edge, edge, 501),
                rng.normal(size=500),
                rng.normal(scale=1e-3, size=100),
                [0.0, 1e-30, -1e-30],
            ]
        ).astype(dtype)
    )


@pytest.mark.parametrize("name", elementary.FUNCTIONS)
@pytest.mark.parametrize("isa", [isa for isa in BUILT if isa != "baseline"])
def test_elementary_functions(name: str, isa: str) -> None:
    """A sample of what ``python -m tests.elementary`` measures; without FMA the errors are larger."""
    built = pytest.importorskip(f"fastloss._elementary_{isa}", reason="a wheel holds nothing that measures alone")
    within = elementary.FUNCTIONS[name].within
    assert elementary.worst(name, elementary.every_float(4001), np.float64, built)[0] <= within
    if np.finfo(np.longdouble).nmant > 60:
        assert elementary.worst(name, elementary.random_doubles(1), np.longdouble, built)[0] <= within
    special = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 5e-324, 1e-45, 1e308, -1e308])
    assert elementary.worst(name, [special], np.longdouble, built)[0] <= within


def softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x))


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("label", [0, 1])
def test_binary_cross_entropy(dtype: Any, label: int) -> None:
    x = logits(dtype)
    exact = [mpmath.mpf(float(a)) for a in x]
    sign = -1 if label else 1
    for loss in (fl.SigmoidBCELoss(), fl.LogisticLoss(label_format="binary"), fl.LogisticLoss()):
        y = np.full(x.shape, label if "signed" not in repr(loss) else 2 * label - 1)
        value, gradient, hessian = loss.value_grad_and_hess(x, y)
        assert ulps(value, [softplus(sign * a) for a in exact], dtype) <= 1.5
        assert ulps(gradient, [sign * sigmoid(sign * a) for a in exact], dtype) <= 2
        assert ulps(hessian, [sigmoid(a) * sigmoid(-a) for a in exact], dtype) <= 3
        assert (value > 0).all()
        assert (gradient != 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_soft_labels(dtype: Any) -> None:
    x = logits(dtype)
    y = np.random.default_rng(4).random(x.size).astype(dtype)
    value = fl.SigmoidBCELoss()(x, y)
    pairs = [(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(x, y, strict=True)]
    assert ulps(value, [b * softplus(-a) + (1 - b) * softplus(a) for a, b in pairs], dtype) < 3


@pytest.mark.parametrize("dtype", DTYPES)
def test_probabilities(dtype: Any) -> None:
    rng = np.random.default_rng(5)
    p = np.concatenate([rng.random(500), 10.0 ** -rng.uniform(0, 12, 300), 1 - 10.0 ** -rng.uniform(0, 7, 300)]).astype(
        dtype
    )
    eps = mpmath.mpf(float(dtype(1e-12)))
    exact = [mpmath.mpf(float(a)) for a in p]
    loss = fl.SigmoidBCELoss(from_sigmoid=True)
    assert ulps(loss(p, np.ones(p.shape)), [-mpmath.log(a + eps) for a in exact], dtype) < 2
    assert ulps(loss(p, np.zeros(p.shape)), [-mpmath.log(1 - a + eps) for a in exact], dtype) < 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("pos_weight", [None, 0.0, 1e-3, 1.0, 3.0, 1e6])
def test_probabilities_cost_nothing_or_more(pos_weight: float | None, dtype: Any) -> None:
    """For labels from 0 to 1 the value is 0 where epsilon takes the formula below; otherwise it is the formula's."""
    near = np.array([0, 1e-13, 1e-12, 1e-9, 1e-7, 1e-3, 0.25, 0.5], dtype)
    x, y = (a.ravel() for a in np.meshgrid(np.concatenate([near, 1 - near]), np.concatenate([near, 1 - near])))
    value = fl.SigmoidBCELoss(from_sigmoid=True)(x, y, None, pos_weight)
    assert (value >= 0).all()
    eps, q = mpmath.mpf(float(dtype(1e-12))), mpmath.mpf(float(dtype(1 if pos_weight is None else pos_weight)))
    for a, b, got in zip(x.tolist(), y.tolist(), value.tolist(), strict=True):
        exact = -q * b * mpmath.log(a + eps) - (1 - mpmath.mpf(b)) * mpmath.log(1 - a + eps)
        assert abs(got - max(exact, 0)) <= 1e-12 + 8 * float(np.finfo(dtype).eps) * abs(exact)
    # labels from elsewhere, and weights below 0, have the formula's value with its sign
    for label, weight in ((1.5, 1.0), (-0.5, 1.0), (0.5, -2.0)):
        got = fl.SigmoidBCELoss(from_sigmoid=True)(np.array([0.25, 0.75], dtype), [label] * 2, None, weight)
        exact = [-weight * label * mpmath.log(a + eps) - (1 - label) * mpmath.log(1 - a + eps) for a in (0.25, 0.75)]
        np.testing.assert_allclose(got, [float(a) for a in exact], rtol=1e-5)
        assert (got < 0).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponential_and_logarithm(dtype: Any) -> None:
    x = logits(dtype)
    top = 88 if dtype == np.float32 else 709
    x = x[x < top]
    rates = fl.PoissonNLLLoss().grad_and_hess(x, np.zeros(x.shape))[1]
    assert ulps(rates, [mpmath.exp(float(a)) for a in x], dtype) <= 1
    rng = np.random.default_rng(6)
    y = np.concatenate(
        [10.0 ** rng.uniform(-35, 35, 500), rng.uniform(0.4, 2.5, 500), 1 + rng.normal(scale=1e-3, size=500)]
    )
    y = y.astype(dtype)
    logs = -fl.PoissonNLLLoss(from_logits=False).grad(y, np.ones(y.shape), None, 0.0, wrt="label")
    assert ulps(logs, [mpmath.log(mpmath.mpf(float(a))) for a in y], dtype) < 1
    subnormal = np.finfo(dtype).smallest_subnormal
    log = -fl.PoissonNLLLoss(from_logits=False).grad([subnormal], [1.0], None, 0.0, wrt="label")[0]
    assert log == pytest.approx(float(mpmath.log(mpmath.mpf(float(subnormal)))), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rates_near_the_best(dtype: Any) -> None:
    """The gradient, 1 - label/rate, where that cancels; and far from there."""
    rng = np.random.default_rng(8)
    y = np.concatenate([rng.integers(1, 5000, 500), np.zeros(100)]).astype(dtype)
    x = (y * (1 + rng.normal(size=600) * 10.0 ** rng.uniform(-6, 1, 600))).astype(dtype)
    x = np.where(x > 0, x, y + 1)
    x[:100] = np.nextafter(y[:100], dtype(9999))
    got = fl.PoissonNLLLoss(from_logits=False).grad(x, y, None, 0.0)
    assert ulps(got, [1 - mpmath.mpf(float(b)) / mpmath.mpf(float(a)) for a, b in zip(x, y, strict=True)], dtype) < 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_predictions(dtype: Any) -> None:
    """The limits, where there are such: no inf - inf, no 0 * inf."""
    inf = np.array([np.inf], dtype)
    for count in (0, 3):
        for full in (True, False):
            value, gradient = fl.PoissonNLLLoss(compute_full=full).value_and_grad(inf, [count])
            assert (value[0], gradient[0]) == (np.inf, np.inf)
            assert fl.PoissonNLLLoss(from_logits=False, compute_full=full).grad(inf, [count]) == 1
    bce = fl.SigmoidBCELoss()
    value, gradients = bce.value_and_grad(-inf, [0], None, [2.0], wrt=("pred", "label", "pos_weight"))
    assert (value[0], *[g[0] for g in gradients]) == (0, 0, np.inf, 0)
    value, gradients = bce.value_and_grad(-inf, [1], None, [2.0], wrt=("pred", "pos_weight"))
    assert (value[0], *[g[0] for g in gradients]) == (np.inf, -2, np.inf)


def log_ways(z: Any, n: Any) -> Any:
    """log(Gamma(z + n)/(Gamma(z) n!))."""
    return mpmath.loggamma(z + n) - mpmath.loggamma(z) - mpmath.loggamma(n + 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_coefficients_of_binomials(dtype: Any) -> None:
    """Log-likelihoods of counts of every size, in units in the last place of the larger of both terms, or of 1."""
    rng = np.random.default_rng(10)
    count = np.concatenate([np.arange(20), np.floor(10.0 ** rng.uniform(0, 6, 300))]).astype(dtype)
    trials = count + np.floor(10.0 ** rng.uniform(0, 10, count.size)).astype(dtype)
    x = rng.normal(scale=3, size=count.size).astype(dtype)
    rows = [[mpmath.mpf(float(a)) for a in row] for row in zip(x, count, trials, strict=True)]

    def worst(loss: fl.Loss, terms: list[tuple[Any, Any]], *others: Any) -> float:
        found = loss(x, count, None, *others)
        units = [float(np.spacing(dtype(max(1, a, abs(b))))) for a, b in terms]
        return max(float(abs(v - (a - b)) / u) for v, (a, b), u in zip(found.tolist(), terms, units, strict=True))

    terms = [(b * softplus(-a) + (n - b) * softplus(a), log_ways(n - b + 1, b)) for a, b, n in rows]
    assert worst(fl.BinomialLoss(compute_full=True), terms, trials) <= 3
    for theta in map(mpmath.mpf, (1e-3, 0.37, 1.0, 2.5, 137.0, 1e6, 1e10)):
        shifted = [(a - mpmath.log(theta), b) for a, b, _ in rows]
        terms = [(b * softplus(-t) + theta * softplus(t), log_ways(theta, b)) for t, b in shifted]
        assert worst(fl.NegativeBinomialLoss(float(theta), compute_full=True), terms) <= (8 if theta < 1 else 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_coefficient_of_1_costs_nothing(dtype: Any) -> None:
    """Not even a rounding error, beside which a confident prediction's loss would be lost."""
    x, y = np.linspace(-60, 60, 241).astype(dtype), np.arange(241, dtype=dtype)
    for label in (0 * y, y):
        full, plain = (fl.BinomialLoss(compute_full=full)(x, label, None, y) for full in (True, False))
        np.testing.assert_array_equal(full, plain)
    for theta, label in ((1, y), (0.3, 0 * y), (1e9, 0 * y)):
        full, plain = (fl.NegativeBinomialLoss(theta, compute_full=full)(x, label) for full in (True, False))
        np.testing.assert_array_equal(full, plain)


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_of_any_size(dtype: Any) -> None:
    """Infinite counts lose and have gradients as without a coefficient; what is no count has neither."""
    most, inf = float(np.finfo(dtype).max), np.inf
    x, y = np.array([0.5] * 6, dtype), np.array([0, 3, most, inf, -1, np.nan], dtype)
    for theta in (1e-300, 2.5, 1e300):
        full, plain = (fl.NegativeBinomialLoss(theta, compute_full=f).value_and_grad(x, y) for f in (True, False))
        assert np.isnan(full)[:, 4:].all()
        assert np.isfinite(full[0][:2]).all()
        assert full[0][3] == plain[0][3] == inf
        np.testing.assert_array_equal(full[1][:4], plain[1][:4])
    y, trials = np.array([0, 3, 3, 3, -1, 4], dtype), np.array([inf, inf, most, 3, 3, 3], dtype)
    full, plain = (fl.BinomialLoss(compute_full=f).value_and_grad(x, y, None, trials) for f in (True, False))
    assert np.isnan(full)[:, 4:].all()
    np.testing.assert_array_equal(full[0][:3], plain[0][:3])
    np.testing.assert_array_equal(full[1][:4], plain[1][:4])


@pytest.mark.parametrize("dtype", DTYPES)
def test_polynomial_losses(dtype: Any) -> None:
    rng = np.random.default_rng(7)
    x, y = (rng.normal(scale=2, size=(2, 1000)) * 10.0 ** rng.integers(-3, 3, (2, 1000))).astype(dtype)
    pairs = [(mpmath.mpf(float(a)), mpmath.mpf(float(b))) for a, b in zip(x, y, strict=True)]
    assert ulps(fl.L1Loss()(x, y), [abs(a - b) for a, b in pairs], dtype) <= 0.5
    assert ulps(fl.L2Loss()(x, y), [(a - b) ** 2 / 2 for a, b in pairs], dtype) < 2
    assert ulps(fl.L2Loss().grad(x, y), [a - b for a, b in pairs], dtype) <= 0.5
    huber = [abs(a - b) - mpmath.mpf(0.75) if abs(a - b) > 1.5 else (a - b) ** 2 / 3 for a, b in pairs]
    assert ulps(fl.HuberLoss(rho=1.5)(x, y), huber, dtype) < (2.5 if FUSED else 3)
    hinge = [max(0, 1 - a * b) for a, b in pairs]
    got, squares = fl.HingeLoss()(x, y), fl.SquaredHingeLoss()(x, y)
    if FUSED:
        assert ulps(got, hinge, dtype) <= 0.5
        assert ulps(squares, [a**2 for a in hinge], dtype) < 2
    else:
        # the product's rounding is the difference's error
        for (a, b), c, d, z in zip(pairs, got, squares, hinge, strict=True):
            bound = np.finfo(dtype).eps / 2 * (abs(a * b) + z)
            assert abs(mpmath.mpf(float(c)) - z) <= bound * (1 + 1e-6)
            assert abs(mpmath.mpf(float(d)) - z**2) <= 2 * z * bound + 2 * np.finfo(dtype).eps * z**2 + bound**2 * 2


def softmax_exactly(row: Any, label: int) -> tuple[Any, list[Any]]:
    exact = [mpmath.mpf(float(a)) for a in row]
    total = sum(mpmath.exp(a) for a in exact)
    others = sum(mpmath.exp(a) for j, a in enumerate(exact) if j != label)
    gradient = [mpmath.exp(a) / total if j != label else -others / total for j, a in enumerate(exact)]
    return mpmath.log1p(others / mpmath.exp(exact[label])), gradient


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("lead", [0, 1, 20, 46.05, 80])
def test_confident_softmax(dtype: Any, dense: bool, lead: float) -> None:
    rng = np.random.default_rng(8)
    for classes in (2, 7, 100):
        row = rng.normal(size=classes).astype(dtype)
        row[1] = dtype(lead) + rng.random()
        label = np.eye(classes)[[1]] if dense else [1]
        loss = fl.SoftmaxCELoss(sparse_label=not dense)
        value, gradient = loss.value_and_grad(row[None], label)
        want, want_gradient = softmax_exactly(row, 1)
        # 1e-20 keeps its digits, in float32 too
        assert float(abs(value[0] - want) / want) < 8 * np.finfo(dtype).eps
        assert ulps(gradient, want_gradient, dtype) < 8
        hessian = loss.grad_and_hess(row[None], label)[1]
        total = sum(mpmath.exp(mpmath.mpf(float(a))) for a in row)
        parts = [mpmath.exp(mpmath.mpf(float(a))) / total for a in row]
        want_hessian = [a * sum(b for k, b in enumerate(parts) if k != j) for j, a in enumerate(parts)]
        assert ulps(hessian, want_hessian, dtype) < 12


def test_known_values() -> None:
    """The tutorial's and upstream's numbers, digit by digit."""
    np.testing.assert_allclose(fl.SoftmaxCELoss()([[1.0, 10], [8, 2]], [0, 1]), [9.0001234, 6.0024757], rtol=1e-7)
    np.testing.assert_array_equal(fl.L2Loss()(np.ones(2), np.full(2, 2)), [0.5, 0.5])
    np.testing.assert_array_equal(fl.L2Loss()(np.ones(2), np.full(2, 2), [1, 2]), [0.5, 1])
    x = np.array([-5, -1, 0, 1, 4.9])
    np.testing.assert_allclose(
        fl.LogisticLoss()(x, np.ones(5)), [5.0067, 1.3133, 0.69315, 0.31326, 0.0074191], rtol=5e-5
    )
    np.testing.assert_allclose(fl.HingeLoss()(x, np.ones(5)), [6, 2, 1, 0, 0])
    np.testing.assert_allclose(fl.HuberLoss()(x, np.zeros(5)), [4.5, 0.5, 0, 0.5, 4.4])
    p, y, s = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 5, 7]), np.array([0.5, 1, 0.5, 1])
    for loss, weight, want in [
        (fl.L1Loss(), None, 6),
        (fl.L1Loss(weight=0.5), None, 3),
        (fl.L1Loss(), s, 5),
        (fl.L2Loss(), None, 7),
        (fl.L2Loss(weight=0.25), None, 1.75),
        (fl.L2Loss(), s, 6),
        (fl.HuberLoss(), None, 4.5),
        (fl.HuberLoss(weight=0.25), None, 1.125),
        (fl.HuberLoss(), s, 3.75),
        (fl.HingeLoss(margin=10), None, 13),
        (fl.HingeLoss(margin=8, weight=0.25), None, 2.25),
        (fl.HingeLoss(margin=7), s, 4),
        (fl.SquaredHingeLoss(margin=10), None, 97),
        (fl.SquaredHingeLoss(margin=8, weight=0.25), None, 13.25),
        (fl.SquaredHingeLoss(margin=7), s, 19),
    ]:
        assert loss(p, y, weight).sum() == pytest.approx(want)


def test_large_sums() -> None:
    values = np.random.default_rng(9).random(5_000_000).astype(np.float32)
    exact = values.astype(np.float64).sum()
    zeros = np.zeros_like(values)
    assert fl.L1Loss(reduction="sum")(values, zeros) == pytest.approx(exact, rel=1e-7)
    assert fl.L1Loss(reduction="sum")(np.full_like(values, 0.1), zeros) == pytest.approx(
        5e6 * float(np.float32(0.1)), rel=1e-7
    )


@pytest.mark.parametrize("name", ["L2Loss", "SquaredHingeLoss"])
def test_the_sum_of_a_hundred_million(name: str, rng: np.random.Generator) -> None:
    pred = rng.random((10_000, 10_000), np.float32)
    label = np.broadcast_to(np.float32(1), pred.shape)
    rest = (np.longdouble(1) - row for row in pred)
    losses: dict[str, Callable[[Any], Any]] = {
        "L2Loss": lambda z: z * z / 2,
        "SquaredHingeLoss": np.square,
    }
    want = sum(losses[name](z).sum() for z in rest)
    got = getattr(fl, name)(reduction="sum")(pred, label)
    assert abs(got / want - 1) < 1e-7
