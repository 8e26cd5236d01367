"""Makes every allocation of every call fail: ``python -m tests.faults`` prints a table of what came of it.

A call may raise MemoryError or get by with the same result. Anything else is a defect, and so is a block of memory that
stays in use, or another result of the next call. Each allocation fails once alone and once with the 49 that follow it.

The allocator is tests/faults.c, compiled here and preloaded: it sees what Python, NumPy and fastloss ask for. The
threads are there before the first fault, for OpenMP's runtime ends the process where it gets no memory for them.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import fastloss as fl
from tests.calls import ENTRIES, Call, Entry, bad_calls, flat, good_calls, inputs_of, settle

SMALL = 5
SIZES = "small", "large", "error", "build"
COLUMNS = "calls", "sites", "injected", "errors", "tolerated", "written"
# that fail in a row. Not all: Python's loop may try for ever to enter an exception's handler
ROWS = 1, 50
# NumPy keeps so many freed blocks of each size, here of a few bytes and of whole numbers, and of each number of axes
KEPT, SIZES_KEPT, AXES_KEPT = 7, [*range(1, 16), *range(16, 1024, 4)], 8


def compiler() -> str | None:
    return shutil.which((sysconfig.get_config_var("CC") or "cc").split()[0]) or shutil.which("cc")


def reason_to_skip() -> str | None:
    """Why there can be no faults here."""
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return "the allocator is replaced in glibc's way"
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        return "Python without its lock has an allocator of its own"
    return None if compiler() else "there is no C compiler"


class Allocator:
    """The preloaded allocator. To disarm it allocates nothing."""

    def __init__(self) -> None:
        library = ctypes.CDLL(None)
        self.arm: Callable[[int, int], None] = library.faults_arm
        self.disarm: Callable[[], None] = library.faults_disarm
        self.injected: Callable[[], int] = library.faults_injected
        self.blocks: Callable[[], int] = library.faults_blocks
        library.faults_arm.argtypes = [ctypes.c_long, ctypes.c_long]
        library.faults_arm.restype = library.faults_disarm.restype = None
        library.faults_injected.restype = library.faults_blocks.restype = ctypes.c_long


@dataclass
class Tally:
    """What came of the faults in a loss's calls."""

    calls: int = 0
    sites: int = 0
    injected: int = 0
    errors: int = 0  # MemoryError
    tolerated: int = 0
    written: int = 0  # MemoryErrors after which out has been written to
    defects: list[str] = field(default_factory=list)


def empty_caches() -> list[Any]:
    """Has what Python keeps of freed memory freed, and what NumPy keeps taken for as long as the result is there."""
    gc.collect()
    blocks = [np.empty(n, np.uint8) for n in SIZES_KEPT for _ in range(KEPT)]
    return [*blocks, *(np.empty((0,) * n, np.uint8) for n in range(1, AXES_KEPT) for _ in range(KEPT))]


def blocks_in_use(allocator: Allocator) -> int:
    """With NumPy's caches full, as they are after so many arrays, and Python's empty."""
    del empty_caches()[:]
    settle()
    return allocator.blocks()


def outcome(make: Callable[[], Any]) -> Any:
    """What a call comes to, so that it can be compared: the bytes of its results, or its exception."""
    try:
        return comparable(make())
    except Exception as error:
        return repr(error)


def comparable(result: Any) -> Any:
    if isinstance(result, fl.Loss):
        return repr(result)
    return [(a.dtype, a.shape, a.tobytes()) for a in flat(result)]


class Sweep:
    """A call with a fault at each of its allocations, of so many in a row."""

    def __init__(self, allocator: Allocator, call: Call, in_a_row: int, tally: Tally) -> None:
        self.allocator, self.call, self.in_a_row, self.tally = allocator, call, in_a_row, tally
        self.want = outcome(call.make)

    def run(self) -> int:
        """Returns how many allocations there are."""
        site = 0
        while self.fault_at(site):
            site += 1
        return site

    def fault_at(self, site: int) -> bool:
        """Whether the call has so many allocations."""
        self.call.spoil()
        got = self.with_fault(site)
        if not self.allocator.injected():
            return False
        self.tally.injected += 1
        if isinstance(got, MemoryError):
            self.tally.errors += 1
            self.tally.written += not self.call.is_untouched
        elif (repr(got) if isinstance(got, Exception) else comparable(got)) == self.want:
            self.tally.tolerated += 1
        else:
            self.defect(site, f"came to {got!r}")
        if outcome(self.call.make) != self.want:
            self.defect(site, "the next call came to something else")
        return True

    def with_fault(self, site: int) -> Any:
        """What the call returns or raises."""
        held = empty_caches()
        # what a traceback needs of this frame: Python forgets the exception where it gets no memory for that
        sys._getframe()
        self.allocator.arm(site, self.in_a_row)
        try:
            return self.call.make()
        except BaseException as error:
            self.allocator.disarm()
            return error.with_traceback(None)
        finally:
            self.allocator.disarm()
            del held

    def defect(self, site: int, what: str) -> None:
        self.tally.defects.append(f"{self.call.name}, {self.in_a_row} from allocation {site} on failing: {what}")


