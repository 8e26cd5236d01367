"""The calls that vmap stands for, as one call over one more axis.

Inputs come with the axes that vmap has added in front of their own, of size 1 where all calls have the same; results go
with all of them in front. The axes become one, of one entry for each call. Where each call has a total, an entry is an
example of the one call, of which the loss is the mean. Else the entries lie in front of the examples, or among them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss import _foreign
from fastloss._core import Loss
from fastloss.backends import make
from fastloss.backends.layout import Layout, Shape, count_ids, ignored_id, layout_of, spec_of, with_reduction

Array = NDArray[Any]
Arrays = Mapping[str, Array]


def call(
    loss: Loss, method: str, given: Arrays, added: int, wrt: tuple[str, ...], out: Sequence[Array] | None = None
) -> list[Any]:
    """Make the calls of a method that spelled() wrote; return its results, or fill arrays that lie flat with them.

    given has the inputs, head_grad and the vector by name, each with as many added axes; results are the value, the
    gradients and the Hessians, as far as the method has them.
    """
    if not added:
        return flat(make_one(loss, method, given, wrt, out))
    # sums of halves are rounded at their end
    given = {name: _foreign.without_halves(x) for name, x in given.items()}
    batch = np.broadcast_shapes(*[x.shape[:added] for x in given.values()])
    plan = plan_of(loss, method, tuple([(name, x.shape[added:]) for name, x in given.items()]), wrt)
    if plan is None or not plan.takes(given, added):
        return call_each(loss, method, given, batch, wrt, out)
    size = math.prod(batch)
    arrays = {name: joined(x, added, batch) for name, x in given.items()}
    if plan.shares:
        arrays["sample_weight"] = plan.weights(arrays)
    laid = {name: plan.lay(name, x, size) for name, x in arrays.items()}
    if plan.divisor is not None and ("head_grad" in laid or wrt):
        laid["head_grad"] = laid.get("head_grad", np.ones(())) / max(1, plan.divisor)
    names = plan.results
    # the caller's arrays, as far as they lie as the one call's do
    buffers = None if out is None else [plan.view(name, x, size) for name, x in zip(names, out, strict=True)]
    found = flat(make_one(plan.loss, method, laid, wrt, buffers))
    results = [plan.take(name, x, batch) for name, x in zip(names, found, strict=True)]
    for x, result in zip(out or (), results, strict=out is not None):
        if not np.may_share_memory(x, result):
            x[...] = result
    return results


def call_each(
    loss: Loss, method: str, given: Arrays, batch: Shape, wrt: tuple[str, ...], out: Sequence[Array] | None
) -> list[Any]:
    """Calls for one entry after another."""
    each = []
    for index in np.ndindex(batch):
        own = {name: entry(x, index) for name, x in given.items()}
        parts = None if out is None else [x[(*index, ...)] for x in out]
        each.append(flat(make_one(loss, method, own, wrt, parts)))
    if out is not None:
        return list(out)
    # a total is a float of Python, whatever the dtype
    dtype = np.float32 if given[loss.inputs[0]].dtype == np.float32 else np.float64
    return [np.stack(x).astype(dtype).reshape(*batch, *np.shape(x[0])) for x in zip(*each, strict=True)]


def entry(x: Array, index: tuple[int, ...]) -> Any:
    """What an input has at an index of the added axes."""
    return x[(*[min(i, n - 1) for i, n in zip(index, x.shape, strict=False)], ...)]


def make_one(loss: Loss, method: str, given: Arrays, wrt: tuple[str, ...], out: Sequence[Any] | None) -> Any:
    more: dict[str, Any] = {"wrt": wrt} if wrt else {}
    if out is not None:
        parts = grouped(method, out, len(wrt)) if wrt else list(out)
        more["out"] = tuple(parts) if len(parts) > 1 else parts[0]
    return make(loss, method, **given, **more)


def grouped(method: str, results: Sequence[Any], n: int) -> list[Any]:
    """The value, if the method has it, and behind it the derivatives in tuples of n."""
    first = int(method.startswith("value"))
    return [*results[:first], *[tuple(results[k : k + n]) for k in range(first, len(results), n)]]


def flat(x: Any) -> list[Any]:
    return [y for part in x for y in flat(part)] if isinstance(x, tuple) else [x]


def joined(x: Array, added: int, batch: Shape) -> Array:
    """The added axes as one, of size 1 where all entries are the same."""
    own = x.shape[added:]
    if math.prod(x.shape[:added]) == 1:
        return x.reshape(1, *own)
    return np.broadcast_to(x, (*batch, *own)).reshape(-1 if x.size else math.prod(batch), *own)


@functools.lru_cache(maxsize=1024)
def plan_of(loss: Loss, method: str, shapes: tuple[tuple[str, Shape], ...], wrt: tuple[str, ...]) -> Plan | None:
    """How one call stands for many with inputs of these shapes; None where each must be made by itself."""
    given = dict(shapes)
    first = loss.inputs[0]
    layout = layout_of(loss, given[first])
    if loss.couples is not None or layout.value_axes is None:
        return None
    # within an example of such a loss there is no axis to count entries along
    within_examples = not loss.is_elementwise and loss.row_axis(len(layout.shape)) is None
    total = layout.reduction not in ("none", "example")
    counts = ignored_id(loss) is not None or dict(loss.arguments).get(loss.row_parameter or "") is not None
    shares = layout.reduction == "weighted_mean" and (counts or "sample_weight" in given)
    if shares and ("sample_weight" in wrt or within_examples):
        return None
    names = result_names(method, wrt, first)
    own = given | {"value": layout.value_shape}
    if not within_examples and (total or layout.value_axes == layout.axes):
        return Plan(leading(loss, layout), layout, given, own, names, None, shares)
    if within_examples and layout.batch is None:
        # a batch of one
        (at,) = with_reduction(loss, "example").value_axes(len(layout.shape) + 1) or ()
        layout = layout_of(loss, (*layout.shape[:at], 1, *layout.shape[at:]))
        given = {name: with_example(loss, layout, name, shape) for name, shape in given.items()}
    if layout.batch is None or any(is_in_a_row(loss, name, shape) for name, shape in given.items()):
        return None
    if not total:
        return Plan(loss, layout, given, own, names, layout.batch)
    divisor = 1 if layout.reduction == "sum" else layout.size
    return Plan(with_reduction(loss, "none"), layout, given, own, names, layout.batch, divisor=divisor)


def leading(loss: Loss, layout: Layout) -> Loss:
    """The loss of entries along an axis in front."""
    arguments = dict(loss.arguments)
    row = loss.row_axis(len(layout.shape))
    changes: dict[str, Any] = {} if row is None else {"axis": row + 1}
    changes |= {"batch_axis": 0, "reduction": "none"}
    if layout.reduction not in ("none", "example"):
        changes["reduction"] = "example"
    if layout.reduction == "sum":
        weight = arguments["weight"]
        changes["weight"] = (1 if weight is None else weight) * layout.size
    return type(loss)(**arguments | changes)


def with_example(loss: Loss, layout: Layout, name: str, shape: Shape) -> Shape:
    """The shape of an input of a single example, in a batch of it."""
    at = layout.batch or 0
    if name in (loss.inputs[0], "vector"):
        return (*shape[:at], 1, *shape[at:])
    axes = spec_of(loss, name).axes if name in loss.inputs else ""
    if not axes:
        return shape
    if len(axes) > 1:
        return shape if len(shape) > 1 else (1, *shape) if axes.startswith("N") else (*shape, 1)
    return (1,)


def is_in_a_row(loss: Loss, name: str, shape: Shape) -> bool:
    """Whether an input holds what belongs to the examples one after another."""
    return name in loss.inputs and len(spec_of(loss, name).axes) > 1 and len(shape) == 1


def result_names(method: str, wrt: tuple[str, ...], first: str) -> tuple[str, ...]:
    """What each result lies like: the value, or an input."""
    method = method.partition(":")[0]
    value = ("value",) * (method == "__call__" or method.startswith("value"))
    inputs = (wrt or (first,)) if method != "__call__" else ()
    return (*value, *inputs * (1 + (method.startswith(("grad_", "value_grad_")) and "hess" in method)))


@dataclass(frozen=True)
class Plan:
    """One call for many entries: in front of all axes, or, at the axis `batch` of the first input, of the examples."""

    loss: Loss  # of the one call
    layout: Layout  # of an entry
    given: Mapping[str, Shape]  # shapes of an entry's inputs, in a batch of it if it is a single example
    own: Mapping[str, Shape]  # of an entry's inputs and value as they are
    results: tuple[str, ...]
    batch: int | None
    shares: bool = False  # weights are divided by the sum of those of their entry
    divisor: int | None = None  # the values are those of examples, to be summed and divided by it
    shapes: dict[str, Shape] = field(init=False)  # of an entry's inputs, with the axes that they lie along
    axes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        placed = {}
        for name, shape in self.given.items():
            x = np.broadcast_to(0.0, shape)
            placed[name] = self.layout.place_head(x) if name == "head_grad" else self.layout.place(name, x)
        object.__setattr__(self, "shapes", {name: x.shape for name, (x, _) in placed.items()})
        object.__setattr__(self, "axes", {name: axes for name, (_, axes) in placed.items()})

    def takes(self, given: Arrays, added: int) -> bool:
        """Whether no number differs between the entries: a call takes but one."""
        return all(
            math.prod(x.shape[:added]) == 1
            for name, x in given.items()
            if name in self.layout.loss.inputs and spec_of(self.layout.loss, name).lies == "number"
        )

    def weights(self, arrays: Arrays) -> Array:
        """Weights with which a mean of all elements is the weighted mean of each entry."""
        layout, loss = self.layout, self.layout.loss
        own: Any = np.ones(())
        if "sample_weight" in arrays:
            weight = arrays["sample_weight"].astype(np.float64)
            own = weight.reshape(weight.shape[0], *self.shapes["sample_weight"])
        counted = own
        for name, x in arrays.items():
            if name in loss.inputs and spec_of(loss, name).lies == "per row":
                counted = own * count_ids(loss, layout, x.reshape(x.shape[0], *self.shapes[name]))
        every = 1, *[layout.shape[k] for k in layout.axes]
        counted = np.broadcast_to(counted, np.broadcast_shapes(counted.shape, every))
        sums = counted.sum(tuple(range(1, counted.ndim)), keepdims=True)
        found: Array = own * np.divide(layout.size, sums, out=np.zeros_like(sums), where=sums != 0)
        return found

    def lay(self, name: str, x: Array, size: int) -> Array:
        """An input of entries along its first axis, as the one call takes it."""
        layout = self.layout
        if name == "sample_weight" and self.shares:
            return x
        if name == "head_grad":
            shape = self.value_shape
            aligned = x.reshape(x.shape[0], *self.shapes[name], *[1] * (len(shape) - len(self.shapes[name])))
            return self.merged(np.broadcast_to(aligned, (size, *shape)), self.value_at, size)
        lies = "like first" if name == "vector" else spec_of(layout.loss, name).lies
        if lies == "number":
            return x.reshape(())
        x = x.reshape(x.shape[0], *self.shapes[name])
        if lies in ("weight", "broadcast") and name not in self.results and self.batch is None:
            return x
        x = np.broadcast_to(x, (size, *x.shape[1:]))
        return self.merged(x, None if self.batch is None else self.axes[name].index(self.batch), size)

    @property
    def value_shape(self) -> Shape:
        """Of an entry's value in the one call."""
        if self.divisor is not None:
            return tuple([self.layout.shape[k] for k in self.layout.axes])
        return self.layout.value_shape

    @property
    def value_at(self) -> int | None:
        """Which of an entry's axes of the value counts the examples."""
        axes = self.layout.axes if self.divisor is not None else self.layout.value_axes or ()
        return None if self.batch is None else axes.index(self.batch)

    def merged(self, x: Array, at: int | None, size: int) -> Array:
        """The entries among the examples, which are axis `at` of each; None: in front."""
        if at is None:
            return x
        x = np.moveaxis(x, 0, at)
        n = self.layout.shape[self.batch or 0]
        x = np.broadcast_to(x, (*x.shape[: at + 1], n, *x.shape[at + 2 :]))
        return x.reshape(*x.shape[:at], size * n, *x.shape[at + 2 :])

    def view(self, name: str, x: Array, size: int) -> Array | None:
        """The caller's array for a result as the one call may fill it; None where it lies otherwise."""
        shape = self.value_shape if name == "value" else self.shapes[name]
        if name == "value" and self.divisor is not None:
            return None
        at = self.value_at if name == "value" else None if self.batch is None else self.axes[name].index(self.batch)
        laid = self.merged(x.reshape(size, *shape), at, size)
        return laid if laid.flags.writeable and np.may_share_memory(laid, x) else None

    def take(self, name: str, found: Any, batch: Shape) -> Array:
        """A result of the one call, as those of the entries."""
        x: Array = np.asarray(found)
        shape = self.value_shape if name == "value" else self.shapes[name]
        at = self.value_at if name == "value" else None if self.batch is None else self.axes[name].index(self.batch)
        if at is not None:
            n = self.layout.shape[self.batch or 0]
            x = x.reshape(*x.shape[:at], -1 if n and x.size else math.prod(batch), n, *x.shape[at + 1 :])
            if name != "value" and shape[at] == 1 and n != 1:
                x = x.sum(at + 1, keepdims=True, dtype=x.dtype)
            x = np.moveaxis(x, at, 0)
        if name == "value" and self.divisor is not None:
            sums = x.reshape(x.shape[0], -1).sum(1, dtype=np.float64) / max(1, self.divisor)
            x = sums.astype(x.dtype)
        result: Array = x.reshape(*batch, *self.own[name])
        return result
