"""JAX: the loss of JAX's arrays is one, inside ``jit``, ``grad`` and ``vmap``, too.

A compiled program calls the losses through ``jax_calls``. Reverse mode takes the gradients from the forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from fastloss import _foreign
from fastloss._core import Loss
from fastloss.backends import (
    along,
    bind,
    check_differentiable,
    check_own,
    check_second_derivatives,
    is_ready,
    is_total,
    jax_calls,
    mapping,
    spelled,
    targets_of,
)
from fastloss.backends.layout import check_shapes, left_out

ARRAYS = (jax.Array, jax.core.Tracer)

# what has another name in other versions, or no types
JAX: Any = jax
PartitionSpec: Any = jax.sharding.PartitionSpec

# dtypes of the empty arrays that stand for gradients of the backward pass, and for unwanted ones
LATER, NEVER = np.dtype(np.int8), np.dtype(np.bool_)


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    given, options = bind(loss, inputs, named)
    check_own(loss)
    if options.pop("out", None) is not None:
        raise TypeError("out must be None for JAX's arrays, which do not change")
    arrays = tuple([as_array(name, x) for name, x in given.items()])
    positions = tuple([loss.inputs.index(name) for name in given])
    if method == "__call__":
        arrays = lie_alike(loss, tuple(given), arrays)
        return (value if manual_mesh() is None else compiled_value)(loss, positions, arrays)
    return evaluate_constant(loss, method, given, arrays, options)


def evaluate_constant(
    loss: Loss, method: str, given: dict[str, Any], arrays: tuple[jax.Array, ...], options: dict[str, Any]
) -> Any:
    """Everything but the plain call: the results are not differentiable."""
    names = tuple(given)
    head = options.pop("head_grad", None)
    if head is not None:
        names, arrays = (*names, "head_grad"), (*arrays, as_array("head_grad", head))
    if method == "hvp":
        names, arrays = (*names, "vector"), (*arrays, as_array("vector", options.pop("vector")))
        arrays = lie_alike(loss, names, arrays)
        return call(spelled(method, options), loss, [like(arrays[0], result_dtype(arrays[0]))], names, arrays)[0]
    wrt = options.pop("wrt", None)
    targets = targets_of(loss, method, wrt, given)
    arrays = lie_alike(loss, names, arrays)
    dtype = result_dtype(arrays[0])
    derivatives = [like(arrays[names.index(name)], dtype) for name in targets] * (1 + method.endswith("hess"))
    results_like = [like_value(loss, arrays[0])] * method.startswith("value") + derivatives
    results: list[Any] = list(call(spelled(method, options), loss, results_like, names, arrays, targets))
    if isinstance(wrt, tuple):
        results = mapping.grouped(method, results, len(targets))
    return tuple(results) if len(results) > 1 else results[0]


def as_array(name: str, x: Any) -> jax.Array:
    """An input as an array of JAX, of a dtype that losses take."""
    is_plain = isinstance(x, ARRAYS) or (type(x) is np.ndarray and x.dtype.kind in "fiub")
    array = jnp.asarray(x if is_plain else _foreign.as_array(name, x))
    # a key of random numbers has a dtype that is not NumPy's
    kind = getattr(array.dtype, "kind", "O")
    if array.dtype not in jax_calls.DTYPES.values():
        others = "make it float32: .astype('f4')" if kind in "Vf" else "give an array of numbers"
        advice = _foreign.KINDS.get(kind, others)
        raise TypeError(f"{name} must have a dtype of NumPy's for real numbers, got {array.dtype}; {advice}")
    if not isinstance(array, jax.core.Tracer) and any(device.platform != "cpu" for device in array.devices()):
        where = ", ".join(map(str, array.devices()))  # no cover: needs another device
        raise TypeError(f"{name} must be on the CPU, got an array on {where}")  # no cover: as above
    return array


def as_numpy(name: str, x: Any) -> Any:
    array = as_array(name, x)
    if isinstance(array, jax.core.Tracer):
        raise TypeError(
            f"{name} must hold numbers for validate to read, and a traced array holds none, got {typeof(array)}; "
            "call validate outside of JAX's transformations"
        )
    return np.asarray(array)


def typeof(x: jax.Array) -> Any:
    """JAX's type of an array: shape, dtype, and the mesh axes that the array is cut along and varies over."""
    return (JAX.typeof if hasattr(JAX, "typeof") else JAX.core.get_aval)(x)


