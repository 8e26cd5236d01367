"""The loss of a linear predictor from one reading of the data, beside two products by BLAS and the kernel between them.

python -m bench.linear [--rounds 9] [--threads 1]: a table with a row for each dtype and shape. A cell is the median, in
milliseconds, of rounds in which each takes its turn. The Hessian product by BLAS has the Hessians of the predictions at
hand; LinearLoss makes them, and an objective keeps them. A second table has a vocabulary: value, gradients in weights
and in rows, beside PyTorch's cross-entropy of all scores, and its linear_cross_entropy if it has one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

SHAPES = ((1_000_000, 10), (500_000, 50), (200_000, 200))


def contenders(dtype: str, n: int, d: int) -> dict[str, Callable[[], Any]]:
    """What is timed, for a problem of logistic regression."""
    import numpy as np

    import fastloss as fl

    rng = np.random.default_rng(0)
    X = rng.standard_normal((n, d)).astype(dtype)
    label = (rng.random(n) < 0.5).astype(dtype)
    weight = np.full(d, 0.1, dtype)
    loss = fl.SigmoidBCELoss(reduction="sum")
    linear, objective = fl.LinearLoss(loss), fl.linear_objective(loss, X, label, fit_intercept=False)
    pred, grad = np.empty(n, dtype), np.empty(n, dtype)
    hess = loss.grad_and_hess(X @ weight, label)[1]
    objective.hvp(weight, weight)

    def two_passes() -> Any:
        np.matmul(X, weight, out=pred)
        value, _ = loss.value_and_grad(pred, label, out=(None, grad))
        return value, grad @ X

    def two_products() -> Any:
        np.matmul(X, weight, out=pred)
        return np.multiply(hess, pred, out=pred) @ X

    return {
        "two passes": two_passes,
        "one pass": lambda: linear.value_and_grad(X, weight, label),
        "objective": lambda: objective(weight),
        "two products": two_products,
        "hvp": lambda: linear.hvp(X, weight, label, weight),
        "objective's hvp": lambda: objective.hvp(weight, weight),
    }


def vocabulary(
    dtype: str, threads: int, n: int = 2048, d: int = 512, words: int = 32_000
) -> dict[str, Callable[[], Any]]:
    """What is timed for the last layer of a language model; NumPy's arrays are float32 for any dtype of tensors."""
    import numpy as np
    import torch

    import fastloss as fl

    torch.set_num_threads(threads)
    functional = torch.nn.functional
    rng = np.random.default_rng(0)
    X, weight = rng.standard_normal((n, d), np.float32), rng.standard_normal((words, d), np.float32) / 20
    ids = rng.integers(0, words, n)
    tensors = [torch.from_numpy(x).to(getattr(torch, dtype)).requires_grad_() for x in (X, weight)]
    label = torch.from_numpy(ids)
    linear = fl.LinearLoss(fl.SoftmaxCELoss(reduction="mean"))
    outs = None, (np.empty_like(weight), np.empty_like(X))

    def back(value: Any) -> None:
        for x in tensors:
            x.grad = None
        value.backward()

    calls = {
        "PyTorch": lambda: back(functional.cross_entropy(functional.linear(tensors[0], tensors[1]), label)),
        "tensors": lambda: back(linear(tensors[0], tensors[1], label)),
        "NumPy": lambda: linear.value_and_grad(X, weight, ids, wrt=("weight", "X"), out=outs),
    }
    options = getattr(torch.nn, "LinearCrossEntropyOptions", None)
    if options is not None:
        calls["PyTorch's chunks"] = lambda: back(
            functional.linear_cross_entropy(tensors[0], tensors[1], label, options=options())
        )
    return calls


def medians(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Milliseconds of each, of rounds in which all take their turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: statistics.median(found) for name, found in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.linear", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    # before NumPy is imported
    os.environ["OPENBLAS_NUM_THREADS"] = os.environ["FASTLOSS_NUM_THREADS"] = str(arguments.threads)
    print("| data | two passes | one pass | | objective | | two products | hvp | | objective's hvp | |")
    print(f"|---|{'---:|' * 10}")
    for dtype in ("float64", "float32"):
        for n, d in SHAPES:
            t = medians(contenders(dtype, n, d), arguments.rounds)
            first, second = t["two passes"], t["two products"]
            cells = [f"{first:.1f}"]
            cells += [
                cell for name in ("one pass", "objective") for cell in (f"{t[name]:.1f}", f"{first / t[name]:.2f}")
            ]
            cells += [f"{second:.1f}"]
            cells += [
                cell for name in ("hvp", "objective's hvp") for cell in (f"{t[name]:.1f}", f"{second / t[name]:.2f}")
            ]
            print(f"| {dtype} {n:,} x {d} | {' | '.join(cells)} |", flush=True)
    for dtype in ("float32", "bfloat16"):
        t = medians(vocabulary(dtype, arguments.threads), arguments.rounds)
        print(f"\n| vocabulary, {dtype} | ms | PyTorch takes times as long |\n|---|---:|---:|")
        for name, median in t.items():
            print(f"| {name} | {median:.0f} | {t['PyTorch'] / median:.2f} |", flush=True)


if __name__ == "__main__":
    main()
