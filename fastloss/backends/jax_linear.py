"""JAX: the loss of a linear predictor by chunks of rows, one after another in a loop of the compiled program.

A total gets its gradients in X, weight and bias from the loop that computes it. What else is differentiated makes the
predictions of a chunk once more. Both loops are JAX's own operations, which it differentiates again.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fastloss._chunks import PART_BYTES
from fastloss._core import Loss
from fastloss.backends import check_own, compose, jax_weights
from fastloss.backends.jax import as_array, call, is_on_mesh, manual_mesh, result_dtype, typeof, vary_alike
from fastloss.backends.layout import layout_of, left_out
from fastloss.linear import FEW, LinearLoss, offset, parameter, rows_of

Arrays = dict[str, jax.Array]


@dataclass(frozen=True)
class Plan:
    """How a call is made. Parameters and inputs of the loss are arrays by their names."""

    loss: Loss  # of a chunk: the sum, if the whole is a total
    in_rows: tuple[str, ...]  # inputs that a chunk has its part of
    rows: int  # of every chunk but the first, which has at most as many
    chunks: int
    dtype: Any  # of the predictions

    def part(self, x: jax.Array, k: Any) -> jax.Array:
        """The rows of the chunk k; those of the first one for None."""
        first = x.shape[0] - (self.chunks - 1) * self.rows
        return x[:first] if k is None else lax.dynamic_slice_in_dim(x, first + k * self.rows, self.rows)

    def place(self, whole: jax.Array, part: jax.Array, k: Any) -> jax.Array:
        first = whole.shape[0] - (self.chunks - 1) * self.rows
        start = 0 if k is None else first + k * self.rows
        return lax.dynamic_update_slice_in_dim(whole, part.astype(whole.dtype), start, 0)


def evaluate(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    loss = linear.loss
    arrays = {name: as_array(name, x) for name, x in given.items() if x is not None}
    if method != "__call__" or options.get("out") is not None or not goes_by_chunks(arrays):
        return compose(linear, method, {"bias": None} | arrays, options, "JAX")
    check_own(loss)
    names = tuple(arrays)
    arrays = dict(zip(names, vary_alike(tuple(arrays.values())), strict=True))
    X, weight = arrays["X"], arrays["weight"]
    check(loss, arrays)
    layout = layout_of(loss, (X.shape[0], weight.shape[0]))
    placed = {name: layout.place(name, x) for name, x in arrays.items() if name in loss.inputs}
    inputs = {name: x for name, (x, _) in placed.items()}
    in_rows = tuple([name for name, (x, axes) in placed.items() if axes[:1] == (0,) and x.shape[0] == X.shape[0]])

    dtype = np.promote_types(result_dtype(X), np.float32)
    longest = max(1, linear.chunk_bytes // (max(X.shape[1], *weight.shape) * dtype.itemsize))
    chunks = max(1, -(-X.shape[0] // longest))
    plan = Plan(loss, in_rows, -(-X.shape[0] // chunks), chunks, dtype)
    # here, or halves would be added up for the chunks
    held = {name: arrays[name].astype(dtype) for name in ("weight", "bias") if name in arrays} | {"X": X}
    if layout.value_axes != ():
        return values(plan, held, inputs).astype(result_dtype(X))
    own = dict(loss.arguments)
    whole = jax_weights.total(layout, arrays) if layout.reduction == "weighted_mean" else None
    share = 1.0 if layout.reduction == "sum" or whole is not None else 1 / max(1, layout.size)
    summed = type(loss)(**own | {"reduction": "sum", "weight": (1 if own["weight"] is None else own["weight"]) * share})
    found = total(Plan(summed, in_rows, plan.rows, chunks, dtype), held, inputs)
    return found if whole is None else found * jax_weights.reciprocal(whole)


def goes_by_chunks(arrays: Arrays) -> bool:
    """Whether predictions would take more memory than a chunk of rows: those of a few outputs never do."""
    X, weight = arrays["X"], arrays["weight"]
    if X.ndim != 2 or weight.ndim != 2 or not isinstance(weight.shape[0], int) or weight.shape[0] <= FEW:
        return False
    # JAX cuts a product of arrays that lie on an explicit mesh, and sizes may be symbols
    is_cut = manual_mesh() is None and any(is_on_mesh(typeof(x)) for x in arrays.values())
    return not is_cut and all(isinstance(n, int) for x in arrays.values() for n in x.shape)


def check(loss: Loss, arrays: Arrays) -> None:
    """Refuse what a call of NumPy's arrays of these shapes would refuse."""
    stand_ins: Any = {name: np.broadcast_to(np.zeros((), x.dtype), x.shape) for name, x in arrays.items()}
    rows = rows_of(stand_ins.pop("X"))
    weight = parameter("weight", stand_ins.pop("weight"), rows)
    if "bias" in stand_ins:
        offset("bias", stand_ins.pop("bias"), weight)
    loss.of_linear(rows, np.broadcast_to(0.0, weight.shape), None, None, (), stand_ins, 0)


