"""JAX: the loss of JAX's arrays is one, inside ``jit``, ``grad``, ``jvp`` and ``vmap``, too.

Every call is an operation of JAX's, which a compiled program runs through ``jax_calls``. The operation's derivative
along tangents takes the gradients from the pass that computes the value; JAX transposes it for reverse mode.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import NamedSharding

from fastloss import _foreign
from fastloss._core import Loss
from fastloss.backends import (
    bind,
    check_differentiable,
    check_own,
    check_second_derivatives,
    is_total,
    jax_calls,
    jax_partition,
    mapping,
    spelled,
    targets_of,
)
from fastloss.backends.layout import check_shapes, left_out
from fastloss.linear import LinearLoss

ARRAYS = (jax.Array, jax.core.Tracer)

# what has another name in other versions, or no types
JAX: Any = jax
PartitionSpec: Any = jax.sharding.PartitionSpec


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    given, options = bind(loss, inputs, named)
    check_own(loss)
    if options.pop("out", None) is not None:
        raise TypeError("out must be None for JAX's arrays, which do not change")
    arrays = tuple([as_array(name, x) for name, x in given.items()])
    if method == "__call__":
        return call(loss, method, tuple(given), lie_alike(loss, tuple(given), arrays))[0]
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
        return call(loss, spelled(method, options), names, lie_alike(loss, names, arrays), is_constant=True)[0]
    wrt = options.pop("wrt", None)
    targets = targets_of(loss, method, wrt, given)
    arrays = lie_alike(loss, names, arrays)
    results: list[Any] = call(loss, spelled(method, options), names, arrays, targets, is_constant=True)
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


def evaluate_linear(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    # imports this module
    from fastloss.backends import jax_linear

    return jax_linear.evaluate(linear, method, given, options)


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


def is_on_mesh(kind: Any) -> bool:
    # JAX 0.5 has no such types
    sharding = getattr(kind, "sharding", None)
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
    if not any(is_on_mesh(typeof(x)) for x in arrays):
        return arrays
    for name, x in zip(names, arrays, strict=True):
        if is_sum(x):
            raise TypeError(
                f"{name} must have no unreduced or reduced mesh axes, got {typeof(x)}; jax.reshard changes them"
            )
    arrays = vary_alike(arrays)
    return (cut_like(arrays[0], arrays[1:]), *arrays[1:])


def vary_alike(arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    axes = [varying_axes(x) for x in arrays]
    every = frozenset().union(*axes)
    return tuple([vary(x, tuple(every - own)) if every - own else x for x, own in zip(arrays, axes, strict=True)])


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


def result_dtype(pred: Any) -> Any:
    is_short = jnp.issubdtype(pred.dtype, np.floating) and pred.dtype.itemsize <= 4
    return pred.dtype if is_short else jax.dtypes.canonicalize_dtype(np.float64)


# a method's call; arrays have `added` axes in front that vmap has added, of size 1 where all entries have the same
operation: Any = Primitive("fastloss")
operation.multiple_results = True
# JAX tells the mesh of a program for several devices to such operations alone
getattr(importlib.import_module("jax._src.dispatch"), "prim_requires_devices_during_lowering", set()).add(operation)
# what becomes of a change of inputs, by name and in the order of wrt: only its transposition is known, the gradients
PUSH = "push"


def call(
    loss: Loss,
    method: str,
    names: tuple[str, ...],
    arrays: Sequence[Any],
    wrt: tuple[str, ...] = (),
    is_constant: bool = False,
    in_place: bool = False,
) -> list[Any]:
    """Calls a method of a loss. in_place: value_and_grad may put the gradient where pred was."""
    mesh = manual_mesh()
    is_part = mesh is not None and mesh.size > 1
    how = {"loss": loss, "method": method, "names": names, "wrt": wrt, "added": 0}
    found: list[Any] = operation.bind(*arrays, **how, is_part=is_part, is_constant=is_constant, in_place=in_place)
    return found


STATIC = ("loss", "method", "names", "wrt", "added", "is_part", "is_constant", "in_place")


@functools.partial(jax.jit, static_argnames=STATIC)
def run(*arrays: Any, **how: Any) -> Any:
    return operation.bind(*arrays, **how)


operation.def_impl(run)


@operation.def_abstract_eval
def describe(
    *kinds: Any, loss: Loss, method: str, names: Sequence[str], wrt: Sequence[str], added: int, **_: Any
) -> list[Any]:
    """The types of the results, which lie like pred and like the inputs that they are derivatives in."""
    pred = kinds[0]
    dtype = result_dtype(pred)
    results = []
    for name in mapping.result_names("__call__" if method == PUSH else method, tuple(wrt), names[0]):
        if name == "value":
            short = np.float32 if dtype.itemsize == 2 and is_total(loss) else dtype
            results.append(result_like(kinds, pred, loss.value_axes(pred.ndim - added), added, short))
        else:
            kind = kinds[names.index(name)]
            results.append(result_like(kinds, kind, range(kind.ndim - added), added, dtype))
    return results


def result_like(kinds: Sequence[Any], kind: Any, axes: Sequence[int] | None, added: int, dtype: Any) -> Any:
    """The type of a result with some axes of an input, or None for one of size 1, behind those that vmap has added."""
    front = list(zip(*[x.shape[:added] for x in kinds], strict=True))
    shape = [next((n for n in sizes if n != 1), 1) for sizes in front]
    shape += [1] if axes is None else [kind.shape[added + k] for k in axes]
    more = {}
    if is_on_mesh(kind):
        cuts = zip(*[x.sharding.spec[:added] for x in kinds], strict=True)
        spec = [next((cut for cut in entry if cut is not None), None) for entry in cuts]
        spec += [None] if axes is None else [kind.sharding.spec[added + k] for k in axes]
        more["sharding"] = NamedSharding(kind.sharding.mesh, PartitionSpec(*spec))
    return kind.update(shape=tuple(shape), dtype=dtype, weak_type=False, **more)


def emit(ctx: Any, *operands: Any, is_part: bool, is_constant: bool, in_place: bool, **how: Any) -> Any:
    loss, method, added = how["loss"], how["method"], how["added"]
    if method == PUSH:
        refuse_forward(loss, how["wrt"])
    split = None if is_part else split_call(ctx, how)
    if split is not None:
        return mlir.lower_fun(split, multiple_results=True)(ctx, *operands)
    ndim = len(ctx.avals_out[0].shape) - added
    text = jax_calls.spell(method, loss, how["names"], how["wrt"], ndim, is_part)
    aliases = {0: 1} if in_place and method == "value_and_grad" and not added else None
    return jax.ffi.ffi_lowering(jax_calls.TARGET, operand_output_aliases=aliases)(ctx, *operands, call=text)


def split_call(ctx: Any, how: dict[str, Any]) -> Any:
    """The call as a function that devices share; None where one device makes it, or each must make all of it."""
    context = ctx.module_context.axis_context
    if len(getattr(context, "device_assignment", None) or ()) < 2 or getattr(context, "abstract_mesh", None) is None:
        return None
    shapes, results = [tuple([tuple(x.shape) for x in kinds]) for kinds in (ctx.avals_in, ctx.avals_out)]
    # sizes that are symbols say too little
    known = all(isinstance(n, int) for shape in shapes for n in shape)
    key = how["loss"], how["method"], how["names"], how["wrt"], how["added"], shapes
    cut = jax_partition.cut_of(*key) if known else None
    if cut is None:
        return None

    def call(loss: Loss, names: tuple[str, ...], *arrays: Any) -> Any:
        flags = {"is_part": True, "is_constant": True, "in_place": False}
        return operation.bind(*arrays, **flags, **how | {"loss": loss, "names": names})

    return jax_partition.partitioned(call, cut, how["loss"], how["names"], shapes, results)


mlir.register_lowering(operation, emit)


def map_calls(arrays: Sequence[Any], axes: Sequence[int | None], *, added: int, **how: Any) -> Any:
    """One call for all that vmap stands for."""
    arrays = [x[None] if axis is None else jnp.moveaxis(x, axis, 0) for x, axis in zip(arrays, axes, strict=True)]
    found = operation.bind(*arrays, added=added + 1, **how)
    return found, [0] * len(found)


batching.primitive_batchers[operation] = map_calls


def differentiate(primals: Sequence[Any], tangents: Sequence[Any], *, is_constant: bool, **how: Any) -> Any:
    """The results, and how they change along the tangents of the inputs."""
    loss, method = how["loss"], how["method"].partition(":")[0]
    moved = {name: x for name, x in zip(how["names"], tangents, strict=True) if type(x) is not ad.Zero}
    if is_constant:
        raise NotImplementedError(
            f"nothing flows back through {method} of {type(loss).__name__}: differentiate the call of the loss"
        )
    if method == PUSH:
        refuse_forward(loss, how["wrt"])
    how["is_constant"] = False
    return RULES[method](list(primals), moved, how)


def change_of_value(primals: list[Any], moved: dict[str, Any], how: dict[str, Any]) -> Any:
    loss, names, added = how["loss"], how["names"], how["added"]
    wrt = tuple(moved)
    check_differentiable(loss, wrt)
    pred, axes = primals[0], loss.value_axes(primals[0].ndim - added)
    alike = all(primals[names.index(name)].shape[added:] == pred.shape[added:] for name in wrt)
    if axes and not (alike and loss.is_separable(pred.ndim - added)):
        push = how | {"method": PUSH, "names": (*names, *wrt), "wrt": wrt}
        return operation.bind(*primals, **how), operation.bind(*primals, *moved.values(), **push)
    found, *gradients = operation.bind(*primals, **how | {"method": "value_and_grad", "wrt": wrt})
    return [found], [along_tangents(loss, names, wrt, added, primals, list(moved.values()), gradients, found)]


def change_of_value_and_gradients(primals: list[Any], moved: dict[str, Any], how: dict[str, Any]) -> Any:
    loss, names, wrt = how["loss"], how["names"], how["wrt"]
    check_second_derivatives(loss, positions(loss, wrt), positions(loss, moved))
    value, gradient = operation.bind(*primals, **how)
    (vector,) = moved.values()
    change = along_tangents(loss, names, wrt, how["added"], primals, [vector], [gradient], value)
    return [value, gradient], [change, *product(primals, vector, how)]


def change_of_gradients(primals: list[Any], moved: dict[str, Any], how: dict[str, Any]) -> Any:
    """Of the gradients for a head, in which they are linear."""
    loss = how["loss"]
    *inputs, head = primals
    found = operation.bind(*primals, **how)
    changes = []
    if "head_grad" in moved:
        changes.append(operation.bind(*inputs, moved["head_grad"], **how))
    targets = [name for name in moved if name != "head_grad"]
    if targets:
        check_second_derivatives(loss, positions(loss, how["wrt"]), positions(loss, targets))
        changes.append(product([*inputs, head], moved[targets[0]], how))
    return found, [sum(parts[1:], parts[0]) for parts in zip(*changes, strict=True)]


def change_of_product(primals: list[Any], moved: dict[str, Any], how: dict[str, Any]) -> Any:
    if list(moved) != ["vector"]:
        raise NotImplementedError(f"fastloss has no third derivatives of {type(how['loss']).__name__}")
    return operation.bind(*primals, **how), operation.bind(*primals[:-1], moved["vector"], **how)


RULES = {
    "__call__": change_of_value,
    "value_and_grad": change_of_value_and_gradients,
    "grad": change_of_gradients,
    "hvp": change_of_product,
}
ad.primitive_jvps[operation] = differentiate


def product(arrays: Sequence[Any], vector: Any, how: dict[str, Any]) -> Any:
    """The Hessian in the first input times a vector."""
    return operation.bind(*arrays, vector, **how | {"method": "hvp", "names": (*how["names"], "vector"), "wrt": ()})


def positions(loss: Loss, names: Iterable[str]) -> list[int]:
    return [loss.inputs.index(name) for name in names]


# compiled, or reverse mode outside of a compiled program would spread what flows back over an array of pred's size
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def along_tangents(
    loss: Loss,
    names: tuple[str, ...],
    wrt: tuple[str, ...],
    added: int,
    primals: Sequence[Any],
    tangents: Sequence[Any],
    gradients: Sequence[Any],
    value: Any,
) -> Any:
    """The change of a value along tangents, of the gradients for heads of 1."""
    if added:
        lists = (primals, tangents, gradients, value)
        function = functools.partial(along_tangents, loss, names, wrt, added - 1)
        size = next((x.shape[0] for x in jax.tree.leaves(lists) if x.shape[0] != 1), 1)
        # of size 1 where all entries have the same
        axes = jax.tree.map(lambda x: 0 if x.shape[0] == size else None, lists)
        return jax.vmap(function, axes)(*jax.tree.map(lambda x: x if x.shape[0] == size else x[0], lists))
    inputs, axes = dict(zip(names, primals, strict=True)), loss.value_axes(primals[0].ndim)
    others = tuple([k for k in range(primals[0].ndim) if k not in axes]) if axes else None
    found: Any = 0
    for name, tangent, gradient in zip(wrt, tangents, gradients, strict=True):
        terms = sifted(loss, inputs, name, tangent).astype(value.dtype) * gradient.astype(value.dtype)
        found += terms.sum(others)
    return found if axes is not None else found[None]


def sifted(loss: Loss, inputs: dict[str, Any], name: str, tangent: Any) -> Any:
    """The tangent of an input, set to 0 where the call leaves the input out: infinity times 0 would be NaN."""
    mask = left_out(loss, inputs, name)
    if mask is None:
        return tangent
    if is_on_mesh(typeof(mask)):
        # the gradient must be cut as its input is, and weights may be cut otherwise
        sharding, spec = typeof(mask).sharding, typeof(inputs[name]).sharding.spec
        spec = PartitionSpec(*[c if n > 1 else None for c, n in zip(spec, mask.shape, strict=True)])
        if spec != sharding.spec:
            mask = cut(mask, NamedSharding(sharding.mesh, spec))
    return jnp.where(mask, 0, tangent)


def transpose(flows: Sequence[Any], *operands: Any, is_constant: bool, **how: Any) -> Any:
    """What flows back into the operands that the results are linear in: vectors, or the changes of inputs."""
    loss = how["loss"]
    n = len(operands) - (len(how["wrt"]) if how["method"] == PUSH else 1)
    if how["method"] == "grad":
        raise NotImplementedError(
            f"fastloss has no derivative in head_grad of the gradient of {type(loss).__name__} where several values "
            "depend on an element"
        )
    flow = ad.instantiate_zeros(flows[0])  # type: ignore[no-untyped-call]
    if how["method"] == PUSH:
        how |= {"method": "grad", "names": (*how["names"][:n], "head_grad")}
    # else the Hessian, which is symmetric
    results = operation.bind(*operands[:n], flow, is_constant=is_constant, **how)
    unknown = [isinstance(x, ad.UndefinedPrimal) for x in operands[n:]]
    found = zip(results, operands[n:], unknown, strict=True)
    return [None] * n + [
        fitted(x, operand.aval, how["added"]) if is_wanted else None for x, operand, is_wanted in found
    ]


def fitted(x: Any, kind: Any, added: int) -> Any:
    """What flows back into an operand, the sum over entries that share it."""
    shared = tuple([k for k in range(added) if kind.shape[k] != x.shape[k]])
    return x.sum(shared, keepdims=True).astype(kind.dtype)


ad.primitive_transposes[operation] = transpose


def refuse_forward(loss: Loss, wrt: Sequence[str]) -> None:
    raise NotImplementedError(
        f"the forward-mode derivative of {type(loss).__name__} in {', '.join(wrt)} is not known: only those of inputs "
        "of the first one's shape are, or of values that are one number"
    )
