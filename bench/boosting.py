"""Held-out losses of boosted trees on heavy-tailed data: fastloss's objectives beside those of XGBoost and LightGBM.

python -m bench.boosting [--seeds 5] [--examples 60000]: a table with a row for each library, loss, learning rate and
number of rounds. Half of the examples are held out. A cell is the median over the seeds; "ratio" is that of ours to the
best of the library's own for the same seed, "time" that to its first one.

python -m bench.boosting --times [--rounds 9]: the seconds of training the trees of the library's own objective. "given"
is an objective that has its results already: what the library adds to any objective of Python.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

import fastloss as fl
from fastloss.boosting import Objective
from fastloss.demo_boosting import heavy_tailed

ETAS = (0.1, 0.3)
ROUNDS = (30, 100)
THREADS = 2
TIMED_ROUNDS = 40

Array = NDArray[Any]


@dataclass(frozen=True)
class Task:
    """A loss, and the parameters of each library's own objectives for it."""

    loss: fl.Loss
    xgboost: tuple[dict[str, Any], ...]
    lightgbm: tuple[dict[str, Any], ...]


TASKS = {
    "Huber": Task(
        fl.HuberLoss(),
        ({"objective": "reg:pseudohubererror"}, {"objective": "reg:absoluteerror"}),
        ({"objective": "huber", "alpha": 1.0}, {"objective": "fair"}, {"objective": "l1"}),
    ),
    "Fair": Task(
        fl.FairLoss(),
        ({"objective": "reg:pseudohubererror"}, {"objective": "reg:absoluteerror"}),
        ({"objective": "fair"},),
    ),
    "median": Task(
        fl.QuantileLoss(0.5),
        ({"objective": "reg:absoluteerror"}, {"objective": "reg:quantileerror", "quantile_alpha": 0.5}),
        ({"objective": "l1"}, {"objective": "quantile", "alpha": 0.5}),
    ),
    "0.9 quantile": Task(
        fl.QuantileLoss(0.9),
        ({"objective": "reg:quantileerror", "quantile_alpha": 0.9},),
        ({"objective": "quantile", "alpha": 0.9},),
    ),
}


Fit = Callable[[dict[str, Any] | Objective], Any]


def of_xgboost(data: tuple[Any, Any, Any, Any], eta: float, rounds: int) -> Fit:
    import xgboost

    x, label, held_out, _ = data
    matrix, other = xgboost.DMatrix(x, label), xgboost.DMatrix(held_out)
    common = {"eta": eta, "max_depth": 6, "nthread": THREADS}

    def fit(how: dict[str, Any] | Objective) -> Any:
        params, obj = (how, None) if isinstance(how, dict) else (how.params(label), how)
        return xgboost.train(common | params, matrix, rounds, obj=obj).predict(other)

    return fit


def of_lightgbm(data: tuple[Any, Any, Any, Any], eta: float, rounds: int) -> Fit:
    import lightgbm

    x, label, held_out, _ = data
    common = {"learning_rate": eta, "num_threads": THREADS, "verbose": -1}

    def fit(how: dict[str, Any] | Objective) -> Any:
        if isinstance(how, dict):
            return lightgbm.train(common | how, lightgbm.Dataset(x, label), rounds).predict(held_out)
        start = how.init_score(label)
        matrix = lightgbm.Dataset(x, label, init_score=start)
        params = common | how.params(label, library="lightgbm")
        return lightgbm.train(params, matrix, rounds).predict(held_out) + start[0]

    return fit


LIBRARIES = {"xgboost": of_xgboost, "lightgbm": of_lightgbm}


def one(library: str, task: Task, eta: float, rounds: int, seed: int, n: int) -> tuple[list[float], list[float]]:
    """The held-out loss and the seconds of training: of ours, and of each of the library's own objectives."""
    data = heavy_tailed(seed, n)
    fit = LIBRARIES[library](data, eta, rounds)
    mean = type(task.loss)(**dict(task.loss.arguments) | {"reduction": "mean"})
    losses, seconds = [], []
    for how in (Objective(task.loss), *getattr(task, library)):
        start = time.perf_counter()
        raw = fit(how)
        seconds.append(time.perf_counter() - start)
        losses.append(float(mean(np.asarray(raw, np.float64), data[3].astype(np.float64))))
    return losses, seconds


# losses with an objective of each library that grows the same trees; the last one, with the trees of another
SAME: dict[str, tuple[fl.Loss, dict[str, Any], dict[str, Any]]] = {
    "squared error": (fl.L2Loss(), {"objective": "reg:squarederror"}, {"objective": "regression"}),
    "logistic": (fl.SigmoidBCELoss(), {"objective": "binary:logistic"}, {"objective": "binary"}),
    "softmax of 3": (
        fl.SoftmaxCELoss(),
        {"objective": "multi:softprob", "num_class": 3},
        {"objective": "multiclass", "num_class": 3},
    ),
    "Poisson": (fl.PoissonNLLLoss(), {"objective": "count:poisson"}, {"objective": "poisson"}),
    "Gamma": (fl.GammaLoss(), {"objective": "reg:gamma"}, {"objective": "gamma"}),
    "Tweedie": (
        fl.TweedieLoss(power=1.5),
        {"objective": "reg:tweedie", "tweedie_variance_power": 1.5},
        {"objective": "tweedie", "tweedie_variance_power": 1.5},
    ),
    "focal beside logistic": (fl.SigmoidFocalLoss(), {"objective": "binary:logistic"}, {"objective": "binary"}),
}


