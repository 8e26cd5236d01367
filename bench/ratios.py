"""Times all contenders side by side and prints how many times as long as fastloss each of them takes.

The contenders take turns, so that a change of the machine's speed meets all of them. Run it on an idle machine: a busy
core slows those with threads far more than those without. Before a case is timed, every contender's value and gradient
are checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from statistics import geometric_mean, median
from timeit import Timer

import numpy as np
from cases import CASES, CONTENDERS, Case, Contender, problem

import fastloss as fl

PIECE = 1e-3  # seconds; shorter ones would measure the clock too
PAUSE = 5e-3  # seconds, in which the threads of the contender before stop spinning for work
MIN_ROUNDS = 5
SECONDS, QUICK_SECONDS = 4.0, 0.8  # for each case


def loops_for_a_piece(timer: Timer) -> int:
    """Return how often to run what is timed so that it takes a piece of time."""
    loops = 1
    # the least of some, because a single slow call would leave the pieces too short
    while min(timer.repeat(3, loops)) < PIECE:
        loops *= 2
    return loops


def measure(timers: dict[str, Timer], seconds: float) -> dict[str, float]:
    """Return the median time of what each timer times, in seconds, over rounds in which each has its turn."""
    loops = {name: loops_for_a_piece(timer) for name, timer in timers.items()}
    times: dict[str, list[float]] = {name: [] for name in timers}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() < end:
        for name, timer in timers.items():
            time.sleep(PAUSE)
            timer.timeit(loops[name])  # to wake the threads and to fill the caches
            times[name].append(timer.timeit(loops[name]) / loops[name])
        rounds += 1
    return {name: median(some) for name, some in times.items()}


def check_and_measure(case: Case, contenders: list[Contender], seconds: float) -> dict[str, float]:
    """Return the times of the contenders; exit if one of them is wrong."""
    task = problem(case)
    timers = {}
    for contender in contenders:
        step = contender.prepare(case.loss, task.pred, task.label)
        try:
            task.check(step())
        except AssertionError as error:
            raise SystemExit(f"{contender.module} is wrong at {case}: {error}") from None
        timers[contender.module] = Timer(step)
    return measure(timers, seconds)


def measure_calls(seconds: float) -> dict[str, float]:
    """Return the times of two calls on so few numbers that only the call counts."""
    x, y = np.random.default_rng(0).standard_normal((2, 8), dtype=np.float32)
    names = {"np": np, "loss": fl.L2Loss(), "x": x, "y": y}
    return measure({call: Timer(call, globals=names) for call in ("loss(x, y)", "np.add(x, y)")}, seconds)


def cpu_model() -> str:
    """Return the name of the processor, as well as the system knows it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def print_table(rows: list[list[str]]) -> None:
    """Print a Markdown table whose first row is its head; all columns but the first hold numbers."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for first, *others in [rows[0], rule, *rows[1:]]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        print(f"| {' | '.join(cells)} |")


def print_times(times: dict[str, dict[str, float]], names: list[str]) -> None:
    """Print the table of the times and ratios of the named contenders."""
    peers = [name for name in names if name != "fastloss"]
    ratios = [[row[peer] / row["fastloss"] for peer in peers] for row in times.values()]
    means = map(geometric_mean, zip(*ratios, strict=True))
    rows = [["value and gradient", *(f"{name} µs" for name in names), *(f"{peer}/fastloss" for peer in peers)]]
    for (case, row), quotients in zip(times.items(), ratios, strict=True):
        rows.append([case, *(f"{row[name] * 1e6:,.1f}" for name in names), *(f"{q:.2f}" for q in quotients)])
    rows.append(["geometric mean", *("" for _ in names), *(f"{mean:.2f}" for mean in means)])
    print_table(rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="take fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the times, in seconds, to a file")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each contender that has them")
    parser.add_argument("--only", default="", metavar="REGEX", help="measure the cases whose name matches")
    options = parser.parse_args()

    contenders = [contender for contender in CONTENDERS if find_spec(contender.module)]
    for contender in contenders:
        contender.set_threads(options.threads)
    names = [contender.module for contender in contenders]
    header = {"CPU": cpu_model(), "cores": os.cpu_count(), "threads": options.threads}
    header |= {name: version(name) for name in names}
    print(", ".join(f"{key} {value}" for key, value in header.items()), end="\n\n")

    cases = [case for case in CASES if re.search(options.only, str(case))]
    if not cases:
        parser.error(f"no case matches {options.only!r}")
    seconds = QUICK_SECONDS if options.quick else SECONDS
    times = {str(case): check_and_measure(case, contenders, seconds) for case in cases}
    print_times(times, names)

    calls = measure_calls(seconds)
    (loss, loss_time), (add, add_time) = calls.items()
    ratio = f"{loss} / {add} = {loss_time / add_time:.2f}"
    print(f"\n8 float32, L2Loss: {ratio} ({loss_time * 1e9:.0f} ns / {add_time * 1e9:.0f} ns)")
    if options.json:
        options.json.write_text(json.dumps({"header": header, "times": times, "calls": calls}, indent=1) + "\n")


if __name__ == "__main__":
    main()
