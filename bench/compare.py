"""Times all contenders side by side: python compare.py --json FILE. report.py makes a table and a plot of the file.

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
import sys
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path
from statistics import median
from timeit import Timer
from typing import Any

import numpy as np
from cases import CASES, Case, problem
from contenders import CONTENDERS, Contender
from report import report

import fastloss as fl

PIECE = 1e-3  # seconds; shorter ones would measure the clock too
PAUSE = 5e-3  # seconds, in which the threads of the contender before stop spinning for work
WARM_UP = 5e-3  # seconds, in which the threads wake and the caches forget what the contender before left
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
            awake = time.perf_counter() + WARM_UP
            while time.perf_counter() < awake:
                timer.timeit(loops[name])
            times[name].append(timer.timeit(loops[name]) / loops[name])
        rounds += 1
    return {name: median(some) for name, some in times.items()}


def check_and_measure(case: Case, contenders: list[Contender], seconds: float) -> dict[str, float]:
    """Return the times of the contenders; exit if one of them is wrong."""
    task = problem(case)
    timers = {}
    for contender in contenders:
        step = contender.prepare(case.loss, *task.inputs)
        if step is None:
            continue
        try:
            task.check(step())
        except AssertionError as error:
            raise SystemExit(f"{contender.name} is wrong at {case}: {error}") from None
        timers[contender.name] = Timer(step)
    return measure(timers, seconds)


def measure_calls(seconds: float) -> dict[str, float]:
    """Return the times of calls on so few numbers that only the call counts."""
    x, y = np.random.default_rng(0).standard_normal((2, 8), dtype=np.float32)
    names = {"np": np, "loss": fl.L2Loss(), "x": x, "y": y}
    calls = "np.add(x, y)", "loss(x, y)", "loss.value_and_grad(x, y)"
    return measure({call: Timer(call, globals=names) for call in calls}, seconds)


def cpu_model() -> str:
    """Return the name of the processor, as well as the system knows it."""
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def header(contenders: list[Contender], threads: int) -> dict[str, str]:
    """Return what there is to know of the machine and the versions."""
    build = (fl.show_config(mode="dicts") or {})["instruction set"]
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    facts = {"CPU": cpu_model(), "cores": os.cpu_count(), "instruction set": build, "threads": threads}
    facts |= {"date": date.today().isoformat(), "load before": load, "Python": platform.python_version()}
    facts |= {contender.distribution: version(contender.distribution) for contender in contenders}
    return {name: str(fact) for name, fact in facts.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="take fewer rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the times, in seconds, to a file")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each contender that has them")
    parser.add_argument("--only", default="", metavar="REGEX", help="measure the cases whose name matches")
    parser.add_argument("--peers", default="", metavar="REGEX", help="measure the contenders whose name matches")
    options = parser.parse_args()

    contenders = [
        contender
        for contender in CONTENDERS
        if contender.installed and (contender.name == "fastloss" or re.search(options.peers, contender.name))
    ]
    for contender in contenders:
        contender.set_threads(options.threads)
    cases = [case for case in CASES if re.search(options.only, str(case))]
    if not cases:
        parser.error(f"no case matches {options.only!r}")
    results: dict[str, Any] = {"header": header(contenders, options.threads), "cases": []}
    results["missing"] = [contender.name for contender in CONTENDERS if not contender.installed]
    seconds = QUICK_SECONDS if options.quick else SECONDS
    results["calls"] = measure_calls(seconds)
    for case in cases:
        times = check_and_measure(case, contenders, seconds)
        results["cases"].append({"loss": case.loss, "dtype": case.dtype, "shape": case.shape, "times": times})
        print(case, *(f"{name} {t * 1e6:,.1f} µs" for name, t in times.items()), sep=", ", file=sys.stderr, flush=True)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report(results))


if __name__ == "__main__":
    main()
