"""The caller's buffers: results written into out=, and what is refused, with out= untouched."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

import fastloss as fl
from tests.calls import ENTRIES, inputs_of
from tests.reference import LOSSES, Reference, call_args, draw
from tests.selection import ELEMENTS, LOOPS, every_loop
from tests.specimens import LONG_DOUBLE

REPRESENTATIVES = {name: LOSSES[name] for name in ELEMENTS}
METHODS = {
    "__call__": 1,
    "grad": 1,
    "value_and_grad": 2,
    "grad_and_hess": 2,
    "value_grad_and_hess": 3,
}


def buffer_like(a: Any, layout: str) -> NDArray[Any]:
    a = np.asarray(a)
    if layout == "strided" and a.ndim:
        return np.full((*a.shape[:-1], 2 * a.shape[-1]), 7, a.dtype)[..., ::2]
    if layout == "fortran":
        return np.full(a.shape, 7, a.dtype, order="F")
    if layout == "unaligned":
        out = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
        out[...] = 7
        return out
    return np.full(a.shape, 7, a.dtype)


@every_loop(
    shape=[(5,), (4, 6), (2, 3, 1000)],
    method=list(METHODS),
    layout=["contiguous", "strided", "fortran", "unaligned"],
    reduction=["example", "none", "mean", "weighted_mean"],
)
def test_results_go_to_out(
    reference: Reference, rng: np.random.Generator, shape: Any, method: str, layout: str, reduction: str
) -> None:
    args = call_args(reference, draw(reference, rng, shape), rng.random(shape))
    call = getattr(reference.build(reduction=reduction), method)
    want = call(*args)
    many = METHODS[method] > 1
    out = tuple(buffer_like(a, layout) for a in want) if many else buffer_like(want, layout)
    got = call(*args, out=out)
    for a, b, c in zip(got if many else (got,), out if many else (out,), want if many else (want,), strict=True):
        assert a is b
        np.testing.assert_array_equal(b, c)
    if many:
        got = call(*args, out=(out[0], *[None] * (METHODS[method] - 1)))
        assert got[0] is out[0]
        np.testing.assert_array_equal(got[1], want[1])


def test_out_mirrors_wrt(rng: np.random.Generator) -> None:
    pred, label = rng.normal(size=(2, 4, 6))
    weight = np.ones((4, 1))
    loss = fl.L2Loss()
    value, pair = np.empty(4), (np.empty((4, 6)), np.empty((4, 1)))
    wrt = ("pred", "sample_weight")
    got = loss.value_and_grad(pred, label, weight, wrt=wrt, out=(value, pair))
    assert got[0] is value
    assert got[1][0] is pair[0]
    assert got[1][1] is pair[1]
    got = loss.value_and_grad(pred, label, weight, wrt=wrt, out=(None, (None, pair[1])))
    assert got[1][1] is pair[1]
    assert loss.value_and_grad(pred, label, weight, wrt=("pred",), out=(None, None))[1][0].shape == (4, 6)


def overlays() -> list[Any]:
    """Which result may lie over which input: the same shape, so no value of a row, and no class ids."""
    return [
        pytest.param(name, method, where, id=f"{name}-{method}-{where}")
        for name, reference in REPRESENTATIVES.items()
        for method in METHODS
        for where in ("pred", "label")
        if not (reference.row and method == "__call__") and not (reference.label_gradient is None and where == "label")
    ]


@pytest.mark.parametrize("layout", ["contiguous", "strided", "fortran"])
@pytest.mark.parametrize(("name", "method", "where"), overlays())
def test_results_may_lie_exactly_over_inputs(
    rng: np.random.Generator, name: str, method: str, where: str, layout: str
) -> None:
    reference = LOSSES[name]
    inputs = draw(reference, rng, (3, 700))
    call = getattr(reference.build(reduction="none" if method == "__call__" else "mean"), method)
    want = call(*call_args(reference, inputs, np.ones(3)))
    laid = []
    for a in inputs:
        b = buffer_like(a, layout)
        b[...] = a
        laid.append(b)
    target = laid[0] if where == "pred" else laid[1]
    many = METHODS[method] > 1
    # over the input goes the gradient where the value is a number, else the first result
    position = int(method.startswith("value"))
    out = tuple(target if k == position else None for k in range(METHODS[method])) if many else target
    got = call(*call_args(reference, tuple(laid), np.ones(3)), out=out)
    for a, b in zip(got, want, strict=True) if many else [(got, want)]:
        np.testing.assert_array_equal(a, b)
    assert (got[position] if many else got) is target


@every_loop(batch_axis=[0, 1, 2])
def test_the_layout_of_one_result_does_not_change_another(reference: Reference, batch_axis: int) -> None:
    rng = np.random.default_rng(2)
    inputs = draw(reference, rng, (4, 3, 70))
    weight = rng.random((4, 1, 70))
    loss = reference.build(batch_axis=batch_axis)
    wrt = ("pred", "sample_weight")
    value, (_, weights) = loss.value_and_grad(*call_args(reference, inputs, weight), wrt=wrt)
    buffer = np.empty(inputs[0].shape, order="F")
    got = loss.value_and_grad(
        *call_args(reference, inputs, weight), wrt=wrt, out=(None, (buffer, np.empty((4, 1, 70), order="F")))
    )
    np.testing.assert_array_equal(got[0], value)
    np.testing.assert_array_equal(got[1][1], weights)
    laid = (np.asarray(inputs[0], order="F"), *inputs[1:])
    np.testing.assert_array_equal(loss(*call_args(reference, laid, weight)), value)


def test_a_weighted_mean_may_overwrite_the_labels() -> None:
    rng = np.random.default_rng(3)
    pred, label, weight = rng.normal(size=(5, 4)), np.array([0.0, 1, 2, 3, 1]), rng.uniform(1, 2, 5)
    for parameters in ({"class_weight": [1, 2, 3, 4]}, {"ignore_index": 1}):
        loss = fl.SoftmaxCELoss(reduction="weighted_mean", **parameters)
        want = loss.grad(pred, label, weight, wrt="sample_weight")
        out = label.copy()
        np.testing.assert_array_equal(loss.grad(pred, out, weight, wrt="sample_weight", out=out), want)


def arrays() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    memory = rng.normal(size=60)
    return {
        "memory": memory,
        "pred": memory[:24].reshape(4, 6),
        "label": rng.normal(size=(4, 6)),
        "weight": rng.random((4, 6)),
        "head": rng.random(4),
    }


def bad_outs() -> dict[str, Any]:
    """A method, the out that it refuses, the exception and what its message says."""
    locked = np.empty((4, 6))
    locked.flags.writeable = False
    one = np.empty((4, 6))
    return {
        "shape": ("grad", lambda a: np.empty((6, 4)), ValueError, r"shape \(4, 6\), got \(6, 4\)"),
        "too few axes": ("grad", lambda a: np.empty(24), ValueError, r"shape \(4, 6\), got \(24,\)"),
        "value's shape": ("__call__", lambda a: np.empty((4, 6)), ValueError, r"value must have shape \(4,\)"),
        "byte order": ("grad", lambda a: np.empty((4, 6), ">f8"), TypeError, "byte order, .* got >f8"),
        "integers": ("grad", lambda a: np.empty((4, 6), np.int64), TypeError, "dtype of floats .* got <i8"),
        "booleans": ("grad", lambda a: np.empty((4, 6), bool), TypeError, "dtype of floats .* got |b1"),
        "complex": ("grad", lambda a: np.empty((4, 6), complex), TypeError, "dtype of floats .* got <c16"),
        "objects": ("grad", lambda a: np.empty((4, 6), object), TypeError, "dtype of floats .* got |O"),
        "another dtype over pred": (
            "grad",
            lambda a: a["pred"].view(np.float32)[:, ::2],
            ValueError,
            "memory with pred",
        ),
        "read-only": ("grad", lambda a: locked, ValueError, "read-only"),
        "masked": ("grad", lambda a: np.ma.empty((4, 6)), TypeError, "got MaskedArray"),
        "a list": ("grad", lambda a: [[0.0] * 6] * 4, TypeError, "got list"),
        "no tuple": ("value_and_grad", lambda a: np.empty(4), TypeError, "tuple of 2"),
        "short tuple": ("value_grad_and_hess", lambda a: (None, None), TypeError, "tuple of 3"),
        "tuple for one": ("grad", lambda a: (None, None), TypeError, "must be an array or None, got tuple"),
        "shifted over pred": ("grad", lambda a: a["memory"][1:25].reshape(4, 6), ValueError, "memory with pred"),
        "reversed over pred": ("grad", lambda a: a["pred"][::-1], ValueError, "memory with pred"),
        "stretched over pred": ("grad", lambda a: a["memory"][:48:2].reshape(4, 6), ValueError, "memory with pred"),
        "transposed over pred": ("grad", lambda a: a["memory"][:24].reshape(6, 4).T, ValueError, "memory with pred"),
        "over the weights": ("grad", lambda a: a["weight"], ValueError, "memory with sample_weight"),
        "value over pred": ("__call__", lambda a: a["memory"][:4], ValueError, "memory with pred"),
        "value over head_grad": ("value_and_grad", lambda a: (a["head"], None), ValueError, "memory with head_grad"),
        "each other": ("grad_and_hess", lambda a: (one, one), ValueError, "gradient and for the Hessian share memory"),
        "one element": ("grad", lambda a: as_strided(np.zeros(1), (4, 6), (0, 0)), ValueError, "share memory"),
        "sliding rows": ("grad", lambda a: as_strided(np.zeros(9), (4, 6), (8, 8)), ValueError, "share memory"),
        "half an element on": (
            "grad",
            lambda a: as_strided(np.zeros(24), (4, 6), (48, 4)),
            ValueError,
            "share memory",
        ),
        "value in gradient": ("value_and_grad", lambda a: (one[0, :4], one), ValueError, "share memory"),
    }


@pytest.mark.parametrize("case", bad_outs())
def test_refused(case: str) -> None:
    method, make, exception, message = bad_outs()[case]
    a = arrays()
    out = make(a)
    parts = [part for part in (out if isinstance(out, tuple) else (out,)) if isinstance(part, np.ndarray)]
    before = [part.copy() for part in parts]
    options = {} if method == "__call__" else {"head_grad": a["head"]}
    with pytest.raises(exception, match=message):
        getattr(fl.L2Loss(), method)(a["pred"], a["label"], a["weight"], out=out, **options)
    for part, copy in zip(parts, before, strict=True):
        np.testing.assert_array_equal(part, copy)


FLOATS = ["f2", "f4", "f8", *LONG_DOUBLE]


@every_loop(computed=[np.float32, np.float64], stored=FLOATS, layout=["contiguous", "strided", "fortran", "unaligned"])
def test_out_of_another_dtype(
    reference: Reference, rng: np.random.Generator, computed: Any, stored: str, layout: str
) -> None:
    """Results are computed in pred's precision, and rounded once as they are stored."""
    weight = rng.random((40, 6)) if not reference.row else rng.random(40)
    args = call_args(reference, draw(reference, rng, (40, 6), computed), weight)
    for reduction in ("example", "none", "sum", "weighted_mean"):
        loss = reference.build(reduction=reduction)
        wrt = ("pred", "sample_weight")
        value, gradients = loss.value_and_grad(*args, wrt=wrt)
        out = tuple(buffer_like(np.asarray(a).astype(stored), layout) for a in (value, *gradients))
        got = loss.value_and_grad(*args, wrt=wrt, out=(out[0], out[1:]))
        for a, b, want in zip((got[0], *got[1]), out, (value, *gradients), strict=True):
            assert a is b
            np.testing.assert_array_equal(b, np.asarray(want).astype(stored))
        want = loss.grad_and_hess(*args)
        pair = tuple(buffer_like(a.astype(stored), layout) for a in want)
        loss.grad_and_hess(*args, out=pair)
        for a, b in zip(pair, want, strict=True):
            np.testing.assert_array_equal(a, b.astype(stored))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(100_000,), (400, 1000)])
