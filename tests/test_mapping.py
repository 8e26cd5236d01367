"""One call over the axes that vmap adds gives what a call for each entry gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastloss as fl
from fastloss.backends import mapping
from tests.calls import ENTRIES, inputs_of
from tests.conftest import assert_close
from tests.reference import REDUCTIONS

# for each input in turn, which of the two added axes it has
WAYS = {
    "all": [(2, 3)],
    "pred": [(2, 3), (1, 1)],
    "label": [(1, 1), (2, 3)],
    "mixed": [(2, 1), (1, 3), (1, 1)],
}
NAMES = [name for name, entry in ENTRIES.items() if "5000" not in name]


def spread(loss: fl.Loss, given: dict[str, Any], way: str, rng: np.random.Generator) -> dict[str, Any]:
    """Inputs with two axes in front, along which they differ as they do along the axis of the examples."""
    found = {}
    for k, (name, x) in enumerate(given.items()):
        added = WAYS[way][k % len(WAYS[way])]
        spec = next((spec for spec in loss.specs if spec.name == name), None)
        shuffles = spec is None or spec.lies in ("like first", "per row", "weight")
        parts = [np.roll(x, k, 0) if shuffles and x.ndim else x for k in range(added[0] * added[1])]
        found[name] = np.stack(parts).reshape(*added, *x.shape)
    return found


def check(loss: fl.Loss, method: str, given: dict[str, Any], wrt: tuple[str, ...], dtype: Any) -> None:
    batch = np.broadcast_shapes(*[x.shape[:2] for x in given.values()])
    want = mapping.call_each(loss, method, given, batch, wrt, None)
    got = mapping.call(loss, method, given, 2, wrt)
    out = [np.full_like(np.asarray(x, dtype), np.nan) for x in want]
    mapping.call(loss, method, given, 2, wrt, out)
    for x, y, z in zip(got, want, out, strict=True):
        assert x.shape == y.shape
        assert_close(x, y, dtype, 8)
        assert_close(z, y, dtype, 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_loss(name: str, rng: np.random.Generator) -> None:
    entry = ENTRIES[name]
    for k, reduction in enumerate(REDUCTIONS):
        loss = entry.build(reduction=reduction)
        dtype = (np.float32, np.float64)[k % 2]
        inputs = inputs_of(entry, rng, 4, dtype)
        plain = {name: x for name, x in inputs.items() if name != "sample_weight"}
        wrt = tuple(name for name in loss.differentiable if name in inputs)
        head = rng.uniform(0.5, 1, np.shape(loss(**inputs))).astype(dtype)
        for way in (list(WAYS)[k % 4], list(WAYS)[(k + 1) % 4]):
            check(loss, "__call__", spread(loss, plain, way, rng), (), dtype)
            check(loss, "value_and_grad", spread(loss, inputs, way, rng), wrt, dtype)
            check(loss, "grad", spread(loss, inputs | {"head_grad": head}, way, rng), (loss.inputs[0],), dtype)
            if loss.no_product is None:
                more = {"vector": inputs[loss.inputs[0]], "head_grad": head}
                check(loss, "hvp", spread(loss, inputs | more, way, rng), (), dtype)
            if loss.no_hessian is None:
                check(loss, "grad_and_hess:exact", spread(loss, plain, way, rng), loss.inputs[:1], dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("batch_axis", [1, -1])
def test_other_axes(batch_axis: int, reduction: str, rng: np.random.Generator) -> None:
    pred, label = rng.normal(size=(2, 2, 3, 4, 5)), rng.integers(0, 4, (2, 1, 3, 5))
    weight = rng.uniform(size=(2, 1, 3, 1))
    loss = fl.SoftmaxCELoss(axis=1, batch_axis=-1 if batch_axis == -1 else 0, reduction=reduction)
    given = {"pred": pred, "label": label, "sample_weight": weight}
    check(loss, "value_and_grad", given, ("pred", "sample_weight"), np.float64)
    smooth = fl.LogCoshLoss(batch_axis=batch_axis, reduction=reduction)
    given = {"pred": pred, "label": pred[:1], "sample_weight": rng.uniform(size=(1, 2, 4, 1))}
    check(smooth, "value_and_grad", given, ("pred", "label", "sample_weight"), np.float64)
    bce = fl.SigmoidBCELoss(batch_axis=batch_axis, reduction=reduction)
    given = {"pred": pred, "label": (pred > 0).astype(np.float64), "pos_weight": rng.uniform(size=(2, 1, 4, 1))}
    check(bce, "value_and_grad", given, ("pred", "pos_weight"), np.float64)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_example_without_a_batch(reduction: str, rng: np.random.Generator) -> None:
    for layout in ("NTC", "TNC"):
        loss = fl.CTCLoss(layout=layout, reduction=reduction)  # type: ignore[arg-type]
        given = {"pred": rng.normal(size=(2, 3, 6, 4)), "label": rng.integers(0, 3, (2, 1, 2))}
        check(loss, "value_and_grad", given, ("pred",), np.float64)
        more = {"pred_lengths": np.array([[[5]]]), "head_grad": np.array([[0.5]])}
        check(loss, "grad", given | more, ("pred",), np.float64)
    for pred in (rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 4))):
        check(fl.L2Loss(reduction=reduction), "__call__", {"pred": pred, "label": np.zeros_like(pred)}, (), np.float64)


def test_labels_of_sequences_in_a_row(rng: np.random.Generator) -> None:
    lengths = {"label_lengths": np.array([[[2, 1]]])}
    given = {"pred": rng.normal(size=(2, 3, 2, 6, 4)), "label": rng.integers(0, 3, (2, 1, 3))} | lengths
    check(fl.CTCLoss(), "value_and_grad", given, ("pred",), np.float64)


def test_it_is_one_call(monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    """For all losses but those of pairs, whatever the reduction; but for weighted means of losses of whole examples."""
    monkeypatch.setattr(mapping, "call_each", None)
    for name in NAMES:
        entry = ENTRIES[name]
        for reduction in REDUCTIONS:
            loss = entry.build(reduction=reduction)
            whole = not loss.is_elementwise and loss.row_axis(3) is None
            if loss.couples is None and not (whole and reduction == "weighted_mean"):
                first, *_ = loss.inputs
                given = {name: x[None] for name, x in inputs_of(entry, rng, 4).items()}
                given[first] = np.repeat(given[first], 3, 0)
                mapping.call(loss, "value_and_grad", given, 1, (first,))


def test_no_entries() -> None:
    given = {"pred": np.zeros((0, 4)), "label": np.zeros((1, 4))}
    (value,) = mapping.call(fl.L2Loss(reduction="mean"), "__call__", given, 1, ())
    assert value.shape == (0,)
