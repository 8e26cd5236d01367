"""Prints how the time of a mean and its gradient falls with the number of threads, PyTorch's beside it if it is there.

    python bench/scale.py [--threads 1,2,4,8,16] [--seconds 1]

Every contender and every number of threads take turns in one run; results go into memory that is there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from timeit import Timer
from typing import Any

import numpy as np
from cases import DATA
from compare import SECONDS, measure
from report import table

import fastloss as fl

CASES: list[tuple[str, tuple[int, ...]]] = [
    ("L2Loss", (1 << 16,)),
    ("L2Loss", (1 << 20,)),
    ("L2Loss", (1 << 24,)),
    ("SigmoidBCELoss", (1 << 22,)),
    ("SoftmaxCELoss", (4096, 1000)),
    ("SoftmaxCELoss", (512, 32000)),
]
TORCH = {"L2Loss": "MSELoss", "SigmoidBCELoss": "BCEWithLogitsLoss", "SoftmaxCELoss": "CrossEntropyLoss"}


def inputs_of(name: str, shape: tuple[int, ...]) -> list[Any]:
    return [a.astype(np.float32) if a.dtype.kind == "f" else a for a in DATA[name](np.random.default_rng(0), shape)]


def on_threads(set_threads: Callable[[int], Any], threads: int, step: Callable[[], Any]) -> Callable[[], Any]:
    def turn() -> Any:
        set_threads(threads)
        return step()

    return turn


def fastloss_step(name: str, inputs: list[Any]) -> Callable[[], Any]:
    loss = getattr(fl, name)(reduction="mean")
    gradient = np.zeros_like(inputs[0])
    return lambda: loss.value_and_grad(*inputs, out=(None, gradient))


def torch_step(name: str, inputs: list[Any]) -> Callable[[], Any]:
    import torch

    pred, label = map(torch.tensor, inputs)
    pred.requires_grad_()
    loss = getattr(torch.nn, TORCH[name])()

    def step() -> Any:
        pred.grad = None
        loss(pred, label).backward()

    return step


def timers(name: str, shape: tuple[int, ...], threads: list[int]) -> dict[str, Timer]:
    """A timer of each contender for each number of threads, by their names."""
    inputs = inputs_of(name, shape)
    contenders: dict[str, tuple[Callable[[int], Any], Callable[[], Any]]] = {
        "fastloss": (fl.set_num_threads, fastloss_step(name, inputs))
    }
    if find_spec("torch"):
        import torch

        contenders["torch"] = torch.set_num_threads, torch_step(name, inputs)
    return {
        f"{contender} {n}": Timer(on_threads(set_threads, n, step))
        for contender, (set_threads, step) in contenders.items()
        for n in threads
    }


def numbers_of_threads(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> None:
    """Measure and print."""
    most = fl.get_num_threads()
    usual = ",".join(str(1 << k) for k in range(most.bit_length()))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=numbers_of_threads, default=usual, help=f"here {usual}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each case")
    options = parser.parse_args()
    columns = [f"{n} thread{'s' * (n > 1)}" for n in options.threads]
    rows = [["mean and gradient, ms", "contender", *columns, "speed-up"]]
    for name, shape in CASES:
        times = measure(timers(name, shape, options.threads), options.seconds)
        for contender in dict.fromkeys(key.split()[0] for key in times):
            row = [times[f"{contender} {n}"] for n in options.threads]
            size = "x".join(map(str, shape))
            rows.append([f"{name} {size}", contender, *(f"{t * 1e3:.4f}" for t in row), f"{row[0] / min(row):.2f}"])
            print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
