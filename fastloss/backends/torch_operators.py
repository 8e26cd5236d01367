"""The losses as operators of PyTorch, for code that traces, batches or transforms a call.

The operators tell PyTorch the shapes of results, the derivative, and how to map over a batch. A loss is passed as the
expression that builds it, an input by its position in the call. Class weights that a module keeps as a tensor come
last, at the position behind all inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx import Proxy

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
    loss_of,
    make,
    mapping,
    spelled,
    targets_of,
)
from fastloss.backends.layout import check_shapes, left_out, spec_of

transforms_active = torch._C._are_functorch_transforms_active
records_calls = torch._C._is_tracing
count_modes = torch._C._len_torch_dispatch_stack
count_function_modes = torch._C._len_torch_function_stack
count_early_modes: Any = torch._ops._len_torch_dispatch_stack_pre_dispatch

# from here on a number is an infinity to float32
BEYOND_FLOAT32 = float.fromhex("0x1.ffffffp127")
REALS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
HALVES = REALS[2:]
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64)
# NumPy's dtypes, and bfloat16, which has a stand-in
DTYPES = frozenset((*REALS, *INTEGERS, torch.bool))
PARTS = {
    "__call__": ("value",),
    "grad": ("gradient",),
    "value_and_grad": ("value", "gradient"),
    "grad_and_hess": ("gradient", "hessian"),
    "value_grad_and_hess": ("value", "gradient", "hessian"),
    "hvp": ("product",),
}


def is_traced() -> bool:
    """Whether a tracer is active: it takes results for constants unless operations of PyTorch made them."""
    if transforms_active() or records_calls() or count_modes():
        return True
    # it has a stack of its own, and a mode for functions, of which a default device is one, too
    return bool(count_function_modes() and count_early_modes())


def as_array(name: str, x: Any) -> Any:
    """An array over a tensor's memory; anything else as it is."""
    if not isinstance(x, Tensor):
        return x
    try:
        # force means detach, too, but it would also copy from another device
        if x.is_cpu:
            if x.dtype is torch.bfloat16:
                return x.detach().view(torch.int16).numpy(force=True).view(_foreign.BFLOAT16)
            return x.numpy(force=True)
    except (TypeError, RuntimeError):
        pass
    raise TypeError(
        f"{name} must be a dense tensor on the CPU, of real numbers, got {x.dtype} on {x.device}, {x.layout}{remedy(x)}"
    )


def remedy(x: Tensor) -> str:
    """Advice to make a tensor that losses take of another one."""
    if x.is_meta:
        return "; a tensor on meta has no numbers: give one that has"
    calls = [".cpu()"] * (not x.is_cpu) + [".to_dense()"] * (x.layout is not torch.strided)
    calls += [".float()"] * (x.dtype.is_floating_point and x.dtype not in REALS)
    return f"; {''.join(calls)} makes one of it" if calls else ""


def as_tensor(x: Any) -> Tensor:
    """A tensor over an array's memory, or of a NumPy scalar."""
    array = x.__array__()
    if array.dtype == _foreign.BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def as_value(x: Any, pred: Any) -> Tensor:
    """A value as a tensor; a number is float32 if pred is float32 or a half."""
    if type(x) is not float:
        return as_tensor(x)
    dtype = np.asarray(pred).dtype
    if dtype != _foreign.BFLOAT16 and (dtype.kind != "f" or dtype.itemsize > 4):
        return torch.from_numpy(np.array(x, np.float64))
    # the cast would warn
    return torch.from_numpy(np.array(x if abs(x) < BEYOND_FLOAT32 else x * math.inf, np.float32))


def wide_value(loss: Loss, pred: Any) -> Any:
    """A float32 array for values per example of halves, which autocast has in float32; None for any others."""
    dtype = np.asarray(pred).dtype
    if is_total(loss) or (dtype != np.float16 and dtype != _foreign.BFLOAT16):
        return None
    axes = loss.value_axes(pred.ndim)
    return np.empty([1] if axes is None else [pred.shape[k] for k in axes], np.float32)


