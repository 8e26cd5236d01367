"""The losses over rows, vectors, pairs and sequences against their reference: values, gradients, calls, bits."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from tests.conftest import BUILT, assert_close
from tests.reference import REDUCTIONS
from tests.selection import every_structure
from tests.structured import STRUCTURED, Structured
from tests.test_inputs import LAYOUTS, REAL

Array = NDArray[Any]


@pytest.fixture(params=STRUCTURED)
def structured(request: pytest.FixtureRequest) -> Structured:
    return STRUCTURED[request.param]


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    fl.set_num_threads(None)


def draw(structured: Structured, rng: np.random.Generator, n: int, dtype: Any = np.float64) -> tuple[Array, ...]:
    return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in structured.data(rng, n))


def named(structured: Structured, inputs: tuple[Array, ...]) -> dict[str, Array]:
    return dict(zip(structured.names, inputs, strict=False))


def wide(inputs: tuple[Array, ...]) -> tuple[Array, ...]:
    return tuple(a.astype(float) for a in inputs)


def test_the_data_reach_every_branch(rng: np.random.Generator) -> None:
    for structured in STRUCTURED.values():
        inputs = draw(structured, rng, 40)
        value = structured.value(*inputs)
        assert len(np.unique(value)) > 3
        if structured.loss in (fl.TripletLoss, fl.CosineEmbeddingLoss):
            assert (value == 0).any()
        if structured.loss is fl.CTCLoss and len(inputs) > 2:
            _, label, frames, lengths = inputs
            assert set(lengths.tolist()) == {0, 1, 2}
            assert (label[lengths == 2, 0] == label[lengths == 2, 1]).any()
            assert (frames < 5).any()


def test_the_reference_differentiates_itself(structured: Structured, rng: np.random.Generator) -> None:
    inputs = draw(structured, rng, 6)
    m = rng.normal(size=structured.value(*inputs).shape)
    names = list(named(structured, inputs))
    gradients = structured.gradients(m, *inputs)
    hessian = None if structured.hessian is None else structured.hessian(m, *inputs)
    for name, gradient in gradients.items():
        k = names.index(name)
        positions = list(np.ndindex(gradient.shape))
        for at in rng.permutation(len(positions))[:40]:
            position = positions[at]
            if name == "label" and inputs[k][position] < 1e-2:
                # where the logarithm bends too much for a difference
                continue
            step, sides = 1e-5, []
            for sign in (1, -1):
                moved = [a.copy() for a in inputs]
                moved[k][position] += sign * step
                sides.append(((m * structured.value(*moved)).sum(), structured.gradients(m, *moved)[name][position]))
            np.testing.assert_allclose(
                gradient[position], (sides[0][0] - sides[1][0]) / (2 * step), rtol=1e-4, atol=1e-5
            )
            if hessian is not None and k == 0:
                np.testing.assert_allclose(
                    hessian[position], (sides[0][1] - sides[1][1]) / (2 * step), rtol=1e-4, atol=1e-5
                )


@every_structure(n=[1, 2, 7, 33], reduction=REDUCTIONS, dtype=[np.float32, np.float64], weighted=[False, True])
def test_all_results(
    structured: Structured, rng: np.random.Generator, n: int, reduction: str, dtype: Any, weighted: bool
) -> None:
    inputs = draw(structured, rng, n, dtype)
    unreduced = structured.value(*wide(inputs))
    weights = rng.uniform(0, 2, n).astype(dtype) if weighted else np.ones(n, dtype)
    spread = weights.astype(float).reshape(-1, *[1] * (unreduced.ndim - 1))
    full = np.broadcast_to(spread, unreduced.shape)
    others = tuple(range(1, unreduced.ndim))
    count = {"example": unreduced.size / n, "mean": unreduced.size, "weighted_mean": full.sum()}.get(reduction, 1)
    axes: Any = {"none": (), "example": others}.get(reduction)
    value = 0.7 * (full * unreduced).sum(axis=axes) / count
    head = np.asarray(rng.normal(size=np.shape(value)), dtype)
    spread_head = np.expand_dims(head.astype(float), others) if reduction == "example" else head.astype(float)
    m = 0.7 * full * spread_head / count
    loss = structured.build(reduction=reduction, weight=0.7)
    assert pickle.loads(pickle.dumps(loss)) == loss
    args = named(structured, inputs) | ({"sample_weight": weights} if weighted else {})

    gradients = structured.gradients(m, *wide(inputs))
    got_value, got = loss.value_and_grad(**args, head_grad=head, wrt=tuple(gradients))
    assert_close(got_value, value, dtype)
    np.testing.assert_array_equal(loss(**args), got_value)
    for a, (name, want) in zip(got, gradients.items(), strict=True):
        assert_close(a, want, dtype)
        np.testing.assert_array_equal(loss.grad(**args, head_grad=head, wrt=name), a)
    if structured.hessian is None:
        with pytest.raises(NotImplementedError, match="has no diagonal Hessian: "):
            loss.grad_and_hess(**args)
    else:
        results = loss.value_grad_and_hess(**args, head_grad=head)
        np.testing.assert_array_equal(results[0], got_value)
        np.testing.assert_array_equal(results[1], got[0])
        assert_close(results[2], structured.hessian(m, *wide(inputs)), dtype)
        np.testing.assert_array_equal(loss.grad_and_hess(**args, head_grad=head)[1], results[2])
    if weighted:
        terms = 0.7 * unreduced * spread_head / count
        want = terms.reshape(n, -1).sum(1)
        if reduction == "weighted_mean":
            want = want - head * value * (unreduced.size / n) / count
        assert_close(loss.grad(**args, head_grad=head, wrt="sample_weight"), want, dtype, abs(terms).max())


@every_structure(layout=list(LAYOUTS))
def test_layout_does_not_matter(structured: Structured, rng: np.random.Generator, layout: str) -> None:
    change = LAYOUTS[layout]
    for dtype in (np.float32, np.float64):
        inputs = draw(structured, rng, 9, dtype)
        loss = structured.build()
        args = named(structured, inputs)
        names = tuple(structured.gradients(np.ones(structured.value(*inputs).shape), *inputs))
        want_value, want = loss.value_and_grad(**args, wrt=names)
        value, got = loss.value_and_grad(**{name: change(a) for name, a in args.items()}, wrt=names)
        np.testing.assert_array_equal(value, want_value)
        for a, b in zip(got, want, strict=True):
            np.testing.assert_array_equal(a, b)
        # results over their inputs, and in strided buffers
        laid = {name: a.copy() for name, a in args.items()}
        loss.grad(**laid, wrt=names, out=tuple(laid[name] for name in names))
        for name, b in zip(names, want, strict=True):
            np.testing.assert_array_equal(laid[name], b)
        buffers = tuple(np.zeros((*b.shape, 2), b.dtype)[..., 0] for b in want)
        loss.grad(**args, wrt=names, out=buffers)
        for a, b in zip(buffers, want, strict=True):
            np.testing.assert_array_equal(a, b)


@every_structure(reduction=REDUCTIONS)
def test_same_bits(structured: Structured, rng: np.random.Generator, reduction: str) -> None:
    n = 60 if structured.loss is fl.KLDivLoss or structured.loss is fl.CTCLoss else 400
    inputs = tuple(np.concatenate([a] * 8) for a in draw(structured, rng, n, np.float32))
    names = tuple(
        structured.gradients(np.ones(structured.value(*(a[:2] for a in inputs)).shape), *(a[:2] for a in inputs))
    )
    args = named(structured, inputs) | {"sample_weight": rng.random(len(inputs[0])).astype(np.float32)}
    results = []
    for threads in (1, 2, 3, 8):
        fl.set_num_threads(threads)
        value, gradients = structured.build(reduction=reduction).value_and_grad(**args, wrt=names)
        results.append((value, *gradients))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


def test_empty(structured: Structured, rng: np.random.Generator) -> None:
    inputs = tuple(a[:0] for a in draw(structured, rng, 3))
    value, gradient = structured.build().value_and_grad(**named(structured, inputs))
    assert value.shape == (0,)
    assert gradient.shape == inputs[0].shape
    assert structured.build(reduction="mean")(**named(structured, inputs)) == 0


def test_nan_spoils_its_example(structured: Structured, rng: np.random.Generator) -> None:
    inputs = draw(structured, rng, 5)
    inputs[0][3] = np.nan
    value, gradient = structured.build().value_and_grad(**named(structured, inputs))
    assert np.isnan(value[3])
    assert np.isnan(gradient[3]).any()
    if not structured.build().couples:
        assert not np.isnan(np.delete(value, 3)).any()


def test_near_parallel_vectors() -> None:
    """An angle of 1e-10, whose cosine rounds to 1."""
    x, y = np.array([[1.0, 0.0]]), np.array([[1.0, 1e-10]])
    value, (g1, g2) = fl.CosineEmbeddingLoss().value_and_grad(x, y, [1], wrt=("input1", "input2"))
    np.testing.assert_allclose(value, 5e-21, rtol=1e-12)
    np.testing.assert_allclose(g1, [[0, -1e-10]], rtol=1e-12, atol=1e-20)
    np.testing.assert_allclose(g2, [[-1e-20, 1e-10]], rtol=1e-12, atol=1e-20)
    for scale in (1e-200, 1e200):
        np.testing.assert_allclose(fl.CosineEmbeddingLoss()(x * scale, y / scale, [1]), value, rtol=1e-12)
    value, gradient = fl.CosineEmbeddingLoss().value_and_grad(np.zeros((2, 3)), np.ones((2, 3)), [1, -1])
    np.testing.assert_array_equal(value, [1, 0])
    assert np.isfinite(gradient).all()
    zeros, ones = np.zeros((1, 3)), np.ones((1, 3))
    for x, y in ((zeros, ones), (ones, zeros)):
        gradients = fl.CosineEmbeddingLoss().grad(x, y, [1], wrt=("input1", "input2"))
        np.testing.assert_array_equal(gradients, (-1e12 * y, -1e12 * x))
        np.testing.assert_array_equal(fl.CosineEmbeddingLoss().grad_and_hess(x, y, [1])[1], zeros)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_orthogonal_vectors(rng: np.random.Generator, dtype: Any) -> None:
    """At the margin of 0 their loss is flat; the digits of a small cosine are those of the product."""
    loss = fl.CosineEmbeddingLoss(reduction="none")
    x = rng.normal(size=(500, 8)).astype(dtype)
    y = rng.normal(size=(500, 8)).astype(dtype)
    apart = rng.random(x.shape) < 0.5
    apart[:, :2] = True, False
    for label in (1, -1):
        value, gradients = loss.value_and_grad(x * apart, y * ~apart, np.full(500, label), wrt=("input1", "input2"))
        np.testing.assert_array_equal(value, max(label, 0))
        for gradient in gradients:
            assert gradient.any() == (label == 1)
    x, y = np.array([[3, 4, 1e-12]], dtype), np.array([[-4, 3, 1]], dtype)
    exact = mpmath.mpf(float(x[0, 2])) / (5 * mpmath.sqrt(26))
    np.testing.assert_allclose(loss(x, y, [-1]), float(exact), rtol=4 * np.finfo(dtype).eps)


def test_cosine_of_more_axes(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, 3, 4, 5))
    label = rng.choice([-1, 1], (3, 4))
    flat = fl.CosineEmbeddingLoss()(x.reshape(12, 5), y.reshape(12, 5), label.ravel()).reshape(3, 4)
    np.testing.assert_array_equal(fl.CosineEmbeddingLoss(reduction="none")(x, y, label), flat)
    np.testing.assert_allclose(fl.CosineEmbeddingLoss()(x, y, label), flat.mean(1), rtol=1e-14)
    np.testing.assert_allclose(fl.CosineEmbeddingLoss(batch_axis=1)(x, y, label), flat.mean(0), rtol=1e-14)


def test_batch_axis(rng: np.random.Generator) -> None:
    x, y, z = rng.normal(size=(3, 3, 4, 5))
    moved = [np.moveaxis(a, 0, 1) for a in (x, y, z)]
    np.testing.assert_allclose(fl.TripletLoss(batch_axis=1)(*moved), fl.TripletLoss()(x, y, z), rtol=1e-14)
    for axis in (0, 1, 2):
        loss = fl.KLDivLoss(from_logits=False, axis=axis, reduction="none")
        want = fl.KLDivLoss(from_logits=False, reduction="none")
        y = abs(y)
        np.testing.assert_allclose(
            loss(x, y), np.moveaxis(want(np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)), -1, axis), rtol=1e-13
        )
    weight = rng.random((3, 4, 1))
    got = fl.KLDivLoss(from_logits=False, axis=1, reduction="none")(x, y, weight)
    np.testing.assert_allclose(
        got, weight * fl.KLDivLoss(from_logits=False, axis=1, reduction="none")(x, y), rtol=1e-13
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("distance", [2.0**20, 2.0**30])
def test_pairs_that_are_all_as_far_apart(dtype: Any, distance: float) -> None:
    """What the distances have in common leaves no trace."""
    x, y = np.full((3, 1), distance, dtype), np.zeros((3, 1), dtype)
    value, gradients = fl.SDMLLoss().value_and_grad(x, y, wrt=("x1", "x2"))
    np.testing.assert_array_equal(value, fl.SDMLLoss()(y, y))
    np.testing.assert_array_equal(gradients, 0)


@pytest.mark.parametrize(("dtype", "far"), [(np.float32, 2.0**12), (np.float64, 2.0**40)])
def test_a_positive_near_its_negative(dtype: Any, far: float) -> None:
    """The squares of both distances round to more than what they differ by."""
    pred, positive, negative = (np.full((1, 1), k, dtype) for k in (0, far + 0.5, far + 0.25))
    assert fl.TripletLoss()(pred, positive, negative) == [0.25 * (2 * far + 0.75) + 1]


def test_near_pairs_keep_their_distance(rng: np.random.Generator) -> None:
    """Far from the origin, |x|^2 + |y|^2 - 2 x.y would be 0."""
    x = 1e8 + rng.normal(size=(6, 3))
    y = x + 1e-3 * rng.normal(size=(6, 3))
    want = STRUCTURED["SDML"]
    np.testing.assert_allclose(fl.SDMLLoss()(x, y), want.value(x, y), rtol=1e-9)
    np.testing.assert_allclose(fl.SDMLLoss().grad(x, y), want.gradients(np.ones(6), x, y)["x1"], rtol=1e-6, atol=1e-9)


def forward_exact(rows: Any, label: list[int], blank: int) -> Any:
    """-log P by the recursion over states, for logits in mpmath."""
    states = [blank]
    for k in label:
        states += [k, blank]
    alpha = [mpmath.mpf(1)] + [mpmath.mpf(0)] * (len(states) - 1)
    for t, row in enumerate(rows):
        p = [mpmath.exp(a) for a in row]
        total = sum(p)
        new = []
        for s, k in enumerate(states):
            a = alpha[s] + (alpha[s - 1] if s else 0)
            if s > 1 and k != blank and k != states[s - 2]:
                a += alpha[s - 2]
            new.append(mpmath.mpf(0) if t == 0 and s > 1 else a * p[k] / total)
        alpha = new
    return -mpmath.log(alpha[-1] + (alpha[-2] if label else 0))


@pytest.mark.parametrize("scale", [1, 30, 2000])
def test_sequences_exactly(rng: np.random.Generator, scale: float) -> None:
    """Digits against 50 of them: also where every alignment is far below the smallest double."""
    with mpmath.workprec(170):
        for frames, classes, label in ((1, 2, [0]), (12, 4, [0, 0, 1, 2]), (60, 6, [1, 1, 3, 0, 4, 2, 2]), (40, 3, [])):
            pred = rng.normal(scale=scale, size=(1, frames, classes))
            ids = np.array([label], int).reshape(1, -1)
            want = forward_exact([[mpmath.mpf(float(a)) for a in row] for row in pred[0]], label, classes - 1)
            value, gradient = fl.CTCLoss().value_and_grad(pred, ids)
            assert abs(value[0] - want) <= 1e-13 * abs(want) + 1e-15
            for t, k in ((0, 0), (frames // 2, classes - 1), (frames - 1, classes // 2)):
                sides = []
                for sign in (1, -1):
                    rows = [[mpmath.mpf(float(a)) for a in row] for row in pred[0]]
                    rows[t][k] += sign * mpmath.mpf(2) ** -40
                    sides.append(forward_exact(rows, label, classes - 1))
                exact = (sides[0] - sides[1]) * mpmath.mpf(2) ** 39
                assert abs(gradient[0, t, k] - exact) <= 1e-10 * abs(exact) + 1e-15


def test_sequence_edges() -> None:
    inf = np.inf
    pred = np.zeros((3, 3, 4))
    # too long, too long with its repeats, and empty
    label = [[0, 1, 2, 0], [1, 1, 0, -1], [-1, -1, -1, -1]]
    value, gradient = fl.CTCLoss().value_and_grad(pred, label)
    np.testing.assert_allclose(value, [inf, inf, 3 * np.log(4)])
    assert not gradient[:2].any()
    assert gradient[2].any()
    value, gradient = fl.CTCLoss(zero_infinity=True).value_and_grad(pred, label, [0, 3, 3])
    np.testing.assert_allclose(value, [0, 0, 3 * np.log(4)])
    assert not gradient[:2].any()
    np.testing.assert_array_equal(fl.CTCLoss()(pred, label, [0, 0, 0]), [inf, inf, 0])
    # a batch of empty labels, labels without room, no frames at all
    np.testing.assert_allclose(fl.CTCLoss()(pred, np.zeros((3, 0))), 3 * np.log(4))
    np.testing.assert_allclose(fl.CTCLoss()(pred, np.full((3, 2), -1)), 3 * np.log(4))
    np.testing.assert_array_equal(fl.CTCLoss()(np.zeros((2, 0, 4)), [[0], [-1]]), [inf, 0])
    # what stands behind the lengths is not read
    longer = pred.copy()
    longer[:, 2:] = np.nan
    label = [[0, 1], [0, 9], [7, 7]]
    value, gradient = fl.CTCLoss().value_and_grad(longer, label, [2, 2, 2], [2, 1, 0])
    np.testing.assert_allclose(value, fl.CTCLoss()(pred[:, :2], [[0, 1], [0, -1], [-1, -1]]))
    assert not gradient[:, 2:].any()
    # a class that is impossible, and frames that are not numbers
    pred = np.zeros((2, 2, 3))
    pred[0, :, 0] = -inf
    pred[1, 0, 0] = inf
    value, gradient = fl.CTCLoss().value_and_grad(pred, [[0], [0]])
    np.testing.assert_array_equal(value, [inf, np.nan])
    assert not gradient[0].any()
    assert np.isnan(gradient[1]).all()


def test_long_sequences(rng: np.random.Generator) -> None:
    """2000 frames, 10,000 classes: the gradients of a frame sum to 0, and are those of the value."""
    pred = rng.normal(size=(2, 2000, 30))
    label = rng.integers(0, 29, (2, 700))
    value, gradient = fl.CTCLoss().value_and_grad(pred, label)
    assert np.isfinite(value).all()
    np.testing.assert_allclose(gradient.sum(2), 0, atol=1e-12)
    assert (abs(gradient) <= 1).all()
    step = rng.normal(size=pred.shape)
    difference = fl.CTCLoss()(pred + 1e-5 * step, label) - fl.CTCLoss()(pred - 1e-5 * step, label)
    np.testing.assert_allclose(difference / 2e-5, (gradient * step).sum((1, 2)), rtol=1e-6)
    pred = rng.normal(size=(1, 30, 10_000)).astype(np.float32)
    label = rng.integers(0, 9999, (1, 9))
    value, gradient = fl.CTCLoss().value_and_grad(pred, label)
    np.testing.assert_allclose(fl.CTCLoss()(pred.astype(float), label), value, rtol=1e-7)
    np.testing.assert_allclose(fl.CTCLoss().grad(pred.astype(float), label), gradient, atol=1e-7)


def test_certain_sequences() -> None:
    """Where the alignment is sure, value and gradient are tiny, and right."""
    pred = np.zeros((1, 3, 3))
    for t, k in enumerate((0, 2, 1)):
        pred[0, t, k] = 30
    value, gradient = fl.CTCLoss().value_and_grad(pred, [[0, 1]])
    with mpmath.workprec(200):
        rows = [[mpmath.mpf(float(a)) for a in row] for row in pred[0]]
        want = forward_exact(rows, [0, 1], 2)
        assert abs(value[0] - want) < 3e-16
        for t, k in ((0, 0), (1, 2), (2, 0)):
            sides = []
            for sign in (1, -1):
                moved = [list(row) for row in rows]
                moved[t][k] += sign * mpmath.mpf(2) ** -60
                sides.append(forward_exact(moved, [0, 1], 2))
            exact = (sides[0] - sides[1]) * mpmath.mpf(2) ** 59
            assert abs(gradient[0, t, k] - exact) <= 1e-6 * abs(exact) + 1e-28


def test_one_example_without_a_batch() -> None:
    value, gradient = fl.TripletLoss().value_and_grad(0.5, 2.0, 1.0)
    assert (value, gradient) == (3, -2)
    value, gradient = fl.CosineEmbeddingLoss().value_and_grad([1.0, 0.0], [0.0, 2.0], 1)
    np.testing.assert_array_equal(value, [1])
    np.testing.assert_array_equal(gradient, [0, -1])
    np.testing.assert_allclose(fl.KLDivLoss(from_logits=False)([1.0, 1.0], [0.5, 0.5]), [0, 0], atol=1e-11)


def test_rows_of_nothing() -> None:
    np.testing.assert_array_equal(fl.TripletLoss(margin=2)(*np.zeros((3, 4, 0))), [2, 2, 2, 2])
    np.testing.assert_array_equal(fl.CosineEmbeddingLoss()(*np.zeros((2, 2, 0)), [1, -1]), [1, 0])
    np.testing.assert_allclose(fl.SDMLLoss(0)(*np.zeros((2, 4, 0))), np.log([4] * 4), rtol=1e-11)
    assert fl.KLDivLoss(from_logits=False, reduction="none")(np.zeros((3, 0)), np.zeros((3, 0))).shape == (3, 0)
    # targets of no class sum to 0
    dense = fl.SoftmaxCELoss(sparse_label=False)
    np.testing.assert_array_equal(dense(np.zeros((3, 0)), np.zeros((3, 0))), [0, 0, 0])


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_label_and_length_dtypes(dtype: Any) -> None:
    pred = np.random.default_rng(1).normal(size=(2, 5, 3)).astype(np.float32)
    label, lengths = np.array([[1, 0], [0, 1]]), np.array([1, 0])
    want = fl.CTCLoss().value_and_grad(pred, label, lengths + 1, lengths)
    got = fl.CTCLoss().value_and_grad(pred, label.astype(dtype), (lengths + 1).astype(int), lengths.astype(dtype))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.float32
    vectors = np.arange(6.0).reshape(2, 3)
    signs = np.array([1, 1]).astype(dtype)
    np.testing.assert_array_equal(
        fl.CosineEmbeddingLoss()(vectors, -vectors, signs), fl.CosineEmbeddingLoss()(vectors, -vectors, [1, 1])
    )


BITS = """
import hashlib
import numpy as np
import fastloss as fl
from tests.structured import STRUCTURED
rng = np.random.default_rng(5)
for name, structured in STRUCTURED.items():
    for dtype in (np.float32, np.float64):
        inputs = [a.astype(dtype) if a.dtype.kind == "f" else a for a in structured.data(rng, 70)]
        two = [a[:2] for a in inputs]
        names = tuple(structured.gradients(np.ones(structured.value(*two).shape), *two))
        value, gradients = structured.build().value_and_grad(*inputs, wrt=names)
        print(name, dtype.__name__, *(hashlib.sha256(a.tobytes()).hexdigest() for a in (value, *gradients)))
