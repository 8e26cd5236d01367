"""Prints which part of the memory's bandwidth each loss reaches: value and gradient of 16 million float32, with out=.

The limit is a triad, z = x + y, which reads two arrays and writes one, as a mean with its gradient does; for softmax,
which reads one, a copy. Both are C compiled for this machine, with plain stores or stores past the cache, whichever is
faster, over the same arrays, on the same number of threads, in the same run and by turns. Needs a C compiler with
OpenMP.
"""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from timeit import Timer
from typing import Any

import numpy as np
from cases import DATA
from compare import SECONDS, measure
from report import table

import fastloss as fl

SIZE = 1 << 24
SOFTMAX = (4096, 1000)
LIMITS = {"triad": ("plain", "streaming"), "copy": ("copy", "streaming_copy")}


def compiled(folder: str) -> ctypes.CDLL:
    """Return the compiled triad.c."""
    library = Path(folder) / "triad.so"
    source = Path(__file__).with_name("triad.c")
    flags = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"]
    subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def pointer(a: Any) -> ctypes.c_void_p:
    return ctypes.c_void_p(a.ctypes.data)


def limit_steps(
    library: ctypes.CDLL, arrays: tuple[Any, Any, Any], threads: int, names: tuple[str, ...]
) -> dict[str, Timer]:
    """Return the triad or copy over x, y and z with each kind of store."""
    size = arrays[2].size // 16 * 16

    def step(name: str) -> Callable[[], Any]:
        function = getattr(library, name)
        return lambda: function(ctypes.c_ssize_t(size), *map(pointer, arrays), threads)

    return {name: Timer(step(name)) for name in names}


def loss_step(name: str, shape: tuple[int, ...]) -> tuple[Timer, tuple[Any, Any, Any]]:
    """Return value and gradient of a loss into memory that is there, and the prediction, label and gradient."""
    pred, label = DATA[name](np.random.default_rng(0), shape)
    pred = pred.astype(np.float32)
    label = label.astype(np.float32) if label.dtype.kind == "f" else label
    loss = getattr(fl, name)(reduction="mean")
    out = tuple(np.ones_like(a) for a in loss.value_and_grad(pred, label))
    return Timer(lambda: loss.value_and_grad(pred, label, out=out)), (pred, label, out[1])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of every contender")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for each loss")
    options = parser.parse_args()
    fl.set_num_threads(options.threads)
    rows = [["mean and gradient", "ms", "limit, ms", "fraction of the limit"]]
    with tempfile.TemporaryDirectory() as folder:
        library = compiled(folder)
        for name in DATA:
            softmax = name == "SoftmaxCELoss"
            limit = "copy" if softmax else "triad"
            shape = SOFTMAX if softmax else (SIZE,)
            step, arrays = loss_step(name, shape)
            timers = limit_steps(library, arrays, options.threads, LIMITS[limit])
            times = measure({name: step, **timers}, options.seconds)
            best = min(LIMITS[limit], key=times.__getitem__)
            shape_text = "x".join(map(str, shape))
            rows.append(
                [
                    f"{name} {shape_text}",
                    f"{times[name] * 1e3:.2f}",
                    f"{times[best] * 1e3:.2f} ({best.replace('_', ' ')})",
                    f"{times[best] / times[name]:.2f}",
                ]
            )
            print(rows[-1], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
