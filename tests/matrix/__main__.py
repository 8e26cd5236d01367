"""Every public callable with every kind of input there is: python -m tests.matrix

The cases are products: of losses, methods, reductions, shapes, dtypes, layouts, buffers and things that are no arrays
at all. Each must return what the reference does - to the last bit what a plain call returns, where only the layout
differs - or raise an exception of the right type that names the argument, with out and the inputs as they were. A
warning is an error.

The cases run in a process of their own, which may die or hang: the case is reported, and the next one runs. Prints how
many cases ended how, and the violations; --group, --first and --count repeat some of them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tests.matrix import buffers, callables, layouts, shapes, tensors
from tests.matrix.base import Case

SECONDS = 120  # that nothing may come of a case

GROUPS: dict[str, Callable[[], Iterator[Case]]] = {
    group.__name__: group
    for group in (
        layouts.layouts,
        layouts.dtypes,
        layouts.values,
        layouts.ids,
        buffers.buffers,
        buffers.over_inputs,
        buffers.bad_buffers,
        buffers.overlaps,
        buffers.crowded,
        shapes.shapes,
        shapes.axes,
        shapes.many_axes,
        shapes.huge,
        shapes.things,
        callables.constructors,
        callables.arguments,
        callables.settings,
        callables.pictures,
        tensors.tensors,
    )
}


@dataclass(frozen=True)
class Selection:
    """Which cases to run: of some groups, from one on, every so-manieth, so many."""

    groups: tuple[str, ...] = tuple(GROUPS)
    first: int = 0
    every: int = 1
    count: int | None = None

    def cases(self) -> Iterator[tuple[str, int, Case]]:
        """The cases, with their groups and their numbers there."""
        last = None if self.count is None else self.first + self.count * self.every
        for group in self.groups:
            for number, case in itertools.islice(enumerate(GROUPS[group]()), self.first, last, self.every):
                yield group, number, case

    def options(self) -> list[str]:
        """The arguments that select them."""
        given = [f"--group={group}" for group in self.groups]
        given += [f"--first={self.first}", f"--every={self.every}"]
        return given if self.count is None else [*given, f"--count={self.count}"]


def work(selection: Selection, skipped: int) -> None:
    """Runs cases, and writes a line for each: how it ended."""
    warnings.simplefilter("error")
    # one write for each line: what was written when the process dies is what it had done
    with os.fdopen(os.dup(1), "wb", buffering=0) as report:
        os.dup2(2, 1)
        for _, _, case in itertools.islice(selection.cases(), skipped, None):
            try:
                outcome = case.run()
            except Exception as error:
                outcome = f"!{type(error).__name__}: {error}".replace("\n", " ")
            report.write(outcome.encode(errors="replace") + b"\n")


class Worker:
    """A process that runs cases."""

    def __init__(self, selection: Selection, skipped: int) -> None:
        command = [sys.executable, "-X", "faulthandler", "-m", "tests.matrix", *selection.options()]
        self.process = subprocess.Popen([*command, f"--skipped={skipped}"], stdout=subprocess.PIPE, text=True)
        self.written: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self.pass_on)
        self.reader.start()
        self.lines = self.read()

    def pass_on(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.written.put(line.rstrip("\n"))
        self.written.put(None)

    def read(self) -> Iterator[str]:
        """What the process writes; it is killed if it says nothing for too long."""
        while True:
            try:
                line = self.written.get(timeout=SECONDS)
            except queue.Empty:
                self.process.kill()
                line = self.written.get()
            if line is None:
                return
            yield line

    def outcome(self) -> str:
        """How the next case ended."""
        line = next(self.lines, None)
        return f"!exit code {self.end()}" if line is None else line

    def end(self) -> int:
        self.process.kill()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()


@dataclass
class Report:
    """What came of the cases."""

    outcomes: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    groups: Counter[str] = field(default_factory=Counter)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def run(selection: Selection) -> Report:
    """Runs cases in another process, and those behind one that kills it in the next."""
    report = Report()
    worker = Worker(selection, 0)
    start = time.monotonic()
    for done, (group, number, case) in enumerate(selection.cases(), 1):
        outcome = worker.outcome()
        if outcome.startswith("!"):
            report.violations.append(f"{group} {number}: {case}: {outcome[1:]}")
            print(report.violations[-1][:1000], flush=True)
            outcome = "violation"
        if worker.process.returncode is not None:
            worker = Worker(selection, done)
        report.outcomes[outcome] += 1
        report.groups[group] += 1
        report.seconds[group] += time.monotonic() - start
        start = time.monotonic()
    worker.end()
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=GROUPS, action="append", help="run these groups alone")
    parser.add_argument("--every", type=int, default=1, help="run every so-manieth case")
    parser.add_argument("--first", type=int, default=0, help="the first case of a group to run, by its number")
    parser.add_argument("--count", type=int, help="how many of a group to run")
    parser.add_argument("--skipped", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    groups = tuple(arguments.group or GROUPS)
    selection = Selection(groups, arguments.first, arguments.every, arguments.count)
    if arguments.skipped is not None:
        work(selection, arguments.skipped)
        return 0
    report = run(selection)
    for group, count in report.groups.items():
        print(f"{group:22} {count:>10,} in {report.seconds[group]:6.1f} s")
    print()
    for outcome, count in report.outcomes.most_common():
        print(f"{outcome:22} {count:>10,}")
    print(f"{'cases':22} {report.outcomes.total():>10,}")
    return 1 if report.violations or not report.outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