"""


def test_builds_with_fma_agree_to_the_last_bit() -> None:
    builds = [build for build in BUILT if build != "baseline"]
    outputs = []
    for build in builds:
        result = subprocess.run(
            [sys.executable, "-c", BITS],
            env=os.environ | {"FASTLOSS_ISA": build},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert result.returncode == 0, result.stderr
        outputs.append(result.stdout)
    assert len(set(outputs)) <= 1
    assert all(outputs)


def test_infinity_warns_nobody() -> None:
    """A label without an alignment, whose loss and mean are infinite: their difference is NaN, and nobody's mistake."""
    weights = np.ones(2)
    loss = fl.CTCLoss(reduction="weighted_mean")
    gradient = loss.grad(np.zeros((2, 1, 3)), [[0, 1], [0, -1]], None, None, weights, wrt="sample_weight")
    np.testing.assert_array_equal(np.isnan(gradient), [True, False])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1, -2, 2])
def test_cosine_along_any_axis(rng: np.random.Generator, axis: int, dtype: Any) -> None:
    x, y = rng.normal(size=(2, 3, 4, 5)).astype(dtype)
    label = rng.choice([-1, 1], np.delete(x.shape, axis))
    weight = rng.random(label.shape).astype(dtype)
    last = [np.ascontiguousarray(np.moveaxis(a, axis, -1)) for a in (x, y)]
    for reduction in ("none", "mean", "weighted_mean"):
        want = fl.CosineEmbeddingLoss(reduction=reduction, margin=0.1).value_and_grad(
            *last, label, weight, wrt=("input1", "input2")
        )
        loss = fl.CosineEmbeddingLoss(reduction=reduction, margin=0.1, axis=axis)
        value, gradients = loss.value_and_grad(x, y, label, weight, wrt=("input1", "input2"))
        np.testing.assert_array_equal(value, want[0])
        for a, b in zip(gradients, want[1], strict=True):
            np.testing.assert_array_equal(a, np.moveaxis(b, -1, axis))
    assert repr(loss).endswith(f"axis={axis})")
    assert pickle.loads(pickle.dumps(loss)) == loss


