"""float16 and bfloat16: computed in float32 from what they hold, and rounded once into results of the same type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from fastloss._foreign import BFLOAT16
from tests.calls import ENTRIES, inputs_of
from tests.selection import LOOPS

ml_dtypes = pytest.importorskip("ml_dtypes", reason="gives NumPy a bfloat16")

Array = NDArray[Any]

HALVES: dict[str, Any] = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
# binary digits, the exponent of the smallest number, and where infinity begins
FORMATS = {"float16": (11, -24, 65520.0), "bfloat16": (8, -133, float.fromhex("0x1.ffp127"))}
BITS = np.arange(1 << 16, dtype=np.uint16)

halves = pytest.mark.parametrize("half", HALVES)


def bits(a: Any) -> Any:
    return np.asarray(a).view(np.uint16)


def nearest(x: Array, half: str) -> Array:
    """The nearest number of a half type, and of two the even one, in float64, by the definition of the format."""
    digits, least, beyond = FORMATS[half]
    unit = np.ldexp(1.0, np.maximum(np.frexp(x)[1] - digits, least))
    return np.where(np.abs(x) >= beyond, np.copysign(np.inf, x), np.rint(x / unit) * unit)


@halves
@pytest.mark.parametrize("computed", [np.float32, np.float64])
@pytest.mark.parametrize("step", [1, 2])
def test_results_are_the_nearest_halves(half: str, computed: Any, step: int) -> None:
    """Every half, the numbers halfway between two and their neighbours, in one run and in steps."""
    with np.errstate(invalid="ignore"):
        known = BITS.view(HALVES[half]).astype(np.float64)
    finite = np.sort(known[np.isfinite(known)])
    middle = ((finite[1:] + finite[:-1]) / 2).astype(computed)
    beyond = np.array([FORMATS[half][2], np.nextafter(FORMATS[half][2], 0), 3e38, np.inf, np.nan], computed)
    parts = [finite, -finite, middle, np.nextafter(middle, -np.inf), np.nextafter(middle, np.inf), beyond, -beyond]
    x = np.concatenate([a.astype(computed) for a in parts])
    out = np.zeros((x.size, step), HALVES[half])[:, 0]
    fl.L1Loss().grad(np.ones_like(x), np.zeros_like(x), head_grad=x, out=out)
    is_number = ~np.isnan(x)
    got = out.astype(np.float64)
    with np.errstate(invalid="ignore"):
        want = nearest(x.astype(np.float64), half)
    np.testing.assert_array_equal(got[is_number], want[is_number])
    assert np.isnan(got[~is_number]).all()
    assert (np.signbit(got) == np.signbit(x))[is_number].all()


@pytest.mark.parametrize(("half", "own"), [("float16", False), ("bfloat16", False), ("bfloat16", True)])
def test_every_half_is_read(half: str, own: bool) -> None:
    known = BITS.view(BFLOAT16 if own else HALVES[half])
    with np.errstate(invalid="ignore"):
        want = -BITS.view(HALVES[half]).astype(np.float32)
    np.testing.assert_array_equal(fl.L2Loss().grad(np.zeros(1 << 16, np.float32), known), want)


@halves
@pytest.mark.parametrize("name", ENTRIES)
def test_results_are_those_of_float32_rounded(rng: np.random.Generator, name: str, half: str) -> None:
    loss = ENTRIES[name].build()
    inputs = inputs_of(ENTRIES[name], rng, 6)
    given = {k: a.astype(HALVES[half]) if a.dtype.kind == "f" else a for k, a in inputs.items()}
    single = {k: a.astype(np.float32) if a.dtype == HALVES[half] else a for k, a in given.items()}
    method = "value_and_grad" if loss.no_hessian else "value_grad_and_hess"
    for got, want in zip(getattr(loss, method)(**given), getattr(loss, method)(**single), strict=True):
        assert got.dtype == HALVES[half]
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(bits(got), bits(want.astype(HALVES[half])))


@halves
@pytest.mark.parametrize("reduction", ["example", "none", "sum", "mean", "weighted_mean"])
@pytest.mark.parametrize("name", LOOPS)
def test_reductions(rng: np.random.Generator, name: str, reduction: str, half: str) -> None:
    """Gradients in all inputs: sums over what is broadcast are rounded at their end; totals are Python's floats."""
    loss = ENTRIES[name].build(reduction=reduction)
    inputs = inputs_of(ENTRIES[name], rng, 6)
    first = loss.inputs[0]
    wrt = tuple(k for k in inputs if k not in loss.fixed)
    given = inputs | {first: inputs[first].astype(HALVES[half])}
    value, gradients = loss.value_and_grad(**given, wrt=wrt)
    single = inputs | {first: given[first].astype(np.float32)}
    wanted, wants = loss.value_and_grad(**single, wrt=wrt)
    if reduction in ("example", "none"):
        gradients, wants = (*gradients, value), (*wants, wanted)
    else:
        assert type(value) is float
        assert value == wanted
    for got, want in zip(gradients, wants, strict=True):
        assert got.dtype == HALVES[half]
        np.testing.assert_array_equal(bits(got), bits(want.astype(HALVES[half])))


