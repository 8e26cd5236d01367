"""The inputs of a loss as data: their names, how they lie along the first one's axes, and what their numbers are."""

from __future__ import annotations

from typing import Literal, NamedTuple

from fastloss import _domains as domain
from fastloss._domains import Domain

Reduction = Literal["example", "none", "sum", "mean", "weighted_mean"]
Lies = Literal["like first", "per row", "broadcast", "number", "own", "weight"]


class Integers(NamedTuple):
    """Which integers a call accepts in an input, and what it says of others."""

    low: int
    high: int | None  # None: one less than a row of the first input has numbers
    also: int | None
    text: str  # says what they are, behind "must hold"; {high} is the highest
    hint: str = ""
    plural: str = ""  # what they are called

    @property
    def ignored(self) -> int | None:
        """The id of examples that count as nothing."""
        return self.also if self.high is None else None


class Input(NamedTuple):
    """An input of a loss.

    It has the shape of the first one ("like first"), or of the unreduced loss ("per row"), or broadcasts to that; or it
    is a number, or has a shape of its own, of which the loss's ``check_shapes`` decides; or it is sample_weight.
    """

    name: str
    lies: Lies = "like first"
    domain: Domain = domain.REAL
    required: bool = True
    differentiable: bool = True
    default: float = 1.0  # where an optional one is not given, and the formula reads it
    integers: Integers | None = None
    axes: str = ""  # of one with a shape of its own, in the letters of the loss's arguments: N is that of the examples
    hint: str = ""  # what to do about another shape


WEIGHT = Input("sample_weight", "weight", required=False)


def per_row(specs: tuple[Input, ...]) -> Input | None:
    """The input that has a number for each row of the first one."""
    return next((spec for spec in specs if spec.lies == "per row"), None)


def pair(label: Domain = domain.REAL, pred: Domain = domain.REAL) -> tuple[Input, ...]:
    """pred, label and sample_weight, which most losses take."""
    return Input("pred", domain=pred), Input("label", domain=label), WEIGHT
