"""How each library computes the mean of a loss and its gradient: as one who knows it well would write it.

A contender prepares a step, which does nothing but compute; None where it has no such loss. All get the same inputs and
number of threads; XLA, which cannot be told, takes every core.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np
from cases import OTHERS, Array, Result, Step, numpy_formula

import fastloss as fl
from tests.described import in_terms_of

Prepare = Callable[..., Step | None]  # of the name of a loss and its inputs


def fastloss_step(loss: str, *inputs: Array) -> Step:
    """Prepare fastloss."""
    if loss in OTHERS:
        case = OTHERS[loss].case
        named: dict[str, Any] = dict(zip(case.names, inputs, strict=False))
        return partial(case.build(reduction="mean").value_and_grad, **named)
    # the others have no half in front of the squared error; a factor costs nothing
    factor = 2 if loss == "L2Loss" else 1
    return partial(getattr(fl, loss)(weight=factor, reduction="mean").value_and_grad, *inputs)


def numpy_step(loss: str, *inputs: Array) -> Step:
    """Prepare NumPy."""
    return partial(numpy_formula(loss), *inputs)


def torch_formulas() -> dict[str, Callable[..., Any]]:
    import torch
    from torch.nn import functional

    def kl_divergence(x: Any, y: Any) -> Any:
        # "mean" warns at each call, which costs time; with one axis "batchmean" is the same
        return functional.kl_div(x, y, reduction="batchmean")

    return {
        "L1Loss": functional.l1_loss,
        "L2Loss": functional.mse_loss,
        "HuberLoss": functional.smooth_l1_loss,
        "HingeLoss": lambda x, y: torch.clamp(1 - x * y, min=0).mean(),
        "SquaredHingeLoss": lambda x, y: torch.clamp(1 - x * y, min=0).square().mean(),
        "LogisticLoss": functional.soft_margin_loss,
        "SigmoidBCELoss": functional.binary_cross_entropy_with_logits,
        "PoissonNLLLoss": functional.poisson_nll_loss,
        "KLDivLoss": kl_divergence,
        "SoftmaxCELoss": functional.cross_entropy,
    }


def torch_formula(loss: str, *, compiled: bool) -> Callable[..., Any] | None:
    """Return the mean of a loss in PyTorch, which runs the tests' formulas only compiled."""
    import torch

    if loss not in OTHERS:
        return torch_formulas()[loss]
    if not (compiled and OTHERS[loss].case.is_traced):
        return None
    value = torch.compiler.wrap_numpy(OTHERS[loss].case.value)  # type: ignore[no-untyped-call]
    return lambda *inputs: value(*inputs).mean()


def torch_step(loss: str, *inputs: Array, compiled: bool = False) -> Step | None:
    """Prepare PyTorch: eager, or compiled for this shape."""
    import torch

    formula = torch_formula(loss, compiled=compiled)
    if formula is None:
        return None
    if compiled:
        torch.compiler.reset()
        formula = torch.compile(formula, dynamic=False)
    # copies, because PyTorch aligns its own memory better than NumPy does
    x, *others = (torch.tensor(a, requires_grad=k == 0) for k, a in enumerate(inputs))

    def step() -> Result:
        x.grad = None
        value = formula(x, *others)
        value.backward()
        return value, x.grad

    return step


def jax_step(loss: str, *inputs: Array) -> Step | None:
    """Prepare JAX under jit."""
    if loss in OTHERS and not OTHERS[loss].case.is_traced:
        return None
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

    def huber(x: Any, y: Any) -> Any:
        a = jnp.abs(x - y)
        return jnp.where(a <= 1, jnp.square(a) / 2, a - 0.5)

    def cross_entropy(x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1)

    formulas: dict[str, Callable[[Any, Any], Any]] = {
        "L1Loss": lambda x, y: jnp.abs(x - y),
        "L2Loss": lambda x, y: jnp.square(x - y),
        "HuberLoss": huber,
        "HingeLoss": lambda x, y: jax.nn.relu(1 - x * y),
        "SquaredHingeLoss": lambda x, y: jnp.square(jax.nn.relu(1 - x * y)),
        "LogisticLoss": lambda x, y: jax.nn.softplus(-x * y),
        "SigmoidBCELoss": lambda x, y: jax.nn.softplus(x) - x * y,
        "PoissonNLLLoss": lambda x, y: jnp.exp(x) - x * y,
        "KLDivLoss": lambda x, y: y * (jnp.log(y + 1e-12) - x),
        "SoftmaxCELoss": cross_entropy,
    }
    formula = in_terms_of(OTHERS[loss].case.value, jnp) if loss in OTHERS else formulas[loss]
    function = jax.jit(jax.value_and_grad(lambda *inputs: formula(*inputs).mean()))
    arrays = [jnp.asarray(a) for a in inputs]

    def step() -> Result:
        return jax.block_until_ready(function(*arrays))  # type: ignore[no-any-return, no-untyped-call]

    return step


