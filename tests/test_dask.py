"""Dask: lazy results are those of NumPy, however the arrays are cut into chunks."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from tests.conftest import assert_close
from tests.frameworks import every_case
from tests.reference import LOSSES, REDUCTIONS, draw
from tests.structured import STRUCTURED

dask = pytest.importorskip("dask", reason="computes on Dask's schedulers")
da = pytest.importorskip("dask.array", reason="computes on Dask's schedulers")
ml_dtypes = pytest.importorskip("ml_dtypes", reason="gives NumPy a bfloat16")

# of the axis of the examples, and of the one behind it where that may be cut
CHUNKS: list[tuple[Any, Any]] = [((3, 4), 5), ((2, 0, 4, 1), (2, 3))]


def raising_scheduler(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("something was computed")


@pytest.fixture(autouse=True)
def lazy() -> Iterator[None]:
    with dask.config.set(scheduler=raising_scheduler):
        yield


def computed(*lazy: Any) -> Any:
    results = dask.compute(*lazy, scheduler="synchronous")
    return results if len(results) > 1 else results[0]


def example(name: str, rng: np.random.Generator) -> tuple[Any, dict[str, NDArray[Any]]]:
    """How to build a loss, and its inputs by name, for 7 examples, with weights."""
    if name in LOSSES:
        source: Any = LOSSES[name]
        inputs = draw(source, rng, (7, 5))
    else:
        source = STRUCTURED[name]
        inputs = source.data(rng, 7)
    weighted = dict(zip(source.names, inputs, strict=False)) | {"sample_weight": rng.uniform(0.5, 2, 7)}
    return source.build, {k: weighted[k] for k in source.build().inputs if k in weighted}


def is_whole(name: str) -> bool:
    """Whether all examples must be in one chunk."""
    return name in STRUCTURED and STRUCTURED[name].build().couples is not None


def cut(name: str, given: dict[str, NDArray[Any]], chunks: tuple[Any, Any]) -> dict[str, Any]:
    """Arrays of Dask, cut along all axes that may be."""
    sizes = {7: -1 if is_whole(name) else chunks[0], 5: chunks[1] if name in LOSSES else -1}
    return {
        key: da.from_array(x, chunks=tuple([sizes.get(n, -1) if k < 2 else -1 for k, n in enumerate(x.shape)]))
        for key, x in given.items()
    }


def differentiable(loss: fl.Loss, given: dict[str, Any]) -> tuple[str, ...]:
    ids = dict(loss.arguments).get("sparse_label", False)
    return tuple([name for name in given if name not in loss.fixed and not (name == "label" and ids)])


def check(loss: fl.Loss, given: dict[str, NDArray[Any]], lazy: dict[str, Any], head: Any, lazy_head: Any) -> None:
    """All results of all methods."""
    wrt = differentiable(loss, given)
    wants = [loss(**given), *flat(loss.value_and_grad(**given, wrt=wrt, head_grad=head))]
    found = [loss(**lazy), *flat(loss.value_and_grad(**lazy, wrt=wrt, head_grad=lazy_head))]
    wants += [loss.grad(**given), loss.grad(**given, wrt="sample_weight", head_grad=head)]
    found += [loss.grad(**lazy), loss.grad(**lazy, wrt="sample_weight", head_grad=lazy_head)]
    if loss.no_hessian is None:
        wants += [*loss.grad_and_hess(**given), *loss.value_grad_and_hess(**given, head_grad=head)]
        found += [*loss.grad_and_hess(**lazy), *loss.value_grad_and_hess(**lazy, head_grad=lazy_head)]
    if loss.no_product is None:
        wants.append(loss.hvp(**given, vector=given[loss.inputs[0]], head_grad=head))
        found.append(loss.hvp(**lazy, vector=lazy[loss.inputs[0]], head_grad=lazy_head))
    terms = np.max(np.abs(type(loss)(**(dict(loss.arguments) | {"reduction": "none"}))(**given)), initial=1)
    for x, got, want in zip(found, computed(*found), wants, strict=True):
        assert isinstance(x, da.Array)
        # of NumPy's arrays a total is a float of Python
        assert x.dtype == got.dtype == wants[2].dtype
        assert x.shape == np.shape(want)
        assert [sum(c) for c in x.chunks] == list(np.shape(want))
        assert_close(got, want, x.dtype, terms)


def flat(results: tuple[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    return results[0], *results[1]


@every_case(fixture=False, way=[(reduction, CHUNKS[k % 2]) for k, reduction in enumerate(REDUCTIONS)])
def test_results(rng: np.random.Generator, name: str, way: tuple[str, Any]) -> None:
    reduction, chunks = way
    build, given = example(name, rng)
    loss = build(reduction=reduction, weight=0.7)
    lazy = cut(name, given, chunks)
    value = loss(**given)
    head = rng.normal(size=np.shape(value))
    lazy_head = da.from_array(head, chunks=(-1 if is_whole(name) else 4, *[-1] * head.ndim)[: head.ndim])
    check(loss, given, lazy, head, lazy_head)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32, ">f4", np.int32])
@pytest.mark.parametrize("name", ["Huber", "BCE pos_weight", "softmax class_weight ignore"])
def test_dtypes(rng: np.random.Generator, name: str, dtype: Any) -> None:
    build, given = example(name, rng)
    given["pred"] = given["pred"].astype(dtype)
    for reduction in REDUCTIONS:
        loss = build(reduction=reduction)
        wants = flat(loss.value_and_grad(**given, wrt=("pred", "sample_weight")))
        found = flat(loss.value_and_grad(**cut(name, given, CHUNKS[1]), wrt=("pred", "sample_weight")))
        for x, got, want in zip(found, computed(*found), wants, strict=True):
            # a total of halves is float32
            assert x.dtype == got.dtype == (wants[1] if np.ndim(want) else np.float32(0) * wants[1]).dtype
            assert_close(got, want, x.dtype)


@pytest.mark.parametrize(("batch_axis", "reduction"), [*zip([0, 1, -1, 0, 1], REDUCTIONS, strict=True)])
def test_batch_axis_and_weights(rng: np.random.Generator, batch_axis: int, reduction: str) -> None:
    pred, label = rng.normal(size=(2, 4, 6, 5))
    loss = fl.L2Loss(batch_axis=batch_axis, reduction=reduction)
    lazy = {"pred": da.from_array(pred, chunks=(2, 4, (0, 2, 3))), "label": da.from_array(label, chunks=(3, 3, 5))}
    given = {"pred": pred, "label": label}
    for shape in ((), (1,), pred.shape[batch_axis : batch_axis + 1 or None], (6, 1), (4, 1, 5), (4, 6, 5)):
        weight = rng.random(shape)
        head = rng.normal(size=np.shape(loss(**given)))
        check(
            loss,
            given | {"sample_weight": weight},
            lazy | {"sample_weight": weight if len(shape) == 2 else da.from_array(weight, chunks=2)},
            head,
            da.from_array(head, chunks=2),
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("batch_axis", [0, 1, 2])
def test_class_axis(rng: np.random.Generator, batch_axis: int, reduction: str) -> None:
    """Before, behind and at the axis of the examples."""
    pred, label = rng.normal(size=(4, 3, 5)), rng.integers(0, 3, (4, 5))
    loss = fl.SoftmaxCELoss(axis=1, batch_axis=batch_axis, reduction=reduction, ignore_index=1, label_smoothing=0.1)
    for weight in (rng.random((4, 5)), rng.random((4, 1, 5)), rng.random((1, 1, 5))):
        given = {"pred": pred, "label": label[:, None], "sample_weight": weight}
        lazy = {"pred": da.from_array(pred, chunks=(2, 3, 2)), "label": label, "sample_weight": weight}
        head = rng.normal(size=np.shape(loss(**given)))
        check(loss, given, lazy, head, head)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("shape", "chunks"),
    [
        ((), ()),
        ((0,), ((0, 0),)),
        ((0, 5), ((0, 0), (2, 3))),
        ((5, 0), ((2, 3), (0,))),
        ((1, 5), ((0, 1, 0), (5,))),
        ((5,), ((0, 2, 3, 0),)),
    ],
    ids=str,
)
def test_empty_and_single(rng: np.random.Generator, shape: Any, chunks: Any, reduction: str) -> None:
    pred, label = draw(LOSSES["BCE"], rng, shape)
    given = {"pred": pred, "label": label, "sample_weight": rng.random(shape[:1])}
    loss = fl.SigmoidBCELoss(reduction=reduction)
    head = np.full(np.shape(loss(**given)), 0.5)
    check(loss, given, {**given, "pred": da.from_array(pred, chunks=chunks)}, head, head)
    check(loss, given, {**given, "label": da.from_array(label, chunks=chunks)}, head, head)


def test_nothing_counts() -> None:
    pred, label = da.ones((4, 3), chunks=2), da.full(4, 2, chunks=2)
    for parameters in ({"ignore_index": 2}, {"class_weight": [1, 1, 0]}):
        softmax = fl.SoftmaxCELoss(reduction="weighted_mean", **parameters)
        value, gradient = computed(*softmax.value_and_grad(pred.rechunk({1: -1}), label))
        assert value == 0
        assert not gradient.any()
    loss = fl.L2Loss(reduction="weighted_mean")
    value, gradients = loss.value_and_grad(pred, 0 * pred, da.zeros(4, chunks=2), wrt=("pred", "sample_weight"))
    assert not any(np.any(x) for x in computed(value, *gradients))


def test_a_weighted_mean_without_weights(rng: np.random.Generator) -> None:
    pred, label = rng.normal(size=(2, 4, 3))
    loss = fl.L2Loss(reduction="weighted_mean")
    value = computed(loss(da.from_array(pred, chunks=2), da.from_array(label, chunks=2)))
    np.testing.assert_allclose(value, loss(pred, label), rtol=1e-14)


def test_other_inputs(rng: np.random.Generator) -> None:
    """The layouts of CTC, a number for Poisson, labels without axes of size 1, NumPy's arrays and lists."""
    pred, label = rng.normal(size=(6, 5, 3)), rng.integers(0, 2, (2, 5))
    lengths = rng.integers(3, 7, 5)
    ctc = fl.CTCLoss(layout="TNC", label_layout="TN", reduction="sum")
    given = {"pred": pred, "label": label, "pred_lengths": lengths, "sample_weight": rng.random(5)}
    lazy = given | {"pred": da.from_array(pred, chunks=(6, 2, 3)), "pred_lengths": da.from_array(lengths, chunks=3)}
    check(ctc, given, lazy, np.array(2.0), 2.0)

    rates, counts = rng.random((4, 3)), rng.poisson(2, (4, 3))
    loss = fl.PoissonNLLLoss(from_logits=False)
    for epsilon in (0.5, da.asarray(0.5)):
        got = computed(loss(da.from_array(rates, chunks=2), counts.tolist(), epsilon=epsilon))
        np.testing.assert_array_equal(got, loss(rates, counts, epsilon=0.5))

    column, row = rng.normal(size=(6, 1)), rng.normal(size=6)
    label_gradient = fl.L2Loss().grad(da.from_array(column, chunks=2), da.from_array(row, chunks=3), wrt="label")
    assert_close(computed(label_gradient), row - column[:, 0], np.float64)
    # the library's array may be any of them
    assert_close(computed(fl.L2Loss()(row, row + 1, da.from_array(row, chunks=2))), 0.5 * row, np.float64)
    assert_close(computed(fl.L2Loss().grad(row, 0 * row, head_grad=da.from_array(row, chunks=4))), row**2, np.float64)


