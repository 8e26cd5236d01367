"""Losses beside those of other libraries, in their scale. Whatever is not installed is skipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss as fl

# value and gradient of predictions and labels
Peer = Callable[[Any, Any], tuple[Any, Any]]


def scipys(rho: str, scale: float = 1) -> Peer:
    """A loss of scipy.optimize.least_squares, whose cost is half of scale^2 rho(z^2/scale^2)."""

    def results(x: Any, y: Any) -> tuple[Any, Any]:
        loss = pytest.importorskip("scipy.optimize._lsq.least_squares").IMPLEMENTED_LOSSES[rho]
        z = x - y
        out = np.empty((3, z.size))
        loss((z / scale) ** 2, out, False)
        return scale**2 * out[0] / 2, out[1] * z

    return results


def scikit_learns(name: str, **parameters: Any) -> Peer:
    def results(x: Any, y: Any) -> tuple[Any, Any]:
        loss = getattr(pytest.importorskip("sklearn._loss"), name)(**parameters)
        return loss.loss(y, x), loss.gradient(y, x)

    return results


def linear_models(name: str, epsilon: float) -> Peer:
    def results(x: Any, y: Any) -> tuple[Any, Any]:
        loss = getattr(pytest.importorskip("sklearn.linear_model._sgd_fast"), name)(epsilon)
        pairs = list(zip(y.tolist(), x.tolist(), strict=True))
        return np.array([loss.py_loss(b, a) for b, a in pairs]), np.array([loss.py_dloss(a, b) for b, a in pairs])

    return results


def torchs(formula: Callable[[Any, Any, Any], Any]) -> Peer:
    def results(x: Any, y: Any) -> tuple[Any, Any]:
        torch = pytest.importorskip("torch")
        pred = torch.tensor(x, requires_grad=True)
        value = formula(torch, pred, torch.tensor(y))
        value.sum().backward()
        return value.detach().numpy(), pred.grad.numpy()

    return results


PEERS: dict[str, tuple[fl.Loss, Peer]] = {
    "SciPy soft_l1": (fl.PseudoHuberLoss(2), scipys("soft_l1", 2)),
    "SciPy cauchy": (fl.CauchyLoss(2), scipys("cauchy", 2)),
    "scikit-learn PinballLoss": (fl.QuantileLoss(0.75), scikit_learns("PinballLoss", quantile=0.75)),
    "scikit-learn EpsilonInsensitive": (fl.EpsilonInsensitiveLoss(0.5), linear_models("EpsilonInsensitive", 0.5)),
    "scikit-learn SquaredEpsilonInsensitive": (
        fl.SquaredEpsilonInsensitiveLoss(0.5),
        linear_models("SquaredEpsilonInsensitive", 0.5),
    ),
    "PyTorch huber_loss": (
        fl.HuberLoss(0.5, weight=0.5),
        torchs(lambda torch, x, y: torch.nn.functional.huber_loss(x, y, reduction="none", delta=0.5)),
    ),
    "PyTorch mse_loss": (
        fl.ExpectileLoss(0.5, weight=2),
        torchs(lambda torch, x, y: torch.nn.functional.mse_loss(x, y, reduction="none")),
    ),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer(name: str) -> None:
    loss, peer = PEERS[name]
    x, y = np.random.default_rng(1).normal(scale=2, size=(2, 300))
    for got, want in zip(loss.value_and_grad(x, y), peer(x, y), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-14)
