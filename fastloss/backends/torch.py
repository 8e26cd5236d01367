"""PyTorch: the loss of tensors is a tensor, which PyTorch differentiates.

Plain calls go through ``autograd.Function``, which costs the least. Traced and transformed calls go through
``torch_operators``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from itertools import repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.graph import increment_version
from torch.fx import Proxy

from fastloss._core import Loss
from fastloss.backends import along, bind, check_differentiable, check_own, is_ready, torch_operators
from fastloss.backends.layout import ignored_id
from fastloss.backends.torch_operators import (
    HALVES,
    as_array,
    as_tensor,
    as_value,
    count_function_modes,
    count_modes,
    is_traced,
    names,
    records_calls,
    transforms_active,
    wide_value,
)

# stand-ins of the tracer of torch.fx, too
ARRAYS = (Tensor, Proxy)
# a subclass may have no memory
PLAIN = (Tensor, torch.nn.Parameter)
# Loss.__call__ itself: a subclass's override may be the caller
call = Loss.__call__


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if forward_ad._current_level >= 0:
        if method == "__call__":
            return torch_operators.perform(loss, method, inputs, named)
        torch_operators.check_no_tangents(loss, inputs, named)
    # as is_traced, without a call that is not compiled
    if transforms_active() or records_calls() or count_modes() or (count_function_modes() and is_traced()):
        return torch_operators.perform(loss, method, inputs, named)
    if method != "__call__" or named.get("out") is not None:
        return evaluate_constant(loss, method, inputs, named)
    if named:
        given, _ = bind(loss, inputs, named)
        inputs = tuple(map(given.get, loss.inputs))
    arrays: list[Any] = []
    wrt: list[int] = []
    others = None
    for k, x in enumerate(inputs):
        if type(x) in PLAIN:
            try:
                arrays.append(as_array(loss.inputs[k], x))
            except TypeError:
                if not x.is_meta:
                    raise
                return torch_operators.perform(loss, method, inputs, {})
            if x.requires_grad:
                wrt.append(k)
        elif isinstance(x, ARRAYS):
            return torch_operators.perform(loss, method, inputs, {})
        else:
            arrays.append(x)
            others = inputs
    wide = wide_value(loss, arrays[0]) if torch.is_autocast_enabled("cpu") else None
    if not wrt or not torch.is_grad_enabled():
        value = call(loss, *arrays) if wide is None else call(loss, *arrays, out=wide)
        return as_value(value, arrays[0])
    more: Any = {} if wide is None else {"out": (wide, None)}
    if wrt == [0] and loss.is_separable(inputs[0].ndim):
        value, gradient = Loss.value_and_grad(loss, *arrays, **more)
        gradients = [as_tensor(gradient)]
    elif is_ready(loss, wrt, np.ndim(arrays[0])):
        value, found = Loss.value_and_grad(loss, *arrays, wrt=names(loss, wrt), **more)
        gradients = list(map(as_tensor, found))
    else:
        check_differentiable(loss, names(loss, wrt))
        value, gradients = call(loss, *arrays, out=wide), None
    return record((loss, wrt, others), gradients, [as_value(value, arrays[0])], *inputs)


def evaluate_constant(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Every method but the plain call: nothing flows back through the results."""
    given, options = bind(loss, inputs, named)
    for x in (*given.values(), options.get("head_grad"), options.get("vector")):
        if x.is_meta if type(x) in PLAIN else isinstance(x, ARRAYS):
            return torch_operators.perform(loss, method, inputs, named)
    out = options.pop("out", None)
    if method == "__call__" and torch.is_grad_enabled():
        for name, x in given.items():
            if isinstance(x, Tensor) and x.requires_grad:
                raise TypeError(f"out cannot be differentiated, and {name} requires a gradient")
    arrays = {name: as_array(name, x) for name, x in (given | options).items()}
    result = getattr(Loss, method)(loss, **arrays, out=map_out(out))
    return as_given(out, result, arrays[loss.inputs[0]])