def labels_for(loss: fl.Loss, score: Array, rng: np.random.Generator) -> Array:
    """Labels that the loss means, drawn around a score."""
    if loss.link_name == "softmax":
        return np.digitize(score + rng.normal(size=len(score)), [-1, 1]).astype(np.float64)
    if isinstance(loss, fl.SigmoidBCELoss | fl.SigmoidFocalLoss):
        return (rng.random(len(score)) < 1 / (1 + np.exp(-score))).astype(np.float64)
    if isinstance(loss, fl.L2Loss):
        return score + rng.normal(size=len(score))
    drawn: Array = rng.poisson(np.exp(score / 2)).astype(np.float64)
    return np.maximum(drawn, 0.5) if isinstance(loss, fl.GammaLoss) else drawn


class Recorded:
    """An objective whose results, round by round, are those of a training before."""

    def __init__(self, objective: Objective) -> None:
        self.objective, self.turn = objective, 0
        self.results: list[list[Array]] = []

    def __call__(self, *args: Any) -> Any:
        if len(self.results) < TIMED_ROUNDS:
            self.results.append([np.array(result) for result in self.objective(*args)])
        self.turn += 1
        return self.results[(self.turn - 1) % TIMED_ROUNDS]


def trainings(library: str, name: str, x: Array, label: Array) -> list[Callable[[], Any]]:
    """Training by the library's own objective, by one whose results are known, and by ours."""
    loss, *own = SAME[name]
    objective = Objective(loss)
    given = Recorded(objective)
    if library == "xgboost":
        import xgboost

        matrix = xgboost.DMatrix(x, label)
        common = {"eta": 0.1, "max_depth": 6, "nthread": THREADS}
        mine = common | objective.params(label)
        return [
            lambda: xgboost.train(common | own[0], matrix, TIMED_ROUNDS),
            lambda: xgboost.train(mine, matrix, TIMED_ROUNDS, obj=given),
            lambda: xgboost.train(mine, matrix, TIMED_ROUNDS, obj=objective),
        ]
    import lightgbm

    common = {"learning_rate": 0.1, "num_threads": THREADS, "verbose": -1}
    data = [lightgbm.Dataset(x, label, init_score=start) for start in (None, objective.init_score(label))]
    mine = common | objective.params(label, library="lightgbm")
    return [
        lambda: lightgbm.train(common | own[1], data[0], TIMED_ROUNDS),
        lambda: lightgbm.train(mine | {"objective": given}, data[1], TIMED_ROUNDS),
        lambda: lightgbm.train(mine, data[1], TIMED_ROUNDS),
    ]


def print_times(rounds: int, n: int) -> None:
    print("| library | loss | its own, s | given | ours | ours to given |")
    print("|---|---|---:|---:|---:|---:|")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, 20)).astype(np.float32)
    score = x[:, 0] + x[:, 1] * x[:, 2] / 2 - np.abs(x[:, 3]) / 3
    for library, name in product(LIBRARIES, SAME):
        fits = trainings(library, name, x, labels_for(SAME[name][0], score, rng))
        seconds = np.empty((rounds, len(fits)))
        for fit in fits:
            fit()
        for k in range(rounds):
            for turn in np.roll(range(len(fits)), k):
                start = time.perf_counter()
                fits[turn]()
                seconds[k, turn] = time.perf_counter() - start
        own, given, ours = np.median(seconds, axis=0)
        print(
            f"| {library} | {name} | {own:.3f} | {given / own:.3f} | {ours / own:.3f} | {ours / given:.3f} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.boosting", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--times", action="store_true", help="times of training alone, for 200,000 examples")
    parser.add_argument("--rounds", type=int, default=9, help="how often each is timed")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.times:
        print_times(arguments.rounds, 200_000)
        return
    print("| library | loss | eta | rounds | ours | its own | ratio (least to most) | time |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    cells = list(product(LIBRARIES, TASKS, ETAS, ROUNDS))
    for library, name, eta, rounds in tqdm(cells, leave=False):
        runs = [one(library, TASKS[name], eta, rounds, seed, arguments.examples) for seed in range(arguments.seeds)]
        losses, seconds = (np.array([run[k] for run in runs]) for k in range(2))
        best = losses[:, 1:].min(axis=1)
        ratio, times = losses[:, 0] / best, seconds[:, 0] / seconds[:, 1]
        spread = f"{np.median(ratio):.3f} ({ratio.min():.3f} to {ratio.max():.3f})"
        found = f"{np.median(losses[:, 0]):.4f} | {np.median(best):.4f} | {spread} | {np.median(times):.2f}"
        print(f"| {library} | {name} | {eta} | {rounds} | {found} |", flush=True)


if __name__ == "__main__":
    main()
