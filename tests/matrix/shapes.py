"""Inputs of every shape, axes from either end, sizes that nobody could hold, and things that are no arrays."""

from __future__ import annotations

import functools
import itertools
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests import hostile
from tests.hostile import BAD, GOOD
from tests.judge import Failure, equality, is_close, parts, refusal
from tests.matrix.base import (
    OWN,
    SPECIMENS,
    Case,
    Place,
    Plain,
    methods_of,
    place_of,
    places_of,
    plains,
)
from tests.reference import REDUCTIONS
from tests.specimens import (
    METHODS,
    Array,
    Lay,
    Shape,
    Specimen,
    expected,
    squeezed,
    value_shape,
)


def candidates(shape: Shape, batch: int) -> list[Shape]:
    """Shapes that are like one, or nearly."""
    n = len(shape)
    near = {shape, shape[::-1], shape[1:], shape[:-1], (1, *shape), (*shape, 1), (2, *shape), (*shape, 2)}
    near |= {squeezed(shape), (), (1,), (0,), (2,), (batch,), (batch + 1,), (batch, 1), (1, batch), (1,) * n, (1,) * 32}
    near |= {(1,) * 33, (2,) * 6, (int(np.prod(shape)),), tuple(n + 1 for n in shape)}
    for k in range(n):
        rest = shape[:k], shape[k + 1 :]
        near |= {(*rest[0], *rest[1]), (*rest[0], 1, *rest[1]), (*rest[0], shape[k] + 1, *rest[1])}
        near |= {(*rest[0], 1, shape[k], *rest[1]), (*rest[0], 0, *rest[1]), (*(1,) * k, shape[k], *(1,) * (n - k - 1))}
    return sorted(near)


def shapes() -> Iterator[Case]:
    """Every input but the first in shapes that fit, nearly fit and do not: taken as the docs say, or refused."""
    for plain in plains(3, ("f8",), ("example", "none", "sum")):
        shape = plain.place.shape
        batch = shape[plain.lay.batch_of(len(shape))] if shape else 1
        for name in (*plain.inputs, "head_grad"):
            if name == plain.s.names[0]:
                continue
            for given in candidates(shape, batch):
                yield Case((plain, name, "of", given), functools.partial(in_shape, plain, name, given))


def fits(plain: Plain, name: str, given: Shape) -> bool:
    """Whether the docs say that an input of a shape is taken."""
    shape, s = plain.place.shape, plain.s
    unreduced = plain.lay.unreduced(shape)
    if len(given) > 32:
        return False
    if name == "head_grad":
        return given == () or alike(given, value_shape(plain.lay, shape, plain.reduction))
    if name == "sample_weight":
        batch = plain.lay.batch(len(shape))
        if len(given) == 1 and not unreduced:
            return given == (1,)
        if len(given) == 1 and batch is not None:
            return given[0] in (1, unreduced[batch])
        if s.layout == "rows" and len(given) == len(shape):
            k = plain.lay.axis_of(len(shape))
            return given[k] == 1 and broadcasts((*given[:k], *given[k + 1 :]), unreduced)
        return broadcasts(given, unreduced)
    lies = s.specs[name].lies
    if lies == "number":
        return given == ()
    if lies == "broadcast":
        return broadcasts(given, shape)
    if lies == "own":
        # lengths of 0 make a row of nothing
        row = given == (0,) and "label_lengths" in s.names
        return row or (len(given) == 2 and given[0] == shape[0]) if name == "label" else given == (shape[0],)
    return alike(given, unreduced if name in s.per_row else shape)


def alike(a: Shape, b: Shape) -> bool:
    """Whether two shapes are equal, or one is the other without some axes of size 1."""
    short, long = sorted((a, b), key=len)
    kept = itertools.combinations(range(len(long)), len(short))
    return squeezed(a) == squeezed(b) and any(tuple(long[k] for k in keep) == short for keep in kept)


def broadcasts(given: Shape, shape: Shape) -> bool:
    try:
        return np.broadcast_shapes(given, shape) == shape
    except ValueError:
        return False


