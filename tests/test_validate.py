"""What the numbers of an input mean: what validate refuses and where it says that it is, and the tables in the docs."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.reference import Reference
from tests.structured import STRUCTURED
from tests.test_inputs import LAYOUTS, REAL

ROOT = Path(__file__).parent.parent
NAN, INF = np.nan, np.inf
SIGNED = fl.LogisticLoss()
BINARY = fl.LogisticLoss(label_format="binary")
IDS = fl.SoftmaxCELoss()
DENSE = fl.SoftmaxCELoss(sparse_label=False)
CTC = fl.CTCLoss()
EPS = np.finfo(np.float64).eps
SINGLE = float(np.finfo(np.float32).eps)

GOOD: dict[str, Callable[[], Any]] = {
    "real": lambda: fl.L1Loss().validate([[-1e308, 0.0], [2, 1e308]]),
    "whole": lambda: fl.L2Loss().validate(np.array([2**63 - 1])),
    "flags": lambda: fl.SigmoidBCELoss().validate(np.array([True, False])),
    "one number": lambda: fl.HuberLoss().validate(3),
    "none": lambda: fl.HingeLoss().validate([]),
    "none of many axes": lambda: fl.HingeLoss().validate(np.zeros((2, 0, 3))),
    "signs": lambda: fl.HingeLoss().validate([-1, 1.0]),
    "signs in bytes": lambda: SIGNED.validate(np.array([-1, 1], np.int8)),
    "0 and 1": lambda: BINARY.validate([0, 1]),
    "shares": lambda: fl.SigmoidBCELoss().validate([0, 0.3, 1.0]),
    "shares that were rounded": lambda: DENSE.validate([[1 + 4 * EPS, -4 * EPS]]),
    "shares of float32 that were rounded": lambda: BINARY.validate(np.float32([1 + 4 * SINGLE, -4 * SINGLE])),
    "counts": lambda: fl.PoissonNLLLoss().validate([0, 7, -0.0]),
    "counts per exposure": lambda: fl.PoissonNLLLoss().validate([0.25]),
    "more than 1 of KL": lambda: fl.KLDivLoss().validate([[3.0, 0.0]]),
    "ids": lambda: IDS.validate([0, 5]),
    "ids as floats": lambda: IDS.validate([0.0, 2.0], np.zeros((2, 3))),
    "ignored ids": lambda: fl.SoftmaxCELoss(ignore_index=-100).validate([0, -100, 2], np.zeros((3, 3))),
    "a large ignored id": lambda: fl.SoftmaxCELoss(ignore_index=2**53 - 1).validate(np.float16([0, 2])),
    "ids along another axis": lambda: fl.SoftmaxCELoss(axis=0).validate([0, 2], np.zeros((3, 2))),
    "impossible classes": lambda: IDS.validate([0], [[0, -INF]]),
    "certain log-odds": lambda: SIGNED.validate([1, 1], [-INF, INF]),
    "log-probabilities": lambda: fl.SoftmaxCELoss(from_logits=True).validate([0], [[0.0, -INF]]),
    "probabilities": lambda: fl.SigmoidBCELoss(from_sigmoid=True).validate([1], [1.0]),
    "rates": lambda: fl.PoissonNLLLoss(from_logits=False).validate([1], [0.0]),
    "log-rates": lambda: fl.PoissonNLLLoss().validate([1], [-3.0]),
    "pairs": lambda: fl.CosineEmbeddingLoss().validate([1, -1], np.ones((2, 3)), input2=np.ones((2, 3))),
    "triplets": lambda: fl.TripletLoss().validate(np.ones((2, 3)), np.ones((2, 3)), negative=np.zeros((2, 3))),
    "SDML": lambda: fl.SDMLLoss().validate(x2=np.ones((2, 3)), label=None, pred=np.ones((2, 3))),
    "padded ids": lambda: CTC.validate([[0, -1], [2, 1]], np.zeros((2, 4, 4))),
    "ids without padding": lambda: CTC.validate([[0, 99], [2, 1]], np.zeros((2, 4, 4)), label_lengths=[1, 2]),
    "ids over time": lambda: fl.CTCLoss(label_layout="TN").validate(np.array([[0, 9], [2, 1]]).T, label_lengths=[1, 2]),
    "ids in a row": lambda: CTC.validate([0, 2, 1], label_lengths=[1, 2]),
    "missing, but without weight": lambda: fl.L2Loss().validate([NAN, 1.0], sample_weight=[0, 1]),
    "an element without weight": lambda: fl.L2Loss().validate([[1, NAN]], sample_weight=[[1, 0]]),
    "examples along another axis": lambda: fl.L2Loss(batch_axis=1).validate([[1, INF]], sample_weight=[1, 0]),
    "by name": lambda: fl.L2Loss().validate(label=[1], pred=[2], sample_weight=None),
    "a masked array of which nothing is masked": lambda: SIGNED.validate(np.ma.masked_array([1, -1])),
}

SCALE = "2 * label - 1"
BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "nan": (lambda: fl.L2Loss().validate([1, NAN]), ValueError, r"label must hold finite numbers, got nan at .*\(1,\)"),
    "inf": (lambda: fl.L1Loss().validate([[1, 2], [-INF, NAN]]), ValueError, r"got -inf at position \(1, 0\)"),
    "inf of Huber": (lambda: fl.HuberLoss().validate([INF]), ValueError, r"finite numbers, got inf at position \(0,\)"),
    "one number": (lambda: fl.L2Loss().validate(NAN), ValueError, r"got nan at position \(\)"),
    "beyond float64": (lambda: fl.L2Loss().validate(np.longdouble("inf")), ValueError, "finite numbers, got inf"),
    "0 of a hinge": (
        lambda: fl.HingeLoss().validate([1, 0]),
        ValueError,
        rf"-1 and \+1, got 0 at .*\(1,\).*{re.escape(SCALE)}",
    ),
    "0 of a squared hinge": (lambda: fl.SquaredHingeLoss().validate([0.0]), ValueError, "got 0.0 .*2 . label - 1"),
    "False of a hinge": (lambda: fl.HingeLoss().validate([False]), ValueError, r"got False .*2 \* label - 1"),
    "0 of signed labels": (lambda: SIGNED.validate([1, 0]), ValueError, rf'label_format="binary".*{re.escape(SCALE)}'),
    "a mixture of signed labels": (lambda: SIGNED.validate([0.5]), ValueError, r"got 0.5 at position \(0,\)$"),
    "2 of signed labels": (lambda: SIGNED.validate([1, 2]), ValueError, r"-1 and \+1, got 2 at position \(1,\)$"),
    "nan of signed labels": (lambda: SIGNED.validate([1, NAN]), ValueError, r"got nan at position \(1,\)$"),
    "-1 of binary labels": (
        lambda: BINARY.validate([1, -1]),
        ValueError,
        r'from 0 to 1, got -1 .*label_format="signed"',
    ),
    "-1 of BCE": (lambda: fl.SigmoidBCELoss().validate([-1]), ValueError, r"from 0 to 1, got -1 .*\(label \+ 1\) / 2"),
    "2 of BCE": (lambda: fl.SigmoidBCELoss().validate([0, 2]), ValueError, r"from 0 to 1, got 2 at position \(1,\)$"),
    "more than a rounding": (lambda: BINARY.validate([1 + 6 * EPS]), ValueError, "got 1.0000000000000013 at"),
    "less than a rounding": (lambda: DENSE.validate([[1, -6 * EPS]]), ValueError, r"from 0 to 1, got -1.33.* \(0, 1\)"),
    "a rounding of float32": (lambda: BINARY.validate([1 + SINGLE]), ValueError, "got 1.00000011920"),
    "more than one of float32": (lambda: BINARY.validate(np.float32([1 + 6 * SINGLE])), ValueError, "got 1.0000007"),
    "a negative count": (lambda: fl.PoissonNLLLoss().validate([0, -1]), ValueError, "counts from 0 up, got -1 at"),
    "an infinite count": (lambda: fl.PoissonNLLLoss().validate([INF]), ValueError, "counts from 0 up, got inf at"),
    "a negative rate": (
        lambda: fl.PoissonNLLLoss(from_logits=False).validate([1, 1], [0.5, -0.5]),
        ValueError,
        r"pred must hold rates from 0 up, got -0.5 at position \(1,\)",
    ),
    "an infinite log-rate": (
        lambda: fl.PoissonNLLLoss().validate([1], [INF]),
        ValueError,
        "pred must hold numbers below inf",
    ),
    "a negative target": (
        lambda: fl.KLDivLoss().validate([[0.5, -1e-300]]),
        ValueError,
        r"from 0 up, got -1e-300 .*\(0, 1\)",
    ),
    "a negative target of logits": (
        lambda: fl.KLDivLoss(from_logits=False).validate([[-1]]),
        ValueError,
        "from 0 up, got -1",
    ),
    "no log-probability": (
        lambda: fl.KLDivLoss().validate([[1]], [[0.5]]),
        ValueError,
        "pred must hold log-prob.* got 0.5",
    ),
    "no log-probability of ids": (
        lambda: fl.SoftmaxCELoss(from_logits=True).validate([0], [[-1, 2.0]]),
        ValueError,
        r"pred must hold log-probabilities up to 0, got 2.0 at position \(0, 1\)",
    ),
    "no probability": (
        lambda: fl.SigmoidBCELoss(from_sigmoid=True).validate([1], [1.5]),
        ValueError,
        "pred must hold probabilities from 0 to 1, got 1.5 at",
    ),
    "no logit": (
        lambda: IDS.validate([0], [[NAN, 0]]),
        ValueError,
        r"pred must hold numbers below .* got nan at .*\(0, 0\)",
    ),
    "no log-odds": (lambda: SIGNED.validate([1], [NAN]), ValueError, "pred must hold numbers, .* got nan at"),
    "no prediction": (lambda: fl.L2Loss().validate([1], [NAN]), ValueError, "pred must hold finite numbers, got nan"),
    "a negative id": (
        lambda: IDS.validate([0, -1]),
        ValueError,
        r"class ids from 0 up, got -1 at .*\(1,\); .*ignore_index=",
    ),
    "a fractional id": (lambda: IDS.validate([0, 0.5]), ValueError, "class ids from 0 up, got 0.5"),
    "an id too large": (lambda: IDS.validate([0, 3], np.zeros((2, 3))), ValueError, "class ids from 0 to 2, got 3 at"),
    "an id without a weight": (
        lambda: fl.SoftmaxCELoss(class_weight=[1, 2]).validate([2]),
        ValueError,
        "from 0 to 1, got 2",
    ),
    "an id beside the ignored": (
        lambda: fl.SoftmaxCELoss(ignore_index=-1).validate([-1, -2]),
        ValueError,
        r"class ids from 0 up, and -1, which is ignored, got -2 at position \(1,\)",
    ),
    "no class axis": (lambda: IDS.validate(0, 1.0), ValueError, r"pred must have a class axis -1, got shape \(\)"),
    "dense labels beyond 1": (
        lambda: DENSE.validate([[0, 1], [2, 0]]),
        ValueError,
        r"from 0 to 1, got 2 at position \(1, 0\)",
    ),
    "0 of a pair": (lambda: fl.CosineEmbeddingLoss().validate([1, 0]), ValueError, r"1 and -1, got 0 .*2 \* label - 1"),
    "no vector": (
        lambda: fl.CosineEmbeddingLoss().validate([1], [[NAN]]),
        ValueError,
        "input1 must hold finite numbers",
    ),
    "no second vector": (
        lambda: fl.CosineEmbeddingLoss().validate([1], input2=[[INF]]),
        ValueError,
        "input2 must hold finite",
    ),
    "no positive": (
        lambda: fl.TripletLoss().validate([[1, NAN]]),
        ValueError,
        r"positive must hold .* got nan at .*\(0, 1\)",
    ),
    "no negative": (
        lambda: fl.TripletLoss().validate([[1]], negative=[[NAN]]),
        ValueError,
        "negative must hold finite",
    ),
    "no x2": (lambda: fl.SDMLLoss().validate([[NAN]]), ValueError, "x2 must hold finite numbers, got nan"),
    "no x1": (lambda: fl.SDMLLoss().validate([[1]], [[NAN]]), ValueError, "x1 must hold finite numbers, got nan"),
    "the blank": (
        lambda: CTC.validate([[0, 3]], np.zeros((1, 5, 4))),
        ValueError,
        r"class ids from 0 to 3 but the blank, 3, and -1 behind the last, got 3 at position \(0, 1\)",
    ),
    "the first blank": (lambda: fl.CTCLoss(blank="first").validate([[1, 0]]), ValueError, "but the blank, 0, .* got 0"),
    "another blank": (lambda: fl.CTCLoss(blank=2).validate([[1, 2]]), ValueError, "but the blank, 2, .* got 2"),
    "a blank from the end": (
        lambda: fl.CTCLoss(blank=-2).validate([[1, 2]], np.zeros((1, 5, 4))),
        ValueError,
        "but the blank, 2, .* got 2",
    ),
    "padding within a length": (
        lambda: CTC.validate([[0, -1]], label_lengths=[2]),
        ValueError,
        r"got -1 at position \(0, 1\)",
    ),
    "an id within a length": (
        lambda: CTC.validate([[9, 9], [9, 1]], np.zeros((2, 5, 4)), label_lengths=[0, 1]),
        ValueError,
        r"got 9 at position \(1, 0\)",
    ),
    "an id in a row": (lambda: CTC.validate([0, 0.5], label_lengths=[1, 1]), ValueError, r"got 0.5 at position \(1,\)"),
    "a length": (
        lambda: CTC.validate([[0]], label_lengths=[-1]),
        ValueError,
        "label_lengths must hold lengths from 0 up",
    ),
    "a fractional length": (
        lambda: CTC.validate([[0]], pred_lengths=[1.5]),
        ValueError,
        "pred_lengths must hold lengths",
    ),
    "a weight": (lambda: fl.L2Loss().validate([1], sample_weight=[INF]), ValueError, "sample_weight must hold finite"),
    "missing, with a weight": (
        lambda: fl.L2Loss().validate([NAN, 1, NAN], sample_weight=[0, 1, 2]),
        ValueError,
        r"got nan at position \(2,\)",
    ),
    "text": (lambda: fl.L2Loss().validate(["a"]), TypeError, "label must be an array of real numbers"),
    "masked": (lambda: fl.L2Loss().validate(np.ma.masked_array([1], [True])), TypeError, "label must not be a masked"),
    "nothing": (lambda: fl.L2Loss().validate(), TypeError, "L2Loss.validate needs label"),
    "None": (lambda: fl.TripletLoss().validate(None), TypeError, "TripletLoss.validate needs positive"),
    "no label": (lambda: fl.L2Loss().validate(pred=[1]), TypeError, "L2Loss.validate needs label"),
    "unknown": (
        lambda: fl.L2Loss().validate([1], labels=[1]),
        TypeError,
        "unexpected .* 'labels'; it takes pred, label",
    ),
    "twice": (lambda: fl.TripletLoss().validate([1], positive=[1]), TypeError, "validate got positive twice"),
    "not built": (lambda: fl.L2Loss.__new__(fl.L2Loss).validate([1]), TypeError, "is not built"),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_meant(case: str) -> None:
    assert GOOD[case]() is None


@pytest.mark.parametrize("case", BAD)
def test_what_is_not(case: str) -> None:
    call, exception, message = BAD[case]
    with pytest.raises(exception, match=message) as caught:
        call()
    assert type(caught.value) is exception


def test_the_data_of_the_tests_are_meant(reference: Reference, rng: np.random.Generator) -> None:
    loss = reference.build()
    pred, label = reference.data(rng, (40, reference.classes) if reference.row else (40, 3))[:2]
    second = loss.inputs[1]
    if loss.domains[second].whole and not reference.row:
        # some of them are mixtures
        label = np.sign(label)
    loss.validate(label, pred)
    for name, k in ((second, label), ("pred", pred)):
        spoiled = np.array(k, float)
        spoiled[3] = np.nan
        given = {second: label, "pred": pred} | {name: spoiled}
        with pytest.raises(ValueError, match=rf"{name} must hold .*, got nan at position \(3"):
            loss.validate(given.pop(second), **given)


@pytest.mark.parametrize("name", STRUCTURED)
def test_the_data_of_structured_losses_are_meant(name: str, rng: np.random.Generator) -> None:
    loss, names = STRUCTURED[name].build(), STRUCTURED[name].names
    inputs = dict(zip(names, STRUCTURED[name].data(rng, 5), strict=False))
    label = inputs.pop("label" if "label" in inputs else names[1])
    loss.validate(label, **inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_every_layout_and_dtype(layout: str, dtype: Any) -> None:
    label = np.ones((70, 300), dtype)
    fl.HingeLoss().validate(LAYOUTS[layout](label))
    label[61, 299] = label[69, 2] = 0
    with pytest.raises(ValueError, match=r"got (0|0.0|False) at position \(61, 299\)"):
        fl.HingeLoss().validate(LAYOUTS[layout](label))


ROW = np.zeros((2, 5, 4))
EACH: list[Any] = [[1, 0], [0, 1], [0, 0], [1], 0, 2]
# a loss, its inputs in their order, and weights with which each number of them is spoiled in turn
LEFT_OUT: dict[str, tuple[fl.Loss, dict[str, Any], list[Any]]] = {
    "elements": (fl.L2Loss(), {"pred": np.zeros((2, 3)), "label": np.ones((2, 3))}, [*EACH, [[0, 1, 1]], [[0], [1]]]),
    "the second axis": (fl.L1Loss(batch_axis=1), {"pred": np.zeros((3, 2)), "label": np.ones((3, 2))}, EACH),
    "the last axis": (fl.L2Loss(batch_axis=-1), {"pred": np.zeros((3, 2)), "label": np.ones((3, 2))}, EACH),
    "fewer axes": (
        fl.L2Loss(),
        {"pred": np.zeros((2, 2, 3)), "label": np.ones((2, 2, 3))},
        [[[0, 1, 1], [1, 1, 0]], [[0], [1]], [[[0]], [[1]]]],
    ),
    "a column": (fl.L2Loss(), {"pred": np.zeros((2, 1)), "label": np.ones(2)}, [*EACH, [[0], [1]]]),
    "a column of labels": (fl.L2Loss(), {"pred": np.zeros(2), "label": np.ones((2, 1))}, EACH),
    "one number": (fl.L2Loss(), {"pred": 1.0, "label": 2.0}, [0, 1]),
    "one element": (fl.HuberLoss(), {"pred": [1.0], "label": [2.0]}, [0, [0], 1]),
    "a total": (
        fl.SigmoidBCELoss(reduction="mean"),
        {"pred": np.zeros((2, 3)), "label": np.ones((2, 3)), "pos_weight": np.ones((2, 1))},
        [*EACH, [[0, 1, 1]]],
    ),
    "weights of positives": (
        fl.SigmoidBCELoss(batch_axis=1),
        {"pred": np.zeros((3, 2)), "label": np.ones((3, 2)), "pos_weight": np.ones(2)},
        EACH,
    ),
    "coupled": (
        fl.KLDivLoss(from_logits=False, axis=1),
        {"pred": np.zeros((2, 3)), "label": np.full((2, 3), 0.5)},
        [*EACH, [[0, 1, 0]]],
    ),
    "coupled along the examples": (
        fl.KLDivLoss(from_logits=False, axis=0, reduction="mean"),
        {"pred": np.zeros((2, 3)), "label": np.full((2, 3), 0.5)},
        [*EACH, [[0, 1, 0]]],
    ),
    "log-probabilities": (
        fl.KLDivLoss(),
        {"pred": np.full((2, 3), -1.0), "label": np.full((2, 3), 0.5)},
        [*EACH, [[0, 1, 0]]],
    ),
    "ids": (IDS, {"pred": np.zeros((2, 3)), "label": np.array([0, 1])}, [*EACH, [[0], [1]]]),
    "ids behind a class axis": (
        fl.SoftmaxCELoss(axis=0, batch_axis=1),
        {"pred": np.zeros((3, 2, 2)), "label": np.zeros((2, 2))},
        [*EACH, [[0, 1], [1, 1]], [[[0, 1], [1, 1]]]],
    ),
    "ids of the last axis": (
        fl.SoftmaxCELoss(axis=0, batch_axis=2),
        {"pred": np.zeros((3, 2, 2)), "label": np.zeros((2, 2))},
        EACH,
    ),
    "ids before a class axis": (
        fl.SoftmaxCELoss(axis=-2, batch_axis=-1, reduction="none"),
        {"pred": np.zeros((3, 4, 2)), "label": np.zeros((3, 2))},
        [*EACH, [[[0, 1]], [[1, 0]], [[1, 1]]]],
    ),
    "ids with a class axis": (
        fl.SoftmaxCELoss(),
        {"pred": np.zeros((1, 2, 3)), "label": np.zeros((1, 2))},
        [[[[1], [0]]], [[1, 0]], [0]],
    ),
    "ids of a column": (IDS, {"pred": np.zeros((2, 1, 3)), "label": np.zeros(2)}, [*EACH, [[0], [1]]]),
    "dense": (
        fl.SoftmaxCELoss(sparse_label=False, axis=0, batch_axis=1),
        {"pred": np.zeros((3, 2)), "label": np.full((3, 2), 1 / 3)},
        [*EACH, [[0, 1]]],
    ),
    "cosines": (
        fl.CosineEmbeddingLoss(axis=0, batch_axis=1),
        {"input1": np.ones((3, 2)), "input2": np.ones((3, 2)), "label": np.array([1, -1])},
        [*EACH, [[0, 1]]],
    ),
    "triplets": (
        fl.TripletLoss(batch_axis=1, margin=9),
        {"pred": np.ones((3, 2)), "positive": np.ones((3, 2)), "negative": np.ones((3, 2))},
        EACH,
    ),
    "every x2": (fl.SDMLLoss(), {"x1": np.ones((2, 3)), "x2": np.ones((2, 3))}, EACH),
    "sequences": (fl.CTCLoss(), {"pred": ROW, "label": np.zeros((2, 2))}, EACH),
    "sequences over time": (
        fl.CTCLoss("TNC", "TN"),
        {"pred": np.zeros((5, 2, 4)), "label": np.zeros((2, 2))},
        EACH,
    ),
    "sequences in other orders": (
        fl.CTCLoss("TNC", "NT", reduction="sum"),
        {"pred": np.zeros((5, 2, 4)), "label": np.zeros((2, 1))},
        EACH,
    ),
    "sequences with lengths": (
        fl.CTCLoss("NTC", "TN"),
        {"pred": ROW, "label": np.zeros((3, 2)), "pred_lengths": [5, 4], "label_lengths": [2, 0]},
        EACH,
    ),
    "sequences in one row": (
        fl.CTCLoss(),
        {"pred": np.zeros((3, 5, 4)), "label": np.zeros(3), "label_lengths": [1, 2, 0]},
        [[1, 0, 1], [0, 1, 1], [1], 0],
    ),
    "one sequence": (fl.CTCLoss(), {"pred": np.zeros((5, 4)), "label": np.zeros(2), "label_lengths": 1}, [0, 1]),
    "one sequence in two axes": (
        fl.CTCLoss("TNC", "TN"),
        {"pred": np.zeros((5, 4)), "label": np.zeros((2, 1)), "pred_lengths": [4], "label_lengths": [1]},
        [0, 1],
    ),
}


def takes(loss: fl.Loss, inputs: dict[str, Any]) -> bool:
    """Whether a call refuses nothing and has a value."""
    try:
        return not np.isnan(loss(**inputs)).any()
    except ValueError:
        return False


def spoil(inputs: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """Each number of each input but lengths and weights, and the inputs with a NaN there."""
    for name in inputs:
        if name == "sample_weight" or name.endswith("lengths"):
            continue
        for at in np.ndindex(np.shape(inputs[name])):
            spoiled = np.array(inputs[name], float)
            spoiled[at] = NAN
            yield name, at, inputs | {name: spoiled}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_is_left_out_is_what_a_call_leaves_out(case: str) -> None:
    loss, inputs, weights = LEFT_OUT[case]
    first = loss.inputs[0]
    second = "label" if "label" in inputs else loss.inputs[1]
    for weight in weights:
        given = inputs | {"sample_weight": np.asarray(weight)}
        assert takes(loss, given), weight
        for name, at, spoiled in spoil(given):
            attempts = [spoiled]
            if name == second and 1 not in np.shape(inputs[first]):
                # the first input, where it is not given, is like the label
                attempts.append({k: x for k, x in spoiled.items() if k != first})
            for attempt in attempts:
                if takes(loss, spoiled):
                    loss.validate(**attempt)
                else:
                    with pytest.raises(ValueError, match=re.escape(f"at position {at}")) as caught:
                        loss.validate(**attempt)
                    assert str(caught.value).startswith(f"{name} must hold"), (weight, at)


MISFITS: dict[str, tuple[fl.Loss, dict[str, Any], str]] = {
    "too many weights": (
        fl.L2Loss(),
        {"pred": np.zeros(2), "label": np.zeros(2), "sample_weight": [1, 0, 0]},
        "weight",
    ),
    "weights of no class": (
        IDS,
        {"pred": np.zeros((2, 3)), "label": [0, 1], "sample_weight": np.ones((2, 3))},
        "sample_weight must",
    ),
    "another label": (
        fl.L2Loss(),
        {"pred": np.zeros(3), "label": [1, 2], "sample_weight": [1, 0, 1]},
        "label must have",
    ),
    "weights of sequences": (
        CTC,
        {"pred": ROW, "label": np.zeros((2, 1)), "sample_weight": [1, 0, 1]},
        "sample_weight must .* one",
    ),
    "weights of one sequence": (
        CTC,
        {"pred": ROW[0], "label": [0], "sample_weight": [1, 1]},
        r"sample_weight must .* got shape \(2,\)",
    ),
    "too many lengths": (
        CTC,
        {"pred": ROW, "label": np.zeros((2, 1)), "label_lengths": [1, 0, 1]},
        r"label_lengths must .* got shape \(3,\)",
    ),
    "too few lengths": (
        CTC,
        {"pred": ROW, "label": np.zeros((2, 1)), "pred_lengths": [1]},
        r"pred_lengths must .* got shape \(1,\)",
    ),
    "a length for all": (CTC, {"pred": ROW, "label": np.zeros((2, 1)), "label_lengths": 1}, "label_lengths must"),
    "beyond the label": (
        CTC,
        {"pred": ROW, "label": np.zeros((2, 1)), "label_lengths": [1, 2]},
        r"label_lengths must hold lengths from 0 .*to 1, got 2 at position \(1,\)",
    ),
    "beyond the frames": (
        fl.CTCLoss("TNC"),
        {"pred": np.zeros((3, 2, 4)), "label": np.zeros((2, 1)), "pred_lengths": [3, 4]},
        r"pred_lengths must hold lengths from 0 .*to 3, got 4 at position \(1,\)",
    ),
    "beyond the frames of one": (
        CTC,
        {"pred": ROW[0], "label": [0], "pred_lengths": 6},
        r"pred_lengths must hold lengths from 0 .*to 5, got 6 at position \(\)",
    ),
    "beyond the row": (
        CTC,
        {"pred": ROW, "label": [0, 1], "label_lengths": [1, 2]},
        "label must hold as many ids as label_lengths sum up to, 3,",
    ),
    "a row without lengths": (CTC, {"pred": ROW, "label": [0, 1]}, "label must have 2 axes, NT, .*label_lengths"),
    "labels of others": (CTC, {"pred": ROW, "label": np.zeros((3, 1))}, "label must have 2 axes, NT"),
    "four axes": (CTC, {"pred": np.zeros((1, 2, 5, 4)), "label": [[0]]}, "pred must have 3 axes"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused_as_by_a_call(case: str) -> None:
    loss, inputs, message = MISFITS[case]
    with pytest.raises(ValueError, match=r"must"):
        loss(**inputs)
    with pytest.raises(ValueError, match=message):
        loss.validate(**inputs)


def test_a_subclass_with_arguments_of_its_own_leaves_out_the_same() -> None:
    class Mine(fl.SoftmaxCELoss):
        inputs = ("pred",)  # type: ignore[assignment]

        def __init__(self, note: str) -> None:
            super().__init__(axis=0, batch_axis=1)

    pred = np.zeros((3, 2, 2))
    Mine("a").validate([[0, 0], [9, 9]], pred, sample_weight=[1, 0])
    with pytest.raises(ValueError, match=r"got 9 at position \(0, 1\)"):
        Mine("a").validate([[0, 9], [0, 9]], pred, sample_weight=[1, 0])


def test_other_subclasses_and_shapes_leave_out_the_same() -> None:
    class Pairs(fl.SDMLLoss):
        def __init__(self, note: str) -> None:
            super().__init__()

    class Elements(fl.L2Loss):
        def __init__(self, note: str) -> None:
            super().__init__()

    Pairs("a").validate([[1.0], [2.0]], [[np.nan], [1.0]], sample_weight=[0, 1])
    Elements("a").validate([[np.nan], [2.0]], sample_weight=[0, 1])
    fl.L2Loss(batch_axis=1).validate([np.nan, 2.0], sample_weight=[0, 1])
    with pytest.raises(ValueError, match=r"pos_weight must broadcast to .* got shape \(3,\)"):
        fl.SigmoidBCELoss().validate([[0.0, 1.0]], [[0.0, 0.0]], pos_weight=[1, 2, 3], sample_weight=[1])


def of_frameworks() -> list[tuple[str, Callable[[Any], Any]]]:
    def torch(a: Any) -> Any:
        return pytest.importorskip("torch").tensor(a)

    def needs_gradient(a: Any) -> Any:
        return pytest.importorskip("torch").tensor(a, requires_grad=True)

    def jax(a: Any) -> Any:
        return pytest.importorskip("jax.numpy").asarray(a)

    def dask(a: Any) -> Any:
        return pytest.importorskip("dask.array").from_array(np.asarray(a), chunks=2)

    def pandas(a: Any) -> Any:
        return pytest.importorskip("pandas").Series(a)

    makers = (torch, needs_gradient, jax, dask, pandas, list, tuple, np.asarray)
    return [(getattr(make, "__name__", "list"), make) for make in makers]


@pytest.mark.parametrize(("name", "make"), of_frameworks())
def test_arrays_of_every_library(name: str, make: Callable[[Any], Any]) -> None:
    SIGNED.validate(make([1.0, -1.0, 1.0]), pred=make([0.5, 0.0, 2.0]))
    with pytest.raises(ValueError, match=r'got 0.0 at position \(2,\); .*label_format="binary"'):
        SIGNED.validate(make([1.0, -1.0, 0.0]))


def test_autograds_arrays() -> None:
    autograd = pytest.importorskip("autograd")

    def checked(x: Any) -> Any:
        fl.L2Loss().validate([1.0, 2.0], x)
        return fl.L2Loss(reduction="sum")(x, [1.0, 2.0])

    np.testing.assert_array_equal(autograd.grad(checked)(np.zeros(2)), [-1, -2])
    with pytest.raises(ValueError, match="pred must hold finite numbers"):
        autograd.grad(checked)(np.array([0, NAN]))


def test_a_subclass_inherits() -> None:
    class Mine(fl.LogisticLoss):
        inputs = ("pred",)  # type: ignore[assignment]

        def __init__(self, note: str) -> None:
            super().__init__(label_format="binary" if note == "0/1" else "signed")

    Mine("0/1").validate([0, 1])
    assert Mine("0/1").domains == BINARY.domains
    with pytest.raises(ValueError, match=r"label must hold -1 and \+1, got 0"):
        Mine("-1/+1").validate([0, 1])


def test_domains_are_data() -> None:
    for name in fl.losses.__all__:
        if name != "Loss":
            loss = getattr(fl, name)()
            assert tuple(loss.domains) == loss.inputs
            with pytest.raises(TypeError):
                loss.domains["label"] = None


def tables() -> Any:
    path = ROOT / "docs" / "label_tables.py"
    if not path.exists():
        pytest.skip("the documentation is not beside the tests")
    spec = importlib.util.spec_from_file_location("label_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_the_guide_has_every_meaning() -> None:
    """It is made of the domains where the documentation is built: a row for each way to build that changes one."""
    table = tables().guide_table().splitlines()
    assert table[:2] == ["| loss | built with | label | prediction |", "|---|---|---|---|"]
    assert [row.split("`")[1] for row in table[2:] if row.startswith("| `")] == [
        name for name in fl.losses.__all__ if getattr(fl, name).__name__ == name != "Loss"
    ]
    assert '|  | `label_format="binary"` | numbers from 0 to 1 | numbers, infinite ones included |' in table
    assert "| `CosineEmbeddingLoss` |  | 1 and -1 | finite numbers |" in table
