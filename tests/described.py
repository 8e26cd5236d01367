"""The cases as problems for the benchmarks: a loss that no file there names is timed and measured as well.

A case's formulas are NumPy's. in_terms_of() has them computed by another library with NumPy's functions, such as
``jax.numpy``; ``torch.compile`` traces NumPy by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from tests.reference import LOSSES, Reference
from tests.structured import STRUCTURED, Structured

Array = NDArray[Any]

EXAMPLES = 256  # of a loss whose elements depend on each other
CLASSES = 1024


@dataclass(frozen=True)
class Described:
    """A loss by one of the tests' cases, and about how many numbers its first input has."""

    case: Reference | Structured
    size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first input."""
        if isinstance(self.case, Structured):
            return min(self.size, EXAMPLES), *self.case.shape
        return (max(self.size // CLASSES, 1), CLASSES) if self.case.row else (self.size,)

    def data(self, rng: np.random.Generator) -> tuple[Array, ...]:
        """Draw the inputs."""
        return self.case.draw(rng, self.shape) if isinstance(self.case, Structured) else self.case.data(rng, self.shape)

    def mean(self, *inputs: Array) -> tuple[Any, Array]:
        """Return the mean loss and its gradient in the first input, in NumPy."""
        value = self.case.value(*inputs)
        if isinstance(self.case, Structured):
            share = np.full(value.shape, 1 / value.size)
            gradient = self.case.gradients(share, *inputs)[self.case.names[0]]
        else:
            gradient = self.case.gradient(*inputs) / value.size
        return value.mean(), np.asarray(gradient, inputs[0].dtype)


def described(but: Iterable[type[fl.Loss]], size: int) -> dict[str, Described]:
    """Return the first case of each loss, by its name, but of those that are named."""
    found: dict[str, Described] = {}
    named = set(but)
    for case in (*LOSSES.values(), *STRUCTURED.values()):
        loss = type(case.build())
        if loss not in named:
            found.setdefault(loss.__name__, Described(case, size))
    return found


def names_in(code: CodeType) -> Iterator[str]:
    """Yield the names that a function looks up, or one inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


def in_terms_of(formula: Callable[..., Any], library: Any) -> Callable[..., Any]:
    """Return a formula of NumPy's functions, and all that it calls in the tests, with those of another library."""

    def translated(x: Any) -> Any:
        if x is np:
            return library
        is_formula = isinstance(x, FunctionType) and x.__module__.startswith("tests.")
        return in_terms_of(x, library) if is_formula else x

    assert isinstance(formula, FunctionType)
    scope = formula.__globals__
    names = {name: translated(scope[name]) for name in names_in(formula.__code__) if name in scope}
    cells = tuple(CellType(translated(cell.cell_contents)) for cell in formula.__closure__ or ())
    made = FunctionType(formula.__code__, names, formula.__name__, formula.__defaults__, cells)
    made.__kwdefaults__ = formula.__kwdefaults__
    return made
