"""Pictures of the losses: what is drawn are the losses' own numbers, and can be seen in any style."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from fastloss import plot
from tests.reference import LOSSES, Reference

matplotlib = pytest.importorskip("matplotlib", reason="pictures need matplotlib")
matplotlib.use("Agg")

from matplotlib import colors, style  # noqa: E402
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402

X = np.linspace(-5, 5, 1001)
ELEMENTWISE = {name: reference for name, reference in LOSSES.items() if not reference.row and reference.third is None}


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.fixture(params=ELEMENTWISE)
def elementwise(request: pytest.FixtureRequest) -> Reference:
    return ELEMENTWISE[request.param]


def curves(ax: Axes) -> list[Any]:
    """The lines of the axes but the one at zero, which has two points only."""
    return [line for line in ax.lines if len(line.get_xdata()) > 2]


def legend(ax: Axes) -> list[str]:
    box = ax.get_legend()
    assert box is not None
    return [text.get_text() for text in box.get_texts()]


@pytest.mark.parametrize(
    ("draw", "label", "options"),
    [(plot.regression, 0, {"reduction": "sum", "batch_axis": -2}), (plot.classification, 1, {})],
    ids=["regression", "classification"],
)
def test_what_is_drawn_is_the_loss(elementwise: Reference, draw: Any, label: float, options: dict[str, Any]) -> None:
    ax = draw(elementwise.build(**options))
    want = elementwise.build(reduction="none").value_grad_and_hess(X, np.full_like(X, label))
    lines = curves(ax)
    assert [line.get_linestyle() for line in lines] == ["-", "--", ":"]
    for line, y in zip(lines, want, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), X)
        np.testing.assert_array_equal(line.get_ydata(), y)


def test_any_label_and_predictions() -> None:
    ax = plot.curves(fl.PoissonNLLLoss(), label=2, pred=[0, 1, 2], what="gradient")
    (line,) = curves(ax)
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2])
    np.testing.assert_array_equal(line.get_ydata(), fl.PoissonNLLLoss().grad([0, 1, 2], [2, 2, 2]))
    assert ax.get_xlabel() == "prediction (label 2)"
    assert ax.get_ylabel() == "gradient"


def test_colour_tells_the_loss_and_linestyle_the_curve() -> None:
    ax = plot.regression(fl.L1Loss(reduction="mean"), fl.HuberLoss(rho=2), what=("value", "hessian"))
    lines = curves(ax)
    assert [line.get_linestyle() for line in lines] == ["-", ":", "-", ":"]
    drawn = [colors.to_hex(line.get_color()) for line in lines]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]
    assert legend(ax) == ["L1Loss", "HuberLoss(rho=2)", "value", "Hessian"]
    assert ax.get_ylabel() == "value, Hessian"


def test_draws_into_the_axes_given() -> None:
    _, (left, right) = plt.subplots(1, 2)
    assert plot.regression(fl.L1Loss(), ax=right) is right
    assert not left.lines
    figures = plt.get_fignums()
    assert plot.regression(fl.L2Loss(), ax=right, what="value") is right
    assert plt.get_fignums() == figures
    assert legend(right) == ["L1Loss", "L2Loss"]
    assert len(curves(right)) == 4


def test_a_curve_that_runs_away_leaves_the_view() -> None:
    ax = plot.curves(fl.PoissonNLLLoss(), label=2)
    bottom, top = ax.get_ylim()
    assert max(line.get_ydata().max() for line in curves(ax)) > 100
    assert -12 < bottom < -2
    assert 15 <= top < 17
    small = plot.regression(fl.L1Loss())
    assert small.get_ylim()[1] < 6
    plot.regression(fl.L2Loss(), ax=small)
    assert small.get_ylim()[1] > 12.5


@pytest.mark.parametrize("name", ["default", "dark_background"])
def test_lines_can_be_seen(name: str) -> None:
    def luminance(color: Any) -> float:
        channels = np.array(colors.to_rgb(color))
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    with style.context(name):
        ax = plot.classification(fl.HingeLoss(), fl.SquaredHingeLoss(), fl.LogisticLoss())
        box = ax.get_legend()
        assert box is not None
        background = luminance(ax.get_facecolor())
        for line in [*ax.lines, *box.get_lines()]:
            light, dark = sorted((luminance(line.get_color()), background), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 2


@pytest.mark.parametrize(
    "loss",
    [
        fl.SoftmaxCELoss(),
        fl.KLDivLoss(from_logits=False),
        fl.TripletLoss(),
        fl.CosineEmbeddingLoss(),
        fl.SDMLLoss(),
        fl.CTCLoss(),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("draw", [plot.regression, plot.classification])
def test_no_value_per_element(draw: Any, loss: fl.Loss) -> None:
    with pytest.raises(TypeError, match=f"{type(loss).__name__}.* has no value per element"):
        draw(fl.L1Loss(), loss)
    assert not plt.get_fignums()


@pytest.mark.parametrize(
    ("losses", "what", "error", "message"),
    [
        ((), "value", ValueError, "there is no loss"),
        ((fl.GaussianNLLLoss(),), "value", TypeError, "GaussianNLLLoss needs log_variance, and a curve has none"),
        ((fl.L1Loss,), "value", TypeError, "got <class 'fastloss.losses.regression.L1Loss'>"),
        ((fl.L1Loss(),), "values", ValueError, "'value', 'gradient', 'hessian', got 'values'"),
        ((fl.L1Loss(),), ("value", 3), ValueError, r"got \('value', 3\)"),
        ((fl.L1Loss(),), (), ValueError, r"got \(\)"),
    ],
)
def test_bad_arguments(losses: Any, what: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plot.regression(*losses, what=what)


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install -e "\.\[plot\]" in a checkout'):
        plot.regression(fl.L1Loss())


def test_subclasses_are_drawn_under_their_names() -> None:
    class Scaled(fl.HuberLoss):
        def __init__(self, rho: float = 3) -> None:
            super().__init__(rho, reduction="sum")

    assert legend(plot.regression(Scaled(), Scaled(2), what="value")) == ["Scaled", "Scaled(rho=2)"]


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"label": None}, TypeError, "label must be a number"),
        ({"label": "1"}, TypeError, "label must be a number"),
        ({"label": np.nan}, ValueError, "label must be finite"),
        ({"label": 0, "pred": []}, ValueError, "pred must be one or more"),
        ({"label": 0, "pred": [[1.0, 2.0]]}, ValueError, "pred must be one or more"),
        ({"label": 0, "pred": [1j]}, ValueError, "pred must be one or more"),
        ({"label": 0, "pred": [[1.0], [1.0, 2.0]]}, TypeError, "pred must be real numbers, got list"),
        ({"label": 0, "pred": np.ma.masked_array([1.0])}, ValueError, "pred must be one or more"),
        ({"label": 0, "ax": 5}, TypeError, "ax must be Matplotlib's axes or None, got 5"),
        ({"label": 0, "what": 5}, ValueError, "what must be one or more of .*, got 5"),
        ({"label": 0, "what": [["value"]]}, ValueError, "what must be one or more of"),
    ],
)
def test_bad_curves(named: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        plot.curves(fl.L2Loss(), **named)
    assert not plt.get_fignums()


@pytest.mark.parametrize("batch_axis", [32, 2**31 - 1, -(2**31) + 1])
def test_a_batch_axis_that_nothing_has(batch_axis: int) -> None:
    with pytest.raises(ValueError, match="at most 32 axes"):
        plot.regression(fl.L2Loss(batch_axis=batch_axis))
    assert not plt.get_fignums()