def check_no_tangents(loss: Loss, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Refuses forward mode for all but the value: it would silently find no derivatives."""
    given, options = bind(loss, inputs, named)
    unpack: Any = torch.autograd.forward_ad.unpack_dual
    for name, x in (given | options).items():
        if isinstance(x, Tensor) and unpack(x).tangent is not None:
            raise NotImplementedError(
                f"forward-mode derivatives are those of the value of {type(loss).__name__} alone, and {name} has a "
                "tangent"
            )


@functools.lru_cache(maxsize=64)
def with_row_numbers(expression: str, numbers: tuple[float, ...]) -> Loss:
    """The loss that an expression builds, with other numbers for those of a row, such as weights of classes."""
    loss = loss_of(expression)
    return type(loss)(**dict(loss.arguments) | {str(loss.row_parameter): numbers})


def loss_and_arrays(expression: str, given: Sequence[int], inputs: Sequence[Tensor]) -> tuple[Loss, dict[str, Any]]:
    """The loss, and arrays by the names of the call."""
    loss = loss_of(expression)
    if given[-1] == len(loss.inputs):
        # vmap has added axes of size 1
        loss = with_row_numbers(expression, tuple(inputs[-1].flatten().tolist()))
        given, inputs = given[:-1], inputs[:-1]
    return loss, {loss.inputs[k]: as_array(loss.inputs[k], x) for k, x in zip(given, inputs, strict=True)}


def names(loss: Loss, wrt: Sequence[int]) -> tuple[str, ...]:
    known = (*loss.inputs, loss.row_parameter or "")
    return tuple([known[k] for k in wrt])


def mapped(loss: Loss, method: str, arrays: dict[str, Any], added: int, wrt: Sequence[int] = ()) -> list[Tensor]:
    """The results of calls along the axes that vmap has added, in the dtypes of plain calls."""
    given = arrays[loss.inputs[0]].dtype
    half = {np.dtype(np.float16): torch.float16, _foreign.BFLOAT16: torch.bfloat16}.get(given)
    dtype = np.float64 if half is None and given != np.float32 else np.float32
    found = mapping.call(loss, method, arrays, added, names(loss, wrt))
    tensors = [torch.from_numpy(np.require(x, dtype, "W")) for x in found]
    if half is None:
        return tensors
    totals = int(is_total(loss) and "value" in PARTS.get(method.partition(":")[0], ()))
    return [*tensors[:totals], *[x.to(half) for x in tensors[totals:]]]


# Inputs may have axes in front that vmap has added, so many in each, of size 1 where all calls have the same.
@torch.library.custom_op("fastloss::evaluate", mutates_args=(), device_types="cpu")
def evaluate(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], added: int = 0, wide: bool = False
) -> list[Tensor]:
    """The value, and the gradients for heads of 1, if those give the gradients for any.

    The backward pass multiplies them by what flows back, in operations that PyTorch can trace. wide: values per example
    of halves are float32.
    """
    loss, arrays = loss_and_arrays(expression, given, inputs)
    if added:
        ready = wrt if is_ready(loss, wrt, inputs[0].ndim - added) else []
        return mapped(loss, "value_and_grad" if ready else "__call__", arrays, added, ready)
    pred = arrays[loss.inputs[0]]
    if not wrt or not is_ready(loss, wrt, inputs[0].ndim):
        return [as_value(loss(**arrays, out=wide_value(loss, pred) if wide else None), pred)]
    value, gradients = loss.value_and_grad(**arrays, wrt=names(loss, wrt))
    return [as_value(value, pred), *map(as_tensor, gradients)]


@torch.library.custom_op("fastloss::gradient", mutates_args=(), device_types="cpu")
def gradient(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor, added: int = 0
) -> list[Tensor]:
    """The gradients for a head."""
    loss, arrays = loss_and_arrays(expression, given, inputs)
    if added:
        return mapped(loss, "grad", arrays | {"head_grad": as_array("head_grad", head)}, added, wrt)
    return list(map(as_tensor, loss.grad(**arrays, wrt=names(loss, wrt), head_grad=as_array("head_grad", head))))


@torch.library.custom_op("fastloss::hvp", mutates_args=(), device_types="cpu")
def product(
    expression: str,
    method: str,
    given: list[int],
    inputs: list[Tensor],
    vector: Tensor,
    head: Tensor | None,
    added: int = 0,
) -> Tensor:
    """The Hessian in the first input times a vector."""
    loss, arrays = loss_and_arrays(expression, given, inputs)
    arrays |= {"vector": as_array("vector", vector)}
    arrays |= {} if head is None else {"head_grad": as_array("head_grad", head)}
    return mapped(loss, method, arrays, added)[0] if added else as_tensor(make(loss, method, **arrays))


@torch.library.custom_op("fastloss::results", mutates_args=(), device_types="cpu")
def results(
    expression: str,
    method: str,
    given: list[int],
    inputs: list[Tensor],
    wrt: list[int],
    head: Tensor | None,
    added: int = 0,
) -> list[Tensor]:
    """What a method returns, one after another."""
    loss, arrays = loss_and_arrays(expression, given, inputs)
    parts = PARTS.get(method.partition(":")[0])
    if parts is None:
        raise ValueError(f"method must be one of {', '.join(PARTS)}, got {method!r}")
    options: dict[str, Any] = {} if head is None else {"head_grad": as_array("head_grad", head)}
    if added:
        return mapped(loss, method, arrays | options, added, wrt if "gradient" in parts else ())
    options |= {"wrt": names(loss, wrt)} if "gradient" in parts else {}
    found = make(loss, method, **arrays, **options)
    tensors: list[Tensor] = []
    for part in found if len(parts) > 1 else (found,):
        tensors += [as_value(x, arrays[loss.inputs[0]]) for x in (part if isinstance(part, tuple) else (part,))]
    return tensors


def same_size(m: Any, n: Any) -> bool:
    """Whether two sizes are equal. Symbolic sizes pass: the call itself checks them."""
    try:
        return bool(m == n)
    except RuntimeError:
        return True


def fits(shape: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether one shape is the other, or that without some axes of size 1."""
    few, many = sorted((shape, other), key=len)
    k = 0
    for n in many:
        if k < len(few) and same_size(n, few[k]):
            k += 1
        elif len(few) == len(many) or not same_size(n, 1):
            return False
    return k == len(few)


def broadcasts(shape: Sequence[Any], to: Sequence[Any]) -> bool:
    """Whether a shape broadcasts to another without enlarging it."""
    behind = to[len(to) - len(shape) :]
    return len(shape) <= len(to) and all(same_size(m, n) or same_size(m, 1) for m, n in zip(shape, behind, strict=True))


@functools.lru_cache(maxsize=1024)
def sibling(expression: str, reduction: str) -> Loss:
    """The loss that an expression builds, with another reduction."""
    loss = loss_of(expression)
    return type(loss)(**dict(loss.arguments) | {"reduction": reduction})


def unreduced_axes(loss: Loss, pred: Tensor) -> tuple[int, ...]:
    """The axes of pred that the unreduced loss has, whatever the loss's reduction."""
    return cast(tuple[int, ...], sibling(loss.expression, "none").value_axes(pred.ndim))


def check_weight_fits(loss: Loss, pred: Tensor, unreduced: list[Any], weight: Tensor) -> None:
    batch = sibling(loss.expression, "example").value_axes(pred.ndim)
    shape = list(weight.shape)
    if weight.ndim == 1 and batch:
        good = same_size(shape[0], pred.shape[batch[0]]) or same_size(shape[0], 1)
    elif weight.ndim == pred.ndim == len(unreduced) + 1:
        # the rows' axis may stay, with size 1
        axes = unreduced_axes(loss, pred)
        good = broadcasts(shape, [n if k in axes else 1 for k, n in enumerate(pred.shape)])
    else:
        good = broadcasts(shape, unreduced)
    if not good:
        raise ValueError(
            f"sample_weight must be one weight per example, or broadcast to the unreduced loss, shape "
            f"{tuple(unreduced)}, got shape {tuple(shape)}"
            f"{_foreign.about_weights(np.empty(int(not any(isinstance(n, int) and n == 0 for n in shape))))}"
        )


def check_fits(loss: Loss, given: Mapping[str, Tensor]) -> None:
    """Refuses the shapes and dtypes that a call would refuse, as far as sizes are known."""
    first = loss.inputs[0]
    pred = given[first]
    for name, x in given.items():
        if x.dtype not in DTYPES:
            raise TypeError(f"{name} must be a tensor of real numbers, got {x.dtype}{remedy(x)}")
    shapes = tuple([(name, tuple(x.shape)) for name, x in given.items()])
    if all(isinstance(n, int) for _, shape in shapes for n in shape):
        check_shapes(loss, shapes)
        return
    if any(spec.lies == "own" for spec in loss.specs):
        return
    axes = unreduced_axes(loss, pred)
    unreduced = [pred.shape[k] for k in axes]
    for name, x in given.items():
        if name == "sample_weight":
            check_weight_fits(loss, pred, unreduced, x)
        elif name == "vector" or spec_of(loss, name).lies in ("like first", "per row"):
            is_row = name != "vector" and spec_of(loss, name).lies == "per row"
            shape = tuple(unreduced) if is_row else tuple(pred.shape)
            if not fits(x.shape, shape):
                left_out = [k for k in range(pred.ndim) if k not in axes]
                text = f"{tuple(pred.shape)} without axis {left_out[0]}, {shape}" if is_row else f"{shape}"
                raise ValueError(
                    f"{name} must have {first}'s shape {text}, though one of the two may lack axes of size 1, "
                    f"got shape {tuple(x.shape)}"
                )
        elif not broadcasts(x.shape, () if spec_of(loss, name).lies == "number" else unreduced):
            raise ValueError(
                f"{name} must broadcast to {first}'s shape {tuple(pred.shape)}, got shape {tuple(x.shape)}"
            )


def like_inputs(given: list[int], inputs: list[Tensor], wrt: list[int]) -> list[Tensor]:
    """What has the shapes of some inputs and the dtype of results."""
    dtype = inputs[0].dtype if inputs[0].dtype in REALS else torch.float64
    return [inputs[0].new_empty(inputs[given.index(k)].shape, dtype=dtype) for k in wrt]


def described(expression: str, given: list[int], inputs: list[Tensor]) -> tuple[Loss, Tensor]:
    """The loss, and what is like its value."""
    loss = loss_of(expression)
    if given[-1] == len(loss.inputs):
        given, inputs = given[:-1], inputs[:-1]
    check_fits(loss, dict(zip(names(loss, given), inputs, strict=True)))
    axes = loss.value_axes(inputs[0].ndim)
    (pred,) = like_inputs(given, inputs, [0])
    dtype = torch.float32 if is_total(loss) and pred.dtype in HALVES else pred.dtype
    return loss, pred.new_empty([1] if axes is None else [pred.shape[k] for k in axes], dtype=dtype)


def check_head(head: Tensor, value: Tensor) -> None:
    if head.ndim and not (head.ndim == value.ndim and all(map(same_size, head.shape, value.shape))):
        raise ValueError(
            f"head_grad must be a number or have the value's shape {tuple(value.shape)}, got shape {tuple(head.shape)}"
        )


def entries(tensors: list[Tensor], added: int) -> tuple[list[int], list[Tensor]]:
    """The sizes of the axes that vmap has added, and the tensors without them."""
    if not added:
        return [], tensors
    batch = np.broadcast_shapes(*[tuple(x.shape[:added]) for x in tensors])
    return list(batch), [x.new_empty(x.shape[added:]) for x in tensors]


def spread(batch: list[int], tensors: list[Tensor]) -> list[Tensor]:
    return [x.new_empty([*batch, *x.shape]) for x in tensors] if batch else tensors


@evaluate.register_fake
def _(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], added: int = 0, wide: bool = False
) -> list[Tensor]:
    batch, inputs = entries(inputs, added)
    loss, value = described(expression, given, inputs)
    if wide and value.dtype in HALVES:
        value = value.float()
    return spread(batch, [value, *(like_inputs(given, inputs, wrt) if is_ready(loss, wrt, inputs[0].ndim) else [])])


