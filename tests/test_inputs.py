"""What may be passed in: layouts, dtypes, sizes, and what comes out for them. Hypothesis draws the combinations."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

import fastloss as fl
from tests.conftest import assert_close
from tests.reference import LOSSES, REDUCTIONS, Reference, call_args, draw, expected
from tests.selection import ELEMENTS, every_loop, every_loss

Array = NDArray[Any]


def strided(a: Array) -> Array:
    big = np.full((*a.shape[:-1], 3 * a.shape[-1] + 1), 99, a.dtype) if a.ndim else a
    if a.ndim:
        big[..., 1::3] = a
        return big[..., 1::3]
    return big


def unaligned(a: Array) -> Array:
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:].view(a.dtype).reshape(a.shape)
    raw[...] = a
    return raw


def read_only(a: Array) -> Array:
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "contiguous": lambda a: a,
    "fortran": lambda a: np.asarray(a, order="F"),
    "strided": strided,
    "reversed": lambda a: a[::-1].copy()[::-1] if a.ndim else a,
    "all axes reversed": lambda a: np.flip(np.flip(a).copy()),
    "read-only": read_only,
    "unaligned": unaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped strided": lambda a: strided(a.astype(a.dtype.newbyteorder())),
    "subclass": lambda a: a.view(np.recarray) if a.ndim else a,
}


@every_loop(
    shape=[(), (7,), (4, 6), (2, 3, 2, 3, 2), (1300, 3), (2, 3000)],
    layout=list(LAYOUTS),
    dtype=[np.float32, np.float64],
)
def test_layout_does_not_matter(
    reference: Reference, rng: np.random.Generator, shape: Any, layout: str, dtype: Any
) -> None:
    if reference.row and not shape:
        shape = (1,)
    inputs = draw(reference, rng, shape, dtype)
    weight = rng.random(shape).astype(dtype)
    head = rng.random(shape[:1]).astype(dtype)
    args = call_args(reference, inputs, weight)
    loss = reference.build()
    want = loss.value_grad_and_hess(*args, head_grad=head)
    change = LAYOUTS[layout]
    originals = [None if a is None else a.copy() for a in args]
    laid = [None if a is None else change(a) for a in args]
    got = loss.value_grad_and_hess(*laid, head_grad=change(head))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.asarray(a).dtype == dtype
        assert np.asarray(a).flags.c_contiguous
    for a, b in zip(laid, originals, strict=True):
        if a is not None:
            np.testing.assert_array_equal(a, b)


REAL = [
    *(np.dtype(f"{kind}{size}") for kind in "iu" for size in (1, 2, 4, 8)),
    *map(np.dtype, (np.bool_, np.float16, np.float32, np.float64, np.longdouble, np.longlong, np.ulonglong)),
]


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("swapped", [False, True])
def test_label_and_weight_dtypes(rng: np.random.Generator, dtype: Any, swapped: bool) -> None:
    label = rng.integers(0, 2, (6, 5)).astype(dtype)
    weight = rng.integers(0, 3, 6).astype(dtype)
    if swapped:
        label, weight = label.astype(dtype.newbyteorder()), weight.astype(dtype.newbyteorder())
    pred = rng.normal(size=(6, 5)).astype(np.float32)
    for loss in (fl.L2Loss(), fl.SigmoidBCELoss(), fl.SoftmaxCELoss(sparse_label=False)):
        got = loss.value_and_grad(pred, label, weight)
        want = loss.value_and_grad(pred, label.astype(np.float32), weight.astype(np.float32))
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
            assert a.dtype == np.float32
    ids = label[:, 0]
    softmax = fl.SoftmaxCELoss()
    np.testing.assert_array_equal(softmax(pred, ids, weight), softmax(pred, ids.astype(int), weight.astype(np.float32)))


@pytest.mark.parametrize("dtype", [np.int8, np.uint64, np.bool_, np.int32])
def test_integer_predictions_become_float64(dtype: Any) -> None:
    pred = np.array([[1, 0], [1, 1]], dtype)
    value, gradient = fl.L2Loss().value_and_grad(pred, [[0.5, 0], [3, 1]])
    assert value.dtype == gradient.dtype == np.float64
    np.testing.assert_array_equal(gradient, [[0.25, 0], [-1, 0]])
    assert fl.L2Loss()([1, 2], [3, 4]).dtype == np.float64


def test_results_are_never_wider_than_pred() -> None:
    pred = np.ones((3, 2), np.float32)
    wide = np.ones((3, 2))
    loss = fl.SigmoidBCELoss()
    value, gradients = loss.value_and_grad(pred, wide, wide, wide, wrt=("pred", "label", "sample_weight", "pos_weight"))
    assert {a.dtype for a in (value, *gradients)} == {np.dtype(np.float32)}


def test_labels_without_axes_of_size_1() -> None:
    pred = np.arange(6.0).reshape(6, 1)
    label = np.ones(6)
    want = fl.L2Loss()(pred, label[:, None])
    np.testing.assert_array_equal(fl.L2Loss()(pred, label), want)
    np.testing.assert_array_equal(fl.L2Loss()(label, pred), want)
    assert fl.L2Loss().grad(pred, label, wrt="label").shape == (6,)
    assert fl.L2Loss().grad(pred.reshape(2, 1, 3, 1), label.reshape(2, 3), wrt="label").shape == (2, 3)


@every_loop(shape=[(0,), (0, 3), (3, 0), (2, 0, 4)], reduction=REDUCTIONS)
def test_empty(reference: Reference, rng: np.random.Generator, shape: Any, reduction: str) -> None:
    inputs = draw(reference, rng, shape)
    loss = reference.build(reduction=reduction)
    weight = np.ones(shape[0])
    args = call_args(reference, inputs, weight)
    value, (gradient, weights) = loss.value_and_grad(*args, wrt=("pred", "sample_weight"))
    assert gradient.shape == inputs[0].shape
    assert weights.shape == (shape[0],)
    assert not np.any(value)
    assert np.shape(value) == {"example": shape[:1], "none": shape}.get(reduction, ())


def test_scalars() -> None:
    for loss in (fl.L2Loss(), fl.L2Loss(reduction="none"), fl.L2Loss(reduction="mean")):
        value, gradient, hessian = loss.value_grad_and_hess(3.0, 1)
        assert (value, gradient, hessian) == (2, 2, 1)
        assert isinstance(value, float)
    value, gradient = fl.L2Loss().value_and_grad(np.float32(3), np.float32(1), 0.5, head_grad=3)
    assert isinstance(value, np.float32)
    assert (value, gradient) == (1, 3)


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted_mean"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, int])
def test_totals_are_floats(dtype: Any, reduction: str) -> None:
    loss, pred, label = fl.L2Loss(reduction=reduction), np.array([[1, 2]], dtype), [[0, 0]]
    value, gradient = loss.value_and_grad(pred, label)
    assert type(value) is type(loss(pred, label)) is type(loss(pred[:, :0], np.zeros((1, 0)))) is float
    assert value == {"sum": 2.5}.get(reduction, 1.25)
    assert (gradient * value).dtype == gradient.dtype == np.result_type(dtype, np.float16)


@pytest.mark.parametrize("reference", ELEMENTS, indirect=True)
def test_totals_of_float32_are_summed_and_returned_in_float64(reference: Reference, rng: np.random.Generator) -> None:
    weight = rng.random((5000, 1) if not reference.row else 5000)
    args = call_args(reference, draw(reference, rng, (5000, 2), np.float32), weight)
    for reduction, total in (("sum", np.sum), ("mean", np.mean)):
        each = reference.build(reduction="none")(*args)
        value = reference.build(reduction=reduction)(*args)
        assert value == pytest.approx(total(each, dtype=np.float64), rel=1e-7)
        assert value != float(np.float32(value))
        rounded, exact = np.empty((), np.float32), np.empty(())
        reference.build(reduction=reduction)(*args, out=rounded)
        reference.build(reduction=reduction)(*args, out=exact)
        assert float(rounded) == float(np.float32(value))
        assert exact == value


# of pred, of what lies like it, and whether they fit
SHAPES = [
    ((5,), (5, 1), True),
    ((5, 1), (5,), True),
    ((5,), (1, 5), True),
    ((1, 5), (5,), True),
    ((2, 1, 3, 1), (2, 3, 1), True),
    ((2, 3), (1, 2, 1, 3), True),
    ((), (1, 1), True),
    ((1,), (), True),
    ((0,), (0, 1), True),
    ((5, 1), (1, 5), False),
    ((1, 5), (5, 1), False),
    ((2, 3, 1), (2, 1, 3), False),
    ((2, 3, 1), (1, 2, 3), False),
    ((2, 1, 1), (1, 2), False),
    ((1, 2), (2, 1, 1), False),
    ((5,), (), False),
    ((4,), (2, 2), False),
    ((6,), (5,), False),
    ((5, 1), (5, 2), False),
]


def pairings(shape: tuple[int, ...], label: Array, rows: Array) -> list[tuple[fl.Loss, tuple[Any, ...]]]:
    """Calls in which what lies like the first input, or like its rows, has the axes of label or of rows."""
    x, r = np.full(shape, 0.5), np.full((*shape, 2), 0.5)
    return [
        (fl.L2Loss(), (x, label)),
        (fl.SigmoidBCELoss(), (x, label)),
        (fl.KLDivLoss(from_logits=False), (r, rows)),
        (fl.TripletLoss(), (r, rows, r)),
        (fl.TripletLoss(), (r, r, rows)),
        (fl.CosineEmbeddingLoss(), (r, rows, np.ones(shape))),
        (fl.CosineEmbeddingLoss(), (r, r, np.sign(label))),
        (fl.SoftmaxCELoss(), (r, np.round(label))),
        (fl.SoftmaxCELoss(sparse_label=False), (r, rows)),
        (fl.SDMLLoss(), (r[None], rows[None])),
    ]


@pytest.mark.parametrize(("shape", "other", "fits"), SHAPES)
def test_shapes_fit_but_for_axes_of_size_1(shape: Any, other: Any, fits: bool) -> None:
    rng = np.random.default_rng(1)
    label = rng.uniform(0.1, 1, other)
    rows = rng.uniform(0.1, 1, (*other, 2))
    laid = pairings(shape, label.reshape(shape), rows.reshape((*shape, 2))) if fits else []
    for k, (loss, args) in enumerate(pairings(shape, label, rows)):
        if fits:
            value, gradient = loss.value_and_grad(*args)
            want = loss.value_and_grad(*laid[k][1])
            np.testing.assert_array_equal(value, want[0])
            np.testing.assert_array_equal(gradient, want[1])
        else:
            with pytest.raises(ValueError, match=r"though one of the two may lack axes|sparse_label=False") as info:
                loss.value_and_grad(*args)
            assert str(shape)[1:-1].rstrip(",") in str(info.value)
            assert str(other)[1:-1].rstrip(",") in str(info.value)


@every_loss(position=[0, 3, 4999])
def test_nan_spoils_its_example_alone(reference: Reference, rng: np.random.Generator, position: int) -> None:
    inputs = draw(reference, rng, (5000, 2))
    args = call_args(reference, inputs)
    loss = reference.build()
    clean = loss.value_and_grad(*args)
    inputs[0][position, 0] = np.nan
    if reference.parameters.get("ignore_index") is not None:
        inputs[1][position, 0] = 0
        clean = loss.value_and_grad(*call_args(reference, (np.nan_to_num(inputs[0]), *inputs[1:])))
    if reference.parameters.get("from_logits") and reference.row:
        # only the label's own log-probability is read
        inputs[0][position, 0] = np.nan
    value, gradient = loss.value_and_grad(*args)
    assert np.isnan(value[position])
    others = np.arange(5000) != position
    np.testing.assert_array_equal(value[others], clean[0][others])
    np.testing.assert_array_equal(gradient[others], clean[1][others])
    assert np.isnan(reference.build(reduction="sum")(*args))


@pytest.mark.parametrize("loss", [fl.L1Loss(), fl.HingeLoss()])
def test_no_curvature_anywhere(loss: fl.Loss) -> None:
    _, hessian = loss.grad_and_hess([np.inf, -np.inf, -1, 0, 1, np.nan], [1, 1, 1, 1, 1, 1])
    assert hessian[:5].tobytes() == np.zeros(5).tobytes()
    # no value, no derivatives
    assert np.isnan(hessian[5])


def test_infinite_logits() -> None:
    inf = np.inf
    loss = fl.SigmoidBCELoss()
    value, gradient = loss.value_and_grad([inf, inf, -inf, -inf], [1, 0, 0, 1])
    np.testing.assert_array_equal(value, [0, inf, 0, inf])
    np.testing.assert_array_equal(gradient, [0, 1, 0, -1])
    softmax = fl.SoftmaxCELoss()
    value, gradient = softmax.value_and_grad([[-inf, 0.0, 0.0], [0.0, -inf, -inf], [-inf, 3.0, 0.0]], [1, 0, 0])
    np.testing.assert_allclose(value, [np.log(2), 0, inf])
    np.testing.assert_allclose(gradient[:2], [[0, -0.5, 0.5], [0, 0, 0]])
    assert gradient[2, 0] == -1
    dense = fl.SoftmaxCELoss(sparse_label=False)
    np.testing.assert_array_equal(dense([[-inf, 0.0]], [[0, 1]]), [0])
    # far below where every exponential underflows
    np.testing.assert_allclose(softmax(np.full((1, 4), -1e4, np.float32), [2]), np.log(4), rtol=1e-6)
    np.testing.assert_array_equal(fl.KLDivLoss()([[-inf, 0.0]], [[0, 1]])[0] < 1e-11, True)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_call(data: st.DataObject) -> None:
    """Shape, batch axis, reduction, weights, head gradient and layout, drawn together."""
    name = data.draw(st.sampled_from(sorted(LOSSES)))
    reference = LOSSES[name]
    shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    dtype = data.draw(st.sampled_from([np.float32, np.float64]))
    inputs = draw(reference, rng, shape, dtype)
    batch_axis = data.draw(st.integers(0, len(shape) - 1))
    reduction = data.draw(st.sampled_from(REDUCTIONS))
    pattern = data.draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    weight_shape = tuple(n if keep else 1 for n, keep in zip(shape, pattern, strict=True))
    if len(shape) == 1:
        batch_axis = 0
    weight = rng.uniform(0.1, 2, weight_shape).astype(dtype)
    head_shape = {"example": (shape[batch_axis],), "none": shape}.get(reduction, ())
    head = rng.normal(size=head_shape).astype(dtype)
    change = LAYOUTS[data.draw(st.sampled_from(sorted(LAYOUTS)))]
    want = expected(reference, inputs, weight, batch_axis=batch_axis, reduction=reduction, head_grad=head)
    loss = pickle.loads(pickle.dumps(reference.build(batch_axis=batch_axis, reduction=reduction)))
    args = map(change, call_args(reference, inputs, weight))
    value, (gradient, weights) = loss.value_and_grad(*args, head_grad=change(head), wrt=("pred", "sample_weight"))
    assert_close(value, want.value, dtype)
    assert_close(gradient, want.gradient, dtype)
    assert_close(weights, want.weight_gradient, dtype, want.weight_terms)


@pytest.mark.parametrize("classes", [1, 3, 33])
@pytest.mark.parametrize("name", [name for name in LOSSES if LOSSES[name].row and "40" not in name])
def test_a_single_row_of_logits(rng: np.random.Generator, name: str, classes: int) -> None:
    reference = LOSSES[name]
    if reference.parameters.get("class_weight") is not None:
        classes = reference.classes
    pred = rng.normal(size=(1, classes))
    label = rng.dirichlet(np.ones(classes), 1) if reference.label_gradient else np.zeros(1, int)
    for reduction in ("example", "none", "mean"):
        loss = reference.build(reduction=reduction)
        want = loss.value_grad_and_hess(pred, label)
        got = loss.value_grad_and_hess(pred[0], label[0])
        assert got[0] == want[0]
        assert np.shape(got[0]) == ((1,) if reduction == "example" else ())
        np.testing.assert_array_equal(got[1], want[1][0])
        np.testing.assert_array_equal(got[2], want[2][0])


def test_infinite_loss_of_no_weight() -> None:
    inf = np.inf
    for from_logits in (False, True):
        loss = fl.SoftmaxCELoss(class_weight=[0, 1], from_logits=from_logits)
        assert loss([[-inf, 0.0]], [0]) == 0
        dense = fl.SoftmaxCELoss(class_weight=[0, 1], from_logits=from_logits, sparse_label=False)
        value, gradient = dense.value_and_grad([[-inf, 0.0]], [[1, 0]], wrt="label")
        assert value == 0
        np.testing.assert_array_equal(gradient, [[0, 0]])
    for full in (False, True):
        assert fl.PoissonNLLLoss(compute_full=full)([-inf], [0]) == 0
    assert fl.HuberLoss(rho=1e-50)(np.float32([2, 0]), np.float32([0, 0])).tolist() == [2, 0]


def test_more_than_2_to_31_elements() -> None:
    # broadcast inputs: the sizes are real, the memory is not
    pred = np.broadcast_to(np.float32(3), (2**16, 2**15 + 1))
    value = fl.L2Loss(reduction="mean")(pred, np.broadcast_to(np.float32(1), pred.shape))
    assert value == 2
    value = fl.L2Loss()(pred, np.broadcast_to(np.float32(1), pred.shape))
    assert value.shape == (2**16,)
    assert (value == 2).all()