@halves
def test_numbers_are_scalars_of_the_type(half: str) -> None:
    x = HALVES[half](3)
    for got, want in zip(fl.L2Loss().value_grad_and_hess(x, 1.0), (2, 2, 1), strict=True):
        assert type(got) is HALVES[half]
        assert got == want
    np.testing.assert_array_equal(fl.L2Loss()(np.empty((2, 0), HALVES[half]), np.empty((2, 0))), [0, 0])


def test_byte_order_is_this_machines() -> None:
    x = np.array([1.5, -2], np.float16)
    gradient = fl.L2Loss().grad(x.astype(x.dtype.newbyteorder()), [0.0, 0.0])
    assert gradient.dtype == x.dtype
    np.testing.assert_array_equal(gradient, x)


@halves
def test_float32_results_where_they_are_asked_for(half: str, rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 50, 3)).astype(HALVES[half])
    out = np.empty(50, np.float32), np.empty((50, 3), np.float32)
    value, gradient = fl.LogCoshLoss().value_and_grad(x, y, out=out)
    want = fl.LogCoshLoss().value_and_grad(x.astype(np.float32), y.astype(np.float32))
    assert value is out[0]
    np.testing.assert_array_equal(value, want[0])
    np.testing.assert_array_equal(gradient, want[1])
    # a half beside them, over the predictions
    fl.LogCoshLoss().value_and_grad(x, y, out=(out[0], x))
    np.testing.assert_array_equal(bits(x), bits(want[1].astype(HALVES[half])))


@halves
@pytest.mark.parametrize("offset", [0, 5])
def test_results_larger_than_the_cache(half: str, offset: int, rng: np.random.Generator) -> None:
    x, y = rng.random((2, (1 << 22) + 5), np.float32).astype(HALVES[half])
    loss = fl.L2Loss(reduction="mean", weight=x.size)
    value, want = loss.value_and_grad(x, y)
    room = np.zeros(x.size + 64, HALVES[half])
    out = room[offset : offset + x.size]
    assert loss.value_and_grad(x, y, out=(None, out))[0] == value
    np.testing.assert_array_equal(bits(out), bits(want))
    assert not bits(room[:offset]).any()
    assert not bits(room[offset + x.size :]).any()
    loss.grad(x, y, out=x)
    np.testing.assert_array_equal(bits(x), bits(want))


@halves
def test_rows_of_a_linear_predictor(half: str, rng: np.random.Generator) -> None:
    X, label = rng.normal(size=(50, 7)).astype(HALVES[half]), rng.normal(size=50)
    linear, weight = fl.LinearLoss(fl.HuberLoss(reduction="mean")), rng.normal(size=7).astype(np.float32)
    value, gradient = linear.value_and_grad(X, weight, label)
    wanted, want = linear.value_and_grad(X.astype(np.float32), weight, label)
    assert value == wanted > 0
    np.testing.assert_array_equal(gradient, want)


@pytest.mark.parametrize("half", [*HALVES, "own"])
def test_factors_beyond_float32(half: str) -> None:
    """Calls that are made in float64 read halves, and round to them, too."""
    dtype = BFLOAT16 if half == "own" else HALVES[half]
    x, weight = np.array([3, -5], np.float32), np.array([2, 0.5], np.float32)
    short = {"own": ml_dtypes.bfloat16}.get(half, dtype)
    given = [a.astype(short).view(dtype) for a in (x, 0 * x, weight)]
    loss = fl.L2Loss(weight=1e-35, reduction="none")
    value, gradient = loss.value_and_grad(*given, head_grad=1e35)
    assert value.dtype == gradient.dtype == dtype
    wanted = loss.value_and_grad(x.astype(float), 0 * x, weight, head_grad=1e35)
    for got, want in zip((value, gradient), wanted, strict=True):
        np.testing.assert_array_equal(bits(got), bits(want.astype(short)))
    total = fl.L2Loss(reduction="weighted_mean", weight=1e-35)
    assert total(*given) == total(x.astype(float), 0 * x, weight)


def test_a_label_of_bfloat16_is_named_in_messages() -> None:
    label = np.array([0, 7], ml_dtypes.bfloat16)
    for ids in (label, label.view(BFLOAT16)):
        with pytest.raises(ValueError, match=r"label must hold .* got 7.* at position \(1,\)"):
            fl.SoftmaxCELoss()(np.zeros((2, 3), np.float32), ids)


def test_other_types_of_two_bytes_are_refused() -> None:
    pair = np.zeros(3, [("high", np.uint8), ("low", np.uint8)])
    for given in (pair, np.zeros(3, "V2"), np.zeros(3, ml_dtypes.float8_e5m2)):
        with pytest.raises(TypeError, match="pred must be an array of real numbers, got dtype"):
            fl.L2Loss()(given, np.zeros(3))
        with pytest.raises(TypeError, match=r"out for the value must have a dtype of floats"):
            fl.L2Loss(reduction="none")(np.zeros(3), np.zeros(3), out=given)
