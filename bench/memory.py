"""Prints how much memory ``value_and_grad`` needs at its peak, beyond its inputs and its result."""

from __future__ import annotations

import resource
import sys

import numpy as np

import fastloss as fl

SIZE = 100_000_000
UNIT = 1 if sys.platform == "darwin" else 1024  # bytes


def peak() -> int:
    """Return the most bytes that this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT


def main() -> None:
    """Measure and print."""
    loss = fl.L2Loss(reduction="mean")
    # full touches every page: they count before the call, not in it
    pred, label = np.full(SIZE, 1, np.float32), np.full(SIZE, 2, np.float32)
    before = peak()
    _, grad = loss.value_and_grad(pred, label)
    inputs, added = pred.nbytes + label.nbytes, peak() - before - grad.nbytes
    print(
        f"{SIZE:,} float32, L2Loss: inputs {inputs / 1e6:.1f} MB, gradient {grad.nbytes / 1e6:.1f} MB, "
        f"peak beyond them {added / 1e6:.1f} MB"
    )


if __name__ == "__main__":
    main()