def ctc_batch(rng: np.random.Generator, blank: int, n: int = 6, classes: int = 5) -> tuple[Array, Array, Array, Array]:
    """Predictions, padded labels, and both lengths, empty labels among them."""
    ids = rng.integers(0, classes - 1, (n, 3))
    lengths = rng.integers(0, 4, n)
    lengths[:2] = 0, 3
    return rng.normal(size=(n, 7, classes)), ids + (ids >= blank % classes), rng.integers(3, 8, n), lengths


@pytest.mark.parametrize("blank", [-5, -3, -1, 0, 1, 3, 4])
@pytest.mark.parametrize("padded", [False, True])
def test_any_class_is_the_blank(rng: np.random.Generator, blank: int, padded: bool) -> None:
    """The same as the last one, with the classes in another order."""
    pred, label, frames, lengths = ctc_batch(rng, blank)
    index = blank % 5
    order = [*(k for k in range(5) if k != index), index]
    args: Any = (frames, lengths)
    last = label - (label > index)
    if padded:
        beyond = np.arange(3) >= lengths[:, None]
        label, last, args = np.where(beyond, -1, label), np.where(beyond, -1, last), (frames,)
    loss = fl.CTCLoss(blank=blank)
    value, gradient = loss.value_and_grad(pred, label, *args)
    want = fl.CTCLoss().value_and_grad(np.ascontiguousarray(pred[..., order]), last, *args)
    np.testing.assert_allclose(value, want[0], rtol=1e-13)
    np.testing.assert_allclose(gradient[..., order], want[1], rtol=1e-12, atol=1e-15)
    assert pickle.loads(pickle.dumps(loss)) == loss
    if index in (0, 4):
        named = fl.CTCLoss(blank="last" if index else "first")
        np.testing.assert_array_equal(named(pred, label, *args), value)


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_labels_one_after_another(rng: np.random.Generator, dtype: Any) -> None:
    pred, label, frames, lengths = ctc_batch(rng, -1, classes=3)
    row = np.concatenate([ids[:n] for ids, n in zip(label, lengths, strict=True)]).astype(dtype)
    for layout in ("NTC", "TNC"):
        x = np.swapaxes(pred, 0, 1) if layout == "TNC" else pred
        for label_layout in ("NT", "TN"):
            loss = fl.CTCLoss(layout, label_layout)
            want = loss.value_and_grad(x, label.T if label_layout == "TN" else label, frames, lengths)
            for given in (row, np.repeat(row, 2)[::2], row.astype(row.dtype.newbyteorder())):
                for a, b in zip(loss.value_and_grad(x, given, frames, lengths), want, strict=True):
                    np.testing.assert_array_equal(a, b)
    loss = fl.CTCLoss()
    np.testing.assert_array_equal(loss(pred, row, label_lengths=lengths), loss(pred, label, label_lengths=lengths))
    np.testing.assert_array_equal(
        loss(pred, [], label_lengths=np.zeros(6)), loss(pred, np.zeros((6, 0)), label_lengths=np.zeros(6))
    )
    assert loss(np.zeros((0, 3, 4)), [], label_lengths=[]).shape == (0,)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("layout", ["NTC", "TNC"])
