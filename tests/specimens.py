"""Every loss in one form, for cases that are generated over all of them: how it is called, and what it should return.

A specimen's formulas are those of reference and structured. They see arrays that lie in one way: classes and features
last, examples first, time before classes. Lay knows where a call has these axes. What the inputs are is what the loss
says of them.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

import fastloss as fl
from fastloss._inputs import Input
from tests.calls import ENTRIES, Entry
from tests.judge import largest
from tests.reference import Reference, unbroadcast
from tests.structured import Structured, blank_among

Array = NDArray[Any]
Shape = tuple[int, ...]
Layout = Literal["elements", "coupled", "rows", "examples"]

# its character, where it is not another name of float64
LONG_DOUBLE = ["g"] if np.dtype("g").itemsize > 8 else []
METHODS = {
    "__call__": ("value",),
    "grad": ("gradient",),
    "value_and_grad": ("value", "gradient"),
    "grad_and_hess": ("gradient", "hessian"),
    "value_grad_and_hess": ("value", "gradient", "hessian"),
}


@dataclass(frozen=True)
class Specimen:
    """A loss with its parameters, and its mathematics for multipliers m of the unreduced loss."""

    loss: type[fl.Loss]
    parameters: dict[str, Any]
    draw: Callable[[np.random.Generator, Shape], tuple[Array, ...]]
    value: Callable[..., Array]
    gradients: Callable[..., dict[str, Array]]
    hessian: Callable[..., Array] | None = None
    third_hessian: Callable[..., Array] | None = None  # where the third input is a prediction, too
    example_weight: Callable[..., Array] | None = None  # what an example counts in a weighted mean, by its label
    magnitude: Specimen | None = None  # the same without the signs of its parameters
    given: int = 2  # how many inputs are drawn

    @cached_property
    def built(self) -> fl.Loss:
        return self.loss(**self.parameters)

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        return self.built.inputs

    @cached_property
    def specs(self) -> dict[str, Input]:
        """The inputs that are drawn, by name, in their order."""
        return {spec.name: spec for spec in [s for s in self.built.specs if s.lies != "weight"][: self.given]}

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.specs)

    @cached_property
    def required(self) -> int:
        return self.built.required

    @cached_property
    def layout(self) -> Layout:
        """How the unreduced loss lies along the axes of the first input."""
        if self.built.is_elementwise:
            return "elements"
        if self.built.has_rows:
            return "rows"
        return "coupled" if self.has_axis else "examples"

    @cached_property
    def has_axis(self) -> bool:
        """Whether the classes or features have an axis."""
        return not self.built.is_elementwise and "axis" in inspect.signature(self.loss).parameters

    @cached_property
    def has_batch_axis(self) -> bool:
        return "batch_axis" in inspect.signature(self.loss).parameters

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """Inputs whose values a call checks."""
        return tuple(name for name, spec in self.specs.items() if spec.integers is not None or spec.lies == "own")

    @cached_property
    def per_row(self) -> tuple[str, ...]:
        """Inputs of the unreduced loss's shape."""
        return tuple(name for name, spec in self.specs.items() if spec.lies == "per row")

    @cached_property
    def free(self) -> tuple[str, ...]:
        """Inputs whose shape is their own."""
        return tuple(name for name, spec in self.specs.items() if spec.lies in ("broadcast", "number", "own"))

    @cached_property
    def differentiable(self) -> tuple[str, ...]:
        """The inputs that there is a gradient in, sample_weight among them."""
        return tuple(name for name in self.built.differentiable if name in self.specs or name == "sample_weight")

    def targets(self, method: str) -> tuple[str, ...] | None:
        """All that a method can differentiate in; None where that is the first input alone, or nothing."""
        if "hessian" not in METHODS[method]:
            return self.differentiable if "gradient" in METHODS[method] else None
        return self.built.twice_differentiable if len(self.built.twice_differentiable) > 1 else None

    @cached_property
    def is_of_sequences(self) -> bool:
        """Whether labels are sequences, whose axes are no others'."""
        return any(spec.lies == "own" for spec in self.specs.values())

    @cached_property
    def is_compared(self) -> bool:
        """Whether an example's loss depends on the others' parts of the first input."""
        return self.built.couples == self.names[0]

    @cached_property
    def least_axes(self) -> int:
        """How many axes the first input has at least."""
        return next(n for n in itertools.count(int(self.has_axis)) if self.fits((9,) * n))

    def fits(self, shape: Shape) -> bool:
        """Whether the loss has no rule against such a shape of its first input."""
        try:
            self.built.check_shapes({self.names[0]: shape})
        except ValueError:
            return False
        return True

    def fitted(self, shape: Shape, axis: int) -> Shape:
        """The shape, with as long rows as a parameter has numbers for."""
        numbers = self.parameters.get(self.built.row_parameter or "")
        if numbers is None or not -len(shape) <= axis < len(shape):
            return shape
        k = axis % len(shape)
        return (*shape[:k], len(numbers), *shape[k + 1 :])

    def has_good_ids(self, shape: Shape, axis: int) -> bool:
        """Whether labels can be good: without classes they are not, unless there are none, or they are ignored."""
        if not self.has_axis or shape[axis] or 0 in Lay(self.layout, axis).unreduced(shape):
            return True
        all_integers = [spec.integers for spec in self.specs.values() if spec.integers is not None]
        return all(integers.high is not None or integers.ignored is not None for integers in all_integers)

    def data(self, rng: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        """Inputs whose differences and products every float holds: all agree on which side of a kink they are."""
        return tuple(exactly(np.asarray(a), s) for a, s in zip(self.draw(rng, shape), self.specs.values(), strict=True))

    def good_id(self, name: str, width: int) -> int:
        """A number that every dtype holds, and that is a good id in such an input, where rows have so many classes."""
        integers = self.specs[name].integers
        if integers is not None:
            return integers.low
        # 0 is no id where it is the blank
        return int(name == "label" and width > 0 and blank_among(self.parameters["blank"], width) == 0)


def exactly(a: Array, spec: Input) -> Array:
    """The nearest numbers that have few digits, where they mean the same."""
    if a.dtype.kind != "f":
        return a
    rounded = np.round(64 * a) / 64
    return np.asarray(np.where(spec.domain.holds(rounded, 0) | ~spec.domain.holds(a, 0), rounded, a))


def specimen(case: Entry) -> Specimen:
    """The form of a case for generated calls."""
    return of_reference(case) if isinstance(case, Reference) else of_structured(case)


def of_reference(r: Reference) -> Specimen:
    """A loss of elements, or of rows, whose derivatives are multiplied by the multipliers."""
    others = {r.names[1]: r.label_gradient} | ({} if r.third is None else {r.third: r.third_gradient})

    def spread(m: Array) -> Array:
        return m[..., None] if r.row else m

    def gradients(m: Array, *inputs: Array) -> dict[str, Array]:
        found = {"pred": spread(m) * r.gradient(*inputs)}
        for (name, formula), a in zip(others.items(), inputs[1:], strict=True):
            if formula is not None:
                found[name] = spread(m) * formula(*inputs)
            if formula is not None and name == r.third:
                found[name] = unbroadcast(found[name], a.shape)
        return found

    def third_hessian(m: Array, *inputs: Array) -> Array:
        assert r.third_hessian
        return unbroadcast(spread(m) * r.third_hessian(*inputs), inputs[2].shape)

    return Specimen(
        r.loss,  # type: ignore[arg-type]
        r.parameters,
        r.data,
        r.value,
        gradients,
        lambda m, *inputs: spread(m) * r.hessian(*inputs),
        None if r.third_hessian is None else third_hessian,
        r.class_weight,
        None if r.magnitude is None else of_reference(r.magnitude),
        1 + len(others),
    )


def of_structured(s: Structured) -> Specimen:
    given = len(s.data(np.random.default_rng(0), 1))
    return Specimen(
        s.loss,  # type: ignore[arg-type]
        s.parameters,
        s.draw_any or s.draw,
        s.value,
        s.gradients,
        s.hessian,
        given=given,
    )


def specimens() -> dict[str, Specimen]:
    """Each case once: a generated call has a shape and an axis of its own."""
    found: dict[str, Specimen] = {}
    known: list[Any] = []
    for name, case in ENTRIES.items():
        made = specimen(case)
        what = made.loss, made.parameters | {"axis": None}, made.names
        if what not in known:
            known.append(what)
            found[name] = made
    return found


@dataclass(frozen=True)
class Lay:
    """Where a call has the axes that the formulas see at the end or the front."""

    layout: Layout
    axis: int = -1
    batch_axis: int = 0

    def axis_of(self, ndim: int) -> int:
        return self.axis % max(ndim, 1)

    def batch_of(self, ndim: int) -> int:
        return self.batch_axis % max(ndim, 1)

    def seen(self, shape: Shape) -> Shape:
        """The shape that the formulas see."""
        n = len(shape)
        if self.layout in ("rows", "coupled"):
            k = self.axis_of(n)
            return (*shape[:k], *shape[k + 1 :], shape[k])
        if self.layout == "examples":
            k = self.batch_of(n)
            return (shape[k], *shape[:k], *shape[k + 1 :]) if shape else (1,)
        return shape

    def back(self, a: Array, ndim: int) -> Array:
        """An array that the formulas saw, as the call has it, whose first input has ndim axes."""
        if self.layout in ("rows", "coupled"):
            return np.moveaxis(a, -1, self.axis_of(ndim))
        if self.layout == "examples":
            return np.moveaxis(a, 0, self.batch_of(ndim)) if ndim else a.reshape(())
        return a

    def forth(self, a: Array) -> Array:
        """An array of the call, as the formulas see it."""
        if self.layout in ("rows", "coupled"):
            return np.moveaxis(a, self.axis_of(a.ndim), -1)
        if self.layout == "examples":
            return np.moveaxis(a, self.batch_of(a.ndim), 0) if a.ndim else a.reshape(1)
        return a

    def unreduced(self, shape: Shape) -> Shape:
        """The unreduced loss's shape, in the call."""
        n = len(shape)
        if self.layout == "rows":
            return shape[: self.axis_of(n)] + shape[self.axis_of(n) + 1 :]
        if self.layout == "examples":
            return (shape[self.batch_of(n)],) if n else ()
        return shape

    def batch(self, ndim: int) -> int | None:
        """Which axis of the unreduced loss is that of the examples; None where it has gone."""
        b = self.batch_of(ndim)
        if self.layout == "rows":
            k = self.axis_of(ndim)
            return None if b == k else b - (b > k)
        return 0 if self.layout == "examples" else b


@dataclass(frozen=True)
class Expected:
    """What a call should return, and how large the terms are that each result is a sum of."""

    value: Array
    gradients: dict[str, Array]
    hessians: dict[str, Array]
    terms: dict[str, float]


def value_shape(lay: Lay, shape: Shape, reduction: str) -> Shape:
    unreduced = lay.unreduced(shape)
    if reduction == "none":
        return unreduced
    if reduction != "example" or not shape:
        return ()
    batch = lay.batch(len(shape))
    return (1,) if batch is None else (unreduced[batch],)


def expected(
    s: Specimen,
    lay: Lay,
    inputs: dict[str, Array],
    sample_weight: Array | None = None,
    *,
    weight: float = 1,
    reduction: str = "example",
    head_grad: Array | float = 1,
) -> Expected:
    """The results in float64. inputs lie as in the call; sample_weight broadcasts to the unreduced loss there."""
    wide = {k: np.asarray(a, float) for k, a in inputs.items()}
    pred = wide[s.names[0]]
    shape, ndim = pred.shape, pred.ndim
    unreduced_shape = lay.unreduced(shape)
    laid = [a if k in s.free or k in s.per_row else lay.forth(a) for k, a in wide.items()]
    given = np.ones(()) if sample_weight is None else np.asarray(sample_weight, float)
    full = np.broadcast_to(given, unreduced_shape)
    empty = 0 in unreduced_shape

    def seen(a: Array) -> Array:
        """Of the unreduced loss, as the formulas see it."""
        return lay.forth(a) if s.layout == "coupled" else a.reshape(len(laid[0])) if s.layout == "examples" else a

    # examples of weight 0 are left out of what the others are compared with
    kept: Any = full.reshape(-1) != 0 if s.is_compared else ...
    met = [a[kept] for a in laid] if s.is_compared else laid

    def among_all(a: Array) -> Array:
        """What was computed of the examples that are met, with 0 for the others."""
        if not s.is_compared:
            return a
        found = np.zeros((full.size, *a.shape[1:]))
        found[kept] = a
        return found

    loss = np.zeros(unreduced_shape)
    per_class = np.ones(unreduced_shape)
    if not empty:
        loss = among_all(s.value(*met))
        loss = lay.back(loss, ndim) if s.layout == "coupled" else loss.reshape(unreduced_shape)
        if s.example_weight is not None:
            per_class = s.example_weight(*laid).reshape(unreduced_shape)

    batch = lay.batch(ndim)
    axes: Any = tuple(range(loss.ndim))
    count = {"none": 1.0, "sum": 1.0, "mean": loss.size, "weighted_mean": (full * per_class).sum()}.get(reduction, 0)
    if reduction == "none":
        axes = ()
    elif reduction == "example":
        size = 1 if batch is None or not loss.ndim else loss.shape[batch]
        count, axes = loss.size / size if size else 0, tuple(k for k in axes if k != batch)
    scale = weight / count if count else 0.0
    # a weight of 0 leaves out what has no finite loss, too
    loss = np.where((full == 0) & ~np.isfinite(loss), 0, loss)
    value = (full * loss * scale).sum(axes).reshape(value_shape(lay, shape, reduction))
    head = np.asarray(head_grad, float)
    if head.ndim:
        head = head if reduction == "none" else np.expand_dims(head, axes) if batch is not None else head[0]
    factor = np.broadcast_to(scale * head, loss.shape)
    m = full * factor

    terms: dict[str, float] = {}
    loss_terms: Array = abs(loss)
    unsigned = s.magnitude or s
    if not empty and s.layout == "rows" and (not s.ids or s.magnitude is not None):
        # the terms of a row's sums have the label's sign, and that of the class's weight
        sizes = (laid[0], laid[1] if s.ids else abs(laid[1]))
        loss_terms = abs(unsigned.value(*sizes)).reshape(unreduced_shape)
        terms["pred"] = largest(unsigned.gradients(seen(abs(m)), *sizes)["pred"])
    terms["value"] = largest(full * loss_terms * scale) * max(1.0, loss.size / max(value.size, 1))
    at_all = {k: np.zeros(a.shape) for k, a in wide.items() if k not in s.ids}
    hessians = {name: np.zeros(wide[name].shape) for name in s.built.twice_differentiable}
    if not empty:
        for k, found in s.gradients(seen(m)[kept], *met).items():
            a = among_all(found)
            at_all[k] = a if k in s.free else lay.back(a, ndim).reshape(wide[k].shape)
            if s.layout == "elements" and at_all[k].shape == full.shape:
                at_all[k] = np.where((full == 0) & ~np.isfinite(at_all[k]), 0, at_all[k])
        for k in {*s.free} & {*s.differentiable}:
            # a sum, whose terms have the label's sign
            terms[k] = largest(s.gradients(seen(abs(m)), laid[0], abs(laid[1]), *laid[2:])[k])
        if s.hessian is not None:
            hessians[s.names[0]] = lay.back(s.hessian(seen(m), *laid), ndim).reshape(shape)
        if s.third_hessian is not None:
            hessians[s.names[2]] = s.third_hessian(m, *laid)
            terms[f"hessian of {s.names[2]}"] = largest(s.third_hessian(abs(m), *laid))
    to_weight = factor * loss
    terms["sample_weight"] = largest(unbroadcast(abs(factor) * loss_terms, given.shape))
    if reduction == "weighted_mean" and count:
        share = value / count * per_class * head
        to_weight = to_weight - share
        share_terms = (abs(full * scale) * loss_terms).sum() / count * per_class * head
        terms["sample_weight"] = max(terms["sample_weight"], largest(unbroadcast(abs(share_terms), given.shape)))
    at_all["sample_weight"] = unbroadcast(to_weight, given.shape)
    return Expected(value, at_all, hessians, terms)


def as_dtype(a: Array, dtype: DTypeLike) -> Array:
    """Numbers near those of a that a dtype holds."""
    wanted = np.dtype(dtype)
    if wanted.kind == "b":
        return np.asarray(a > 0, wanted)
    if wanted.kind in "iu":
        a = np.round(np.where(np.isfinite(a), a, 0))
        return np.asarray(abs(a) if wanted.kind == "u" else a, wanted)
    return np.asarray(a, wanted)


def as_ids(a: Array, dtype: DTypeLike, other: float) -> Array:
    """Ids as a dtype, with another in place of those that it does not hold."""
    wanted = np.dtype(dtype)
    low, high = (0, 1) if wanted.kind == "b" else (0, 255) if wanted.kind == "u" else (-128, 127)
    return np.asarray(np.where((a < low) | (a > high), other, a), wanted)


def squeezed(shape: Shape) -> Shape:
    return tuple(n for n in shape if n != 1)


def nested(flat: list[Any], method: str, wrt: Any) -> Any:
    """The results of a method, or buffers for them, in the structure in which it returns them."""
    rest = list(flat)
    structure: list[Any] = []
    for part in METHODS[method]:
        many = part != "value" and isinstance(wrt, tuple)
        structure.append(tuple(rest.pop(0) for _ in wrt) if many else rest.pop(0))
    return structure[0] if len(structure) == 1 else tuple(structure)
