"""Measures how far values, gradients and Hessians are from the exact ones, beside PyTorch and JAX, and prints a table.

    python bench/accuracy.py > docs/accuracy.md

Errors are in units in the last place (ULP) of the exact result for the given inputs, computed with 120 digits; where a
loss is a sum of terms of either sign, of its largest term. PyTorch and JAX get the same formula, epsilon included.
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import mpmath as mp
import numpy as np

import fastloss as fl

mp.mp.dps = 120
POINTS = 400
# x, y: value, gradient, Hessian, and the largest term of the value and of the gradient
Exact = Callable[[Any, Any], tuple[Any, Any, Any, Any, Any]]
RESULTS = ("value", "gradient", "Hessian")


@dataclass(frozen=True)
class Case:
    """A loss, its exact values, its labels, and what it is in PyTorch (F) and JAX (jnp, nn)."""

    loss: fl.Loss
    exact: Exact
    labels: tuple[float, ...] | None  # None: real targets
    torch: Callable[[Any, Any, Any], Any]
    jax: Callable[[Any, Any, Any, Any], Any]


def plain(value: Any, gradient: Any, hessian: Any) -> tuple[Any, Any, Any, Any, Any]:
    """Return exact results that are their own largest terms."""
    return value, gradient, hessian, value, gradient


def huber(x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    z = x - y
    inside = abs(z) <= 1
    return plain(z * z / 2 if inside else abs(z) - mp.mpf(1) / 2, z if inside else mp.sign(z), mp.mpf(int(inside)))


def hinge(x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    z = max(mp.mpf(0), 1 - x * y)
    return plain(z, -y if z > 0 else mp.mpf(0), mp.mpf(0))


def squared_hinge(x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    z = max(mp.mpf(0), 1 - x * y)
    return plain(z * z, -2 * z * y, 2 * y * y if z > 0 else mp.mpf(0))


def logistic(margin: Any, sign: Any) -> tuple[Any, Any, Any, Any, Any]:
    """log(1 + e^-margin), for a margin whose derivative in x is sign."""
    p, q = 1 / (1 + mp.exp(margin)), 1 / (1 + mp.exp(-margin))
    return plain(mp.log1p(mp.exp(-margin)), -sign * p, p * q)


def cross_entropy(x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    p, q = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    positive, negative = y * mp.log1p(mp.exp(-x)), (1 - y) * mp.log1p(mp.exp(x))
    return positive + negative, (1 - y) * p - y * q, p * q, positive + negative, max((1 - y) * p, y * q)


def poisson(x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    rate = mp.exp(x)
    return rate - y * x, rate - y, rate, max(rate, abs(y * x)), max(rate, abs(y))


def divergence(x: Any, y: Any) -> tuple[Any, Any, Any, Any, Any]:
    z = mp.log(y + mp.mpf("1e-12"))
    return y * (z - x), -y, mp.mpf(0), y * max(abs(z), abs(x)), y


CASES = {
    "L1Loss": Case(
        fl.L1Loss(),
        lambda x, y: plain(abs(x - y), mp.sign(x - y), mp.mpf(0)),
        None,
        lambda F, x, y: F.l1_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: jnp.abs(x - y),
    ),
    "L2Loss": Case(
        fl.L2Loss(),
        lambda x, y: plain((x - y) ** 2 / 2, x - y, mp.mpf(1)),
        None,
        lambda F, x, y: F.mse_loss(x, y, reduction="none") / 2,
        lambda jnp, nn, x, y: jnp.square(x - y) / 2,
    ),
    "HuberLoss": Case(
        fl.HuberLoss(),
        huber,
        None,
        lambda F, x, y: F.huber_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: jnp.where(jnp.abs(x - y) <= 1, jnp.square(x - y) / 2, jnp.abs(x - y) - 0.5),
    ),
    "HingeLoss": Case(
        fl.HingeLoss(),
        hinge,
        (-1, 1),
        lambda F, x, y: (1 - x * y).clamp(min=0),
        lambda jnp, nn, x, y: nn.relu(1 - x * y),
    ),
    "SquaredHingeLoss": Case(
        fl.SquaredHingeLoss(),
        squared_hinge,
        (-1, 1),
        lambda F, x, y: (1 - x * y).clamp(min=0).square(),
        lambda jnp, nn, x, y: jnp.square(nn.relu(1 - x * y)),
    ),
    "LogisticLoss": Case(
        fl.LogisticLoss(),
        lambda x, y: logistic(x * y, y),
        (-1, 1),
        lambda F, x, y: F.soft_margin_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: nn.softplus(-x * y),
    ),
    "SigmoidBCELoss": Case(
        fl.SigmoidBCELoss(),
        cross_entropy,
        (0, 1),
        lambda F, x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda jnp, nn, x, y: -y * nn.log_sigmoid(x) - (1 - y) * nn.log_sigmoid(-x),
    ),
    "SigmoidBCELoss, soft labels": Case(
        fl.SigmoidBCELoss(),
        cross_entropy,
        (0.1, 0.7),
        lambda F, x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda jnp, nn, x, y: -y * nn.log_sigmoid(x) - (1 - y) * nn.log_sigmoid(-x),
    ),
    "PoissonNLLLoss": Case(
        fl.PoissonNLLLoss(reduction="none"),
        poisson,
        (0, 1, 7),
        lambda F, x, y: F.poisson_nll_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: jnp.exp(x) - y * x,
    ),
    "KLDivLoss": Case(
        fl.KLDivLoss(),
        divergence,
        (0.25, 1e-6, 0.999),
        lambda F, x, y: y * ((y + 1e-12).log() - x),
        lambda jnp, nn, x, y: y * (jnp.log(y + 1e-12) - x),
    ),
}


def inputs(case: Case, dtype: Any) -> tuple[Any, Any]:
    """Return predictions of every magnitude, each with every label or with a target of its own."""
    rng = np.random.default_rng(1)
    edge = 85 if dtype is np.float32 else 700
    x = np.concatenate([rng.uniform(-edge, edge, POINTS), rng.normal(size=POINTS), rng.normal(scale=1e-4, size=POINTS)])
    if case.labels is None:
        x = np.concatenate([x, rng.normal(size=POINTS) * 10.0 ** rng.uniform(-15, 15, POINTS)])
        return x.astype(dtype), (x[::-1] * rng.choice([0.0, 0.1, 1.0], x.size)).astype(dtype)
    y = np.repeat(np.array(case.labels), x.size)
    return np.tile(x, len(case.labels)).astype(dtype), y.astype(dtype)


def ours(case: Case, x: Any, y: Any) -> Any:
    return case.loss.value_grad_and_hess(x, y)


def torch_results(case: Case, x: Any, y: Any) -> Any:
    import torch
    import torch.nn.functional as F

    pred = torch.tensor(x, requires_grad=True)
    value = case.torch(F, pred, torch.tensor(y))
    value.sum().backward()  # type: ignore[no-untyped-call]
    return value.detach().numpy(), pred.grad.numpy() if pred.grad is not None else None


def jax_results(case: Case, x: Any, y: Any) -> Any:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

    def total(pred: Any) -> Any:
        value = case.jax(jnp, jax.nn, pred, y)
        return value.sum(), value

    (_, value), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(x)
    return np.asarray(value), np.asarray(gradient)


CONTENDERS = {"fastloss": ours, "torch": torch_results, "jax": jax_results}


def ulps(got: float, exact: Any, largest: Any, dtype: Any) -> float:
    """Return an error in units in the last place of the largest term; what exceeds the dtype may be infinite."""
    top = float(np.finfo(dtype).max)
    if np.isinf(got) and abs(exact) > top:
        return 0.0
    unit = mp.mpf(float(np.spacing(dtype(min(float(abs(largest)), top)))))
    return float(abs(mp.mpf(got) - exact) / unit) if np.isfinite(got) else float("inf")


def worst(results: Any, exact: list[Any], kind: int, x: Any, y: Any) -> tuple[float, str]:
    """Return the largest error of one kind of result, and for which inputs."""
    errors = [
        ulps(float(a), e[kind], e[3 + kind] if kind < 2 else e[kind], x.dtype.type)
        for a, e in zip(results[kind], exact, strict=True)
    ]
    at = int(np.argmax(errors))
    return errors[at], f"{x[at]:.6g}, {y[at]:.3g}"


def rows(contenders: Iterable[str]) -> Iterable[list[str]]:
    for name, case in CASES.items():
        for dtype in (np.float32, np.float64):
            x, y = inputs(case, dtype)
            exact = [case.exact(mp.mpf(float(a)), mp.mpf(float(b))) for a, b in zip(x, y, strict=True)]
            found = {contender: CONTENDERS[contender](case, x, y) for contender in contenders}
            for kind, what in enumerate(RESULTS):
                cells = [worst(r, exact, kind, x, y) if kind < len(r) else None for r in found.values()]
                assert cells[0] is not None
                yield [name, dtype.__name__, what, cells[0][1], *(f"{cell[0]:.3g}" if cell else "" for cell in cells)]


def main() -> None:
    contenders = [name for name in CONTENDERS if name == "fastloss" or importlib.util.find_spec(name)]
    print("# Accuracy\n")
    print(
        "The largest errors found, in units in the last place of the exact result; where that is a sum of terms of\n"
        "either sign (Poisson, Kullback-Leibler, gradients of soft labels), of its largest term. 1e7 in float32, or\n"
        "1e16 in float64, means that no digit is right. Printed by `python bench/accuracy.py`.\n"
    )
    build = (fl.show_config(mode="dicts") or {})["instruction set"]
    versions = ", ".join(f"{name} {version(name)}" for name in ("fastloss", "numpy", *contenders[1:]))
    print(f"{versions}; {build}, {platform.system()}\n")
    print(f"| loss | dtype | result | worst at (pred, label) | {' | '.join(contenders)} |")
    print(f"|---|---|---|---|{'---:|' * len(contenders)}")
    for row in rows(contenders):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
