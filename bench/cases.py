"""What is compared: the cases, and how each contender computes the value and the gradient of each loss.

Every contender computes the mean loss and its gradient with respect to pred, both in pred's dtype, into fresh memory.
:data:`CONTENDERS` has an entry for each of them, :data:`CASES` for each loss, shape and dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import fastloss as fl

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[Any]
Result: TypeAlias = tuple[Any, Any]  # the value, which has item(), and the gradient, which NumPy can read
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


@dataclass(frozen=True)
class Case:
    """A loss on data of one shape and dtype."""

    loss: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.loss} {self.dtype} {'x'.join(map(str, self.shape))}"


class Problem(NamedTuple):
    """The inputs of a case, and the value and gradient that they must give, in double precision."""

    pred: Array
    label: Array
    value: Any
    grad: Array

    def check(self, result: Result) -> None:
        """Raise AssertionError unless a contender's result is right to the precision of pred's dtype."""
        value, grad = result[0].item(), np.asarray(result[1])
        assert grad.dtype == self.pred.dtype
        epsilon = float(np.finfo(grad.dtype).eps)
        np.testing.assert_allclose(value, self.value, rtol=100 * epsilon)
        # differences such as sigmoid(x) - y cancel: small gradients are only as exact as the large ones
        atol = 4 * epsilon * np.abs(self.grad).max()
        np.testing.assert_allclose(grad, self.grad, rtol=100 * epsilon, atol=atol)


# the contenders of a case come one after the other; the problems of all cases would fill the memory
@lru_cache(maxsize=1)
def problem(case: Case) -> Problem:
    """Return the problem of a case, the same at every call."""
    pred, label = DATA[case.loss](np.random.default_rng(0), case.shape)
    pred = pred.astype(case.dtype)
    if label.dtype.kind == "f":
        label = label.astype(case.dtype)
    return Problem(pred, label, *NUMPY[case.loss](pred.astype(np.float64), label))


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


def numpy_step(loss: str, pred: Array, label: Array) -> Step:
    """Prepare NumPy."""
    return partial(NUMPY[loss], pred, label)


def fastloss_step(loss: str, pred: Array, label: Array) -> Step:
    """Prepare fastloss."""
    # the others have no half in front of the squared error; a factor costs nothing
    factor = 2 if loss == "L2Loss" else 1
    return partial(getattr(fl, loss)(weight=factor, reduction="mean").value_and_grad, pred, label)


def torch_step(loss: str, pred: Array, label: Array) -> Step:
    """Prepare PyTorch in eager mode."""
    import torch
    from torch.nn import functional

    def hinge(x: Tensor, y: Tensor) -> Tensor:
        return torch.clamp(1 - x * y, min=0).mean()

    def squared_hinge(x: Tensor, y: Tensor) -> Tensor:
        return torch.clamp(1 - x * y, min=0).square().mean()

    formulas: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "L1Loss": functional.l1_loss,
        "L2Loss": functional.mse_loss,
        "HuberLoss": functional.smooth_l1_loss,
        "HingeLoss": hinge,
        "SquaredHingeLoss": squared_hinge,
        "LogisticLoss": functional.soft_margin_loss,
        "SigmoidBCELoss": functional.binary_cross_entropy_with_logits,
        "PoissonNLLLoss": functional.poisson_nll_loss,
        # "mean" warns at each call, which costs time; with one axis "batchmean" is the same
        "KLDivLoss": partial(functional.kl_div, reduction="batchmean"),
        "SoftmaxCELoss": functional.cross_entropy,
    }
    formula = formulas[loss]
    # copies, because PyTorch aligns its own memory better than NumPy does
    x, y = torch.tensor(pred, requires_grad=True), torch.tensor(label)

    def step() -> Result:
        x.grad = None
        value = formula(x, y)
        value.backward()  # type: ignore[no-untyped-call]
        return value, x.grad

    return step


def set_torch_threads(n: int) -> None:
    """Let PyTorch use n threads."""
    import torch

    torch.set_num_threads(n)


def ignore_threads(n: int) -> None:
    """Do nothing, for a contender that has one thread."""


@dataclass(frozen=True)
class Contender:
    """A library: the module that it needs, and how to prepare a step from a loss, pred and label."""

    module: str
    prepare: Callable[[str, Array, Array], Step]
    set_threads: Callable[[int], None] = ignore_threads


CONTENDERS = (
    Contender("fastloss", fastloss_step, fl.set_num_threads),
    Contender("numpy", numpy_step),
    Contender("torch", torch_step, set_torch_threads),
)

SIZES = (8, 65_536, 4_194_304)
MATRICES = ((4096, 1000), (512, 32_000), (65_536, 10))

CASES = tuple(
    Case(loss, shape)
    for loss, data in DATA.items()
    for shape in (MATRICES if data is class_ids else [(size,) for size in SIZES])
)