@gradient.register_fake
def _(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor, added: int = 0
) -> list[Tensor]:
    batch, (head, *inputs) = entries([head, *inputs], added)
    check_head(head, described(expression, given, inputs)[1])
    return spread(batch, like_inputs(given, inputs, wrt))


@product.register_fake
def _(
    expression: str,
    method: str,
    given: list[int],
    inputs: list[Tensor],
    vector: Tensor,
    head: Tensor | None,
    added: int = 0,
) -> Tensor:
    batch, (vector, *rest) = entries([vector, *inputs, *([] if head is None else [head])], added)
    loss, value = described(expression, given, rest[: len(given)])
    check_fits(loss, {loss.inputs[0]: rest[0], "vector": vector})
    if head is not None:
        check_head(rest[-1], value)
    return spread(batch, like_inputs(given, rest, [0]))[0]


@results.register_fake
def _(
    expression: str,
    method: str,
    given: list[int],
    inputs: list[Tensor],
    wrt: list[int],
    head: Tensor | None,
    added: int = 0,
) -> list[Tensor]:
    batch, rest = entries([*inputs, *([] if head is None else [head])], added)
    _, value = described(expression, given, rest[: len(given)])
    if head is not None:
        check_head(rest[-1], value)
    parts = PARTS[method.partition(":")[0]]
    found = [value] if "value" in parts else []
    return spread(batch, found + [x for part in parts if part != "value" for x in like_inputs(given, rest, wrt)])


