"""Dask: the loss of lazy arrays is a lazy array, computed chunk by chunk, each on one thread.

Every chunk is a call of its own, and what the calls give adds up. Of a mean each chunk gives its own, times its share
of the elements: sums might overflow. What a weighted mean divides by comes from labels and weights alone, and its
gradients wait for it.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastloss import _foreign, losses
from fastloss._core import CosineLoss, Loss, PairLoss, SequenceLoss, SoftmaxLoss
from fastloss._threads import num_threads
from fastloss.backends import bind, check_own, targets_of

ARRAYS = (da.Array,)

Shape = tuple[int, ...]
# arrays by name, each with the axes of the first input that its own lie along
Placed = dict[str, tuple[Any, Shape]]

RESULTS = {
    "__call__": ("value",),
    "grad": ("gradient",),
    "value_and_grad": ("value", "gradient"),
    "grad_and_hess": ("gradient", "Hessian"),
    "value_grad_and_hess": ("value", "gradient", "Hessian"),
}


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    given, options = bind(loss, inputs, named)
    wrt = check_call(loss, method, given, options)
    arrays = {name: as_array(name, x) for name, x in given.items()}
    pred = arrays[loss.inputs[0]]
    layout = layout_of(loss, pred.shape)
    placed = {name: layout.place(name, x) for name, x in arrays.items()}
    if wrt:
        head = options.get("head_grad")
        arrays["head_grad"] = as_array("head_grad", 1.0 if head is None else head)
        placed["head_grad"] = layout.place_head(arrays["head_grad"])
    layout.check_chunks(arrays, placed)
    placed = align(placed)

    task_method, total, shares = method, None, None
    if layout.reduction == "weighted_mean":
        total, shares = layout.sum_of_weights(placed)
        if wrt:
            placed["head_grad"] = ratio(placed["head_grad"][0], total), ()
        if "sample_weight" in wrt:
            # its gradient holds the value
            task_method = "value_and_grad"
    dtype = np.float32 if pred.dtype.kind == "f" and pred.dtype.itemsize <= 4 else np.float64
    found = compute(layout, task_method, wrt, placed, dtype)
    if total is not None and "value" in found:
        found["value"] = ratio(found["value"], total)
    if total is not None and "sample_weight" in wrt:
        found["sample_weight"] -= shares * (found["value"] * placed["head_grad"][0])

    shapes = {name: x.shape for name, x in arrays.items()} | {"value": layout.value_shape, "Hessian": pred.shape}
    found = {name: resize(x, shapes[name]).astype(dtype) for name, x in found.items()}
    gradients = tuple([found[name] for name in wrt])
    found["gradient"] = gradients if isinstance(options.get("wrt"), tuple) or not wrt else gradients[0]
    results = tuple([found[kind] for kind in RESULTS[method]])
    return results if len(results) > 1 else results[0]


def check_call(loss: Loss, method: str, given: dict[str, Any], options: dict[str, Any]) -> tuple[str, ...]:
    """Refuses what a call cannot do before anything is computed; returns the inputs to differentiate in."""
    kind = type(loss).__name__
    check_own(loss)
    if options.get("out") is not None:
        raise TypeError("out must be None for arrays of Dask, which are computed later and cannot be written into")
    if method.endswith("hess") and loss.no_hessian is not None:
        raise NotImplementedError(f"{kind} has no diagonal Hessian: {loss.no_hessian}")
    if method == "__call__":
        return ()
    return targets_of(loss, options.get("wrt"), given)


def has_class_ids(loss: Loss) -> bool:
    return isinstance(loss, SoftmaxLoss) and bool(dict(loss.arguments)["sparse_label"])


def as_array(name: str, x: Any) -> Any:
    """An array of Dask or NumPy whose chunks have known sizes; axes of size 0 and 1 have but one."""
    if not isinstance(x, da.Array):
        return _foreign.as_array(name, x)
    if isinstance(x._meta, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array, whose mask would be dropped")
    if x.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of real numbers, got dtype {x.dtype}")
    if math.isnan(sum(x.shape)):
        raise ValueError(f"{name} must have chunks of known sizes, got {x.chunks}: call compute_chunk_sizes() on it")
    return x.rechunk({k: -1 for k, n in enumerate(x.shape) if n <= 1 and x.numblocks[k] > 1})


def as_numpy(name: str, x: Any) -> Any:
    return x.compute()


def resize(x: Any, shape: Sequence[int]) -> Any:
    """The same elements with other axes of size 1."""
    x = x[tuple([0 if n == 1 else slice(None) for n in x.shape])]
    return x[tuple([None if n == 1 else slice(None) for n in shape])]


def long_axes(shape: Sequence[int]) -> list[int]:
    return [k for k, n in enumerate(shape) if n != 1]


def with_reduction(loss: Loss, reduction: str) -> Loss:
    return type(loss)(**(dict(loss.arguments) | {"reduction": reduction}))


def layout_of(loss: Loss, shape: Shape) -> Layout:
    ndim = len(shape)
    if isinstance(loss, SequenceLoss) and ndim not in (2, 3):
        layout = dict(loss.arguments)["layout"]
        raise ValueError(f"pred must have 3 axes, {layout}, got shape {shape}; for one example 2, TC, are good")
    if isinstance(loss, SoftmaxLoss | CosineLoss) and ndim == 0:
        axis = "class" if isinstance(loss, SoftmaxLoss) else "feature"
        raise ValueError(f"{loss.inputs[0]} must have a {axis} axis, got a scalar")
    reduction = dict(loss.arguments)["reduction"]
    unreduced = with_reduction(loss, "none")
    axes = unreduced.value_axes(ndim) or ()
    examples = with_reduction(loss, "example").value_axes(ndim)
    batch = examples[0] if examples else None
    whole = {*range(ndim)} - {*axes}
    if not unreduced.is_separable(ndim):
        whole.add(dict(loss.arguments)["axis"] % ndim)
    if isinstance(loss, PairLoss) and batch is not None:
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
        """How many of them, of all chunks, a value is the mean of; 1 where the means are to be added; None for sums."""
        if self.reduction in ("none", "sum"):
            return None
        return 1 if self.reduction == "weighted_mean" else self.size // max(1, math.prod(self.value_shape))

    def place(self, name: str, x: Any) -> tuple[Any, Shape]:
        """An input with the axes of the first one or of the unreduced loss, and which those are."""
        loss, shape, ndim = self.loss, self.shape, len(self.shape)
        first = loss.inputs[0]
        unreduced = tuple([shape[k] for k in self.axes])
        if name == "sample_weight":
            return self.place_weight(x, unreduced)
        if isinstance(loss, SequenceLoss) and name != first:
            return self.place_sequence(name, x)
        if name in loss.fixed and name != "label":
            if x.ndim:
                raise ValueError(f"{name} must be a number, got an array of shape {x.shape}")
            return x, ()
        if loss.inputs.index(name) >= loss.required:
            if not broadcasts(x.shape, shape):
                raise ValueError(f"{name} must broadcast to {first}'s shape {shape}, got shape {x.shape}")
            return x[(None,) * (ndim - x.ndim)], self.axes
        if name == "label" and (has_class_ids(loss) or isinstance(loss, CosineLoss)):
            wanted, axes, what = unreduced, self.axes, f"the unreduced loss's shape {unreduced}"
        else:
            wanted, axes, what = shape, tuple(range(ndim)), f"{first}'s shape {shape}"
        if [x.shape[k] for k in long_axes(x.shape)] != [n for n in wanted if n != 1]:
            raise ValueError(f"{name} must have {what}, or that without axes of size 1, got shape {x.shape}")
        return resize(x, wanted), axes

    def place_weight(self, x: Any, unreduced: Shape) -> tuple[Any, Shape]:
        """One weight per example, or what broadcasts to the unreduced loss, in which the axis of the rows may stand."""
        given = x.shape
        if x.ndim == 1 and self.batch is not None:
            good = given[0] in (1, self.shape[self.batch])
            x = x[tuple([slice(None) if k == self.batch else None for k in self.axes])]
        else:
            if isinstance(self.loss, SoftmaxLoss | CosineLoss) and x.ndim == len(self.shape) and given[self.row] == 1:
                x = x[tuple([0 if k == self.row else slice(None) for k in range(x.ndim)])]
            good = broadcasts(x.shape, unreduced)
            x = x[(None,) * (len(unreduced) - x.ndim)]
        if not good:
            raise ValueError(
                f"sample_weight must be one weight per example or broadcast to the unreduced loss, shape {unreduced}, "
                f"got shape {given}"
            )
        return x, self.axes

    def place_sequence(self, name: str, x: Any) -> tuple[Any, Shape]:
        """CTC's labels and lengths, and their axes. That within a label comes behind those of the first input."""
        behind = len(self.shape)
        single = self.batch is None
        batch = () if self.batch is None else (self.batch,)
        n = math.prod([self.shape[k] for k in batch])
        if name != "label":
            if x.shape != (n,) and not (single and x.shape == ()):
                raise ValueError(f"{name} must be one length per example, shape ({n},), got shape {x.shape}")
            return resize(x, ()) if single else x, batch
        layout = dict(self.loss.arguments)["label_layout"]
        if single and x.ndim == 1:
            return x, (behind,)
        if x.ndim != 2 or x.shape[layout.index("N")] != n:
            raise ValueError(
                f"label must have 2 axes, {layout}, for {n} examples, got shape {x.shape}; labels one after another "
                "cannot be cut into the chunks of Dask"
            )
        if single:
            return x[0] if layout == "NT" else x[:, 0], (behind,)
        return x, (*batch, behind) if layout == "NT" else (behind, *batch)

    def place_head(self, x: Any) -> tuple[Any, Shape]:
        if x.ndim and x.shape != self.value_shape:
            raise ValueError(
                f"head_grad must be a number or have the value's shape {self.value_shape}, got shape {x.shape}"
            )
        if self.value_axes is None:
            return resize(x, ()), ()
        return x, self.value_axes if x.ndim else ()

    def check_chunks(self, arrays: dict[str, Any], placed: Placed) -> None:
        """Refuses chunks that cut through what only makes sense as a whole."""
        for name, (x, axes) in placed.items():
            for k, axis in enumerate(axes):
                if isinstance(x, da.Array) and x.numblocks[k] > 1 and (axis in self.whole or axis == len(self.shape)):
                    # counted in the array as it was given
                    given = long_axes(arrays[name].shape)[long_axes(x.shape).index(k)]
                    raise ValueError(
                        f"{name} must be one chunk along axis {given}, of which {type(self.loss).__name__} needs all "
                        f"at once, got chunks {x.chunks[k]}: rechunk({{{given}: -1}}) makes it one"
                    )

    def sum_of_weights(self, placed: Placed) -> tuple[Any, Any]:
        """What a weighted mean divides by, and the derivative of that in sample_weight."""
        weight = placed["sample_weight"][0] if "sample_weight" in placed else None
        arguments = dict(self.loss.arguments)
        if has_class_ids(self.loss) and (arguments["ignore_index"], arguments["class_weight"]) != (None, None):
            label = placed["label"][0]
            counts = label.map_blocks(
                label_weights,
                ignore_index=arguments["ignore_index"],
                class_weight=arguments["class_weight"],
                classes=self.shape[self.row],
                dtype=np.float64,
                meta=np.empty((0,) * label.ndim),
            )
            if weight is None:
                return counts.sum(), None
            along = tuple([k for k, n in enumerate(weight.shape) if n == 1])
            return (counts * weight).sum(dtype=np.float64), counts.sum(along)
        if weight is None:
            return da.asarray(float(self.size)), None
        repeats = self.size / max(1, weight.size)
        return repeats * weight.sum(dtype=np.float64), repeats