def test_large_results_begin_on_a_cache_line(shape: tuple[int, ...], dtype: str) -> None:
    results = fl.L2Loss(reduction="none").value_grad_and_hess(np.zeros(shape, dtype), np.ones(shape, dtype))
    assert [x.ctypes.data % 64 for x in results] == [0, 0, 0]
    assert all(x.flags.c_contiguous and x.flags.writeable and x.shape == shape for x in results)


@pytest.mark.parametrize("name", [name for name, reference in REPRESENTATIVES.items() if not reference.row])
@pytest.mark.parametrize("method", [method for method in METHODS if method != "__call__"])
def test_fortran_order_has_the_same_bits(rng: np.random.Generator, name: str, method: str) -> None:
    """What lies in Fortran's order is taken in that order, unless something is summed."""
    inputs = draw(LOSSES[name], rng, (300, 7))
    for weight in (None, rng.random(300), rng.random((1, 7)), rng.random((300, 7))):
        for reduction in ("none", "example", "mean", "weighted_mean"):
            args = call_args(LOSSES[name], inputs, weight)
            call = getattr(LOSSES[name].build(reduction=reduction), method)
            want = call(*args)
            turned = [None if a is None else np.array(a, order="F") for a in args]
            wanted = want if isinstance(want, tuple) else (want,)
            fresh = call(*turned)
            for a, b in zip(fresh if isinstance(want, tuple) else (fresh,), wanted, strict=True):
                np.testing.assert_array_equal(a, b)
            for stored in (np.float64, np.float32):
                out = tuple(np.full(np.shape(a), 7, stored, order="F") for a in wanted)
                call(*turned, out=out if isinstance(want, tuple) else out[0])
                for a, b in zip(out, wanted, strict=True):
                    np.testing.assert_array_equal(a, np.asarray(b).astype(stored))