def test_a_sequence_without_a_batch(rng: np.random.Generator, layout: Any, reduction: str) -> None:
    pred, label = rng.normal(size=(7, 4)), np.array([0, 2, 2])
    loss = fl.CTCLoss(layout, reduction=reduction)
    batch = fl.CTCLoss(reduction=reduction)
    calls: list[tuple[tuple[Any, ...], tuple[Any, ...]]] = [
        ((label,), (label[None],)),
        ((label[None],), (label[None],)),
        (([0, 2, -1],), ([[0, 2, -1]],)),
        ((label, 6), (label[None], [6])),
        ((label, [6], np.array(2)), (label[None], [6], [2])),
        ((label, None, 2.0), (label[None], None, [2])),
        (([], None, 0), (np.zeros((1, 0)), None, [0])),
    ]
    for given, same in calls:
        value, gradient = loss.value_and_grad(pred, *given)
        want = batch.value_and_grad(pred[None], *same)
        assert np.shape(value) == ()
        np.testing.assert_array_equal(value, np.reshape(want[0], ()))
        np.testing.assert_array_equal(gradient, want[1][0])
    value, (gradient, weight) = loss.value_and_grad(
        pred, label, sample_weight=0.5, head_grad=2.0, wrt=("pred", "sample_weight")
    )
    want = batch.value_and_grad(pred[None], label[None], sample_weight=[0.5], wrt=("pred", "sample_weight"))
    np.testing.assert_array_equal(value, np.reshape(want[0], ()))
    np.testing.assert_array_equal(gradient, 2 * want[1][0][0])
    np.testing.assert_array_equal(weight, 2 * want[1][1][0])
    out = np.empty((7, 4))
    assert loss.grad(pred, label, out=out) is out
    other = fl.CTCLoss(layout, "TN", reduction=reduction)
    np.testing.assert_array_equal(other(pred, label[:, None]), np.reshape(batch(pred[None], label[None]), ()))


