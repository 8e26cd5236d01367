"""A picture of each loss: curves over one prediction, or for other losses what tells them apart."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import fastloss as fl
from fastloss import plot

STYLES = {"light": "default", "dark": "dark_background"}

# a likelihood shows its minimum with such a label only
CURVES: dict[type[fl.Loss], dict[str, Any]] = {
    fl.PoissonNLLLoss: {"label": 2},
    fl.NegativeBinomialLoss: {"label": 2},
    fl.TweedieLoss: {"label": 2},
    fl.KLDivLoss: {"label": 0.5, "pred": np.linspace(-5, 0, 501)},
}
# errors are told by a label of 0
ERRORS = {"fastloss.losses.regression", "fastloss.losses.robust"}


def two_logits(cls: type[fl.Loss], ax: Axes) -> None:
    """The value over the logits of the label and of another class; that of a third is 0."""
    x, y = np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-4, 4, 81))
    logits = np.stack([x, y, np.zeros_like(x)], axis=-1)
    value = cls(reduction="none")(logits, np.zeros(x.shape, int))
    ax.contourf(x, y, value, levels=14, cmap="viridis")
    ax.set(xlabel="logit of the label", ylabel="logit of another class")


def triangle(ax: Axes) -> None:
    """The triplet loss over the place of the anchor, between a positive and a negative example."""
    x, y = np.meshgrid(np.linspace(-2, 2, 81), np.linspace(-1.5, 1.5, 61))
    anchors = np.stack([x.ravel(), y.ravel()], axis=-1)
    ends = [np.broadcast_to(np.array(end), anchors.shape) for end in ((-1.0, 0.0), (1.0, 0.0))]
    ax.contourf(x, y, fl.TripletLoss()(anchors, *ends).reshape(x.shape), levels=14, cmap="viridis")
    for text, (end, *_) in zip(("positive", "negative"), ends, strict=True):
        ax.annotate(text, end, color="white", ha="center", va="center")
    ax.set(xlabel="the anchor's place", ylabel="")


def angle(ax: Axes) -> None:
    """The cosine loss over the angle between two vectors."""
    degrees = np.linspace(0, 180, 181)
    turned = np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=-1)
    fixed = np.broadcast_to(np.array([1.0, 0.0]), turned.shape)
    for label in (1, -1):
        ax.plot(degrees, fl.CosineEmbeddingLoss(margin=0.2)(turned, fixed, np.full(181, label)), label=f"label {label}")
    ax.set(xlabel="angle, degrees", ylabel="value")
    ax.legend()


def pairs(ax: Axes) -> None:
    """How SDML pulls at the rows of a batch: towards their partner, away from all others."""
    rng = np.random.default_rng(3)
    x1 = rng.normal(size=(8, 2))
    x2 = x1 + rng.normal(scale=0.6, size=(8, 2))
    pull = -fl.SDMLLoss().grad(x1, x2)
    for a, b in zip(x1, x2, strict=True):
        ax.plot(*np.stack([a, b]).T, ":", color="gray")
    ax.quiver(*x1.T, *pull.T, color="C0", label="x1, and its pull")
    ax.scatter(*x2.T, color="C1", label="x2")
    ax.set(xlabel="pairs of a batch", ylabel="")
    ax.legend()


def alignments(ax: Axes) -> None:
    """Where the gradient of CTC sees the label's classes: frames that it would make more, and less, probable."""
    logits = np.random.default_rng(0).normal(size=(1, 40, 6))
    for frame, of in ((8, 1), (20, 3), (31, 4)):
        logits[0, frame - 3 : frame + 3, of] += 3
    gradient = fl.CTCLoss().grad(logits, [[1, 3, 4]])[0].T
    ax.imshow(-gradient, aspect="auto", cmap="coolwarm", vmin=-0.6, vmax=0.6)
    ax.set(xlabel="frame", ylabel="class, the blank last")


def uncertain(cls: type[fl.Loss], ax: Axes) -> None:
    """The value over both predictions, for a label of 0."""
    x, scale = np.meshgrid(np.linspace(-4, 4, 81), np.linspace(-1, 3, 81))
    ax.contourf(x, scale, cls(reduction="none")(x, np.zeros(x.shape), scale), levels=14, cmap="viridis")
    ax.set(xlabel="prediction (label 0)", ylabel=cls().inputs[2].replace("_", " "))


