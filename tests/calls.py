"""Every method of every loss, called in every way that takes its own path to memory: for tests of faults and leaks."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from tests.reference import LOSSES, Reference, draw
from tests.structured import STRUCTURED, Structured

Array = NDArray[Any]
Entry = Reference | Structured
ENTRIES: dict[str, Entry] = {**LOSSES, **STRUCTURED}
UNTOUCHED = -12345.5


@dataclass(frozen=True)
class Call:
    """A call, the buffers that it may write to, and the exception that it should raise. No Python function is in it."""

    name: str
    make: partial[Any]
    out: tuple[Array, ...] = ()
    error: type[Exception] | None = None

    def spoil(self) -> None:
        for a in self.out:
            a[...] = UNTOUCHED

    @property
    def is_untouched(self) -> bool:
        return all((a == UNTOUCHED).all() for a in self.out)


def settle() -> None:
    """Frees what Python keeps: garbage, freed memory, names that it has looked up."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        getattr(sys, "_clear_type_cache", gc.collect)()
    gc.collect()
    # without its lock Python gives some of it back in the next one
    gc.collect()


def inputs_of(entry: Entry, rng: np.random.Generator, n: int, dtype: Any = np.float32) -> dict[str, Array]:
    """Inputs for n examples by name, in the order of the call, with a weight for each."""
    loss = entry.build()
    if isinstance(entry, Reference):
        drawn = draw(entry, rng, (n, 3), dtype)
    else:
        drawn = tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in entry.data(rng, n))
    inputs = dict(zip(entry.names, drawn, strict=False)) | {"sample_weight": rng.uniform(0.5, 2, n).astype(dtype)}
    return {name: inputs[name] for name in loss.inputs if name in inputs}


def methods_of(loss: fl.Loss) -> list[str]:
    names = ["__call__", "grad", "value_and_grad"]
    return names if loss.no_hessian else [*names, "grad_and_hess", "value_grad_and_hess"]


def buffers(result: Any) -> Any:
    """New arrays in the structure of a result."""
    return tuple(map(buffers, result)) if isinstance(result, tuple) else np.empty_like(result)


def flat(result: Any) -> tuple[Array, ...]:
    return sum(map(flat, result), ()) if isinstance(result, tuple) else (np.asarray(result),)


def strided(a: Array) -> Array:
    """The same numbers, each followed by another."""
    return np.repeat(a[..., None], 2, axis=-1)[..., 0] if a.ndim else a


def good_calls(entry: Entry, rng: np.random.Generator, n: int) -> Iterator[Call]:
    """The methods, plainly and with all that is optional; the caller's results, lists, arrays that are copied."""
    inputs = inputs_of(entry, rng, n)
    plain = {name: a for name, a in inputs.items() if name != "sample_weight"}
    for name in methods_of(entry.build()):
        yield Call(f"{name} of the mean", partial(getattr(entry.build(reduction="mean"), name), **plain))
        method = getattr(entry.build(), name)
        out = buffers(method(**inputs))
        yield Call(f"{name} with out", partial(method, **inputs, out=out), flat(out))
    for reduction in ("example", "none", "weighted_mean"):
        loss = entry.build(reduction=reduction)
        wrt = tuple(name for name in loss.differentiable if name in inputs)
        head = np.ones_like(loss(**inputs))
        yield Call(f"all gradients, {reduction}", partial(loss.value_and_grad, **inputs, wrt=wrt, head_grad=head))
    loss = entry.build()
    if loss.no_product is None:
        yield Call("hvp", partial(loss.hvp, **inputs, vector=inputs[loss.inputs[0]]))
    loss = entry.build(reduction="sum")
    apart = {name: strided(a) for name, a in inputs.items()}
    wrt = loss.inputs[0], "sample_weight"
    out = tuple(strided(inputs[name]) for name in wrt)
    yield Call("arrays that are copied", partial(loss.grad, **apart, wrt=wrt, out=out), out)
    if n < 100:
        yield Call("lists", partial(loss.value_and_grad, **{name: a.tolist() for name, a in inputs.items()}))


def bad_calls(entry: Entry, rng: np.random.Generator, n: int) -> Iterator[Call]:
    """One of every kind of error: arguments, types, shapes, numbers, results."""
    loss = entry.build()
    inputs = inputs_of(entry, rng, n, np.float64)
    first, second = loss.inputs[:2]
    pred, label = inputs[first], inputs[second]
    out = np.empty_like(loss(**inputs))
    over = strided(pred)
    wrong: list[tuple[str, type[Exception], Callable[..., Any], dict[str, Any]]] = [
        ("no label", TypeError, loss, {first: pred}),
        ("unknown", TypeError, loss, inputs | {"weights": 1}),
        ("complex", TypeError, loss, inputs | {first: pred + 1j}),
        ("objects", TypeError, loss, inputs | {first: pred.astype(object)}),
        ("shape", ValueError, loss, inputs | {second: label[1:]}),
        ("weight shape", ValueError, loss, inputs | {"sample_weight": np.ones(n + 1)}),
        ("wrt", ValueError, loss.grad, inputs | {"wrt": "nothing"}),
        ("head shape", ValueError, loss.grad, inputs | {"head_grad": np.ones(n + 1)}),
        ("out shape", ValueError, loss, inputs | {"out": out[1:]}),
        ("out dtype", TypeError, loss, inputs | {"out": np.zeros(out.shape, int)}),
        ("out of two", TypeError, loss.value_and_grad, inputs | {"out": out}),
        ("out over an input", ValueError, loss.grad, inputs | {first: over, "out": over[..., ::-1]}),
        ("reduction", ValueError, type(loss), entry.parameters | {"reduction": "none of these"}),
        ("weight", TypeError, type(loss), entry.parameters | {"weight": "2"}),
    ]
    if loss.no_product:
        wrong.append(("product", NotImplementedError, loss.hvp, inputs | {"vector": pred}))
    if loss.no_hessian:
        wrong.append(("Hessian", NotImplementedError, loss.grad_and_hess, inputs))
    for spec in loss.specs:
        if spec.integers is not None:
            highest = pred.shape[-1] - 1 if spec.integers.high is None else spec.integers.high
            wrong.append(
                (spec.name, ValueError, loss, inputs | {spec.name: np.full_like(inputs[spec.name], highest + 1)})
            )
    if loss.specs[1].lies == "own":
        wrong.append(("class id", ValueError, loss, inputs | {second: label + pred.shape[-1]}))
    if "pred_lengths" in inputs:
        wrong.append(("length", ValueError, loss, inputs | {"pred_lengths": np.full(n, pred.shape[1] + 1)}))
    for name, error, make, arguments in wrong:
        yield Call(name, partial(make, **arguments), (out,) if name in ("out shape", "out of two") else (), error)
    yield Call("too many", partial(loss, *[pred] * 9), (), TypeError)
    yield Call("twice", partial(loss, pred, **{first: pred}), (), TypeError)
