"""JAX: the loss of JAX's arrays is one, inside ``jit``, ``grad`` and ``vmap``, too.

A compiled program calls the losses through ``jax_calls``. Reverse mode takes the gradients from the forward pass.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from fastloss import _foreign
from fastloss._core import Loss
from fastloss.backends import (
    along,
    bind,
    check_differentiable,
    check_second_derivatives,
    is_ready,
    jax_calls,
    targets_of,
)

ARRAYS = (jax.Array, jax.core.Tracer)


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    given, options = bind(loss, inputs, named)
    if options.pop("out", None) is not None:
        raise TypeError("out cannot be given for JAX's arrays, which do not change")
    arrays = tuple([as_array(name, x) for name, x in given.items()])
    positions = tuple([loss.inputs.index(name) for name in given])
    if method == "__call__":
        return value(loss, positions, arrays)
    return evaluate_constant(loss, method, given, arrays, options)


def evaluate_constant(
    loss: Loss, method: str, given: dict[str, Any], arrays: tuple[jax.Array, ...], options: dict[str, Any]
) -> Any:
    """Everything but the plain call: the results are not differentiable."""
    names = tuple(given)
    head = options.pop("head_grad", None)
    if head is not None:
        names, arrays = (*names, "head_grad"), (*arrays, as_array("head_grad", head))
    wrt = options.pop("wrt", None)
    targets = targets_of(loss, wrt, given)
    dtype = result_dtype(arrays[0])
    gradients = [shape_of(arrays[names.index(name)].shape, dtype) for name in targets]
    like = [like_value(loss, arrays[0])] * method.startswith("value") + gradients
    like += [shape_of(arrays[0].shape, dtype)] * method.endswith("hess")
    results: list[Any] = list(call(method, loss, like, names, arrays, () if method.endswith("hess") else targets))
    if isinstance(wrt, tuple):
        first = int(method.startswith("value"))
        results[first:] = [tuple(results[first:])]
    return tuple(results) if len(results) > 1 else results[0]


def as_array(name: str, x: Any) -> jax.Array:
    """An input as an array of JAX's, of a dtype that there are losses of."""
    array = jnp.asarray(x if isinstance(x, ARRAYS) or type(x) is np.ndarray else _foreign.as_array(name, x))
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{name} must have a dtype of NumPy's for real numbers, got {array.dtype}")
    if not isinstance(array, jax.core.Tracer) and any(device.platform != "cpu" for device in array.devices()):
        where = ", ".join(map(str, array.devices()))  # no cover: needs another device
        raise TypeError(f"{name} must be on the CPU, got an array on {where}")  # no cover: as above
    return array


def as_numpy(name: str, x: Any) -> Any:
    return np.asarray(as_array(name, x))


def shape_of(shape: tuple[int, ...], dtype: Any) -> Any:
    return cast(Any, jax.ShapeDtypeStruct)(shape, dtype)


def result_dtype(pred: jax.Array) -> Any:
    single = pred.dtype in (np.float32, np.float16)
    return np.dtype(np.float32) if single else jax.dtypes.canonicalize_dtype(np.float64)


def like_value(loss: Loss, pred: jax.Array) -> Any:
    axes = loss.value_axes(pred.ndim)
    return shape_of((1,) if axes is None else tuple([pred.shape[k] for k in axes]), result_dtype(pred))


def call(
    method: str,
    loss: Loss,
    results: Sequence[Any],
    names: Sequence[str],
    arrays: Sequence[jax.Array],
    wrt: Sequence[str] = (),
) -> tuple[jax.Array, ...]:
    """Calls a method of a loss from where the program runs, for results of these shapes."""
    target = jax.ffi.ffi_call(jax_calls.TARGET, tuple(results), vmap_method="sequential")
    return tuple(target(*arrays, call=jax_calls.spell(method, loss, names, wrt)))


def names_of(loss: Loss, positions: Sequence[int]) -> tuple[str, ...]:
    return tuple([loss.inputs[k] for k in positions])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def value(loss: Loss, given: tuple[int, ...], inputs: tuple[jax.Array, ...]) -> Any:
    """The loss of the inputs at these positions of the call."""
    return call("__call__", loss, [like_value(loss, inputs[0])], names_of(loss, given), inputs)[0]