def chunk(plan: Plan, held: Arrays, inputs: Arrays, k: Any) -> tuple[jax.Array, Any]:
    """The rows of a chunk, and the inputs of the loss that belong to them."""
    given: Any = {name: plan.part(x, k) if name in plan.in_rows else x for name, x in inputs.items()}
    x = plan.part(held["X"], k).astype(plan.dtype)
    mask = left_out(plan.loss, given | {"pred": np.broadcast_to(0.0, (x.shape[0], len(held["weight"])))}, "pred")
    if mask is not None:
        # they may hold anything
        x = jnp.where(mask.all(1, keepdims=True), 0, x)
    return x, given


def predictions(held: Arrays, x: jax.Array) -> jax.Array:
    pred = product(x, held["weight"], (1, 1))
    return pred if "bias" not in held else pred + held["bias"]


def product(a: jax.Array, b: jax.Array, axes: tuple[int, int]) -> jax.Array:
    """A product of matrices that sums along an axis of each."""
    found: jax.Array = lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())))
    return found


def value_of_chunk(plan: Plan, held: Arrays, inputs: Arrays, k: Any) -> Any:
    x, given = chunk(plan, held, inputs, k)
    return plan.loss(predictions(held, x), **given)


def value(plan: Plan, held: Arrays, inputs: Arrays) -> Any:
    """The total: reverse mode makes each chunk once more, or it would store the predictions of all."""
    one = jax.checkpoint(functools.partial(value_of_chunk, plan))
    found = one(held, inputs, None)
    return loop(plan, lambda k, total: total + one(held, inputs, k), found)


def loop(plan: Plan, step: Callable[[Any, Any], Any], first: Any) -> Any:
    """A step for each chunk but the first."""
    return lax.fori_loop(0, plan.chunks - 1, step, first) if plan.chunks > 1 else first


@functools.partial(jax.jit, static_argnums=0)
def values(plan: Plan, held: Arrays, inputs: Arrays) -> Any:
    """The values of the rows."""
    one = jax.checkpoint(functools.partial(value_of_chunk, plan))
    first = one(held, inputs, None)
    if plan.chunks == 1:
        return first
    _, others = lax.scan(lambda _, k: (None, one(held, inputs, k)), None, jnp.arange(plan.chunks - 1))
    return jnp.concatenate([first, others.reshape(-1, *first.shape[1:])])


def value_and_gradients(plan: Plan, held: Arrays, inputs: Arrays, names: tuple[str, ...]) -> tuple[jax.Array, Arrays]:
    """The total, and its gradients in some parameters."""

    @jax.checkpoint
    def slopes_of(held: Arrays, inputs: Arrays, k: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, given = chunk(plan, held, inputs, k)
        names, arrays = ("pred", *given), (predictions(held, x), *given.values())
        found, slopes = call(plan.loss, "value_and_grad", names, arrays, ("pred",), in_place=True)
        return found, slopes, x

    def step(k: Any, sums: Arrays) -> Arrays:
        found, slopes, x = slopes_of(held, inputs, k)
        result = {"value": sums["value"] + found}
        if "weight" in names:
            result["weight"] = add_product(sums["weight"], slopes, x)
        if "bias" in names:
            result["bias"] = sums["bias"] + slopes.sum(0)
        if "X" in names:
            result["X"] = plan.place(sums["X"], product(slopes, held["weight"], (1, 0)), k)
        return result

    sums = step(None, {name: jnp.zeros_like(held[name]) for name in names} | {"value": jnp.zeros((), plan.dtype)})
    sums = loop(plan, step, sums)
    return sums.pop("value"), sums


def add_product(total: jax.Array, a: jax.Array, b: jax.Array) -> Any:
    """Add the product of one matrix, transposed, and another, in parts: whole it would take as much as the total."""
    n = total.shape[0]
    parts = max(1, n // max(1, PART_BYTES // max(1, b.shape[1] * total.dtype.itemsize)))
    size = -(-n // parts)
    first = n - (parts - 1) * size

    def add(total: jax.Array, start: Any, size: int) -> jax.Array:
        found = product(lax.dynamic_slice_in_dim(a, start, size, 1), b, (0, 0))
        found += lax.dynamic_slice_in_dim(total, start, size)
        return lax.dynamic_update_slice_in_dim(total, found, start, 0)

    total = add(total, 0, first)
    return lax.fori_loop(0, parts - 1, lambda k, x: add(x, first + k * size, size), total)


@functools.partial(jax.jit, static_argnums=0)
def total(plan: Plan, held: Arrays, inputs: Arrays) -> Any:
    return differentiable(plan, held, inputs)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def differentiable(plan: Plan, held: Arrays, inputs: Arrays) -> Any:
    return value(plan, held, inputs)


@functools.partial(differentiable.defjvp, symbolic_zeros=True)
def change(plan: Plan, primals: Any, tangents: Any) -> Any:
    """The total, and its change along tangents of parameters. JAX itself finds that along tangents of other inputs."""
    held, inputs = primals
    moved, others = [
        {name: x for name, x in flows.items() if type(x) is not jax.custom_derivatives.SymbolicZero}
        for flows in tangents
    ]
    if others:

        def of_moved(own: Arrays, rest: Arrays) -> Any:
            return value(plan, held | own, inputs | rest)

        kept = {name: held[name] for name in moved}, {name: inputs[name] for name in others}
        return jax.jvp(of_moved, kept, (moved, others))
    found, gradients = value_and_gradients(plan, held, inputs, tuple(moved))
    return found, sum([(gradients[name] * x).sum(dtype=found.dtype) for name, x in moved.items()])
