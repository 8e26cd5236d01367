"""Held-out losses of boosted trees on heavy-tailed data: fastloss's objectives beside those of XGBoost and LightGBM.

python -m bench.boosting [--seeds 5] [--examples 60000]: a table with a row for each library, loss, learning rate and
number of rounds. Half of the examples are held out. A cell is the median over the seeds; "ratio" is that of ours to the
best of the library's own for the same seed, "time" that to its first one.
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
from tqdm import tqdm

import fastloss as fl
from fastloss.boosting import Objective
from fastloss.demo_boosting import heavy_tailed

ETAS = (0.1, 0.3)
ROUNDS = (30, 100)
THREADS = 2


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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.boosting", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--examples", type=int, default=60_000)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
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
