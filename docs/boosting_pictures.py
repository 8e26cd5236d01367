"""Held-out losses against rounds of boosting, with fastloss's objectives and with the library's own.

They are pictures of the guide, in XGBoost where it is installed, else in LightGBM; without both they say so.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import drawings
import numpy as np
import pictures
from matplotlib.axes import Axes
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastloss as fl
from fastloss.boosting import Objective
from fastloss.demo_boosting import TITLES, TRAIN, Data, heavy_tailed, installed

ROUNDS = 100
KNOTS = (1, 2, 3, *range(4, ROUNDS + 1, 4))
SIGMOID = fl.SigmoidBCELoss(reduction="mean")


class Curve(NamedTuple):
    """What the legend calls it, what is trained, and the mean loss of raw predictions and labels."""

    name: str
    how: dict[str, Any] | Objective
    score: Callable[[Any, Any], Any]


def pair(loss: fl.Loss, own: dict[str, Any]) -> list[Curve]:
    """The objective of a loss and the library's own, both held against that loss."""
    mean = type(loss)(**dict(loss.arguments) | {"reduction": "mean"})
    return [Curve(f"Objective({type(loss).__name__})", Objective(loss), mean), Curve(own["objective"], own, mean)]


def digits() -> Data:
    """Whether a digit is 8, which one of ten is."""
    x, label = load_digits(return_X_y=True)
    train, held_out, *labels = train_test_split(x, (label == 8).astype(float), random_state=0)
    return train, labels[0], held_out, labels[1]


def counts() -> Data:
    """Counts of mean m and variance m + m²."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8000, 6))
    mean = np.exp(1 + x[:, 0] + np.sin(2 * x[:, 1]))
    label = rng.negative_binomial(1, 1 / (1 + mean)).astype(float)
    return x[:4000], label[:4000], x[4000:], label[4000:]


def focal(own: dict[str, Any]) -> list[Curve]:
    """The logarithmic loss of probabilities: by the link of the focal loss, by the sigmoid, and of logistic trees."""
    objective = Objective(fl.SigmoidFocalLoss(alpha=None, gamma=2))

    def linked(raw: Any, label: Any) -> Any:
        share = objective.predict(raw)
        return -np.mean(np.log(np.where(label == 1, share, 1 - share)))

    return [
        Curve("Objective(SigmoidFocalLoss)", objective, linked),
        Curve(own["objective"], own, SIGMOID),
        Curve("SigmoidFocalLoss, read by the sigmoid", objective, SIGMOID),
    ]


# the data, the curves in each library, the learning rate, and what the ordinate is
PANELS: dict[str, tuple[Callable[[], Data], dict[str, list[Curve]], float, str]] = {
    "huber": (
        partial(heavy_tailed, 0, 8000),
        {
            "xgboost": pair(fl.HuberLoss(), {"objective": "reg:pseudohubererror"}),
            "lightgbm": pair(fl.HuberLoss(), {"objective": "huber", "alpha": 1.0}),
        },
        0.3,
        "Huber loss",
    ),
    "median": (
        partial(heavy_tailed, 0, 8000),
        {
            "xgboost": pair(fl.QuantileLoss(0.5), {"objective": "reg:absoluteerror"}),
            "lightgbm": pair(fl.QuantileLoss(0.5), {"objective": "l1"}),
        },
        0.3,
        "quantile loss, 0.5",
    ),
    "quantile": (
        partial(heavy_tailed, 0, 8000),
        {
            "xgboost": pair(fl.QuantileLoss(0.9), {"objective": "reg:quantileerror", "quantile_alpha": 0.9}),
            "lightgbm": pair(fl.QuantileLoss(0.9), {"objective": "quantile", "alpha": 0.9}),
        },
        0.3,
        "quantile loss, 0.9",
    ),
    "focal": (
        digits,
        {"xgboost": focal({"objective": "binary:logistic"}), "lightgbm": focal({"objective": "binary"})},
        0.3,
        "logarithmic loss",
    ),
    "counts": (
        counts,
        {
            "xgboost": pair(fl.NegativeBinomialLoss(), {"objective": "count:poisson"}),
            "lightgbm": pair(fl.NegativeBinomialLoss(), {"objective": "poisson"}),
        },
        0.1,
        "negative binomial loss",
    ),
}


def scores(name: str, library: str) -> list[tuple[str, list[float]]]:
    """The curves of a panel, by name: the held-out loss after each number of rounds of KNOTS."""
    load, curves, eta, _ = PANELS[name]
    data = load()
    label = data[3].astype(float)
    found = []
    for curve in curves[library]:
        after = TRAIN[library](data, curve.how, ROUNDS, eta)
        found.append((curve.name, [float(curve.score(after(k), label)) for k in KNOTS]))
    return found


def paint(found: list[tuple[str, list[float]]], library: str, ordinate: str, ax: Axes) -> None:
    for title, values in found:
        ax.plot(KNOTS, values, label=title)
    ax.set(xlabel=f"rounds of {TITLES[library]}", ylabel=f"held-out {ordinate}")
    ax.legend()


def absent(ax: Axes) -> None:
    ax.text(0.5, 0.5, "XGBoost and LightGBM are not installed", ha="center", va="center", transform=ax.transAxes)
    ax.set_axis_off()


def are_drawn(source: Path) -> bool:
    return all(path.exists() for name in PANELS for path in files(source, name).values())


def files(source: Path, name: str) -> dict[str, Path]:
    """Where a picture is kept, by its ground."""
    return pictures.files(source / drawings.FOLDER, f"boosting-{name}")


def write_to(source: Path, write: Callable[[Path, str], None]) -> None:
    """Writes the pictures of the guide to boosting, each twice, on a light and on a dark ground."""
    try:
        library = installed()
    except ModuleNotFoundError:
        library = ""
    for name, (*_, ordinate) in PANELS.items():
        of = partial(paint, scores(name, library), library, ordinate) if library else absent
        for ground, svg in pictures.themed(of).items():
            write(files(source, name)[ground], svg)