# of pred, and of what lies like it
FITTING = [((5, 1), (5,)), ((5,), (1, 5)), ((2, 1, 3), (2, 3)), ((4,), (4, 1, 1)), ((), (1, 1)), ((1,), ())]
UNFITTING = [((5, 1), (1, 5)), ((2, 3, 1), (2, 1, 3)), ((1, 5), (5, 1)), ((2, 1, 1), (1, 2)), ((4,), (2, 2))]


def alike(shape: tuple[int, ...], other: tuple[int, ...]) -> list[tuple[fl.Loss, dict[str, NDArray[Any]]]]:
    """Calls in which an input has the shape, or that and an axis of rows, and the others are to lie like it."""
    rng = np.random.default_rng(2)
    x, y, r, s = rng.random(shape), rng.random(other), rng.random((*shape, 3)), rng.random((*other, 3))
    return [
        (fl.L2Loss(), {"pred": x, "label": y}),
        (fl.SoftmaxCELoss(), {"pred": r, "label": np.round(y)}),
        (fl.SoftmaxCELoss(sparse_label=False), {"pred": r, "label": s}),
        (fl.TripletLoss(), {"pred": r, "positive": r, "negative": s}),
        (fl.CosineEmbeddingLoss(), {"input1": r, "input2": s, "label": np.ones(shape)}),
        (fl.CosineEmbeddingLoss(), {"input1": r, "input2": 2 * r, "label": np.sign(y)}),
        (fl.SDMLLoss(), {"x1": r[None], "x2": s[None]}),
    ]


