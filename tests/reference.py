"""Every loss in naive NumPy float64, with its derivatives, and data that reach each of its branches.

The tests are parametrised over LOSSES. Nothing here is stable or fast; it is the formula as written in the source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

import fastloss as fl
from tests.cases import Case

Array = NDArray[Any]
Formula = Callable[..., Array]

REDUCTIONS = ("example", "none", "sum", "mean", "weighted_mean")


@dataclass(frozen=True)
class Reference(Case):
    """A loss and its mathematics. Formulas take pred, label and, where there is one, the third input."""

    value: Formula
    gradient: Formula
    hessian: Formula
    label_gradient: Formula | None
    data: Callable[..., tuple[Array, ...]]
    source: str
    third: str | None = None
    third_gradient: Formula | None = None
    third_hessian: Formula | None = None
    row: bool = False
    classes: int = 7
    class_weight: Formula | None = None
    magnitude: Reference | None = None  # the same without the signs of its parameters

    @property
    def shape(self) -> tuple[int, ...]:
        """What an example has besides an element."""
        return (self.classes,) if self.row else ()


def draw(
    reference: Reference, rng: np.random.Generator, shape: tuple[int, ...], dtype: DTypeLike = np.float64
) -> tuple[NDArray[Any], ...]:
    """Inputs whose values the dtype holds exactly; the losses over classes get a class axis behind the shape."""
    inputs = reference.data(rng, (*shape, *reference.shape))
    return tuple(np.asarray(a, dtype if np.asarray(a).dtype.kind == "f" else None) for a in inputs)


def row_shape(reference: Reference, shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape for as many numbers where each element has a row of them: the longest axis is shorter."""
    n = max(shape)
    k = shape.index(n)
    return (*shape[:k], -(-n // reference.classes), *shape[k + 1 :]) if reference.row and n > 100 else shape


def call_args(reference: Reference, inputs: tuple[NDArray[Any], ...], sample_weight: Any = None) -> tuple[Any, ...]:
    """Inputs in the order of the call, where the sample weights stand behind those that it must have."""
    required = reference.build().required
    return (*inputs[:required], sample_weight, *inputs[required:])


def regression_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Errors on both sides of the kinks at 1 and at 0.5, and some of exactly 0."""
    pred = rng.normal(scale=2, size=shape)
    label = rng.normal(scale=2, size=shape)
    return pred, np.where(rng.random(shape) < 0.1, pred, label)


def signed_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    pred = rng.normal(scale=2, size=shape)
    return pred, np.where(rng.random(shape) < 0.2, rng.uniform(-1, 1, shape), rng.choice([-1.0, 1.0], shape))


def binary_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    pred = rng.normal(scale=3, size=shape)
    return pred, np.where(rng.random(shape) < 0.2, rng.random(shape), rng.choice([0.0, 1.0], shape))


def probability_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(0.02, 0.98, shape), binary_data(rng, shape)[1]


def weighted(data: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    return lambda rng, shape: (*data(rng, shape), rng.uniform(0.5, 3, shape[-1:] if shape else ()))


def count_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Counts of 0, of 1 and above, for Stirling's term."""
    return rng.normal(size=shape), rng.poisson(2.0, shape).astype(float)


def rate_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(0.1, 5, shape), rng.poisson(2.0, shape).astype(float)


def rate_data_epsilon(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return (*rate_data(rng, shape), np.array(0.25))


def distribution_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    label = rng.random(shape)
    return np.log(rng.uniform(0.01, 1, shape)), np.where(rng.random(shape) < 0.1, 0.0, label)


def hard_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.normal(scale=3, size=shape), rng.choice([0.0, 1.0], shape)


def claim_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.normal(size=shape), np.where(rng.random(shape) < 0.3, 0, rng.gamma(2.0, 1.0, shape))


def positive_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.normal(size=shape), rng.gamma(2.0, 1.0, shape)


def trials_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    trials = rng.integers(1, 9, shape[-1:] if shape else ()).astype(float)
    return rng.normal(scale=2, size=shape), rng.binomial(trials.astype(int), 0.4, shape).astype(float), trials


def distance_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.gamma(2.0, 0.5, shape), signed_data(rng, shape)[1]


def uncertain_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return (*regression_data(rng, shape), rng.normal(size=shape[-1:] if shape else ()))


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def special(name: str, function: Callable[[float], float]) -> Formula:
    """A function that NumPy lacks; numbers of mpmath have it as a method."""

    def result(z: Array) -> Array:
        found = np.frompyfunc(lambda v: getattr(v, name)() if hasattr(v, name) else function(v), 1, 1)(z)
        return np.asarray(found, None if np.asarray(z).dtype == object else np.float64)

    return result


complementary_error = special("erfc", math.erfc)


def log_gamma(z: Array) -> Array:
    """log Gamma of numbers above 0; of others no formula has a value."""
    return special("loggamma", math.lgamma)(np.clip(z, 1e-30, 1e300))


def digamma(z: Array) -> Array:
    """The derivative of log_gamma, by its recurrence up to beyond 40, and by its series there."""
    near = np.clip(z, 1e-30, 1e300)
    far = near + 40
    series = np.log(far) - 1 / (2 * far) - 1 / (12 * far**2) + 1 / (120 * far**4)
    return series - sum(1 / (near + k) for k in range(40))


def stirling(y: Array) -> Array:
    c = np.maximum(y, 1)
    return np.where(y > 1, c * np.log(c) - c + 0.5 * np.log(2 * np.pi * c), 0)


def stirling_gradient(y: Array) -> Array:
    c = np.maximum(y, 1)
    return np.where(y > 1, np.log(c) + 0.5 / c, 0)


def residual(value: Formula, slope: Formula, curvature: Formula) -> dict[str, Any]:
    """A loss of z = x - y, and its data."""
    return {
        "value": lambda x, y: value(x - y),
        "gradient": lambda x, y: slope(x - y),
        "hessian": lambda x, y: curvature(x - y),
        "label_gradient": lambda x, y: -slope(x - y),
        "data": regression_data,
    }


def huber(rho: float) -> dict[str, Any]:
    return residual(
        lambda z: np.where(abs(z) > rho, abs(z) - rho / 2, z**2 / (2 * rho)),
        lambda z: np.clip(z / rho, -1, 1),
        lambda z: (abs(z) <= rho) / rho,
    )


def log_cosh() -> dict[str, Any]:
    return residual(lambda z: np.log(np.cosh(z)), np.tanh, lambda z: np.cosh(z) ** -2)


def pseudo_huber(delta: float) -> dict[str, Any]:
    return residual(
        lambda z: delta**2 * (np.sqrt(1 + (z / delta) ** 2) - 1),
        lambda z: z / np.sqrt(1 + (z / delta) ** 2),
        lambda z: (1 + (z / delta) ** 2) ** -1.5,
    )


def fair(c: float) -> dict[str, Any]:
    return residual(
        lambda z: c**2 * (abs(z) / c - np.log(1 + abs(z) / c)),
        lambda z: z / (1 + abs(z) / c),
        lambda z: (1 + abs(z) / c) ** -2,
    )


def cauchy(c: float) -> dict[str, Any]:
    return residual(
        lambda z: c**2 / 2 * np.log(1 + (z / c) ** 2),
        lambda z: z / (1 + (z / c) ** 2),
        lambda z: (1 - (z / c) ** 2) / (1 + (z / c) ** 2) ** 2,
    )


def geman_mcclure(c: float) -> dict[str, Any]:
    return residual(
        lambda z: 2 * (z / c) ** 2 / (4 + (z / c) ** 2),
        lambda z: 16 * z / c**2 / (4 + (z / c) ** 2) ** 2,
        lambda z: 16 * (4 - 3 * (z / c) ** 2) / c**2 / (4 + (z / c) ** 2) ** 3,
    )


def welsch(c: float) -> dict[str, Any]:
    return residual(
        lambda z: 1 - np.exp(-((z / c) ** 2) / 2),
        lambda z: z / c**2 * np.exp(-((z / c) ** 2) / 2),
        lambda z: (1 - (z / c) ** 2) / c**2 * np.exp(-((z / c) ** 2) / 2),
    )


def robust(alpha: float, c: float) -> dict[str, Any]:
    b = abs(alpha - 2)
    return residual(
        lambda z: b / alpha * (((z / c) ** 2 / b + 1) ** (alpha / 2) - 1),
        lambda z: z / c**2 * ((z / c) ** 2 / b + 1) ** (alpha / 2 - 1),
        lambda z: (1 + (alpha - 1) * (z / c) ** 2 / b) / c**2 * ((z / c) ** 2 / b + 1) ** (alpha / 2 - 2),
    )


def tukey(c: float) -> dict[str, Any]:
    return residual(
        lambda z: np.where(abs(z) < c, c**2 / 6 * (1 - (1 - (z / c) ** 2) ** 3), c**2 / 6),
        lambda z: np.where(abs(z) < c, z * (1 - (z / c) ** 2) ** 2, 0),
        lambda z: np.where(abs(z) < c, (1 - (z / c) ** 2) * (1 - 5 * (z / c) ** 2), 0),
    )


def epsilon_insensitive(epsilon: float) -> dict[str, Any]:
    return residual(
        lambda z: np.maximum(0, abs(z) - epsilon), lambda z: np.where(abs(z) > epsilon, np.sign(z), 0), np.zeros_like
    )


def squared_epsilon_insensitive(epsilon: float) -> dict[str, Any]:
    return residual(
        lambda z: np.maximum(0, abs(z) - epsilon) ** 2,
        lambda z: 2 * np.sign(z) * np.maximum(0, abs(z) - epsilon),
        lambda z: np.where(abs(z) > epsilon, 2.0, 0.0),
    )


def expectile(tau: float) -> dict[str, Any]:
    return residual(
        lambda z: np.where(z > 0, 1 - tau, tau) * z**2,
        lambda z: 2 * np.where(z > 0, 1 - tau, tau) * z,
        lambda z: 2 * np.where(z > 0, 1 - tau, tau),
    )


MSLE: dict[str, Any] = {
    "value": lambda x, y: (np.log(1 + x) - np.log(1 + y)) ** 2 / 2,
    "gradient": lambda x, y: (np.log(1 + x) - np.log(1 + y)) / (1 + x),
    "hessian": lambda x, y: (1 - np.log(1 + x) + np.log(1 + y)) / (1 + x) ** 2,
    "label_gradient": lambda x, y: -(np.log(1 + x) - np.log(1 + y)) / (1 + y),
    "data": lambda rng, shape: (rng.uniform(-0.9, 5, shape), rng.uniform(-0.9, 5, shape)),
}


def pinball(tau: float = 0.5) -> dict[str, Any]:
    return {
        "value": lambda x, y, q=tau: np.where(x > y, (1 - q) * (x - y), q * (y - x)),
        "gradient": lambda x, y, q=tau: np.where(x > y, 1 - q, np.where(x < y, -q, 0)),
        "hessian": lambda x, y, q=tau: 0 * x,
        "label_gradient": lambda x, y, q=tau: -np.where(x > y, 1 - q, np.where(x < y, -q, 0)),
    }


def smooth_pinball(tau: float, beta: float) -> dict[str, Any]:
    def soft(t: Array) -> Array:
        return np.log(1 + np.exp(t))

    return {
        "value": lambda x, y, q=tau: beta * (q * soft((y - x) / beta) + (1 - q) * soft((x - y) / beta)),
        "gradient": lambda x, y, q=tau: sigmoid((x - y) / beta) - q,
        "hessian": lambda x, y, q=tau: sigmoid((x - y) / beta) * sigmoid((y - x) / beta) / beta,
        "label_gradient": lambda x, y, q=tau: q - sigmoid((x - y) / beta),
    }


def of_quantiles(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return (*regression_data(rng, shape), rng.uniform(0.1, 0.9, shape[-1:] if shape else ()))


def gaussian(k: float, constant: float) -> dict[str, Any]:
    """Of a second prediction q, where k q is the logarithm of the variance."""
    return {
        "value": lambda x, y, q: (k * q + (x - y) ** 2 * np.exp(-k * q)) / 2 + constant,
        "gradient": lambda x, y, q: (x - y) * np.exp(-k * q),
        "hessian": lambda x, y, q: np.exp(-k * q) + 0 * x,
        "label_gradient": lambda x, y, q: (y - x) * np.exp(-k * q),
        "third_gradient": lambda x, y, q: k * (1 - (x - y) ** 2 * np.exp(-k * q)) / 2,
        "third_hessian": lambda x, y, q: k**2 * (x - y) ** 2 * np.exp(-k * q) / 2,
        "data": uncertain_data,
    }


def gaussian_of_variance(eps: float) -> dict[str, Any]:
    def variance(q: Array) -> Array:
        return np.maximum(q, eps)

    return {
        "value": lambda x, y, q: (np.log(2 * np.pi * variance(q)) + (x - y) ** 2 / variance(q)) / 2,
        "gradient": lambda x, y, q: (x - y) / variance(q),
        "hessian": lambda x, y, q: 1 / variance(q) + 0 * x,
        "label_gradient": lambda x, y, q: (y - x) / variance(q),
        "third_gradient": lambda x, y, q: (1 / variance(q) - (x - y) ** 2 / variance(q) ** 2) / 2,
        "third_hessian": lambda x, y, q: (x - y) ** 2 / variance(q) ** 3 - 1 / variance(q) ** 2 / 2,
        "data": lambda rng, shape: (*regression_data(rng, shape), rng.uniform(0.5, 3, shape[-1:] if shape else ())),
    }


def laplace() -> dict[str, Any]:
    return {
        "value": lambda x, y, q: q + abs(x - y) * np.exp(-q),
        "gradient": lambda x, y, q: np.sign(x - y) * np.exp(-q),
        "hessian": lambda x, y, q: 0 * (x + q),
        "label_gradient": lambda x, y, q: -np.sign(x - y) * np.exp(-q),
        "third_gradient": lambda x, y, q: 1 - abs(x - y) * np.exp(-q),
        "third_hessian": lambda x, y, q: abs(x - y) * np.exp(-q),
        "data": uncertain_data,
    }


def student(df: float) -> dict[str, Any]:
    constant = math.lgamma(df / 2) - math.lgamma((df + 1) / 2) + math.log(math.pi * df) / 2

    def square(x: Array, y: Array, q: Array) -> Array:
        return (x - y) ** 2 * np.exp(-2 * q) / df

    def gradient(x: Array, y: Array, q: Array) -> Array:
        return (df + 1) / df * (x - y) * np.exp(-2 * q) / (1 + square(x, y, q))

    return {
        "value": lambda x, y, q: constant + q + (df + 1) / 2 * np.log(1 + square(x, y, q)),
        "gradient": gradient,
        "hessian": lambda x, y, q: (df + 1) / df * np.exp(-2 * q) * (1 - square(x, y, q)) / (1 + square(x, y, q)) ** 2,
        "label_gradient": lambda x, y, q: -gradient(x, y, q),
        "third_gradient": lambda x, y, q: 1 - (df + 1) * square(x, y, q) / (1 + square(x, y, q)),
        "third_hessian": lambda x, y, q: 2 * (df + 1) * square(x, y, q) / (1 + square(x, y, q)) ** 2,
        "data": uncertain_data,
    }


def censored_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Times that are known, that have not ended, that have ended before, and between two bounds."""
    time, kind = rng.uniform(0.25, 4, shape), rng.integers(0, 4, shape)
    lower = np.where(kind == 2, 0, time)
    upper = np.where(kind == 1, np.inf, np.where(kind == 3, time + rng.uniform(0.25, 4, shape), time))
    return rng.normal(size=shape), lower, upper


def standardized(t: Array, x: Array, sigma: float) -> Array:
    # so early and late that the distribution has no digits for it; 0 x is of the type that has more
    return (np.log(np.clip(t, 1e-30, 1e30) + 0 * x) - x) / sigma


def in_order(formula: Formula) -> Formula:
    """A formula of bounds, which has no value where they are in the wrong order."""
    return lambda x, y, q: np.where(y <= q, formula(x, y, q), np.nan)


def logistic_duration(sigma: float) -> dict[str, Any]:
    def share(t: Array, x: Array) -> Array:
        return np.where(t > 0, np.where(t < np.inf, sigmoid(standardized(t, x, sigma)), 1.0), 0.0)

    def density(t: Array, x: Array) -> Array:
        return share(t, x) * (1 - share(t, x)) / sigma

    def value(x: Array, y: Array, q: Array) -> Array:
        known = density(y, x) / np.clip(y, 1e-30, 1e30)
        return -np.log(np.where(y == q, known, share(q, x) - share(y, x)))

    return {
        "value": in_order(value),
        "gradient": in_order(lambda x, y, q: (1 - share(y, x) - share(q, x)) / sigma),
        "hessian": in_order(lambda x, y, q: (density(y, x) + density(q, x)) / sigma),
        "label_gradient": None,
        "data": censored_data,
    }


def interval_data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    """Classes between others, and at either end."""
    lower, kind = rng.normal(scale=2, size=shape), rng.integers(0, 4, shape)
    upper = np.where(kind == 1, np.inf, lower + rng.uniform(0.25, 4, shape))
    return rng.normal(scale=2, size=shape), np.where(kind == 2, -np.inf, lower), upper


def ordinal() -> dict[str, Any]:
    def tail(t: Array, x: Array) -> Array:
        return sigmoid(x - t)

    def bend(t: Array, x: Array) -> Array:
        return tail(t, x) * (1 - tail(t, x))

    def share(x: Array, y: Array, q: Array) -> Array:
        return tail(y, x) - tail(q, x)

    def slope(x: Array, y: Array, q: Array) -> Array:
        """(bend(q, x) - bend(y, x)) / share(x, y, q), which bounds that are the same have, too."""
        return tail(y, x) + tail(q, x) - 1

    return {
        "value": in_order(lambda x, y, q: -np.log(share(x, y, q))),
        "gradient": in_order(slope),
        "hessian": in_order(lambda x, y, q: bend(y, x) + bend(q, x)),
        "label_gradient": in_order(lambda x, y, q: bend(y, x) / share(x, y, q)),
        "third_gradient": in_order(lambda x, y, q: -bend(q, x) / share(x, y, q)),
        "data": interval_data,
    }


def extreme_duration(sigma: float) -> dict[str, Any]:
    def power(t: Array, x: Array) -> Array:
        return np.exp(standardized(t, x, sigma))

    def between(x: Array, y: Array, q: Array, k: int) -> Array:
        """How probable a time between the bounds is, and derivatives of that but for a factor."""
        low, high = power(y, x), power(q, x)
        factors = (1, low, low * (1 - low))[k], (1, high, high * (1 - high))[k]
        return factors[0] * np.exp(-low) - factors[1] * np.exp(-high)

    def ratio(x: Array, y: Array, q: Array, k: int) -> Array:
        return between(x, y, q, k) / np.where(y == q, 1, between(x, y, q, 0))

    def value(x: Array, y: Array, q: Array) -> Array:
        known = power(y, x) - standardized(y, x, sigma) + np.log(sigma * np.clip(y, 1e-30, 1e30))
        return np.where(y == q, known, -np.log(np.where(y == q, 1, between(x, y, q, 0))))

    def curvature(x: Array, y: Array, q: Array) -> Array:
        return np.where(y == q, power(y, x), ratio(x, y, q, 2) + ratio(x, y, q, 1) ** 2) / sigma**2

    return {
        "value": in_order(value),
        "gradient": in_order(lambda x, y, q: np.where(y == q, 1 - power(y, x), -ratio(x, y, q, 1)) / sigma),
        "hessian": in_order(curvature),
        "label_gradient": None,
        "data": censored_data,
    }


def normal_duration(sigma: float) -> dict[str, Any]:
    def root(z: Array) -> Array:
        """The square root of 2 pi, in the digits of z."""
        return np.sqrt(8 * np.arctan(1 + 0 * z))

    def density(z: Array) -> Array:
        return np.exp(-(z**2) / 2) / root(z)

    def tail(z: Array) -> Array:
        return complementary_error(z / np.sqrt(2 + 0 * z)) / 2

    def between(low: Array, high: Array) -> Array:
        """How probable a z between the bounds is; of two differences, that of the smaller numbers."""
        return np.where(low + high > 0, tail(low) - tail(high), tail(-high) - tail(-low))

    def parts(x: Array, y: Array, q: Array) -> tuple[Array, ...]:
        """The bounds, and the densities there over how probable a z between them is."""
        # a missing bound is where nothing is left
        low = np.where(y > 0, standardized(y, x, sigma), -1e3 + 0 * x)
        high = np.where(q < np.inf, standardized(q, x, sigma), 1e3 + 0 * x)
        share = np.where(y == q, 1 + 0 * x, between(low, high))
        return low, high, density(low) / share, density(high) / share, share

    def value(x: Array, y: Array, q: Array) -> Array:
        low, high, *_, share = parts(x, y, q)
        known = low**2 / 2 + np.log(sigma * np.clip(y, 1e-30, 1e30) * root(x))
        outside = tail(-low) + tail(high)
        unlikely = outside > 0.5
        surprise = np.where(unlikely, -np.log(share), -np.log1p(np.where(unlikely, 0 * x, -outside)))
        return np.where(y == q, known, surprise)

    def slope(x: Array, y: Array, q: Array) -> Array:
        low, _, below, above, _ = parts(x, y, q)
        return np.where(y == q, -low, above - below) / sigma

    def curvature(x: Array, y: Array, q: Array) -> Array:
        low, high, below, above, _ = parts(x, y, q)
        return np.where(y == q, 1, (above - below) ** 2 - low * below + high * above) / sigma**2

    return {
        "value": in_order(value),
        "gradient": in_order(slope),
        "hessian": in_order(curvature),
        "label_gradient": None,
        "data": censored_data,
    }


def hinge(margin: float) -> dict[str, Any]:
    return {
        "value": lambda x, y: np.maximum(0, margin - x * y),
        "gradient": lambda x, y: np.where(margin - x * y > 0, -y, 0),
        "hessian": lambda x, y: 0 * x,
        "label_gradient": lambda x, y: np.where(margin - x * y > 0, -x, 0),
        "data": signed_data,
    }


def squared_hinge(margin: float) -> dict[str, Any]:
    return {
        "value": lambda x, y: np.maximum(0, margin - x * y) ** 2,
        "gradient": lambda x, y: -2 * y * np.maximum(0, margin - x * y),
        "hessian": lambda x, y: np.where(margin - x * y > 0, 2 * y**2, 0),
        "label_gradient": lambda x, y: -2 * x * np.maximum(0, margin - x * y),
        "data": signed_data,
    }


def smoothed_hinge(gamma: float, scale: float, *, binary: bool = False) -> dict[str, Any]:
    slope, shift = (2, -1) if binary else (1, 0)

    def distance(x: Array, y: Array) -> Array:
        return np.maximum(0, 1 - x * (slope * y + shift))

    def rate(x: Array, y: Array) -> Array:
        return scale * np.minimum(distance(x, y) / gamma, 1)

    return {
        "value": lambda x, y: rate(x, y) * (distance(x, y) - np.minimum(distance(x, y), gamma) / 2),
        "gradient": lambda x, y: -rate(x, y) * (slope * y + shift),
        "hessian": lambda x, y: (
            np.where((distance(x, y) > 0) & (distance(x, y) <= gamma), scale / gamma, 0) * (slope * y + shift) ** 2
        ),
        "label_gradient": lambda x, y: -rate(x, y) * slope * x,
        "data": binary_data if binary else signed_data,
    }


def hinge_embedding(margin: float) -> dict[str, Any]:
    return {
        "value": lambda x, y: (1 + y) / 2 * x + (1 - y) / 2 * np.maximum(0, margin - x),
        "gradient": lambda x, y: (1 + y) / 2 - (1 - y) / 2 * (x < margin),
        "hessian": lambda x, y: 0 * x,
        "label_gradient": lambda x, y: (x - np.maximum(0, margin - x)) / 2,
        "data": distance_data,
    }


def exponential(slope: float, shift: float) -> dict[str, Any]:
    def value(x: Array, y: Array) -> Array:
        return (slope * y + shift) * np.exp(-x) + (1 - shift - slope * y) * np.exp(x)

    return {
        "value": value,
        "gradient": lambda x, y: (1 - shift - slope * y) * np.exp(x) - (slope * y + shift) * np.exp(-x),
        "hessian": value,
        "label_gradient": lambda x, y: slope * (np.exp(-x) - np.exp(x)),
    }


SIGMOID: dict[str, Any] = {
    "value": lambda x, y, q=1: q * y * np.log(1 + np.exp(-x)) + (1 - y) * np.log(1 + np.exp(x)),
    "gradient": lambda x, y, q=1: -q * y * sigmoid(-x) + (1 - y) * sigmoid(x),
    "hessian": lambda x, y, q=1: (q * y + 1 - y) * sigmoid(x) * sigmoid(-x),
    "label_gradient": lambda x, y, q=1: q * np.log(1 + np.exp(-x)) - np.log(1 + np.exp(x)),
}

PROBABILITY: dict[str, Any] = {
    "value": lambda x, y, q=1: -q * y * np.log(x + 1e-12) - (1 - y) * np.log(1 - x + 1e-12),
    "gradient": lambda x, y, q=1: -q * y / (x + 1e-12) + (1 - y) / (1 - x + 1e-12),
    "hessian": lambda x, y, q=1: q * y / (x + 1e-12) ** 2 + (1 - y) / (1 - x + 1e-12) ** 2,
    "label_gradient": lambda x, y, q=1: -q * np.log(x + 1e-12) + np.log(1 - x + 1e-12),
}


def poisson(*, logits: bool, full: bool) -> dict[str, Any]:
    extra = stirling if full else np.zeros_like
    slope = stirling_gradient if full else np.zeros_like
    if logits:
        return {
            "value": lambda x, y, e=0: np.exp(x) - y * x + extra(y),
            "gradient": lambda x, y, e=0: np.exp(x) - y,
            "hessian": lambda x, y, e=0: np.exp(x),
            "label_gradient": lambda x, y, e=0: -x + slope(y),
        }
    return {
        "value": lambda x, y, e=1e-8: x - y * np.log(x + e) + extra(y),
        "gradient": lambda x, y, e=1e-8: 1 - y / (x + e),
        "hessian": lambda x, y, e=1e-8: y / (x + e) ** 2,
        "label_gradient": lambda x, y, e=1e-8: -np.log(x + e) + slope(y),
    }


def tweedie(p: float) -> dict[str, Any]:
    return {
        "value": lambda x, y: np.exp((2 - p) * x) / (2 - p) - y * np.exp((1 - p) * x) / (1 - p),
        "gradient": lambda x, y: np.exp((2 - p) * x) - y * np.exp((1 - p) * x),
        "hessian": lambda x, y: (2 - p) * np.exp((2 - p) * x) - (1 - p) * y * np.exp((1 - p) * x),
        "label_gradient": lambda x, y: np.exp((1 - p) * x) / (p - 1),
    }


def deviance(p: float) -> dict[str, Any]:
    """Half the deviance: Tweedie's loss less that of the best prediction, x = log y."""
    if p == 1:
        return poisson(logits=True, full=False) | {
            # of small integers NumPy's logarithm is a float16
            "value": lambda x, y: np.exp(x) - y - y * (x - np.log(np.where(y == 0, 1.0, y))),
            "label_gradient": lambda x, y: np.log(1.0 * y) - x,
        }
    plain = tweedie(p)
    return plain | {
        "value": lambda x, y: plain["value"](x, y) + y ** (2 - p) / ((1 - p) * (2 - p)),
        "label_gradient": lambda x, y: (np.exp((1 - p) * x) - y ** (1 - p)) / (p - 1),
    }


def focal(alpha: float | None, gammas: tuple[float, float], clip: float = 0) -> dict[str, Any]:
    """By the probability v of the wrong class, of which that of the class 0 is clipped; w is 1 - v."""

    def parts(x: Array, y: Array) -> tuple[Array, ...]:
        is_one = y > 0.5
        v = np.where(is_one, sigmoid(-x), np.maximum(sigmoid(x) - clip, 0))
        w = np.where(is_one, sigmoid(x), sigmoid(-x) + clip)
        slope = np.where(is_one, -1, 1) * sigmoid(x) * sigmoid(-x)
        weight = 1 if alpha is None else np.where(is_one, alpha, 1 - alpha)
        return np.where(v > 0, v, 0.5), w, slope, np.where(is_one, *gammas), weight * (v > 0)

    def value(x: Array, y: Array) -> Array:
        v, w, _, k, weight = parts(x, y)
        return -weight * v**k * np.log(w)

    def gradient(x: Array, y: Array) -> Array:
        v, w, slope, k, weight = parts(x, y)
        return weight * (v**k / w - k * v ** (k - 1) * np.log(w)) * slope

    def hessian(x: Array, y: Array) -> Array:
        v, w, slope, k, weight = parts(x, y)
        first = v**k / w - k * v ** (k - 1) * np.log(w)
        second = v**k / w**2 + 2 * k * v ** (k - 1) / w - k * (k - 1) * v ** (k - 2) * np.log(w)
        return weight * (first * slope * (sigmoid(-x) - sigmoid(x)) + second * slope**2)

    return {"value": value, "gradient": gradient, "hessian": hessian, "label_gradient": None, "data": hard_data}


def negative_binomial(theta: float) -> dict[str, Any]:
    return {
        "value": lambda x, y: (y + theta) * np.log(1 + np.exp(x) / theta) - y * (x - np.log(theta)),
        "gradient": lambda x, y: theta * (np.exp(x) - y) / (theta + np.exp(x)),
        "hessian": lambda x, y: (y + theta) * theta * np.exp(x) / (theta + np.exp(x)) ** 2,
        "label_gradient": lambda x, y: np.log(1 + theta * np.exp(-x)),
    }


def of_counts(formula: Formula) -> Formula:
    """A formula of a count, perhaps one among n trials, which has no value for other numbers."""
    return lambda x, y, *n: np.where((y >= 0) & (y <= (n[0] if n else np.inf)), formula(x, y, *n), np.nan)


def negative_binomial_full(theta: float) -> dict[str, Any]:
    def value(x: Array, y: Array) -> Array:
        # 0 y is of the type that has more digits
        ways = log_gamma(y + theta) - log_gamma(theta + 0 * y) - log_gamma(y + 1)
        return y * np.log(1 + theta * np.exp(-x)) + theta * np.log(1 + np.exp(x) / theta) - ways

    plain = negative_binomial(theta)
    return {
        "value": of_counts(value),
        "gradient": of_counts(plain["gradient"]),
        "hessian": of_counts(plain["hessian"]),
        "label_gradient": of_counts(lambda x, y: plain["label_gradient"](x, y) + digamma(y + 1) - digamma(y + theta)),
    }


BINOMIAL: dict[str, Any] = {
    "value": lambda x, y, n=1: y * np.log(1 + np.exp(-x)) + (n - y) * np.log(1 + np.exp(x)),
    "gradient": lambda x, y, n=1: n * sigmoid(x) - y,
    "hessian": lambda x, y, n=1: n * sigmoid(x) * sigmoid(-x),
    "label_gradient": lambda x, y, n=1: -x,
    "third_gradient": lambda x, y, n: np.log(1 + np.exp(x)),
}

BINOMIAL_FULL: dict[str, Any] = {
    "value": of_counts(
        lambda x, y, n: BINOMIAL["value"](x, y, n) + log_gamma(y + 1) + log_gamma(n - y + 1) - log_gamma(n + 1)
    ),
    "gradient": of_counts(BINOMIAL["gradient"]),
    "hessian": of_counts(BINOMIAL["hessian"]),
    "label_gradient": of_counts(lambda x, y, n: -x + digamma(y + 1) - digamma(n - y + 1)),
    "third_gradient": of_counts(lambda x, y, n: np.log(1 + np.exp(x)) + digamma(n - y + 1) - digamma(n + 1)),
}


def class_id_data(ignore: int | None) -> Callable[..., tuple[Array, ...]]:
    """Logits and class ids, of which some are ignored; without classes, the only good id is the one that is."""

    def data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        x = rng.normal(scale=2, size=shape)
        y = rng.integers(0, shape[-1], shape[:-1]) if shape[-1] else np.full(shape[:-1], ignore or 0)
        return x, y if ignore is None else np.where(rng.random(y.shape) < 0.3, ignore, y)

    return data


def class_counts(class_weight: tuple[float, ...] | None, ignore: int | None) -> Formula:
    """What an example counts in a weighted mean: the weight of its class, and nothing if its id is ignored."""

    def counts(x: Array, y: Array) -> Array:
        weight = np.ones(max(x.shape[-1], 1)) if class_weight is None else np.array(class_weight)
        return np.where(y == ignore, 0, weight[np.where(y == ignore, 0, y).astype(int)])

    return counts


def over_classes(
    value: Formula,
    gradient: Formula,
    hessian: Formula,
    class_weight: tuple[float, ...] | None = None,
    ignore: int | None = None,
) -> dict[str, Any]:
    """A loss of class ids, by its formulas without weights."""
    counts = class_counts(class_weight, ignore)

    def weighted(formula: Formula, *, row: bool) -> Formula:
        def result(x: Array, y: Array) -> Array:
            count = counts(x, y)[..., None] if row else counts(x, y)
            return np.where(count == 0, 0, count * formula(x, np.where(y == ignore, 0, y)))

        return result

    return {
        "value": weighted(value, row=False),
        "gradient": weighted(gradient, row=True),
        "hessian": weighted(hessian, row=True),
        "label_gradient": None,
        "data": class_id_data(ignore),
        "row": True,
        "class_weight": counts,
    }


def softmax(
    *,
    sparse: bool = True,
    log_probabilities: bool = False,
    smoothing: float = 0,
    class_weight: tuple[float, ...] | None = None,
    ignore: int | None = None,
    classes: int = 7,
    z_loss: float = 0,
    softcap: float | None = None,
    logit_bias: tuple[float, ...] | None = None,
) -> dict[str, Any]:
    """Softmax cross-entropy over the last axis."""

    def scores(x: Array) -> Array:
        return (softcap * np.tanh(x / softcap) if softcap else x) + (0 if logit_bias is None else np.array(logit_bias))

    def targets(x: Array, y: Array) -> Array:
        label = (y[..., None] == np.arange(x.shape[-1])).astype(float) if sparse else y
        weight = np.ones(x.shape[-1]) if class_weight is None else np.array(class_weight)
        t = weight * ((1 - smoothing) * label + smoothing / max(x.shape[-1], 1))
        return t if ignore is None else np.where((y == ignore)[..., None], 0, t)

    def log_softmax(x: Array) -> Array:
        return x if log_probabilities else scores(x) - np.log(np.exp(scores(x)).sum(-1, keepdims=True))

    def level(x: Array, y: Array) -> Array:
        """The logarithm of the sum of the exponentials, and 0 for a row that is ignored, or empty."""
        total = np.exp(scores(x)).sum(-1) + (x.shape[-1] == 0)
        return (np.log(total) * (1 if ignore is None else y != ignore))[..., None]

    def value(x: Array, y: Array) -> Array:
        entropy = np.asarray(-(targets(x, y) * log_softmax(x)).sum(-1))
        return entropy + z_loss * level(x, y)[..., 0] ** 2 if z_loss else entropy

    def in_scores(x: Array, y: Array) -> Array:
        """The gradient in the scores."""
        t = targets(x, y)
        slope = t.sum(-1, keepdims=True) + (2 * z_loss * level(x, y) if z_loss else 0)
        return -t if log_probabilities else slope * np.exp(log_softmax(x)) - t

    def gradient(x: Array, y: Array) -> Array:
        return in_scores(x, y) * (1 - np.tanh(x / softcap) ** 2) if softcap else in_scores(x, y)

    def hessian(x: Array, y: Array) -> Array:
        p = np.exp(log_softmax(x))
        slope = targets(x, y).sum(-1, keepdims=True) + (2 * z_loss * level(x, y) if z_loss else 0)
        square = 2 * z_loss * p**2 * (1 if ignore is None else (y != ignore)[..., None]) if z_loss else 0
        curvature = 0 * x if log_probabilities else slope * p * (1 - p) + square
        if softcap:
            tanh = np.tanh(x / softcap)
            curvature = curvature * (1 - tanh**2) ** 2 - 2 / softcap * tanh * (1 - tanh**2) * in_scores(x, y)
        return curvature

    def label_gradient(x: Array, y: Array) -> Array:
        weight = np.ones(x.shape[-1]) if class_weight is None else np.array(class_weight)
        return -(1 - smoothing) * weight * log_softmax(x)

    def data(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        x, y = class_id_data(ignore)(rng, shape)
        if log_probabilities and shape[-1]:
            x -= np.log(np.exp(x).sum(-1, keepdims=True))
        if not sparse:
            y = rng.dirichlet(np.ones(shape[-1]), shape[:-1]) if shape[-1] else x
        return x, y

    def unsigned() -> Reference:
        weight = tuple(map(abs, class_weight or ()))
        return Reference(
            **softmax(
                sparse=sparse,
                log_probabilities=log_probabilities,
                smoothing=smoothing,
                class_weight=weight,
                ignore=ignore,
                classes=classes,
                z_loss=z_loss,
                softcap=softcap,
                logit_bias=logit_bias,
            )
        )

    parameters: dict[str, Any] = {
        "sparse_label": sparse,
        "from_logits": log_probabilities,
        "label_smoothing": smoothing,
        "class_weight": class_weight,
        "ignore_index": ignore,
        "z_loss": z_loss,
        "softcap": softcap,
        "logit_bias": logit_bias,
    }
    return {
        "loss": fl.SoftmaxCrossEntropyLoss,
        "value": value,
        "gradient": gradient,
        "hessian": hessian,
        "label_gradient": None if sparse else label_gradient,
        "data": data,
        "source": "Bridle 1990; label smoothing: Szegedy et al. 2016; Gluon",
        "parameters": parameters,
        "row": True,
        "classes": classes,
        "class_weight": class_counts(class_weight, ignore) if sparse else lambda x, y: np.ones(x.shape[:-1]),
        "magnitude": unsigned() if min(class_weight or (), default=0) < 0 else None,
    }


def of_entropy(value: Formula, slope: Formula, curvature: Formula, **classes: Any) -> dict[str, Any]:
    """A function of the softmax cross-entropy s."""

    def parts(x: Array, y: Array) -> tuple[Array, ...]:
        own = y[..., None] == np.arange(x.shape[-1])
        log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
        return np.exp(log_p), np.exp(log_p) - own, -(own * log_p).sum(-1, keepdims=True)

    def gradient(x: Array, y: Array) -> Array:
        _, g, s = parts(x, y)
        return slope(s) * g

    def hessian(x: Array, y: Array) -> Array:
        p, g, s = parts(x, y)
        return curvature(s) * g**2 + slope(s) * p * (1 - p)

    return over_classes(lambda x, y: value(parts(x, y)[2])[..., 0], gradient, hessian, **classes)


def softmax_focal(k: float, **classes: Any) -> dict[str, Any]:
    def curvature(s: Array) -> Array:
        p, q = np.exp(-s), 1 - np.exp(-s)
        return k * p * q ** (k - 2) * ((2 - s) * q + (k - 1) * s * p)

    return of_entropy(
        lambda s: (1 - np.exp(-s)) ** k * s,
        lambda s: (1 - np.exp(-s)) ** k + k * s * np.exp(-s) * (1 - np.exp(-s)) ** (k - 1),
        curvature,
        **classes,
    )


def multi_margin(p: int, margin: float, **classes: Any) -> dict[str, Any]:
    def excess(x: Array, y: Array) -> tuple[Array, Array]:
        own = y[..., None] == np.arange(x.shape[-1])
        return own, np.where(own, 0, np.maximum(0, margin + x - np.where(own, x, 0).sum(-1, keepdims=True)))

    def slope(x: Array, y: Array) -> Array:
        own, u = excess(x, y)
        g = np.where(u > 0, p * u ** (p - 1), 0) / max(x.shape[-1], 1)
        return g - own * g.sum(-1, keepdims=True)

    def curvature(x: Array, y: Array) -> Array:
        own, u = excess(x, y)
        h = np.where(u > 0, p * (p - 1), 0) / max(x.shape[-1], 1)
        return h + own * h.sum(-1, keepdims=True)

    return over_classes(lambda x, y: (excess(x, y)[1] ** p).sum(-1) / max(x.shape[-1], 1), slope, curvature, **classes)


def crammer_singer(**classes: Any) -> dict[str, Any]:
    def excess(x: Array, y: Array) -> tuple[Array, Array]:
        own = y[..., None] == np.arange(x.shape[-1])
        return own, np.where(own, -1e300, 1 + x - np.where(own, x, 0).sum(-1, keepdims=True))

    def gradient(x: Array, y: Array) -> Array:
        own, u = excess(x, y)
        first = np.arange(x.shape[-1]) == u.argmax(-1)[..., None] if x.shape[-1] else own
        highest = first & (u > 0)
        return highest * 1.0 - own * highest.any(-1, keepdims=True)

    return over_classes(
        lambda x, y: excess(x, y)[1].max(-1, initial=0), gradient, lambda x, y: np.zeros_like(x), **classes
    )


CLASS_WEIGHT = (1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 0.25)
SIGNED_WEIGHT = (1.0, -0.5, 2.0, 0.0, 1.0, -3.0, -0.25)

LOSSES = {
    "L1": Reference(fl.L1Loss, **residual(abs, np.sign, np.zeros_like), source="Laplace 1774; Gluon"),
    "L2": Reference(
        fl.L2Loss,
        **residual(lambda z: z**2 / 2, lambda z: z, lambda z: 1 + 0 * z),
        source="Gauss 1809; Gluon",
        loop="two inputs and a few operations: what is summed is not stored before",
    ),
    "Huber": Reference(fl.HuberLoss, **huber(1), source="Huber 1964; Gluon"),
    "Huber rho=0.5": Reference(fl.HuberLoss, **huber(0.5), source="Huber 1964; Gluon", parameters={"rho": 0.5}),
    "epsilon-insensitive": Reference(
        fl.EpsilonInsensitiveLoss, **epsilon_insensitive(0.5), source="Vapnik 1995", parameters={"epsilon": 0.5}
    ),
    "squared epsilon-insensitive": Reference(
        fl.SquaredEpsilonInsensitiveLoss,
        **squared_epsilon_insensitive(0.5),
        source="Vapnik 1995",
        parameters={"epsilon": 0.5},
    ),
    "MSLE": Reference(fl.MSLELoss, **MSLE, source="XGBoost"),
    "expectile": Reference(
        fl.ExpectileLoss, **expectile(0.75), source="Newey and Powell 1987", parameters={"expectile": 0.75}
    ),
    "quantile": Reference(
        fl.QuantileLoss,
        **pinball(0.75),
        data=regression_data,
        source="Koenker and Bassett 1978",
        parameters={"quantile": 0.75},
    ),
    "quantiles": Reference(
        fl.QuantileLoss,
        **pinball(),
        data=of_quantiles,
        source="Koenker and Bassett 1978",
        third="quantile",
        third_gradient=lambda x, y, q: y - x,
    ),
    "smooth quantile": Reference(
        fl.SmoothQuantileLoss,
        **smooth_pinball(0.75, 0.5),
        data=regression_data,
        source="Fasiolo et al. 2021",
        parameters={"quantile": 0.75, "beta": 0.5},
    ),
    "smooth quantiles": Reference(
        fl.SmoothQuantileLoss,
        **smooth_pinball(0.5, 1),
        data=of_quantiles,
        source="Zheng 2011",
        third="quantile",
        third_gradient=lambda x, y, q: y - x,
    ),
    "log-cosh": Reference(fl.LogCoshLoss, **log_cosh(), source="Green 1990"),
    "pseudo-Huber": Reference(
        fl.PseudoHuberLoss, **pseudo_huber(0.5), source="Charbonnier et al. 1994", parameters={"delta": 0.5}
    ),
    "Fair": Reference(fl.FairLoss, **fair(2), source="Fair 1974", parameters={"c": 2}),
    "Cauchy": Reference(fl.CauchyLoss, **cauchy(0.5), source="Black and Anandan 1996", parameters={"c": 0.5}),
    "Geman-McClure": Reference(fl.GemanMcClureLoss, **geman_mcclure(0.5), source="Barron 2019", parameters={"c": 0.5}),
    "Welsch": Reference(fl.WelschLoss, **welsch(2), source="Dennis and Welsch 1978", parameters={"c": 2}),
    "robust": Reference(fl.RobustLoss, **robust(1.5, 0.5), source="Barron 2019", parameters={"alpha": 1.5, "c": 0.5}),
    "robust alpha=-1": Reference(
        fl.RobustLoss, **robust(-1, 0.5), source="Barron 2019", parameters={"alpha": -1, "c": 0.5}
    ),
    "Tukey": Reference(fl.TukeyLoss, **tukey(2), source="Beaton and Tukey 1974", parameters={"c": 2}),
    "hinge": Reference(fl.HingeLoss, **hinge(1), source="Cortes and Vapnik 1995; Gluon"),
    "hinge margin=2.5": Reference(fl.HingeLoss, **hinge(2.5), source="Gluon", parameters={"margin": 2.5}),
    "squared hinge": Reference(fl.SquaredHingeLoss, **squared_hinge(1), source="Gluon"),
    "squared hinge margin=0.5": Reference(
        fl.SquaredHingeLoss, **squared_hinge(0.5), source="Gluon", parameters={"margin": 0.5}
    ),
    "logistic signed": Reference(
        fl.LogisticLoss,
        lambda x, y: (1 + y) / 2 * np.log(1 + np.exp(-x)) + (1 - y) / 2 * np.log(1 + np.exp(x)),
        lambda x, y: sigmoid(x) - (1 + y) / 2,
        lambda x, y: sigmoid(x) * sigmoid(-x),
        lambda x, y: -x / 2,
        signed_data,
        "Cox 1958; Gluon",
    ),
    "logistic binary": Reference(
        fl.LogisticLoss,
        **SIGMOID,
        data=binary_data,
        source="Cox 1958; Gluon",
        parameters={"label_format": "binary"},
    ),
    "smoothed hinge": Reference(fl.SmoothedHingeLoss, **smoothed_hinge(1, 1), source="Rennie and Srebro 2005"),
    "smoothed hinge binary": Reference(
        fl.SmoothedHingeLoss,
        **smoothed_hinge(0.5, 1, binary=True),
        source="Shalev-Shwartz and Zhang 2013",
        parameters={"gamma": 0.5, "label_format": "binary"},
    ),
    "modified Huber": Reference(fl.ModifiedHuberLoss, **smoothed_hinge(2, 4), source="Zhang 2004"),
    "hinge embedding": Reference(fl.HingeEmbeddingLoss, **hinge_embedding(1), source="Hadsell et al. 2006"),
    "exponential": Reference(
        fl.ExponentialLoss, **exponential(0.5, 0.5), data=signed_data, source="Freund and Schapire 1997"
    ),
    "exponential binary": Reference(
        fl.ExponentialLoss,
        **exponential(1, 0),
        data=binary_data,
        source="Freund and Schapire 1997",
        parameters={"label_format": "binary"},
    ),
    "BCE": Reference(
        fl.SigmoidBinaryCrossEntropyLoss,
        **SIGMOID,
        data=binary_data,
        source="Good 1952; Gluon",
        loop="many operations: values are stored in a block, and summed there; an input more may come, and does not",
    ),
    "BCE pos_weight": Reference(
        fl.SigmoidBinaryCrossEntropyLoss,
        **SIGMOID,
        data=weighted(binary_data),
        source="Gluon",
        third="pos_weight",
        third_gradient=lambda x, y, q: y * np.log(1 + np.exp(-x)),
        loop="three inputs, of which the third has a gradient, and lies along the last axis",
    ),
    "BCE from_sigmoid": Reference(
        fl.SigmoidBinaryCrossEntropyLoss,
        **PROBABILITY,
        data=probability_data,
        source="Gluon",
        parameters={"from_sigmoid": True},
    ),
    "BCE from_sigmoid pos_weight": Reference(
        fl.SigmoidBinaryCrossEntropyLoss,
        **PROBABILITY,
        data=weighted(probability_data),
        source="Gluon",
        third="pos_weight",
        third_gradient=lambda x, y, q: -y * np.log(x + 1e-12),
        parameters={"from_sigmoid": True},
    ),
    "poly BCE": Reference(
        fl.PolyBCELoss,
        lambda x, y: y * (np.log(1 + np.exp(-x)) + sigmoid(-x)) + (1 - y) * (np.log(1 + np.exp(x)) + sigmoid(x)),
        lambda x, y: sigmoid(x) - y + (1 - 2 * y) * sigmoid(x) * sigmoid(-x),
        lambda x, y: sigmoid(x) * sigmoid(-x) * (1 + (1 - 2 * y) * (sigmoid(-x) - sigmoid(x))),
        lambda x, y: -x + sigmoid(-x) - sigmoid(x),
        binary_data,
        "Leng et al. 2022",
    ),
    "focal": Reference(
        fl.SigmoidFocalLoss,
        **focal(0.25, (2, 2)),
        source="Lin et al. 2017",
        loop="two inputs, of which the second has no gradient",
    ),
    "focal without alpha": Reference(
        fl.SigmoidFocalLoss,
        **focal(None, (0.5, 0.5)),
        source="Lin et al. 2017",
        parameters={"alpha": None, "gamma": 0.5},
    ),
    "asymmetric": Reference(fl.AsymmetricLoss, **focal(None, (1, 4), 0.05), source="Ridnik et al. 2021"),
    "asymmetric without clip": Reference(
        fl.AsymmetricLoss, **focal(None, (1, 4)), source="Ridnik et al. 2021", parameters={"clip": 0}
    ),
    "Poisson": Reference(fl.PoissonNLLLoss, **poisson(logits=True, full=False), data=count_data, source="Gluon"),
    "Poisson full": Reference(
        fl.PoissonNLLLoss,
        **poisson(logits=True, full=True),
        data=count_data,
        source="Gluon",
        parameters={"compute_full": True},
    ),
    "Poisson rate": Reference(
        fl.PoissonNLLLoss,
        **poisson(logits=False, full=False),
        data=rate_data,
        source="Gluon",
        parameters={"from_logits": False},
        loop="three inputs, of which the third is not given, and has a default",
    ),
    "Poisson rate epsilon": Reference(
        fl.PoissonNLLLoss,
        **poisson(logits=False, full=False),
        data=rate_data_epsilon,
        source="Gluon",
        third="epsilon",
        parameters={"from_logits": False},
        loop="three inputs, of which the third is a single number without a gradient",
    ),
    "Poisson rate full": Reference(
        fl.PoissonNLLLoss,
        **poisson(logits=False, full=True),
        data=rate_data,
        source="Gluon",
        parameters={"from_logits": False, "compute_full": True},
    ),
    "negative binomial": Reference(
        fl.NegativeBinomialLoss,
        **negative_binomial(2.5),
        data=count_data,
        source="Lawless 1987",
        parameters={"theta": 2.5},
    ),
    "negative binomial full": Reference(
        fl.NegativeBinomialLoss,
        **negative_binomial_full(2.5),
        data=count_data,
        source="Lawless 1987",
        is_traced=False,
        parameters={"theta": 2.5, "compute_full": True},
    ),
    "binomial": Reference(
        fl.BinomialLoss, **BINOMIAL, data=trials_data, source="McCullagh and Nelder 1989", third="trials"
    ),
    "binomial full": Reference(
        fl.BinomialLoss,
        **BINOMIAL_FULL,
        data=trials_data,
        source="McCullagh and Nelder 1989",
        third="trials",
        is_traced=False,
        parameters={"compute_full": True},
    ),
    "gamma": Reference(
        fl.GammaLoss,
        lambda x, y: x + y * np.exp(-x),
        lambda x, y: 1 - y * np.exp(-x),
        lambda x, y: y * np.exp(-x),
        lambda x, y: np.exp(-x),
        positive_data,
        "McCullagh and Nelder 1989",
    ),
    "inverse Gaussian": Reference(
        fl.InverseGaussianLoss,
        lambda x, y: y * np.exp(-2 * x) / 2 - np.exp(-x),
        lambda x, y: np.exp(-x) - y * np.exp(-2 * x),
        lambda x, y: 2 * y * np.exp(-2 * x) - np.exp(-x),
        lambda x, y: np.exp(-2 * x) / 2,
        positive_data,
        "Tweedie 1957",
    ),
    "Tweedie": Reference(fl.TweedieLoss, **tweedie(1.5), data=claim_data, source="Tweedie 1984"),
    "deviance power=1": Reference(
        fl.TweedieLoss,
        **deviance(1),
        data=positive_data,
        source="Nelder and Wedderburn 1972",
        parameters={"power": 1, "deviance": True},
    ),
    "deviance power=1.5": Reference(
        fl.TweedieLoss,
        **deviance(1.5),
        data=positive_data,
        source="Tweedie 1984",
        parameters={"deviance": True},
    ),
    "Tweedie power=2.5": Reference(
        fl.TweedieLoss, **tweedie(2.5), data=positive_data, source="Jorgensen 1987", parameters={"power": 2.5}
    ),
    "Gaussian": Reference(
        fl.GaussianNLLLoss,
        **gaussian(1, 0),
        source="Nix and Weigend 1994",
        third="log_variance",
        loop="three inputs, of which the third has a Hessian, too",
    ),
    "Gaussian log_scale": Reference(
        fl.GaussianNLLLoss,
        **gaussian(2, math.log(2 * math.pi) / 2),
        source="NGBoost",
        third="log_scale",
        parameters={"scale": "log_scale", "compute_full": True},
    ),
    "Gaussian variance": Reference(
        fl.GaussianNLLLoss,
        **gaussian_of_variance(1e-6),
        source="PyTorch",
        third="variance",
        parameters={"scale": "variance", "compute_full": True},
    ),
    "Laplace": Reference(fl.LaplaceNLLLoss, **laplace(), source="Laplace 1774", third="log_scale"),
    "Student's t": Reference(
        fl.StudentTNLLLoss,
        **student(4),
        source="Lange et al. 1989",
        third="log_scale",
        parameters={"df": 4, "compute_full": True},
    ),
    "AFT": Reference(
        fl.AFTLoss,
        **logistic_duration(0.5),
        source="Barnwal et al. 2022",
        third="upper",
        is_traced=False,
        parameters={"scale": 0.5},
        loop="three inputs, of which the first alone has a gradient",
    ),
    "AFT extreme": Reference(
        fl.AFTLoss,
        **extreme_duration(2),
        source="Barnwal et al. 2022",
        third="upper",
        is_traced=False,
        parameters={"distribution": "extreme", "scale": 2},
    ),
    "AFT normal": Reference(
        fl.AFTLoss,
        **normal_duration(0.75),
        source="Barnwal et al. 2022",
        third="upper",
        is_traced=False,
        parameters={"distribution": "normal", "scale": 0.75},
    ),
    "ordinal": Reference(fl.OrdinalLoss, **ordinal(), source="McCullagh 1980", third="upper", is_traced=False),
    "KL": Reference(
        fl.KLDivLoss,
        lambda x, y: y * (np.log(y + 1e-12) - x),
        lambda x, y: -y,
        lambda x, y: 0 * x,
        lambda x, y: np.log(y + 1e-12) - x + y / (y + 1e-12),
        distribution_data,
        "Kullback and Leibler 1951; Gluon",
    ),
    "softmax": Reference(**softmax(), loop="class ids over few classes, whose rows are taken several at a time"),
    "softmax ignore": Reference(**softmax(ignore=-1)),
    "softmax class_weight": Reference(**softmax(class_weight=CLASS_WEIGHT)),
    "softmax class_weight ignore": Reference(
        **softmax(class_weight=CLASS_WEIGHT, ignore=2),
        loop="the same, with a weight that the id has, and ids that are left out",
    ),
    "softmax class_weight of any sign": Reference(**softmax(class_weight=SIGNED_WEIGHT, ignore=2)),
    # in float64, these are too many for the loop over rows of few
    "softmax 97 classes": Reference(
        **softmax(classes=97, class_weight=97 * (0.5,), ignore=3),
        loop="class ids over more classes, whose rows are taken one after another",
    ),
    "softmax smoothing": Reference(**softmax(smoothing=0.1, ignore=-100)),
    "softmax smoothing class_weight": Reference(
        **softmax(smoothing=0.1, class_weight=CLASS_WEIGHT),
        loop="class ids that become targets, of rows taken several at a time",
    ),
    "softmax dense": Reference(
        **softmax(sparse=False), loop="targets, which have a gradient, of rows taken several at a time"
    ),
    "softmax dense smoothing": Reference(**softmax(sparse=False, smoothing=0.25)),
    "softmax dense smoothing class_weight": Reference(
        **softmax(sparse=False, smoothing=0.2, class_weight=CLASS_WEIGHT),
        loop="targets that are changed before they are used",
    ),
    "softmax dense smoothing 193 classes": Reference(
        **softmax(sparse=False, smoothing=0.2, classes=193, class_weight=193 * (0.5,)),
        loop="targets over more classes than the loop over few takes",
    ),
    "softmax z_loss": Reference(**softmax(z_loss=0.125, class_weight=CLASS_WEIGHT, ignore=-1)),
    "softmax dense z_loss": Reference(**softmax(z_loss=0.125, sparse=False, smoothing=0.1)),
    "softmax softcap": Reference(**softmax(softcap=2, ignore=-1)),
    "softmax softcap logit_bias": Reference(
        **softmax(softcap=3, logit_bias=SIGNED_WEIGHT, class_weight=CLASS_WEIGHT, ignore=2)
    ),
    "softmax dense softcap z_loss": Reference(**softmax(softcap=2, z_loss=0.125, sparse=False, smoothing=0.1)),
    "softmax log-probabilities ignore": Reference(**softmax(log_probabilities=True, ignore=1)),
    "softmax log-probabilities": Reference(
        **softmax(log_probabilities=True, class_weight=CLASS_WEIGHT, ignore=-1),
        loop="class ids whose row is read at one place",
    ),
    "softmax dense log-probabilities": Reference(
        **softmax(sparse=False, log_probabilities=True), loop="targets beside what is linear in them"
    ),
    "softmax focal": Reference(fl.SoftmaxFocalLoss, **softmax_focal(2), source="Lin et al. 2017"),
    "softmax focal class_weight ignore": Reference(
        fl.SoftmaxFocalLoss,
        **softmax_focal(2.5, class_weight=CLASS_WEIGHT, ignore=2),
        source="Lin et al. 2017",
        parameters={"gamma": 2.5, "class_weight": CLASS_WEIGHT, "ignore_index": 2},
    ),
    "softmax poly": Reference(
        fl.PolyCELoss,
        **of_entropy(lambda s: s + 2 * (1 - np.exp(-s)), lambda s: 1 + 2 * np.exp(-s), lambda s: -2 * np.exp(-s)),
        source="Leng et al. 2022",
    ),
    "generalized cross-entropy": Reference(
        fl.GeneralizedCELoss,
        **of_entropy(
            lambda s: (1 - np.exp(-0.7 * s)) / 0.7, lambda s: np.exp(-0.7 * s), lambda s: -0.7 * np.exp(-0.7 * s)
        ),
        source="Zhang and Sabuncu 2018",
    ),
    "multi-margin": Reference(fl.MultiMarginLoss, **multi_margin(1, 1), source="Weston and Watkins 1999"),
    "multi-margin squared": Reference(
        fl.MultiMarginLoss,
        **multi_margin(2, 0.5, class_weight=CLASS_WEIGHT, ignore=2),
        source="Weston and Watkins 1999",
        parameters={"p": 2, "margin": 0.5, "class_weight": CLASS_WEIGHT, "ignore_index": 2},
    ),
    "Crammer-Singer": Reference(
        fl.CrammerSingerLoss, **crammer_singer(), source="Crammer and Singer 2001", is_traced=False
    ),
}


@dataclass(frozen=True)
class Expected:
    """What every method of a loss should return."""

    value: Array
    gradient: Array
    hessian: Array
    label_gradient: Array | None
    third_gradient: Array | None
    third_hessian: Array | None
    weight_gradient: Array
    weight_terms: Array  # what the gradient in the weights is a difference of, at the largest


def unbroadcast(a: Array, shape: tuple[int, ...]) -> Array:
    """Sums a over the axes along which an array of the given shape was repeated."""
    a = a.sum(tuple(range(a.ndim - len(shape))))
    return np.asarray(a.sum(tuple(i for i, n in enumerate(shape) if n == 1 and a.shape[i] != 1), keepdims=True))


def expected(
    reference: Reference,
    inputs: tuple[Array, ...],
    sample_weight: Array | None = None,
    *,
    weight: float = 1,
    batch_axis: int = 0,
    reduction: str = "example",
    head_grad: Array | float = 1,
) -> Expected:
    """The results in float64; sample_weight must broadcast against the unreduced loss."""
    inputs = tuple(np.asarray(a, float) for a in inputs)
    pred = inputs[0]
    unreduced = reference.value(*inputs)
    given = np.ones(()) if sample_weight is None else np.asarray(sample_weight, float)
    s = np.broadcast_to(given, unreduced.shape)
    per_class = np.ones(unreduced.shape) if reference.class_weight is None else reference.class_weight(*inputs)
    batch = batch_axis % max(pred.ndim, 1)
    others = tuple(k for k in range(unreduced.ndim) if k != batch)

    axes: tuple[int, ...] = ()
    if reduction == "none":
        count = 1.0
    elif reduction == "example":
        count, axes = unreduced.size / max(unreduced.shape[batch], 1) if unreduced.ndim else 1.0, others
    else:
        count = {"sum": 1.0, "mean": unreduced.size, "weighted_mean": (s * per_class).sum()}[reduction]
        axes = tuple(range(unreduced.ndim))
    scale = weight / count if count else 0.0
    value = (s * unreduced * scale).sum(axes)
    head = np.asarray(head_grad, float)
    spread = np.expand_dims(head, axes) if head.ndim and axes else head
    factor = np.broadcast_to(scale * spread, unreduced.shape)
    to_pred = (s * factor)[..., None] if reference.row else s * factor
    weight_gradient = factor * unreduced
    weight_terms = unbroadcast(abs(weight_gradient), given.shape)
    if reduction == "weighted_mean" and count:
        weight_gradient = weight_gradient - value / count * per_class * head
    return Expected(
        value,
        to_pred * reference.gradient(*inputs),
        to_pred * reference.hessian(*inputs),
        None if reference.label_gradient is None else to_pred * reference.label_gradient(*inputs),
        *[
            None if formula is None else unbroadcast(to_pred * formula(*inputs), inputs[2].shape)
            for formula in (reference.third_gradient, reference.third_hessian)
        ],
        unbroadcast(weight_gradient, given.shape),
        weight_terms,
    )