def evaluate_linear(linear: Any, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    # imports this module
    from fastloss.backends import torch_linear

    return torch_linear.evaluate(linear, method, given, options)


def as_numpy(name: str, x: Any) -> Any:
    try:
        if not isinstance(x, Proxy):
            return as_array(name, x.float() if isinstance(x, Tensor) and x.dtype is torch.bfloat16 else x)
    except TypeError:
        if not is_traced() and not x.is_meta:
            raise
    raise TypeError(
        f"{name} must hold numbers for validate to read, and a traced tensor or one on meta holds none, got "
        f"{type(x).__name__}; call validate with a tensor on the CPU, outside of PyTorch's transforms"
    )


def map_out(out: Any) -> Any:
    """The caller's buffers as arrays over the same memory."""
    if isinstance(out, tuple):
        return tuple(map(map_out, out))
    if isinstance(out, Tensor) and out.requires_grad:
        raise TypeError("out must not require a gradient")
    array = as_array("out", out)
    if isinstance(out, Tensor) and array.size and array.ctypes.data != out.data_ptr():
        # a negated view, say: its array is a copy
        raise TypeError("out must be a tensor that stores its own numbers, not a negated or conjugate view")
    return array


def as_given(out: Any, result: Any, pred: Any) -> Any:
    """Results as tensors: the caller's, where given."""
    if isinstance(result, tuple):
        parts = out if isinstance(out, tuple) else (None,) * len(result)
        return tuple(map(as_given, parts, result, repeat(pred)))
    if isinstance(out, Tensor):
        increment_version(out)
    return as_value(result, pred) if out is None else out


class Recorded(torch.autograd.Function):
    """A value together with its gradients, which the first backward pass hands out.

    The backward pass gives the gradients away: PyTorch scales them in place and may keep them as ``grad`` without a
    copy. A second backward pass (retain_graph) computes its own.
    """

    @staticmethod
    def forward(ctx: Any, call: Any, gradients: list[Tensor] | None, value: list[Tensor], *inputs: Any) -> Tensor:
        ctx.call, ctx.gradients = call, gradients
        if call[2] is None:
            ctx.save_for_backward(*inputs)
        else:
            ctx.save_for_backward(*map(tensor_or_none, inputs))
        return value[0]

    @staticmethod
    @torch_operators.for_each_head
    def backward(ctx: Any, *heads: Tensor) -> tuple[Any, ...]:
        (loss, wrt, others), head = ctx.call, heads[0]
        # Pop first: another thread may go back through the same graph.
        gradients = ctx.__dict__.pop("gradients", None)
        results: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if gradients is not None and not torch.is_grad_enabled() and not is_traced():
            gradients = scale(loss, gradients, head, len(results) - 3, others)
        else:
            gradients = None
        if gradients is None:
            inputs = ctx.saved_tensors
            if others is not None:
                inputs = tuple(map(first_given, inputs, others))
            gradients = flow_back(loss, wrt, head, inputs)
        for k, x in zip(wrt, gradients, strict=True):
            results[k + 3] = x
        return tuple(results)


# Function.apply would look for transforms once more
record: Any = super(torch.autograd.Function, Recorded).apply


def tensor_or_none(x: Any) -> Any:
    return x if isinstance(x, Tensor) else None


def first_given(x: Any, other: Any) -> Any:
    return other if x is None else x


def constant(head: Tensor) -> Any:
    """The number that a head repeats, as it does behind sums and means."""
    if not head.ndim:
        return head.item()
    return None if any(head.stride()) or not head.numel() else head[(0,) * head.ndim].item()


def scale(loss: Loss, gradients: list[Tensor], head: Tensor, n: int, others: Any) -> list[Tensor] | None:
    """The gradients for a head, of those for heads of 1 and in their memory, for a call with n inputs.

    None if the head is not finite and something may be left out: infinity times 0 would be NaN. None, too, where halves
    would be rounded twice.
    """
    factor = constant(head)
    if factor != 1 and gradients[0].dtype in HALVES:
        return None
    if factor is None:
        if may_leave_out(loss, n, others) and not head.isfinite().all():
            return None
        gradients[0].mul_(along(loss, head, gradients[0]))
    elif factor != 1:
        if not math.isfinite(factor):
            return None
        for x in gradients:
            x.mul_(factor)
    return gradients


def may_leave_out(loss: Loss, n: int, others: Any) -> bool:
    """Whether a call with n inputs, all tensors or these others, has weights, which may be 0, or ignores ids."""
    k = loss.inputs.index("sample_weight")
    return (n > k and (others is None or others[k] is not None)) or ignores_ids(loss)


@functools.lru_cache(maxsize=1024)
def ignores_ids(loss: Loss) -> bool:
    return ignored_id(loss) is not None


def flow_back(loss: Loss, wrt: list[int], head: Tensor, inputs: Sequence[Any]) -> Sequence[Tensor]:
    """The gradients for a head, computed anew, and recorded as far as they are differentiable."""
    if torch.is_grad_enabled() or is_traced():
        check_own(loss)
        given, tensors = torch_operators.given_tensors(inputs)
        return torch_operators.recorded_gradients(loss.expression, given, tensors, wrt, head)
    arrays = list(map(as_array, loss.inputs, inputs))
    found = Loss.grad(loss, *arrays, wrt=names(loss, wrt), head_grad=as_array("head_grad", head))
    return list(map(as_tensor, found))