def in_shape(plain: Plain, name: str, given: Shape) -> str:
    method = "value_and_grad"
    inputs, options = dict(plain.inputs), plain.options(method)
    rng = np.random.default_rng(3)
    a: Array = np.asarray(rng.integers(1, 4, given) / 2)
    if name in plain.s.ids:
        integers = plain.s.specs[name].integers
        ignored = None if integers is None else integers.ignored
        a = np.full(given, float(plain.good_id(name) if ignored is None else ignored))
    if plain.s.is_of_sequences and name in plain.s.ids:
        # no labels, no frames: what fits is good, whatever the other lengths are
        inputs |= {k: np.zeros_like(b) for k, b in inputs.items() if k.endswith("lengths")}
        if plain.place.shape[2] == 1 and "label_lengths" not in inputs:
            a = np.full(given, -1.0)
    (inputs if name in inputs else options)[name] = a
    call = functools.partial(plain.method(method), **inputs, **options)
    if not fits(plain, name, given):
        return refusal(call, [ValueError], name, list(inputs.values()))
    results = [np.asarray(x) for x in parts(call())]
    if plain.s.is_of_sequences and name in plain.s.ids:
        return "equal"
    with np.errstate(all="ignore"):
        want = expected(
            plain.s,
            plain.lay,
            {k: as_read(plain, k, b) for k, b in inputs.items() if k != "sample_weight"},
            as_read(plain, "sample_weight", inputs["sample_weight"]),
            weight=0.75,
            reduction=plain.reduction,
            head_grad=as_read(plain, "head_grad", np.asarray(options["head_grad"])),
        )
    for got, (what, right) in zip(results, plain.wanted(method, want), strict=True):
        if got.shape != (inputs[what].shape if what in inputs else np.shape(right)):
            raise Failure(f"{what} has shape {got.shape}")
        if not is_close(got, right.reshape(got.shape), np.float64, want.terms.get(what, 0)):
            raise Failure(f"{what}: {got!r} is not {right!r}")
    return "equal"


def as_read(plain: Plain, name: str, a: Array) -> Array:
    """An input with the axes that it is read along."""
    shape = plain.place.shape
    unreduced = plain.lay.unreduced(shape)
    if name == "head_grad":
        return a.reshape(value_shape(plain.lay, shape, plain.reduction)) if a.ndim else a
    if name == "sample_weight":
        batch = plain.lay.batch(len(shape))
        if not unreduced:
            return a.reshape(())
        if a.ndim == 1 and batch is not None:
            return a.reshape([-1 if k == batch else 1 for k in range(len(unreduced))])
        if plain.s.layout == "rows" and a.ndim == len(shape):
            return a.reshape([n for k, n in enumerate(a.shape) if k != plain.lay.axis_of(a.ndim)])
        return a
    if name in plain.s.free:
        return a
    return a.reshape(unreduced if name in plain.s.per_row else shape)


def axes() -> Iterator[Case]:
    """Every axis of every shape, and those beyond: counted from either end, or refused."""
    for name, s in SPECIMENS.items():
        if not s.has_batch_axis:
            continue
        for place in places_of(s)[::2]:
            n = max(len(place.shape), 1)
            for axis, batch_axis in itertools.product(range(-n - 2, n + 2), repeat=2):
                if s.has_axis or axis == -1:
                    moved = place_of(s, place.shape, axis, batch_axis)
                    for reduction in ("example", "none"):
                        run = functools.partial(at_axis, name, moved, reduction)
                        yield Case((name, moved, reduction), run)


def at_axis(name: str, place: Place, reduction: str) -> str:
    s, n = SPECIMENS[name], max(len(place.shape), 1)
    bad = [k for k, axis in (("batch_axis", place.batch_axis), ("axis", place.axis)) if not -n <= axis < n]
    plain = Plain(name, place, "f8", reduction)
    if bad:
        fine = Plain(name, place_of(s, place.shape, -1 if "axis" in bad else place.axis), "f8", reduction)
        inputs = (
            fine.inputs
            if s.has_good_ids(fine.place.shape, fine.place.axis)
            else {k: np.zeros(place.shape) for k in s.names}
        )
        return refusal(lambda: plain.loss(**inputs), [ValueError], bad[0])
    if not s.has_good_ids(place.shape, place.axis):
        width = {k: np.zeros(place.shape) for k in s.names[:1]}
        label = np.zeros(plain.lay.unreduced(place.shape))
        return refusal(lambda: plain.loss(**width, label=label), [ValueError], "label")
    plain.results("value_and_grad")
    return "equal"


def many_axes() -> Iterator[Case]:
    """Arrays of up to 64 axes: 32 are fine."""
    for name, s in SPECIMENS.items():
        if s.is_of_sequences:
            continue
        for ndim, wide in itertools.product((31, 32, 33, 64), (0, 1, -1)):
            yield Case((name, "of", ndim, "axes, axis", wide, "of 3"), functools.partial(of_axes, name, ndim, wide))


def of_axes(name: str, ndim: int, wide: int) -> str:
    s = SPECIMENS[name]
    shape = [1] * ndim
    shape[wide] = 3
    plain = Plain(name, place_of(s, tuple(shape), wide, -1))
    if ndim > 32:
        inputs = {k: np.zeros(shape) for k in s.names}
        return refusal(lambda: plain.loss(**inputs), [ValueError], s.names[0])
    plain.results("value_and_grad")
    return "equal"


