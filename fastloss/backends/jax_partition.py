"""Calls of arrays whose examples lie on several devices: each device calls the loss on its own, and totals are added.

XLA asks how a call is cut while it compiles a program for several devices, and gathers what cannot be cut.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.experimental import custom_partitioning
from jax.sharding import NamedSharding

from fastloss._core import Loss
from fastloss.backends import jax_weights, mapping
from fastloss.backends.layout import Layout, Shape, layout_of, with_reduction

# what has no types
PartitionSpec: Any = jax.sharding.PartitionSpec
Partitioned: Any = custom_partitioning.custom_partitioning
psum: Any = jax.lax.psum


@dataclass(frozen=True)
class Cut:
    """Which axis of each input and result counts the examples, or what vmap maps over; None: the devices share it."""

    inputs: tuple[int | None, ...]
    results: tuple[int | None, ...]
    reduction: str = "sum"  # over all devices

    def rule(self, inputs: Sequence[Shape], results: Sequence[Shape]) -> str:
        """What Shardy's rules say: an axis of the examples is the same for all, any other an array's own."""
        texts = []
        for side, shapes, places in (("i", inputs, self.inputs), ("r", results, self.results)):
            parts = [
                " ".join(["examples" if k == at else f"{side}{n}x{k}" for k in range(len(shape))])
                for n, (shape, at) in enumerate(zip(shapes, places, strict=True))
            ]
            texts.append(", ".join(parts))
        return " -> ".join(texts)


@functools.lru_cache(maxsize=1024)
def cut_of(
    loss: Loss, method: str, names: tuple[str, ...], wrt: tuple[str, ...], added: int, shapes: tuple[Shape, ...]
) -> Cut | None:
    """How a call is cut; None: each device needs all of it."""
    found = mapping.result_names(method, wrt, names[0])
    if added:
        return Cut(tuple([0 if shape[0] > 1 else None for shape in shapes]), (0,) * len(found))
    layout = layout_of(loss, shapes[0])
    in_a_row = any(mapping.is_in_a_row(loss, name, shape) for name, shape in zip(names, shapes, strict=True))
    # the derivative in a weight of a weighted mean depends on the mean over all devices
    is_of_mean = layout.reduction == "weighted_mean" and "sample_weight" in wrt
    if in_a_row or layout.batch in (None, *layout.whole) or is_of_mean:
        return None
    inputs = {name: place(layout, name, shape) for name, shape in zip(names, shapes, strict=True)}
    axes = layout.value_axes or ()
    inputs["value"] = axes.index(layout.batch) if layout.batch in axes else None
    where = [tuple([inputs[name] for name in every]) for every in (names, found)]
    return Cut(where[0], where[1], layout.reduction)


def place(layout: Layout, name: str, shape: Shape) -> int | None:
    """Which axis of an input counts the examples."""
    x = np.broadcast_to(0.0, shape)
    laid, axes = layout.place_head(x) if name == "head_grad" else layout.place(name, x)
    at = axes.index(layout.batch) if layout.batch in axes else None
    if at is None or laid.shape[at] == 1:
        return None
    # the two differ in axes of size 1
    before: int = sum(n != 1 for n in laid.shape[:at])
    long: list[int] = [k for k, n in enumerate(shape) if n != 1]
    return long[before]


def shared_mean(  # no cover: XLA's thread makes this call, which no tracer follows
    loss: Loss, names: tuple[str, ...], arrays: Sequence[Any], axes: Any
) -> tuple[Loss, dict[str, Any]]:
    """A device's part of a weighted mean over several devices, as a sum with other weights."""
    given: dict[str, Any] = dict(zip(names, arrays, strict=True))
    layout = layout_of(loss, given[names[0]].shape)
    total = jax_weights.total(layout, given)
    share = jax_weights.reciprocal(psum(layout.size if total is None else total, axes))
    weight = given.get("sample_weight")
    given["sample_weight"] = share[None] if weight is None else jax_weights.wide(weight) * share
    return with_reduction(loss, "sum"), given


def partitioned(
    call: Callable[..., Any],
    cut: Cut,
    loss: Loss,
    names: tuple[str, ...],
    shapes: Sequence[Shape],
    results: Sequence[Shape],
) -> Any:
    """A call of a loss, as a function of arrays which XLA cuts."""

    def split(mesh: Any, arrays: Any, _: Any) -> Any:  # no cover: as above
        axes, parts = chosen(mesh, arrays)
        local = loss
        if cut.reduction == "mean":
            weight = dict(loss.arguments)["weight"]
            local = type(loss)(**dict(loss.arguments) | {"weight": (1 if weight is None else weight) / parts})

        def on_device(*arrays: Any) -> Any:
            if parts == 1:
                return tuple(call(loss, names, *arrays))
            if cut.reduction == "weighted_mean":
                own, given = shared_mean(loss, names, arrays, axes)
                found = call(own, tuple(given), *given.values())
            else:
                found = call(local, names, *arrays)
            return tuple([psum(x, axes) if at is None else x for x, at in zip(found, cut.results, strict=True)])

        def sharding(shape: Shape, at: int | None) -> Any:
            spec = [axes if k == at and parts > 1 else None for k in range(len(shape))]
            return NamedSharding(mesh, PartitionSpec(*spec))

        where = [
            tuple(map(sharding, every, places)) for every, places in ((shapes, cut.inputs), (results, cut.results))
        ]
        return mesh, on_device, where[1], where[0]

    def chosen(mesh: Any, arrays: Any) -> tuple[Any, int]:  # no cover: as above
        """The axes of the mesh along which the examples lie, and into how many parts."""
        for x, at in zip(arrays, cut.inputs, strict=True):
            axes = None if at is None or len(x.sharding.spec) <= at else x.sharding.spec[at]
            if axes is not None:
                axes = axes if isinstance(axes, tuple) else (axes,)
                parts = math.prod([mesh.shape[name] for name in axes])
                return (axes, parts) if x.shape[at] % parts == 0 else (None, 1)
        return None, 1

    function = Partitioned(lambda *arrays: tuple(call(loss, names, *arrays)))
    function.def_partition(partition=split, sharding_rule=cut.rule(shapes, results))
    return function
