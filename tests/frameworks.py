"""The losses as the frameworks' tests call them: by named inputs, some of which can be differentiated."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from tests.calls import ENTRIES, Entry, inputs_of
from tests.selection import LOOPS, parametrised

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A loss by its reduction, its inputs in the order of the call, and the names of those to differentiate."""

    build: Callable[..., fl.Loss]
    inputs: dict[str, Array]
    targets: tuple[str, ...]


def case_of(entry: Entry, rng: np.random.Generator) -> Case:
    drawn = inputs_of(entry, rng, 4, np.float64)
    inputs = {name: smooth(a, k) if name != "sample_weight" else a for k, (name, a) in enumerate(drawn.items())}
    return Case(entry.build, inputs, tuple(name for name in entry.build().differentiable if name in inputs))


def smooth(a: Array, k: int) -> Array:
    """Moved off the kinks, on which some of the data lie."""
    return a + 0.0123 * (k + 1) if a.dtype.kind == "f" else a


def cases() -> dict[str, Case]:
    """The losses, but for rows that are too long for every framework."""
    rng = np.random.default_rng(5)
    return {name: case_of(entry, rng) for name, entry in ENTRIES.items() if math.prod(entry.shape) < 1000}


CASES = cases()


def every_case(*, fixture: bool = True, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """A test of a backend: `case`, or `name` where it is no fixture, is each of CASES, most of them in one way."""
    return parametrised("case" if fixture else "name", CASES, fixture=fixture, one=True, **axes)


def every_loop(**axes: Sequence[Any]) -> pytest.MarkDecorator:
    """A test of what a backend hands over, whatever the formula: the cases of LOOPS alone."""
    return parametrised("case", [name for name in CASES if name in LOOPS], **axes)


with np.load(Path(__file__).parent / "data" / "gluon_cases.npz") as arrays:
    # a dense layer of MXNet's, and what it makes of the gradient of an L2 loss
    DENSE = {name.removeprefix("dense/"): arrays[name] for name in arrays if name.startswith("dense/")}


def has_huge_pages(address: int) -> bool:
    """Whether somebody has asked the system for huge pages under an address."""
    smaps = Path("/proc/self/smaps")
    if not (smaps.exists() and Path("/sys/kernel/mm/transparent_hugepage").exists()):
        pytest.skip("this system has no huge pages, or does not list them")
    inside = False
    for line in smaps.read_text("utf-8").splitlines():
        if span := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = int(span[1], 16) <= address < int(span[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    return False
