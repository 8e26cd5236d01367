"""Trees boosted with fastloss's objectives, beside the installed library's own."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

import fastloss as fl
from fastloss.boosting import Objective

Array = npt.NDArray[Any]
Data = tuple[Array, Array, Array, Array]

TITLES = {"xgboost": "XGBoost", "lightgbm": "LightGBM"}
ETA = 0.3
ROUNDS = 60


def heavy_tailed(seed: int, n: int) -> Data:
    """Features and labels with noise of Student's t with 2 degrees of freedom: for training, and held out."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 10)).astype(np.float32)
    scale = 0.5 + 0.5 * np.abs(x[:, 2])
    label = (2 * x[:, 0] + np.sin(2 * x[:, 1]) + scale * rng.standard_t(2, size=n)).astype(np.float32)
    return x[: n // 2], label[: n // 2], x[n // 2 :], label[n // 2 :]


def breast_cancer() -> Data:
    x, label = load_breast_cancer(return_X_y=True)
    train, held_out, train_labels, held_out_labels = train_test_split(x, label, random_state=0, stratify=label)
    return train, train_labels.astype(float), held_out, held_out_labels.astype(float)


class Task(NamedTuple):
    """A loss, and each library's own objective for it."""

    name: str
    load: Callable[[], Data]
    loss: fl.Loss
    xgboost: dict[str, Any]
    lightgbm: dict[str, Any]


TAILS = "heavy tails"


def tails() -> Data:
    return heavy_tailed(0, 20_000)


TASKS = (
    Task(
        "logistic, breast cancer",
        breast_cancer,
        fl.SigmoidBCELoss(),
        {"objective": "binary:logistic"},
        {"objective": "binary"},
    ),
    Task(
        f"Huber, {TAILS}",
        tails,
        fl.HuberLoss(),
        {"objective": "reg:pseudohubererror"},
        {"objective": "huber", "alpha": 1.0},
    ),
    Task(f"median, {TAILS}", tails, fl.QuantileLoss(0.5), {"objective": "reg:absoluteerror"}, {"objective": "l1"}),
    Task(
        f"0.9 quantile, {TAILS}",
        tails,
        fl.QuantileLoss(0.9),
        {"objective": "reg:quantileerror", "quantile_alpha": 0.9},
        {"objective": "quantile", "alpha": 0.9},
    ),
)


# raw predictions for the held-out examples after a number of rounds
Predictor = Callable[[int], Array]


def train_xgboost(data: Data, how: dict[str, Any] | Objective, rounds: int, eta: float) -> Predictor:
    xgboost = import_module("xgboost")
    train, label, held_out, _ = data
    params, obj = (how, None) if isinstance(how, dict) else (how.params(label), how)
    common = {"eta": eta, "max_depth": 4, "nthread": 1}
    booster = xgboost.train(common | params, xgboost.DMatrix(train, label), rounds, obj=obj)
    matrix = xgboost.DMatrix(held_out)

    def after(k: int) -> Array:
        return np.asarray(booster.predict(matrix, output_margin=True, iteration_range=(0, k)), float)

    return after


def train_lightgbm(data: Data, how: dict[str, Any] | Objective, rounds: int, eta: float) -> Predictor:
    lightgbm = import_module("lightgbm")
    train, label, held_out, _ = data
    start = None if isinstance(how, dict) else how.init_score(label)
    params = how if isinstance(how, dict) else how.params(label, library="lightgbm")
    common = {"learning_rate": eta, "num_leaves": 16, "num_threads": 1, "verbose": -1}
    booster = lightgbm.train(common | params, lightgbm.Dataset(train, label, init_score=start), rounds)

    def after(k: int) -> Array:
        raw = booster.predict(held_out, raw_score=True, num_iteration=k)
        return np.asarray(raw, float) + (0 if start is None else start[0])

    return after


TRAIN = {"xgboost": train_xgboost, "lightgbm": train_lightgbm}


def installed() -> str:
    """The name of the library to train in. Raises ModuleNotFoundError if none is installed."""
    for name in TRAIN:
        if find_spec(name):
            return name
    raise ModuleNotFoundError(name=" or ".join(TITLES.values()))


class Result(NamedTuple):
    """A task's held-out losses: with fastloss, and with the library's own objective."""

    name: str
    loss: float
    own_name: str
    own_loss: float


def measure(task: Task, library: str, tick: Callable[[], object]) -> Result:
    """Trains a task twice, and calls ``tick`` after each."""
    data, own = task.load(), getattr(task, library)
    mean = type(task.loss)(**dict(task.loss.arguments) | {"reduction": "mean"})
    losses = []
    for how in (Objective(task.loss), own):
        raw = TRAIN[library](data, how, ROUNDS, ETA)(ROUNDS)
        losses.append(float(mean(raw, data[3].astype(float))))
        tick()
    return Result(task.name, losses[0], own["objective"], losses[1])


def table(results: list[Result], title: str) -> str:
    """The results as text: a heading, and a line for each."""
    width, own = max(len(result.name) for result in results), max(len(result.own_name) for result in results)
    lines = [f"{'held-out loss':{width}}  fastloss  {title:>{own + 8}}"]
    lines += [f"{name:{width}}  {loss:8.4f}  {of:>{own}}{other:8.4f}" for name, loss, of, other in results]
    return "\n".join(lines)


def run() -> None:
    """Trains every task, with a progress bar on stderr, and prints the results."""
    from tqdm import tqdm

    library = installed()
    version = import_module(library).__version__
    with tqdm(total=2 * len(TASKS), unit="fit") as bar:
        results = [measure(task, library, bar.update) for task in TASKS]
    print(table(results, f"{TITLES[library]} {version}"))
    print("held-out loss: the mean of the task's loss over examples that training has not seen; less is better")
    print(f"Both columns: {ROUNDS} rounds with a learning rate of {ETA}, in one thread.")
