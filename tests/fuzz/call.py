"""A call of any loss, in all that it is made of: what is drawn, and what is passed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastloss as fl
from fastloss._domains import COUNT
from tests import reference, structured
from tests.reference import Reference
from tests.specimens import (
    METHODS,
    Array,
    Lay,
    Shape,
    Specimen,
    as_dtype,
    as_ids,
    specimen,
    specimens,
    value_shape,
)
from tests.structured import Structured
from tests.test_inputs import LAYOUTS

SPECIMENS = specimens()


def elementwise(loss: type[fl.Loss], formulas: dict[str, Any], **parameters: Any) -> Specimen:
    return specimen(Reference(loss, **formulas, source="", parameters=parameters))


def binary_cross_entropy(from_sigmoid: bool, pos_weight: bool) -> Specimen:
    return SPECIMENS["BCE" + " from_sigmoid" * from_sigmoid + " pos_weight" * pos_weight]


def poisson(logits: bool, full: bool, epsilon: bool) -> Specimen:
    data = reference.count_data if logits else reference.rate_data
    third = {"third": "epsilon"} if epsilon else {}
    of = Reference(
        fl.PoissonNLLLoss,
        **reference.poisson(logits=logits, full=full),
        data=reference.weighted(data) if epsilon else data,
        source="",
        parameters={"from_logits": logits, "compute_full": full},
        **third,
    )
    return specimen(of)


FAMILIES: dict[str, Callable[..., Specimen]] = {
    "case": lambda name: SPECIMENS[name],
    "huber": lambda rho: elementwise(fl.HuberLoss, reference.huber(rho), rho=rho),
    "hinge": lambda margin: elementwise(fl.HingeLoss, reference.hinge(margin), margin=margin),
    "squared_hinge": lambda margin: elementwise(fl.SquaredHingeLoss, reference.squared_hinge(margin), margin=margin),
    "bce": binary_cross_entropy,
    "poisson": poisson,
    "classes": lambda **parameters: specimen(Reference(**reference.softmax(**parameters))),
    "triplet": lambda margin: specimen(Structured(**structured.triplet(margin, (1,)))),
    "cosine": lambda margin: specimen(Structured(**structured.cosine(margin, 1))),
    "metric": lambda smoothing: specimen(Structured(**structured.metric(smoothing, 1))),
    "sequences": lambda **parameters: specimen(Structured(**structured.sequence(**parameters))),
}


@dataclass(frozen=True)
class Call:
    """Everything that a call is made of; its repr makes it again."""

    family: str
    parameters: dict[str, Any]
    shape: Shape
    axis: int = -1
    batch_axis: int = 0
    time_first: tuple[bool, bool] = (False, False)  # of the sequences of predictions and labels
    method: str = "__call__"
    reduction: str = "example"
    weight: float = 1
    dtypes: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)
    wild: bool = False  # labels and weights far from where they should be, of any sign
    squeeze: bool = False  # labels, of their axes of size 1
    sample_weight: str | tuple[bool, ...] | None = None  # one per example, or which axes of the loss it has
    third_axes: tuple[bool, ...] = ()  # of pos_weight
    head: str | None = None
    wrt: str | tuple[str, ...] | None = None
    out: tuple[str | None, ...] | None = None  # a buffer's layout for each result; "over" the input it is a gradient of
    threads: int = 1
    special: tuple[str, float] | None = None  # a number put into an input here and there
    mistake: str | None = None
    seed: int = 0


@dataclass
class Attempt:
    """A call about to be made, which a mistake may spoil."""

    call: Call
    specimen: Specimen
    lay: Lay
    rng: np.random.Generator
    constructor: dict[str, Any]
    inputs: dict[str, Any]
    options: dict[str, Any]
    spread: Shape | None  # the shape in which sample_weight broadcasts to the unreduced loss
    results: list[Array] = field(default_factory=list)  # of a plain call
    refusals: tuple[type[Exception], ...] = ()
    word: str = ""  # that the message must have

    def refuses(self, word: str, *kinds: type[Exception]) -> None:
        self.word, self.refusals = word, kinds

    def one_of(self, names: Any) -> Any:
        names = list(names)
        return names[self.rng.integers(len(names))]


def family_of(call: Call) -> Specimen:
    parameters = dict(call.parameters)
    if call.family == "classes":
        width = call.shape[call.axis]
        weight = np.random.default_rng(call.seed + 1).integers(-4 if call.wild else 0, 9, width) / 4
        parameters["class_weight"] = tuple(weight.tolist()) if parameters["class_weight"] else None
        parameters["ignore"] = parameters["ignore"] if parameters["sparse"] else None
        parameters["classes"] = width
    return FAMILIES[call.family](**parameters)


def constructor_of(call: Call, s: Specimen) -> dict[str, Any]:
    given = dict(s.parameters) | {"reduction": call.reduction, "weight": call.weight}
    if s.is_of_sequences:
        first, second = call.time_first
        return given | {"layout": "TNC" if first else "NTC", "label_layout": "TN" if second else "NT"}
    if s.has_axis:
        given["axis"] = call.axis
    return given | {"batch_axis": call.batch_axis}


def draw_inputs(call: Call, s: Specimen, lay: Lay, rng: np.random.Generator) -> dict[str, Array]:
    """The inputs as the call has them, contiguous, in their dtypes."""
    shape = call.shape
    arrays = dict(zip(s.names, s.data(rng, lay.seen(shape)), strict=True))
    if call.wild and "label" in arrays:
        arrays["label"] = wild_label(s, arrays, rng)
    for k, spec in s.specs.items():
        if spec.lies == "broadcast":
            is_wild = call.wild and spec.domain is not COUNT
            weights = rng.integers(-6 if is_wild else 0, 13, partial(lay.unreduced(shape), call.third_axes))
            # no count is above that of the trials
            most = np.ceil(np.max(arrays["label"], initial=0)) if spec.domain is COUNT else 0
            arrays[k] = np.asarray(weights / 4 + most)
    if call.family == "poisson" and "epsilon" in arrays:
        arrays["epsilon"] = np.array(rng.choice([1e-8, 0.25]))
    inputs: dict[str, Array] = {}
    for k, a in arrays.items():
        laid = a if k in s.free or k in s.per_row else lay.back(a, len(shape))
        convert = ids_in if k in s.ids else numbers_in
        inputs[k] = np.array(convert(call, s, k, laid), order="C")
    if call.time_first[1]:
        inputs["label"] = np.array(inputs["label"].T, order="C")
    return inputs


def wild_label(s: Specimen, arrays: dict[str, Array], rng: np.random.Generator) -> Array:
    """Labels far from where they should be, if the formulas have a value for them."""
    label = arrays["label"]
    if s.layout not in ("elements", "rows") or s.specs["label"].lies != "like first":
        return label
    wild = np.asarray(rng.integers(-256, 257, label.shape) / 64)
    with np.errstate(all="ignore"):
        is_good = np.isfinite(s.value(*(arrays | {"label": wild}).values())).all()
    return wild if is_good else label


def numbers_in(call: Call, s: Specimen, name: str, a: Array) -> Array:
    """Numbers in their dtype, or in float64 where they would not mean the same."""
    rounded = as_dtype(a, call.dtypes.get(name, "f8"))
    if call.family == "cosine":
        # a vector of zeros, to which an integer's dtype may round, has no angle
        first = np.moveaxis(rounded, call.axis, -1)[..., :1]
        first[first == 0] = 1
    domain = s.specs[name].domain
    means = domain.holds(np.asarray(rounded, float), 0) | ~domain.holds(np.asarray(a, float), 0)
    return rounded if means.all() else a.astype("f8")


def ids_in(call: Call, s: Specimen, name: str, a: Array) -> Array:
    """Ids in their dtype, or in float64 where not every dtype holds one that is good."""
    width, integers = call.shape[call.axis], s.specs[name].integers
    if integers is not None and integers.high is None and (abs(integers.also or 0) > 2**52 or not width):
        return a.astype("f8")
    return as_ids(a, call.dtypes.get(name, "f8"), s.good_id(name, width))


def partial(shape: Shape, keep: tuple[bool, ...]) -> Shape:
    """A shape that broadcasts to another: without its first axes, and with 1 for some of the others."""
    if not keep:
        return ()
    some = tuple(n if k else 1 for n, k in zip(shape[-len(keep) :], keep, strict=False))
    return some[-len(shape) :] if shape else ()


def weight_shapes(call: Call, lay: Lay) -> tuple[Shape, Shape]:
    """The shape of sample_weight, and that in which it broadcasts to the unreduced loss."""
    unreduced = lay.unreduced(call.shape)
    batch = lay.batch(len(call.shape))
    if call.sample_weight == "example" and unreduced and batch is not None:
        n = unreduced[batch]
        return (n,), tuple(n if k == batch else 1 for k in range(len(unreduced)))
    shape = unreduced if isinstance(call.sample_weight, str) else partial(unreduced, call.sample_weight or ())
    if len(shape) == 1 and batch is not None and len(unreduced) > 1:
        # one axis alone would be that of the examples
        shape = (*(1,) * (len(unreduced) - 1), *shape)
    return shape, shape


def head_of(call: Call, lay: Lay, rng: np.random.Generator) -> Any:
    if call.head is None or call.method == "__call__":
        return None
    shape = () if call.head == "number" else value_shape(lay, call.shape, call.reduction)
    return as_dtype(rng.integers(-8, 9, shape) / 4, call.dtypes.get("head_grad", "f8"))


def wrt_of(call: Call, s: Specimen) -> Any:
    """The inputs to differentiate in, without those that this call has not or that have no gradient."""
    if call.method == "__call__" or call.wrt is None:
        return None
    is_second = "hessian" in METHODS[call.method]
    good = [k for k in s.names if k in (s.built.twice_differentiable if is_second else s.differentiable)]
    if is_second and not good:
        return None
    if call.sample_weight is not None and not is_second:
        good.append("sample_weight")
    if isinstance(call.wrt, str):
        return call.wrt if call.wrt in good else good[0]
    return tuple(k for k in call.wrt if k in good) or tuple(good)


def put_special(call: Call, s: Specimen, inputs: dict[str, Any], rng: np.random.Generator) -> None:
    """Puts a number like NaN into one of the inputs."""
    name, number = call.special or ("", 0)
    a, spec = inputs.get(name), s.specs.get(name)
    is_real = spec is None or (spec.integers is None and spec.lies not in ("own", "number"))
    if a is not None and a.dtype.kind == "f" and is_real:
        with np.errstate(over="ignore"):
            a[rng.random(a.shape) < 0.3] = number


def laid_out(a: Attempt, name: str, x: Array) -> Any:
    """An input in its layout; a label without its axes of size 1, unless its gradient, of its shape, is wanted."""
    wrt = a.options.get("wrt", ())
    squeezes = a.call.squeeze and a.specimen.layout == "elements" and name == "label" and "label" not in wrt
    return LAYOUTS[a.call.layouts.get(name, "contiguous")](x.squeeze() if squeezes else x)


def attempt_of(call: Call) -> Attempt:
    """The call, good and plain."""
    s = family_of(call)
    lay = Lay(s.layout, call.axis, 1 if call.time_first[0] else call.batch_axis)
    rng = np.random.default_rng(call.seed)
    inputs: dict[str, Any] = dict(draw_inputs(call, s, lay, rng))
    spread = None
    if call.sample_weight is not None:
        shape, spread = weight_shapes(call, lay)
        weights = rng.integers(-8 if call.wild else 1, 9, shape) / 4
        inputs["sample_weight"] = as_dtype(weights, call.dtypes.get("sample_weight", "f8"))
    options = {"head_grad": head_of(call, lay, rng), "wrt": wrt_of(call, s)}
    put_special(call, s, inputs, rng)
    given = {k: v for k, v in options.items() if v is not None}
    return Attempt(call, s, lay, rng, constructor_of(call, s), inputs, given, spread)
