"""What every description of a loss for the tests has, whichever its formulas are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import fastloss as fl


@dataclass(frozen=True)
class Case:
    """A loss and its parameters. What its inputs are is the loss's to say."""

    loss: Callable[..., fl.Loss]
    parameters: dict[str, Any] = field(default_factory=dict, kw_only=True)
    loop: str = field(default="", kw_only=True)  # what is new in the loop that runs it; "" if another case has the same
    # whether compilers can follow the formula and differentiate it: its steps depend on no number, and none is infinite
    is_traced: bool = field(default=True, kw_only=True)

    def build(self, **parameters: Any) -> fl.Loss:
        return self.loss(**self.parameters, **parameters)

    @property
    def names(self) -> tuple[str, ...]:
        """The inputs but sample_weight, of which a case may lack the last."""
        return tuple(name for name in self.build().inputs if name != "sample_weight")