def broadcasts(shape: Shape, to: Shape) -> bool:
    """Whether an array of one shape broadcasts to another without enlarging it."""
    return len(shape) <= len(to) and all(m in (1, n) for m, n in zip(reversed(shape), reversed(to), strict=False))


def label_weights(label: Any, *, ignore_index: int | None, class_weight: Any, classes: int) -> NDArray[np.float64]:
    """The class weight of each label, 0 if it is ignored: the loss of log-probabilities of -1."""
    loss = losses.SoftmaxCrossEntropyLoss(
        from_logits=True, reduction="none", ignore_index=ignore_index, class_weight=class_weight
    )
    with num_threads(1):
        return np.asarray(loss(np.broadcast_to(-1.0, (*np.shape(label), classes)), label), np.float64)


def ratio(a: Any, b: Any) -> Any:
    """a / b of numbers, and 0 where b is: the mean of nothing."""
    return da.map_blocks(divide, a, b, dtype=np.float64, meta=np.empty(()))


def divide(a: Any, b: Any) -> Any:
    return np.divide(a, b, out=np.zeros(np.shape(a)), where=np.not_equal(b, 0))[()]


def align(placed: Placed) -> Placed:
    """Everything as arrays of Dask with common chunks."""
    lazy = {name: pair for name, pair in placed.items() if isinstance(pair[0], da.Array)}
    chunks, unified = da.unify_chunks(*[part for pair in lazy.values() for part in pair])
    arrays = dict(zip(lazy, unified, strict=True))
    for name, (x, axes) in placed.items():
        if name not in lazy:
            # along an axis of size 1 it is repeated, and others may be there
            cuts = [chunks.get(axis, ()) for axis in axes]
            fitting = tuple([c if sum(c) == n else (n,) for c, n in zip(cuts, x.shape, strict=True)])
            arrays[name] = da.from_array(x, chunks=fitting)
    return {name: (arrays[name], axes) for name, (_, axes) in placed.items()}


