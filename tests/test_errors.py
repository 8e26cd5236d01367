"""Bad input, as a table: what is passed, which exception comes, and what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss as fl

X = np.zeros((4, 6))
W = np.ones(4)
LOGITS = np.zeros((4, 3))
L2 = fl.L2Loss()
CE = fl.SoftmaxCELoss()
BCE = fl.SigmoidBCELoss()

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # arguments
    "no label": (lambda: L2(X), TypeError, "needs pred and label"),
    "nothing": (lambda: L2(), TypeError, "needs pred and label"),
    "too many": (lambda: L2(X, X, W, W), TypeError, "at most 3 inputs"),
    "twice": (lambda: L2(X, X, pred=X), TypeError, "pred twice"),
    "unknown": (lambda: L2(X, X, weights=W), TypeError, "unexpected keyword argument 'weights'"),
    "head_grad of a value": (lambda: L2(X, X, head_grad=W), TypeError, "unexpected keyword argument 'head_grad'"),
    "wrt of a value": (lambda: L2(X, X, wrt="pred"), TypeError, "unexpected keyword argument 'wrt'"),
    "wrt of a Hessian": (lambda: L2.grad_and_hess(X, X, wrt="label"), TypeError, "unexpected keyword argument 'wrt'"),
    "pos_weight of L2": (lambda: L2(X, X, pos_weight=W), TypeError, "unexpected keyword argument 'pos_weight'"),
    # dtypes
    "complex": (lambda: L2(X + 1j, X), TypeError, "pred must be an array of real numbers, got dtype complex128"),
    "objects": (lambda: L2(X, X.astype(object)), TypeError, "label must be an array of real numbers, got dtype object"),
    "text": (lambda: L2(["a"], ["b"]), TypeError, "pred must be an array of real numbers, got dtype <U1"),
    "dates": (lambda: L2(X, X.astype("M8[s]")), TypeError, "label must be .* got dtype datetime64"),
    "ragged": (lambda: L2([[1, 2], [3]], X), TypeError, "pred must be an array of real numbers, got list"),
    "None as label": (lambda: L2(X, None), TypeError, "needs pred and label"),
    "long double": (lambda: L2(X.astype(np.longdouble), X), TypeError, "pred must be float32 or float64"),
    "masked": (lambda: L2(np.ma.masked_array(X, X == 0), X), TypeError, "pred must not be a masked array"),
    "masked label": (lambda: L2(X, np.ma.masked_array(X)), TypeError, "label must not be a masked array"),
    "text as weight": (lambda: L2(X, X, "high"), TypeError, "sample_weight must be an array of real numbers"),
    # shapes
    "label shape": (lambda: L2(X, X.T), ValueError, r"label must have pred's shape \(4, 6\).* got shape \(6, 4\)"),
    "flat label": (lambda: L2(X, X.ravel()), ValueError, r"\(4, 6\).* got shape \(24,\)"),
    "label broadcast": (lambda: L2(X, X[:1]), ValueError, r"\(4, 6\).* got shape \(1, 6\)"),
    "weight per feature": (lambda: L2(X, X, np.ones(6)), ValueError, r"shape \(4,\), .* \(4, 6\), got shape \(6,\)"),
    "weight too large": (lambda: L2(X, X, np.ones((1, 4, 6))), ValueError, r"got shape \(1, 4, 6\)"),
    "weight shape": (lambda: L2(X, X, np.ones((6, 4))), ValueError, r"got shape \(6, 4\)"),
    "softmax weight": (lambda: CE(LOGITS, [0] * 4, np.ones((4, 3))), ValueError, r"\(4,\), got shape \(4, 3\)"),
    "pos_weight shape": (
        lambda: BCE(X, X, None, np.ones(4)),
        ValueError,
        r"pos_weight must broadcast .* \(4, 6\), got",
    ),
    "pos_weight axes": (lambda: BCE(X, X, None, np.ones((1, 4, 6))), ValueError, r"got shape \(1, 4, 6\)"),
    "epsilon shape": (
        lambda: fl.PoissonNLLLoss(from_logits=False)(X, X, None, W),
        ValueError,
        "epsilon must be a number",
    ),
    "epsilon nan": (lambda: fl.PoissonNLLLoss()(X, X, None, np.nan), ValueError, "epsilon must be finite"),
    "head shape": (lambda: L2.grad(X, X, head_grad=np.ones(6)), ValueError, r"shape \(4,\), got shape \(6,\)"),
    "head axes": (lambda: L2.grad(X, X, head_grad=X), ValueError, r"shape \(4,\), got shape \(4, 6\)"),
    "head of a sum": (
        lambda: fl.L2Loss(reduction="sum").grad(X, X, head_grad=W),
        ValueError,
        r"shape \(\), got shape \(4,\)",
    ),
    "batch_axis": (lambda: fl.L2Loss(batch_axis=2)(X, X), ValueError, "batch_axis must be between -2 and 1 .* got 2"),
    "negative batch_axis": (lambda: fl.L2Loss(batch_axis=-3)(X, X), ValueError, "batch_axis must be between -2 and 1"),
    "too many axes": (lambda: L2(np.zeros((1,) * 33), 0), ValueError, "pred must have at most 32 axes, got 33"),
    # classes
    "class axis": (lambda: fl.SoftmaxCELoss(axis=2)(LOGITS, [0] * 4), ValueError, "axis must be between -2 and 1"),
    "scalar logits": (lambda: CE(1.0, 0), ValueError, "pred must have a class axis"),
    "one-hot as ids": (lambda: CE(LOGITS, LOGITS), ValueError, r"\(4,\), got shape \(4, 3\); .*sparse_label=False"),
    "ids as one-hot": (
        lambda: fl.SoftmaxCELoss(sparse_label=False)(LOGITS, [0] * 4),
        ValueError,
        r"\(4, 3\), got shape \(4,\); class ids",
    ),
    "id too large": (lambda: CE(LOGITS, [0, 3, 9, 0]), ValueError, r"from 0 to 2, got 3 at position \(1,\)"),
    "id in a grid": (
        lambda: CE(np.zeros((2, 2, 3)), [[0, 1], [2, -1]]),
        ValueError,
        r"got -1 at position \(1, 1\).*ignore_index",
    ),
    "id of a strided label": (
        lambda: CE(np.zeros((2, 2, 3)), np.array([[0, 5], [2, 1]]).T),
        ValueError,
        r"got 5 at position \(1, 0\)",
    ),
    "fractional id": (lambda: CE(LOGITS, [0, 0, 0.5, 0]), ValueError, r"got 0.5 at position \(2,\)"),
    "nan id": (lambda: CE(LOGITS, [0, 0, 0, np.nan]), ValueError, r"got nan at position \(3,\)"),
    "id with all its digits": (
        lambda: CE(np.zeros((1, 10**6), np.float32), [1000001]),
        ValueError,
        r"from 0 to 999999, got 1000001 at",
    ),
    "huge id": (
        lambda: CE(LOGITS, np.uint64([2**64 - 1] * 4)),
        ValueError,
        r"got 18446744073709551615 at position \(0,\)",
    ),
    "id in the last block": (
        lambda: CE(np.zeros((5000, 2)), np.r_[np.zeros(4999), 2]),
        ValueError,
        r"got 2.0 at position \(4999,\)",
    ),
    "no classes": (lambda: CE(np.zeros((2, 0)), [0, 0]), ValueError, r"got 0 at position \(0,\)"),
    "class_weight": (
        lambda: fl.SoftmaxCELoss(class_weight=[1, 2])(LOGITS, [0] * 4),
        ValueError,
        r"class_weight, 2, got shape \(4, 3\)",
    ),
    # wrt
    "wrt unknown": (
        lambda: L2.grad(X, X, wrt="weights"),
        ValueError,
        "'pred', 'label', 'sample_weight', got 'weights'",
    ),
    "wrt absent": (lambda: L2.grad(X, X, wrt="sample_weight"), ValueError, "the call has no sample_weight"),
    "wrt pos_weight absent": (lambda: BCE.grad(X, X, wrt="pos_weight"), ValueError, "the call has no pos_weight"),
    "wrt class ids": (lambda: CE.grad(LOGITS, [0] * 4, wrt="label"), ValueError, "class ids are not"),
    "wrt epsilon": (
        lambda: fl.PoissonNLLLoss().grad(X, X, None, 1e-8, wrt="epsilon"),
        ValueError,
        "epsilon is not something",
    ),
    "wrt twice": (lambda: L2.grad(X, X, wrt=("pred", "pred")), ValueError, "different inputs"),
    "wrt nothing": (lambda: L2.grad(X, X, wrt=()), ValueError, "one or more"),
    # constructors
    "weight": (lambda: fl.L1Loss(weight="2"), TypeError, "weight must be a number, got '2'"),
    "weight per example": (lambda: fl.L1Loss(weight=W), TypeError, "sample_weight"),
    "infinite weight": (lambda: fl.L1Loss(weight=np.inf), ValueError, "weight must be finite"),
    "float batch_axis": (lambda: fl.L1Loss(batch_axis=0.0), TypeError, "batch_axis must be an integer, got 0.0"),
    "reduction": (lambda: fl.L1Loss(reduction="batchmean"), ValueError, "'example', .* got 'batchmean'"),
    "positional reduction": (lambda: fl.L1Loss(None, 0, "mean"), TypeError, "too many positional"),
    "unknown parameter": (lambda: fl.L1Loss(beta=1), TypeError, "beta"),
    "rho": (lambda: fl.HuberLoss(rho=0), ValueError, "rho must be greater than 0, got 0"),
    "nan rho": (lambda: fl.HuberLoss(rho=np.nan), ValueError, "rho must be finite"),
    "margin": (lambda: fl.HingeLoss(margin=None), TypeError, "margin must be a number, got None"),
    "label_format": (lambda: fl.LogisticLoss(label_format="0/1"), ValueError, "'signed' or 'binary', got '0/1'"),
    "from_sigmoid": (lambda: fl.SigmoidBCELoss(0.5), TypeError, "from_sigmoid must be True or False, got 0.5"),
    "from_logits": (lambda: fl.PoissonNLLLoss(from_logits=1), TypeError, "from_logits must be True or False, got 1"),
    "KL with softmax": (lambda: fl.KLDivLoss(from_logits=False), NotImplementedError, "log_softmax"),
    "axis": (lambda: fl.SoftmaxCELoss(axis=None), TypeError, "axis must be an integer, got None"),
    "ignore_index": (lambda: fl.SoftmaxCELoss(ignore_index=1.5), TypeError, "ignore_index must be an integer, got 1.5"),
    "ignore_index dense": (
        lambda: fl.SoftmaxCELoss(sparse_label=False, ignore_index=0),
        ValueError,
        "needs sparse_label=True",
    ),
    "huge ignore_index": (lambda: fl.SoftmaxCELoss(ignore_index=2**53 + 1), ValueError, "ignore_index must be at most"),
    "huge weight": (lambda: fl.L1Loss(weight=10**400), ValueError, "weight must be finite"),
    "huge batch_axis": (lambda: fl.L1Loss(batch_axis=2**70), ValueError, "batch_axis must be at most"),
    "array as reduction": (
        lambda: fl.L1Loss(reduction=np.array(["sum", "mean"])),
        ValueError,
        "reduction must be one of",
    ),
    "axis of KL": (lambda: fl.KLDivLoss(axis="x"), TypeError, "axis must be an integer, got 'x'"),
    "smoothing": (lambda: fl.SoftmaxCELoss(label_smoothing=1.5), ValueError, "between 0 and 1, got 1.5"),
    "negative class_weight": (lambda: fl.SoftmaxCELoss(class_weight=[1, -1]), ValueError, "class_weight must be"),
    "class_weight matrix": (lambda: fl.SoftmaxCELoss(class_weight=[[1, 1]]), ValueError, "class_weight must be"),
    "abstract": (lambda: fl.Loss(None, None, 0, "mean"), TypeError, "abstract"),
    "built twice": (lambda: L2.__init__(2.0), TypeError, "immutable"),  # type: ignore[misc]
    "threads": (lambda: fl.set_num_threads(0), ValueError, "between 1 and 4096, got 0"),
    "threads text": (lambda: fl.set_num_threads("2"), TypeError, "n must be an integer, got '2'"),
    "config": (lambda: fl.show_config(mode="json"), ValueError, "'stdout' or 'dicts'"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, exception, message = BAD[case]
    with pytest.raises(exception, match=message) as caught:
        call()
    assert type(caught.value) is exception


def test_labels_that_change_behind_our_back_are_not_followed() -> None:
    """The row kernel looks at every id once more: an id is never an address before it is checked."""
    label = np.zeros(20_000, np.int64)
    pred = np.zeros((20_000, 3), np.float32)
    stop = threading.Event()

    def spoil() -> None:
        while not stop.is_set():
            label[::7] = 2**50
            label[::7] = 0

    thread = threading.Thread(target=spoil)
    thread.start()
    try:
        for _ in range(50):
            try:
                value = CE(pred, label)
            except ValueError:
                continue
            assert np.all(np.isnan(value) | (abs(value - np.log(3)) < 1e-5))
    finally:
        stop.set()
        thread.join()
