"""A weight of 0 leaves an example out, whatever its prediction and label are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from tests.calls import ENTRIES, flat, inputs_of, methods_of
from tests.judge import same_bits

Array = NDArray[Any]

N = 6
OUT = [0, 3]


def weighted(name: str, dtype: Any) -> dict[str, Array]:
    """Inputs for N examples, of which those of OUT have no weight."""
    inputs = inputs_of(ENTRIES[name], np.random.default_rng(5), N, dtype)
    inputs["sample_weight"][OUT] = 0
    return inputs


def spoiled(inputs: dict[str, Array], name: str, value: float) -> dict[str, Array]:
    """The same inputs, of which one holds no number where an example is left out."""
    a = inputs[name]
    a = a.astype(np.float64) if a.dtype.kind in "iu" else a.copy()
    a[OUT] = value
    return inputs | {name: a}


def shared(loss: fl.Loss) -> str | None:
    """The input that every example meets, whatever the others' weights; None if there is none."""
    return loss.couples if loss.couples != loss.inputs[0] else None


def spoilable() -> list[Any]:
    """Each loss with each input of which an example has its own part."""
    cases = []
    for name, entry in ENTRIES.items():
        inputs = inputs_of(entry, np.random.default_rng(5), N)
        names = [k for k, a in inputs.items() if k != "sample_weight" and a.shape[:1] == (N,)]
        assert len(names) >= 2, entry.names
        met = shared(entry.build())
        cases += [pytest.param(name, k, id=f"{name}-{k}") for k in names if k != met and "lengths" not in k]
    return cases


def results(loss: fl.Loss, inputs: dict[str, Array]) -> dict[str, Array]:
    """What every method returns, and the gradients in every input but the weights."""
    found = {
        f"{method} {k}": x for method in methods_of(loss) for k, x in enumerate(flat(getattr(loss, method)(**inputs)))
    }
    wrt = tuple(k for k in loss.differentiable if k in inputs and k != "sample_weight")
    return found | dict(zip(wrt, loss.grad(**inputs, wrt=wrt), strict=True))


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, np.nan), (np.float64, np.inf), (np.float32, -np.inf)])
@pytest.mark.parametrize(("name", "spoilt"), spoilable())
def test_an_example_without_weight(name: str, spoilt: str, dtype: Any, value: float) -> None:
    inputs = weighted(name, dtype)
    other = spoiled(inputs, spoilt, value)
    for reduction in ("none", "example", "sum", "mean", "weighted_mean"):
        loss = ENTRIES[name].build(reduction=reduction)
        want, got = results(loss, inputs), results(loss, other)
        for key, a in got.items():
            assert same_bits(a, want[key]), (reduction, key)
            assert np.isfinite(a).all()
            assert key == shared(loss) or a.shape[:1] != (N,) or not a[OUT].any()
        gradient = loss.grad(**other, wrt="sample_weight")
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.build().is_elementwise])
def test_an_element_without_weight(name: str) -> None:
    inputs = inputs_of(ENTRIES[name], np.random.default_rng(5), 700, np.float64)
    weight = np.random.default_rng(6).random((700, 3))
    weight[::5, 1] = 0
    inputs["sample_weight"] = weight
    other = inputs | {"pred": np.where(weight == 0, np.nan, inputs["pred"])}
    for head in (1.0, np.linspace(-1, 1, 700)):
        loss = ENTRIES[name].build()
        value, (gradient, to_weight) = loss.value_and_grad(**other, head_grad=head, wrt=("pred", "sample_weight"))
        want = loss.value_and_grad(**inputs, head_grad=head)
        assert same_bits(value, want[0])
        assert same_bits(gradient, want[1])
        assert not gradient[weight == 0].any()
        assert not to_weight[weight == 0].any()


def test_a_weight_of_zero_keeps_its_own_gradient() -> None:
    """The derivative in a weight is the loss, where that is finite."""
    gradient = fl.L2Loss().grad([1.0, np.nan, 2.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0], wrt="sample_weight")
    np.testing.assert_array_equal(gradient, [0.5, 0, 2])


@pytest.mark.parametrize("classes", [3, 300])
def test_a_class_without_weight(classes: int) -> None:
    """Examples of a class of weight 0 are left out, too."""
    pred = np.random.default_rng(1).normal(size=(4, classes))
    pred[1] = np.nan
    loss = fl.SoftmaxCELoss(class_weight=[1.0, 0.0, *[2.0] * (classes - 2)], reduction="weighted_mean")
    value, gradient, hessian = loss.value_grad_and_hess(pred, [0, 1, 2, 2])
    want = loss.value_grad_and_hess(np.delete(pred, 1, 0), [0, 2, 2])
    assert value == pytest.approx(want[0])
    np.testing.assert_allclose(np.delete(gradient, 1, 0), want[1], rtol=1e-12, atol=1e-15)
    assert not gradient[1].any()
    assert not hessian[1].any()


@pytest.mark.parametrize("row", [False, True])
def test_ids_of_a_sequence_without_weight(row: bool) -> None:
    """Two axes of labels, or one with the ids of all; the second example has ids that there are not."""
    pred = np.random.default_rng(1).normal(size=(3, 5, 4))
    label = [0, 1, 9, 9, 2, 0] if row else [[0, 1], [9, 9], [2, 0]]
    loss = fl.CTCLoss()
    value, gradient = loss.value_and_grad(pred, label, None, [2, 2, 2], [1, 0, 1])
    want = loss.value_and_grad(pred[[0, 2]], [[0, 1], [2, 0]])
    np.testing.assert_array_equal(value, [want[0][0], 0, want[0][1]])
    np.testing.assert_array_equal(gradient, [want[1][0], 0 * pred[1], want[1][1]])
    with pytest.raises(ValueError, match="got 9 at position"):
        loss(pred, label, None, [2, 2, 2], [0, 1, 1])


def test_only_a_weight_of_zero_leaves_out() -> None:
    assert np.isnan(fl.L2Loss(reduction="sum")([np.nan, 1.0], [0.0, 0.0], [1e-30, 1.0]))
    assert np.isnan(fl.L2Loss(reduction="sum")([np.nan, 1.0], [0.0, 0.0]))
    with pytest.raises(ValueError, match=r"got nan at position \(1,\)"):
        fl.SoftmaxCELoss()(np.zeros((3, 2)), [0, np.nan, 1], [1, 2, 0])
