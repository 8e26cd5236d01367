"""Links: what raw predictions mean; and the constants that are best."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.reference import LOSSES, draw
from tests.structured import STRUCTURED

CASES = LOSSES | STRUCTURED
LINKED = [name for name, case in LOSSES.items() if case.build().link_name is not None]
ELEMENTS = [name for name in LINKED if not LOSSES[name].row]
MARGINS = [name for name in ELEMENTS if LOSSES[name].build().link_name == "margin"]
# whose minimum for a mixture of labels is not a single point everywhere
FLAT = {"smoothed hinge", "smoothed hinge binary", "asymmetric"}


def slope(loss: fl.Loss, raw: Any, label: Any, weight: Any, others: dict[str, Any]) -> tuple[Any, Any]:
    """The gradient of the sum in a constant, and the sum of its parts' sizes."""
    parts = weight * loss.grad(np.broadcast_to(raw, label.shape), label, **others)
    return parts.sum(0), np.abs(parts).sum(0)


def examples(name: str, shape: tuple[int, ...], dtype: Any = np.float64) -> tuple[Any, Any, dict[str, Any]]:
    case, rng = LOSSES[name], np.random.default_rng(8)
    _, label, *third = draw(case, rng, shape, dtype)
    if case.build().link_name == "margin" and not third:
        # mixtures of soft labels are not what all of these are for
        label = np.where(label > np.mean(case.build().domains["label"].low), 1, case.build().domains["label"].low)
    return (
        label.astype(dtype),
        rng.integers(0, 4, len(label)).astype(dtype),
        dict(zip([case.third], third, strict=False)),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ELEMENTS)
def test_the_gradient_is_0_at_the_best_constant(name: str, dtype: Any) -> None:
    loss = LOSSES[name].build(reduction="none")
    label, weight, others = examples(name, (101, 3), dtype)
    best = loss.best_constant(label, weight, **others)
    assert best.shape == (3,)
    assert best.dtype == np.float64
    wide = {key: np.asarray(x, np.float64) for key, x in others.items()}
    at, size = slope(loss, best, label.astype(np.float64), weight[:, None].astype(np.float64), wide)
    step = 1e-9 * np.maximum(np.abs(best), 1)
    before, after = (slope(loss, best + k * step, label, weight[:, None], wide)[0] for k in (-1, 1))
    # or it changes its sign there
    assert ((np.abs(at) <= 1e-6 * size) | ((before <= 0) & (after >= 0))).all()


@pytest.mark.parametrize("name", ELEMENTS)
def test_no_constant_is_better_nearby(name: str) -> None:
    loss = LOSSES[name].build(reduction="none")
    label, weight, others = examples(name, (101,))
    best = loss.best_constant(label, weight, **others)

    def total(raw: Any) -> float:
        return float((weight * loss(np.broadcast_to(raw, label.shape), label, **others)).sum())

    assert best.shape == ()
    for step in (-0.3, -0.01, 0.01, 0.3):
        assert total(best) <= total(best + step) + 1e-12 * abs(total(best))


@pytest.mark.parametrize("name", ELEMENTS)
def test_equal_labels_have_a_best_constant(name: str) -> None:
    loss = LOSSES[name].build(reduction="none")
    label, _, others = examples(name, (7,))
    for number in np.unique(label)[[0, -1]]:
        # no count is above that of its trials
        same = np.minimum(np.full_like(label, number), others.get("trials", np.inf))
        best = loss.best_constant(same, **others)
        assert not np.isnan(best)
        raw = np.clip(best, -1e3, 1e3)
        gradient = loss.grad(np.broadcast_to(raw, label.shape), same, **others)
        assert np.abs(gradient).max() <= 1e-6 or np.isfinite(best)


