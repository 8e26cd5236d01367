"""PyTorch: the loss of a linear predictor of tensors, with its gradients from the forward pass.

Plain calls hand their gradients out in the backward pass. Traced and transformed calls go through operators, which
tell PyTorch the shapes of results. A loss is passed as the expression that builds it, inputs by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    for_each,
    is_forward,
    is_traced,
    is_transformed,
    is_wanted,
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
    check_differentiable([list(given)[k] for k in wrt])
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


def check_differentiable(names: Sequence[str]) -> None:
    for name in names:
        if name not in DIFFERENTIABLE:
            raise ValueError(
                f"{name} is not differentiable: LinearLoss has gradients only in X, weight and bias; "
                f"give {name}.detach()"
            )


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


@torch.library.custom_op("fastloss::linear_hvp", mutates_args=(), device_types="cpu")
def products(
    expression: str, chunk_bytes: int, names: str, inputs: list[Tensor], vectors: list[Tensor], head: Tensor | None
) -> list[Tensor]:
    """The Hessian in weight, and in bias if there is one, times a vector."""
    linear = LinearLoss(loss_of(expression), chunk_bytes=chunk_bytes)
    parts = tuple([as_array("vector", x) for x in vectors])
    options = {"vector": parts if len(parts) > 1 else parts[0]}
    options |= {} if head is None else {"head_grad": as_array("head_grad", head)}
    found = linear.compute("hvp", named_arrays(names, inputs), options, TensorProducts())
    return [gradient_of(x, vector) for x, vector in zip(found if len(parts) > 1 else (found,), vectors, strict=True)]


@products.register_fake
def _(
    expression: str, chunk_bytes: int, names: str, inputs: list[Tensor], vectors: list[Tensor], head: Tensor | None
) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in vectors]


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
            call = linear.loss.expression, linear.chunk_bytes, names, wrt
            find = recorded_gradients if torch.is_grad_enabled() and not is_traced() else gradients_for
            gradients = find(*call, head, *inputs)
        elif factor != 1:
            for x in gradients:
                x.mul_(factor)
        return None, None, None, None, None, *spread(gradients, wrt, len(inputs))


class Traced(torch.autograd.Function):
    """The operator with its gradients, which are differentiable in weight and bias.

    torch.func needs it, too: it does not take operators with a derivative.
    """

    @staticmethod
    def forward(expression: str, chunk_bytes: int, names: str, wrt: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(value_and_gradients(expression, chunk_bytes, names, wrt, list(inputs), None))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, ctx.n, ctx.has_gradients = inputs[:4], len(inputs) - 4, len(output) > 1
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[4:], *output[1:])
        ctx.save_for_forward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, *heads: Tensor | None) -> tuple[Any, ...]:
        head, wrt = heads[0], ctx.call[3]
        inputs, gradients = ctx.saved_tensors[: ctx.n], ctx.saved_tensors[ctx.n :]
        wanted = [k for k in range(ctx.n) if ctx.needs_input_grad[4 + k]]
        found: list[Any] = [None] * ctx.n
        if head is not None and set(wanted) <= set(wrt) and gradients:
            found = spread([head * x for x in gradients], wrt, ctx.n)
        elif head is not None:
            expression, chunk_bytes, names, _ = ctx.call
            found = spread(recorded_gradients(expression, chunk_bytes, names, wanted, head, *inputs), wanted, ctx.n)
        vectors = {k: x for k, x in zip(wrt, heads[1:], strict=False) if x is not None}
        if vectors:
            for k, x in curvature(ctx, vectors, wanted_of(ctx, 4), None, inputs).items():
                found[k] = x if found[k] is None else found[k] + x
        return None, None, None, None, *found

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        expression, chunk_bytes, names, wrt = ctx.call
        if not is_total(loss_of(expression)):
            raise NotImplementedError(
                "fastloss has no forward-mode derivatives of LinearLoss with a value for each row: differentiate a "
                "total, with reduction='mean', 'weighted_mean' or 'sum'"
            )
        moved = {k: x for k, x in enumerate(tangents[4:]) if x is not None}
        check_differentiable([names.split(",")[k] for k in moved])
        inputs = ctx.saved_tensors[: ctx.n]
        value, *gradients = cast(Any, Traced).apply(expression, chunk_bytes, names, list(moved), *inputs)
        terms = [(x * tangent).sum(dtype=value.dtype) for x, tangent in zip(gradients, moved.values(), strict=True)]
        if not ctx.has_gradients:
            return (sum(terms),)
        found = curvature(ctx, moved, wrt, None, inputs)
        return sum(terms), *[found[k] for k in wrt]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return for_each(cast(Any, Traced).apply, info, in_dims, *args)


class Gradients(torch.autograd.Function):
    """The operator for the flow into each row's value. Forward mode ends at the values, whose derivatives it wants."""

    @staticmethod
    def forward(
        expression: str, chunk_bytes: int, names: str, wrt: list[int], head: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(gradients_for(expression, chunk_bytes, names, wrt, head, *inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.call, ctx.n = inputs[:4], len(inputs) - 5
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs[4:])

    @staticmethod
    def backward(ctx: Any, *heads: Tensor | None) -> Any:
        head, *inputs = ctx.saved_tensors
        if ctx.needs_input_grad[4]:
            raise NotImplementedError(
                "fastloss has no derivative in head_grad of the gradient of LinearLoss with a value for each row"
            )
        vectors = {k: x for k, x in zip(ctx.call[3], heads, strict=True) if x is not None}
        found = curvature(ctx, vectors, wanted_of(ctx, 5), head, inputs)
        return None, None, None, None, None, *[found.get(k) for k in range(ctx.n)]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return for_each(cast(Any, Gradients).apply, info, in_dims, *args)


class Product(torch.autograd.Function):
    """The operator of the Hessian times a vector; no derivatives."""

    @staticmethod
    def forward(*args: Any) -> tuple[Tensor, ...]:
        *call, n, head = args[:5]
        return tuple(products(*call, list(args[5 : 5 + n]), list(args[5 + n :]), head))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        raise NotImplementedError("fastloss has no third derivatives of LinearLoss")

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Any:
        raise NotImplementedError("fastloss has no third derivatives of LinearLoss")

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> Any:
        return for_each(cast(Any, Product).apply, info, in_dims, *args)


def curvature(
    ctx: Any, vectors: dict[int, Tensor], wanted: Sequence[int], head: Tensor | None, inputs: Sequence[Tensor]
) -> dict[int, Tensor]:
    """The Hessian times a vector, whose parts are at the places of inputs, for weight and bias."""
    expression, chunk_bytes, names, _ = ctx.call
    known = names.split(",")
    if any(known[k] == "X" for k in (*vectors, *wanted)):
        raise NotImplementedError("fastloss has no second derivatives of LinearLoss in X, only in weight and bias")
    places = [k for k, name in enumerate(known) if name in ("weight", "bias")]
    whole = [vectors[k] if k in vectors else torch.zeros_like(inputs[k]) for k in places]
    found = cast(Any, Product).apply(expression, chunk_bytes, names, len(inputs), head, *inputs, *whole)
    return dict(zip(places, found, strict=True))


def wanted_of(ctx: Any, first: int) -> list[int]:
    """The inputs to which this backward pass goes on."""
    nodes = [node for node, _ in ctx.next_functions][-ctx.n :]
    return [k for k, node in enumerate(nodes) if ctx.needs_input_grad[first + k] and is_wanted(node)]


def recorded_gradients(
    expression: str, chunk_bytes: int, names: str, wrt: list[int], head: Tensor, *inputs: Tensor
) -> Sequence[Tensor]:
    """The gradients for a head, to be differentiated once more."""
    if not is_total(loss_of(expression)):
        found: Sequence[Tensor] = cast(Any, Gradients).apply(expression, chunk_bytes, names, wrt, head, *inputs)
        return found
    _, *gradients = cast(Any, Traced).apply(expression, chunk_bytes, names, wrt, *inputs)
    return [head * x for x in gradients]


def gradients_for(
    expression: str, chunk_bytes: int, names: str, wrt: list[int], head: Tensor, *inputs: Tensor
) -> list[Tensor]:
    found: list[Tensor] = value_and_gradients(expression, chunk_bytes, names, wrt, list(inputs), head)
    return found


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *ctx.call, tensors, head = inputs
    ctx.is_gradient, ctx.is_ready, ctx.n = head is not None, len(output) > 1, len(tensors)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*(output[1:] if ctx.is_ready else tensors))


def flow_back(ctx: Any, heads: Any) -> list[Any]:
    if ctx.is_gradient or any(x is not None for x in heads[1:]):
        raise NotImplementedError("fastloss has no second derivatives of a compiled LinearLoss; its method hvp has")
    head, wrt = heads[0], ctx.call[3]
    if ctx.is_ready:
        found = [head * x for x in ctx.saved_tensors]
    else:
        found = gradients_for(*ctx.call, head, *ctx.saved_tensors)
    return spread(found, wrt, ctx.n)


def flow_back_from_list(ctx: Any, heads: Any) -> tuple[Any, ...]:
    return None, None, None, None, flow_back(ctx, heads), None


value_and_gradients.register_autograd(flow_back_from_list, setup_context=setup_context)


def spread(gradients: Sequence[Any], wrt: list[int], n: int) -> list[Any]:
    """Gradients in the places of the inputs that they are in."""
    results: list[Any] = [None] * n
    for k, x in zip(wrt, gradients, strict=True):
        results[k] = x
    return results


def teach_compiler() -> None:
    """Lets PyTorch's compiler trace the call of the loss of a linear predictor, without looking for its library."""
    torch.compiler.substitute_in_graph(dispatch, skip_signature_check=True)(evaluate)
