"""Hessians in place of the exact one: majorisers, and the means of likelihoods."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.conftest import assert_close
from tests.reference import LOSSES, call_args, draw

UNCERTAIN = (fl.GaussianNLLLoss, fl.LaplaceNLLLoss, fl.StudentTNLLLoss)
ELEMENTS = {name: case for name, case in LOSSES.items() if not case.row}
MAJORISED = [name for name, case in ELEMENTS.items() if "majorizer" in case.build().hessians]
EXPECTED = [name for name, case in LOSSES.items() if "expected" in case.build().hessians and case.loss not in UNCERTAIN]
# bounds of the Hessian that keep Newton's step from raising the loss, and no parabolas above it
LOCAL = {"asymmetric", "focal", "MSLE"}


def data(name: str, dtype: Any = np.float64, n: int = 400) -> tuple[Any, ...]:
    return call_args(LOSSES[name], draw(LOSSES[name], np.random.default_rng(5), (n,), dtype))


def is_local(name: str) -> bool:
    return any(name.startswith(text) for text in LOCAL)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MAJORISED)
def test_a_majorizer_is_above_the_hessian(name: str, dtype: Any) -> None:
    loss, inputs = LOSSES[name].build(reduction="none"), data(name, dtype)
    value, gradient, exact = loss.value_grad_and_hess(*inputs)
    same_value, same_gradient, bound = loss.value_grad_and_hess(*inputs, hessian="majorizer")
    assert np.array_equal(value, same_value)
    assert np.array_equal(gradient, same_gradient)
    assert np.array_equal(bound, loss.grad_and_hess(*inputs, hessian="majorizer")[1])
    assert np.isfinite(bound).all()
    assert (bound >= exact * (1 - 8 * np.finfo(dtype).eps)).all()
    assert (bound > 0)[gradient != 0].all()
    assert (bound >= 0).all()


@pytest.mark.parametrize("name", MAJORISED)
def test_newtons_step_with_a_majorizer_never_raises_the_loss(name: str) -> None:
    loss, (pred, *others) = LOSSES[name].build(reduction="none"), data(name)
    value, gradient, bound = loss.value_grad_and_hess(pred, *others, hessian="majorizer")
    step = np.divide(gradient, bound, out=np.zeros_like(bound), where=gradient != 0)
    after = loss(pred - step, *others)
    assert (after <= value + 1e-12 * (1 + np.abs(value))).all()


@pytest.mark.parametrize("name", [name for name in MAJORISED if not is_local(name)])
def test_the_parabola_of_a_majorizer_lies_above_the_loss(name: str) -> None:
    loss, (pred, *others) = LOSSES[name].build(reduction="none"), data(name)
    value, gradient, bound = loss.value_grad_and_hess(pred, *others, hessian="majorizer")
    for step in (*np.linspace(-6, 6, 61), *np.geomspace(1e-6, 1, 7)):
        parabola = value + gradient * step + bound / 2 * step**2
        assert (loss(pred + step, *others) <= parabola + 1e-9 * (1 + np.abs(parabola))).all(), step


@pytest.mark.parametrize("loss", [fl.HuberLoss(), fl.QuantileLoss(0.9), fl.CauchyLoss(), fl.SigmoidBCELoss()])
def test_a_leaf_lowers_its_loss(loss: fl.Loss) -> None:
    """The sum of parabolas lies above the sum of losses."""
    rng = np.random.default_rng(0)
    for _ in range(100):
        label = rng.uniform(-5, 5) + rng.standard_t(1, 50)
        label = np.clip(label, 0, 1) if loss.link_name == "margin" else label
        gradient, bound = loss.grad_and_hess(np.zeros(50), label, hessian="majorizer")
        step = -gradient.sum() / bound.sum()
        assert loss(np.zeros(50) + step, label).sum() <= loss(np.zeros(50), label).sum() * (1 + 1e-12)


@pytest.mark.parametrize("classes", [5, 200])
@pytest.mark.parametrize("build", [fl.SoftmaxFocalLoss, fl.PolyCELoss, fl.GeneralizedCELoss])
def test_a_majorizer_of_functions_of_the_entropy(build: Any, classes: int, rng: np.random.Generator) -> None:
    """It is the exact Hessian without what the function's own curvature takes from it, in rows of any length."""
    loss, pred, label = build(), rng.normal(scale=4, size=(200, classes)), rng.integers(0, classes, 200)
    assert loss.newton == "majorizer"
    gradient, exact = loss.grad_and_hess(pred, label)
    same, bound = loss.grad_and_hess(pred, label, hessian="majorizer")
    np.testing.assert_array_equal(gradient, same)
    assert (bound >= np.maximum(exact, 0) * (1 - 1e-12)).all()
    assert (exact < 0).any()
    assert (bound > 0).all()
    unit = np.zeros_like(pred)
    unit[:, 1] = 1
    np.testing.assert_allclose(loss.hvp(pred, label, unit, hessian="majorizer")[:, 1], bound[:, 1], rtol=1e-9)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_expected_hessian_is_that_of_the_mean_label(name: str) -> None:
    """The Hessian is linear in the label, or does not depend on it."""
    case = LOSSES[name]
    loss, (pred, label, *others) = case.build(reduction="none"), data(name)
    got = loss.grad_and_hess(pred, label, *others, hessian="expected")[1]
    mean = loss.inverse_link(pred) if loss.link_name == "log" else label
    want = loss.grad_and_hess(pred, mean, *others)[1]
    assert_close(got, want, np.float64)
    assert (got >= 0).all() or "of any sign" in name


