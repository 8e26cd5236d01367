"""The inputs of a loss as data: their names, how they lie along the first one's axes, and what their numbers mean."""

from __future__ import annotations

from typing import Literal, NamedTuple

from fastloss import _domains as domain
from fastloss._domains import Domain

Reduction = Literal["example", "none", "sum", "mean", "weighted_mean"]
Lies = Literal["like first", "per row", "broadcast", "number", "own", "weight"]


class Integers(NamedTuple):
    """The integers that a call accepts in an input, and the message about others."""

    low: int
    high: int | None  # None: the length of a row of the first input, less one
    also: int | None
    text: str  # completes "must hold" in messages; {high} is the highest
    hint: str = ""
    plural: str = ""  # their name in messages

    @property
    def ignored(self) -> int | None:
        """The id of examples to leave out."""
        return self.also if self.high is None else None


class Input(NamedTuple):
    """An input of a loss.

    ``lies`` tells its shape. "like first" is that of the first input, "per row" that of the unreduced loss. "broadcast"
    broadcasts to the first input, "number" has a single number. The loss's ``check_shapes`` checks "own" shapes.
    "weight" is sample_weight.
    """

    name: str
    lies: Lies = "like first"
    domain: Domain = domain.REAL
    required: bool = True
    differentiable: bool = True
    default: float = 1.0  # in place of an optional input that the formula reads
    integers: Integers | None = None
    axes: str = ""  # of an "own" shape, in the letters of the loss's layouts; N is the examples' axis
    hint: str = ""  # advice for another shape


WEIGHT = Input("sample_weight", "weight", required=False)


def per_row(specs: tuple[Input, ...]) -> Input | None:
    """The input with a number for each row of the first one."""
    return next((spec for spec in specs if spec.lies == "per row"), None)


def pair(label: Domain = domain.REAL, pred: Domain = domain.REAL) -> tuple[Input, ...]:
    """pred, label and sample_weight, which most losses take."""
    return Input("pred", domain=pred), Input("label", domain=label), WEIGHT
