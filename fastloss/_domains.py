"""What the numbers of an input mean: data, of which ``validate``, its messages and the docs' tables are made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastloss._foreign import array_of

if TYPE_CHECKING:
    from fastloss._core import Loss

# elements that are looked at together
BUFFER = 1 << 14


@dataclass(frozen=True)
class Domain:
    """The finite numbers from low to high without some, and some others."""

    text: str  # says what they are, behind "must hold"
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False  # from low to high, only integers
    without: tuple[float, ...] = ()
    also: tuple[float, ...] = ()
    slack: int = 0  # how far beyond an end a number may be, in units in the last place of 1
    hints: tuple[tuple[float, str], ...] = ()  # what to do about a number that is none of these

    def holds(self, x: NDArray[np.float64], ulp: float) -> NDArray[np.bool_]:
        """Which numbers are good."""
        good = np.isfinite(x) & (x >= self.low - self.slack * ulp) & (x <= self.high + self.slack * ulp)
        if self.whole:
            good &= np.floor(x) == x
        for number in self.without:
            good &= x != number
        for number in self.also:
            good |= x == number
        return good

    def first_outside(self, a: NDArray[Any]) -> int:
        """The position of the first number, counted in C order, that is none of these; -1 if there is none."""
        ulp = float(np.finfo(a.dtype).eps) if a.dtype.kind == "f" else 0.0
        at = 0
        with (
            np.errstate(all="ignore"),
            np.nditer(
                a,
                ["external_loop", "buffered", "zerosize_ok"],
                op_dtypes=["f8"],
                casting="unsafe",
                order="C",
                buffersize=BUFFER,
            ) as pieces,
        ):
            piece: Any
            for piece in pieces:
                good = self.holds(piece, ulp)
                if not good.all():
                    return at + int(good.argmin())
                at += piece.size
        return -1

    def hint(self, number: float) -> str:
        return next((text for known, text in self.hints if number == known), "")


@dataclass(frozen=True)
class ClassIds(Domain):
    """Class ids, of which the prediction says how many there are. One may be a blank, which is no label."""

    axis: int = -1  # of the prediction, that of the classes
    blank: int | None = None  # counted from the end where it is negative
    besides: str = ""  # says what else there is
    batch_axis: int = 0  # of labels that are sequences

    def among(self, classes: int | None) -> Domain:
        """The domain where there are so many classes; None: nobody knows how many."""
        what = "up" if classes is None else f"to {classes - 1}"
        blank = self.blank
        if blank is not None:
            blank = blank + classes if blank < 0 and classes is not None else blank
            what += " but the blank" if blank < 0 else f" but the blank, {blank}"
        return replace(
            self,
            text=f"class ids from 0 {what}{self.besides}",
            high=math.inf if classes is None else classes - 1,
            without=() if blank is None else (blank,),
        )


def class_ids(axis: int, ignored: int | None = None) -> Domain:
    """What labels of classes hold, where those of some examples are to be ignored."""
    if ignored is None:
        hint = "; to leave examples out, build the loss with ignore_index="
        return ClassIds("class ids from 0 up", 0, whole=True, axis=axis, hints=((-1, hint), (-100, hint)))
    besides = f", and {ignored}, which is ignored"
    return ClassIds(f"class ids from 0 up{besides}", 0, whole=True, also=(ignored,), axis=axis, besides=besides)


def sequence_ids(blank: int, batch_axis: int) -> Domain:
    """What labels of sequences hold: their padding, too."""
    besides = ", and -1 behind the last"
    ids = ClassIds("", 0, whole=True, also=(-1,), blank=blank, besides=besides, batch_axis=batch_axis)
    return ids.among(None)


REAL = Domain("finite numbers")
SIGN = Domain("-1 and +1", -1, 1, whole=True, without=(0,), hints=((0, "; rescale labels of 0 and 1: 2 * label - 1"),))
SIGN_OF_CLASS = replace(
    SIGN,
    hints=((0, '; for labels of 0 and 1 build the loss with label_format="binary", or rescale them: 2 * label - 1'),),
)
SIGN_OF_PAIR = replace(SIGN, text="1 and -1")
SHARE = Domain("numbers from 0 to 1", 0, 1, slack=4, hints=((-1, "; rescale labels of -1 and +1: (label + 1) / 2"),))
SHARE_OF_CLASS = replace(
    SHARE,
    hints=(
        (-1, '; for labels of -1 and +1 build the loss with label_format="signed", or rescale them: (label + 1) / 2'),
    ),
)
PROBABILITY = Domain("probabilities from 0 to 1", 0, 1)
COUNT = Domain("counts from 0 up", 0)
MASS = Domain("numbers from 0 up", 0)
RATE = Domain("rates from 0 up", 0)
# of nothing it is -inf
LOGARITHM = Domain("numbers below infinity", also=(-math.inf,))
LOG_ODDS = Domain("numbers, infinite ones included", also=(-math.inf, math.inf))
LOG_PROBABILITY = Domain("log-probabilities up to 0", high=0, also=(-math.inf,), slack=4)
LENGTH = Domain("lengths from 0 up", 0, whole=True)


def validate(
    loss: Loss,
    inputs: tuple[str, ...],
    domains: Mapping[str, Domain],
    label: Any,
    pred: Any,
    others: dict[str, Any],
) -> None:
    """Refuses an input for the first number that its domain lacks."""
    given = bind(type(loss).__name__, inputs, label, pred, others)
    arrays = {name: array_of(name, x) for name, x in given.items()}
    for name, a in arrays.items():
        domain = domains[name]
        if isinstance(domain, ClassIds):
            domain = domain.among(count_classes(loss, domain, arrays.get(inputs[0])))
        counts = None if name.endswith(("weight", "lengths")) else counted(loss, domain, a, arrays)
        if isinstance(domain, ClassIds) and "label_lengths" in arrays:
            # nothing is padded by -1 then
            domain = replace(domain, also=())
        positions = None if counts is None else np.flatnonzero(counts)
        bad = domain.first_outside(a if positions is None else a.flat[positions])
        if bad >= 0:
            at = tuple(map(int, np.unravel_index(bad if positions is None else positions[bad], a.shape)))
            raise ValueError(f"{name} must hold {domain.text}, got {a[at]} at position {at}{domain.hint(a[at])}")


def bind(kind: str, inputs: tuple[str, ...], label: Any, pred: Any, others: dict[str, Any]) -> dict[str, Any]:
    """The arguments of validate by the names of the call."""
    given = {"label" if "label" in inputs else inputs[1]: label}
    if pred is not None:
        given[inputs[0]] = pred
    for name, x in others.items():
        if name not in inputs:
            raise TypeError(
                f"{kind}.validate got an unexpected keyword argument {name!r}; it takes {', '.join(inputs)}"
            )
        if given.get(name) is not None:
            raise TypeError(f"{kind}.validate got {name} twice")
        if x is not None:
            given[name] = x
    missing = [name for name, x in given.items() if x is None]
    if missing:
        raise TypeError(f"{kind}.validate needs {missing[0]}")
    return given


def count_classes(loss: Loss, ids: ClassIds, pred: NDArray[Any] | None) -> int | None:
    """How many classes the prediction has, or there are weights for."""
    if pred is None:
        weights = getattr(loss, "class_weight", None)
        return None if weights is None else len(weights)
    if not -pred.ndim <= ids.axis < pred.ndim:
        raise ValueError(f"pred must have a class axis {ids.axis}, got shape {pred.shape}")
    return int(pred.shape[ids.axis])


def counted(loss: Loss, domain: Domain, a: NDArray[Any], arrays: dict[str, NDArray[Any]]) -> NDArray[np.bool_] | None:
    """Which numbers a call looks at: not those of examples of weight 0, nor what stands behind a label's length."""
    weight, lengths = arrays.get("sample_weight"), arrays.get("label_lengths")
    if weight is None and lengths is None:
        return None
    counts = np.ones(a.shape, bool)
    if weight is not None:
        axis = getattr(loss, "batch_axis", 0) if a.ndim > 1 else 0
        if weight.ndim == 1 and -a.ndim <= axis < a.ndim and weight.size == a.shape[axis]:
            np.moveaxis(counts, axis, -1)[...] = weight != 0
        elif weight.ndim == a.ndim and all(m in (1, n) for m, n in zip(weight.shape, a.shape, strict=True)):
            counts &= np.broadcast_to(weight != 0, a.shape)
    if lengths is not None and isinstance(domain, ClassIds) and a.ndim == 2:
        rows = np.moveaxis(counts, domain.batch_axis, 0)
        rows &= np.arange(a.shape[1 - domain.batch_axis]) < np.reshape(lengths, (-1, 1))
    return counts