def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    ctx.expression, ctx.given, tensors, ctx.wrt, ctx.added = inputs[:5]
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output[1:])


def setup_operator(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor]) -> None:
    setup_context(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[1:])


def backward(ctx: Any, heads: Sequence[Tensor]) -> tuple[Any, ...]:
    """The operator's derivative; its further outputs, the gradients, exist only for this."""
    # a program that was traced without gradients may be run with them
    wanted = [k for k, needed in zip(ctx.given, ctx.needs_input_grad[2], strict=True) if needed]
    inputs, found = list(ctx.saved_tensors[: len(ctx.given)]), {}
    if ctx.added:
        found = flow_back_each(ctx, heads[0])
    elif torch.is_grad_enabled() or not set(wanted) <= set(ctx.wrt):
        check_differentiable(loss_of(ctx.expression), names(loss_of(ctx.expression), wanted))
        find = recorded_gradients if torch.is_grad_enabled() else gradient
        gradients = find(ctx.expression, ctx.given, inputs, wanted, heads[0]) if wanted else []
        found = dict(zip(wanted, gradients, strict=True))
    else:
        found = flow_back(ctx, heads[0])
    # PyTorch takes an empty list for one of tensors, and no gradient of an argument that a call has left out
    flow: tuple[Any, ...] = (None, None, [found.get(k) for k in ctx.given], None if ctx.wrt else [], None, None)
    return flow[: len(ctx.needs_input_grad)]


evaluate.register_autograd(backward, setup_context=setup_operator)


def flow_back(ctx: Any, head: Tensor) -> dict[int, Tensor]:
    """The gradients for a head, by the position of the input."""
    loss, given, wrt = loss_of(ctx.expression), ctx.given, ctx.wrt
    inputs, gradients = list(ctx.saved_tensors[: len(given)]), ctx.saved_tensors[len(given) :]
    if gradients:
        gradients = scaled(loss, given, inputs, wrt, gradients, head)
    elif wrt:  # no branch: without targets nothing flows back
        gradients = gradients_for(ctx.expression, given, inputs, wrt, head)
    return dict(zip(wrt, gradients, strict=True))