def huge() -> Iterator[Case]:
    """Shapes whose elements nobody could hold, of arrays that repeat one number: refused at once."""
    for name, s in SPECIMENS.items():
        for shape in HUGE:
            if len(shape) < s.least_axes or (s.is_of_sequences and len(shape) != 3):
                continue
            methods = itertools.cycle(methods_of(s))
            for dtype, reduction in itertools.product(("i1", "f2", "f4", "f8"), REDUCTIONS):
                method = next(methods)
                if int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize < 2**63:
                    run = functools.partial(of_size, name, shape, dtype, reduction, method)
                    yield Case((name, method, shape, dtype, reduction), run)


# elements that a first input may have
MOST_ELEMENTS = sys.maxsize >> 8
MANY = (2**47 + 1, 2**56 + 1, 2**58, 2**59, 2**60, 2**61, 2**61 + 1, 2**62, 2**63 - 1, 6148914691236517206)
HUGE = [
    *[shape for n in MANY for shape in ((n,), (1, n), (n, 1), (1, 1, n), (1, n, 1), (n, 1, 1))],
    *[(2**31, 2**31), (2**20, 2**20, 2**20), (3, 2**60), (2**60, 3), (2**32, 1, 2**29), (1, 2**31, 2**31)],
]


def of_size(name: str, shape: Shape, dtype: str, reduction: str, method: str) -> str:
    s = SPECIMENS[name]
    lay = Lay(s.layout, -1, 0)
    repeated = {k: np.broadcast_to(np.ones((), dtype), shape) for k in s.names}
    for k in s.per_row:
        repeated[k] = np.broadcast_to(np.int8(s.good_id(k, 1)), lay.unreduced(shape))
    for k in s.free:
        repeated[k] = np.ones((), dtype)
    if s.is_of_sequences:
        repeated["label"] = np.broadcast_to(np.int8(s.good_id("label", shape[-1])), (shape[0], 1))
        for k in s.names[2:]:
            repeated[k] = np.broadcast_to(np.int8(0), shape[:1])
    size = int(np.prod(shape, dtype=object))
    loss = s.loss(**s.parameters, reduction=reduction)
    call = functools.partial(getattr(loss, method), **repeated)
    if size <= MOST_ELEMENTS and not asks_for_memory(s, lay, shape, reduction, method):
        # that would take years, and is nobody's mistake
        return "years"
    start = time.monotonic()
    answer = refusal(call, [ValueError, MemoryError], "")
    if time.monotonic() - start > 1:
        raise Failure("that took its time")
    return answer


def asks_for_memory(s: Specimen, lay: Lay, shape: Shape, reduction: str, method: str) -> bool:
    """Whether a result or a buffer would be as large as no memory is, which comes out before anything is computed."""
    results = [value_shape(lay, shape, reduction)] if "value" in METHODS[method] else []
    results += [shape] if method != "__call__" else []
    return any(int(np.prod(r, dtype=object)) > 2**46 for r in results)


def things() -> Iterator[Case]:
    """What stands for an array as well as one, and what does not, in the place of each input."""
    for plain in plains(6, ("f8",), ("example",)):
        for name in (*plain.inputs, "head_grad"):
            for method in ("grad", "value_and_grad"):
                for thing in GOOD:
                    run = functools.partial(with_good, plain, method, name, thing)
                    yield Case((plain, method, name, "as", thing), run)
                for thing in BAD:
                    run = functools.partial(with_bad, plain, method, name, thing)
                    yield Case((plain, method, name, "as", thing), run)


def with_good(plain: Plain, method: str, name: str, thing: str) -> str:
    inputs: dict[str, Any] = dict(plain.inputs)
    options = plain.options(method)
    source = inputs if name in inputs else options
    a = source[name]
    empty = a.size == 0
    offered = GOOD[thing](a)
    # without numbers, a list has neither their dtype nor their axes
    if empty and not isinstance(
        offered, np.ndarray | memoryview | hostile.Converts | hostile.Offers | hostile.OnlyDLPack
    ):
        return "equal"
    source[name] = offered
    return equality(lambda: plain.method(method)(**inputs, **options), plain.results(method))


def with_bad(plain: Plain, method: str, name: str, thing: str) -> str:
    inputs: dict[str, Any] = dict(plain.inputs)
    options = plain.options(method)
    make, own = BAD[thing]
    source = inputs if name in inputs else options
    source[name] = make(source[name])
    call = functools.partial(plain.method(method), **inputs, **options)
    others = [a for a in inputs.values() if type(a) is np.ndarray]
    if own:
        return refusal(call, OWN, "", others)
    return refusal(call, [TypeError], name, others)