@pytest.mark.parametrize(("shape", "other"), FITTING)
def test_shapes_fit_but_for_axes_of_size_1(shape: Any, other: Any) -> None:
    for loss, given in alike(shape, other):
        found = loss.value_and_grad(**{name: da.from_array(x) for name, x in given.items()})
        for got, want in zip(computed(*found), loss.value_and_grad(**given), strict=True):
            assert_close(got, want, np.float64)


@pytest.mark.parametrize(("shape", "other"), UNFITTING)
def test_shapes_that_do_not_fit(shape: Any, other: Any) -> None:
    for loss, given in alike(shape, other):
        with pytest.raises(ValueError, match="though one of the two may lack axes of size 1") as info:
            loss(**{name: da.from_array(x) for name, x in given.items()})
        assert all(str(x)[1:-1].rstrip(",") in str(info.value) for x in (shape, other))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["L2", "BCE pos_weight", "KL", "softmax class_weight ignore", "cosine"])
def test_a_weight_of_zero_leaves_out(rng: np.random.Generator, name: str, value: float, reduction: str) -> None:
    build, given = example(name, rng)
    loss = build(reduction=reduction)
    given["sample_weight"][[1, 5]] = 0
    for spoilt in loss.inputs[: loss.required]:
        spoiled = given | {spoilt: given[spoilt].astype(float)}
        spoiled[spoilt][[1, 5]] = value
        lazy = cut(name, spoiled, ((3, 4), -1))
        found = [*loss.value_and_grad(**lazy), loss.grad(**lazy, wrt="sample_weight")]
        wants = [*loss.value_and_grad(**spoiled), loss.grad(**spoiled, wrt="sample_weight")]
        if loss.no_hessian is None:
            found.append(loss.grad_and_hess(**lazy)[1])
            wants.append(loss.grad_and_hess(**spoiled)[1])
        for got, want in zip(computed(*found), wants, strict=True):
            assert np.all(np.isfinite(got))
            assert_close(got, want, np.float64)