def test_an_out_of_another_dtype_overflows_to_infinity() -> None:
    out = np.empty(3, np.float32), np.empty(3, np.float32)
    fl.L2Loss().value_and_grad([1e200, -1e39, 2.0], [0.0, 0.0, 0.0], out=out)
    np.testing.assert_array_equal(out, [[np.inf, np.inf, 2], [np.inf, -np.inf, 2]])


@pytest.mark.parametrize(
    ("answer", "error"), [(np.exceptions.TooHardError, ValueError), (RuntimeError("no memory"), MemoryError)]
)
def test_numpy_cannot_tell_whether_memory_is_shared(
    monkeypatch: pytest.MonkeyPatch, answer: Any, error: type[Exception]
) -> None:
    """Memory that may be shared counts as shared."""

    def shares_memory(*args: Any, **options: Any) -> bool:
        raise answer

    monkeypatch.setattr(np, "shares_memory", shares_memory)
    memory = np.arange(20.0)
    with pytest.raises(error):
        fl.L2Loss().grad(memory[::2], np.zeros(10), out=memory[1::2])
    np.testing.assert_array_equal(memory, np.arange(20))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shares_of_weights_that_do_not_lie_together(dtype: Any) -> None:
    rng = np.random.default_rng(4)
    pred, label, weight = rng.normal(size=(5, 4)).astype(dtype), np.array([0, 1, 2, 3, 1]), rng.uniform(1, 2, 5)
    loss = fl.SoftmaxCELoss(reduction="weighted_mean", class_weight=[1, 2, 3, 4])
    out = np.full((5, 2), 7, dtype)
    got = loss.grad(pred, label, weight, wrt="sample_weight", out=out[:, 0])
    np.testing.assert_array_equal(got, loss.grad(pred, label, weight, wrt="sample_weight"))
    assert (out[:, 1] == 7).all()


