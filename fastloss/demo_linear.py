"""A logistic regression of data that no cache holds, beside scikit-learn's, with a progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

import fastloss as fl

Array = npt.NDArray[Any]

ROWS, COLUMNS = 1_000_000, 50
L2 = 1.0
MOST_STEPS = 30


class Fit(NamedTuple):
    """A fit: what made it, seconds, and the objective's value at its end."""

    name: str
    seconds: float
    value: float


def data(rows: int) -> tuple[Array, Array]:
    """Features in float32, and labels of two classes."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, COLUMNS), np.float32)
    weight = rng.standard_normal(COLUMNS, np.float32) / 4
    return x, (rng.random(rows, np.float32) < 1 / (1 + np.exp(-x @ weight))).astype(np.int64)


def measure(rows: int, tick: Callable[[], object]) -> list[Fit]:
    """Fits twice, and calls ``tick`` after each step of fastloss's fits and after scikit-learn's."""
    x, label = data(rows)
    f = fl.linear_objective(fl.SigmoidBCELoss(), x, label, l2=L2)
    fits = []
    methods: dict[str, dict[str, Any]] = {"L-BFGS-B": {}, "trust-ncg": {"hessp": f.hvp}}
    for method, more in methods.items():
        start = time.perf_counter()
        found = minimize(
            f,
            f.start(),
            jac=True,
            method=method,
            callback=lambda _: tick(),
            options={"maxiter": MOST_STEPS},
            **more,
        )
        fits.append(Fit(f"fastloss, {method}", time.perf_counter() - start, found.fun))
    start = time.perf_counter()
    model = LogisticRegression(C=1 / L2, max_iter=MOST_STEPS * 10).fit(x, label)
    seconds = time.perf_counter() - start
    tick()
    fits.append(Fit("scikit-learn, lbfgs", seconds, f(np.append(model.coef_[0], model.intercept_))[0]))
    return fits


def table(fits: list[Fit]) -> str:
    width = max(len(fit.name) for fit in fits)
    lines = [f"{'':{width}}    seconds    objective"]
    lines += [f"{fit.name:{width}}  {fit.seconds:9.2f}  {fit.value:.6f}" for fit in fits]
    return "\n".join(lines)


def run() -> None:
    """Fits the model, with a progress bar on stderr, and prints the results."""
    from tqdm import tqdm

    with tqdm(unit="step") as bar:
        fits = measure(ROWS, bar.update)
    print(table(fits))
    print(f"{ROWS:,} rows of {COLUMNS} numbers in float32, {ROWS * COLUMNS * 4 / 1e6:.0f} MB; fastloss reads them once")
    print("for a value and a gradient, and computes in float64. Less is better, in both columns.")
