"""The caller's buffers: of every layout, over the inputs, in part over them, over themselves."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tests import hostile
from tests.hostile import OwnError
from tests.judge import Failure, equality, parts, refusal, same_bits
from tests.matrix.base import Case, Plain, methods_of, plains
from tests.matrix.layouts import ARRANGED, FOREIGN, inside, steps
from tests.specimens import METHODS, Array, Shape
from tests.test_inputs import LAYOUTS

BUFFERS: dict[str, Callable[[Array], Any]] = {
    "contiguous": np.empty_like,
    "fortran": lambda a: np.full(a.shape, 7, a.dtype, order="F"),
    "strided": lambda a: np.full((*a.shape, 3), 7, a.dtype)[..., 1],
    "reversed": lambda a: np.asarray(np.flip(np.full(a.shape, 7, a.dtype))) if a.ndim else np.full((), 7, a.dtype),
    "unaligned": lambda a: np.asarray(LAYOUTS["unaligned"](np.full(a.shape, 7, a.dtype))),
    "unaligned strided": lambda a: inside(np.full(a.shape, 7, a.dtype), offset=1, step=2),
    "axes rolled": lambda a: np.asarray(ARRANGED["axes rolled"](np.full(a.shape, 7, a.dtype))),
    "recarray": lambda a: np.full(a.shape, 7, a.dtype).view(np.recarray),
    "memmap": lambda a: np.full(a.shape, 7, a.dtype).view(np.memmap),
    "Careful": lambda a: np.full(a.shape, 7, a.dtype).view(hostile.Careful),
    "NoUfuncs": lambda a: np.full(a.shape, 7, a.dtype).view(hostile.NoUfuncs),
    "Lying": lambda a: np.full(a.shape, 7, a.dtype).view(hostile.Lying),
}


def plain_view(a: Any) -> Any:
    """The array that a subclass is, whatever it says."""
    return a.view(np.ndarray) if isinstance(a, np.ndarray) else a


def buffers() -> Iterator[Case]:
    """Results in the caller's buffers of every layout, all of them and one alone."""
    for i, plain in enumerate(plains(3)):
        methods = methods_of(plain.s)
        for j, layout in enumerate(BUFFERS):
            method = methods[(i + j) % len(methods)]
            yield Case((plain, method, "into", layout), functools.partial(into, plain, method, layout, None))
        for layout in ("fortran", "unaligned strided", "reversed"):
            for k in range(1 + len(plain.s.inputs)):
                run = functools.partial(into, plain, "value_and_grad", layout, k)
                yield Case((plain, "result", k, "into", layout), run)


def into(plain: Plain, method: str, layout: str, only: int | None) -> str:
    want = plain.results(method)
    flat = [BUFFERS[layout](a) if only is None or k == only else None for k, a in enumerate(want)]
    options = plain.options(method) | {"out": plain.nested(flat, method)}
    results = parts(plain.method(method)(**plain.inputs, **options))
    for x, y, buffer in zip(results, want, flat, strict=True):
        if buffer is not None and x is not buffer:
            raise Failure("a result is not the caller's buffer")
        if not same_bits(plain_view(x), y):
            raise Failure(f"{plain_view(x)!r} is not, to the last bit, {y!r}")
    return "equal"


def over_inputs() -> Iterator[Case]:
    """A gradient exactly over its input or another, in every layout: the same bits."""
    for plain in plains(3, reductions=("none", "weighted_mean")):
        for target, layout in itertools.product(plain.s.names, ("contiguous", "fortran", "strided", "reversed")):
            for wrt in plain.s.names:
                run = functools.partial(over, plain, wrt, target, layout)
                yield Case((plain, "gradient of", wrt, "over", target, layout), run)


def over(plain: Plain, wrt: str, target: str, layout: str) -> str:
    if wrt not in plain.wrt:
        return refusal(lambda: plain.loss.grad(**plain.inputs, wrt=wrt), [ValueError], "wrt")
    want = [np.array(x) for x in parts(plain.loss.grad(**plain.inputs, wrt=wrt))]
    inputs = dict(plain.inputs)
    buffer = BUFFERS[layout](inputs[target])
    buffer[...] = inputs[target]
    inputs[target] = buffer
    call = functools.partial(plain.loss.grad, **inputs, wrt=wrt, out=buffer)
    if buffer.shape != want[0].shape or buffer.dtype != want[0].dtype:
        return refusal(call, [ValueError, TypeError], "out", list(inputs.values()))
    if wrt in plain.s.free and buffer.size and buffer.size != np.prod(plain.place.shape):
        # a sum over examples is written before all of them are read
        return refusal(call, [ValueError], "shares memory", list(inputs.values()))
    return equality(call, want, [a for k, a in inputs.items() if k != target], [buffer])


