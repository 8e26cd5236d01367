"""PyTorch: the loss of a linear predictor of tensors, with its gradients from the forward pass.

Plain calls hand their gradients out in the backward pass. Traced and transformed calls go through operators, which
tell PyTorch the shapes of results. A loss is passed as the expression that builds it, inputs by name.
"""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastloss import _foreign
from fastloss._chunks import Products, array_of
from fastloss.backends import check_own, is_total, loss_of
from fastloss.backends.torch_operators import (
    HALVES,
    as_array,
    as_tensor,
    as_value,
    is_forward,
    is_traced,
    is_transformed,
)
from fastloss.linear import LinearLoss, dispatch

Array = NDArray[Any]
DIFFERENTIABLE = ("X", "weight", "bias")


class TensorProducts(Products):
    """Products of matrices by PyTorch."""

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        torch.mm(over(a), over(b), out=over(out))

    def shift(self, a: Array, b: Array) -> None:
        over(a).add_(over(b))

    def add(self, total: Array, a: Array, b: Array) -> None:
        over(total).addmm_(over(a), over(b))

    def add_rows(self, total: Array, a: Array) -> None:
        over(total).add_(over(a).sum(0, dtype=torch.float64))


def over(a: Array) -> Tensor:
    """A tensor over an array's memory, or over a copy where PyTorch takes no such memory."""
    return as_tensor(a if a.flags.writeable and min(a.strides, default=0) >= 0 else a.copy())