def manual_mesh() -> Any:
    """The mesh whose devices each run the program on their own part, as inside shard_map; None elsewhere."""
    mesh = getattr(jax.sharding, "get_abstract_mesh", lambda: None)()
    return mesh if getattr(mesh, "manual_axes", ()) else None


def is_on_mesh(x: jax.Array) -> bool:
    # JAX 0.5 has no such types
    sharding = getattr(typeof(x), "sharding", None)
    return sharding is not None and not sharding.mesh.empty


def varying_axes(x: jax.Array) -> frozenset[Any]:
    """The axes of a mesh, inside shard_map, along which the devices have different arrays."""
    kind = typeof(x)
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)


def is_sum(x: jax.Array) -> bool:
    """Whether an array, or its gradient, is a sum over the devices that JAX has yet to take."""
    kind = typeof(x)
    parts = getattr(kind, "manual_axis_type", None), kind.sharding.spec
    return any(getattr(part, name, None) for part in parts for name in ("unreduced", "reduced"))


def lie_alike(loss: Loss, names: Sequence[str], arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """The inputs as one call takes them: they vary over the same axes of a mesh, and the first is cut like its peers.

    JAX transposes both when it differentiates: the gradient in a shared input is the sum over all devices.
    """
    shapes = tuple([(name, x.shape) for name, x in zip(names, arrays, strict=True)])
    # sizes may be symbols, of which the call itself knows
    if all(isinstance(n, int) for _, shape in shapes for n in shape):
        check_shapes(loss, shapes)
    if not any(map(is_on_mesh, arrays)):
        return arrays
    for name, x in zip(names, arrays, strict=True):
        if is_sum(x):
            raise TypeError(
                f"{name} must have no unreduced or reduced mesh axes, got {typeof(x)}; jax.reshard changes them"
            )
    axes = [varying_axes(x) for x in arrays]
    every = frozenset().union(*axes)
    arrays = tuple([vary(x, tuple(every - own)) if every - own else x for x, own in zip(arrays, axes, strict=True)])
    return (cut_like(arrays[0], arrays[1:]), *arrays[1:])


def vary(x: jax.Array, axes: tuple[Any, ...]) -> jax.Array:
    """The same array as one that may differ between the devices along some axes of a mesh."""
    lax = JAX.lax
    found: jax.Array = lax.pcast(x, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, axes)
    return found


def cut_like(first: jax.Array, others: Sequence[jax.Array]) -> jax.Array:
    """The first input, cut along those axes of an explicit mesh that others of its shape are cut along."""
    shardings = [typeof(x).sharding for x in (first, *others) if x.shape == first.shape]
    specs = [sharding.spec for sharding in shardings]
    merged = [next((spec[k] for spec in specs if spec[k] is not None), None) for k in range(first.ndim)]
    names = [name for entry in merged for name in (entry if isinstance(entry, tuple) else (entry,)) if name is not None]
    if merged == list(specs[0]) or len(set(names)) < len(names):
        return first
    mesh = next(sharding.mesh for sharding in shardings if not sharding.mesh.empty)
    return cut(first, NamedSharding(mesh, PartitionSpec(*merged)))


def cut(x: jax.Array, sharding: NamedSharding) -> jax.Array:
    found: jax.Array = (JAX if hasattr(JAX, "reshard") else JAX.sharding).reshard(x, sharding)
    return found


def like(x: jax.Array, dtype: Any) -> Any:
    """The type of a result with an input's shape, on the same devices."""
    return typeof(x).update(dtype=dtype, weak_type=False)


def result_dtype(pred: jax.Array) -> Any:
    is_short = jnp.issubdtype(pred.dtype, np.floating) and pred.dtype.itemsize <= 4
    return pred.dtype if is_short else jax.dtypes.canonicalize_dtype(np.float64)


def like_value(loss: Loss, pred: jax.Array) -> Any:
    kind, axes = typeof(pred), loss.value_axes(pred.ndim)
    shape = (1,) if axes is None else tuple([pred.shape[k] for k in axes])
    more = {}
    if is_on_mesh(pred):
        spec = PartitionSpec(None) if axes is None else PartitionSpec(*[kind.sharding.spec[k] for k in axes])
        more["sharding"] = NamedSharding(kind.sharding.mesh, spec)
    dtype = result_dtype(pred)
    dtype = np.float32 if dtype.itemsize == 2 and is_total(loss) else dtype
    return kind.update(shape=shape, dtype=dtype, weak_type=False, **more)


def call(
    method: str,
    loss: Loss,
    results: Sequence[Any],
    names: Sequence[str],
    arrays: Sequence[jax.Array],
    wrt: Sequence[str] = (),
) -> tuple[jax.Array, ...]:
    """Calls a method of a loss from where the program runs, for results of these shapes."""
    target = jax.ffi.ffi_call(jax_calls.TARGET, tuple(results), vmap_method="expand_dims")
    mesh = manual_mesh()
    is_part = mesh is not None and mesh.size > 1
    return tuple(target(*arrays, call=jax_calls.spell(method, loss, names, wrt, len(results[0].shape), is_part)))


def names_of(loss: Loss, positions: Sequence[int]) -> tuple[str, ...]:
    return tuple([loss.inputs[k] for k in positions])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def value(loss: Loss, given: tuple[int, ...], inputs: tuple[jax.Array, ...]) -> Any:
    """The loss of the inputs at these positions of the call."""
    return call("__call__", loss, [like_value(loss, inputs[0])], names_of(loss, given), inputs)[0]


def value_forward(loss: Loss, given: tuple[int, ...], inputs: tuple[Any, ...]) -> Any:
    """The value, and the residuals of the backward pass: the inputs, and for each its gradient or a stand-in.

    The structure is the same for all wanted inputs, because JAX keeps one for all programs.
    """
    arrays = tuple([x.value for x in inputs])
    wrt = perturbed(given, inputs)
    check_differentiable(loss, names_of(loss, wrt))
    found = dict.fromkeys(wrt, jnp.zeros(0, LATER))
    if wrt and is_ready(loss, wrt, arrays[0].ndim):
        result, gradients = value_and_gradients(loss, given, wrt, arrays)
        # each has pred's dtype, and goes to an input of its own
        found = {k: x.astype(arrays[given.index(k)].dtype) for k, x in zip(wrt, gradients, strict=True)}
    else:
        result = value(loss, given, arrays)
    return result, (arrays, tuple([found.get(k, jnp.zeros(0, NEVER)) for k in given]))


def value_backward(loss: Loss, given: tuple[int, ...], residuals: Any, head: Any) -> Any:
    if isinstance(head, jax.custom_derivatives.SymbolicZero):
        return (tuple([None for _ in given]),)  # no cover: JAX leaves such a call out so far
    arrays, gradients = residuals
    found = {k: x for k, x in zip(given, gradients, strict=True) if x.dtype != NEVER}
    wrt = tuple([k for k, x in found.items() if x.dtype == LATER])
    if wrt:
        found = dict(zip(wrt, gradients_for(loss, given, wrt, arrays, head), strict=True))
    else:
        found = {k: sifted(loss, given, arrays, k, along(loss, head, x)) * x for k, x in found.items()}
    return (tuple([found[k].astype(x.dtype) if k in found else None for k, x in zip(given, arrays, strict=True)]),)


value.defvjp(value_forward, value_backward, symbolic_zeros=True)
# shard_map takes rules for symbolic zeros only inside a compiled program
compiled_value = jax.jit(value, static_argnums=(0, 1))


def sifted(loss: Loss, given: tuple[int, ...], inputs: tuple[jax.Array, ...], k: int, head: jax.Array) -> jax.Array:
    """The flow into an input, set to 0 where the call leaves the input out: infinity times 0 would be NaN."""
    named = dict(zip(names_of(loss, given), inputs, strict=True))
    mask = left_out(loss, named, loss.inputs[k])
    if mask is None:
        return head
    if is_on_mesh(mask):
        # the gradient must be cut as its input is, and weights may be cut otherwise
        sharding, spec = typeof(mask).sharding, typeof(named[loss.inputs[k]]).sharding.spec
        spec = PartitionSpec(*[c if n > 1 else None for c, n in zip(spec, mask.shape, strict=True)])
        if spec != sharding.spec:
            mask = cut(mask, NamedSharding(sharding.mesh, spec))
    return jnp.where(mask, 0, head)


def is_integer(x: jax.Array) -> bool:
    return not jnp.issubdtype(x.dtype, jnp.floating)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def gradients_for(
    loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[jax.Array, ...], head: jax.Array
) -> Any:
    """The gradients for a head."""
    names = (*names_of(loss, given), "head_grad")
    return call("grad", loss, like_inputs(given, wrt, inputs), names, (*inputs, head), names_of(loss, wrt))


def gradients_for_forward(
    loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[Any, ...], head: Any
) -> Any:
    check_second_derivatives(loss, wrt, perturbed(given, inputs) or (0,))
    if head.perturbed:
        raise NotImplementedError(
            f"fastloss has no derivative in head_grad of the gradient of {type(loss).__name__} where several values "
            "depend on an element"
        )
    arrays = tuple([x.value for x in inputs])
    return gradients_for(loss, given, wrt, arrays, head.value), (arrays, head.value)


def gradients_for_backward(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], residuals: Any, heads: Any) -> Any:
    arrays, head = residuals
    found = product(loss, given, heads[0], arrays, head).astype(arrays[0].dtype)
    return tuple([found if k == 0 else None for k in given]), None