def sweep(allocator: Allocator, call: Call, tally: Tally) -> None:
    """Faults at all sites of a call, again and again: what is leaked stays in use each time."""
    tally.calls += 1
    for in_a_row in ROWS:
        faults = Sweep(allocator, call, in_a_row, tally)
        if call.error is None and isinstance(faults.want, str) and not isinstance(call.make.func, type):
            faults.defect(0, f"without a fault raised {faults.want}")
        growths: list[int] = []
        while len(growths) < 4 and (len(growths) < 2 or growths[-1] > 0):
            before = blocks_in_use(allocator)
            sites = faults.run()
            growths.append(blocks_in_use(allocator) - before)
        if growths[-1] > 0:
            faults.defect(0, f"{growths[-1]} blocks stay in use")
    tally.sites += sites


def large(entry: Entry) -> int:
    """Examples enough for two threads, sums in pieces, and buffers that do not fit on the stack."""
    if entry.build().couples:
        return 150
    inputs = inputs_of(entry, np.random.default_rng(0), 1)
    return 40 + 70_000 // next(iter(inputs.values())).size


def calls(entry: Entry) -> Iterator[tuple[str, Call]]:
    rng = np.random.default_rng(1)
    for size, n in (("small", SMALL), ("large", large(entry))):
        for call in good_calls(entry, rng, n):
            yield size, call
    for call in bad_calls(entry, rng, SMALL):
        yield "error", call
    yield "build", Call("build", partial(entry.loss, **entry.parameters, reduction="sum"))


def inside(name: str, sizes: Sequence[str]) -> None:
    """What the process with the other allocator does: the tally of a loss, on a line."""
    tally, allocator = Tally(), Allocator()
    sys.unraisablehook = lambda x: tally.defects.append(f"{x.err_msg}: {x.exc_value!r}")
    fl.set_num_threads(2)
    gc.freeze()
    for size, call in calls(ENTRIES[name]):
        if size in sizes:
            sweep(allocator, call, tally)
    print(json.dumps(asdict(tally)))


def tally_of(name: str, library: Path, sizes: Sequence[str] = SIZES) -> Tally:
    """The tally of a loss, from a process of its own, which a defect may end."""
    environment = os.environ | {"LD_PRELOAD": str(library), "PYTHONMALLOC": "malloc", "PYTHONFAULTHANDLER": "1"}
    command = [sys.executable, "-m", "tests.faults", "--inside", name, "--sizes", *sizes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode or done.stderr:
        return Tally(defects=[f"{name}: the process ended with {done.returncode}: {done.stderr}"])
    tally = Tally(**json.loads(done.stdout))
    tally.defects = [f"{name}: {x}" for x in tally.defects]
    return tally


def build_allocator(folder: Path) -> Path:
    library = folder / "faults.so"
    source = Path(__file__).with_suffix(".c")
    subprocess.run([str(compiler()), "-O1", "-shared", "-fPIC", "-o", library, source], check=True)
    return library


def row(name: str, tally: Tally) -> str:
    return f"{name:36}" + "".join(f"{getattr(tally, column):12,}" for column in COLUMNS)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", help=f"of {', '.join(ENTRIES)}; all by default")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, help="which calls")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        inside(options.inside, options.sizes)
        return 0
    reason = reason_to_skip()
    if reason:
        print(reason)
        return 1
    total = Tally()
    with tempfile.TemporaryDirectory() as folder:
        library = build_allocator(Path(folder))
        print(f"{'loss':36}" + "".join(f"{name:>12}" for name in COLUMNS))
        for name in options.losses or ENTRIES:
            tally = tally_of(name, library, options.sizes)
            print(row(name, tally), *tally.defects, sep="\n", flush=True)
            for column in fields(Tally):
                setattr(total, column.name, getattr(total, column.name) + getattr(tally, column.name))
    print(row("all", total), f"{len(total.defects)} defects", sep="\n")
    return 1 if total.defects else 0


if __name__ == "__main__":
    sys.exit(main())
