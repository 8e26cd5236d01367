"""What the numbers of an input mean, as data for ``validate``, its messages and the docs' tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from fastloss._foreign import array_of

if TYPE_CHECKING:
    from fastloss._core import Loss
    from fastloss.backends.layout import Layout

# elements per step
BUFFER = 1 << 14
AnyDomain = TypeVar("AnyDomain", bound="Domain")


def replace(domain: AnyDomain, **changes: Any) -> AnyDomain:
    """A copy of the domain with other values of some attributes."""
    # copy.copy() leaks if memory runs out.
    other = object.__new__(type(domain))
    vars(other).update(vars(domain), **changes)
    return other


class Domain:
    """The finite numbers from low to high without some, plus some others."""

    def __init__(
        self,
        text: str,
        low: float = -math.inf,
        high: float = math.inf,
        *,
        whole: bool = False,
        without: tuple[float, ...] = (),
        also: tuple[float, ...] = (),
        slack: int = 0,
        hints: tuple[tuple[float, str], ...] = (),
    ) -> None:
        self.text = text  # completes "must hold" in messages
        self.low, self.high = low, high
        self.whole = whole  # from low to high, only integers
        self.without, self.also = without, also
        self.slack = slack  # how far beyond an end a number may be, in units in the last place of 1
        self.hints = hints  # advice for a number outside

    def holds(self, x: NDArray[np.float64], ulp: float) -> NDArray[np.bool_]:
        """Which numbers the domain holds."""
        good = np.isfinite(x) & (x >= self.low - self.slack * ulp) & (x <= self.high + self.slack * ulp)
        if self.whole:
            good &= np.floor(x) == x
        for number in self.without:
            good &= x != number
        for number in self.also:
            good |= x == number
        return good

    def first_outside(self, a: NDArray[Any]) -> int:
        """The position of the first number outside, counted in C order; -1 if the domain holds all."""
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


class ClassIds(Domain):
    """Class ids; the prediction tells how many exist. One may be the blank, which is no label."""

    def __init__(
        self,
        text: str,
        low: float,
        *,
        axis: int = -1,
        blank: int | None = None,
        besides: str = "",
        batch_axis: int = 0,
        **others: Any,
    ) -> None:
        super().__init__(text, low, **others)
        self.axis = axis  # the classes' axis in the prediction
        self.blank = blank  # from the end if negative
        self.besides = besides  # completes the text of messages
        self.batch_axis = batch_axis  # the examples' axis, of labels that are sequences

    def among(self, classes: int | None) -> Domain:
        """The domain for a number of classes; None: the number is unknown."""
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
    """The domain of labels of classes; ignored is the id of examples to leave out."""
    if ignored is None:
        hint = "; to leave examples out, build the loss with ignore_index="
        return ClassIds("class ids from 0 up", 0, whole=True, axis=axis, hints=((-1, hint), (-100, hint)))
    besides = f", and {ignored}, which is ignored"
    return ClassIds(f"class ids from 0 up{besides}", 0, whole=True, also=(ignored,), axis=axis, besides=besides)


def sequence_ids(blank: int, batch_axis: int) -> Domain:
    """The domain of labels of sequences, padding included."""
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
BINARY = Domain("0 and 1", 0, 1, whole=True, hints=SHARE.hints)
BINARY_OF_CLASS = replace(BINARY, hints=SHARE_OF_CLASS.hints)
PROBABILITY = Domain("probabilities from 0 to 1", 0, 1)
QUANTILE = Domain("quantiles from 0 to 1", 0, 1)
COUNT = Domain("counts from 0 up", 0)
POSITIVE = Domain("numbers above 0", 0, without=(0,))
MASS = Domain("numbers from 0 up", 0)
RATE = Domain("rates from 0 up", 0)
ABOVE_MINUS_ONE = Domain("numbers greater than -1", -1, without=(-1,))
# the logarithm of nothing is -inf
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
    """Refuses an input for the first number outside of its domain."""
    given = bind(type(loss).__name__, inputs, label, pred, others)
    arrays = {name: array_of(name, x) for name, x in given.items()}
    sequences = Sequences.of(loss, domains, arrays) if "label_lengths" in inputs else None
    # Lengths first: they tell which of the other numbers count.
    for name in sorted(arrays, key=lambda name: not name.endswith("lengths")):
        a, domain = arrays[name], domains[name]
        if isinstance(domain, ClassIds):
            domain = domain.among(count_classes(loss, domain, arrays.get(inputs[0])))
            if "label_lengths" in arrays:
                # With lengths, -1 is no padding.
                domain = replace(domain, also=())
        if sequences is not None:
            domain = sequences.limit(name, domain)
        if name == "sample_weight" or name.endswith("lengths"):
            counts = None
        elif sequences is not None:
            counts = sequences.counted(name)
        else:
            counts = counted(loss, name, inputs, domains, arrays)
        refuse_outside(name, domain, a, counts)


def refuse_outside(name: str, domain: Domain, a: NDArray[Any], counts: NDArray[np.bool_] | None) -> None:
    """Refuses an input for the first number outside of its domain; counts masks the numbers that count."""
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
    """The number of classes in the prediction, or among the class weights."""
    if pred is None:
        weights = getattr(loss, "class_weight", None)
        return None if weights is None else len(weights)
    if not -pred.ndim <= ids.axis < pred.ndim:
        raise ValueError(f"pred must have a class axis {ids.axis}, got shape {pred.shape}")
    return int(pred.shape[ids.axis])


def counted(
    loss: Loss, name: str, inputs: tuple[str, ...], domains: Mapping[str, Domain], arrays: dict[str, NDArray[Any]]
) -> NDArray[np.bool_] | None:
    """A mask of the numbers that a call uses: those of elements with a weight; None: all."""
    # Imported late: layout imports the losses, and they import this module.
    from fastloss.backends.layout import fits

    weight, a = arrays.get("sample_weight"), arrays[name]
    if weight is None:
        return None
    first = inputs[0]
    row = row_axis(loss, domains)
    layout = layout_for(loss, shape_of_first(loss, inputs, domains, arrays), row)
    shape = layout.shape
    unreduced = tuple([shape[k] for k in layout.axes])
    used = np.broadcast_to(layout.place_weight(weight, unreduced)[0] != 0, unreduced)
    spec = loss.specs[inputs.index(name)]
    if spec.lies == "per row":
        what = f"{first}'s shape {shape} without axis {layout.row}, {unreduced}"
    else:
        what = f"{first}'s shape {shape}"
        used = np.broadcast_to(np.expand_dims(used, [k for k in range(len(shape)) if k not in layout.axes]), shape)
    if name == (loss.couples or first) and loss.couples != first:
        # An element with a weight needs all that it is normalised with; an x1 needs every x2.
        used = np.broadcast_to(used.any(axis=tuple(layout.whole), keepdims=True), shape)
    if spec.lies in ("broadcast", "number"):
        return broadcast_back(name, used, a, what)
    if not fits(a.shape, used.shape):
        raise ValueError(f"{name} must have {what}, though one of the two may lack axes of size 1, got shape {a.shape}")
    return used.reshape(a.shape)


def broadcast_back(name: str, used: NDArray[np.bool_], a: NDArray[Any], what: str) -> NDArray[np.bool_]:
    """A mask of the numbers of a broadcast input that any element uses."""
    from fastloss.backends.layout import broadcasts

    if not broadcasts(a.shape, used.shape):
        raise ValueError(f"{name} must broadcast to {what}, got shape {a.shape}")
    missing = used.ndim - a.ndim
    shared = [k for k in range(used.ndim) if k < missing or a.shape[k - missing] == 1]
    return np.asarray(used.any(axis=tuple(shared), keepdims=True)).reshape(a.shape)


def layout_for(loss: Loss, shape: tuple[int, ...], row: int) -> Layout:
    """How a call lies along the axes of its first input, for subclasses with arguments of their own, too."""
    from fastloss.backends.layout import Layout, layout_of

    if "reduction" in dict(loss.arguments):
        return layout_of(loss, shape)
    ndim = len(shape)
    value_axes = loss.value_axes(ndim)
    batch = value_axes[0] if value_axes else 0 if ndim else None
    axes, whole = tuple(range(ndim)), frozenset[int]()
    if loss.couples:
        whole = frozenset(axes)
        axes = () if batch is None else (batch,)
    elif loss.has_rows:
        axes = tuple([k for k in axes if k != row % ndim])
    return Layout(loss, shape, axes, batch if batch in axes else None, whole, "none", value_axes)


def row_axis(loss: Loss, domains: Mapping[str, Domain]) -> int:
    """The axis of the classes or features."""
    ids = domains.get("label")
    return ids.axis if isinstance(ids, ClassIds) else getattr(loss, "axis", -1)


def shape_of_first(
    loss: Loss, inputs: tuple[str, ...], domains: Mapping[str, Domain], arrays: dict[str, NDArray[Any]]
) -> tuple[int, ...]:
    """The shape of the first input; if that is missing, a shape that fits the others."""
    from fastloss.backends.layout import is_without

    known = [arrays[name].shape for name in inputs[:2] if name in arrays and name != "label"]
    if known:
        return known[0]
    shape, weight = arrays["label"].shape, arrays["sample_weight"].shape
    if len(weight) > len(shape) and is_without(shape, weight):
        # The label lacks axes of size 1.
        shape = weight
    batch = getattr(loss, "batch_axis", 0)
    if loss.specs[inputs.index("label")].lies == "per row":
        return with_row(shape, batch, row_axis(loss, domains))
    return lengthened(shape, batch, reach(batch)) if shape else shape


def with_row(shape: tuple[int, ...], batch: int, row: int) -> tuple[int, ...]:
    """The shape with an axis of classes or features, and with enough axes for those that the loss names."""
    ndim = max(len(shape) + 1, reach(batch), reach(row))
    batch, row = batch % ndim, row % ndim
    shape = lengthened(shape, batch - (row < batch), ndim - 1)
    return (*shape[:row], 1, *shape[row:])


def reach(axis: int) -> int:
    """The least number of axes of an array that has this axis."""
    return axis + 1 if axis >= 0 else -axis


def lengthened(shape: tuple[int, ...], batch: int, ndim: int) -> tuple[int, ...]:
    """The shape with axes of size 1 added up to ndim. A single axis is that of the examples."""
    if len(shape) == 1 and ndim > 1:
        return tuple([shape[0] if k == batch % ndim else 1 for k in range(ndim)])
    return (1,) * (ndim - len(shape)) + shape


class Sequences(NamedTuple):
    """The inputs of CTC, and how the examples lie in them."""

    arrays: Mapping[str, NDArray[Any]]
    batch: int  # the axis of the examples in pred
    label_batch: int
    size: int
    single: bool  # whether pred lacks that axis

    @classmethod
    def of(cls, loss: Loss, domains: Mapping[str, Domain], arrays: Mapping[str, NDArray[Any]]) -> Sequences:
        axes, ids = loss.value_axes(3), domains["label"]
        batch = axes[0] if axes else getattr(loss, "layout", "NTC").index("N")
        label_batch = ids.batch_axis if isinstance(ids, ClassIds) else 0
        pred, label = arrays.get("pred"), arrays["label"]
        if pred is not None:
            if pred.ndim not in (2, 3):
                raise ValueError(f"pred must have 3 axes, or 2 for one example, got shape {pred.shape}")
            single = pred.ndim == 2
            size = 1 if single else pred.shape[batch]
        else:
            lengths = [a.size for name, a in arrays.items() if name.endswith("lengths") and a.ndim == 1]
            size = label.shape[label_batch] if label.ndim == 2 else lengths[0] if lengths else 1
            single = size == 1
        sequences = cls(arrays, batch, label_batch, size, single)
        sequences.check_shapes()
        return sequences

    def check_shapes(self) -> None:
        """Refuses shapes that do not fit together."""
        label, n = self.arrays["label"], self.size
        in_row = label.ndim == 1 and (self.single or "label_lengths" in self.arrays)
        if not in_row and not (label.ndim == 2 and label.shape[self.label_batch] == n):
            layout = "TN" if self.label_batch else "NT"
            raise ValueError(
                f"label must have 2 axes, {layout}, for {n} examples, got shape {label.shape}; "
                "one axis with the ids of all, one after another, needs label_lengths"
            )
        weights: list[tuple[int, ...]] = [()] if self.single and "pred" in self.arrays else [*{(): 0, (1,): 0, (n,): 0}]
        lengths: list[tuple[int, ...]] = [(), (1,)] if self.single else [(n,)]
        for name, shapes in (("pred_lengths", lengths), ("label_lengths", lengths), ("sample_weight", weights)):
            a = self.arrays.get(name)
            if a is not None and a.shape not in shapes:
                raise ValueError(
                    f"{name} must have one number per example, shape {' or '.join(map(str, shapes))}, "
                    f"got shape {a.shape}"
                )

    def limit(self, name: str, domain: Domain) -> Domain:
        """The domain of lengths, up to the longest sequence that the inputs hold."""
        if name == "label_lengths":
            label = self.arrays["label"]
            longest = label.size if label.ndim == 1 else label.shape[1 - self.label_batch]
        elif name == "pred_lengths" and "pred" in self.arrays:
            pred = self.arrays["pred"]
            longest = pred.shape[0 if self.single else 1 - self.batch]
        else:
            return domain
        return replace(domain, text=f"{domain.text} to {longest}", high=longest)

    @property
    def used(self) -> NDArray[np.bool_]:
        """A mask of the examples with a weight."""
        weight = self.arrays.get("sample_weight", np.ones(()))
        return np.broadcast_to(weight.ravel() != 0, (self.size,))

    def counted(self, name: str) -> NDArray[np.bool_] | None:
        """A mask of the numbers that a call uses: none of examples of weight 0, and none behind a length."""
        a = self.arrays[name]
        lengths = self.arrays.get(f"{name}_lengths")
        if lengths is None and "sample_weight" not in self.arrays:
            return None
        if name == "label" and a.ndim == 1 and not self.single:
            return self.counted_in_row(a)
        axis = self.batch if name == "pred" else self.label_batch
        bare = a.ndim == (2 if name == "pred" else 1)
        longest = a.shape[0] if bare else a.shape[1 - axis]
        ends = np.full(1, longest) if lengths is None else lengths
        counts = self.used[:, None] & (np.arange(longest) < np.reshape(ends, (-1, 1)))
        counts = counts[0] if bare else np.moveaxis(counts, 0, axis)
        return np.broadcast_to(counts[..., None], a.shape) if name == "pred" else counts

    def counted_in_row(self, label: NDArray[Any]) -> NDArray[np.bool_]:
        """The same mask for labels one after another in a single row."""
        lengths = self.arrays["label_lengths"].astype(np.int64)
        total = sum(lengths.tolist())
        if total != label.size:
            raise ValueError(
                f"label must hold as many ids as label_lengths sum up to, {total}, got shape {label.shape}"
            )
        return np.repeat(self.used, lengths)