@pytest.mark.parametrize("name", ELEMENTS)
def test_a_link_leads_back(name: str) -> None:
    loss = LOSSES[name].build()
    pred = draw(LOSSES[name], np.random.default_rng(4), (50,))[0] / 4
    mean = loss.inverse_link(pred)
    again = loss.inverse_link(loss.link(mean))
    np.testing.assert_allclose(again, mean, rtol=1e-9, atol=1e-12)
    if name not in FLAT and not name.startswith(("squared hinge", "modified")):
        np.testing.assert_allclose(loss.link(mean), pred, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", MARGINS)
def test_the_best_constant_predicts_the_share_of_positives(name: str) -> None:
    loss = LOSSES[name].build()
    low = loss.domains["label"].low
    label = np.array([1.0] * 3 + [low] * 5)
    got = loss.inverse_link(loss.best_constant(label))
    assert np.isclose(got, 3 / 8) or (name in FLAT and 0 <= got <= 1)


def test_a_sigmoid_is_the_inverse_link_of_likelihoods() -> None:
    raw = np.array([-800.0, -40.0, -1.0, 0.0, 3.0, 40.0, 800.0])
    sigmoid = np.exp(np.minimum(raw, 0)) / (1 + np.exp(-np.abs(raw)))
    for loss in (fl.SigmoidBCELoss(), fl.LogisticLoss(), fl.LogisticLoss(label_format="binary"), fl.BinomialLoss()):
        np.testing.assert_allclose(loss.inverse_link(raw), sigmoid, rtol=1e-15)
    np.testing.assert_allclose(fl.ExponentialLoss().inverse_link(raw / 2), sigmoid, rtol=1e-14)
    np.testing.assert_array_equal(
        fl.ModifiedHuberLoss().inverse_link([-2.0, -0.5, 0.0, 1.0, 9.0]), [0, 0.25, 0.5, 1, 1]
    )


def test_the_probability_of_a_focal_loss_is_not_the_sigmoid() -> None:
    """Charoenphakdee et al. 2021: for a share of 0.336 the sigmoid of the optimum is 0.437."""
    loss = fl.SigmoidFocalLoss(alpha=None, gamma=2)
    raw = loss.link(0.336)
    assert np.isclose(1 / (1 + np.exp(-raw)), 0.437, atol=5e-4)
    assert np.isclose(loss.inverse_link(raw), 0.336)


def test_weights_of_the_positive_class_are_undone() -> None:
    loss, label = fl.SigmoidBCELoss(), np.array([1.0, 0, 0, 0])
    raw = loss.best_constant(label, pos_weight=3.0)
    assert np.isclose(raw, 0)
    assert np.isclose(loss.inverse_link(raw, pos_weight=3.0), 0.25)


def test_trials_count() -> None:
    raw = fl.BinomialLoss().best_constant([1.0, 5.0], trials=np.array([2.0, 10.0]))
    assert np.isclose(fl.BinomialLoss().inverse_link(raw), 0.5)


@pytest.mark.parametrize("weight", [None, [1.0, 0.0, 2.0, 1.0]])
def test_a_softmax_is_best_at_the_logarithms_of_shares(weight: Any) -> None:
    label = np.array([0, 1, 2, 2])
    shares = np.bincount(label, weight) / np.sum(np.ones(4) if weight is None else weight)
    loss = fl.SoftmaxCELoss()
    np.testing.assert_allclose(loss.inverse_link(loss.best_constant(label, weight)), shares)
    dense = fl.SoftmaxCELoss(sparse_label=False)
    np.testing.assert_allclose(np.exp(dense.best_constant(np.eye(3)[label], weight)), shares)
    np.testing.assert_allclose(np.exp(loss.link(shares)), shares)
    assert loss.best_constant(label, weight, classes=5).shape == (5,)


def test_a_softmax_with_weights_smoothing_and_ignored_ids() -> None:
    loss = fl.SoftmaxCELoss(class_weight=[1.0, 2.0, 4.0], label_smoothing=0.0, ignore_index=-1, reduction="sum")
    label = np.array([0, 1, 2, 2, -1])
    raw = loss.best_constant(label)
    np.testing.assert_allclose(loss.inverse_link(raw), [0.25, 0.25, 0.5])
    np.testing.assert_allclose(loss.grad(np.tile(raw, (5, 1)), label).sum(0), 0, atol=1e-12)
    smooth = fl.SoftmaxCELoss(label_smoothing=0.1, logit_bias=[0.5, 0.0, -2.0], reduction="sum")
    raw = smooth.best_constant(label[:4])
    np.testing.assert_allclose(smooth.link(smooth.inverse_link(raw)), raw)
    np.testing.assert_allclose(smooth.grad(np.tile(raw, (4, 1)), label[:4]).sum(0), 0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.build().link_name is None])
def test_what_predicts_no_label_has_no_link(name: str) -> None:
    loss = CASES[name].build()
    with pytest.raises(NotImplementedError, match=r"has no link: its .* is not a prediction of its label's mean"):
        loss.inverse_link([0.0])


def test_infinite_constants() -> None:
    assert fl.SigmoidBCELoss().best_constant([1.0, 1.0]) == np.inf
    assert fl.LogisticLoss().best_constant([-1.0]) == -np.inf
    assert fl.PoissonNLLLoss().best_constant([0.0, 0.0]) == -np.inf
    assert fl.SquaredHingeLoss().best_constant([1.0]) >= 1 - 1e-9


def test_what_has_no_best_constant_is_refused() -> None:
    loss = fl.L2Loss()
    with pytest.raises(ValueError, match=r"label must have an axis of one or more examples, got shape \(\)"):
        loss.best_constant(1.0)
    with pytest.raises(ValueError, match="got shape \\(0,\\)"):
        loss.best_constant([])
    with pytest.raises(ValueError, match="sample_weight must be from 0 up, and above 0 for one or more examples"):
        loss.best_constant([1.0, 2.0], [0.0, 0.0])
    with pytest.raises(TypeError, match="label must be an array of real numbers"):
        loss.best_constant(["a"])
    with pytest.raises(TypeError, match="label must not be a masked array"):
        loss.best_constant(np.ma.array([1.0, 2.0], mask=[True, False]))


@pytest.mark.parametrize("axis", [-1, 0])
@pytest.mark.parametrize(
    "loss", [fl.SoftmaxFocalLoss, fl.PolyCELoss, fl.GeneralizedCELoss, lambda **k: fl.SoftmaxFocalLoss(gamma=0.5, **k)]
)
def test_functions_of_the_entropy_have_a_link_of_their_own(loss: Any, axis: int) -> None:
    label = np.array([0] * 5 + [1] * 3 + [2] * 2)
    one = loss(axis=axis, class_weight=[1.0, 2.0, 0.5], reduction="sum")
    raw = one.best_constant(label)
    many = np.tile(raw, (10, 1)) if axis else np.tile(raw[:, None], 10)
    np.testing.assert_allclose(one.grad(many, label).sum(axis + 1 if axis == -1 else 1), 0, atol=1e-9)
    shares = one.inverse_link(raw)
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], rtol=1e-9)
    np.testing.assert_allclose(one.inverse_link(one.link(shares)), shares, rtol=1e-9)
    sure = one.inverse_link(np.array([900.0, 0.0, -5.0]))
    np.testing.assert_allclose(sure, [1, 0, 0], atol=1e-12)
