"""What the cases are made of: places of axes, plain calls and what they return, and how values are refused."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

import fastloss as fl
from tests.hostile import OwnError, Value
from tests.judge import Failure, is_close, parts
from tests.reference import REDUCTIONS
from tests.specimens import (
    METHODS,
    Array,
    Expected,
    Lay,
    Shape,
    Specimen,
    expected,
    nested,
    specimens,
    value_shape,
)

SPECIMENS = specimens()
OWN = (OwnError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError, MemoryError)


class Case(NamedTuple):
    """A call, and what it is; run returns how it ended, or raises."""

    what: tuple[Any, ...]
    run: Callable[[], str]

    def __str__(self) -> str:
        return " ".join(map(str, self.what))


@dataclass(frozen=True)
class Place:
    """The shape of the first input, and where in it the classes and the examples are."""

    shape: Shape
    axis: int = -1
    batch_axis: int = 0


PLACES = [
    Place(()),
    Place((1,)),
    Place((5,)),
    Place((0,)),
    Place((70,), -1, -1),
    Place((4, 3)),
    Place((4, 3), 0, 1),
    Place((1, 3), -1, 1),
    Place((3, 1), -1, -2),
    Place((0, 3)),
    Place((3, 0), 0, 0),
    Place((2, 3, 4), 1, 0),
    Place((3, 4, 2), 0, 2),
    Place((2, 1, 3), -1, 1),
    Place((3, 5, 1), -1, 0),
    Place((2, 0, 3), 2, 1),
    Place((2, 3, 1, 2, 2), 1, -1),
    Place((7, 130), 0, 1),
]
SEQUENCES = [Place((2, 4, 3)), Place((1, 1, 2)), Place((3, 0, 2)), Place((0, 3, 2)), Place((2, 3, 1)), Place((5, 2, 4))]


def places_of(s: Specimen) -> list[Place]:
    if s.is_of_sequences:
        return [p for p in SEQUENCES if s.fits(p.shape)]
    places = [place_of(s, p.shape, p.axis, p.batch_axis) for p in PLACES if len(p.shape) >= s.least_axes]
    return [p for p in dict.fromkeys(places) if s.has_good_ids(p.shape, p.axis)]


def place_of(s: Specimen, shape: Shape, axis: int = -1, batch_axis: int = 0) -> Place:
    """A place for a specimen that may have a number for each of a row."""
    return Place(s.fitted(shape, axis), axis, batch_axis)


def methods_of(s: Specimen) -> list[str]:
    return [m for m in METHODS if s.hessian is not None or "hessian" not in METHODS[m]]


class Plain:
    """A plain call: contiguous arrays, one thread, new results. Made when somebody wants to know."""

    def __init__(self, name: str, place: Place, dtype: str = "f8", reduction: str = "example", seed: int = 0) -> None:
        self.s = SPECIMENS[name]
        self.name, self.place, self.dtype, self.reduction, self.seed = name, place, dtype, reduction, seed
        self.checked: dict[str, list[Array]] = {}  # results by method
        self.lay = Lay(self.s.layout, place.axis, place.batch_axis)

    def __str__(self) -> str:
        p = self.place
        return f"{self.name} {p.shape} axis={p.axis} batch={p.batch_axis} {self.dtype} {self.reduction}"

    @functools.cached_property
    def loss(self) -> fl.Loss:
        given = dict(self.s.parameters) | {"reduction": self.reduction, "weight": 0.75}
        if self.s.has_batch_axis:
            given["batch_axis"] = self.place.batch_axis
        if self.s.has_axis:
            given["axis"] = self.place.axis
        return self.s.loss(**given)

    @functools.cached_property
    def inputs(self) -> dict[str, Array]:
        """By name and contiguous: numbers in the dtype of the call, ids in int64, weights for every loss."""
        rng = np.random.default_rng(self.seed)
        shape, ndim = self.place.shape, len(self.place.shape)
        made: dict[str, Array] = {}
        for k, a in zip(self.s.names, self.s.data(rng, self.lay.seen(shape)), strict=True):
            laid = a if k in self.s.free or k in self.s.per_row else self.lay.back(a, ndim)
            made[k] = np.array(laid, np.int64 if k in self.s.ids else self.dtype, order="C")
        for k in made:
            if self.s.specs[k].lies == "broadcast":
                # as the formulas see it, it lies along the last axis, which is where it is
                made[k] = np.array(rng.integers(1, 9, shape[-1:]) / 4, self.dtype)
        weighted = value_shape(self.lay, shape, "none")
        if len(weighted) == 1 and self.lay.batch(ndim) is None:
            # weights of one axis are those of the examples, of which there is one
            weighted = ()
        made["sample_weight"] = np.array(rng.integers(1, 9, weighted) / 4, self.dtype)
        return made

    @functools.cached_property
    def head(self) -> Array:
        rng = np.random.default_rng(self.seed + 1)
        shape = value_shape(self.lay, self.place.shape, self.reduction)
        return np.asarray(rng.integers(-8, 9, shape) / 4, self.dtype)

    @functools.cached_property
    def wrt(self) -> tuple[str, ...]:
        """All that there is a gradient in."""
        return self.s.differentiable

    def good_id(self, name: str) -> int:
        """An id that is good at every position, and that every dtype holds."""
        shape = self.place.shape
        return self.s.good_id(name, shape[self.place.axis] if shape else 0)

    @property
    def lacks_classes(self) -> bool:
        return self.s.has_axis and self.place.shape[self.place.axis] == 0

    def options(self, method: str) -> dict[str, Any]:
        """head_grad and wrt, for a method that takes them."""
        more: dict[str, Any] = {} if method == "__call__" else {"head_grad": self.head}
        wrt = self.s.targets(method)
        return more | ({} if wrt is None else {"wrt": wrt})

    def nested(self, flat: list[Any], method: str) -> Any:
        """Buffers in the structure of what a method returns."""
        return nested(flat, method, self.options(method).get("wrt"))

    def method(self, name: str) -> Callable[..., Any]:
        return getattr(self.loss, name)

    @functools.cached_property
    def expected(self) -> Expected:
        with np.errstate(all="ignore"):
            return expected(
                self.s,
                self.lay,
                {k: a for k, a in self.inputs.items() if k != "sample_weight"},
                self.inputs["sample_weight"],
                weight=0.75,
                reduction=self.reduction,
                head_grad=self.head,
            )

    def results(self, method: str) -> list[Array]:
        """What a method returns, checked."""
        if method not in self.checked:
            made = [np.array(x) for x in parts(self.method(method)(**self.inputs, **self.options(method)))]
            for got, (what, right) in zip(made, self.wanted(method, self.expected), strict=True):
                if not is_close(got, right, np.dtype(self.dtype), self.expected.terms.get(what, 0)):
                    raise Failure(f"{method}, {what}: {got!r} is not {right!r}")
            self.checked[method] = made
        return self.checked[method]

    def wanted(self, method: str, want: Expected) -> Iterator[tuple[str, Any]]:
        names = self.s.targets(method) or self.s.names[:1]
        for part in METHODS[method]:
            if part == "value":
                yield part, want.value
            for name in names if part == "gradient" else ():
                yield name, want.gradients[name]
            for name in names if part == "hessian" else ():
                yield f"hessian of {name}", want.hessians[name]


def plains(every: int = 1, dtypes: tuple[str, ...] = ("f8", "f4"), reductions: Any = REDUCTIONS) -> Iterator[Plain]:
    """Calls of each loss at every so-manieth place, another one for each loss."""
    for k, (name, s) in enumerate(SPECIMENS.items()):
        for place, dtype, reduction in itertools.product(places_of(s)[k % every :: every], dtypes, reductions):
            yield Plain(name, place, dtype, reduction)


def refused_as(value: Value, word: str, kinds: tuple[type[Exception], ...] = (TypeError, ValueError)) -> Any:
    """The exceptions that a value may cause, and the word that they say: the caller's own pass through as they are."""
    return (OWN, "") if value.own else (kinds, word)
