"""Every loss in one form, for cases that are generated over all of them: how it is called, and what it should return.

A specimen's formulas are those of reference and structured. They see arrays that lie in one way: classes and features
last, examples first, time before classes. Lay knows where a call has these axes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

import fastloss as fl
from tests import reference, structured
from tests.judge import largest
from tests.reference import unbroadcast

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
    layout: Layout
    names: tuple[str, ...]  # of its inputs but for sample_weight, in the order of data
    data: Callable[[np.random.Generator, Shape], tuple[Array, ...]]
    value: Callable[..., Array]
    gradients: Callable[..., dict[str, Array]]
    hessian: Callable[..., Array] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    example_weight: Callable[..., Array] | None = None  # what an example counts in a weighted mean, by its label
    ids: tuple[str, ...] = ()  # inputs whose values are checked
    per_row: tuple[str, ...] = ()  # inputs of the unreduced loss's shape
    free: tuple[str, ...] = ()  # inputs whose shape is their own
    magnitude: Specimen | None = None  # the same without the signs of its parameters

    @property
    def inputs(self) -> tuple[str, ...]:
        return self.loss().inputs

    @property
    def required(self) -> int:
        return self.loss().required

    @property
    def least_axes(self) -> int:
        """How many axes the first input has at least."""
        if self.loss is fl.CTCLoss:
            return 3
        return {"elements": 0, "coupled": 1, "rows": 1, "examples": 0}[self.layout] + 2 * (self.loss is fl.SDMLLoss)

    def has_batch_axis(self) -> bool:
        return self.loss is not fl.CTCLoss


def exactly(a: Array) -> Array:
    """Numbers whose differences and products every float holds: all agree on which side of a kink they are."""
    return np.asarray(np.round(64 * a) / 64)


def of_reference(r: reference.Reference, **parameters: Any) -> Specimen:
    """A loss of elements, or of rows over classes."""
    names = ("pred", "label") if r.third is None else ("pred", "label", r.third)

    def spread(m: Array) -> Array:
        return m[..., None] if r.row else m

    def gradients(m: Array, *inputs: Array) -> dict[str, Array]:
        g = {"pred": spread(m) * r.gradient(*inputs)}
        if r.label_gradient is not None:
            g["label"] = spread(m) * r.label_gradient(*inputs)
        if r.third_gradient is not None and r.third == "pos_weight":
            g["pos_weight"] = unbroadcast(m * r.third_gradient(*inputs), inputs[2].shape)
        return g

    def data(rng: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        if r.row and shape[-1] == 0:
            label = np.zeros(shape) if r.label_gradient else np.full(shape[:-1], r.parameters["ignore_index"] or 0)
            return np.zeros(shape), label
        return tuple(exactly(np.asarray(a)) for a in r.data(rng, shape))

    ids = ("label",) if r.row and r.label_gradient is None else ()
    return Specimen(
        loss=r.loss,  # type: ignore[arg-type]
        layout="rows" if r.row else "elements",
        names=names,
        data=data,
        value=r.value,
        gradients=gradients,
        hessian=lambda m, *inputs: spread(m) * r.hessian(*inputs),
        parameters=r.parameters | parameters,
        example_weight=r.class_weight,
        ids=ids,
        per_row=ids,
        free=() if r.third is None else (r.third,),
    )


def elementwise(loss: type[fl.Loss], formulas: dict[str, Any], data: Any, **parameters: Any) -> Specimen:
    return of_reference(reference.Reference(loss, **formulas, data=data, source="", parameters=parameters))


def classes(**parameters: Any) -> Specimen:
    """Cross-entropy over classes."""
    made = of_reference(reference.Reference(**reference.softmax(**parameters)))
    weights = parameters.get("class_weight")
    if weights is None or min(weights, default=0) >= 0:
        return made
    return replace(made, magnitude=classes(**parameters | {"class_weight": tuple(map(abs, weights))}))


def divergence() -> Specimen:
    """KL divergence of logits, the classes last."""
    of = structured.divergence(-1, ())

    def data(rng: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        return exactly(rng.normal(scale=2, size=shape)), exactly(rng.random(shape) * (rng.random(shape) > 0.1))

    return Specimen(
        loss=fl.KLDivLoss,
        layout="coupled",
        names=("pred", "label"),
        data=data,
        value=of["value"],
        gradients=of["gradients"],
        hessian=of["hessian"],
        parameters={"from_logits": False},
    )


def triplet(margin: float) -> Specimen:
    def flat(*inputs: Array) -> list[Array]:
        return [a.reshape(len(a), a.size // len(a)) for a in inputs]

    of = structured.triplet(margin, (1,))

    def gradients(m: Array, *inputs: Array) -> dict[str, Array]:
        return {k: a.reshape(inputs[0].shape) for k, a in of["gradients"](m, *flat(*inputs)).items()}

    return Specimen(
        loss=fl.TripletLoss,
        layout="examples",
        names=("pred", "positive", "negative"),
        data=lambda rng, shape: tuple(exactly(rng.normal(size=(3, *shape)))),
        value=lambda *inputs: of["value"](*flat(*inputs)),
        gradients=gradients,
        hessian=lambda m, x, y, z: 0 * x,
        parameters={"margin": margin},
    )


def cosine(margin: float) -> Specimen:
    of = structured.cosine(margin, 1)

    def data(rng: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        # no vector of zeros, which has no angle
        x, y = exactly(rng.normal(size=(2, *shape)))
        if shape[-1]:
            x[..., 0], y[..., 0] = abs(x[..., 0]) + 1, np.where(y[..., 0] < 0, -1, 1) + y[..., 0]
        return x, y, rng.choice([-1, 1], shape[:-1])

    return Specimen(
        loss=fl.CosineEmbeddingLoss,
        layout="rows",
        names=("input1", "input2", "label"),
        data=data,
        # the cosine of vectors of no numbers is 0
        value=lambda x, y, q: of["value"](x, y, q) if x.shape[-1] else np.where(q == 1, 1.0, max(0.0, -margin)),
        gradients=of["gradients"],
        hessian=of["hessian"],
        parameters={"margin": margin},
        ids=("label",),
        per_row=("label",),
    )


def metric(smoothing: float) -> Specimen:
    of = structured.metric(smoothing, 1)

    def flat(*inputs: Array) -> list[Array]:
        return [a.reshape(len(a), a.size // len(a)) for a in inputs]

    def gradients(m: Array, *inputs: Array) -> dict[str, Array]:
        return {k: a.reshape(inputs[0].shape) for k, a in of["gradients"](m, *flat(*inputs)).items()}

    def data(rng: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        # near enough that the reference's exponentials are not all 0
        return tuple(exactly(rng.normal(scale=1 / np.sqrt(max(4, *shape, np.prod(shape[1:]))), size=(2, *shape))))

    return Specimen(
        loss=fl.SDMLLoss,
        layout="examples",
        names=("x1", "x2"),
        data=data,
        value=lambda *inputs: of["value"](*flat(*inputs)),
        gradients=gradients,
        parameters={"smoothing_parameter": smoothing},
    )


def sequences(blank: Literal["last", "first"] | int, *, zero_infinity: bool = False, lengths: bool = True) -> Specimen:
    """CTC over frames, with lengths, or with labels that end at -1 and predictions as long as they are."""

    def of(x: Array, y: Array, n: Array | None = None, k: Array | None = None) -> tuple[Any, Array, Array]:
        if n is None or k is None:
            # the first -1, or one behind the last
            ends = np.pad(y == -1, ((0, 0), (0, 1)), constant_values=True)
            n, k = np.full(len(x), x.shape[1]), ends.argmax(1)
        return structured.sequence(blank, x.shape[1], x.shape[2]), n, k

    def feasible(y: Array, n: Array, k: Array) -> Array:
        repeats = [int((row[1 : int(j)] == row[: max(int(j) - 1, 0)]).sum()) for row, j in zip(y, k, strict=True)]
        return np.asarray(k + repeats <= n)

    def value(x: Array, y: Array, *both: Array) -> Array:
        formulas, n, k = of(x, y, *both)
        good = feasible(y, n, k)
        out = np.full(len(x), 0.0 if zero_infinity else np.inf)
        out[good] = formulas["value"](x[good], y[good], n[good], k[good])
        return out

    def gradients(m: Array, x: Array, y: Array, *both: Array) -> dict[str, Array]:
        formulas, n, k = of(x, y, *both)
        good = feasible(y, n, k)
        out = np.zeros(x.shape)
        out[good] = formulas["gradients"](m[good], x[good], y[good], n[good], k[good])["pred"]
        return {"pred": out}

    def data(rng: np.random.Generator, shape: Shape) -> tuple[Array, ...]:
        n, frames, width = shape
        longest = int(rng.integers(0, frames + 2)) if width > 1 else 0
        label = structured.without_blank(
            rng.integers(0, max(width - 1, 1), (n, longest)), structured.blank_among(blank, width)
        )
        pred = exactly(rng.normal(scale=2, size=shape))
        if lengths:
            return pred, label, rng.integers(0, frames + 1, n), rng.integers(0, longest + 1, n)
        return pred, np.where(np.arange(longest) >= rng.integers(0, longest + 1, (n, 1)), -1, label)

    own = ("label", "pred_lengths", "label_lengths") if lengths else ("label",)
    return Specimen(
        loss=fl.CTCLoss,
        layout="examples",
        names=("pred", *own),
        data=data,
        value=value,
        gradients=gradients,
        parameters={"blank": blank, "zero_infinity": zero_infinity},
        ids=own,
        free=own,
    )


def specimens() -> dict[str, Specimen]:
    """Each loss, in each form that has a loop or a branch of its own."""
    elements = {name: of_reference(r) for name, r in reference.LOSSES.items() if not r.row}
    return elements | {
        "softmax": classes(),
        "softmax ignore": classes(ignore=-1),
        "softmax smoothing": classes(smoothing=0.125, ignore=1),
        "softmax dense": classes(sparse=False),
        "softmax dense smoothing": classes(sparse=False, smoothing=0.25),
        "softmax log-probabilities": classes(log_probabilities=True, ignore=0),
        "softmax dense log-probabilities": classes(sparse=False, log_probabilities=True),
        "KL logits": divergence(),
        "triplet": triplet(1),
        "cosine": cosine(0.2871),
        "SDML": metric(0.3),
        "SDML smoothing=0": metric(0),
        "CTC": sequences("last"),
        "CTC blank=first": sequences("first", zero_infinity=True),
        "CTC padded": sequences("last", lengths=False),
    }


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
    hessian: Array | None
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
    empty = 0 in unreduced_shape or (s.loss is fl.SoftmaxCELoss and lay.forth(pred).shape[-1] == 0)

    def seen(a: Array) -> Array:
        """Of the unreduced loss, as the formulas see it."""
        return lay.forth(a) if s.layout == "coupled" else a.reshape(len(laid[0])) if s.layout == "examples" else a

    loss = np.zeros(unreduced_shape)
    per_class = np.ones(unreduced_shape)
    if not empty:
        loss = s.value(*laid)
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
    if not empty and s.loss is fl.SoftmaxCELoss and ("label" not in s.ids or unsigned is not s):
        # the terms of a row's sums have the label's sign, and that of the class's weight
        sizes = (laid[0], laid[1] if "label" in s.ids else abs(laid[1]))
        loss_terms = abs(unsigned.value(*sizes)).reshape(unreduced_shape)
        terms["pred"] = largest(unsigned.gradients(seen(abs(m)), *sizes)["pred"])
    terms["value"] = largest(full * loss_terms * scale) * max(1.0, loss.size / max(value.size, 1))
    at_all = {k: np.zeros(a.shape) for k, a in wide.items() if k not in s.ids}
    hessian = None if s.hessian is None else np.zeros(shape)
    if not empty:
        for k, a in s.gradients(seen(m), *laid).items():
            at_all[k] = a if k in s.free else lay.back(a, ndim).reshape(wide[k].shape)
        if "pos_weight" in at_all:
            # whose terms have the label's sign
            terms["pos_weight"] = largest(s.gradients(seen(abs(m)), laid[0], abs(laid[1]), *laid[2:])["pos_weight"])
        if s.hessian is not None:
            hessian = lay.back(s.hessian(seen(m), *laid), ndim).reshape(shape)
    to_weight = factor * loss
    terms["sample_weight"] = largest(unbroadcast(abs(factor) * loss_terms, given.shape))
    if reduction == "weighted_mean" and count:
        share = value / count * per_class * head
        to_weight = to_weight - share
        share_terms = (abs(full * scale) * loss_terms).sum() / count * per_class * head
        terms["sample_weight"] = max(terms["sample_weight"], largest(unbroadcast(abs(share_terms), given.shape)))
    at_all["sample_weight"] = unbroadcast(to_weight, given.shape)
    return Expected(value, at_all, hessian, terms)


def as_dtype(a: Array, dtype: DTypeLike) -> Array:
    """Numbers near those of a that a dtype holds."""
    wanted = np.dtype(dtype)
    if wanted.kind == "b":
        return np.asarray(a > 0, wanted)
    if wanted.kind in "iu":
        a = np.round(a)
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
        many = part == "gradient" and isinstance(wrt, tuple)
        structure.append(tuple(rest.pop(0) for _ in wrt) if many else rest.pop(0))
    return structure[0] if len(structure) == 1 else tuple(structure)
