"""Dask: the loss of a linear predictor of lazy rows, a task for each chunk of them. Dask adds up what the tasks return.

A chunk is read once, by one thread, for the value and all gradients.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

from itertools import accumulate
from typing import Any

import dask.array as da
import numpy as np
from dask.delayed import delayed

from fastloss import _foreign
from fastloss._core import Loss, Rows
from fastloss._threads import num_threads
from fastloss.backends import check_own
from fastloss.backends.dask import as_array
from fastloss.backends.layout import layout_of, with_reduction
from fastloss.linear import LinearLoss, targets


def evaluate(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    loss = linear.loss
    check_own(loss)
    head = options.get("head_grad")
    if method in ("hvp", "hess") or options.get("out") is not None or np.ndim(1.0 if head is None else head):
        raise TypeError(
            f"{method} of LinearLoss of Dask's arrays gives the value and gradients alone, without out= and with a "
            "number as head_grad; call it with NumPy's arrays, a part of the rows at a time"
        )
    given = {name: x for name, x in given.items() if x is not None}
    X = rows_of(given.pop("X"))
    weight, bias = given.pop("weight"), given.pop("bias", None)
    weight = weight if isinstance(weight, da.Array) else _foreign.as_array("weight", weight)
    wrt = options.get("wrt", "weight")
    names = targets(wrt, bias is not None) if method != "__call__" else ()

    layout = layout_of(loss, (X.shape[0], *weight.shape[:-1]))
    is_total = layout.value_axes == ()
    single = LinearLoss(with_reduction(loss, "sum") if is_total else loss, chunk_bytes=linear.chunk_bytes)
    placed = {name: layout.place(name, as_array(name, x)) for name, x in given.items()}
    ends = list(accumulate(X.chunks[0]))
    parts = []
    for start, end in zip([0, *ends], ends, strict=False):
        own = {
            name: x[start:end] if axes[:1] == (0,) and len(x) == X.shape[0] else x for name, (x, axes) in placed.items()
        }
        arrays = {"X": X[start:end], "weight": weight, "bias": bias, "sample_weight": None} | own
        parts.append(delayed(call_part)(loss, single, arrays, method, names, 1.0 if head is None else head))

    dtype = np.float32 if is_floating(X.dtype) and X.dtype.itemsize <= 4 else np.float64
    share = 1.0
    if is_total:
        count = total(parts, "count", ())
        share = da.where(count == 0, 0.0, 1 / da.where(count == 0, 1.0, count))
    found: dict[str, Any] = {}
    if method != "grad":
        shape = layout.value_shape[1:]
        found["value"] = total(parts, "value", ()) * share if is_total else joined(parts, "value", X, shape, dtype)
    like = {"weight": weight, "bias": bias}
    for name in names:
        if name == "X":
            found["X"] = (joined(parts, "X", X, X.shape[1:], X.dtype) * share).astype(X.dtype)
        else:
            x = like[name] if isinstance(like[name], da.Array) else np.asarray(like[name])
            found[name] = (total(parts, name, x.shape) * share).astype(x.dtype if is_floating(x.dtype) else np.float64)
    gradients = tuple([found[name] for name in names])
    if method == "__call__":
        return found["value"]
    whole = gradients if isinstance(wrt, tuple) else gradients[0]
    return whole if method == "grad" else (found["value"], whole)


def is_floating(dtype: Any) -> bool:
    return dtype.kind == "f" or _foreign.is_bfloat16(dtype)


def rows_of(X: Any) -> Any:
    if not isinstance(X, da.Array):
        raise TypeError(
            f"X must be an array of Dask where another input is one, got {type(X).__name__}; take da.from_array(X), or "
            "compute() the others"
        )
    X = as_array("X", X)
    if X.ndim != 2:
        raise ValueError(f"X must have two axes, of examples and of features, got shape {X.shape}")
    if X.numblocks[1] > 1:
        raise ValueError(f"X must be one chunk along axis 1, got chunks {X.chunks[1]}: rechunk({{1: -1}}) makes it one")
    return X


def call_part(
    loss: Loss, linear: LinearLoss, given: dict[str, Any], method: str, names: tuple[str, ...], head: float
) -> dict[str, Any]:
    """What a chunk adds to each result, and to what a mean divides by."""
    # numbers that the count does not look at
    zeros = np.broadcast_to(0.0, given["X"].shape)
    weight = np.broadcast_to(0.0, np.shape(given["weight"]))
    inputs = {name: x for name, x in given.items() if name not in ("X", "weight", "bias")}
    count = loss.of_linear(Rows(zeros), weight, None, None, (), inputs, 0)
    if count is None:
        raise ValueError("sample_weight must have a sum with a reciprocal in float64; multiply all by one number")
    with num_threads(1):
        if method == "__call__":
            found = {"value": linear.compute(method, given, {})}
        else:
            value, gradients = linear.compute("value_and_grad", given, {"wrt": names, "head_grad": head})
            found = {"value": value} | dict(zip(names, gradients, strict=True))
    return {name: np.asarray(x) for name, x in (found | {"count": count}).items()}


def total(parts: list[Any], name: str, shape: tuple[int, ...]) -> Any:
    """The sum over chunks, in float64."""
    each = [da.from_delayed(part[name], shape, meta=np.empty((0,) * len(shape))) for part in parts]
    return da.stack(each).sum(0, dtype=np.float64)


def joined(parts: list[Any], name: str, X: Any, rest: tuple[int, ...], dtype: Any) -> Any:
    """The parts of the rows one after the other."""
    sizes = zip(parts, X.chunks[0], strict=True)
    meta = np.empty((0,) * (1 + len(rest)), dtype)
    return da.concatenate([da.from_delayed(part[name], (n, *rest), meta=meta) for part, n in sizes])