def test_interleaved_is_not_overlapping() -> None:
    memory = np.arange(20.0)
    got = fl.L2Loss().grad(memory[::2], np.zeros(10), out=memory[1::2])
    np.testing.assert_array_equal(got, np.arange(0, 20, 2))


@pytest.mark.parametrize("label", [-1, 3, 0.5, np.nan, np.inf, 2**40, -(2**63), 1e300])
def test_out_is_untouched_when_labels_are_bad(label: Any) -> None:
    out = np.full(4, 7.0), np.full((4, 3), 7.0)
    with pytest.raises(ValueError, match=r"class ids from 0 to 2, got .* at position \(2,\)"):
        fl.SoftmaxCELoss().value_and_grad(np.zeros((4, 3)), [0, 1, label, -5], out=out)
    assert (out[0] == 7).all()
    assert (out[1] == 7).all()


def placed(a: NDArray[Any], offset: int) -> NDArray[Any]:
    """A copy that begins so many bytes behind a cache line's begin, between bytes that nobody may touch."""
    memory = np.full(a.nbytes + 256, 7, np.uint8)
    start = -memory.ctypes.data % 64 + 64 + offset
    copy = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
    copy[...] = a
    return copy


def assert_untouched_around(a: NDArray[Any]) -> None:
    memory: Any = a
    while memory.base is not None:
        memory = memory.base
    start = a.ctypes.data - memory.ctypes.data
    assert (memory[:start] == 7).all()
    assert (memory[start + a.nbytes :] == 7).all()