def test_sequences_as_pytorch_takes_them(rng: np.random.Generator) -> None:
    torch = pytest.importorskip("torch")
    pred, label, frames, lengths = ctc_batch(rng, 2)
    # theirs has gradients of NaN where no alignment fits
    frames = np.maximum(frames, 6)
    x = torch.tensor(pred, requires_grad=True)
    row = torch.tensor(np.concatenate([ids[:n] for ids, n in zip(label, lengths, strict=True)]))
    theirs = torch.nn.CTCLoss(blank=2, reduction="none")
    log_p = x.log_softmax(2).transpose(0, 1)
    want = theirs(log_p, row, torch.tensor(frames), torch.tensor(lengths))
    loss = fl.CTCLoss(layout="TNC", blank=2)
    value = loss(x.transpose(0, 1), row, torch.tensor(frames), torch.tensor(lengths))
    np.testing.assert_allclose(value.detach(), want.detach(), rtol=1e-10)
    np.testing.assert_allclose(
        torch.autograd.grad(value.sum(), x)[0], torch.autograd.grad(want.sum(), x)[0], atol=1e-10
    )
    one = log_p.detach()[:, 1].requires_grad_()
    ids = torch.tensor(label[1])
    want = theirs(one, ids, torch.tensor(5), torch.tensor(3))
    value = loss(one, ids, torch.tensor(5), torch.tensor(3))
    assert value.shape == want.shape == ()
    np.testing.assert_allclose(value.detach(), want.detach(), rtol=1e-10)
    np.testing.assert_allclose(torch.autograd.grad(value, one)[0].sum(1), np.zeros(7), atol=1e-12)


def test_gradient_in_weights_that_step_over_classes(rng: np.random.Generator) -> None:
    """The class axis is taken last, and the sums of neighbours along it lie apart."""
    pred, label, weight = rng.normal(size=(5, 4, 3)), rng.random((5, 4, 3)), rng.random((5, 4, 1))
    loss = fl.KLDivLoss(from_logits=False, axis=0, reduction="none")
    gradient = loss.grad(pred, label, weight, wrt="sample_weight")
    np.testing.assert_allclose(gradient, loss(pred, label).sum(2, keepdims=True), rtol=1e-12, atol=1e-14)