def value_forward(loss: Loss, given: tuple[int, ...], inputs: tuple[Any, ...]) -> Any:
    arrays = tuple([x.value for x in inputs])
    wrt = tuple([k for k, x in zip(given, inputs, strict=True) if x.perturbed and not is_integer(x.value)])
    check_differentiable(loss, names_of(loss, wrt))
    if wrt and is_ready(loss, wrt, arrays[0].ndim):
        result, gradients = value_and_gradients(loss, given, wrt, arrays)
        # a gradient of float16 is computed in float32
        return result, {k: x.astype(arrays[given.index(k)].dtype) for k, x in zip(wrt, gradients, strict=True)}
    return value(loss, given, arrays), (arrays, dict.fromkeys(wrt))


def value_backward(loss: Loss, given: tuple[int, ...], residuals: Any, head: Any) -> Any:
    if isinstance(head, jax.custom_derivatives.SymbolicZero):
        return (tuple([None for _ in given]),)  # no cover: JAX leaves such a call out so far
    if isinstance(residuals, dict):
        found = {k: (along(loss, head, x) * x).astype(x.dtype) for k, x in residuals.items()}
    else:
        arrays, wrt = residuals[0], tuple(residuals[1])
        gradients = gradients_for(loss, given, wrt, arrays, head) if wrt else ()
        found = {k: x.astype(arrays[given.index(k)].dtype) for k, x in zip(wrt, gradients, strict=True)}
    return (tuple([found.get(k) for k in given]),)


value.defvjp(value_forward, value_backward, symbolic_zeros=True)


def is_integer(x: jax.Array) -> bool:
    return not jnp.issubdtype(x.dtype, jnp.floating)


def gradients_for(
    loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[jax.Array, ...], head: jax.Array
) -> Any:
    """The gradients for a head."""
    names = (*names_of(loss, given), "head_grad")
    return call("grad", loss, like_inputs(given, wrt, inputs), names, (*inputs, head), names_of(loss, wrt))


def like_inputs(given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[jax.Array, ...]) -> Any:
    """What has the shapes of some inputs and the dtype of results."""
    dtype = result_dtype(inputs[0])
    return tuple([shape_of(inputs[given.index(k)].shape, dtype) for k in wrt])


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def value_and_gradients(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[jax.Array, ...]) -> Any:
    """The value and the gradients for heads of 1, of one pass."""
    results = like_value(loss, inputs[0]), *like_inputs(given, wrt, inputs)
    result, *gradients = call("value_and_grad", loss, results, names_of(loss, given), inputs, names_of(loss, wrt))
    return result, tuple(gradients)


def gradients_forward(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], inputs: tuple[Any, ...]) -> Any:
    arrays = tuple([x.value for x in inputs])
    wanted = tuple([k for k, x in zip(given, inputs, strict=True) if x.perturbed and not is_integer(x.value)])
    check_second_derivatives(loss, wrt, wanted)
    result, gradients = value_and_gradients(loss, given, wrt, arrays)
    return (result, gradients), (arrays, gradients)


def gradients_backward(loss: Loss, given: tuple[int, ...], wrt: tuple[int, ...], residuals: Any, heads: Any) -> Any:
    arrays, (gradient,) = residuals
    head, (second,) = heads
    found = jnp.zeros_like(gradient)
    if not isinstance(head, jax.custom_derivatives.SymbolicZero):
        found += along(loss, head, gradient) * gradient
    if not isinstance(second, jax.custom_derivatives.SymbolicZero):
        like = like_inputs(given, (0,), arrays) * 2
        _, hessian = call("grad_and_hess", loss, like, names_of(loss, given), arrays)
        found += second * hessian
    return (tuple([found.astype(arrays[0].dtype) if k == 0 else None for k in given]),)


value_and_gradients.defvjp(gradients_forward, gradients_backward, symbolic_zeros=True)