def flow_back_each(ctx: Any, head: Tensor) -> dict[int, Tensor]:
    """The same of calls along the axes that vmap has added."""
    loss, given, wrt = loss_of(ctx.expression), ctx.given, ctx.wrt
    inputs, gradients = list(ctx.saved_tensors[: len(given)]), ctx.saved_tensors[len(given) :]

    def flow(head: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        own, found = list(tensors[: len(given)]), tensors[len(given) :]
        if found:
            return tuple(scaled(loss, given, own, wrt, found, head))
        return tuple(gradients_for(ctx.expression, given, own, wrt, head))

    found = map_entries(flow, ctx.added, [head, *inputs, *gradients]) if wrt else ()
    return {k: x.sum_to_size(inputs[given.index(k)].shape) for k, x in zip(wrt, found, strict=True)}


def map_entries(f: Any, added: int, tensors: list[Tensor]) -> Any:
    """Maps a function over the axes that vmap has added, of size 1 where the entries have the same."""
    if not added:
        return f(*tensors)
    size = max(x.shape[0] for x in tensors)
    dims = tuple([0 if x.shape[0] == size else None for x in tensors])
    args = [x if dim == 0 else x[0] for x, dim in zip(tensors, dims, strict=True)]
    return torch.func.vmap(lambda *entry: map_entries(f, added - 1, list(entry)), dims)(*args)


def recorded_gradients(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor
) -> list[Tensor]:
    """The gradients for a head, to be differentiated once more."""
    loss = loss_of(expression)
    if is_ready(loss, wrt, inputs[0].ndim):
        _, *gradients = cast(Any, Differentiable).apply(expression, given, 0, wrt, *inputs)
        return scaled(loss, given, inputs, wrt, gradients, head)
    return gradients_for(expression, given, inputs, wrt, head)


def scaled(
    loss: Loss, given: list[int], inputs: Sequence[Tensor], wrt: list[int], gradients: Sequence[Tensor], head: Tensor
) -> list[Tensor]:
    """The gradients for a head, of those for heads of 1."""
    return [sifted(loss, given, inputs, k, along(loss, head, x)) * x for k, x in zip(wrt, gradients, strict=True)]


def sifted(loss: Loss, given: list[int], inputs: Sequence[Tensor], k: int, head: Tensor) -> Tensor:
    """The flow into an input, set to 0 where the call leaves the input out: infinity times 0 would be NaN."""
    mask = left_out(loss, dict(zip(names(loss, given), inputs, strict=True)), names(loss, [k])[0])
    return head if mask is None else torch.where(mask, 0.0, head)


def gradients_for(
    expression: str, given: list[int], inputs: list[Tensor], wrt: list[int], head: Tensor
) -> list[Tensor]:
    """The gradients for a head, computed anew, in the form that active transforms take."""
    if is_transformed() or not is_traced():
        return list(cast(Any, Gradients).apply(expression, given, 0, wrt, head, *inputs))
    found: list[Tensor] = gradient(expression, given, inputs, wrt, head)
    return found


BATCHED = torch._C._dispatch_key_parse("Batched")


def is_batch(x: Any) -> bool:
    """Whether a tensor stands for several, as in a backward pass for many heads (is_grads_batched)."""
    return isinstance(x, Tensor) and torch._C._dispatch_keys(x).has(BATCHED)


def for_each_head(function: Any) -> Any:
    """A derivative of a function below that takes batches of heads, which are of an older kind than torch.func's."""

    @functools.wraps(function)
    def derivative(ctx: Any, *heads: Any) -> Any:
        if not any(map(is_batch, heads)):
            return function(ctx, *heads)
        level = torch._C._vmapmode_increment_nesting() - 1
        torch._C._vmapmode_decrement_nesting()
        dims = tuple([0 if is_batch(x) else None for x in heads])
        whole = [
            x if dim is None else torch._remove_batch_dim(x, level, 0, 0) for x, dim in zip(heads, dims, strict=True)
        ]
        places: list[int] = []

        def each(*heads: Any) -> tuple[Tensor, ...]:
            found = function(ctx, *heads)
            found = found if isinstance(found, tuple) else (found,)
            places[:] = [k for k, x in enumerate(found) if x is not None]
            flow[:] = [None for _ in found]
            return tuple([found[k] for k in places])

        flow: list[Tensor | None] = []
        for k, x in zip(places, torch.func.vmap(each, dims)(*whole), strict=True):
            flow[k] = torch._add_batch_dim(x, 0, level)
        return tuple(flow)

    return derivative


class Product(torch.autograd.Function):
    """The operator of the Hessian times a vector, linear in the vector and symmetric; no other derivatives."""

    @staticmethod
    def forward(
        expression: str, given: list[int], added: int, vector: Tensor, head: Tensor | None, *inputs: Tensor
    ) -> Tensor:
        found: Tensor = product(expression, "hvp", given, list(inputs), vector, head, added)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.expression, ctx.given, ctx.added, vector, *tensors = inputs
        ctx.shape = vector.shape
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @for_each_head
    def backward(ctx: Any, *heads: Tensor | None) -> Any:
        found = None
        if heads[0] is not None:
            # next_functions has only those of tensors
            nodes = [node for node, _ in ctx.next_functions[1:]]
            if any(is_wanted(node) for node in nodes):
                refuse_third(ctx)
            found = cast(Any, Product).apply(ctx.expression, ctx.given, ctx.added, heads[0], *ctx.saved_tensors)
            found = found.sum_to_size(ctx.shape)
        return None, None, None, found, None, *[None for _ in ctx.given]

    @staticmethod
    @for_each_head
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        if any(x is not None for x in tangents[4:]):
            refuse_third(ctx)
        return cast(Any, Product).apply(ctx.expression, ctx.given, ctx.added, tangents[3], *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return in_one_call(Product, info, in_dims, *args)


def refuse_third(ctx: Any) -> None:
    raise NotImplementedError(f"fastloss has no third derivatives of {type(loss_of(ctx.expression)).__name__}")


def is_wanted(node: Any) -> bool:
    """Whether this backward pass goes on to a node of the graph."""
    if node is None:
        return False
    try:
        return bool(torch._C._will_engine_execute_node(node))
    except RuntimeError:
        # a leaf of the graph does not tell
        return True


class Gradients(torch.autograd.Function):
    """The operator of the gradients for a head, with their derivatives in the first input."""

    @staticmethod
    def forward(
        expression: str, given: list[int], added: int, wrt: list[int], head: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        return tuple(gradient(expression, given, list(inputs), wrt, head, added))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.expression, ctx.given, ctx.added, ctx.wrt, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @for_each_head
    def backward(ctx: Any, *heads: Tensor | None) -> Any:
        none = (None,) * (5 + len(ctx.given))
        wanted = [k for k, needed in zip(ctx.given, ctx.needs_input_grad[5:], strict=True) if needed]
        loss = loss_of(ctx.expression)
        check_second_derivatives(loss, ctx.wrt, wanted)
        if heads[0] is None:
            return none
        if ctx.needs_input_grad[4]:
            refuse_head(loss)
        found = cast(Any, Product).apply(ctx.expression, ctx.given, ctx.added, heads[0], *ctx.saved_tensors)
        return *none[:5], found.sum_to_size(ctx.saved_tensors[1].shape), *none[6:]

    @staticmethod
    @for_each_head
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        loss = loss_of(ctx.expression)
        moved = [k for k, x in zip(ctx.given, tangents[5:], strict=True) if x is not None]
        check_second_derivatives(loss, ctx.wrt, moved or [0])
        head, *inputs = ctx.saved_tensors
        parts = []
        if moved:
            parts.append(cast(Any, Product).apply(ctx.expression, ctx.given, ctx.added, tangents[5], head, *inputs))
        if tangents[4] is not None:
            found = cast(Any, Gradients).apply(ctx.expression, ctx.given, ctx.added, ctx.wrt, tangents[4], *inputs)
            parts += found
        return (sum(parts),)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return in_one_call(Gradients, info, in_dims, *args)


def refuse_head(loss: Loss) -> None:
    raise NotImplementedError(
        f"fastloss has no derivative in head_grad of the gradient of {type(loss).__name__} where several values "
        "depend on an element"
    )


class Value(torch.autograd.Function):
    """The value, without knowing whether it will be differentiated."""

    @staticmethod
    def forward(expression: str, given: list[int], added: int, *inputs: Tensor) -> Tensor:
        found: list[Tensor] = evaluate(expression, given, list(inputs), [], added)
        return found[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.expression, ctx.given, ctx.added, *tensors = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    @for_each_head
    def backward(ctx: Any, *heads: Tensor | None) -> Any:
        given, inputs = ctx.given, list(ctx.saved_tensors)
        wanted = [k for k, needed in zip(given, ctx.needs_input_grad[3:], strict=True) if needed]
        if heads[0] is None or not wanted:
            return (None,) * (3 + len(given))
        check_differentiable(loss_of(ctx.expression), names(loss_of(ctx.expression), wanted))

        def flow(head: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            return tuple(recorded_gradients(ctx.expression, given, list(inputs), wanted, head))

        gradients = map_entries(flow, ctx.added, [heads[0], *inputs])
        found = {k: x.sum_to_size(inputs[given.index(k)].shape) for k, x in zip(wanted, gradients, strict=True)}
        return None, None, None, *[found.get(k) for k in given]

    @staticmethod
    @for_each_head
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        return push_entries(ctx, tangents[3:])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return in_one_call(Value, info, in_dims, *args)


def push_entries(ctx: Any, tangents: Sequence[Tensor | None]) -> Tensor:
    """push_forward() for each entry along the axes that vmap has added."""
    loss, given, inputs = loss_of(ctx.expression), ctx.given, list(ctx.saved_tensors)
    moved = [k for k, x in enumerate(tangents) if x is not None]

    def push(*tensors: Tensor) -> Tensor:
        found: list[Tensor | None] = [None for _ in given]
        for k, x in zip(moved, tensors[len(given) :], strict=True):
            found[k] = x
        return push_forward(loss, given, list(tensors[: len(given)]), found)

    return cast(Tensor, map_entries(push, ctx.added, [*inputs, *[x for x in tangents if x is not None]]))


def push_forward(loss: Loss, given: list[int], inputs: list[Tensor], tangents: Sequence[Tensor | None]) -> Tensor:
    """The derivative of the value along the tangents of the inputs."""
    moved = {k: (x, t) for k, x, t in zip(given, inputs, tangents, strict=True) if t is not None}
    check_differentiable(loss, names(loss, list(moved)))
    pred = inputs[0]
    axes = loss.value_axes(pred.ndim)
    if axes and not (loss.is_separable(pred.ndim) and all(x.shape == pred.shape for x, _ in moved.values())):
        raise NotImplementedError(
            f"the forward-mode derivative of {type(loss).__name__} in {', '.join(names(loss, list(moved)))} is not "
            "known: only those of inputs of the first one's shape are, or of values that are one number"
        )
    single = pred.dtype in (torch.float32, torch.float16)
    shape = [1] if axes is None else [pred.shape[k] for k in axes]
    head = torch.ones(shape, dtype=torch.float32 if single else torch.float64)
    gradients = recorded_gradients(loss.expression, given, inputs, list(moved), head)
    others = [k for k in range(pred.ndim) if k not in (axes or ())]
    total: Any = 0
    for (k, (_, tangent)), x in zip(moved.items(), gradients, strict=True):
        terms = sifted(loss, given, inputs, k, tangent) * x
        total = total + (terms.sum(others) if axes and others else terms if axes else terms.sum().reshape(shape))
    return cast(Tensor, total)


class Differentiable(torch.autograd.Function):
    """The operator with gradients that can be differentiated, where the second derivatives are known.

    torch.func needs this class, too: it does not take operators with a derivative.
    """

    @staticmethod
    def forward(expression: str, given: list[int], added: int, wrt: list[int], *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(evaluate(expression, given, list(inputs), wrt, added))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        expression, given, added, wrt, *tensors = inputs
        setup_context(ctx, (expression, given, tensors, wrt, added), output)
        ctx.save_for_forward(*tensors)
        ctx.has_gradients = len(output) > 1

    @staticmethod
    @for_each_head
    def backward(ctx: Any, *heads: Tensor | None) -> tuple[Any, ...]:
        loss, given, wrt = loss_of(ctx.expression), ctx.given, ctx.wrt
        find = flow_back_each if ctx.added else flow_back
        found = find(ctx, heads[0]) if heads[0] is not None else {}
        if any(x is not None for x in heads[1:]):
            wanted = [k for k, needed in zip(given, ctx.needs_input_grad[4:], strict=True) if needed]
            check_second_derivatives(loss, wrt, wanted)
            inputs = ctx.saved_tensors[: len(given)]
            curvature = cast(Any, Product).apply(ctx.expression, given, ctx.added, heads[1], None, *inputs)
            curvature = curvature.sum_to_size(inputs[0].shape)
            found[0] = found[0] + curvature if 0 in found else curvature
        return None, None, None, None, *[found.get(k) for k in given]

    @staticmethod
    @for_each_head
    def jvp(ctx: Any, *tangents: Tensor | None) -> Any:
        loss, given = loss_of(ctx.expression), ctx.given
        moved = [k for k, x in zip(given, tangents[4:], strict=True) if x is not None]
        value = push_entries(ctx, tangents[4:])
        if not ctx.has_gradients:
            return (value,)
        check_second_derivatives(loss, ctx.wrt, moved)
        return value, cast(Any, Product).apply(ctx.expression, given, ctx.added, tangents[4], None, *ctx.saved_tensors)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
        return in_one_call(Differentiable, info, in_dims, *args)


def operate(expression: str, given: list[int], inputs: list[Tensor], wrt: list[int]) -> list[Tensor]:
    """The operator, in the form that active transforms take."""
    is_half = inputs[0].dtype in HALVES
    wide = is_half and torch.is_autocast_enabled("cpu")
    if wide and (is_transformed() or is_forward()):
        inputs = [inputs[0].float(), *inputs[1:]]
    if wrt and (is_transformed() or is_forward()):
        return list(cast(Any, Differentiable).apply(expression, given, 0, wrt, *inputs))
    if is_transformed() or is_forward():
        return [cast(Any, Value).apply(expression, given, 0, *inputs)]
    # gradients of halves are computed for what flows back, or they would be rounded twice
    found: list[Tensor] = evaluate(expression, given, inputs, [] if is_half else wrt, 0, wide)
    return found


def is_forward() -> bool:
    """Whether tensors may have tangents."""
    return bool(forward_ad._current_level >= 0)


def is_transformed() -> bool:
    """Whether torch.func's innermost transform takes functions with a derivative."""
    return bool(transforms_active() and not is_functionalized())


def is_functionalized() -> bool:
    """Whether the innermost transform is the one that takes operators alone."""
    functorch = torch._C._functorch
    interpreter = functorch.peek_interpreter_stack()
    return bool(interpreter is not None and interpreter.key() == functorch.TransformType.Functionalize)


def in_front(x: Any, dim: Any) -> Any:
    """An argument with the axis that vmap maps over in front, of size 1 if it is not among its own."""
    if isinstance(x, list):
        return list(map(in_front, x, dim)) if isinstance(dim, list) else list(map(in_front, x, [dim] * len(x)))
    if not isinstance(x, Tensor):
        return x
    return x.unsqueeze(0) if dim is None else x.movedim(dim, 0)


def has_own_row_numbers(expression: str, given: list[int], dims: Sequence[Any]) -> bool:
    """Whether the weights of classes of a module differ between the entries: each is another loss then."""
    return given[-1] == len(loss_of(expression).inputs) and dims[-1] is not None


def in_one_call(function: Any, info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
    """Maps one of the functions below over a batch: its tensors get one more axis in front."""
    expression, given, added, *rest = args
    if has_own_row_numbers(expression, given, in_dims):
        return for_each(function.apply, info, in_dims, *args)
    found = function.apply(expression, given, added + 1, *map(in_front, rest, in_dims[3:]))
    return found, 0 if isinstance(found, Tensor) else (0,) * len(found)


def map_operator(op: Any, n: int, info: Any, in_dims: Any, *args: Any) -> tuple[Any, Any]:
    """Maps an operator over a batch, whose argument n counts the axes that vmap has added."""
    # the positions of the inputs, and these, come behind the expression, and a method if there is one
    at = 1 if isinstance(args[1], list) else 2
    if has_own_row_numbers(args[0], args[at], in_dims[at + 1]):
        return for_each(op, info, in_dims, *args)
    added = args[n] if len(args) > n else 0
    found = op(*map(in_front, args[:n], in_dims[:n]), added + 1)
    return found, 0 if isinstance(found, Tensor) else [0] * len(found)


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


for operator, count in ((evaluate, 4), (gradient, 5), (product, 6), (results, 6)):
    operator.register_vmap(functools.partial(map_operator, operator, count))


def tensor_like(x: Any, like: Any) -> Tensor:
    """A tensor as it is; anything else as a tensor, on meta if `like` is."""
    if isinstance(x, Tensor):
        return x
    tensor = torch.as_tensor(x)
    return tensor.to("meta") if like is not None and like.is_meta else tensor


def given_tensors(inputs: Sequence[Any]) -> tuple[list[int], list[Tensor]]:
    """The positions of the inputs that are there, and these."""
    given = [k for k, x in enumerate(inputs) if x is not None]
    like = next((x for x in inputs if isinstance(x, Tensor)), None)
    return given, [tensor_like(inputs[k], like) for k in given]


def located(loss: Loss, inputs: Sequence[Any], row_numbers: Tensor | None) -> tuple[list[int], list[Tensor]]:
    """The arguments of the operators: positions and tensors, all with memory or all on meta."""
    check_own(loss)
    rest = [None] * (len(loss.inputs) - len(inputs))
    given, tensors = given_tensors([*inputs, *rest, row_numbers])
    if any(x.is_meta for x in tensors):
        for name, x in zip(names(loss, given), tensors, strict=True):
            if not x.is_meta:
                k, other = next((k, y) for k, y in zip(given, tensors, strict=True) if y.is_meta)
                raise TypeError(
                    f"{names(loss, [k])[0]} must be a dense tensor on the CPU like {name}, or all inputs on meta, "
                    f"got {other.dtype} on {other.device}"
                )
    return given, tensors


def call(loss: Loss, inputs: Sequence[Any], row_numbers: Tensor | None = None) -> Tensor:
    """The value, through the operator."""
    given, tensors = located(loss, inputs, row_numbers)
    wrt = [k for k, x in zip(given, tensors, strict=True) if x.requires_grad] if torch.is_grad_enabled() else []
    check_differentiable(loss, names(loss, wrt))
    if not torch.compiler.is_compiling() and records_calls():
        # it compares what it records with and without gradients
        wrt = []
    return operate(loss.expression, given, tensors, wrt)[0]


def find_results(
    loss: Loss, method: str, given: Mapping[str, Any], options: dict[str, Any], row_numbers: Tensor | None
) -> Any:
    """What a method returns, through the operator; nothing flows back through it."""
    parts = PARTS[method]
    if "hessian" in parts and loss.no_hessian is not None:
        raise NotImplementedError(f"{type(loss).__name__} has no diagonal Hessian: {loss.no_hessian}")
    wrt, head = options.get("wrt"), options.get("head_grad")
    positions = [loss.inputs.index(name) for name in targets_of(loss, method, wrt, given)]
    places, tensors = located(loss, [given.get(name) for name in loss.inputs], row_numbers)
    tensors = [x.detach() for x in tensors]
    head = None if head is None else tensor_like(head, tensors[0]).detach()
    if head is not None and head.is_meta != tensors[0].is_meta:
        place = "on meta" if tensors[0].is_meta else "a dense tensor on the CPU"
        raise TypeError(
            f"head_grad must be {place} like {loss.inputs[0]}, got {head.dtype} on {head.device}{remedy(head)}"
        )
    if method == "hvp":
        vector = tensor_like(options["vector"], tensors[0]).detach()
        return product(loss.expression, spelled(method, options), places, tensors, vector, head)
    rest = iter(results(loss.expression, spelled(method, options), places, tensors, positions, head))
    packed: list[Any] = []
    for part in parts:
        many = part != "value" and isinstance(wrt, tuple)
        packed.append(tuple([next(rest) for _ in positions]) if many else next(rest))
    return tuple(packed) if len(parts) > 1 else packed[0]


def fill(out: Any, result: Any) -> Any:
    """Results in the caller's tensors, copied by operations that tracers see."""
    if out is None:
        return result
    if isinstance(result, tuple):
        if not isinstance(out, tuple) or len(out) != len(result):
            raise TypeError(f"out must be a tuple of {len(result)}, one tensor or None per result")
        return tuple([fill(x, y) for x, y in zip(out, result, strict=True)])
    if not isinstance(out, Tensor) or out.dtype not in REALS:
        raise TypeError("out must be a tensor of floats or None where a call is traced: use what it returns")
    if out.requires_grad:
        raise TypeError("out must not require a gradient")
    if not out.is_same_size(result):
        raise ValueError(f"out must have shape {tuple(result.shape)}, got {tuple(out.shape)}")
    return out.copy_(result)


def perform(
    loss: Loss, method: str, inputs: tuple[Any, ...], named: Mapping[str, Any], row_numbers: Tensor | None = None
) -> Any:
    """A call through the operators, or as a node of a graph if torch.fx's tracer passes stand-ins."""
    given, options = bind(loss, inputs, named)
    for x in (*given.values(), *options.values()):
        if isinstance(x, Proxy):
            return perform_later(x.tracer, loss, method, given | options, row_numbers)
    out = options.pop("out", None)
    if method != "__call__":
        return fill(out, find_results(loss, method, given, options, row_numbers))
    if out is not None and torch.is_grad_enabled():
        for name, x in given.items():
            if isinstance(x, Tensor) and x.requires_grad:
                raise TypeError(f"out cannot be differentiated, and {name} requires a gradient")
    return fill(out, call(loss, [given.get(name) for name in loss.inputs], row_numbers))


def perform_later(tracer: Any, loss: Loss, method: str, named: Mapping[str, Any], row_numbers: Tensor | None) -> Any:
    """A call as a node of a graph: only its run shows the inputs, and which of them are None."""
    check_own(loss)
    kwargs = {name: torch.as_tensor(x) if isinstance(x, (list, np.ndarray)) else x for name, x in named.items()}
    found = tracer.create_proxy("call_function", fastloss_call, (loss.expression, method, row_numbers), kwargs)
    packed: list[Any] = []
    for k, part in enumerate(PARTS[method]):
        x = found[k] if len(PARTS[method]) > 1 else found
        wrt = named.get("wrt") if part != "value" else None
        packed.append(tuple([x[i] for i in range(len(wrt))]) if isinstance(wrt, tuple) else x)
    return tuple(packed) if len(packed) > 1 else packed[0]


def fastloss_call(expression: str, method: str, row_numbers: Tensor | None, **named: Any) -> Any:
    """The call that such a node makes."""
    loss = loss_of(expression)
    if row_numbers is None:
        return getattr(loss, method)(**named)
    return perform(loss, method, (), named, row_numbers)


def traced(self: Loss, *inputs: Any, **named: Any) -> Tensor:
    """The code of a call that the compiler traces."""
    given, options = bind(self, inputs, named)
    if any(x is not None for x in options.values()):
        raise TypeError("a compiled call takes only the loss's inputs")
    return call(self, [given.get(name) for name in self.inputs])


@functools.cache
def teach_compiler() -> None:
    """Lets PyTorch's compiler trace the call of a loss."""
    torch.compiler.substitute_in_graph(Loss.__call__, skip_signature_check=True)(traced)
    # Behind a graph break it would compile these functions, and take their arrays for tensors.
    for function in (as_array, as_tensor, as_value, is_traced):
        torch._dynamo.decorators.skip(function)
    # imports this module
    from fastloss.backends import torch_linear

    torch_linear.teach_compiler()
