"""Values, gradients and Hessians against the reference: every loss, reduction, weight, axis, dtype."""

from __future__ import annotations

import functools
import itertools
import timeit
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.conftest import assert_close
from tests.reference import (
    CLASS_WEIGHT,
    LOSSES,
    REDUCTIONS,
    Reference,
    call_args,
    draw,
    expected,
    over_classes,
    row_shape,
    unbroadcast,
)
from tests.selection import ELEMENTS, every_loop, every_loss

DTYPES = [np.float32, np.float64]
SHAPES = [(), (1,), (5,), (4, 6), (3, 1, 5), (2, 3, 4, 2), (2, 1, 3, 2, 2), (3, 5000), (5000, 3)]


def test_the_data_reach_every_branch(reference: Reference, rng: np.random.Generator) -> None:
    inputs = draw(reference, rng, (40, 5))
    for a in inputs[:2]:
        assert len(np.unique(a)) > 1
    assert len(np.unique(reference.value(*inputs))) > 3
    if reference.loss.__name__ == "SigmoidBinaryCrossEntropyLoss":
        assert {0.0, 1.0} < set(inputs[1].ravel().tolist())
    if "hinge" in reference.loss.__name__.lower() or "Huber" in reference.loss.__name__:
        gradient = reference.gradient(*inputs)
        assert (gradient == 0).any() or (abs(gradient) == 1).any()
        assert (gradient > 0).any()
        assert (gradient < 0).any()


@pytest.mark.parametrize("derivative", ["gradient", "hessian", "label_gradient", "third_gradient", "third_hessian"])
def test_the_reference_differentiates_itself(reference: Reference, rng: np.random.Generator, derivative: str) -> None:
    formula = getattr(reference, derivative)
    if formula is None:
        return
    inputs = list(draw(reference, rng, (20,)))
    # away from the kinks, where the two-sided difference is none of the one-sided ones
    inputs = [a + 0.0123 * (k + 1) if a.dtype.kind == "f" else a.astype(float) for k, a in enumerate(inputs)]
    argument = {"gradient": 0, "hessian": 0, "label_gradient": 1, "third_gradient": 2, "third_hessian": 2}[derivative]
    firsts: dict[str, Any] = {"hessian": reference.gradient, "third_hessian": reference.third_gradient}
    of = firsts.get(derivative, reference.value)
    got = formula(*inputs)
    if argument == 2:
        got = unbroadcast(got, inputs[2].shape)
    step = 1e-6
    for position in np.ndindex(inputs[argument].shape):
        sides = []
        for sign in (1, -1):
            moved = [a.copy() for a in inputs]
            moved[argument][position] += sign * step
            sides.append(of(*moved)[position] if derivative.endswith("hessian") else of(*moved).sum())
        np.testing.assert_allclose(got[position], (sides[0] - sides[1]) / (2 * step), rtol=2e-5, atol=2e-5)


@every_loss(shape=SHAPES, reduction=REDUCTIONS, dtype=DTYPES)
def test_all_results(reference: Reference, rng: np.random.Generator, shape: Any, reduction: str, dtype: Any) -> None:
    inputs = draw(reference, rng, shape, dtype)
    if reference.row and not shape:
        want_batch: dict[str, int] = {"batch_axis": 0}
        inputs = tuple(a[None] for a in inputs)
    else:
        want_batch = {}
    loss = reference.build(reduction=reduction, weight=0.7)
    want = expected(reference, inputs, weight=0.7, reduction=reduction, **want_batch)
    args = call_args(reference, inputs)

    value = loss(*args)
    gradient = loss.grad(*args)
    assert_close(value, want.value, dtype)
    assert_close(gradient, want.gradient, dtype)
    hessian = loss.grad_and_hess(*args)[1]
    assert_close(hessian, want.hessian, dtype)
    # one pass gives the bits of the separate ones
    for got, alone in [
        (loss.value_and_grad(*args), (value, gradient)),
        (loss.grad_and_hess(*args), (gradient, hessian)),
        (loss.value_grad_and_hess(*args), (value, gradient, hessian)),
    ]:
        for a, b in zip(got, alone, strict=True):
            np.testing.assert_array_equal(a, b)


