"""The tutorial: its cells run in order, and show the numbers that its text speaks of."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.frameworks import DENSE

torch, jax, mpl = (
    pytest.importorskip(name, reason=f"the tutorial shows {name}, which is not installed")
    for name in ("torch", "jax", "matplotlib")
)

NOTEBOOK = Path(__file__).parents[1] / "docs" / "tutorial" / "losses.md"


@pytest.fixture(scope="module")
def notebook() -> tuple[dict[str, Any], list[Any]]:
    """The names that the cells leave behind, and what each shows: the value of its last expression."""
    before = jax.config.jax_enable_x64
    mpl.use("Agg")
    names: dict[str, Any] = {}
    shown = []
    for source in re.findall(
        r"^```\{code-cell\}\n(.*?)^```$", NOTEBOOK.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    ):
        cell = ast.parse(source)
        last = cell.body.pop() if isinstance(cell.body[-1], ast.Expr) else None
        exec(compile(cell, NOTEBOOK.name, "exec"), names)
        shown.append(eval(compile(ast.Expression(last.value), NOTEBOOK.name, "eval"), names) if last else None)
    jax.config.update("jax_enable_x64", before)
    return names, shown


def test_every_cell_was_found(notebook: tuple[dict[str, Any], list[Any]]) -> None:
    assert len(notebook[1]) == NOTEBOOK.read_text(encoding="utf-8").count("{code-cell}") > 15


def test_l2(notebook: tuple[dict[str, Any], list[Any]]) -> None:
    names, shown = notebook
    assert shown[1].tolist() == shown[2].tolist() == [0.5, 2]
    assert names["grad"].tolist() == [-1, -2]
    assert names["weighted"].tolist() == [0.5, 4]
    assert names["weighted_grad"].tolist() == [-1, -4]


def test_the_three_versions_give_the_same_gradients(notebook: tuple[dict[str, Any], list[Any]]) -> None:
    names, shown = notebook
    hand, torch, jax = (x for x in shown if isinstance(x, tuple) and np.shape(x[0]) == (1, 3))
    for other in (torch, jax):
        for got, want in zip(other, hand, strict=True):
            np.testing.assert_allclose(np.asarray(got), want, rtol=1e-12)
    assert names["after"] < names["before"]


@pytest.mark.parametrize("version", ["by_hand", "with_torch", "with_jax"])
def test_the_three_versions_give_mxnets_gradients(notebook: tuple[dict[str, Any], list[Any]], version: str) -> None:
    gradients = notebook[0][version](*[DENSE[k] for k in ("X", "W", "b", "y")])
    for got, k in zip(gradients, "Wb", strict=True):
        np.testing.assert_allclose(np.asarray(got), DENSE[f"grad_{k}"], rtol=1e-6)


def test_the_curves_are_the_losses(notebook: tuple[dict[str, Any], list[Any]]) -> None:
    axes = [x for x in notebook[1] if hasattr(x, "get_legend")]
    assert [[text.get_text() for text in ax.get_legend().get_texts()] for ax in axes] == [
        ["L1Loss", "L2Loss", "HuberLoss"],
        ["LogisticLoss", "HingeLoss"],
    ]
    x, y = (np.asarray(a) for a in axes[1].get_lines()[-1].get_data())
    assert np.array_equal(y, fl.HingeLoss(reduction="none")(x, np.ones_like(x)))


def test_cross_entropy(notebook: tuple[dict[str, Any], list[Any]]) -> None:
    names, _ = notebook
    np.testing.assert_allclose(names["cross_entropy"], [9.0001234, 6.0024757], rtol=1e-8)
    np.testing.assert_allclose(names["naive"](names["logits"], names["classes"]), names["cross_entropy"], rtol=1e-12)
    np.testing.assert_array_equal(names["overflown"], [[np.inf, np.inf], [np.nan, np.nan]])
    np.testing.assert_allclose(names["fused"], [[900, 600], [0, np.exp(-600)]], rtol=1e-12, atol=1e-300)


def test_binary_cross_entropy(notebook: tuple[dict[str, Any], list[Any]]) -> None:
    names, shown = notebook
    np.testing.assert_allclose(names["bce_value"], np.log1p(np.exp([0, 2, 3, -40])), rtol=1e-14)
    np.testing.assert_allclose(names["bce_grad"][-1], -np.exp(-40), rtol=1e-14)
    assert shown[-1][-1] == 0