def evaluate(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    given = {name: x for name, x in given.items() if x is not None}
    out = options.get("out")
    if method != "__call__" or out is not None:
        return evaluate_constant(linear, method, given, options)
    tensors = [tensor_of(name, x) for name, x in given.items()]
    wrt = [k for k, x in enumerate(tensors) if x.requires_grad] if torch.is_grad_enabled() else []
    for k in wrt:
        name = list(given)[k]
        if name not in DIFFERENTIABLE:
            raise ValueError(
                f"{name} is not differentiable: LinearLoss has gradients only in X, weight and bias; "
                f"give {name}.detach()"
            )
    call = linear.loss.expression, linear.chunk_bytes, ",".join(given)
    if is_transformed() or is_forward():
        check_own(linear.loss)
        return cast(Any, Traced).apply(*call, wrt, *tensors)[0]
    if torch.compiler.is_compiling() or is_traced():
        check_own(linear.loss)
        return value_and_gradients(*call, wrt, tensors, None)[0]
    arrays = named_arrays(call[2], tensors)
    if not wrt:
        return value_of(linear.compute("__call__", arrays, {}, TensorProducts()), arrays)
    gradients = None
    if is_total(linear.loss):
        names = tuple([list(given)[k] for k in wrt])
        value, found = linear.compute("value_and_grad", arrays, {"wrt": names}, TensorProducts())
        gradients = [gradient_of(x, tensors[k]) for k, x in zip(wrt, found, strict=True)]
    else:
        value = linear.compute("__call__", arrays, {}, TensorProducts())
    return cast(Any, Recorded).apply(linear, call[2], wrt, gradients, [value_of(value, arrays)], *tensors)


def evaluate_constant(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    """Every method but the plain call: nothing flows back through the results."""
    from fastloss.backends.torch import as_given, map_out

    if is_traced():
        raise TypeError(
            f"{method} of LinearLoss takes no tensors inside of PyTorch's transforms and tracers, nor does out=; call "
            "the loss itself, which they differentiate, or make the call outside"
        )
    out = options.get("out")
    arrays = {"sample_weight": None, "bias": None} | {name: as_array(name, x) for name, x in given.items()}
    named = options | {"out": map_out(out)}
    if "vector" in options:
        vector = options["vector"]
        parts = vector if isinstance(vector, tuple) else (vector,)
        parts = tuple([as_array("vector", x) for x in parts])
        named["vector"] = parts if isinstance(vector, tuple) else parts[0]
    if named.get("head_grad") is not None:
        named["head_grad"] = as_array("head_grad", named["head_grad"])
    return as_given(out, linear.compute(method, arrays, named, TensorProducts()), arrays["X"])


def tensor_of(name: str, x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.from_numpy(np.require(array_of(name, x), requirements=("C", "W")))


def named_arrays(names: str, tensors: list[Tensor]) -> dict[str, Any]:
    found: dict[str, Any] = {"sample_weight": None, "bias": None}
    return found | {name: as_array(name, x) for name, x in zip(names.split(","), tensors, strict=True)}


def value_of(value: Any, arrays: dict[str, Any]) -> Tensor:
    """A value as a tensor; values of rows have the dtype of X."""
    X = arrays["X"]
    found = as_value(value, X)
    half = {np.dtype(np.float16): torch.float16, _foreign.BFLOAT16: torch.bfloat16}.get(X.dtype)
    return found if half is None or type(value) is float else found.to(half)


def gradient_of(found: Any, x: Tensor) -> Tensor:
    return as_tensor(np.asarray(found)).to(x.dtype)


@torch.library.custom_op("fastloss::linear", mutates_args=(), device_types="cpu")
def value_and_gradients(
    expression: str, chunk_bytes: int, names: str, wrt: list[int], inputs: list[Tensor], head: Tensor | None
) -> list[Tensor]:
    """The gradients in some inputs for a head. Without one the value, and if it is a number the gradients, too."""
    linear = LinearLoss(loss_of(expression), chunk_bytes=chunk_bytes)
    arrays = named_arrays(names, inputs)
    if head is None and not (wrt and is_total(linear.loss)):
        return [value_of(linear.compute("__call__", arrays, {}, TensorProducts()), arrays)]
    options: dict[str, Any] = {"wrt": tuple([names.split(",")[k] for k in wrt])}
    if head is None:
        value, found = linear.compute("value_and_grad", arrays, options, TensorProducts())
    else:
        options["head_grad"] = as_array("head_grad", head)
        value, found = None, linear.compute("grad", arrays, options, TensorProducts())
    gradients = [gradient_of(x, inputs[k]) for k, x in zip(wrt, found, strict=True)]
    return gradients if head is not None else [value_of(value, arrays), *gradients]


@value_and_gradients.register_fake
def _(
    expression: str, chunk_bytes: int, names: str, wrt: list[int], inputs: list[Tensor], head: Tensor | None
) -> list[Tensor]:
    loss, (X, weight) = loss_of(expression), inputs[:2]
    shape = [X.shape[0], *weight.shape[:-1]]
    axes = loss.value_axes(len(shape)) or ()
    dtype = X.dtype if X.dtype in (torch.float32, *HALVES) else torch.float64
    if is_total(loss) and dtype in HALVES:
        dtype = torch.float32
    ready = wrt if head is not None or is_total(loss) else []
    gradients = [torch.empty_like(inputs[k], memory_format=torch.contiguous_format) for k in ready]
    return gradients if head is not None else [X.new_empty([shape[k] for k in axes], dtype=dtype), *gradients]


class Recorded(torch.autograd.Function):
    """A value together with its gradients, which the first backward pass gives away. A second one computes its own."""

    @staticmethod
    def forward(
        ctx: Any, linear: LinearLoss, names: str, wrt: list[int], gradients: Any, value: list[Tensor], *inputs: Tensor
    ) -> Tensor:
        ctx.call, ctx.gradients = (linear, names, wrt), gradients
        ctx.save_for_backward(*inputs)
        return value[0]

    @staticmethod
    def backward(ctx: Any, *heads: Tensor) -> tuple[Any, ...]:
        # saved tensors may be unpacked once
        (linear, names, wrt), head, inputs = ctx.call, heads[0], list(ctx.saved_tensors)
        gradients = ctx.__dict__.pop("gradients", None)
        factor = head.item() if gradients is not None and not head.ndim else math.nan
        if gradients is None or torch.is_grad_enabled() or not math.isfinite(factor):
            check_own(linear.loss)
            gradients = value_and_gradients(linear.loss.expression, linear.chunk_bytes, names, wrt, inputs, head)
        elif factor != 1:
            for x in gradients:
                x.mul_(factor)
        return None, None, None, None, None, *spread(gradients, wrt, len(inputs))


class Traced(torch.autograd.Function):
    """The operator with its gradients, for torch.func, which does not take operators with a derivative."""

    @staticmethod
    def forward(expression: str, chunk_bytes: int, names: str, wrt: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(value_and_gradients(expression, chunk_bytes, names, wrt, list(inputs), None))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, (*inputs[:4], inputs[4:], None), output)

    @staticmethod
    def backward(ctx: Any, *heads: Tensor | None) -> tuple[Any, ...]:
        return None, None, None, None, *flow_back(ctx, heads)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError("vmap does not take LinearLoss of tensors; call it in a loop, or on all rows at once")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError(
            "fastloss has no forward-mode derivatives of LinearLoss of tensors; take the gradient, and multiply it"
        )


class TracedGradient(torch.autograd.Function):
    """The operator for a head, likewise."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        return tuple(of_list(*args))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.is_gradient = True

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        return flow_back(ctx, heads)


def of_list(expression: str, chunk_bytes: int, names: str, wrt: list[int], head: Tensor, *inputs: Tensor) -> Any:
    return value_and_gradients(expression, chunk_bytes, names, wrt, list(inputs), head)


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *ctx.call, tensors, head = inputs
    ctx.is_gradient, ctx.is_ready, ctx.n = head is not None, len(output) > 1, len(tensors)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(output[1:] if ctx.is_ready else tensors))


def flow_back(ctx: Any, heads: Any) -> list[Any]:
    if ctx.is_gradient or any(x is not None for x in heads[1:]):
        raise NotImplementedError("fastloss has no second derivatives of LinearLoss of tensors; its method hvp has")
    head, wrt = heads[0], ctx.call[3]
    if ctx.is_ready:
        found = [head * x for x in ctx.saved_tensors]
    else:
        find: Any = cast(Any, TracedGradient).apply if is_transformed() else of_list
        found = find(*ctx.call, head, *ctx.saved_tensors)
    return spread(found, wrt, ctx.n)


def flow_back_from_list(ctx: Any, heads: Any) -> tuple[Any, ...]:
    return None, None, None, None, flow_back(ctx, heads), None


value_and_gradients.register_autograd(flow_back_from_list, setup_context=setup_context)


def spread(gradients: list[Any], wrt: list[int], n: int) -> list[Any]:
    """Gradients in the places of the inputs that they are in."""
    results: list[Any] = [None] * n
    for k, x in zip(wrt, gradients, strict=True):
        results[k] = x
    return results


def teach_compiler() -> None:
    """Lets PyTorch's compiler trace the call of the loss of a linear predictor, without looking for its library."""
    torch.compiler.substitute_in_graph(dispatch, skip_signature_check=True)(evaluate)