def result_names(method: str, wrt: tuple[str, ...]) -> list[str]:
    """What a method returns, gradients by their inputs."""
    return [name for kind in RESULTS[method] for name in (wrt if kind == "gradient" else (kind,))]


@dataclass(frozen=True)
class Task:
    """The call for a chunk. Its results have all axes of the first input, of size 1 where they have none."""

    loss: Loss
    method: str
    wrt: tuple[str, ...]
    names: tuple[str, ...]  # of the arrays
    axes: Shape  # of the unreduced loss
    mean_size: int | None

    def __call__(self, *arrays: Any) -> tuple[NDArray[Any], ...]:
        inputs = dict(zip(self.names, arrays, strict=True))
        shape = np.shape(arrays[0])
        every = {*range(len(shape))}
        value_axes = self.loss.value_axes(len(shape)) or ()
        share = 1.0
        if self.mean_size is not None:
            share = math.prod([shape[k] for k in self.axes if k not in value_axes]) / max(1, self.mean_size)
        if self.wrt:
            inputs["head_grad"] = inputs["head_grad"] * share
            if not self.method.endswith("hess"):
                inputs["wrt"] = self.wrt
        with num_threads(1):
            found = getattr(self.loss, self.method)(**inputs)
        parts = found if isinstance(found, tuple) else (found,)
        flat = [x for part in parts for x in (part if isinstance(part, tuple) else (part,))]
        results = dict(zip(result_names(self.method, self.wrt), flat, strict=True))
        if self.mean_size is not None and "value" in results:
            results["value"] = np.asarray(results["value"], np.float64) * share
        axes = {"value": value_axes, "sample_weight": self.axes}
        return tuple([np.expand_dims(x, tuple(every - {*axes.get(name, every)})) for name, x in results.items()])