@cache
def numba_functions() -> dict[str, Callable[[Array, Array], Result]]:
    """Return a parallel loop for each loss. Constants have the inputs' type, or all would be computed in double."""
    import numba

    def inline(function: Callable[..., Any]) -> Any:
        return numba.njit(inline="always")(function)

    def parallel(function: Callable[..., Result]) -> Any:
        return numba.njit(parallel=True, fastmath=True)(function)

    def l1(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        z = x - y
        return abs(z), one if z > 0 else (-one if z < 0 else z)

    def l2(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        z = x - y
        return z * z, z + z

    def huber(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        z = x - y
        a = abs(z)
        c = min(a, one)
        return c * (a - c / (one + one)), c if z > 0 else -c

    def hinge(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        z = one - x * y
        return (z, -y) if z > 0 else (one - one, one - one)

    def squared_hinge(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        z = max(one - x * y, one - one)
        return z * z, -(z + z) * y

    def logistic(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        z = -x * y
        e = math.exp(-abs(z))
        return max(z, one - one) + math.log1p(e), -y * (one if z > 0 else e) / (one + e)

    def sigmoid_bce(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        e = math.exp(-abs(x))
        return max(x, one - one) + math.log1p(e) - x * y, (one if x > 0 else e) / (one + e) - y

    def poisson(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        rate = math.exp(x)
        return rate - x * y, rate - y

    def kl_divergence(x: Any, y: Any, one: Any, tiny: Any) -> Any:
        return y * (math.log(y + tiny) - x), -y

    def over_elements(scalar: Any) -> Any:
        scalar = inline(scalar)

        @parallel
        def function(x: Any, y: Any) -> Any:
            one, tiny = x.dtype.type(1), x.dtype.type(1e-12)
            factor = x.dtype.type(1 / x.size)
            g = np.empty_like(x)
            total = 0.0
            for i in numba.prange(x.size):
                value, slope = scalar(x[i], y[i], one, tiny)
                total += value
                g[i] = slope * factor
            return x.dtype.type(total / x.size), g

        return function

    @parallel
    def softmax_ce(x: Any, y: Any) -> Any:
        factor = x.dtype.type(1 / len(x))
        g = np.empty_like(x)
        total = 0.0
        for i in numba.prange(len(x)):
            top = x[i].max()
            norm = x.dtype.type(0)
            for j in range(x.shape[1]):
                g[i, j] = math.exp(x[i, j] - top)
                norm += g[i, j]
            for j in range(x.shape[1]):
                g[i, j] *= factor / norm
            g[i, y[i]] -= factor
            total += math.log(norm) + top - x[i, y[i]]
        return x.dtype.type(total / len(x)), g

    scalars = {
        "L1Loss": l1,
        "L2Loss": l2,
        "HuberLoss": huber,
        "HingeLoss": hinge,
        "SquaredHingeLoss": squared_hinge,
        "LogisticLoss": logistic,
        "SigmoidBCELoss": sigmoid_bce,
        "PoissonNLLLoss": poisson,
        "KLDivLoss": kl_divergence,
    }
    return {name: over_elements(scalar) for name, scalar in scalars.items()} | {"SoftmaxCELoss": softmax_ce}


def numba_step(loss: str, *inputs: Array) -> Step | None:
    """Prepare numba, for the losses that have a loop above."""
    function = numba_functions().get(loss)
    return function and partial(function, *inputs)


sklearn_threads = 1


def sklearn_step(loss: str, pred: Array, label: Array, *others: Array) -> Step | None:
    """Prepare the losses of scikit-learn's own models. A weight makes of its gradient of a sum that of the mean."""
    from sklearn import _loss

    classes: dict[str, Callable[[], Any]] = {
        "L1Loss": _loss.AbsoluteError,
        "L2Loss": _loss.HalfSquaredError,
        "HuberLoss": partial(_loss.HuberLoss, delta=1.0),
        "SigmoidBCELoss": _loss.HalfBinomialLoss,
        "PoissonNLLLoss": _loss.HalfPoissonLoss,
        "SoftmaxCELoss": partial(_loss.HalfMultinomialLoss, n_classes=pred.shape[-1]),
    }
    if loss not in classes:
        return None
    function = classes[loss]()
    target = label.astype(pred.dtype)
    weight = np.full(len(pred), (2 if loss == "L2Loss" else 1) / len(pred), pred.dtype)

    def step() -> Result:
        value, gradient = function.loss_gradient(target, pred, weight, n_threads=sklearn_threads)
        # their sum: in float32 NumPy adds pairwise
        return value.sum(), gradient

    return step


NUMEXPR = {
    "L1Loss": ("abs(x - y)", "where(x > y, c, where(x < y, -c, 0 * c))"),
    "L2Loss": ("(x - y) * (x - y)", "(x - y) * (c + c)"),
    "HingeLoss": ("where(one > x * y, one - x * y, 0 * one)", "where(one > x * y, -y * c, 0 * c)"),
    "PoissonNLLLoss": ("exp(x) - x * y", "(exp(x) - y) * c"),
    "LogisticLoss": (
        "where(x * y > 0, 0 * x, -x * y) + log1p(exp(-abs(x)))",
        "-y * c * where(x * y > 0, exp(-abs(x)), one) / (one + exp(-abs(x)))",
    ),
    "SigmoidBCELoss": (
        "where(x > 0, x, 0 * x) + log1p(exp(-abs(x))) - x * y",
        "(where(x > 0, one, exp(-abs(x))) / (one + exp(-abs(x))) - y) * c",
    ),
    "KLDivLoss": ("y * (log(y + eps) - x)", "-y * c"),
}


def numexpr_step(loss: str, pred: Array, label: Array, *others: Array) -> Step | None:
    """Prepare numexpr, which has no loop over rows, and evaluates one expression at a time."""
    import numexpr

    if loss not in NUMEXPR:
        return None
    value, gradient = NUMEXPR[loss]
    real = pred.dtype.type
    names = {"x": pred, "y": label, "one": real(1), "eps": real(1e-12), "c": real(1 / pred.size)}

    def step() -> Result:
        return numexpr.evaluate(value, names).mean(), numexpr.evaluate(gradient, names)

    return step


def set_torch_threads(n: int) -> None:
    import torch

    torch.set_num_threads(n)


def set_numba_threads(n: int) -> None:
    import numba

    numba.set_num_threads(n)


def set_numexpr_threads(n: int) -> None:
    import numexpr

    numexpr.set_num_threads(n)


def set_sklearn_threads(n: int) -> None:
    global sklearn_threads
    sklearn_threads = n


def ignore_threads(n: int) -> None:
    """Do nothing, for a contender that cannot be told."""


@dataclass(frozen=True)
class Contender:
    """A library: its name, the package and program it needs, and how to prepare a step from a loss, pred and label."""

    name: str
    package: str
    prepare: Prepare
    set_threads: Callable[[int], None] = ignore_threads
    program: str = ""

    @property
    def missing(self) -> str:
        """What it needs and is not installed; empty if all of it is."""
        if find_spec(self.package) is None:
            return self.package
        return "" if not self.program or shutil.which(self.program) else self.program

    @property
    def installed(self) -> bool:
        return not self.missing

    @property
    def distribution(self) -> str:
        return "scikit-learn" if self.package == "sklearn" else self.package


# the compiler that torch.compile calls, as PyTorch looks for it
CXX = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")

CONTENDERS = (
    Contender("fastloss", "fastloss", fastloss_step, fl.set_num_threads),
    Contender("torch", "torch", torch_step, set_torch_threads),
    Contender("torch compiled", "torch", partial(torch_step, compiled=True), set_torch_threads, program=CXX),
    Contender("jax", "jax", jax_step),
    Contender("numba", "numba", numba_step, set_numba_threads),
    Contender("sklearn", "sklearn", sklearn_step, set_sklearn_threads),
    Contender("numexpr", "numexpr", numexpr_step, set_numexpr_threads),
    Contender("numpy", "numpy", numpy_step),
)