@pytest.mark.parametrize("reduction", ["sum", "mean", "weighted_mean"])
def test_totals_have_preds_dtype_and_are_summed_in_float64(reduction: str) -> None:
    """A chunk's total is not rounded to float32 before the sum."""
    pred = np.full((1024, 4), 0.1, np.float32)
    pred[0] = 1e4
    loss = fl.L1Loss(reduction=reduction)
    value = loss(da.from_array(pred, chunks=(1, 4)), 0 * pred)
    assert value.dtype == np.float32
    assert computed(value).dtype == np.float32
    assert computed(value) == np.float32(loss(pred, 0 * pred))


def test_totals_that_float32_does_not_hold() -> None:
    pred = da.full(40, 1e19, dtype=np.float32, chunks=20)
    for reduction in ("mean", "weighted_mean", "example"):
        loss = fl.L2Loss(reduction=reduction)
        value = loss(pred[None], 0 * pred[None], da.ones((1, 1), chunks=1))
        np.testing.assert_allclose(computed(value), 5e37, rtol=1e-6)


def test_one_call_for_each_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastloss.backends.dask import Task

    calls: list[Task] = []
    call = Task.__call__

    def counted(task: Task, *arrays: Any) -> Any:
        calls.append(task)
        return call(task, *arrays)

    monkeypatch.setattr(Task, "__call__", counted)
    pred = da.ones((12, 4), chunks=(3, 4))
    computed(*fl.L2Loss(reduction="weighted_mean").value_grad_and_hess(pred, 2 * pred, da.ones(12, chunks=4)))
    # chunks of 3 and of 4 make common ones
    assert len(calls) == 6
    assert pickle.loads(pickle.dumps(calls[0])) == calls[0]


def test_the_same_call_has_the_same_name() -> None:
    pred = da.ones((12, 4), chunks=3)
    assert fl.L2Loss()(pred, 2 * pred).name == fl.L2Loss()(pred, 2 * pred).name
    assert fl.L2Loss()(pred, 2 * pred).name != fl.L2Loss(weight=2)(pred, 2 * pred).name


PRED = np.ones((4, 3))


