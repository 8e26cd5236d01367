"""The guide to derivatives: the weights that it gives for boosting keep what it says of them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import fastloss as fl

GUIDE = Path(__file__).parents[1] / "docs" / "guide" / "derivatives.md"
SCALE = 0.5

pytestmark = pytest.mark.skipif(not GUIDE.exists(), reason="the documentation is not beside the tests")


def weights() -> dict[str, str]:
    """Return the expression in place of the Hessian of each loss."""
    text = GUIDE.read_text(encoding="utf-8") if GUIDE.exists() else ""
    return dict(re.findall(r"^\| `(\w+)` \| `(1 / np\.maximum\(.*\))` \|$", text, re.MULTILINE))


@pytest.mark.parametrize(("loss", "nearest"), [(fl.HuberLoss(SCALE), 0), (fl.L1Loss(), SCALE)], ids=str)
def test_weights_for_boosting_are_majorisers(loss: fl.Loss, nearest: float) -> None:
    start, end = np.meshgrid(np.linspace(-4, 4, 321), np.linspace(-12, 12, 961))
    start, end = start[abs(start) >= nearest], end[abs(start) >= nearest]
    names = {"np": np, "e": start, "rho": SCALE, "width": SCALE}
    weight = eval(weights()[type(loss).__name__], names)
    value, grad = loss.value_and_grad(start, np.zeros_like(start))
    parabola = value + grad * (end - start) + weight / 2 * (end - start) ** 2
    assert np.all(parabola >= loss(end, np.zeros_like(end)) - 1e-12)


def test_each_weight_is_looked_at() -> None:
    assert list(weights()) == ["HuberLoss", "L1Loss"]


def test_a_leaf_lowers_its_loss() -> None:
    rng = np.random.default_rng(0)
    loss = fl.HuberLoss()
    for _ in range(100):
        pred, label = np.zeros(50), rng.uniform(-5, 5) + rng.standard_t(1, 50)
        step = -loss.grad(pred, label).sum() / (1 / np.maximum(1, abs(pred - label))).sum()
        assert loss(pred + step, label).sum() <= loss(pred, label).sum()
