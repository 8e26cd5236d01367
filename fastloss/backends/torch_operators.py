"""The losses as PyTorch's own operators: for what traces, batches or transforms a call instead of making it.

PyTorch is told the shapes that come out, the derivative, and how to map over a batch. A loss is an argument by the
expression that builds it, an input by its position in the call.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from fastloss._core import Loss
from fastloss.backends import (
    along,
    bind,
    check_differentiable,
    check_own,
    check_second_derivatives,
    is_ready,
    loss_of,
)

transforms_active = torch._C._are_functorch_transforms_active


def as_array(name: str, x: Any) -> Any:
    """An array over a tensor's memory; anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    try:
        # force means detach, too, but it would also copy from another device
        if x.is_cpu:
            return x.numpy(force=True)
    except (TypeError, RuntimeError):
        pass
    raise TypeError(
        f"{name} must be a dense tensor on the CPU, of a dtype that NumPy has, got {x.dtype} on {x.device}, {x.layout}"
        f"{remedy(x)}"
    )


def remedy(x: Tensor) -> str:
    """What makes a tensor of another one that there are losses of."""
    calls = [".cpu()"] * (not x.is_cpu) + [".to_dense()"] * (x.layout is not torch.strided)
    calls += [".float()"] * (x.dtype.is_floating_point and x.dtype.itemsize <= 2)
    return f"; {''.join(calls)} makes one of it" if calls else ""


def as_tensor(x: Any) -> Tensor:
    """A tensor over an array's memory, or of a NumPy scalar."""
    return torch.from_numpy(x.__array__())


def check_no_tangents(loss: Loss, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Forward mode is refused: without this its derivatives would silently be none."""
    given, options = bind(loss, inputs, named)
    unpack: Any = torch.autograd.forward_ad.unpack_dual
    for name, x in (given | options).items():
        if isinstance(x, Tensor) and unpack(x).tangent is not None:
            raise NotImplementedError(f"forward-mode derivatives are not implemented, and {name} has a tangent")


def named(loss: Loss, given: Sequence[int], inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Arrays by the names of the call."""
    return {loss.inputs[k]: as_array(loss.inputs[k], x) for k, x in zip(given, inputs, strict=True)}


def names(loss: Loss, wrt: Sequence[int]) -> tuple[str, ...]:
    return tuple([loss.inputs[k] for k in wrt])


@torch.library.custom_op("fastloss::evaluate", mutates_args=(), device_types="cpu")
def evaluate(expression: str, given: list[int], inputs: list[Tensor], wrt: list[int]) -> list[Tensor]:
    """The value, and the gradients for heads of 1, if those give the gradients for any.

    The backward pass multiplies them by what flows back, in operations that PyTorch can trace.
    """
    loss = loss_of(expression)
    arrays = named(loss, given, inputs)
    if not wrt or not is_ready(loss, wrt, inputs[0].ndim):
        return [as_tensor(loss(**arrays))]
    value, gradients = loss.value_and_grad(**arrays, wrt=names(loss, wrt))
    return [as_tensor(value), *map(as_tensor, gradients)]


@torch.library.custom_op("fastloss::gradient", mutates_args=(), device_types="cpu")
def gradient(expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor) -> list[Tensor]:
    """The gradients for a head."""
    loss = loss_of(expression)
    head_grad = as_array("head_grad", head)
    return list(map(as_tensor, loss.grad(**named(loss, given, inputs), wrt=names(loss, wrt), head_grad=head_grad)))


@torch.library.custom_op("fastloss::hessian", mutates_args=(), device_types="cpu")
def hessian(expression: str, given: list[int], inputs: list[Tensor]) -> Tensor:
    """The diagonal of the Hessian in the first input."""
    loss = loss_of(expression)
    return as_tensor(loss.grad_and_hess(**named(loss, given, inputs))[1])


def like_inputs(given: list[int], inputs: list[Tensor], wrt: list[int]) -> list[Tensor]:
    """What has the shapes of some inputs and the dtype of results."""
    single = inputs[0].dtype in (torch.float32, torch.float16)
    dtype = torch.float32 if single else torch.float64
    return [inputs[0].new_empty(inputs[given.index(k)].shape, dtype=dtype) for k in wrt]


@evaluate.register_fake
def _(expression: str, given: list[int], inputs: list[Tensor], wrt: list[int]) -> list[Tensor]:
    loss, ndim = loss_of(expression), inputs[0].ndim
    axes = loss.value_axes(ndim)
    (pred,) = like_inputs(given, inputs, [0])
    value = pred.new_empty([1] if axes is None else [pred.shape[k] for k in axes])
    return [value, *(like_inputs(given, inputs, wrt) if is_ready(loss, wrt, ndim) else [])]


@gradient.register_fake
def _(expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor) -> list[Tensor]:
    return like_inputs(given, inputs, wrt)


@hessian.register_fake
def _(expression: str, given: list[int], inputs: list[Tensor]) -> Tensor:
    return like_inputs(given, inputs, [0])[0]


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    ctx.expression, ctx.given, tensors, ctx.wrt = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output[1:])