def compute(layout: Layout, method: str, wrt: tuple[str, ...], placed: Placed, dtype: DTypeLike) -> dict[str, Any]:
    """Calls for the chunks, and their results put together, but for what a weighted mean divides by."""
    ndim = len(layout.shape)
    every = tuple(range(ndim))
    loss = with_reduction(layout.loss, "mean" if layout.reduction == "weighted_mean" else layout.reduction)
    task = Task(loss, method, wrt, tuple(placed), layout.axes, layout.mean_size)
    parts = da.blockwise(
        task,
        every,
        *[part for pair in placed.values() for part in pair],
        dtype=object,
        meta=np.empty((0,) * ndim, object),
        align_arrays=False,
        concatenate=True,
    )
    results = {}
    for k, name in enumerate(result_names(method, wrt)):
        if name in placed:
            x, axes = placed[name]
            axes = tuple([axes[i] for i in long_axes(x.shape)])
        else:
            axes = every if name == "Hessian" else layout.value_axes or ()
        chunks = tuple([c if axis in axes else (1,) * len(c) for axis, c in enumerate(parts.chunks)])
        meta = np.empty((0,) * ndim, np.float64 if name == "value" and task.mean_size is not None else dtype)
        x = parts.map_blocks(itemgetter(k), chunks=chunks, dtype=meta.dtype, meta=meta)
        others = tuple({*every} - {*axes})
        summed = any(parts.numblocks[axis] > 1 for axis in others)
        results[name] = x.sum(others, dtype=np.float64) if summed else x.squeeze(others)
    return results
