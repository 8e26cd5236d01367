"""Dask: the loss of lazy arrays is a lazy array, computed chunk by chunk, each on one thread.

Every chunk is a call of its own, and the results add up. For a mean, each chunk gives its own mean times its share of
the elements: sums might overflow. Labels and weights alone give the divisor of a weighted mean; gradients wait for it.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import dask.array as da
import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastloss import _foreign
from fastloss._core import Loss
from fastloss._inputs import per_row
from fastloss._threads import num_threads
from fastloss.backends import bind, check_own, is_total, make, spelled, targets_of
from fastloss.backends.layout import (
    Layout,
    Shape,
    count,
    ignored_id,
    layout_of,
    long_axes,
    resize,
    weights_of_ids,
    with_reduction,
)

ARRAYS = (da.Array,)

# arrays by name, each with the axes of the first input that its own axes lie along
Placed = dict[str, tuple[Any, Shape]]

# suffix of an input's name for the Hessian in it
HESSIAN = " Hessian"
RESULTS = {
    "__call__": ("value",),
    "grad": ("gradient",),
    "value_and_grad": ("value", "gradient"),
    "grad_and_hess": ("gradient", "Hessian"),
    "value_grad_and_hess": ("value", "gradient", "Hessian"),
    "hvp": ("Hessian",),
}


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    given, options = bind(loss, inputs, named)
    wrt = check_call(loss, method, given, options)
    given |= {"vector": options.pop("vector")} if method == "hvp" else {}
    arrays = {name: as_array(name, x) for name, x in given.items()}
    pred = arrays[loss.inputs[0]]
    half = pred.dtype if pred.dtype.kind not in "iub" and pred.dtype.itemsize == 2 else None
    if half is not None:
        # chunks are added up before their sum is rounded
        arrays[loss.inputs[0]] = pred = pred.astype(np.float32)
    layout = layout_of(loss, pred.shape)
    placed = {name: layout.place(name, x) for name, x in arrays.items()}
    if wrt:
        head = options.get("head_grad")
        arrays["head_grad"] = as_array("head_grad", 1.0 if head is None else head)
        placed["head_grad"] = layout.place_head(arrays["head_grad"])
    check_chunks(layout, arrays, placed)
    placed = align(placed)

    task_method, total, shares = method, None, None
    if layout.reduction == "weighted_mean":
        total, shares = sum_of_weights(layout, placed)
        if wrt:
            placed["head_grad"] = ratio(placed["head_grad"][0], total), ()
        if "sample_weight" in wrt:
            # its gradient holds the value
            task_method = "value_and_grad"
    dtype = np.float32 if pred.dtype.kind == "f" and pred.dtype.itemsize <= 4 else np.float64
    found = compute(layout, spelled(task_method, dict(options)), wrt, placed, dtype)
    if total is not None and "value" in found:
        found["value"] = ratio(found["value"], total)
    if total is not None and "sample_weight" in wrt:
        found["sample_weight"] -= shares * (found["value"] * placed["head_grad"][0])

    shapes = {name: x.shape for name, x in arrays.items()} | {"value": layout.value_shape}
    found = {name: resize(x, shapes[name.removesuffix(HESSIAN)]).astype(dtype) for name, x in found.items()}
    if half is not None:
        found = {name: x if name == "value" and is_total(loss) else x.astype(half) for name, x in found.items()}
    results: list[Any] = []
    for kind in RESULTS[method]:
        parts = tuple([found[name] for name in parts_of(kind, wrt)])
        results.append(parts if isinstance(options.get("wrt"), tuple) and kind != "value" else parts[0])
    return tuple(results) if len(results) > 1 else results[0]


def check_call(loss: Loss, method: str, given: dict[str, Any], options: dict[str, Any]) -> tuple[str, ...]:
    """Refuses impossible calls before anything is computed; returns the inputs to differentiate in."""
    kind = type(loss).__name__
    check_own(loss)
    if options.get("out") is not None:
        raise TypeError("out must be None for Dask's arrays, which are computed later and cannot be written to")
    if method.endswith("hess") and loss.no_hessian is not None:
        raise NotImplementedError(f"{kind} has no diagonal Hessian: {loss.no_hessian}")
    if method == "__call__":
        return ()
    return targets_of(loss, method, options.get("wrt"), given)


def as_array(name: str, x: Any) -> Any:
    """An array of Dask or NumPy with chunks of known sizes; axes of size 0 and 1 have one chunk."""
    if not isinstance(x, da.Array):
        return _foreign.as_array(name, x)
    if isinstance(x._meta, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: its mask would be dropped")
    if x.dtype.kind not in "fiub" and not _foreign.is_bfloat16(x.dtype):
        raise TypeError(f"{name} must be an array of real numbers, got dtype {x.dtype}")
    if math.isnan(sum(x.shape)):
        raise ValueError(f"{name} must have chunks of known sizes, got {x.chunks}: call compute_chunk_sizes() on it")
    return x.rechunk({k: -1 for k, n in enumerate(x.shape) if n <= 1 and x.numblocks[k] > 1})


def evaluate_linear(linear: Any, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    # imports this module
    from fastloss.backends import dask_linear

    return dask_linear.evaluate(linear, method, given, options)


def as_numpy(name: str, x: Any) -> Any:
    return x.compute()


def check_chunks(layout: Layout, arrays: dict[str, Any], placed: Placed) -> None:
    """Refuses chunks that cut an axis which the loss needs as a whole."""
    for name, (x, axes) in placed.items():
        for k, axis in enumerate(axes):
            if isinstance(x, da.Array) and x.numblocks[k] > 1 and (axis in layout.whole or axis == len(layout.shape)):
                # counted in the array as it was given
                given = long_axes(arrays[name].shape)[long_axes(x.shape).index(k)]
                raise ValueError(
                    f"{name} must be one chunk along axis {given}, which {type(layout.loss).__name__} needs as a "
                    f"whole, got chunks {x.chunks[k]}: rechunk({{{given}: -1}}) makes it one"
                )


def sum_of_weights(layout: Layout, placed: Placed) -> tuple[Any, Any]:
    """The divisor of a weighted mean, and its derivative in sample_weight."""
    weight = placed["sample_weight"][0] if "sample_weight" in placed else None
    label = per_row(layout.loss.specs)
    weights = weights_of_ids(layout.loss)
    if label is not None and weights is not None:
        given = placed[label.name][0]
        counts = given.map_blocks(
            count,
            weights=np.broadcast_to(weights, layout.shape[layout.row]),
            ignored=ignored_id(layout.loss),
            dtype=np.float64,
            meta=np.empty((0,) * given.ndim),
        )
        if weight is None:
            return counts.sum(), None
        along = tuple([k for k, n in enumerate(weight.shape) if n == 1])
        return (counts * weight).sum(dtype=np.float64), counts.sum(along)
    if weight is None:
        return da.asarray(float(layout.size)), None
    repeats = layout.size / max(1, weight.size)
    return repeats * weight.sum(dtype=np.float64), repeats


def ratio(a: Any, b: Any) -> Any:
    """a / b, and 0 where b is 0: the mean of nothing."""
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
            # Along an axis of size 1 the array is repeated, and other sizes may occur.
            cuts = [chunks.get(axis, ()) for axis in axes]
            fitting = tuple([c if sum(c) == n else (n,) for c, n in zip(cuts, x.shape, strict=True)])
            arrays[name] = da.from_array(x, chunks=fitting)
    return {name: (arrays[name], axes) for name, (_, axes) in placed.items()}


def parts_of(kind: str, wrt: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a kind of result: gradients by their inputs, Hessians by these with a suffix."""
    if kind == "value":
        return (kind,)
    return tuple([name + HESSIAN for name in wrt]) if kind == "Hessian" else wrt


