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
from fastloss.backends import mapping
from fastloss.backends.layout import Layout, Shape, layout_of

# what has no types
PartitionSpec: Any = jax.sharding.PartitionSpec
Partitioned: Any = custom_partitioning.custom_partitioning
psum: Any = jax.lax.psum


@dataclass(frozen=True)
class Cut:
    """Which axis of each input and result counts the examples, or what vmap maps over; None: the devices share it."""

    inputs: tuple[int | None, ...]
    results: tuple[int | None, ...]
    is_mean: bool = False  # over all devices

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
    # a weighted mean has a divisor of all devices' weights
    if in_a_row or layout.batch in (None, *layout.whole) or layout.reduction == "weighted_mean":
        return None
    inputs = {name: place(layout, name, shape) for name, shape in zip(names, shapes, strict=True)}
    axes = layout.value_axes or ()
    inputs["value"] = axes.index(layout.batch) if layout.batch in axes else None
    where = [tuple([inputs[name] for name in every]) for every in (names, found)]
    return Cut(where[0], where[1], layout.reduction == "mean")


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


def partitioned(
    call: Callable[..., Any], cut: Cut, loss: Loss, shapes: Sequence[Shape], results: Sequence[Shape]
) -> Any:
    """A call of a loss, as a function of arrays which XLA cuts."""

    def split(mesh: Any, arrays: Any, _: Any) -> Any:  # no cover: XLA calls it in a thread that no tracer follows
        names, parts = chosen(mesh, arrays)
        local = loss
        if cut.is_mean:
            weight = dict(loss.arguments)["weight"]
            local = type(loss)(**dict(loss.arguments) | {"weight": (1 if weight is None else weight) / parts})

        def on_device(*arrays: Any) -> Any:
            found = call(local, *arrays)
            if parts == 1:
                return tuple(found)
            return tuple([psum(x, names) if at is None else x for x, at in zip(found, cut.results, strict=True)])

        def sharding(shape: Shape, at: int | None) -> Any:
            spec = [names if k == at and parts > 1 else None for k in range(len(shape))]
            return NamedSharding(mesh, PartitionSpec(*spec))

        where = [
            tuple(map(sharding, every, places)) for every, places in ((shapes, cut.inputs), (results, cut.results))
        ]
        return mesh, on_device, where[1], where[0]

    def chosen(mesh: Any, arrays: Any) -> tuple[Any, int]:  # no cover: as above
        """The axes of the mesh along which the examples lie, and into how many parts."""
        for x, at in zip(arrays, cut.inputs, strict=True):
            names = None if at is None or len(x.sharding.spec) <= at else x.sharding.spec[at]
            if names is not None:
                names = names if isinstance(names, tuple) else (names,)
                parts = math.prod([mesh.shape[name] for name in names])
                return (names, parts) if x.shape[at] % parts == 0 else (None, 1)
        return None, 1

    function = Partitioned(lambda *arrays: tuple(call(loss, *arrays)))
    function.def_partition(partition=split, sharding_rule=cut.rule(shapes, results))
    return function