gradients_for.defvjp(gradients_for_forward, gradients_for_backward, symbolic_zeros=True)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def product(
    loss: Loss, given: tuple[int, ...], vector: jax.Array, inputs: tuple[jax.Array, ...], head: jax.Array | None
) -> Any:
    """The Hessian in the first input times a vector."""
    names, arrays = (*names_of(loss, given), "vector"), (*inputs, vector)
    if head is not None:
        names, arrays = (*names, "head_grad"), (*arrays, head)
    return call("hvp", loss, [like(inputs[0], result_dtype(inputs[0]))], names, arrays)[0]


def product_forward(loss: Loss, given: tuple[int, ...], vector: Any, inputs: tuple[Any, ...], head: Any) -> Any:
    if perturbed(given, inputs) or (head is not None and head.perturbed):
        raise NotImplementedError(f"fastloss has no third derivatives of {type(loss).__name__}")
    arrays, head = tuple([x.value for x in inputs]), None if head is None else head.value
    return product(loss, given, vector.value, arrays, head), (arrays, head)


def product_backward(loss: Loss, given: tuple[int, ...], residuals: Any, flow: Any) -> Any:
    # the Hessian is symmetric
    arrays, head = residuals
    return product(loss, given, flow, arrays, head), tuple([None for _ in given]), None


