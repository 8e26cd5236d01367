"""What other libraries call their losses: each call for one is made, and held against it if it is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from fastloss import _peers
from fastloss.__main__ import main

Array = np.ndarray[Any, Any]
ROWS = list(_peers.rows())
# of the peer's arguments that a call names
QUARTERS = "alpha beta delta epsilon fair_c gamma huber_slope margin q quantile quantile_alpha"
ARGUMENTS: dict[str, Any] = (
    dict.fromkeys(QUARTERS.split(), 0.25)
    | dict.fromkeys(("power", "tweedie_variance_power", "variance_power"), 1.5)
    | {"p": 1, "full": True, "eps": 0.5, "scale": 2, "distribution": "logistic", "dist": "extreme"}
)
NAMES = {name: getattr(fl, name) for name in fl.losses.__all__} | ARGUMENTS


def built(call: str) -> fl.Loss:
    loss = eval(call, {"__builtins__": {}}, NAMES)
    assert isinstance(loss, fl.Loss)
    return loss


@pytest.mark.parametrize(("library", "name", "call", "remark"), ROWS, ids=[f"{row[0]} {row[1]}" for row in ROWS])
def test_each_call_makes_a_loss(library: str, name: str, call: str, remark: str) -> None:
    assert library
    assert name
    assert not remark.endswith(".")
    built(call)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("BCEWithLogitsLoss", 'SigmoidBCELoss(reduction="mean"), pos_weight in the call'),
        ("MSELoss", 'L2Loss(weight=2, reduction="mean")'),
        ("Huber", 'HuberLoss(rho=delta, weight=delta, reduction="mean")'),
        ("log_loss", 'SigmoidBCELoss(from_sigmoid=True, reduction="mean"), of two classes'),
        (
            "cross_entropy",
            'SoftmaxCELoss(axis=1, ignore_index=-100, reduction="weighted_mean"), weight is class_weight',
        ),
    ],
)
def test_a_name_of_another_library_says_the_call(name: str, call: str) -> None:
    with pytest.raises(AttributeError) as info:
        getattr(fl, name)
    assert str(info.value) == f"module 'fastloss' has no attribute '{name}'; use fastloss.{call}"
    assert info.value.name == name


@pytest.mark.parametrize("name", ["NoSuchLoss", "_private", "__wrapped__"])
def test_another_name_is_missing_as_usual(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"^module 'fastloss' has no attribute '{name}'$"):
        getattr(fl, name)


@pytest.mark.parametrize("name", ["torch.nn.MSELoss", "mseloss", "mse_loss"])
def test_the_command_prints_the_call(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["fastloss", "which", name])
    main()
    assert capsys.readouterr().out == 'fastloss.L2Loss(weight=2, reduction="mean")\n'


def test_the_command_knows_no_such_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["fastloss", "which", "NoSuchLoss"])
    with pytest.raises(SystemExit, match=r"no known library calls a loss 'NoSuchLoss'; docs/guide/which\.md has"):
        main()


def test_without_a_command_they_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["fastloss"])
    main()
    text = capsys.readouterr().out
    for command in ("info", "demo", "which"):
        assert f"\n    {command} " in text


def draw(kind: str) -> tuple[Array, Array]:
    """Predictions and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 3))
    probabilities = 0.05 + 0.9 * rng.random((40, 3))
    return {
        "real": (x, rng.normal(size=(40, 3))),
        "signs": (x, rng.choice([-1.0, 1.0], (40, 3))),
        "shares": (x, rng.random((40, 3))),
        "probabilities": (probabilities, rng.choice([0.0, 1.0], (40, 3))),
        "positive": (probabilities, rng.random((40, 3)) + 0.1),
        "counts": (x, rng.poisson(2.0, (40, 3)).astype(float)),
        "ids": (x, rng.integers(0, 3, 40)),
        "log-probabilities": (np.log(probabilities), probabilities),
        "log ids": (np.log(probabilities), rng.integers(0, 3, 40)),
        "distances": (abs(x), rng.choice([-1.0, 1.0], (40, 3))),
    }[kind]


# what PyTorch's classes take, and the argument that its call names
TORCH: dict[str, tuple[str, dict[str, float]]] = {
    "L1Loss": ("real", {}),
    "MSELoss": ("real", {}),
    "SmoothL1Loss": ("real", {"beta": 0.25}),
    "HuberLoss": ("real", {"delta": 0.25}),
    "BCELoss": ("probabilities", {}),
    "BCEWithLogitsLoss": ("shares", {}),
    "MultiLabelSoftMarginLoss": ("shares", {}),
    "SoftMarginLoss": ("signs", {}),
    "HingeEmbeddingLoss": ("distances", {}),
    "PoissonNLLLoss": ("counts", {}),
    "KLDivLoss": ("log-probabilities", {}),
    "CrossEntropyLoss": ("ids", {}),
    "NLLLoss": ("log ids", {}),
    "MultiMarginLoss": ("ids", {"margin": 0.25}),
}


@pytest.mark.parametrize("name", TORCH)
@pytest.mark.filterwarnings("ignore:reduction")
def test_pytorch(name: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="torch, to compare with, is not installed")
    kind, arguments = TORCH[name]
    x, y = draw(kind)
    want = getattr(torch.nn, name)(**arguments)(torch.tensor(x), torch.tensor(y)).item()
    call, _ = _peers.CALLS["PyTorch"][f"torch.nn.{name}"]
    assert built(call)(x, y) == pytest.approx(want, rel=1e-9)


SKLEARN: dict[str, tuple[str, Callable[[Any, Array, Array], Any]]] = {
    "mean_squared_error": ("real", lambda metric, x, y: metric(y, x)),
    "mean_absolute_error": ("real", lambda metric, x, y: metric(y, x)),
    "mean_pinball_loss": ("real", lambda metric, x, y: metric(y, x, alpha=0.25)),
    "mean_squared_log_error": ("positive", lambda metric, x, y: metric(y, x)),
    "mean_poisson_deviance": ("positive", lambda metric, x, y: metric(y.ravel(), np.exp(x).ravel())),
    "mean_gamma_deviance": ("positive", lambda metric, x, y: metric(y.ravel(), np.exp(x).ravel())),
    "mean_tweedie_deviance": ("positive", lambda metric, x, y: metric(y.ravel(), np.exp(x).ravel(), power=1.5)),
    "log_loss": ("probabilities", lambda metric, x, y: metric(y.ravel(), x.ravel())),
    "hinge_loss": ("signs", lambda metric, x, y: metric(y.ravel(), x.ravel())),
}


@pytest.mark.parametrize("name", SKLEARN)
def test_scikit_learn(name: str) -> None:
    metrics: Any = pytest.importorskip("sklearn.metrics", reason="scikit-learn, to compare with, is not installed")
    kind, metric = SKLEARN[name]
    x, y = draw(kind)
    call, _ = _peers.CALLS["scikit-learn"][f"sklearn.metrics.{name}"]
    assert built(call)(x, y) == pytest.approx(metric(getattr(metrics, name), x, y), rel=1e-9)