def setup_operator(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    setup_context(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


def backward(ctx: Any, heads: Sequence[Tensor]) -> tuple[Any, ...]:
    """The operator's derivative: of its outputs, the gradients are for this alone."""
    found: dict[int, Tensor] = {}
    if torch.is_grad_enabled():
        inputs = list(ctx.saved_tensors[: len(ctx.given)])
        gradients = recorded_gradients(ctx.expression, ctx.given, inputs, ctx.wrt, heads[0]) if ctx.wrt else ()
        found = dict(zip(ctx.wrt, gradients, strict=True))
    else:
        found = flow_back(ctx, heads[0])
    # PyTorch takes an empty list for one of tensors
    return None, None, [found.get(k) for k in ctx.given], None if ctx.wrt else []


evaluate.register_autograd(backward, setup_context=setup_operator)


def flow_back(ctx: Any, head: Tensor) -> dict[int, Tensor]:
    """The gradients for a head, by the position of the input."""
    loss, given, wrt = loss_of(ctx.expression), ctx.given, ctx.wrt
    inputs, gradients = list(ctx.saved_tensors[: len(given)]), ctx.saved_tensors[len(given) :]
    if gradients:
        gradients = [along(loss, head, x) * x for x in gradients]
    elif wrt:
        gradients = gradient(ctx.expression, given, inputs, wrt, head)
    return dict(zip(wrt, gradients, strict=True))


def recorded_gradients(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor
) -> list[Tensor]:
    """The gradients for a head, to be differentiated once more."""
    loss = loss_of(expression)
    if is_ready(loss, wrt, inputs[0].ndim):
        _, *gradients = cast(Any, Differentiable).apply(expression, given, wrt, *inputs)
        return [along(loss, head, x) * x for x in gradients]
    found: list[Tensor] = gradient(expression, given, inputs, wrt, head)
    return found


class Differentiable(torch.autograd.Function):
    """The operator with gradients that can be differentiated, where the second derivatives are known.

    It is also what torch.func transforms, which takes no operator with a derivative.
    """

    @staticmethod
    def forward(expression: str, given: list[int], wrt: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(operate(expression, given, list(inputs), wrt))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        expression, given, wrt, *tensors = inputs
        setup_context(ctx, (expression, given, tensors, wrt), output)

    @staticmethod
    def backward(ctx: Any, *heads: Tensor | None) -> tuple[Any, ...]:
        loss, given, wrt = loss_of(ctx.expression), ctx.given, ctx.wrt
        found = flow_back(ctx, heads[0]) if heads[0] is not None else {}
        if any(x is not None for x in heads[1:]):
            wanted = [k for k, needed in zip(given, ctx.needs_input_grad[3:], strict=True) if needed]
            check_second_derivatives(loss, wrt, wanted)
            inputs = [x.detach() for x in ctx.saved_tensors[: len(given)]]
            curvature = heads[1] * hessian(ctx.expression, given, inputs)
            found[0] = found[0] + curvature if 0 in found else curvature
        return None, None, None, *[found.get(k) for k in given]

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return for_each(cast(Any, Differentiable).apply, info, in_dims, *args)


def operate(expression: str, given: list[int], inputs: list[Tensor], wrt: list[int]) -> list[Tensor]:
    """The operator, in the form that the surroundings take."""
    if transforms_active():
        return list(cast(Any, Differentiable).apply(expression, given, wrt, *inputs))
    results: list[Tensor] = evaluate(expression, given, inputs, wrt)
    return results


def for_each(op: Any, info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
    """Maps an operator over a batch, item by item."""

    def item(x: Any, dim: Any, k: int) -> Any:
        if isinstance(dim, list):
            return [item(y, d, k) for y, d in zip(x, dim, strict=True)]
        return x if dim is None else x.select(dim, k)

    results = [op(*[item(x, dim, k) for x, dim in zip(args, in_dims, strict=True)]) for k in range(info.batch_size)]
    if isinstance(results[0], Tensor):
        return torch.stack(results), 0
    stacked = type(results[0])(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, type(stacked)([0] * len(stacked))


for operator in (evaluate, gradient, hessian):
    operator.register_vmap(functools.partial(for_each, operator))


def given_tensors(inputs: Sequence[Any]) -> tuple[list[int], list[Tensor]]:
    """The positions of the inputs that are there, and these."""
    given = [k for k, x in enumerate(inputs) if x is not None]
    return given, [torch.as_tensor(inputs[k]) for k in given]


def call(loss: Loss, inputs: Sequence[Any]) -> Tensor:
    """The value, through the operator."""
    check_own(loss)
    given, tensors = given_tensors(inputs)
    wrt = [k for k, x in zip(given, tensors, strict=True) if x.requires_grad] if torch.is_grad_enabled() else []
    check_differentiable(loss, names(loss, wrt))
    return operate(loss.expression, given, tensors, wrt)[0]


def traced(self: Loss, *inputs: Any, **named: Any) -> Tensor:
    """What the compiler sees of a call."""
    given, options = bind(self, inputs, named)
    if any(x is not None for x in options.values()):
        raise TypeError("a compiled call takes the loss's inputs alone")
    return call(self, [given.get(name) for name in self.inputs])


@functools.cache
def teach_compiler() -> None:
    """Lets PyTorch's compiler trace the call of a loss."""
    torch.compiler.substitute_in_graph(Loss.__call__, skip_signature_check=True)(traced)