def bad_buffers() -> Iterator[Case]:
    """Buffers that must be refused, each in the place of each result, which none of the others may feel."""
    for plain in plains(7, ("f8",), ("example",)):
        for method in methods_of(plain.s):
            for kind in BAD_BUFFERS:
                for k in range(len(plain.wrt) + 1 if method in ("grad", "value_and_grad") else len(METHODS[method])):
                    run = functools.partial(into_bad, plain, method, kind, k)
                    yield Case((plain, method, "result", k, "into", kind), run)


def read_only(a: Array) -> Array:
    b = np.full(a.shape, 7, a.dtype)
    b.flags.writeable = False
    return b


DTYPES = ["i8", "?", *FOREIGN]
BAD_BUFFERS: dict[str, Callable[[Array], Any]] = {
    **{f"dtype {d}": functools.partial(lambda d, a: np.zeros(a.shape, d), d) for d in DTYPES},
    "foreign byte order": lambda a: np.full(a.shape, 7, a.dtype.newbyteorder()),
    "another axis": lambda a: np.full((*a.shape, 1), 7, a.dtype),
    "one axis in front": lambda a: np.full((1, *a.shape), 7, a.dtype),
    "too large": lambda a: np.full([n + 1 for n in a.shape] or [1], 7, a.dtype),
    "too small": lambda a: np.full([n - 1 for n in a.shape] if a.size and a.ndim else [1] * (a.ndim + 1), 7, a.dtype),
    "flat": lambda a: np.full(a.size, 7, a.dtype) if a.ndim != 1 else np.full((1, a.size), 7, a.dtype),
    "read-only": read_only,
    "broadcast": lambda a: np.broadcast_to(np.full((), 7, a.dtype), a.shape),
    "masked": lambda a: np.ma.masked_array(np.full(a.shape, 7, a.dtype)),
    "list": lambda a: np.full(a.shape, 7, a.dtype).tolist() if a.ndim else [7.0],
    "scalar": lambda a: a.dtype.type(7),
    "number": lambda a: 7.0,
    "text": lambda a: "out",
    "dict": lambda a: {},
    "iterator": lambda a: iter(()),
    "memoryview": lambda a: memoryview(np.full(a.shape, 7, a.dtype)),
    "tuple": lambda a: (None,) * 7,
    "__array__": lambda a: hostile.Converts(np.full(a.shape, 7, a.dtype)),
    "raising": lambda a: hostile.Raising(OwnError),
}


def into_bad(plain: Plain, method: str, kind: str, k: int) -> str:
    want = plain.results(method)
    if k >= len(want):
        k = len(want) - 1
    flat: list[Any] = [np.full(a.shape, 7, a.dtype) for a in want]
    flat[k] = BAD_BUFFERS[kind](want[k])
    options = plain.options(method) | {"out": plain.nested(flat, method)}
    untouched = [x for x in (*plain.inputs.values(), *flat) if isinstance(x, np.ndarray)]
    return refusal(lambda: plain.method(method)(**plain.inputs, **options), [TypeError, ValueError], "out", untouched)


def overlaps() -> Iterator[Case]:
    """Buffers over memory of an input or of each other in part: refused, or the right result."""
    for plain in plains(3, ("f4",), ("example", "none", "mean")):
        for kind, method in itertools.product(OVERLAPS, methods_of(plain.s)):
            for name in plain.inputs:
                yield Case((plain, method, kind, name), functools.partial(overlapping, plain, method, kind, name))


