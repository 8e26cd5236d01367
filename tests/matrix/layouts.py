"""Arrays that differ in layout and dtype alone, and numbers that are none."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tests.judge import Failure, equality, parts, refusal, same_bits
from tests.matrix.base import Case, Plain, methods_of, plains
from tests.specimens import LONG_DOUBLE, METHODS, Array, as_dtype, as_ids
from tests.structured import blank_among
from tests.test_inputs import LAYOUTS, REAL

ARRANGED: dict[str, Callable[[Array], Any]] = LAYOUTS | {
    "unaligned byte-swapped": lambda a: LAYOUTS["unaligned"](a.astype(a.dtype.newbyteorder())),
    "unaligned strided": lambda a: inside(a, offset=1, step=2),
    "read-only reversed": lambda a: LAYOUTS["all axes reversed"](LAYOUTS["read-only"](a)),
    "byte-swapped fortran": lambda a: np.asarray(a.astype(a.dtype.newbyteorder()), order="F"),
    "rows reversed": lambda a: np.flip(a, -1).copy()[..., ::-1] if a.ndim else a,
    "axes rolled": lambda a: np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0) if a.ndim else a,
}


def inside(a: Array, *, offset: int, step: int) -> Array:
    """A copy in every so-manieth place of a larger array that begins so many bytes off."""
    memory = np.zeros(a.size * step * a.itemsize + offset + 64, np.uint8)
    flat = memory[offset : offset + a.size * step * a.itemsize].view(a.dtype)
    laid = flat[::step].reshape(a.shape) if a.ndim < 2 else as_strided(flat, a.shape, [step * n for n in steps(a)])
    laid[...] = a
    return laid


def steps(a: Array) -> list[int]:
    """The strides of a contiguous array of a's shape, in bytes."""
    return [a.itemsize * int(np.prod(a.shape[k + 1 :])) for k in range(a.ndim)]


def layouts() -> Iterator[Case]:
    """Each input by itself and all of them in each order, alignment, byte order and direction: the same bits."""
    for k, plain in enumerate(plains()):
        methods = methods_of(plain.s)
        for method in methods:
            yield Case((plain, method), functools.partial(laid_out, plain, method, (), "contiguous"))
        for i, layout in enumerate(ARRANGED):
            # the methods take turns, so that each meets every layout
            method = methods[(i + k) % len(methods)]
            yield Case((plain, method, layout), functools.partial(laid_out, plain, method, None, layout))
        for name in plain.s.inputs:
            layout = list(ARRANGED)[k % len(ARRANGED)]
            run = functools.partial(laid_out, plain, methods[k % len(methods)], (name,), layout)
            yield Case((plain, name, layout), run)


def laid_out(plain: Plain, method: str, names: tuple[str, ...] | None, layout: str) -> str:
    want = plain.results(method)
    change = ARRANGED[layout]
    inputs = {k: change(a) if names is None or k in names else a for k, a in plain.inputs.items()}
    options = plain.options(method)
    if names is None and "head_grad" in options:
        options["head_grad"] = np.asarray(change(plain.head))
    return equality(lambda: plain.method(method)(**inputs, **options), want, list(inputs.values()))


FOREIGN = ["c8", "c16", "G", "S3", "U3", "O", "M8[ns]", "m8[D]", "V5", "i4,f4"]
EVERY_DTYPE = [*REAL, *map(np.dtype, FOREIGN), np.dtypes.StringDType()]


def dtypes() -> Iterator[Case]:
    """Each input in each dtype and byte order: read as it is, or refused."""
    for plain in plains(6, reductions=("example", "weighted_mean")):
        for name in (*plain.inputs, "head_grad"):
            for dtype, swapped in itertools.product(EVERY_DTYPE, (False, True)):
                if swapped and (dtype.itemsize == 1 or dtype.kind in "OSVT"):
                    continue
                given = dtype.newbyteorder() if swapped else dtype
                yield Case((plain, name, given), functools.partial(in_dtype, plain, name, given))


def in_dtype(plain: Plain, name: str, dtype: Any) -> str:
    method = "value_and_grad"
    inputs: dict[str, Any] = dict(plain.inputs)
    options = plain.options(method)
    source = inputs if name in inputs else options
    first = plain.s.names[0]
    a = source[name]
    real = dtype.kind in "fiub"
    if not real:
        source[name] = np.zeros(a.shape, dtype)
    elif name in plain.s.ids:
        # without classes, the only good id is the one that is ignored, which not every dtype holds
        source[name] = as_ids(a, dtype, plain.good_id(name)) if a.size and not plain.lacks_classes else a
    else:
        source[name] = as_dtype(a, dtype)
    call = functools.partial(plain.method(method), **inputs, **options)
    if not real or (name == first and dtype.char in LONG_DOUBLE):
        return refusal(call, [TypeError], name, list(inputs.values()))
    # what is computed is what a plain array of the same numbers gives
    exact = dict(inputs), dict(options)
    if name == first:
        compute = np.float32 if dtype.char in "ef" else np.float64
        exact[0][name] = inputs[name].astype(compute)
    else:
        kept = "i8" if name in plain.s.ids else plain.dtype
        exact[0 if name in inputs else 1][name] = np.asarray(source[name].astype("f8")).astype(kept)
    want = [np.array(x) for x in parts(plain.method(method)(**exact[0], **exact[1]))]
    if name == first and dtype.char == "e":
        # results of halves are halves, but for totals, which are floats of Python's
        with np.errstate(over="ignore"):
            want = [x.astype(np.float16) if x.dtype == np.float32 else x for x in want]
    return equality(call, want, list(inputs.values()))


SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e-45, 1e38, -1e38, 1e300, -1e300, 1.7e308, 65504.0]


def values() -> Iterator[Case]:
    """NaN, infinities and the ends of the range in every real input: no exception, the same bits in every layout."""
    for plain in plains(6, reductions=("none", "weighted_mean")):
        for name in (*plain.inputs, "head_grad"):
            if name not in (*plain.wrt, "head_grad"):
                continue
            for number, everywhere in itertools.product(SPECIAL, (False, True)):
                run = functools.partial(with_number, plain, name, number, everywhere)
                yield Case((plain, number, "all over" if everywhere else "once in", name), run)


def with_number(plain: Plain, name: str, number: float, everywhere: bool) -> str:
    method = methods_of(plain.s)[-1]
    inputs, options = dict(plain.inputs), plain.options(method)
    source = inputs if name in inputs else options
    spoiled = source[name].copy()
    with np.errstate(over="ignore"):
        if everywhere:
            spoiled[...] = number
        elif spoiled.size:
            spoiled.flat[spoiled.size // 2] = number
    source[name] = spoiled
    want = [np.array(x) for x in parts(plain.method(method)(**inputs, **options))]
    if plain.s.layout == "elements" and plain.reduction == "none" and name in plain.s.names[:2] and not everywhere:
        clean = plain.results(method)[0]
        others = np.arange(clean.size).reshape(clean.shape) != clean.size // 2
        if "value" in METHODS[method] and not same_bits(want[0][others], clean[others]):
            raise Failure(f"{want[0]!r} is not {clean!r} elsewhere")
    laid = {k: ARRANGED["byte-swapped strided"](a) for k, a in inputs.items()}
    options |= {"head_grad": ARRANGED["unaligned"](options["head_grad"])}
    return equality(lambda: plain.method(method)(**laid, **options), want, list(laid.values()))


NO_IDS = [0.5, -0.5, 1.5, np.nan, np.inf, -np.inf, 1e300, -1e300, 5e-324, 2.0**31, 2.0**32, 2.0**53, 2.0**63, 2.0**64]
IDS = [-(2.0**63), -(2.0**31), -100.0, -2.0, -1.0, -0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 255.0, 256.0, 65536.0]


def ids() -> Iterator[Case]:
    """Every number, in every dtype that holds it, as the class id, length or sign at one position."""
    for plain in plains(2, ("f4",), ("none",)):
        for name in plain.s.ids:
            for number, dtype in itertools.product((*NO_IDS, *IDS), REAL):
                if plain.inputs[name].size and holds(dtype, number):
                    run = functools.partial(with_id, plain, name, number, dtype)
                    yield Case((plain, number, "of", dtype, "in", name), run)


def holds(dtype: Any, number: float) -> bool:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            return not np.isfinite(number) or float(dtype.type(number)) == number
    info = np.iinfo(dtype if dtype.kind != "b" else np.uint8)
    top = 1 if dtype.kind == "b" else info.max
    return float(number).is_integer() and info.min <= int(number) <= top


def is_id(plain: Plain, name: str, number: float, labels: dict[str, Array], position: tuple[int, ...]) -> bool:
    """Whether a number may stand at a position, and is read there."""
    s, shape = plain.s, plain.place.shape
    whole = float(number).is_integer()
    integers = s.specs[name].integers
    if integers is not None:
        highest = shape[plain.place.axis] - 1 if integers.high is None else integers.high
        return whole and (integers.low <= number <= highest or number == integers.also)
    frames, width = shape[1:]
    if name != "label":
        return whole and 0 <= number <= (frames if name == "pred_lengths" else labels["label"].shape[1])
    good = whole and 0 <= number < width and number != blank_among(s.parameters["blank"], width)
    if "label_lengths" in labels:
        return position[1] >= labels["label_lengths"][position[0]] or good
    return number == -1 or good


def with_id(plain: Plain, name: str, number: float, dtype: Any) -> str:
    inputs = dict(plain.inputs)
    flat = inputs[name].size // 2
    position = tuple(int(k) for k in np.unravel_index(flat, inputs[name].shape))
    other = plain.good_id(name)
    spoiled = as_ids(inputs[name], dtype, other)
    inputs[name] = spoiled.astype(np.int64)
    spoiled[position] = number
    labels = dict(inputs)
    # the others may be spoiled by what the dtype does not hold
    if not all(is_id(plain, name, float(x), labels, p) for p, x in np.ndenumerate(inputs[name]) if p != position):
        inputs[name][...] = other
        spoiled[...] = other
        spoiled[position] = number
    given = inputs | {name: spoiled}
    out = [np.full(a.shape, 7, a.dtype) for a in plain.results("value_and_grad")]
    options = plain.options("value_and_grad")
    call = functools.partial(plain.loss.value_and_grad, **given, **options, out=plain.nested(out, "value_and_grad"))
    if not is_id(plain, name, number, inputs, position):
        return refusal(call, [ValueError], f"at position {position}", [*given.values(), *out])
    # an id that is read has to be one that int64 holds
    inputs[name][position] = int(number) if float(number).is_integer() and abs(number) < 2**62 else other
    want = [np.array(x) for x in parts(plain.loss.value_and_grad(**inputs, **options))]
    return equality(call, want, list(given.values()), out)
