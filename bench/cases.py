"""What is compared: losses on data of several sizes, and the values and gradients that are right.

Asked for are the mean loss and its gradient with respect to pred, both in pred's dtype, into fresh memory.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastloss as fl

# the path of a script begins with its own folder
sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.described import described

Array: TypeAlias = NDArray[Any]
Result: TypeAlias = tuple[Any, Any]  # the value, a number or what holds one, and the gradient, which NumPy can read
Step: TypeAlias = Callable[[], Result]

DISTRIBUTION = 8  # how many probabilities sum to 1; divides every elementwise size


def real_labels(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Normal predictions and labels."""
    return rng.standard_normal(shape), rng.standard_normal(shape)


def signed_labels(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Scores, and labels -1 and +1."""
    return rng.standard_normal(shape), rng.choice((-1.0, 1.0), shape)


def binary_labels(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Log-odds, and labels 0 and 1."""
    return rng.standard_normal(shape), rng.choice((0.0, 1.0), shape)


def counts(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Logarithms of rates, and counts."""
    return rng.standard_normal(shape), rng.poisson(2.0, shape).astype(np.float64)


def distributions(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Log-probabilities and probabilities."""
    pred, label = rng.dirichlet(np.ones(DISTRIBUTION), (2, int(np.prod(shape)) // DISTRIBUTION))
    return np.log(pred).reshape(shape), label.reshape(shape)


def class_ids(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Logits, and a class id for each row."""
    return rng.standard_normal(shape), rng.integers(shape[1], size=shape[0])


DATA = {
    "L1Loss": real_labels,
    "L2Loss": real_labels,
    "HuberLoss": real_labels,
    "HingeLoss": signed_labels,
    "SquaredHingeLoss": signed_labels,
    "LogisticLoss": signed_labels,
    "SigmoidBCELoss": binary_labels,
    "PoissonNLLLoss": counts,
    "KLDivLoss": distributions,
    "SoftmaxCELoss": class_ids,
}
# the losses that are not named here, over vectors, pairs and sequences, of which structured.py has larger ones
OTHERS = described((getattr(fl, name) for name in DATA), 1_048_576)


@dataclass(frozen=True)
class Case:
    """A loss on data of one shape and dtype."""

    loss: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def size(self) -> int:
        """How many numbers pred has."""
        return math.prod(self.shape)

    @property
    def is_described(self) -> bool:
        """Whether its inputs and its formulas are those of the tests."""
        return self.loss in OTHERS

    def __str__(self) -> str:
        return f"{self.loss} {self.dtype} {'x'.join(map(str, self.shape))}"


def number(value: Any) -> float:
    """Return the value of a loss as Python's number. PyTorch warns where the tensor still knows its derivative."""
    return float(value.detach() if hasattr(value, "detach") else value)


class Problem(NamedTuple):
    """The inputs of a case, and the value and gradient that they must give, in double precision."""

    inputs: tuple[Array, ...]
    value: Any
    grad: Array

    def check(self, result: Result) -> None:
        """Raise AssertionError unless a contender's result is right to the precision of pred's dtype."""
        value, grad = number(result[0]), np.asarray(result[1])
        assert grad.dtype == self.inputs[0].dtype, f"a gradient of {grad.dtype}"
        epsilon = float(np.finfo(grad.dtype).eps)
        # the error of a sum that is taken element by element grows like the root of their number; and PyTorch's KL
        # divergence lacks Gluon's epsilon of 1e-12
        np.testing.assert_allclose(value, self.value, rtol=(100 + np.sqrt(grad.size)) * epsilon, atol=2e-12)
        # differences such as sigmoid(x) - y cancel: small gradients are only as exact as the large ones
        atol = 4 * epsilon * np.abs(self.grad).max()
        np.testing.assert_allclose(grad, self.grad, rtol=100 * epsilon, atol=atol)


def described_data(case: Case, rng: np.random.Generator) -> tuple[Array, ...]:
    """Return the tests' data, moved off the kinks on which some of them lie: there libraries take other slopes."""
    pred, *others = OTHERS[case.loss].data(rng)
    return pred + 0.0123, *others


# the contenders of a case come one after the other; the problems of all cases would fill the memory
@lru_cache(maxsize=1)
def problem(case: Case) -> Problem:
    """Return the problem of a case, the same at every call."""
    rng = np.random.default_rng(0)
    drawn = described_data(case, rng) if case.is_described else DATA[case.loss](rng, case.shape)
    inputs = tuple(np.asarray(a, case.dtype if a.dtype.kind == "f" else None) for a in drawn)
    wide = (a.astype(np.float64) if a.dtype.kind == "f" else a for a in inputs)
    return Problem(inputs, *numpy_formula(case.loss)(*wide))


def numpy_l1(x: Array, y: Array) -> Result:
    """The absolute error."""
    d = x - y
    return np.abs(d).mean(), np.sign(d) / d.size


def numpy_l2(x: Array, y: Array) -> Result:
    """The squared error."""
    d = x - y
    return np.square(d).mean(), d * (2 / d.size)


def numpy_huber(x: Array, y: Array) -> Result:
    """The Huber loss with its threshold at 1."""
    d = x - y
    a = np.abs(d)
    return np.where(a <= 1, 0.5 * d * d, a - 0.5).mean(), np.clip(d, -1, 1) / d.size


def numpy_hinge(x: Array, y: Array) -> Result:
    """The hinge with margin 1."""
    slack = 1 - x * y
    return np.maximum(slack, 0).mean(), np.where(slack > 0, y * (-1 / y.size), 0)


def numpy_squared_hinge(x: Array, y: Array) -> Result:
    """The squared hinge with margin 1."""
    slack = np.maximum(1 - x * y, 0)
    return np.square(slack).mean(), slack * y * (-2 / y.size)


def softplus_and_sigmoid(x: Array) -> tuple[Array, Array]:
    """log(1 + exp(x)) and its derivative, without overflow."""
    e = np.exp(-np.abs(x))
    return np.maximum(x, 0) + np.log1p(e), np.where(x < 0, e, 1) / (1 + e)


def numpy_logistic(x: Array, y: Array) -> Result:
    """The logistic loss of labels -1 and +1."""
    softplus, sigmoid = softplus_and_sigmoid(-x * y)
    return softplus.mean(), sigmoid * y * (-1 / y.size)


def numpy_sigmoid_bce(x: Array, y: Array) -> Result:
    """Binary cross-entropy from logits."""
    softplus, sigmoid = softplus_and_sigmoid(x)
    return (softplus - x * y).mean(), (sigmoid - y) / y.size


def numpy_poisson(x: Array, y: Array) -> Result:
    """The Poisson negative log-likelihood from logarithms of rates."""
    rate = np.exp(x)
    return (rate - x * y).mean(), (rate - y) / y.size


def numpy_kl_divergence(x: Array, y: Array) -> Result:
    """The Kullback-Leibler divergence from log-probabilities."""
    return (y * (np.log(y + 1e-12) - x)).mean(), y * (-1 / y.size)


def numpy_softmax_ce(x: Array, y: Array) -> Result:
    """Softmax cross-entropy with a class id for each row."""
    rows = np.arange(len(x))
    shifted = x - x.max(axis=1, keepdims=True)
    grad = np.exp(shifted)
    total = grad.sum(axis=1, keepdims=True)
    grad /= total * len(x)
    grad[rows, y] -= 1 / len(x)
    return (np.log(total[:, 0]) - shifted[rows, y]).mean(), grad


NUMPY: dict[str, Callable[[Array, Array], Result]] = {
    "L1Loss": numpy_l1,
    "L2Loss": numpy_l2,
    "HuberLoss": numpy_huber,
    "HingeLoss": numpy_hinge,
    "SquaredHingeLoss": numpy_squared_hinge,
    "LogisticLoss": numpy_logistic,
    "SigmoidBCELoss": numpy_sigmoid_bce,
    "PoissonNLLLoss": numpy_poisson,
    "KLDivLoss": numpy_kl_divergence,
    "SoftmaxCELoss": numpy_softmax_ce,
}


def numpy_formula(loss: str) -> Callable[..., Result]:
    """Return the mean of a loss and its gradient in NumPy."""
    return NUMPY[loss] if loss in NUMPY else OTHERS[loss].mean


SIZES = (8, 4096, 65_536, 1_048_576, 16_777_216)
MATRICES = ((1, 8), (4, 1024), (64, 1024), (1024, 1024), (16_384, 1024), (4096, 1000), (512, 32_000), (65_536, 10))

CASES = (
    *(
        Case(loss, shape, dtype)
        for loss, data in DATA.items()
        for dtype in ("float32", "float64")
        for shape in (MATRICES if data is class_ids else [(size,) for size in SIZES])
    ),
    *(Case(loss, of.shape) for loss, of in OTHERS.items()),
)
