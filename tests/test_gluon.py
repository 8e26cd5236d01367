"""MXNet's own numbers: every case of the losses that are here, unless MXNet is wrong or a stated decision differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss as fl

DATA = Path(__file__).parent / "data"
CASES = json.loads((DATA / "gluon_cases.json").read_text())["cases"]
ARRAYS = np.load(DATA / "gluon_cases.npz")

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


def is_here(case: dict[str, Any]) -> bool:
    """Whether the loss exists, and its softmax with it where KL divergence has one."""
    kl_from_logits = case["loss"] == "KLDivLoss" and not case["ctor"].get("from_logits", True)
    return hasattr(fl, case["loss"]) and not kl_from_logits


def refusal(case: dict[str, Any]) -> str | None:
    return next((message for part, message in REFUSED.items() if part in case["id"] + "/"), None)


HERE = [case for case in CASES if is_here(case) and "known_defect" not in case["tags"]]
ACCEPTED = [case for case in HERE if refusal(case) is None and case["id"] != MEAN_WEIGHT]


def array(case: dict[str, Any], name: str) -> Any:
    return ARRAYS[f"{case['key']}/{name}"]


def inputs_of(case: dict[str, Any]) -> list[Any]:
    return [array(case, a) if isinstance(a, str) else a for a in case["call_args"]]


def gradient_names(case: dict[str, Any]) -> tuple[str, ...]:
    """The inputs that Gluon differentiates; it returns 0 for class ids, and fastloss an error."""
    class_ids = case["loss"] == "SoftmaxCrossEntropyLoss" and case["ctor"].get("sparse_label", True)
    return tuple(name for name in case["grads"] if not (class_ids and name == "label"))


def check(case: dict[str, Any], loss: fl.Loss, prefix: str, head: Any, tolerance: float) -> None:
    args = inputs_of(case)
    value = loss(*args)
    want = array(case, prefix + "out")
    np.testing.assert_allclose(value, want.reshape(np.shape(value)), rtol=tolerance, atol=tolerance)
    names = gradient_names(case)
    if not names:
        return
    for name, got in zip(names, loss.grad(*args, wrt=names, head_grad=head), strict=True):
        np.testing.assert_allclose(got, array(case, f"{prefix}grad_{name}"), rtol=tolerance, atol=tolerance)


def test_the_cases_are_there() -> None:
    assert (len(CASES), len(HERE), len(ACCEPTED)) == (259, 237, 208)
    assert {case["loss"] for case in ACCEPTED} == {
        name
        for name in fl.losses.__all__
        if name.endswith("Loss") and name not in ("Loss", "SigmoidBCELoss", "SoftmaxCELoss")
    }


@pytest.mark.parametrize("case", ACCEPTED, ids=lambda case: case["id"])
def test_version_1(case: dict[str, Any]) -> None:
    args = inputs_of(case)
    parameters = dict(case["ctor"])
    head = array(case, "head_grad") if case["head_grad"] else None
    if case["loss"] == "PoissonNLLLoss":
        # 1.9 takes the mean over everything
        parameters["reduction"] = "mean"
        head = None if head is None else head[0]
    if case["loss"] == "KLDivLoss":
        # 1.9 sums over the axes that fastloss averages
        examples = args[0].shape[parameters.get("batch_axis", 0)]
        parameters["weight"] = (parameters.get("weight") or 1) * args[0].size / examples
    check(case, getattr(fl, case["loss"])(**parameters), "", head, 1e-12 if case["dtype"] == "float64" else 2e-6)


@pytest.mark.parametrize(
    "case", [case for case in ACCEPTED if f"{case['key']}/v2_out" in ARRAYS], ids=lambda case: case["id"]
)
def test_version_2(case: dict[str, Any]) -> None:
    # whose values are float32 whatever the input
    check(case, getattr(fl, case["loss"])(**case["ctor"]), "v2_", None, 2e-6)


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