@every_loop(dtype=[np.float32, np.float64], offset=[0, 4, 16, 40, 60])
def test_any_place_in_memory(reference: Reference, dtype: Any, offset: int, rng: np.random.Generator) -> None:
    args = call_args(reference, draw(reference, rng, (9, 1001), dtype))
    loss = reference.build(reduction="none")
    want = loss.value_and_grad(*args)
    # float64 cannot begin 4 bytes behind its own multiples and be aligned
    offset *= np.dtype(dtype).itemsize // 4
    out = tuple(placed(np.zeros_like(a), place % 64) for a, place in zip(want, (offset, 2 * offset), strict=True))
    loss.value_and_grad(*args, out=out)
    for got, right in zip(out, want, strict=True):
        np.testing.assert_array_equal(got, right)
        assert_untouched_around(got)


@pytest.mark.parametrize("reduction", ["example", "mean"])
@pytest.mark.parametrize(("name", "offset"), [("L2Loss", 0), ("HuberLoss", 4), ("SigmoidBCELoss", 60)])
def test_results_larger_than_the_cache(name: str, offset: int, reduction: str, rng: np.random.Generator) -> None:
    loss = getattr(fl, name)(reduction=reduction)
    pred, label = rng.random((2, (1 << 22) + 5), np.float32)
    weight = rng.random(pred.size, np.float32)
    value, grad, hess = loss.value_grad_and_hess(pred, label, weight)
    out = tuple(placed(np.zeros_like(a), offset) for a in (value, grad, hess))
    loss.value_grad_and_hess(pred, label, weight, out=out)
    for got, right in zip(out, (value, grad, hess), strict=True):
        np.testing.assert_array_equal(got, right)
        assert_untouched_around(got)
    right_sum = loss.value_and_grad(pred, label)
    got_sum = loss.value_and_grad(pred, label, out=out[:2])
    for got, right in zip(got_sum, right_sum, strict=True):
        np.testing.assert_array_equal(got, right)
    loss.grad(pred, label, weight, out=pred)
    np.testing.assert_array_equal(pred, grad)