@pytest.mark.parametrize(
    ("loss", "of_pred", "of_scale"),
    [
        (fl.GaussianNLLLoss(), lambda s: np.exp(-s), lambda s: 0.5),
        (fl.GaussianNLLLoss("log_scale"), lambda s: np.exp(-2 * s), lambda s: 2),
        (fl.GaussianNLLLoss("variance"), lambda s: 1 / s, lambda s: 0.5 / s**2),
        (fl.LaplaceNLLLoss(), lambda s: np.exp(-2 * s), lambda s: 1),
        (fl.StudentTNLLLoss(df=4), lambda s: 5 / 7 * np.exp(-2 * s), lambda s: 8 / 7),
    ],
)
def test_the_information_of_two_predictions(loss: fl.Loss, of_pred: Any, of_scale: Any) -> None:
    scale = np.array([0.5, 1.0, 2.0])
    pred, label = np.zeros(3), np.array([1.0, -30.0, 0.0])
    wrt = loss.twice_differentiable
    gradients, found = loss.grad_and_hess(pred, label, scale, wrt=wrt, hessian="expected")
    assert_close(found[0], of_pred(scale), np.float64)
    assert_close(found[1], np.broadcast_to(of_scale(scale), 3), np.float64)
    for got, want in zip(gradients, loss.grad(pred, label, scale, wrt=wrt), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("hessian", ["newton", "majorizer", None, 1, np.array("exact")])
def test_a_hessian_that_there_is_not_is_refused(hessian: Any) -> None:
    with pytest.raises(ValueError, match=r"^hessian of PoissonNLLLoss must be one of 'exact', 'expected', got "):
        fl.PoissonNLLLoss().grad_and_hess([0.0], [1.0], hessian=hessian)


def test_only_a_call_with_a_hessian_names_one() -> None:
    loss = fl.HuberLoss()
    with pytest.raises(TypeError, match="unexpected keyword argument 'hessian'; grad takes"):
        loss.grad([0.0], [1.0], hessian="exact")
    with pytest.raises(TypeError, match=r"'other'; grad_and_hess takes .*, head_grad, wrt, hessian$"):
        loss.grad_and_hess([0.0], [1.0], other="exact")
    with pytest.raises(NotImplementedError, match="has no diagonal Hessian"):
        fl.SDMLLoss().grad_and_hess([[0.0], [1.0]], [[1.0], [2.0]], hessian="majorizer")


def test_where_there_is_no_value_there_is_no_surrogate() -> None:
    for name in MAJORISED:
        loss, (pred, *others) = LOSSES[name].build(reduction="none"), data(name, n=16)
        pred[3] = np.nan
        bound = loss.grad_and_hess(pred, *others, hessian="majorizer")[1]
        assert np.isnan(bound[3])
        assert np.isfinite(np.delete(bound, 3)).all()


def test_weights_and_heads_multiply_a_surrogate(rng: np.random.Generator) -> None:
    loss, pred, label = fl.HuberLoss(weight=3), rng.normal(size=(5, 4)), rng.normal(size=(5, 4))
    weight, head = rng.uniform(size=5), rng.uniform(size=5)
    got = loss.grad_and_hess(pred, label, weight, head_grad=head, hessian="majorizer")[1]
    plain = fl.HuberLoss(reduction="none").grad_and_hess(pred, label, hessian="majorizer")[1]
    assert_close(got, plain * 3 / 4 * (weight * head)[:, None], np.float64)


def test_weights_beyond_the_range_multiply_a_surrogate() -> None:
    pred, label = np.float32([3.0, -2.0]), np.zeros(2, np.float32)
    got = fl.HuberLoss(weight=1e300).grad_and_hess(pred, label, np.float64([1e-300, 1e-300]), hessian="majorizer")[1]
    np.testing.assert_allclose(got, [1 / 3, 1 / 2], rtol=1e-6)


def test_a_kernel_without_a_surrogate_is_named() -> None:
    from fastloss._isa import kernels

    class Loss(fl.Loss):
        def __init__(self) -> None:
            super().__init__(kernels.L2(), None, 0, "mean", surrogate="majorizer")

    with pytest.raises(ValueError, match="L2 is in no list of kernels with a surrogate"):
        Loss()


@pytest.mark.parametrize("library", ["torch", "jax.numpy", "dask.array"])
def test_arrays_of_other_libraries(library: str) -> None:
    module = pytest.importorskip(library, reason=f'{library} is not installed: pip install -e ".[frameworks]"')
    make = module.asarray if library != "dask.array" else lambda a: module.from_array(a, chunks=5)
    pred, label = np.linspace(-4, 4, 12, dtype=np.float32), np.zeros(12, np.float32)
    want = fl.HuberLoss().grad_and_hess(pred, label, hessian="majorizer")[1]
    got = fl.HuberLoss().grad_and_hess(make(pred), make(label), hessian="majorizer")[1]
    np.testing.assert_array_equal(np.asarray(got), want)
