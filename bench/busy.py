"""Prints what a busy neighbour costs: value and gradient while another process keeps one of the cores busy.

Two threads on two cores of which one is taken have to wait for it now and then. The median call and the slowest of a
hundred are set against the same call on one thread, measured beside the same neighbour.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
from cases import DATA
from report import table

import fastloss as fl

LOSSES = ("L2Loss", "SigmoidBCELoss")
SIZES = (1 << 16, 1 << 22)


@contextmanager
def neighbour() -> Iterator[None]:
    """Keep a core busy."""
    process = subprocess.Popen([sys.executable, "-c", f"import os\nwhile os.getppid() == {os.getpid()}: pass"])
    try:
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.wait()


def durations(call: Callable[[], Any], seconds: float) -> Any:
    """Return the times of single calls, in microseconds."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return np.array(times) * 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads beside the neighbour")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each loss, size and number of threads")
    options = parser.parse_args()
    one_thread, few = "1 thread", f"{options.threads} threads"
    rows = [["float32, µs", *(f"median, {t}" for t in (one_thread, few)), "times"]]
    rows[0] += [*(f"mean, {t}" for t in (one_thread, few)), "slowest of 100"]
    with neighbour():
        for name in LOSSES:
            for size in SIZES:
                pred, label = (a.astype(np.float32) for a in DATA[name](np.random.default_rng(0), (size,)))
                loss = getattr(fl, name)(reduction="mean")
                out = tuple(np.ones_like(a) for a in loss.value_and_grad(pred, label))
                times = []
                for threads in (1, options.threads):
                    with fl.num_threads(threads):
                        times.append(durations(partial(loss.value_and_grad, pred, label, out=out), options.seconds))
                one, more = (np.median(t) for t in times)
                mean, slowest = (t.mean() for t in times), np.percentile(times[1], 99)
                rows.append(
                    [f"{name} {size}", f"{one:,.1f}", f"{more:,.1f}", f"{more / one:.2f}"]
                    + [f"{t:,.1f}" for t in (*mean, slowest)]
                )
    print(table(rows))


if __name__ == "__main__":
    main()
