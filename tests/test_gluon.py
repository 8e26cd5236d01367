"""MXNet's own numbers: every case, unless MXNet is wrong or a stated decision differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss as fl

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "gluon_cases.json").read_text(encoding="utf-8"))["cases"]
with np.load(DATA / "gluon_cases.npz") as archive:
    ARRAYS = dict(archive)

# parts of the ids of cases that Gluon takes and fastloss refuses
REFUSED = {
    "label_reshape/": "label must have",
    "/flat_label/": "label must have",
    "/sw_D/": "sample_weight must be one weight per example",
    "5x7/sw_NxC/": "sample_weight must be one weight per example",
    "/label_fractional/": "class ids",
    "/label_out_of_range/": "class ids",
}

# Gluon broadcasts (N,) against (N, 1) to (N, N), and multiplies every example by the mean weight
MEAN_WEIGHT = "SoftmaxCrossEntropyLoss/default/5x7/sw_N_1d/float64"


# MXNet rounds squared distances of 40 to float32 before it takes their difference, and is off by 2.3e-6
ROUNDED = "TripletLoss/batch_axis=1,margin=5/3x4x5/float32"


def refusal(case: dict[str, Any]) -> str | None:
    return next((message for part, message in REFUSED.items() if part in case["id"] + "/"), None)


HERE = [case for case in CASES if "known_defect" not in case["tags"]]
ACCEPTED = [case for case in HERE if refusal(case) is None and case["id"] != MEAN_WEIGHT]


def array(case: dict[str, Any], name: str) -> Any:
    return ARRAYS[f"{case['key']}/{name}"]


def inputs_of(case: dict[str, Any]) -> list[Any]:
    return [array(case, a) if isinstance(a, str) else a for a in case["call_args"]]


def gradient_names(case: dict[str, Any]) -> tuple[str, ...]:
    """The inputs that Gluon differentiates; for class ids and cosine labels it returns 0, and fastloss an error."""
    class_ids = case["loss"] == "SoftmaxCrossEntropyLoss" and case["ctor"].get("sparse_label", True)
    fixed = getattr(fl, case["loss"])().fixed
    return tuple(name for name in case["grads"] if not (class_ids and name == "label") and name not in fixed)


def check(case: dict[str, Any], loss: fl.Loss, prefix: str, head: Any, tolerance: float) -> None:
    args = inputs_of(case)
    value = loss(*args)
    want = array(case, prefix + "out")
    np.testing.assert_allclose(value, want.reshape(np.shape(value)), rtol=tolerance, atol=tolerance)
    names = gradient_names(case)
    if not names or f"{case['key']}/{prefix}grad_{names[0]}" not in ARRAYS:
        assert prefix or not case["grads"]
        return
    for name, got in zip(names, loss.grad(*args, wrt=names, head_grad=head), strict=True):
        np.testing.assert_allclose(got, array(case, f"{prefix}grad_{name}"), rtol=tolerance, atol=tolerance)


def test_the_cases_are_there() -> None:
    assert (len(CASES), len(HERE), len(ACCEPTED)) == (259, 255, 226)
    recorded = {case["loss"] for case in CASES}
    assert len(recorded) == 14
    assert recorded == {case["loss"] for case in ACCEPTED}
    assert recorded <= set(fl.losses.__all__)


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_version_1(case: dict[str, Any]) -> None:
    args = inputs_of(case)
    parameters = dict(case["ctor"])
    head = array(case, "head_grad") if case["head_grad"] else None
    if case["loss"] == "PoissonNLLLoss":
        # 1.9 takes the mean over everything
        parameters["reduction"] = "mean"
        head = None if head is None else head[0]
    if case["loss"] == "SDMLLoss":
        # which takes a weight and ignores it
        parameters.pop("weight", None)
    if case["loss"] == "KLDivLoss":
        # 1.9 sums over the axes that fastloss averages
        examples = args[0].shape[parameters.get("batch_axis", 0)]
        parameters["weight"] = (parameters.get("weight") or 1) * args[0].size / examples
    tolerance = 5e-6 if case["id"] == ROUNDED else 1e-12 if case["dtype"] == "float64" else 2e-6
    check(case, getattr(fl, case["loss"])(**parameters), "", head, tolerance)


@pytest.mark.parametrize(
    "case", [case for case in ACCEPTED if f"{case['key']}/v2_out" in ARRAYS], ids=lambda case: case["id"]
)
def test_version_2(case: dict[str, Any]) -> None:
    # whose values are float32 whatever the input
    parameters = dict(case["ctor"])
    if case["loss"] == "SDMLLoss":
        # which takes the mean over each row
        parameters["weight"] = 1 / len(inputs_of(case)[0])
    check(case, getattr(fl, case["loss"])(**parameters), "v2_", None, 2e-6)


@pytest.mark.parametrize("case", [case for case in HERE if refusal(case) is not None], ids=lambda case: case["id"])
def test_refused(case: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=refusal(case)):
        getattr(fl, case["loss"])(**case["ctor"])(*inputs_of(case))


def test_softmax_weights_are_per_example() -> None:
    case = next(case for case in HERE if case["id"] == MEAN_WEIGHT)
    pred, label, weight = inputs_of(case)
    loss = fl.SoftmaxCrossEntropyLoss()
    np.testing.assert_allclose(loss(pred, label) * weight.mean(), array(case, "out"), rtol=1e-12)
    np.testing.assert_allclose(loss(pred, label, weight), loss(pred, label) * weight, rtol=1e-12)


def test_zero_is_not_special() -> None:
    # MXNet's gradients at a prediction of exactly 0 are wrong
    for case in CASES:
        if "pred_exactly_zero" in case["id"]:
            pred, label = inputs_of(case)
            target = label if case["loss"].startswith("Sigmoid") else (1 + label) / 2
            got = getattr(fl, case["loss"])(**case["ctor"]).grad(pred, label)
            want = (1 / (1 + np.exp(-pred)) - target) / pred[0].size
            np.testing.assert_allclose(got, want, rtol=2e-6)


def test_a_difference_of_distances_is_not_rounded() -> None:
    case = next(case for case in CASES if case["id"] == ROUNDED)
    x, y, z = (a.astype(np.float64) for a in inputs_of(case))
    want = np.maximum(0, 5 + ((y - x) ** 2 - (z - x) ** 2).sum((0, 2)))
    np.testing.assert_allclose(fl.TripletLoss(**case["ctor"])(*inputs_of(case)), want, rtol=1e-7)


def test_upstream_expectations() -> None:
    p, y, s = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 5, 7]), np.array([0.5, 1, 0.5, 1])
    assert fl.TripletLoss(margin=10)(p, y, -y).sum() == 6
    assert fl.TripletLoss(margin=8, weight=0.25)(p, y, -y).sum() == 1
    assert fl.TripletLoss(margin=7)(p, y, -y, s).sum() == 1.5
    pred, label = np.ones((2, 20, 4)), np.array([[1, 0, -1, -1], [2, 1, 1, -1]])
    want = [18.82820702, 16.50581741]
    for layout, a in (("NTC", pred), ("TNC", pred.transpose(1, 0, 2))):
        for label_layout, b in (("NT", label), ("TN", label.T)):
            loss = fl.CTCLoss(layout, label_layout)
            np.testing.assert_allclose(loss(a, b), want, rtol=1e-6)
            np.testing.assert_allclose(loss(a, b, None, [2, 3]), want, rtol=1e-6)
            np.testing.assert_allclose(loss(a, b, [20, 20], [2, 3]), want, rtol=1e-6)
    longer = np.concatenate([pred, np.full((2, 5, 4), 7.0)], 1)
    np.testing.assert_allclose(fl.CTCLoss()(longer, label, [20, 20]), want, rtol=1e-6)