@pytest.mark.parametrize(
    ("error", "match", "call"),
    [
        (
            ValueError,
            r"pred must be one chunk along axis 1, which SoftmaxCrossEntropyLoss needs as a whole, "
            r"got chunks \(2, 1\): rechunk\({1: -1}\)",
            lambda x: fl.SoftmaxCELoss()(x, [0, 1, 2, 0]),
        ),
        (
            ValueError,
            r"label must be one chunk along axis 1.*\(2, 1\)",
            lambda x: fl.SoftmaxCELoss(sparse_label=False)(PRED, x),
        ),
        (ValueError, "pred must be one chunk along axis 1", lambda x: fl.KLDivLoss(from_logits=False)(x, PRED)),
        (ValueError, "positive must be one chunk along axis 1", lambda x: fl.TripletLoss()(PRED, x, PRED)),
        (
            ValueError,
            "input2 must be one chunk along axis 1",
            lambda x: fl.CosineEmbeddingLoss()(PRED, x, np.ones(4)),
        ),
        (
            ValueError,
            r"x1 must be one chunk along axis 0, which SDMLLoss needs as a whole, got chunks \(2, 2\)",
            lambda x: fl.SDMLLoss()(x.rechunk((2, 3)), PRED),
        ),
        (
            ValueError,
            "sample_weight must be one chunk along axis 0, which SDMLLoss",
            lambda x: fl.SDMLLoss()(PRED, PRED, da.ones(4, chunks=2)),
        ),
        (
            ValueError,
            "label must be one chunk along axis 1, which CTCLoss",
            lambda x: fl.CTCLoss()(np.ones((4, 5, 2)), da.zeros((4, 2), chunks=(4, 1))),
        ),
        (
            ValueError,
            # counted in the label, which has no axis for the examples
            r"label must be one chunk along axis 0.*rechunk\({0: -1}\)",
            lambda x: fl.KLDivLoss(from_logits=False)(PRED[:1], da.ones(3, chunks=2)),
        ),
        (
            ValueError,
            r"pred must have chunks of known sizes, got .*compute_chunk_sizes",
            lambda x: fl.L2Loss()(x[x.sum(1) > 0], PRED),
        ),
        (
            ValueError,
            r"label must have pred's shape \(4, 3\), .* got shape \(4, 2\)",
            lambda x: fl.L2Loss()(x, x[:, :2]),
        ),
        (
            ValueError,
            r"label must have pred's shape \(4, 3\) without axis 1, \(4,\), .* got shape \(3,\)",
            lambda x: fl.SoftmaxCELoss()(x.rechunk({1: -1}), [0, 1, 2]),
        ),
        (
            ValueError,
            r"sample_weight must be one weight per example .* shape \(4, 3\), got shape \(3,\)",
            lambda x: fl.L2Loss()(x, x, np.ones(3)),
        ),
        (
            ValueError,
            r"pos_weight must broadcast to pred's shape \(4, 3\), got shape \(4,\)",
            lambda x: fl.SigmoidBCELoss()(x, x, pos_weight=np.ones(4)),
        ),
        (ValueError, r"epsilon must be a number, got .* \(1,\)", lambda x: fl.PoissonNLLLoss()(x, x, epsilon=[1.0])),
        (
            ValueError,
            r"head_grad must be a number or have the value's shape \(4,\), got shape \(3,\)",
            lambda x: fl.L2Loss().grad(x, x, head_grad=np.ones(3)),
        ),
        (
            ValueError,
            r"pred must have 3 axes, NTC, got shape \(4,\); .* 2, TC",
            lambda x: fl.CTCLoss()(x[:, 0], [[0]] * 4),
        ),
        (ValueError, r"label must have 2 axes, NT, for 1 examples", lambda x: fl.CTCLoss()(x, [[0]] * 4)),
        (
            ValueError,
            r"for 4 examples, got shape \(4,\); labels one after another cannot be cut",
            lambda x: fl.CTCLoss()(x[..., None], [0] * 4, None, [1] * 4),
        ),
        (
            ValueError,
            r"label_lengths must be one length per example, shape \(1,\), got shape \(2,\)",
            lambda x: fl.CTCLoss()(x, [0] * 4, None, [1, 1]),
        ),
        (
            ValueError,
            r"label must have 2 axes, NT, for 4 examples, got shape \(3, 1\)$",
            lambda x: fl.CTCLoss()(x[..., None], [[0]] * 3),
        ),
        (
            ValueError,
            r"pred_lengths must be one length per example, shape \(4,\), got shape \(3,\)",
            lambda x: fl.CTCLoss()(x[..., None], [[0]] * 4, [1, 1, 1]),
        ),
        (ValueError, "wrt must name inputs of L2Loss, .*, got 'x'", lambda x: fl.L2Loss().grad(x, x, wrt="x")),
        (ValueError, "wrt must name one or more different inputs", lambda x: fl.L2Loss().grad(x, x, wrt=())),
        (
            ValueError,
            "wrt='sample_weight', but the call has no sample_weight",
            lambda x: fl.L2Loss().grad(x, x, wrt="sample_weight"),
        ),
        (
            ValueError,
            "wrt='label': label is not differentiable",
            lambda x: fl.SoftmaxCELoss().grad(x.rechunk({1: -1}), [0] * 4, wrt="label"),
        ),
        (NotImplementedError, "SDMLLoss has no diagonal Hessian", lambda x: fl.SDMLLoss().grad_and_hess(x, x)),
        (ValueError, "for no weights, give None", lambda x: fl.L2Loss()(x, x, [])),
        (ValueError, "blank must be between -1 and 0", lambda x: fl.CTCLoss(blank=1)(x[..., None], [[0]] * 4)),
        (ValueError, "at least one class, the blank", lambda x: fl.CTCLoss()(x[..., None][..., :0], [[0]] * 4)),
        (
            ValueError,
            r"as many classes as class_weight, 3, got shape \(4, \d\) with",
            lambda x: fl.SoftmaxCELoss(class_weight=(1, 2, 3), axis=1)(x[:, :2].rechunk({1: -1}), [0] * 4),
        ),
        (ValueError, "pred must have a class axis, got a scalar", lambda x: fl.SoftmaxCELoss()(x[0, 0], 1)),
        (
            ValueError,
            "input1 must have a feature axis, got a scalar",
            lambda x: fl.CosineEmbeddingLoss()(x[0, 0], 1.0, 1, sample_weight=2.0),
        ),
        (TypeError, "out must be None for Dask's arrays", lambda x: fl.L2Loss()(x, x, out=np.empty(4))),
        (TypeError, "unexpected keyword argument 'head_grad'", lambda x: fl.L2Loss()(x, x, head_grad=1)),
        (ValueError, "L2Loss has no Hessian in label", lambda x: fl.L2Loss().grad_and_hess(x, x, wrt="label")),
        (TypeError, "L2Loss needs pred", lambda x: fl.L2Loss()(x)),
        (TypeError, "pred must be an array of real numbers, got dtype complex128", lambda x: fl.L2Loss()(x * 1j, x)),
        (TypeError, "label must not be a masked array", lambda x: fl.L2Loss()(x, np.ma.masked_equal(PRED, 1))),
        (
            TypeError,
            "takes only fastloss's own losses, no subclass, got Mine",
            lambda x: type("Mine", (fl.L2Loss,), {})()(x, x),
        ),
    ],
)
def test_errors(error: type[Exception], match: str, call: Any) -> None:
    with pytest.raises(error, match=match):
        call(da.from_array(PRED, chunks=(4, 2)))


