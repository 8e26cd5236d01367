"""How the inputs of a call lie along the axes of the first, for backends that check before they call."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fastloss import _foreign
from fastloss._core import Loss
from fastloss._inputs import Input, per_row

Shape = tuple[int, ...]


def spec_of(loss: Loss, name: str) -> Input:
    return loss.specs[loss.inputs.index(name)]


def ignored_id(loss: Loss) -> int | None:
    """The id of labels whose examples are left out."""
    label = per_row(loss.specs)
    return None if label is None or label.integers is None else label.integers.ignored


def resize(x: Any, shape: Sequence[int]) -> Any:
    """The same elements with other axes of size 1."""
    x = x[tuple([0 if n == 1 else slice(None) for n in x.shape])]
    return x[tuple([None if n == 1 else slice(None) for n in shape])]


def long_axes(shape: Sequence[int]) -> list[int]:
    return [k for k, n in enumerate(shape) if n != 1]


def weights_of_ids(loss: Loss) -> NDArray[np.float64] | None:
    """What an example counts by the id that its label holds; None: all count as one."""
    label = per_row(loss.specs)
    if label is None or label.integers is None or label.integers.high is not None:
        return None
    given = dict(loss.arguments).get(loss.row_parameter or "")
    if given is not None:
        return np.asarray(given, np.float64)
    return None if label.integers.ignored is None else np.ones(1)


def count(label: Any, *, weights: NDArray[np.float64], ignored: int | None) -> NDArray[np.float64]:
    """The weight of each label; 0 for one that is ignored, and for what is no id, as that of an example left out."""
    known = np.isin(label, np.arange(weights.size)) & (label != ignored)
    return np.where(known, weights[np.where(known, label, 0).astype(np.intp)], 0)


def count_ids(loss: Loss, layout: Layout, label: Any) -> Any:
    """The weights of labels that are ids; 1 for any others."""
    weights = weights_of_ids(loss)
    if weights is None:
        return 1.0
    return count(label, weights=np.broadcast_to(weights, layout.shape[layout.row]), ignored=ignored_id(loss))


def with_reduction(loss: Loss, reduction: str) -> Loss:
    return type(loss)(**(dict(loss.arguments) | {"reduction": reduction}))


def layout_of(loss: Loss, shape: Shape) -> Layout:
    ndim = len(shape)
    loss.check_shapes({loss.inputs[0]: shape})
    row = loss.row_axis(ndim)
    loss.check_row(shape)
    reduction = dict(loss.arguments)["reduction"]
    unreduced = with_reduction(loss, "none")
    axes = unreduced.value_axes(ndim) or ()
    examples = with_reduction(loss, "example").value_axes(ndim)
    batch = examples[0] if examples else None
    whole = {*range(ndim)} - {*axes}
    if row is not None:
        whole.add(row)
    if loss.couples and batch is not None:
        whole.add(batch)
    value_axes = loss.value_axes(ndim)
    if value_axes is None:
        # one value for the only example there is
        reduction = "mean"
    return Layout(loss, shape, axes, batch, frozenset(whole), reduction, value_axes)


@dataclass(frozen=True)
class Layout:
    """How a call lies along the axes of its first input."""

    loss: Loss
    shape: Shape
    axes: Shape  # of the unreduced loss
    batch: int | None  # the one of them that counts the examples
    whole: frozenset[int]  # along which elements depend on each other
    reduction: str
    value_axes: Shape | None

    @property
    def value_shape(self) -> Shape:
        return (1,) if self.value_axes is None else tuple([self.shape[k] for k in self.value_axes])

    @property
    def size(self) -> int:
        """How many elements the unreduced loss has."""
        return math.prod([self.shape[k] for k in self.axes])

    @property
    def row(self) -> int:
        """The axis of classes or vectors, which an unreduced loss lacks."""
        return next(k for k in range(len(self.shape)) if k not in self.axes)

    @property
    def mean_size(self) -> int | None:
        """How many elements, over all chunks, a value is the mean of; 1 if means are to be added; None for sums."""
        if self.reduction in ("none", "sum"):
            return None
        return 1 if self.reduction == "weighted_mean" else self.size // max(1, math.prod(self.value_shape))

    def place(self, name: str, x: Any) -> tuple[Any, Shape]:
        """An input spread over axes of the first input, and these axes."""
        loss, shape, ndim = self.loss, self.shape, len(self.shape)
        first = loss.inputs[0]
        unreduced = tuple([shape[k] for k in self.axes])
        if name == "sample_weight":
            return self.place_weight(x, unreduced)
        spec = spec_of(loss, first if name == "vector" else name)
        if spec.lies == "own":
            return self.place_own(spec, x)
        if spec.lies == "number":
            if x.ndim:
                raise ValueError(f"{name} must be a number, got an array of shape {x.shape}")
            return x, ()
        if spec.lies == "broadcast":
            if not broadcasts(x.shape, shape):
                raise ValueError(f"{name} must broadcast to {first}'s shape {shape}, got shape {x.shape}")
            return x[(None,) * (ndim - x.ndim)], self.axes
        if spec.lies == "per row":
            wanted, axes = unreduced, self.axes
            what = f"{first}'s shape {shape} without axis {self.row}, {unreduced}"
        else:
            wanted, axes, what = shape, tuple(range(ndim)), f"{first}'s shape {shape}"
        if not fits(x.shape, wanted):
            raise ValueError(
                f"{name} must have {what}, though one of the two may lack axes of size 1, got shape {x.shape}"
            )
        return resize(x, wanted), axes

    def place_weight(self, x: Any, unreduced: Shape) -> tuple[Any, Shape]:
        """Weights per example, or weights that broadcast to the unreduced loss, with or without the rows' axis."""
        given = x.shape
        if given == (1,) and not unreduced:
            x, good = x[0], True
        elif x.ndim == 1 and self.batch is not None:
            good = given[0] in (1, self.shape[self.batch])
        else:
            rows = self.loss.has_rows and x.ndim == len(self.shape)
            to = tuple([n if k in self.axes else 1 for k, n in enumerate(self.shape)]) if rows else unreduced
            good = broadcasts(given, to)
        if not good:
            raise ValueError(
                f"sample_weight must be one weight per example or broadcast to the unreduced loss, shape {unreduced}, "
                f"got shape {given}{_foreign.about_weights(np.broadcast_to(0.0, given))}"
            )
        return self.spread_weight(x), self.axes

    def spread_weight(self, x: Any) -> Any:
        """Weights, checked before, with the axes of the unreduced loss."""
        if x.ndim == 1 and self.batch is not None:
            return x[tuple([slice(None) if k == self.batch else None for k in self.axes])]
        if x.ndim > len(self.axes):
            return x[tuple([slice(None) if k in self.axes else 0 for k in range(x.ndim)])]
        return x[(None,) * (len(self.axes) - x.ndim)]

    def place_own(self, spec: Input, x: Any) -> tuple[Any, Shape]:
        """An input with a shape of its own, and its axes. One within an example comes behind the first input's."""
        behind = len(self.shape)
        single = self.batch is None
        batch = () if self.batch is None else (self.batch,)
        n = math.prod([self.shape[k] for k in batch])
        if spec.axes == "N":
            if x.shape != (n,) and not (single and x.shape == ()):
                raise ValueError(f"{spec.name} must be one length per example, shape ({n},), got shape {x.shape}")
            return resize(x, ()) if single else x, batch
        if single and x.ndim == 1:
            return x, (behind,)
        if x.ndim != 2 or x.shape[spec.axes.index("N")] != n:
            raise ValueError(
                f"{spec.name} must have 2 axes, {spec.axes}, for {n} examples, got shape {x.shape}"
                + f"; {spec.name}s one after another cannot be cut into the chunks of Dask" * (x.ndim == 1)
            )
        first = spec.axes.startswith("N")
        if single:
            return x[0] if first else x[:, 0], (behind,)
        return x, (*batch, behind) if first else (behind, *batch)

    def place_head(self, x: Any) -> tuple[Any, Shape]:
        if x.ndim and not fits(x.shape, self.value_shape):
            raise ValueError(
                f"head_grad must be a number or have the value's shape {self.value_shape}, got shape {x.shape}"
            )
        if self.value_axes is None:
            return resize(x, ()), ()
        return (resize(x, self.value_shape), self.value_axes) if x.ndim else (x, ())