def censored(ax: Axes) -> None:
    """The value against the prediction, of a time that is known, and of some of which a bound is known."""
    x = np.linspace(-4, 4, 401)
    for text, lower, upper in (("1", 1, 1), ("above 1", 1, np.inf), ("below 1", 0, 1), ("from 1 to 4", 1, 4)):
        ax.plot(x, fl.AFTLoss()(x, np.full(x.shape, lower), np.full(x.shape, upper)), label=f"time {text}")
    ax.set(xlabel="prediction", ylabel="value")
    ax.legend()


def ordered(ax: Axes) -> None:
    """The value against the prediction, for each of three classes in an order, with thresholds of -1.5 and 1.5."""
    x, edges = np.linspace(-6, 6, 401), [-np.inf, -1.5, 1.5, np.inf]
    for name, lower, upper in zip(("lowest", "middle", "highest"), edges[:-1], edges[1:], strict=True):
        ax.plot(x, fl.OrdinalLoss()(x, np.full(x.shape, lower), np.full(x.shape, upper)), label=f"{name} class")
    ax.set(xlabel="prediction", ylabel="value")
    ax.legend()


OTHERS: dict[type[fl.Loss], Callable[[Axes], None]] = {
    **{cls: partial(uncertain, cls) for cls in (fl.GaussianNLLLoss, fl.LaplaceNLLLoss, fl.StudentTNLLLoss)},
    fl.AFTLoss: censored,
    fl.OrdinalLoss: ordered,
    fl.TripletLoss: triangle,
    fl.CosineEmbeddingLoss: angle,
    fl.SDMLLoss: pairs,
    fl.CTCLoss: alignments,
}
# labels are class ids there, but for elementwise losses
OVER_CLASSES = "fastloss.losses.classes"


def curves(cls: type[fl.Loss], ax: Axes) -> None:
    label = {"label": 0 if cls.__module__ in ERRORS else 1}
    plot.curves(cls(), ax=ax, **CURVES.get(cls, label))


def has_logits(cls: type[fl.Loss]) -> bool:
    """Whether class ids are its labels."""
    return cls.__module__ == OVER_CLASSES and not cls().is_elementwise


def what_shows(cls: type[fl.Loss]) -> str:
    """What the picture of a loss shows, for those who do not see it; nothing if there is none."""
    if cls in OTHERS or has_logits(cls):
        of = OTHERS.get(cls, two_logits)
        return ((of.func if isinstance(of, partial) else of).__doc__ or "").rstrip(".")
    return "value, gradient and Hessian against the prediction" if cls().is_elementwise else ""


def themed(paint: Callable[[Axes], None], height: float = 3.4) -> dict[str, str]:
    """A picture as SVG, on a light and on a dark ground."""
    found = {}
    for name, of in STYLES.items():
        with style.context(of), mpl.rc_context({"svg.hashsalt": "fastloss", "font.size": 11}):
            figure = Figure(figsize=(5.4, height), layout="constrained")
            paint(figure.subplots())
            svg = io.StringIO()
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
        found[name] = svg.getvalue()
    return found


def draw(cls: type[fl.Loss]) -> dict[str, str]:
    """The picture of a loss."""
    return themed(OTHERS.get(cls, partial(two_logits if has_logits(cls) else curves, cls)))


def directives(cls: type[fl.Loss], indent: str = "") -> list[str]:
    """The picture twice, for the theme to show the one that fits its ground."""
    lines = []
    for name in STYLES if what_shows(cls) else ():
        lines += [
            f".. image:: {cls.__name__}-{name}.svg",
            f"   :class: only-{name}",
            "   :loading: lazy",
            f"   :alt: {cls.__name__}: {what_shows(cls)}",
            "",
        ]
    return [indent + line if line else line for line in lines]


def files(folder: Path, name: str) -> dict[str, Path]:
    """Where a picture is kept, by its ground."""
    return {ground: folder / f"{name}-{ground}.svg" for ground in STYLES}


def write_to(folder: Path, cls: type[fl.Loss], write: Callable[[Path, str], None]) -> None:
    for ground, svg in draw(cls).items():
        write(files(folder, cls.__name__)[ground], svg)