WEIGHTS: dict[str, Any] = {
    "number": lambda shape: (),
    "one": lambda shape: (1,),
    "example": lambda shape: shape[:1],
    "column": lambda shape: (*shape[:1], *[1] * (len(shape) - 1)),
    "feature": lambda shape: (*[1] * (len(shape) - 1), shape[-1]),
    "middle": lambda shape: (1, shape[1], *[1] * (len(shape) - 2)),
    "ends": lambda shape: (shape[0], *[1] * (len(shape) - 2), shape[-1]),
    "full": lambda shape: shape,
}


WEIGHTED = [((6, 4, 5), np.float32), ((300, 2, 40), np.float64), ((2, 700, 3), np.float64)]


@every_loss(case=WEIGHTED, kind=list(WEIGHTS), reduction=REDUCTIONS)
def test_weights(reference: Reference, rng: np.random.Generator, case: Any, kind: str, reduction: str) -> None:
    shape, dtype = row_shape(reference, case[0]), case[1]
    inputs = draw(reference, rng, shape, dtype)
    unreduced = shape
    weight = rng.uniform(0, 2, WEIGHTS[kind](unreduced)).astype(dtype)
    weight = np.where(rng.random(weight.shape) < 0.2, dtype(0), weight)
    loss = reference.build(reduction=reduction)
    args = call_args(reference, inputs, weight)
    # a 1-D weight is per example; the reference broadcasts by NumPy's rules
    aligned = weight.reshape(-1, 1, 1) if kind == "example" else weight
    head = (
        rng.normal(size={"none": unreduced, "example": unreduced[:1]}.get(reduction, ())).astype(dtype)
        if kind != "one"
        else np.ones((), dtype)
    )
    want = expected(reference, inputs, aligned, reduction=reduction, head_grad=head)
    names = ["pred", "sample_weight"]
    wants = [want.gradient, want.weight_gradient.reshape(weight.shape)]
    if want.label_gradient is not None:
        names.append(loss.inputs[1])
        wants.append(want.label_gradient)
    if want.third_gradient is not None:
        assert reference.third
        names.append(reference.third)
        wants.append(want.third_gradient)
    value, gradients = loss.value_and_grad(*args, head_grad=head, wrt=tuple(names))
    assert_close(value, want.value, dtype)
    for name, got, wanted in zip(names, gradients, wants, strict=True):
        assert_close(got, wanted, dtype, want.weight_terms if name == "sample_weight" else 1)
        alone = loss.grad(*args, head_grad=head, wrt=name)
        np.testing.assert_array_equal(alone, got)
    gradient, hessian = loss.grad_and_hess(*args, head_grad=head)
    np.testing.assert_array_equal(gradient, gradients[0])
    assert_close(hessian, want.hessian, dtype)
    if want.third_hessian is not None:
        assert reference.third
        both = ("pred", reference.third)
        value, found, hessians = loss.value_grad_and_hess(*args, head_grad=head, wrt=both)
        assert_close(value, want.value, dtype)
        for got, first, alone in zip(found, (gradient, gradients[names.index(reference.third)]), both, strict=True):
            np.testing.assert_array_equal(got, first)
            pair = loss.grad_and_hess(*args, head_grad=head, wrt=alone)
            np.testing.assert_array_equal(pair, (got, hessians[both.index(alone)]))
        np.testing.assert_array_equal(hessians[0], hessian)
        assert_close(hessians[1], want.third_hessian, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_gradient_in_weights_needs_no_head(rng: np.random.Generator, dtype: Any) -> None:
    """Nor does it pay for one: a processor that loads under a mask from no address takes 20 times as long."""
    pred, label = rng.normal(size=(2, 1000, 128)).astype(dtype)
    weight, head = rng.random((1000, 1)).astype(dtype), np.ones(1000, dtype)
    calls = [
        functools.partial(fl.L2Loss().grad, pred, label, weight, wrt="sample_weight", head_grad=h) for h in (None, head)
    ]
    np.testing.assert_array_equal(calls[0](), calls[1]())
    without, with_head = (min(timeit.repeat(call, number=1, repeat=50)) for call in calls)
    assert without < 1.3 * with_head


@every_loop(shape=[(3, 4, 5), (2, 3000, 2), (40, 3, 700)], batch_axis=[0, 1, 2, -1, -2, -3], reduction=REDUCTIONS)
def test_batch_axis(
    reference: Reference, rng: np.random.Generator, shape: Any, batch_axis: int, reduction: str
) -> None:
    shape = row_shape(reference, shape)
    inputs = draw(reference, rng, shape)
    axis = batch_axis % 3
    # pred of a loss over classes has the class axis behind these
    loss = reference.build(reduction=reduction, batch_axis=axis if reference.row else batch_axis)
    weight = rng.random(shape[axis])
    aligned = weight.reshape([-1 if k == axis else 1 for k in range(3)])
    head = rng.normal(size=shape[axis]) if reduction == "example" else 0.5
    want = expected(reference, inputs, aligned, reduction=reduction, batch_axis=axis, head_grad=head)
    value, (gradient, weight_gradient) = loss.value_and_grad(
        *call_args(reference, inputs, weight), head_grad=head, wrt=("pred", "sample_weight")
    )
    assert_close(value, want.value, np.float64)
    assert_close(gradient, want.gradient, np.float64)
    assert_close(weight_gradient, want.weight_gradient.reshape(-1), np.float64, want.weight_terms)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
@pytest.mark.parametrize("name", [name for name in ELEMENTS if LOSSES[name].row])
def test_class_axis(rng: np.random.Generator, name: str, axis: int) -> None:
    reference = LOSSES[name]
    pred, label = draw(reference, rng, (3, 4, 5))
    want = expected(reference, (pred, label), reduction="none")
    pred = np.moveaxis(pred, -1, axis)
    if want.label_gradient is not None:
        label = np.moveaxis(label, -1, axis)
    loss = reference.build(reduction="none", axis=axis)
    value, gradient, hessian = loss.value_grad_and_hess(pred, label)
    assert_close(value, want.value, np.float64)
    assert_close(gradient, np.moveaxis(want.gradient, -1, axis), np.float64)
    assert_close(hessian, np.moveaxis(want.hessian, -1, axis), np.float64)
    if want.label_gradient is not None:
        assert_close(loss.grad(pred, label, wrt="label"), np.moveaxis(want.label_gradient, -1, axis), np.float64)
    else:
        np.testing.assert_array_equal(loss(pred, np.expand_dims(label, axis)), value)
    # the class axis may be the batch axis: then there is one example
    loss = reference.build(axis=axis, batch_axis=axis)
    assert_close(loss(pred, label), want.value.mean(keepdims=True).reshape(1), np.float64)


def test_formulas_without_weights_make_a_case_of_class_ids(rng: np.random.Generator) -> None:
    """Weights of classes and ignored ids are those of the softmax, whose formulas have them inside."""
    plain, weighted = LOSSES["softmax"], LOSSES["softmax class_weight ignore"]
    made = over_classes(plain.value, plain.gradient, plain.hessian, CLASS_WEIGHT, weighted.parameters["ignore_index"])
    inputs = made["data"](rng, (40, 7))
    for name in ("value", "gradient", "hessian", "class_weight"):
        np.testing.assert_allclose(made[name](*inputs), getattr(weighted, name)(*inputs), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_examples_ignored(rng: np.random.Generator, reduction: str) -> None:
    for reference in LOSSES.values():
        if reference.parameters.get("ignore_index") is None:
            continue
        pred, label = draw(reference, rng, (6,), np.float32)
        pred[0], pred[1, 2] = np.nan, -np.inf
        label[:] = reference.parameters["ignore_index"]
        loss = reference.build(reduction=reduction)
        value, (gradient, weights) = loss.value_and_grad(pred, label, np.ones(6), wrt=("pred", "sample_weight"))
        assert not np.any(value)
        assert not gradient.any()
        assert not weights.any()


@pytest.mark.parametrize(
    ("alpha", "known", "hessians"),
    [
        (3, fl.RobustLoss(3 - 1e-13, 0.5), ("exact",)),
        (2, fl.L2Loss(weight=4), ("exact", "majorizer")),
        (2 - 1e-13, fl.L2Loss(weight=4), ("exact", "majorizer")),
        (1, fl.PseudoHuberLoss(0.5, weight=4), ("exact", "majorizer")),
        (0, fl.CauchyLoss(0.5 * 2**0.5, weight=4), ("exact", "majorizer")),
        (1e-13, fl.CauchyLoss(0.5 * 2**0.5, weight=4), ("exact", "majorizer")),
        (-2, fl.GemanMcClureLoss(0.5), ("exact", "majorizer")),
        (-1e13, fl.WelschLoss(0.5), ("exact", "majorizer")),
    ],
)
def test_the_family_of_robust_losses(rng: np.random.Generator, alpha: float, known: fl.Loss, hessians: Any) -> None:
    """Its members that have names, and those beside them."""
    loss, (pred, label) = fl.RobustLoss(alpha, 0.5, weight=2), rng.normal(size=(2, 50))
    assert loss.hessians == hessians
    for kind in hessians:
        found = loss.value_grad_and_hess(pred, label, hessian=kind)
        wanted = known.value_grad_and_hess(pred, label, hessian=kind)
        for got, want in zip(found, wanted, strict=True):
            np.testing.assert_allclose(got, 2 * want, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("c", [1e-150, 1e150])
def test_the_square_of_a_robust_scale_is_in_the_range(c: float) -> None:
    with pytest.raises(ValueError, match="c must be greater than 1e-150 and less than 1e\\+150"):
        fl.RobustLoss(2, c)
    inside = c**0.99
    for alpha in (2, 0):
        assert fl.RobustLoss(alpha, inside).grad_and_hess([0.0], [0.0])[1].tolist() == pytest.approx([inside**-2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [name for name, r in LOSSES.items() if r.row])
def test_a_row_has_the_same_bits_among_others(rng: np.random.Generator, name: str, dtype: Any) -> None:
    for classes in (*range(3, 10), 40, 193):
        parameters = dict(LOSSES[name].parameters)
        for argument in ("class_weight", "logit_bias"):
            if parameters.get(argument) is not None:
                parameters[argument] = rng.random(classes)
        loss = LOSSES[name].loss(reduction="none", **parameters)
        pred, label = (a.astype(dtype) if a.dtype.kind == "f" else a for a in LOSSES[name].data(rng, (71, classes)))
        for rows in (1, 4, 71):
            results = loss.value_grad_and_hess(pred[:rows], label[:rows])
            across = loss.value_grad_and_hess(np.asfortranarray(pred[:rows]), label[:rows])
            for i in range(rows):
                for result, strided, alone in zip(
                    results, across, loss.value_grad_and_hess(pred[i : i + 1], label[i : i + 1]), strict=True
                ):
                    np.testing.assert_array_equal(result[i], alone[0])
                    np.testing.assert_array_equal(strided[i], alone[0])


@pytest.mark.parametrize("classes", [1, 2, 31, 33, 96, 97, 192, 193, 1500, 2049, 40_000])
def test_rows_of_any_length(rng: np.random.Generator, classes: int) -> None:
    for reference in LOSSES.values():
        if not reference.row or reference.parameters.get("class_weight") is not None:
            continue
        inputs = tuple(a.astype(np.float32) if a.dtype.kind == "f" else a for a in reference.data(rng, (3, classes)))
        want, loss = expected(reference, inputs), reference.build()
        value, gradient, hessian = loss.value_grad_and_hess(*inputs)
        assert_close(value, want.value, np.float32)
        assert_close(gradient, want.gradient, np.float32)
        assert_close(hessian, want.hessian, np.float32)
        np.testing.assert_array_equal(loss.value_and_grad(*inputs)[0], loss(*inputs))


@pytest.mark.parametrize("classes", [5, 200])
def test_a_bias_of_logits_is_added_in_rows_of_any_length(rng: np.random.Generator, classes: int) -> None:
    # numbers of few digits, whose sums are exact
    pred, bias = rng.integers(-8, 9, (6, classes)) / 4, rng.integers(-8, 9, classes) / 4
    label = rng.integers(0, classes, 6)
    found = fl.SoftmaxCELoss(logit_bias=bias).value_grad_and_hess(pred, label)
    for got, want in zip(found, fl.SoftmaxCELoss().value_grad_and_hess(pred + bias, label), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12)


SOFTMAX: dict[str, tuple[Any, dict[str, Any]]] = {
    "class ids": (fl.SoftmaxCELoss, {"sparse_label": True}),
    "smoothed class ids": (fl.SoftmaxCELoss, {"sparse_label": True, "label_smoothing": 0.2}),
    "targets": (fl.SoftmaxCELoss, {"sparse_label": False}),
    "divergence": (fl.KLDivLoss, {"from_logits": False}),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gap", [0.5, 20])
@pytest.mark.parametrize("ties", [1, 2, 3])
@pytest.mark.parametrize("classes", [4, 40, 250, 5000])
@pytest.mark.parametrize("name", SOFTMAX)
def test_logits_that_tie_for_the_top(
    rng: np.random.Generator, name: str, classes: int, ties: int, gap: float, dtype: Any
) -> None:
    """The derivatives keep their digits for each class, in rows of every length, however far below the others are."""
    kind, parameters = SOFTMAX[name]
    pred = rng.uniform(-1, 1, (6, classes)).astype(dtype)
    for row in pred:
        row[rng.choice(classes, ties, replace=False)] = 1 + gap
    # those at the top, and others
    label = np.where(np.arange(6) % 2, pred.argmax(1), pred.argmin(1))
    target = (label[:, None] == np.arange(classes)).astype(float)
    if name == "smoothed class ids":
        target = 0.8 * target + 0.2 / classes
    e = np.exp(pred.astype(float) - pred.max(1, keepdims=True))
    below = np.where(e == 1, 0, e).sum(1, keepdims=True)
    total = below + ties
    others = np.where(e == 1, below + (ties - 1), total - e)
    loss = kind(reduction="sum", **parameters)
    gradient, hessian = loss.grad_and_hess(pred, label if parameters.get("sparse_label") else target.astype(dtype))
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(gradient, (1 - target) * e / total - target * others / total, tolerance)
    np.testing.assert_allclose(hessian, e * others / total**2, tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "axis"), [((4, 3, 5), 1), ((4, 5, 3), 0), ((33, 5, 1), -1), ((3, 2, 5, 2), 1)])
def test_class_axis_in_any_order(rng: np.random.Generator, shape: Any, axis: int, dtype: Any) -> None:
    """In memory the classes may come between the other axes, or be a single one."""
    pred = rng.normal(size=shape).astype(dtype)
    label = rng.integers(0, shape[axis], np.delete(shape, axis))
    loss = fl.SoftmaxCELoss(axis=axis, reduction="none")
    want = loss.value_grad_and_hess(pred, label)
    for order in itertools.permutations(range(pred.ndim)):
        back = np.argsort(order)
        laid = pred.transpose(order).copy().transpose(back)
        out = tuple(np.zeros(np.take(a.shape, order)).astype(dtype).transpose(back) for a in want[1:])
        for got, right in zip(loss.value_grad_and_hess(laid, label, out=(None, *out)), want, strict=True):
            np.testing.assert_array_equal(got, right)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rho", [0.5, 3.0])
def test_what_lies_at_rho_is_quadratic(rho: float, dtype: Any) -> None:
    beyond = np.nextafter(dtype(rho), dtype(np.inf))
    pred = np.array([rho, -rho, beyond, -beyond], dtype)
    _, hessian = fl.HuberLoss(rho=rho).grad_and_hess(pred, np.zeros_like(pred))
    np.testing.assert_allclose(hessian, [1 / rho, 1 / rho, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(("label", "pos_weight"), [(1.5, 0.25), (0.5, -4.0), (-0.6, 3.0), (1.0, -1.0)])
def test_a_loss_of_the_other_sign(label: float, pos_weight: float) -> None:
    """Labels and weights that no one should pass, for which q y + 1 - y is negative."""
    x, y, q = np.array([-3.0, -0.5, 0.0, 0.5, 3.0]), np.full(5, label), np.full(5, pos_weight)
    reference = LOSSES["BCE pos_weight"]
    want = expected(reference, (x, y, q), reduction="none")
    value, gradient, hessian = reference.build(reduction="none").value_grad_and_hess(x, y, None, q)
    assert_close(value, want.value, np.float64)
    assert_close(gradient, want.gradient, np.float64)
    assert_close(hessian, want.hessian, np.float64)


def test_many_degrees_of_freedom_are_a_normal_distribution() -> None:
    normal = fl.GaussianNLLLoss("log_scale", compute_full=True)([1.5], [0.0], [0.25])
    np.testing.assert_allclose(fl.StudentTNLLLoss(1e7, compute_full=True)([1.5], [0.0], [0.25]), normal, rtol=1e-6)


def test_a_penalty_over_no_classes_is_none() -> None:
    assert fl.SoftmaxCELoss(sparse_label=False, z_loss=0.5)(np.zeros((2, 0)), np.zeros((2, 0))).tolist() == [0, 0]
