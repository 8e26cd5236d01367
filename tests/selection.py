"""Which losses and which combinations a test takes: what the loops share is tested once for each kind of loop.

A test of formulas takes every loss, a test of the engine around them the losses of LOOPS alone: the cases that say what
is new in their loop. One must where no other has a loop of its shape; tests/test_selection.py says when.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.calls import ENTRIES, inputs_of
from tests.reference import LOSSES
from tests.structured import STRUCTURED

LOOPS = {name: entry.loop for name, entry in ENTRIES.items() if entry.loop}
ELEMENTS = [name for name in LOOPS if name in LOSSES]
STRUCTURES = [name for name in LOOPS if name in STRUCTURED]


def shape_of_loop(name: str) -> tuple[Any, ...]:
    """What tells the loops of two losses apart, as far as it is seen from outside."""
    loss, parameters = ENTRIES[name].build(), ENTRIES[name].parameters
    inputs = inputs_of(ENTRIES[name], np.random.default_rng(0), 4)
    first, *others = (a.ndim for k, a in inputs.items() if k != "sample_weight")
    shape = loss.is_elementwise, len(loss.inputs), len(inputs), loss.fixed, loss.no_hessian is None
    if loss.is_elementwise:
        return shape
    targets = parameters.get("label_smoothing", 0) > 0, parameters.get("from_logits", False)
    own = ENTRIES[name].build(reduction="none")(**inputs).ndim
    return *shape, *targets, *(first - ndim for ndim in (own, *others))


@functools.cache
def pairs(*sizes: int) -> list[tuple[int, ...]]:
    """Positions in lists of these sizes, so that every two positions of every two lists occur together."""
    axes = list(itertools.combinations(range(len(sizes)), 2))
    product = list(itertools.product(*map(range, sizes)))
    left = {(j, k, case[j], case[k]) for case in product for j, k in axes}
    chosen = []
    while left:
        new = [sum((j, k, case[j], case[k]) in left for j, k in axes) for case in product]
        case = product[new.index(max(new))]
        left -= {(j, k, case[j], case[k]) for j, k in axes}
        chosen.append(case)
    return chosen or product


def turned(name: str, cases: Iterable[Sequence[int]], axes: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """The values at these positions, which each loss counts from places of its own: together they meet more of them."""
    starts = [zlib.crc32(f"{name} {k}".encode()) for k in range(len(axes))]
    return [tuple(a[(i + s) % len(a)] for i, a, s in zip(case, axes, starts, strict=True)) for case in cases]


def combinations(name: str, *axes: Sequence[Any], one: bool = False) -> list[tuple[Any, ...]]:
    """Of the product of lists: each pair of values for a loss of LOOPS, each value or one combination for others."""
    sizes = [len(a) for a in axes]
    if name in LOOPS:
        return turned(name, pairs(*sizes), axes)
    return turned(name, [[i] * len(axes) for i in range(1 if one else max(sizes))], axes)


def label(value: Any) -> str:
    return getattr(value, "__name__", None) or str(value)


def parametrised(
    argument: str, names: Iterable[str], *, fixture: bool = True, one: bool = False, **axes: Sequence[Any]
) -> pytest.MarkDecorator:
    """A test for each name, with combinations of the other arguments."""
    cases = [(name, *rest) for name in names for rest in combinations(name, *axes.values(), one=one)]
    return pytest.mark.parametrize((argument, *axes), cases, indirect=[argument] if fixture else False, ids=label)


def every_loss(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """A test of formulas: the fixture `reference` is each of LOSSES, with combinations of the other arguments."""
    return parametrised("reference", LOSSES, **axes)


def every_loop(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """A test of the engine: the fixture `reference` is each of LOOPS."""
    return parametrised("reference", ELEMENTS, **axes)


def every_structure(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """The same for the fixture `structured`: each of STRUCTURED."""
    return parametrised("structured", STRUCTURED, **axes)
