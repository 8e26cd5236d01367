"""Pictures of losses: value, gradient and Hessian against the prediction. Needs matplotlib, the extra ``plot``.

Each point of a curve is the result of the loss for a batch of that single prediction, whatever the reduction.
"""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._arguments import number
from fastloss._core import Loss

if TYPE_CHECKING:
    from matplotlib.axes import Axes

What = Literal["value", "gradient", "hessian"]
EVERYTHING: tuple[What, ...] = get_args(What)

LINESTYLES: dict[What, Literal["-", "--", ":"]] = {"value": "-", "gradient": "--", "hessian": ":"}
TITLES: dict[What, str] = {"value": "value", "gradient": "gradient", "hessian": "Hessian"}

LOWEST, HIGHEST = -10, 15


def regression(*losses: Loss, ax: Axes | None = None, what: What | tuple[What, ...] = EVERYTHING) -> Axes:
    """Draw losses of a real label, which is 0 here, for predictions from -5 to 5.

    Args:
        *losses: elementwise losses; the colour tells one from another.
        ax: the axes to draw in; None makes a new figure.
        what: which of "value" (solid), "gradient" (dashed) and "hessian" (dotted) to draw, one or a tuple of them.

    Returns the axes.

    Raises ImportError without matplotlib. Raises TypeError if an argument is no loss or has no value per element,
    ValueError without a loss and for another ``what``.

    >>> import fastloss as fl
    >>> from fastloss import plot
    >>> ax = plot.regression(fl.L2Loss(), fl.HuberLoss(rho=2), what="value")
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['L2Loss', 'HuberLoss(rho=2)']
    """
    return curves(*losses, label=0, ax=ax, what=what)


def classification(*losses: Loss, ax: Axes | None = None, what: What | tuple[What, ...] = EVERYTHING) -> Axes:
    """Draw losses of a binary label, which is 1 here, for predictions from -5 to 5.

    Arguments, result and exceptions are those of :func:`regression`.

    >>> import fastloss as fl
    >>> from fastloss import plot
    >>> ax = plot.classification(fl.HingeLoss(), fl.LogisticLoss(), what=("value", "gradient"))
    """
    return curves(*losses, label=1, ax=ax, what=what)


def curves(
    *losses: Loss,
    label: float,
    pred: ArrayLike | None = None,
    ax: Axes | None = None,
    what: What | tuple[What, ...] = EVERYTHING,
) -> Axes:
    """Draw losses of any label, for any predictions.

    Args:
        *losses: elementwise losses; the colour tells one from another.
        label: the label of every prediction.
        pred: the predictions, ascending; None is from -5 to 5.
        ax: the axes to draw in; None makes a new figure.
        what: as for :func:`regression`.

    >>> import fastloss as fl
    >>> from fastloss import plot
    >>> ax = plot.curves(fl.PoissonNLLLoss(), label=2, pred=[-2, -1, 0, 1, 2])
    """
    kinds = kinds_of(what)
    check_losses(losses)
    label = number("label", label)
    x = np.linspace(-5, 5, 1001) if pred is None else numbers(pred)
    try:
        from matplotlib import pyplot as plt
        from matplotlib.axes import Axes
        from matplotlib.lines import Line2D
    except ImportError as error:
        raise ImportError(
            "fastloss.plot needs matplotlib, which is not installed: pip install matplotlib, or "
            'pip install -e ".[plot]" in a checkout of fastloss'
        ) from error

    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be Matplotlib's axes or None, got {ax!r}")
    curves_of = [evaluate(loss, x, label) for loss in losses]
    if ax is None:
        ax = plt.figure(layout="constrained").add_subplot()
    # The axes know which colours suit their background; rcParams may have changed since the axes were made.
    ink = ax.spines["left"].get_edgecolor()
    ax.axhline(0, color=ink, linewidth=ax.spines["left"].get_linewidth() / 2, zorder=1)
    for loss, results in zip(losses, curves_of, strict=True):
        color = None
        for kind in kinds:
            name = title(loss) if color is None else None
            (line,) = ax.plot(x, results[kind], linestyle=LINESTYLES[kind], color=color, label=name)
            color = line.get_color()

    # A curve that runs away would flatten the others; auto=None lets the next call see all the data again.
    bottom, top = ax.dataLim.intervaly
    if bottom < LOWEST or top > HIGHEST:
        ax.set_ylim(max(bottom, LOWEST) - 0.5, min(top, HIGHEST) + 0.5, auto=None)
    ax.set_xlabel(f"prediction (label {label:g})")
    ax.set_ylabel(", ".join(TITLES[kind] for kind in kinds))
    handles: list[Any] = ax.get_legend_handles_labels()[0]
    if len(kinds) > 1:
        handles += [Line2D([], [], color=ink, linestyle=LINESTYLES[kind], label=TITLES[kind]) for kind in kinds]
    ax.legend(handles=handles)
    return ax


def kinds_of(what: What | tuple[What, ...]) -> tuple[What, ...]:
    """The kinds of curves to draw."""
    kinds = (what,) if isinstance(what, str) else tuple(what) if isinstance(what, (tuple, list)) else ()
    if not kinds or not all(isinstance(kind, str) and kind in EVERYTHING for kind in kinds):
        raise ValueError(f"what must be one or more of {', '.join(map(repr, EVERYTHING))}, got {what!r}")
    return kinds


def check_losses(losses: tuple[Loss, ...]) -> None:
    """Refuses objects that have no curve."""
    if not losses:
        raise ValueError("there is no loss to draw")
    for loss in losses:
        if not isinstance(loss, Loss):
            raise TypeError(f"only losses can be drawn, got {loss!r}")
        if not loss.is_elementwise:
            raise TypeError(f"{title(loss)} has no value per element, so no curve")
        if loss.required > 2:
            raise TypeError(f"{title(loss)} needs {', '.join(loss.inputs[2 : loss.required])}, and a curve has none")


def numbers(pred: ArrayLike) -> NDArray[Any]:
    """The predictions as an array of one axis."""
    try:
        x = np.asarray(pred)
    except (TypeError, ValueError) as error:
        raise TypeError(f"pred must be real numbers, got {type(pred).__name__}: {error}") from None
    if x.dtype.kind not in "fiub" or x.ndim != 1 or not x.size or isinstance(pred, np.ma.MaskedArray):
        raise ValueError(f"pred must be one or more real numbers in one axis, got {pred!r}")
    return x.astype(float)


def evaluate(loss: Loss, pred: NDArray[Any], label: float) -> dict[What, NDArray[Any]]:
    """The loss and its derivatives at each prediction by itself."""
    batch_axis = dict(loss.arguments).get("batch_axis", 0)
    # One axis above the maximum is as good as a million.
    shape = (1,) * min(max(batch_axis + 1, -batch_axis), 33)
    y = np.full(shape, label, float)
    points = [[np.ravel(a)[0] for a in loss.value_grad_and_hess(np.full(shape, x), y)] for x in pred]
    return dict(zip(EVERYTHING, np.array(points).T, strict=True))


def title(loss: Loss) -> str:
    """The constructor's call, without arguments that do not change the curve."""
    defaults = signature(type(loss)).parameters
    given = [
        f"{name}={value!r}"
        for name, value in loss.arguments
        if name not in ("batch_axis", "reduction") and value != defaults[name].default
    ]
    return f"{type(loss).__name__}({', '.join(given)})" if given else type(loss).__name__
