"""HIPS autograd: the loss of boxed arrays is a box. The gradient is a primitive, too, with derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import autograd.numpy as np
from autograd.extend import defvjp_argnums, primitive
from autograd.numpy.numpy_boxes import ArrayBox
from autograd.tracer import Box, getval

from fastloss._core import Loss
from fastloss.backends import bind, compose
from fastloss.backends.layout import left_out
from fastloss.linear import LinearLoss

ARRAYS = (Box,)


def evaluate(loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    given, options = bind(loss, inputs, named)
    for name, x in (given | options).items():
        if isinstance(x, Box) and not isinstance(x, ArrayBox):
            raise TypeError(f"{name} must be an array for autograd to differentiate, got {type(x._value).__name__}")
    if options.pop("out", None) is not None:
        raise TypeError("out must be None in a call that autograd differentiates: the call must not overwrite arrays")
    if method.endswith("hess"):
        raise TypeError(
            f"{method} cannot be differentiated by autograd; give it plain arrays (autograd.tracer.getval), or "
            "differentiate grad"
        )
    if method == "hvp":
        head = options.get("head_grad")
        arrays = [given.get(name) for name in loss.inputs]
        return product(loss, 1.0 if head is None else head, options["vector"], *arrays)
    has_grad = method != "__call__"
    head = options.pop("head_grad", None) if has_grad else None
    wrt = options.pop("wrt", None) if has_grad else None

    arrays = [given.get(name) for name in loss.inputs]
    if not has_grad:
        return value(loss, *arrays)

    def gradient_in(name: str) -> Any:
        return gradient(loss, name, 1.0 if head is None else head, *arrays)

    if isinstance(wrt, tuple):
        gradients: Any = tuple([gradient_in(name) for name in wrt])
    else:
        gradients = gradient_in(loss.inputs[0] if wrt is None else wrt)
    return gradients if method == "grad" else (value(loss, *arrays), gradients)


def evaluate_linear(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    return compose(linear, method, given, options, "autograd")


def as_numpy(name: str, x: Any) -> Any:
    return getval(x)


def evaluate_value(loss: Loss, *inputs: Any) -> Any:
    # methods of Loss itself: a subclass's override may be the caller
    return Loss.__call__(loss, *inputs)


def evaluate_gradient(loss: Loss, name: str, head: Any, *inputs: Any) -> Any:
    return Loss.grad(loss, *inputs, wrt=name, head_grad=head)


def evaluate_product(loss: Loss, head: Any, vector: Any, *inputs: Any) -> Any:
    return Loss.hvp(loss, *inputs, vector=vector, head_grad=head)


value = primitive(evaluate_value)
gradient = primitive(evaluate_gradient)
# the Hessian in the first input times a vector
product = primitive(evaluate_product)

Flow = Callable[[Any], Iterable[Any]]


def value_flow(argnums: tuple[int, ...], ans: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow:
    loss, *inputs = args
    names = tuple([loss.inputs[k - 1] for k in argnums])
    # Boxes among the inputs bring the call back to this module: then the gradient has derivatives.
    return lambda g: Loss.grad(loss, *inputs, wrt=names, head_grad=g)


def gradient_flow(argnums: tuple[int, ...], ans: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow:
    loss, name, head, *inputs = args
    return lambda t: [
        to_head(loss, name, head, inputs, t) if k == 2 else to_input(loss, name, head, inputs, loss.inputs[k - 3], t)
        for k in argnums
    ]


def to_head(loss: Loss, name: str, head: Any, inputs: list[Any], t: Any) -> Any:
    """The flow from a gradient, which is linear in its head, into the head."""
    terms = sifted(loss, inputs, name, t) * Loss.grad(loss, *inputs, wrt=name)
    if np.size(head) == 1:
        return np.reshape(np.sum(terms), np.shape(head))
    ndim = np.ndim(inputs[0])
    if name != loss.inputs[0] or not loss.is_separable(ndim):
        raise NotImplementedError(
            f"fastloss has no derivative in head_grad of the gradient of {type(loss).__name__} in {name}: only for the "
            f"gradient in {loss.inputs[0]} where each value has its own part of that, and for reductions to one number"
        )
    axes = loss.value_axes(ndim) or ()
    return np.sum(terms, axis=tuple([k for k in range(ndim) if k not in axes]))


def to_input(loss: Loss, name: str, head: Any, inputs: list[Any], other: str, t: Any) -> Any:
    """The flow from a gradient into an input, through the second derivatives."""
    if not name == other == loss.inputs[0]:
        raise NotImplementedError(
            f"fastloss has no second derivatives of {type(loss).__name__} in {name} and {other}: only those in the "
            "first input alone"
        )
    return product(loss, head, t, *inputs)


def sifted(loss: Loss, inputs: list[Any], name: str, flow: Any) -> Any:
    """The flow into an input, set to 0 where the call leaves the input out: infinity times 0 would be NaN."""
    given = {known: np.asarray(getval(x)) for known, x in zip(loss.inputs, inputs, strict=False) if x is not None}
    mask = left_out(loss, given, name)
    return flow if mask is None else np.where(mask, 0.0, flow)


def product_flow(argnums: tuple[int, ...], ans: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Flow:
    loss, head, _, *inputs = args

    def flow(t: Any) -> Iterable[Any]:
        if argnums != (2,):
            raise NotImplementedError(f"fastloss has no third derivatives of {type(loss).__name__}")
        # the Hessian is symmetric
        return [product(loss, head, t, *inputs)]

    return flow


defvjp_argnums(value, value_flow)
defvjp_argnums(gradient, gradient_flow)
defvjp_argnums(product, product_flow)