def result_names(method: str, wrt: tuple[str, ...]) -> list[str]:
    """The names of a method's results."""
    return [name for kind in RESULTS[method.partition(":")[0]] for name in parts_of(kind, wrt)]


@dataclass(frozen=True)
class Task:
    """The call for a chunk. Results get all axes of the first input, with size 1 where reduced."""

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
            inputs |= {} if self.method.startswith("hvp") else {"wrt": self.wrt}
        with num_threads(1):
            found = make(self.loss, self.method, **inputs)
        parts = found if isinstance(found, tuple) else (found,)
        flat = [x for part in parts for x in (part if isinstance(part, tuple) else (part,))]
        results = dict(zip(result_names(self.method, self.wrt), flat, strict=True))
        if "value" in results and (self.mean_size is not None or value_axes == ()):
            results["value"] = np.asarray(results["value"], np.float64) * share
        axes = {"value": value_axes, "sample_weight": self.axes}
        return tuple([np.expand_dims(x, tuple(every - {*axes.get(name, every)})) for name, x in results.items()])


def compute(layout: Layout, method: str, wrt: tuple[str, ...], placed: Placed, dtype: DTypeLike) -> dict[str, Any]:
    """Calls for the chunks, and their results put together, before the division of a weighted mean."""
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
        if name == "value":
            axes = layout.value_axes or ()
        else:
            x, axes = placed[name.removesuffix(HESSIAN)]
            axes = tuple([axes[i] for i in long_axes(x.shape)])
        chunks = tuple([c if axis in axes else (1,) * len(c) for axis, c in enumerate(parts.chunks)])
        in_double = name == "value" and (task.mean_size is not None or layout.value_axes == ())
        meta = np.empty((0,) * ndim, np.float64 if in_double else dtype)
        x = parts.map_blocks(itemgetter(k), chunks=chunks, dtype=meta.dtype, meta=meta)
        others = tuple({*every} - {*axes})
        summed = any(parts.numblocks[axis] > 1 for axis in others)
        results[name] = x.sum(others, dtype=np.float64) if summed else x.squeeze(others)
    return results
