"""PyTorch's tensors in place of arrays, and the modules."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastloss as fl
from tests.hostile import VALUES
from tests.judge import Failure, parts, refusal, same_bits
from tests.matrix.base import (
    Case,
    Plain,
    plains,
    refused_as,
)
from tests.matrix.callables import LOSSES, Parameter, parameters_of, takes


def tensors() -> Iterator[Case]:
    """PyTorch's tensors of every dtype and layout in the place of each input, and the modules' constructors."""
    if find_spec("torch") is None:
        return
    for plain in plains(6, reductions=("example", "mean")):
        for name in (*plain.inputs, "head_grad"):
            for kind in (*TENSORS, *NO_TENSORS):
                run = functools.partial(with_tensor, plain, name, kind)
                yield Case((plain, name, "as", kind, "tensor"), run)
        for kind in OUT_TENSORS:
            yield Case((plain, "into", kind, "tensor"), functools.partial(into_tensor, plain, kind))
    for loss in LOSSES:
        for (name, parameter), value in itertools.product(parameters_of(loss).items(), VALUES):
            run = functools.partial(module_built, loss, name, parameter, value)
            yield Case(("torch.", loss.__name__, name, "=", value), run)


def spread_tensor(t: Any) -> Any:
    """Elements far apart, axes the other way round."""
    import torch

    wide = torch.zeros((*t.shape[::-1], 3), dtype=t.dtype)[..., 1].permute(tuple(range(t.ndim))[::-1])
    wide.copy_(t)
    return wide


def negated_view(t: Any) -> Any:
    """A view whose numbers are those in memory with the other sign."""
    import torch

    return torch.complex(torch.zeros_like(t), -t).conj().imag


TENSORS: dict[str, Callable[[Any], Any]] = {
    "contiguous": lambda t: t,
    "spread": spread_tensor,
    "expanded": lambda t: t.expand(t.shape),
    "negated": lambda t: negated_view(t) if t.is_floating_point() else t,
    "detached": lambda t: t.requires_grad_().detach() if t.is_floating_point() else t,
    "shared": lambda t: t.clone().share_memory_(),
    "int64": lambda t: t.long() if not t.is_floating_point() else t,
    "int8": lambda t: t.char() if not t.is_floating_point() else t,
}
NO_TENSORS: dict[str, Callable[[Any], Any]] = {
    "complex": lambda t: t.cfloat(),
    "conjugate": lambda t: t.cfloat().conj(),
    "meta": lambda t: t.to("meta"),
    "sparse": lambda t: t.to_sparse(),
    "float8": lambda t: t.to(__import__("torch").float8_e4m3fn),
}
OUT_TENSORS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "contiguous": (lambda t: t, True),
    "spread": (spread_tensor, True),
    "negated": (negated_view, False),
    "float8": (lambda t: t.to(__import__("torch").float8_e4m3fn), False),
    "meta": (lambda t: t.to("meta"), False),
    "expanded": (lambda t: t.new_zeros(()).expand(t.shape), False),
    "that requires a gradient": (lambda t: t.requires_grad_(), False),
}


def with_tensor(plain: Plain, name: str, kind: str) -> str:
    import torch

    method = "value_and_grad"
    inputs = {k: torch.from_numpy(a) for k, a in plain.inputs.items()}
    head = torch.from_numpy(np.asarray(plain.head))
    source = inputs if name in inputs else {name: head}
    source[name] = (TENSORS | NO_TENSORS)[kind](source[name].clone())
    options = {"wrt": plain.wrt, "head_grad": source.get("head_grad", head)}
    call = functools.partial(plain.method(method), **inputs, **options)
    if kind in NO_TENSORS:
        return refusal(call, [TypeError], name)
    for x, y in zip(parts(call()), plain.results(method), strict=True):
        # a total of arrays is a float
        if not same_bits(x.numpy(), y.astype(x.numpy().dtype)):
            raise Failure(f"{x!r} is not, to the last bit, {y!r}")
    return "equal"


def into_tensor(plain: Plain, kind: str) -> str:
    import torch

    inputs = {k: torch.from_numpy(a) for k, a in plain.inputs.items()}
    want = plain.loss.grad(**plain.inputs)
    make, good = OUT_TENSORS[kind]
    out = make(torch.full(want.shape, 7, dtype=inputs[plain.s.names[0]].dtype))
    call = functools.partial(plain.loss.grad, **inputs, out=out)
    # without numbers there is nothing that could lie wrong, and one alone is in nobody's way
    if not good and want.size >= {"negated": 1, "expanded": 2}.get(kind, 0):
        return refusal(call, [TypeError, ValueError], "out")
    if call() is not out or not same_bits(out.resolve_neg().numpy(), want):
        raise Failure(f"{out!r} is not {want!r}")
    return "equal"


def module_built(loss: type[fl.Loss], name: str, parameter: Parameter, value: str) -> str:
    """A module takes and refuses what its loss does."""
    modules = importlib.import_module("fastloss.torch")
    x = VALUES[value].make()
    call = functools.partial(getattr(modules, loss.__name__), **{name: x})
    if not takes(parameter, VALUES[value], x):
        return refusal(call, *refused_as(VALUES[value], name))
    if call().loss.arguments != loss(**{name: x}).arguments and VALUES[value].lasting:
        raise Failure("the module has another loss")
    return "equal"