def shifted(a: Array, shape: Shape, dtype: Any, items: int) -> tuple[Array, Array]:
    """A copy of a, and a buffer that begins so many of its elements further on or back."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    offset = items * np.dtype(dtype).itemsize
    memory = np.full(a.nbytes + size + 3 * abs(offset) + 64, 7, np.uint8)
    start = max(-offset, 0)
    copied = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copied[...] = a
    return copied, memory[start + offset : start + offset + size].view(dtype).reshape(shape)


def mirrored(a: Array, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    copied, buffer = shifted(a, shape, dtype, 0)
    return copied, np.flip(buffer) if buffer.ndim else buffer


def transposed(a: Array, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    copied, buffer = shifted(a, shape[::-1], dtype, 0)
    return copied, buffer.T


def thinned(a: Array, shape: Shape, dtype: Any) -> tuple[Array, Array]:
    """A buffer in every other place of the memory that the copy fills."""
    copied, buffer = shifted(a, (*shape, 2), dtype, 0)
    return copied, buffer[..., 0]


OVERLAPS: dict[str, Callable[[Array, Shape, Any], tuple[Array, Array]]] = {
    "over": lambda a, shape, dtype: shifted(a, shape, dtype, 0),
    "one on from": lambda a, shape, dtype: shifted(a, shape, dtype, 1),
    "one back from": lambda a, shape, dtype: shifted(a, shape, dtype, -1),
    "mirrored over": mirrored,
    "transposed over": transposed,
    "every other place of": thinned,
}


def overlapping(plain: Plain, method: str, kind: str, name: str) -> str:
    """The last result over an input. Either it is right, with the other inputs as they were, or nothing has changed."""
    want = plain.results(method)
    inputs = dict(plain.inputs)
    inputs[name], buffer = OVERLAPS[kind](inputs[name], want[-1].shape, want[-1].dtype)
    flat: list[Any] = [None] * (len(want) - 1) + [buffer]
    options = plain.options(method) | {"out": plain.nested(flat, method)}
    others = [a for k, a in inputs.items() if k != name]
    before = [a.tobytes() for a in (*others, inputs[name], buffer)]
    try:
        results = parts(plain.method(method)(**inputs, **options))
    except ValueError as error:
        if "share" not in str(error) or "out for" not in str(error):
            raise
        if [a.tobytes() for a in (*others, inputs[name], buffer)] != before:
            raise Failure("refused, but something has changed") from error
        if not np.shares_memory(inputs[name], buffer):
            raise Failure("refused, but nothing is shared") from error
        return "ValueError"
    if [a.tobytes() for a in others] != before[: len(others)]:
        raise Failure("another input has changed")
    if not all(map(same_bits, results, want)):
        raise Failure(f"{results!r} are not, to the last bit, {want!r}")
    return "equal"


def crowded() -> Iterator[Case]:
    """Buffers whose elements share memory, with each other or with another buffer's: refused."""
    for plain in plains(3, reductions=("example", "none", "sum")):
        for method in methods_of(plain.s):
            for kind in CROWDED:
                yield Case((plain, method, "into", kind), functools.partial(into_crowded, plain, method, kind))


CROWDED: dict[str, Callable[[Array], Any]] = {
    "one element": lambda a: as_strided(np.full(a.size, 7, a.dtype), a.shape, [0] * a.ndim),
    "one row": lambda a: as_strided(np.full(a.size, 7, a.dtype), a.shape, [0, *steps(a)[1:]][: a.ndim]),
    "neighbours": lambda a: as_strided(np.full(a.size + 1, 7, a.dtype), a.shape, [a.itemsize] * a.ndim),
    "half elements": lambda a: as_strided(np.full(a.size, 7, a.dtype), a.shape, [a.itemsize // 2] * a.ndim),
    "back and forth": lambda a: as_strided(
        np.full(2 * a.size, 7, a.dtype)[a.size :], a.shape, [(-1) ** k * a.itemsize for k in range(a.ndim)]
    ),
}


def into_crowded(plain: Plain, method: str, kind: str) -> str:
    want = plain.results(method)
    k = max(range(len(want)), key=lambda k: want[k].size)
    flat: list[Any] = [np.full(a.shape, 7, a.dtype) for a in want]
    flat[k] = CROWDED[kind](want[k])
    options = plain.options(method) | {"out": plain.nested(flat, method)}
    call = functools.partial(plain.method(method), **plain.inputs, **options)
    # numbers of their own, and where they come to lie
    flat[k][...] = np.arange(want[k].size).reshape(want[k].shape)
    if want[k].size > 1 and (len(np.unique(flat[k])) < want[k].size or kind == "half elements"):
        return refusal(call, [ValueError], "out for", [*plain.inputs.values(), *flat])
    return equality(call, want, list(plain.inputs.values()), flat)
