"""The losses as the frameworks' tests call them: by named inputs, some of which can be differentiated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from tests.conftest import draw
from tests.reference import LOSSES, Reference
from tests.selection import parametrised
from tests.structured import STRUCTURED, Structured

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """A loss by its reduction, its inputs in the order of the call, and the names of those to differentiate."""

    build: Callable[..., fl.Loss]
    inputs: dict[str, Array]
    targets: tuple[str, ...]


def elementwise_case(reference: Reference, rng: np.random.Generator) -> Case:
    drawn = draw(reference, rng, (4, 3))
    names = ["pred", "label"] + ([reference.third] if reference.third else [])
    inputs = dict(zip(names, map(smooth, drawn, range(len(drawn))), strict=True))
    inputs["sample_weight"] = rng.uniform(0.5, 2, 4)
    targets = ["pred", "sample_weight"]
    targets += ["label"] if reference.label_gradient is not None else []
    targets += [reference.third] if reference.third and reference.third_gradient is not None else []
    return Case(reference.build, in_order(reference.build(), inputs), tuple(targets))


def structured_case(structured: Structured, rng: np.random.Generator) -> Case:
    loss = structured.build()
    drawn = structured.data(rng, 4)
    names = [name for name in loss.inputs if name != "sample_weight"][: len(drawn)]
    inputs = dict(zip(names, map(smooth, drawn, range(len(drawn))), strict=True))
    inputs["sample_weight"] = rng.uniform(0.5, 2, 4)
    targets = [name for name in inputs if name not in loss.fixed]
    return Case(structured.build, in_order(loss, inputs), tuple(targets))


def smooth(a: Array, k: int) -> Array:
    """Moved off the kinks, on which some of the data lie."""
    return a + 0.0123 * (k + 1) if a.dtype.kind == "f" else a


def in_order(loss: fl.Loss, inputs: dict[str, Array]) -> dict[str, Array]:
    return {name: inputs[name] for name in loss.inputs if name in inputs}


def cases() -> dict[str, Case]:
    rng = np.random.default_rng(5)
    return {name: elementwise_case(reference, rng) for name, reference in LOSSES.items()} | {
        name: structured_case(structured, rng) for name, structured in STRUCTURED.items() if "3000" not in name
    }


CASES = cases()


def every_case(*, fixture: bool = True, **axes: Sequence[Any]) -> pytest.MarkDecorator:
    """A test of a backend: `case`, or `name` where it is no fixture, is each of CASES, most of them in one way."""
    return parametrised("case" if fixture else "name", CASES, fixture=fixture, one=True, **axes)


with np.load(Path(__file__).parent / "data" / "gluon_cases.npz") as arrays:
    # a dense layer of MXNet's, and what it makes of the gradient of an L2 loss
    DENSE = {name.removeprefix("dense/"): arrays[name] for name in arrays if name.startswith("dense/")}
