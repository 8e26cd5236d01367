"""Bad input, as a table: what is passed, which exception comes, and what it says."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.specimens import LONG_DOUBLE

X = np.zeros((4, 6))
W = np.ones(4)


class NoFloat:
    """Says that it is a number, and is none."""

    def __float__(self) -> float:
        raise ValueError("not today")


LOGITS = np.zeros((4, 3))
L2 = fl.L2Loss()
CE = fl.SoftmaxCELoss()
BCE = fl.SigmoidBCELoss()
TRIPLET = fl.TripletLoss()
COSINE = fl.CosineEmbeddingLoss()
CTC = fl.CTCLoss()
FRAMES = np.zeros((2, 5, 4))
IDS = np.array([[0, 1, -1], [2, 2, 0]])

BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    # arguments
    "no label": (lambda: L2(X), TypeError, "needs pred and label"),
    "nothing": (lambda: L2(), TypeError, "needs pred and label"),
    "too many": (lambda: L2(X, X, W, W), TypeError, "at most 3 inputs"),
    "twice": (lambda: L2(X, X, pred=X), TypeError, "pred twice"),
    "unknown": (lambda: L2(X, X, weights=W), TypeError, "unexpected keyword argument 'weights'"),
    "head_grad of a value": (lambda: L2(X, X, head_grad=W), TypeError, "unexpected keyword argument 'head_grad'"),
    "wrt of a value": (lambda: L2(X, X, wrt="pred"), TypeError, "unexpected keyword argument 'wrt'"),
    "wrt of a Hessian": (
        lambda: L2.grad_and_hess(X, X, wrt="label"),
        ValueError,
        "wrt='label': L2Loss has no Hessian in label, only in pred; grad and value_and_grad give the gradient alone",
    ),
    "pos_weight of L2": (lambda: L2(X, X, pos_weight=W), TypeError, "unexpected keyword argument 'pos_weight'"),
    # dtypes
    "complex": (lambda: L2(X + 1j, X), TypeError, "pred must be an array of real numbers, got dtype complex128"),
    "objects": (lambda: L2(X, X.astype(object)), TypeError, "label must be an array of real numbers, got dtype object"),
    "text": (lambda: L2(["a"], ["b"]), TypeError, "pred must be an array of real numbers, got dtype <U1"),
    "dates": (lambda: L2(X, X.astype("M8[s]")), TypeError, "label must be .* got dtype datetime64"),
    "ragged": (lambda: L2([[1, 2], [3]], X), TypeError, "pred must be an array of real numbers, got list"),
    "class without a module": (
        lambda: L2(type("Lost", (), {"__module__": None})(), X),
        TypeError,
        "pred must be an array of real numbers",
    ),
    "None as label": (lambda: L2(X, None), TypeError, "needs pred and label"),
    "masked": (lambda: L2(np.ma.masked_array(X, X == 0), X), TypeError, "pred must not be a masked array"),
    "masked label": (
        lambda: L2(X, np.ma.masked_array(X, np.arange(24).reshape(4, 6) == 23)),
        TypeError,
        "label must not be a masked array",
    ),
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
    "too many elements": (
        lambda: TRIPLET(*[np.broadcast_to(np.int8(0), (1, 2**61))] * 3),
        ValueError,
        r"pred must have at most \d+ elements, got shape \(1, 2305843009213693952\)",
    ),
    "too many classes": (
        lambda: CE(np.broadcast_to(np.int8(0), (1, 2**61 + 1)), [0]),
        ValueError,
        "pred must have at most",
    ),
    "too many classes for their buffers": (
        lambda: CE(np.broadcast_to(0.0, (1, 2**59)), [0]),
        ValueError,
        "pred must have at most",
    ),
    "too many classes in a frame": (
        lambda: CTC(np.broadcast_to(np.int8(0), (1, 1, 2**64 // 3 + 1)), [[0]]),
        ValueError,
        "pred must have at most",
    ),
    # classes
    "class axis": (lambda: fl.SoftmaxCELoss(axis=2)(LOGITS, [0] * 4), ValueError, "axis must be between -2 and 1"),
    "scalar logits": (lambda: CE(1.0, 0), ValueError, "pred must have a class axis"),
    "one-hot as ids": (lambda: CE(LOGITS, LOGITS), ValueError, r"\(4,\), got shape \(4, 3\); .*sparse_label=False"),
    "ids as one-hot": (
        lambda: fl.SoftmaxCELoss(sparse_label=False)(LOGITS, [0] * 4),
        ValueError,
        r"\(4, 3\), .* got shape \(4,\); class ids",
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
        "epsilon is not differentiable",
    ),
    "wrt array": (lambda: L2.grad(X, X, wrt=np.array(["pred"])), ValueError, "wrt must name inputs"),
    "wrt arrays": (lambda: L2.grad(X, X, wrt=np.array(["pred", "label"])), ValueError, "wrt must name inputs"),
    "ignore_index that is no double": (
        lambda: fl.SoftmaxCELoss(ignore_index=2**53),
        ValueError,
        "ignore_index must be at most",
    ),
    "wrt twice": (lambda: L2.grad(X, X, wrt=("pred", "pred")), ValueError, "different inputs"),
    "one out for two gradients": (
        lambda: L2.grad(X, X, wrt=("pred", "label"), out=(np.empty_like(X),)),
        TypeError,
        "out for the gradients must be a tuple of 2, .* got a tuple of 1",
    ),
    "an array for two gradients": (
        lambda: L2.value_and_grad(X, X, wrt=("pred", "label"), out=(None, np.empty_like(X))),
        TypeError,
        "out for the gradients must be a tuple of 2, .* got ndarray",
    ),
    "more pairs than fit": (
        lambda: fl.SDMLLoss(reduction="mean")(*[np.broadcast_to(np.float32(0), (2**54, 1))] * 2),
        MemoryError,
        f"{2**54} rows of",
    ),
    "more pairs than memory": (
        lambda: fl.SDMLLoss(reduction="mean")(*[np.broadcast_to(np.float32(0), (2**34, 1))] * 2),
        MemoryError,
        "bytes of rows",
    ),
    "more labels than fit": (
        lambda: fl.CTCLoss()(np.zeros((1, 5, 3), np.float32), np.broadcast_to(np.int8(0), (1, 2**60))),
        MemoryError,
        "rows of",
    ),
    "out for a label of integers": (
        lambda: fl.L2Loss().grad([1.0], [2.0], wrt=("pred", "label"), out=(None, np.zeros(1, int))),
        TypeError,
        "out for the gradient of label must have a dtype of floats",
    ),
    "more frames than memory": (
        lambda: fl.CTCLoss()(np.broadcast_to(np.float32(0), (1, 2**44, 2)), [[0]]),
        MemoryError,
        "bytes of buffers for each of 1 threads",
    ),
    "more partial sums than memory": (
        lambda: fl.L2Loss(reduction="mean")(*[np.broadcast_to(np.float32(0), 2**54)] * 2),
        MemoryError,
        "partial sums",
    ),
    "wrt nothing": (lambda: L2.grad(X, X, wrt=()), ValueError, "one or more"),
    # constructors
    "weight": (lambda: fl.L1Loss(weight="2"), TypeError, "weight must be a number, got '2'"),
    "weight per example": (lambda: fl.L1Loss(weight=W), TypeError, "sample_weight"),
    "infinite weight": (lambda: fl.L1Loss(weight=np.inf), ValueError, "weight must be finite"),
    "bool as batch_axis": (lambda: fl.L1Loss(batch_axis=True), TypeError, "batch_axis must be an integer, got True"),
    "float batch_axis": (lambda: fl.L1Loss(batch_axis=0.0), TypeError, "batch_axis must be an integer, got 0.0"),
    "reduction": (lambda: fl.L1Loss(reduction="batchmean"), ValueError, "'example', .* got 'batchmean'"),
    "positional reduction": (lambda: fl.L1Loss(None, 0, "mean"), TypeError, "too many positional"),
    "unknown parameter": (lambda: fl.L1Loss(beta=1), TypeError, "beta"),
    "bytes as weight": (lambda: fl.L1Loss(weight=bytearray(b"1")), TypeError, "weight must be a number"),
    "complex margin": (lambda: fl.HingeLoss(margin=np.complex128(1)), TypeError, "margin must be a number"),
    "masked margin": (lambda: fl.HingeLoss(margin=np.ma.masked), TypeError, "margin must be a number"),
    "duration as margin": (lambda: fl.HingeLoss(margin=np.timedelta64(1, "s")), TypeError, "margin must be a number"),
    "array as batch_axis": (lambda: fl.L1Loss(batch_axis=np.array([0])), TypeError, "batch_axis must be an integer"),
    "array as label_format": (
        lambda: fl.LogisticLoss(label_format=np.array(["signed", "binary"])),
        ValueError,
        "label_format must be",
    ),
    "ragged class_weight": (
        lambda: fl.SoftmaxCELoss(class_weight=[[1], [1, 2]]),
        TypeError,
        "class_weight must be an array of real numbers",
    ),
    "rho": (lambda: fl.HuberLoss(rho=0), ValueError, "rho must be greater than 0, got 0"),
    "epsilon": (lambda: fl.EpsilonInsensitiveLoss(-1), ValueError, "epsilon must be at least 0, got -1"),
    "gamma": (lambda: fl.SigmoidFocalLoss(gamma=-1), ValueError, "gamma must be at least 0, got -1"),
    "gamma_neg": (lambda: fl.AsymmetricLoss(gamma_neg=8), ValueError, "gamma_neg must be between 0 and 7, got 8"),
    "clip": (lambda: fl.AsymmetricLoss(clip=1), ValueError, "clip must be at least 0 and less than 1, got 1"),
    "power": (lambda: fl.TweedieLoss(power=0.5), ValueError, "power must be 0 or less, or 1 or more, got 0.5"),
    "deviance": (
        lambda: fl.TweedieLoss(0, deviance=True),
        ValueError,
        "deviance must be False for a power below 1, whose labels may be negative, got 0",
    ),
    "distribution": (
        lambda: fl.AFTLoss("gamma"),
        ValueError,
        "distribution must be 'logistic', 'extreme' or 'normal', got 'gam",
    ),
    "scale": (lambda: fl.GaussianNLLLoss("sigma"), ValueError, "scale must be 'log_variance', 'variance' or 'log_s"),
    "z_loss": (
        lambda: fl.SoftmaxCELoss(z_loss=1, from_logits=True),
        ValueError,
        "z_loss must be 0 with from_logits=True, where the exponentials sum to 1, got 1",
    ),
    "softcap": (
        lambda: fl.SoftmaxCELoss(softcap=30, from_logits=True),
        ValueError,
        "softcap must be None with from_logits=True, where the exponentials sum to 1, got 30",
    ),
    "logit_bias": (
        lambda: fl.SoftmaxCELoss(class_weight=[1, 2], logit_bias=[0, 0, 1]),
        ValueError,
        "logit_bias must have as many classes as class_weight, 2, got 3",
    ),
    "classes of a logit_bias": (
        lambda: fl.SoftmaxCELoss(logit_bias=[0, 0, 1])([[1, 2]], [0]),
        ValueError,
        r"pred must have as many classes as logit_bias, 3, got shape \(1, 2\) with 2",
    ),
    "q": (lambda: fl.GeneralizedCELoss(1.5), ValueError, "q must be greater than 0 and at most 1, got 1.5"),
    "p": (lambda: fl.MultiMarginLoss(3), ValueError, "p must be 1 or 2, got 3"),
    "expectile": (lambda: fl.ExpectileLoss(1), ValueError, "expectile must be .* 1, got 1"),
    "nan rho": (lambda: fl.HuberLoss(rho=np.nan), ValueError, "rho must be finite"),
    "margin": (lambda: fl.HingeLoss(margin=None), TypeError, "margin must be a number, got None"),
    "label_format": (lambda: fl.LogisticLoss(label_format="0/1"), ValueError, "'signed' or 'binary', got '0/1'"),
    "from_sigmoid": (lambda: fl.SigmoidBCELoss(0.5), TypeError, "from_sigmoid must be True or False, got 0.5"),
    "from_logits": (lambda: fl.PoissonNLLLoss(from_logits=1), TypeError, "from_logits must be True or False, got 1"),
    # rows, pairs, sequences
    "KL scalar": (lambda: fl.KLDivLoss(from_logits=False)(1.0, 1.0), ValueError, "pred must have a class axis"),
    "KL axis": (lambda: fl.KLDivLoss(from_logits=False, axis=2)(X, X), ValueError, "axis must be between -2 and 1"),
    "KL per class": (
        lambda: fl.KLDivLoss(from_logits=False)(X, X, np.ones(6)),
        ValueError,
        r"shape \(4,\), .* \(4, 6\), got shape \(6,\)",
    ),
    "no negative": (lambda: TRIPLET(X, X), TypeError, "needs pred, positive and negative"),
    "negative shape": (
        lambda: TRIPLET(X, X, X.T),
        ValueError,
        r"negative must have pred's shape .* got shape \(6, 4\)",
    ),
    "triplet weight": (lambda: TRIPLET(X, X, X, X), ValueError, r"\(4,\), got shape \(4, 6\)"),
    "cosine label": (
        lambda: COSINE(X, X, [1, -1, 0, 1]),
        ValueError,
        r"label must hold 1 and -1, got 0 at position \(2,\)",
    ),
    "cosine nan": (lambda: COSINE(X, X, [1, np.nan, 1, 1]), ValueError, r"got nan at position \(1,\)"),
    "cosine label shape": (lambda: COSINE(X, X, X), ValueError, r"without axis 1, \(4,\), got shape \(4, 6\)"),
    "cosine scalar": (lambda: COSINE(1.0, 1.0, 1), ValueError, "input1 must have a feature axis"),
    "wrt cosine label": (lambda: COSINE.grad(X, X, W, wrt="label"), ValueError, "label is not differentiable"),
    "SDML vectors": (lambda: fl.SDMLLoss()(W, W), ValueError, r"x1 must have an axis of examples .* got shape \(4,\)"),
    "SDML Hessian": (
        lambda: fl.SDMLLoss().grad_and_hess(X, X),
        NotImplementedError,
        "no diagonal Hessian: each distance",
    ),
    "smoothing_parameter": (lambda: fl.SDMLLoss(2), ValueError, "smoothing_parameter must be between 0 and 1, got 2"),
    "CTC Hessian": (lambda: CTC.grad_and_hess(FRAMES, IDS), NotImplementedError, "recursion"),
    "CTC axes": (lambda: CTC(W, IDS), ValueError, r"pred must have 3 axes, NTC, got shape \(4,\); .* 2, TC"),
    "CTC of one example": (lambda: CTC(X, IDS), ValueError, r"2 axes, NT, for 1 example, got shape \(2, 3\); one axis"),
    "CTC classes": (
        lambda: CTC(FRAMES[:, :, :0], IDS),
        ValueError,
        r"at least one class, the blank, got shape \(2, 5, 0\)",
    ),
    "CTC examples": (
        lambda: CTC(FRAMES, IDS[:1]),
        ValueError,
        r"label must have 2 axes, NT, for 2 examples, got shape \(1, 3\)",
    ),
    "CTC flat label": (lambda: CTC(FRAMES, IDS[0]), ValueError, r"got shape \(3,\); one axis .* needs label_lengths"),
    "CTC row too long": (
        lambda: CTC(FRAMES, [0, 1, 2, 0], None, [1, 2]),
        ValueError,
        r"label must hold as many ids as label_lengths sum up to, 3, got shape \(4,\)",
    ),
    "CTC row too short": (
        lambda: CTC(FRAMES, [0, 1], None, [1, 2]),
        ValueError,
        r"as many ids as label_lengths sum up to, more than 2, got shape \(2,\)",
    ),
    "CTC id in a row": (
        lambda: CTC(FRAMES, [0, 1, 3], None, [1, 2]),
        ValueError,
        r"ids from 0 to 2, .* got 3 at position \(2,\)",
    ),
    "CTC padding in a row": (lambda: CTC(FRAMES, [0, -1], None, [1, 1]), ValueError, r"got -1 at position \(1,\)"),
    "CTC blank beyond": (
        lambda: fl.CTCLoss(blank=4)(FRAMES, IDS),
        ValueError,
        "blank must be between -4 and 3 for a pred with 4 classes, got 4",
    ),
    "CTC blank below": (lambda: fl.CTCLoss(blank=-5)(FRAMES, IDS), ValueError, "between -4 and 3 .* got -5"),
    "CTC blank in the middle": (
        lambda: fl.CTCLoss(blank=1)(FRAMES, [[0, 3, 1], [2, 9, 0]]),
        ValueError,
        r"ids from 0 to 3 but the blank, 1, .* got 1 at position \(0, 2\)",
    ),
    "CTC id before a blank": (
        lambda: fl.CTCLoss(blank=-3)(FRAMES, [[0, 4, 1], [2, 1, 0]]),
        ValueError,
        r"but the blank, 1, .* got 4 at position \(0, 1\)",
    ),
    "CTC blank before an id, in TN": (
        lambda: fl.CTCLoss(blank=1, label_layout="TN")(FRAMES, np.array([[0, 1, 4], [2, 1, 0]]).T),
        ValueError,
        r"but the blank, 1, .* got 1 at position \(1, 0\)",
    ),
    "CTC length of one example": (
        lambda: CTC(FRAMES[0], [0, 1], None, [1, 1]),
        ValueError,
        r"label_lengths must be a number, or one length per example, shape \(1,\), got shape \(2,\)",
    ),
    "CTC number of one example": (lambda: CTC(FRAMES[0], [0, 1], 6), ValueError, r"got 6 at position \(\)"),
    "blank as text": (lambda: fl.CTCLoss(blank="middle"), TypeError, "'last', 'first' or the index .* got 'middle'"),  # type: ignore[arg-type]
    "blank as flag": (lambda: fl.CTCLoss(blank=True), TypeError, "'last', 'first' or the index .* got True"),
    "huge blank": (lambda: fl.CTCLoss(blank=2**31), ValueError, "blank must be at most"),
    "cosine axis": (
        lambda: fl.CosineEmbeddingLoss(axis=2)(X, X, W),
        ValueError,
        "axis must be between -2 and 1 for a input1 with 2 axes, got 2",
    ),
    "cosine label along another axis": (
        lambda: fl.CosineEmbeddingLoss(axis=0)(X, X, W),
        ValueError,
        r"label must have input1's shape \(4, 6\) without axis 0, \(6,\), got shape \(4,\)",
    ),
    "CTC blank": (
        lambda: CTC(FRAMES, [[0, 3, -1], IDS[1]]),
        ValueError,
        r"ids from 0 to 2, .* got 3 at position \(0, 1\)",
    ),
    "CTC first blank": (
        lambda: fl.CTCLoss(blank="first")(FRAMES, [[1, 0, -1], [1, 2, 3]]),
        ValueError,
        r"ids from 1 to 3, .* got 0 at position \(0, 1\)",
    ),
    "CTC negative": (lambda: CTC(FRAMES, [[-2, 0, 0], IDS[1]]), ValueError, r"got -2 at position \(0, 0\)"),
    "CTC huge": (
        lambda: CTC(FRAMES, np.uint64([[0] * 3, [2**64 - 1] * 3])),
        ValueError,
        r"got 18446744073709551615 at",
    ),
    "CTC nan": (lambda: CTC(FRAMES, [[0, 0, np.nan], [0] * 3]), ValueError, r"got nan at position \(0, 2\)"),
    "CTC inf": (lambda: CTC(FRAMES, [[0, 0, np.inf], [0] * 3]), ValueError, r"got inf at position \(0, 2\)"),
    "CTC fraction": (lambda: CTC(FRAMES, [[0, 0.5, 0], [0] * 3]), ValueError, r"got 0.5 at position \(0, 1\)"),
    "CTC in TN": (
        lambda: fl.CTCLoss(label_layout="TN")(FRAMES, np.array([[0, 9, 0], [0] * 3]).T),
        ValueError,
        r"got 9 at position \(1, 0\)",
    ),
    "CTC padding inside": (
        lambda: CTC(FRAMES, [[0, -1, 0], [0] * 3], None, [3, 3]),
        ValueError,
        r"got -1 at position \(0, 1\)",
    ),
    "CTC long label": (
        lambda: CTC(FRAMES, IDS, None, [4, 1]),
        ValueError,
        r"label_lengths must hold lengths from 0 to 3, got 4",
    ),
    "CTC long pred": (
        lambda: CTC(FRAMES, IDS, [5, 6]),
        ValueError,
        r"pred_lengths must hold lengths from 0 to 5, got 6 at position \(1,\)",
    ),
    "CTC negative length": (lambda: CTC(FRAMES, IDS, [5, -1]), ValueError, r"got -1 at position \(1,\)"),
    "CTC nan length": (lambda: CTC(FRAMES, IDS, [5, np.nan]), ValueError, r"got nan at position \(1,\)"),
    "CTC huge length": (lambda: CTC(FRAMES, IDS, None, [0, 1e300]), ValueError, r"got 1e\+300 at position \(1,\)"),
    "CTC lengths": (lambda: CTC(FRAMES, IDS, 5), ValueError, r"one length per example, shape \(2,\), got shape \(\)"),
    "CTC layout": (lambda: fl.CTCLoss("NCT"), ValueError, "layout must be 'NTC' or 'TNC', got 'NCT'"),  # type: ignore[arg-type]
    "CTC label_layout": (lambda: fl.CTCLoss("NTC", "N"), ValueError, "label_layout must be"),  # type: ignore[arg-type]
    "CTC zero_infinity": (lambda: fl.CTCLoss(zero_infinity=1), TypeError, "zero_infinity must be True or False"),  # type: ignore[arg-type]
    "wrt CTC label": (lambda: CTC.grad(FRAMES, IDS, wrt="label"), ValueError, "label is not differentiable"),
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
    "infinite class_weight": (lambda: fl.SoftmaxCELoss(class_weight=[1, -np.inf]), ValueError, "class_weight must be"),
    "nan as class_weight": (lambda: fl.SoftmaxCELoss(class_weight=[1, np.nan]), ValueError, "class_weight must be"),
    "complex class_weight": (
        lambda: fl.SoftmaxCELoss(class_weight=[1j]),
        TypeError,
        "class_weight must be an array of real numbers",
    ),
    "a number that fails": (lambda: fl.HuberLoss(rho=NoFloat()), TypeError, "rho must be a number"),
    "class_weight matrix": (lambda: fl.SoftmaxCELoss(class_weight=[[1, 1]]), ValueError, "class_weight must be"),
    "abstract": (lambda: fl.Loss(None, None, 0, "mean"), TypeError, "abstract"),
    "built twice": (lambda: L2.__init__(2.0), TypeError, "immutable"),  # type: ignore[misc]
    "threads": (lambda: fl.set_num_threads(0), ValueError, "between 1 and 4096, got 0"),
    "threads text": (lambda: fl.set_num_threads("2"), TypeError, "n must be an integer, got '2'"),
    "array as config": (lambda: fl.show_config(mode=np.array(["stdout", "dicts"])), ValueError, "'stdout' or 'dicts'"),
    "config": (lambda: fl.show_config(mode="json"), ValueError, "'stdout' or 'dicts'"),  # type: ignore[arg-type]
}

if LONG_DOUBLE:
    BAD |= {
        "long double": (lambda: L2(X.astype(np.longdouble), X), TypeError, "pred must be float32 or float64"),
        "class_weight beyond float64": (
            lambda: fl.SoftmaxCELoss(class_weight=np.array([1, np.finfo(np.longdouble).max], np.longdouble)),
            ValueError,
            "class_weight must be one finite weight",
        ),
    }


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case: str) -> None:
    call, exception, message = BAD[case]
    with pytest.raises(exception, match=message) as caught:
        call()
    assert type(caught.value) is exception


class Changes:
    """Six ones, whose conversion to an array changes another one."""

    def __init__(self, change: Callable[[], Any]) -> None:
        self.change = change

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        self.change()
        return np.ones(6)


CHANGES: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    "shape": (lambda a: setattr(a, "shape", (2, 3)), ValueError),
    "more axes": (lambda a: setattr(a, "shape", (1,) * 62 + (2, 3)), ValueError),
    "dtype": (lambda a: setattr(a, "dtype", "c16"), TypeError),
    "less memory": (lambda a: a.resize((1,), refcheck=False), ValueError),
}


# NumPy 2.5 warns of both
@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", ["label", "sample_weight", "pos_weight", "head_grad"])
def test_an_argument_that_changes_another(name: str, change: str) -> None:
    work, error = CHANGES[change]
    pred = np.ones(6)
    inputs = {"label": np.zeros(6), name: Changes(lambda: work(pred))}
    with pytest.raises(error):
        BCE.grad(pred, **inputs)


def test_the_attributes_of_a_class_are_not_those_of_the_call() -> None:
    class Odd(fl.CTCLoss):
        inputs = ("pred",)  # type: ignore[assignment]
        required = 0  # type: ignore[assignment]
        fixed = ()
        no_hessian = None  # type: ignore[assignment]

    with pytest.raises(TypeError, match="needs pred and label"):
        Odd()(FRAMES)
    with pytest.raises(ValueError, match="wrt='label': label is not differentiable"):
        Odd().grad(FRAMES, IDS, wrt="label")
    with pytest.raises(NotImplementedError, match="its diagonal would take a recursion"):
        Odd().grad_and_hess(FRAMES, IDS)


class Lying(tuple[Any, ...]):
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Any:
        return iter(())


class Alike(str):
    """A text that takes itself for any other, but knows itself from its copies."""

    def __eq__(self, other: object) -> bool:
        return not isinstance(other, Alike) or self is other

    __hash__ = object.__hash__


def test_what_a_tuple_holds_counts() -> None:
    """Not what its class makes of it."""
    out = Lying((np.empty(4), np.empty((4, 6))))
    value, gradient = L2.value_and_grad(X + 1, X, out=out)
    assert value is out[0]
    assert gradient is out[1]
    assert isinstance(L2.grad(X, X, wrt=Lying(("pred", "label"))), tuple)
    with pytest.raises(TypeError, match="out for the gradients must be a tuple of 2"):
        L2.grad(X, X, wrt=("pred", "label"), out=Lying((None,)))
    with pytest.raises(ValueError, match="different inputs"):
        L2.grad(X, X, wrt=tuple(Alike("pred") for _ in range(50)))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        (fl.L2Loss, {"reduction": "median"}),
        (fl.SoftmaxCELoss, {"label_smoothing": 7.0}),
        (fl.SoftmaxCELoss, {"class_weight": [-np.inf, 2.0]}),
        (fl.SoftmaxCELoss, {"sparse_label": False, "ignore_index": 0}),
        (fl.SDMLLoss, {"smoothing_parameter": 2}),
        (fl.CTCLoss, {"zero_infinity": "no"}),
    ],
)
def test_a_loss_that_was_not_built_cannot_be_called(kind: Any, parameters: dict[str, Any]) -> None:
    refused = kind.__new__(kind)
    with pytest.raises((TypeError, ValueError), match=next(reversed(parameters))):
        refused.__init__(**parameters)
    for loss in (refused, kind.__new__(kind)):
        with pytest.raises(TypeError, match="is not built"):
            loss(X, X)


def test_an_argument_that_asks_for_itself_too_often() -> None:
    class Circle:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            raise RecursionError("once more")

    with pytest.raises(RecursionError, match=r"^once more$"):
        fl.L2Loss()(Circle(), X)


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