def test_errors_of_values() -> None:
    """What no shape tells is found when it is computed."""
    label = da.from_array(np.array([0, 1, 9, 0]), chunks=2)
    loss = fl.SoftmaxCELoss(reduction="weighted_mean", class_weight=[1, 2, 3])
    with pytest.raises(ValueError, match="label must hold class ids from 0 to 2, got 9"):
        computed(loss.grad(PRED, label))


class Threads:
    """A chunk of labels whose values are the number of threads that the loss may use when it reads them."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape, self.ndim, self.dtype = shape, len(shape), np.dtype(float)

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        return np.full(self.shape, fl.get_num_threads(), float)


def threads_like(x: NDArray[Any]) -> Threads:
    return Threads(x.shape)


def threads_seen(n: int) -> Any:
    """How many threads each of n calls may use."""
    pred = da.zeros((n, 2), chunks=(1, 2))
    label = pred.map_blocks(threads_like, dtype=float, meta=np.empty((0, 0)))
    return fl.L1Loss(reduction="none")(pred, label)


def test_a_task_uses_one_thread() -> None:
    fl.set_num_threads(2)
    try:
        before = fl.get_num_threads()
        seen = threads_seen(20).compute(scheduler="threads", num_workers=2)
        assert fl.get_num_threads() == before
    finally:
        fl.set_num_threads(None)
    np.testing.assert_array_equal(seen, 1)


@pytest.fixture
def same_environment() -> Iterator[None]:
    """Of this process: a cluster sets variables for its workers there, and leaves them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.usefixtures("same_environment")