product.defvjp(product_forward, product_backward, symbolic_zeros=True)


def perturbed(given: tuple[int, ...], inputs: tuple[Any, ...]) -> tuple[int, ...]:
    """Those of the inputs that are differentiated, by the position in the call."""
    return tuple([k for k, x in zip(given, inputs, strict=True) if x.perturbed and not is_integer(x.value)])


def like_inputs(given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[jax.Array, ...]) -> Any:
    """What has the shapes of some inputs and the dtype of results."""
    dtype = result_dtype(inputs[0])
    return tuple([like(inputs[given.index(k)], dtype) for k in wrt])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def value_and_gradients(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[jax.Array, ...]) -> Any:
    """The value and the gradients for heads of 1, of one pass."""
    results = like_value(loss, inputs[0]), *like_inputs(given, wrt, inputs)
    result, *gradients = call("value_and_grad", loss, results, names_of(loss, given), inputs, names_of(loss, wrt))
    return result, tuple(gradients)


def gradients_forward(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[Any, ...]) -> Any:
    arrays = tuple([x.value for x in inputs])
    check_second_derivatives(loss, wrt, perturbed(given, inputs))
    result, gradients = value_and_gradients(loss, given, wrt, arrays)
    return (result, gradients), (arrays, gradients)


def gradients_backward(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], residuals: Any, heads: Any) -> Any:
    arrays, (gradient,) = residuals
    head, (second,) = heads
    found = jnp.zeros_like(gradient)
    if not isinstance(head, jax.custom_derivatives.SymbolicZero):
        found += sifted(loss, given, arrays, 0, along(loss, head, gradient)) * gradient
    if not isinstance(second, jax.custom_derivatives.SymbolicZero):
        found += product(loss, given, second, arrays, None)
    return (tuple([found.astype(arrays[0].dtype) if k == 0 else None for k in given]),)


value_and_gradients.defvjp(gradients_forward, gradients_backward, symbolic_zeros=True)