class Lying(np.ndarray):
    """A buffer that says that it is another, and does not let NumPy's functions near."""

    shape = property(lambda self: (10**6,))  # type: ignore[assignment]
    dtype = property(lambda self: np.dtype("f2"))  # type: ignore[assignment]

    def __array_function__(self, function: Any, types: Any, args: Any, named: Any) -> Any:
        raise AssertionError(function)

    def fill(self, value: Any) -> None:
        raise AssertionError(value)


@every_loop(shape=[(4, 6), (0, 6)])
def test_a_subclass_is_its_memory(reference: Reference, rng: np.random.Generator, shape: Any) -> None:
    args = call_args(reference, draw(reference, rng, shape), rng.random(shape[0]))
    loss = reference.build(reduction="weighted_mean")
    wrt = ("pred", "sample_weight")
    want = loss.grad(*args, wrt=wrt)
    out = tuple(np.zeros((*a.shape, 2))[..., 0].view(Lying) for a in want)
    got = loss.grad(*args, wrt=wrt, out=out)
    for a, b, c in zip(got, out, want, strict=True):
        assert a is b
        np.testing.assert_array_equal(a.view(np.ndarray), c)


def overlapping() -> list[Any]:
    """Each kind of loop with each of its inputs, and what flows back."""
    return [
        pytest.param(name, k, id=f"{name}-{k}")
        for name in LOOPS
        for k in (*inputs_of(ENTRIES[name], np.random.default_rng(5), 4), "head_grad")
    ]


@pytest.mark.parametrize(("name", "over"), overlapping())
def test_no_input_is_overwritten(name: str, over: str) -> None:
    """Whatever it is: what begins on an input's last number is refused, and the input is what it was."""
    loss = ENTRIES[name].build()
    inputs = inputs_of(ENTRIES[name], np.random.default_rng(5), 4, np.float64)
    value, gradient = loss.value_and_grad(**inputs)
    inputs["head_grad"] = np.ones(value.shape)
    memory = np.zeros(inputs[over].size + gradient.size)
    inputs[over], a = memory[: inputs[over].size].reshape(inputs[over].shape), inputs[over]
    inputs[over][...] = a
    out = memory[a.size - 1 :][: gradient.size].reshape(gradient.shape)
    before = memory.copy()
    with pytest.raises(ValueError, match=f"shares memory with {over}"):
        loss.grad(**inputs, out=out)
    np.testing.assert_array_equal(memory, before)
    with pytest.raises(ValueError, match=f"shares memory with {over}"):
        loss.value_and_grad(**inputs, out=(memory[a.size - 1 :][: value.size].reshape(value.shape), None))
    np.testing.assert_array_equal(memory, before)


def test_hessians_in_two_predictions() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 5, 3))
    loss, both = fl.GaussianNLLLoss(), ("log_variance", "pred")
    gradients, hessians = loss.grad_and_hess(x, y, x[0], wrt=both)
    out = (None, np.empty((5, 3))), (np.empty((2, 3))[0], np.empty((5, 3), np.float32))
    got = loss.grad_and_hess(x, y, x[0], wrt=both, out=out)
    assert got[0][1] is out[0][1]
    assert got[1][0] is out[1][0]
    np.testing.assert_array_equal(got[0][0], gradients[0])
    np.testing.assert_array_equal(out[0][1], gradients[1])
    np.testing.assert_array_equal(out[1][0], hessians[0])
    np.testing.assert_array_equal(out[1][1], hessians[1].astype(np.float32))
    with pytest.raises(
        TypeError, match="out for the Hessians must be a tuple of 2, one array or None per input in wrt"
    ):
        loss.grad_and_hess(x, y, x[0], wrt=both, out=(None, x))
    with pytest.raises(ValueError, match="out for the Hessian of log_variance must have shape"):
        loss.grad_and_hess(x, y, x[0], wrt=both, out=(None, (x, None)))