def test_more_than_fits_on_a_cluster() -> None:
    distributed = pytest.importorskip("distributed", reason="computes on a cluster of processes")
    limit = 512 * 2**20
    with (
        dask.config.set(scheduler=None),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit=limit, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.run(fl.set_num_threads, 2)
        np.testing.assert_array_equal(threads_seen(4).compute(), 1)

        source = da.random.default_rng(1)
        pred, label = (source.normal(size=(9_000_000, 8), chunks=(250_000, 8)) for _ in range(2))
        weight = source.random(size=len(pred), chunks=250_000)
        assert min(pred.nbytes, label.nbytes) > limit
        loss = fl.L2Loss(reduction="weighted_mean")
        value, gradient = loss.value_and_grad(pred, label, weight)
        error = pred - label
        total = 8 * weight.sum()
        got = dask.compute(value, (gradient**2).sum())
        want = dask.compute(
            (0.5 * weight[:, None] * error**2).sum() / total, ((weight[:, None] * error) ** 2).sum() / total**2
        )
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_one_sequence_alone(rng: np.random.Generator) -> None:
    """Without an axis of examples, with lengths that are numbers and labels of either number of axes."""
    pred, label = rng.normal(size=(6, 4)), np.array([0, 2, 2])
    for layout, given in (("NT", label), ("NT", label[None]), ("TN", label[:, None])):
        loss = fl.CTCLoss(label_layout=layout, blank=1)  # type: ignore[arg-type]
        for lazy in (given, da.from_array(given, chunks=-1)):
            want = loss.value_and_grad(pred, given, 5, 2, 0.5, wrt=("pred", "sample_weight"))
            got = loss.value_and_grad(da.from_array(pred, chunks=-1), lazy, 5, [2], 0.5, wrt=("pred", "sample_weight"))
            assert got[0].shape == ()
            np.testing.assert_array_equal(computed(got[0]), want[0])
            for a, b in zip(got[1], want[1], strict=True):
                np.testing.assert_array_equal(computed(a), b)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_vectors_along_any_axis(rng: np.random.Generator, axis: int) -> None:
    x, y = rng.normal(size=(2, 4, 4, 4))
    label = rng.choice([-1, 1], (4, 4))
    chunks = tuple(-1 if k == axis % 3 else 2 for k in range(3))
    loss = fl.CosineEmbeddingLoss(axis=axis, reduction="none", batch_axis=2 if axis == 0 else 0)
    got = loss.value_and_grad(
        da.from_array(x, chunks=chunks), y, da.from_array(label, chunks=2), wrt=("input1", "input2")
    )
    want = loss.value_and_grad(x, y, label, wrt=("input1", "input2"))
    np.testing.assert_array_equal(computed(got[0]), want[0])
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_array_equal(computed(a), b)


def test_masks_of_nothing() -> None:
    pred, label = da.ones(4, chunks=2), np.zeros(4)
    np.testing.assert_array_equal(computed(fl.L2Loss()(pred, np.ma.masked_array(label))), np.full(4, 0.5))
    with pytest.raises(TypeError, match="label must not be a masked array"):
        fl.L2Loss()(pred, np.ma.masked_array(label, [0, 1, 0, 0]))
    with pytest.raises(TypeError, match="label must be an array of real numbers, got set"):
        fl.L2Loss()(pred, {1.0})


def test_masked_chunks_are_refused() -> None:
    masked = da.from_array(np.ma.masked_array(np.zeros((4, 2)), np.eye(4, 2)), chunks=2)
    with pytest.raises(TypeError, match="pred must not be a masked array"):
        fl.L2Loss()(masked, np.zeros((4, 2)))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_hessians_in_two_predictions(reduction: Any) -> None:
    """The scale is one for each column, whose Hessian is the sum of what the chunks give."""
    x, y = np.random.default_rng(1).normal(size=(2, 6, 3))
    loss, both = fl.GaussianNLLLoss(reduction=reduction), ("pred", "log_variance")
    want = loss.grad_and_hess(x, y, x[0], wrt=both)
    got = computed(*loss.grad_and_hess(da.from_array(x, chunks=(4, 2)), y, x[0], wrt=both))
    for parts, others in zip(got, want, strict=True):
        for a, b in zip(parts, others, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12)