def fits(shape: Shape, wanted: Shape) -> bool:
    """Whether two shapes are equal, or one of them is the other without some axes of size 1."""
    return is_without(shape, wanted) or is_without(wanted, shape)


def is_without(short: Shape, long: Shape) -> bool:
    """Whether one shape is the other, or that without some axes of size 1."""
    k = 0
    for n in long:
        if k < len(short) and short[k] == n:
            k += 1
        elif n != 1:
            return False
    return k == len(short)


def broadcasts(shape: Shape, to: Shape) -> bool:
    """Whether an array of one shape broadcasts to another without enlarging it."""
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to), strict=False))


@functools.lru_cache(maxsize=1024)
def check_shapes(loss: Loss, shapes: tuple[tuple[str, Shape], ...]) -> None:
    """Refuses inputs, by name and shape, the first one first, that do not fit together."""
    layout = layout_of(loss, shapes[0][1])
    for name, shape in shapes:
        x = np.broadcast_to(0.0, shape)
        if name == "head_grad":
            layout.place_head(x)
        elif name in loss.inputs and len(spec_of(loss, name).axes) > 1 and len(shape) == 1:
            # ids in one row are cut by the lengths, whose numbers only the call sees
            continue
        else:
            layout.place(name, x)


def left_out(loss: Loss, given: Mapping[str, Any], name: str) -> Any:
    """A mask, which broadcasts to an input, of elements whose gradient is 0 even for an infinite head.

    These are elements of weight 0 or with an ignored id; None if the call has neither weights nor an ignored id.
    """
    first = loss.inputs[0]
    ignored = ignored_id(loss)
    # The losses of other examples depend on a pair's second vector, too.
    is_shared = loss.couples is not None and name != first
    if name == "sample_weight" or is_shared or ("sample_weight" not in given and ignored is None):
        return None
    shape = tuple(given[first].shape)
    layout = layout_of(loss, shape)
    masks = [layout.spread_weight(given["sample_weight"]) == 0] if "sample_weight" in given else []
    if ignored is not None:
        wanted = tuple([shape[k] for k in layout.axes])
        label = given[cast(Input, per_row(loss.specs)).name]
        masks.append((label if tuple(label.shape) == wanted else resize(label, wanted)) == ignored)
    mask = masks[0] if len(masks) == 1 else masks[0] | masks[1]
    mask = mask[tuple([slice(None) if k in layout.axes else None for k in range(len(shape))])]
    own = tuple(given[name].shape)
    if own == shape:
        return mask
    if spec_of(loss, name).lies != "broadcast":
        mask = mask[tuple([0 if n == 1 else slice(None) for n in shape])]
        return mask[tuple([None if n == 1 else slice(None) for n in own])]
    # Along an axis that the input lacks, or has with size 1, all must be left out.
    more = len(shape) - len(own)
    for k in range(len(shape)):
        if k < more or own[k - more] == 1:
            mask = mask.all(k)[(slice(None),) * k + (None,)]
    return mask[(0,) * more]
