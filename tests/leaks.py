"""Looks for leaks: ``python -m tests.leaks`` makes 100,000 calls of every method of every loss, errors among them.

For each loss it prints by how much the references to inputs, results and constants have grown, the blocks of Python's
allocator, the bytes of the system's, and the memory of the process. It fails where a call leaves a reference, a block
or a byte each time that it is looked at, which a cache that fills does not, or the process grows by more than 1 MB.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import io
import pickle
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import astuple, dataclass
from functools import partial
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

import fastloss as fl
from tests.calls import ENTRIES, Call, Entry, bad_calls, good_calls, settle

SMALL = 5
BOUND = 1 << 20
TRIES = 10
# of references to None, which come and go with Python's frames
SLACK = 20
# what lives for as long as Python, and could lose references
CONSTANTS = (True, False, (), *map(np.dtype, ["f4", "f8", "i8", "?"]), MemoryError, TypeError, ValueError)

# CPython 3.13 without its lock keeps every class once a thread has been started (CPython's issue 124239)
IMMORTAL_CLASSES = bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and sys.version_info < (3, 14)


class Mallinfo(ctypes.Structure):
    """Of glibc."""

    NAMES = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in NAMES.split()]


# from glibc 2.33 on
MALLINFO = getattr(ctypes.CDLL(None), "mallinfo2", None) if sys.platform.startswith("linux") else None
if MALLINFO is not None:
    MALLINFO.restype = Mallinfo


def system_bytes() -> int:
    """What the system's allocator has given out; 0 where it does not say."""
    if MALLINFO is None:
        return 0
    found = MALLINFO()
    return int(found.uordblks + found.hblkhd)


def resident_bytes() -> int:
    """The memory of the process; 0 where the system does not say."""
    path = Path("/proc/self/statm")
    return int(path.read_text(encoding="utf-8").split()[1]) * 4096 if path.exists() else 0


@dataclass(frozen=True)
class Growth:
    """What is left of calls: references, blocks of Python's allocator, bytes of the system's."""

    references: int = 0
    blocks: int = 0
    bytes: int = 0

    @property
    def leaks(self) -> bool:
        return self.references != 0 or self.blocks > 0 or self.bytes > 0


def parts(x: Any) -> Iterator[Any]:
    """An argument, and what it is made of, but for integers: the small ones are everybody's."""
    if not isinstance(x, int):
        yield x
    if isinstance(x, tuple | list):
        for part in x:
            yield from parts(part)


def watched(call: Call) -> list[Any]:
    """What a call has in its hands; last None."""
    make = call.make
    loss = getattr(make.func, "__self__", make.func)
    arguments = [part for x in (*make.args, *make.keywords.values()) for part in parts(x)]
    return [loss, type(loss), make.func, *make.keywords, *arguments, *CONSTANTS, None]


def repeated(call: Call, n: int) -> None:
    make, error = call.make, call.error
    if error is None:
        for _ in repeat(None, n):
            make()
    else:
        for _ in repeat(None, n):
            try:
                make()
            except error:
                pass
            else:
                raise AssertionError(f"{call.name} raised nothing")


def growth(call: Call, n: int) -> Growth:
    """What is left of n calls: the least of a few tries, of which a leak would spoil each."""
    objects = watched(call)
    repeated(call, 20)
    for _ in range(TRIES):
        # the measuring itself leaves a few numbers
        base, after = changes(call, objects, 0), changes(call, objects, n)
        references = [abs(x - y) for x, y in zip(after[0], base[0], strict=True)]
        references[-1] = max(0, references[-1] - SLACK)
        found = Growth(sum(references), after[1] - base[1], after[2] - base[2])
        if not found.leaks:
            break
    return found


def changes(call: Call, objects: list[Any], n: int) -> tuple[list[int], int, int]:
    """By how much n calls change the references to each object, the blocks and the bytes."""
    settle()
    references = list(map(sys.getrefcount, objects))
    blocks, size = sys.getallocatedblocks(), system_bytes()
    repeated(call, n)
    settle()
    blocks, size = sys.getallocatedblocks() - blocks, system_bytes() - size
    return [sys.getrefcount(x) - before for x, before in zip(objects, references, strict=True)], blocks, size


class Own(fl.L2Loss):
    """What a user may derive: with attributes, and a signature of its own."""

    def __init__(self, note: str = "", **named: Any) -> None:
        super().__init__(**named)
        self.held: Any = note


def in_a_circle() -> weakref.ref[Any]:
    """A loss that holds itself."""
    loss = Own("mine", reduction="mean")
    loss.held = loss
    return weakref.ref(loss)


def class_of_a_call() -> weakref.ref[Any]:
    """A class that is made, used and forgotten."""
    kind = type("Fleeting", (fl.L2Loss,), {"__slots__": ()})
    kind(reduction="mean")([1.0], [2.0])
    return weakref.ref(kind)


def show() -> None:
    with redirect_stdout(io.StringIO()):
        fl.show_config()
    fl.show_config(mode="dicts")


def with_threads() -> None:
    with fl.num_threads(2), fl.num_threads(1):
        fl.get_num_threads()


def with_threads_elsewhere() -> None:
    thread = threading.Thread(target=with_threads)
    thread.start()
    thread.join()


def refuse_threads() -> None:
    fl.set_num_threads(0)


def other_calls(entry: Entry) -> Iterator[Call]:
    """What one does with a loss besides calling it."""
    loss = entry.build(reduction="mean")
    yield Call("build", partial(entry.loss, **entry.parameters, reduction="mean"))
    yield Call("pickle", partial(lambda: pickle.loads(pickle.dumps(loss))))
    yield Call("copy", partial(lambda: (copy.copy(loss), copy.deepcopy(loss))))
    yield Call("compare", partial(lambda: (loss == entry.build(), hash(loss), repr(loss), dict(loss.arguments))))


def general_calls() -> Iterator[Call]:
    yield Call("a subclass", partial(Own, "mine", reduction="sum"))
    yield Call("a loss that holds itself", partial(in_a_circle))
    if not IMMORTAL_CLASSES:
        yield Call("a class of a call", partial(class_of_a_call))
    yield Call("show_config", partial(show))
    yield Call("num_threads", partial(with_threads))
    yield Call("num_threads in a thread", partial(with_threads_elsewhere))
    yield Call("set_num_threads", partial(refuse_threads), (), ValueError)


def torch_calls() -> Iterator[tuple[Call, Call]]:
    """Calls of tensors, each with one of PyTorch's own that is like it."""
    import torch

    pred, label = torch.zeros(8, requires_grad=True), torch.ones(8)
    ids = torch.zeros(8, dtype=torch.int64)
    logits = torch.zeros(8, 3, requires_grad=True)
    ours, theirs = fl.L2Loss(reduction="mean"), torch.nn.MSELoss()
    entropy, cross_entropy = fl.SoftmaxCELoss(reduction="mean"), torch.nn.CrossEntropyLoss()

    def backward(loss: Callable[..., Any], x: Any, y: Any) -> None:
        x.grad = None
        loss(x, y).backward()

    yield Call("torch value", partial(ours, label, label)), Call("", partial(theirs, label, label))
    yield Call("torch backward", partial(backward, ours, pred, label)), Call("", partial(backward, theirs, pred, label))
    yield (
        Call("torch softmax", partial(backward, entropy, logits, ids)),
        Call("", partial(backward, cross_entropy, logits, ids)),
    )
    yield Call("torch grad", partial(ours.grad, label, label)), Call("", partial(theirs, label, label))
    bad = torch.zeros(3), torch.zeros(4)
    yield (
        Call("torch error", partial(ours, *bad), (), ValueError),
        Call("", partial(torch.add, *bad), (), RuntimeError),
    )


def loss_calls(entry: Entry, n: int) -> Iterator[tuple[Call, int]]:
    """Each call of a loss, and how often: n times each method, plainly and with all that is optional."""
    rng = np.random.default_rng(2)
    for call in good_calls(entry, rng, SMALL):
        yield call, n // (2 if call.name.endswith(("of the mean", "with out")) else 10)
    for call in [*bad_calls(entry, rng, SMALL), *other_calls(entry)]:
        yield call, n // 20


class Report:
    """Prints a line for each part, and remembers whether one of them leaks."""

    def __init__(self) -> None:
        self.leaks: list[str] = []

    def add(self, name: str, calls: list[tuple[Call, int]]) -> None:
        """A part with calls of its own, each made so often."""
        for call, _ in calls:
            repeated(call, 100)
        settle()
        before = resident_bytes()
        total = Growth()
        for call, n in calls:
            found = growth(call, n)
            total = Growth(*(x + max(0, y) for x, y in zip(astuple(total), astuple(found), strict=True)))
            if found.leaks:
                self.leaks.append(f"{name}, {call.name}: {found}")
        settle()
        self.line(name, sum(n for _, n in calls), total, resident_bytes() - before, BOUND)

    def line(self, name: str, calls: int, found: Growth, resident: int, bound: int) -> None:
        counts = (calls, found.references, found.blocks, found.bytes, max(0, resident))
        print(f"{name:36}" + "".join(f"{x:12,}" for x in counts), flush=True)
        if resident > bound:
            self.leaks.append(f"{name}: the process has grown by {resident:,} bytes")

    def add_torch(self, n: int) -> None:
        """Calls of tensors: they may grow as PyTorch's own do."""
        for ours, theirs in torch_calls():
            grown = []
            for call in (theirs, ours):
                repeated(call, 1000)
                settle()
                before = resident_bytes()
                repeated(call, n)
                settle()
                grown.append(resident_bytes() - before)
            self.line(ours.name, n, Growth(), grown[1], BOUND + max(0, grown[0]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("losses", nargs="*", help=f"of {', '.join(ENTRIES)}; all by default")
    parser.add_argument("--calls", type=int, default=100_000, help="of each method")
    options = parser.parse_args()
    report = Report()
    gc.freeze()
    columns = ("calls", "references", "blocks", "bytes", "process")
    print(f"{'loss':36}" + "".join(f"{name:>12}" for name in columns))
    for name in options.losses or ENTRIES:
        report.add(name, list(loss_calls(ENTRIES[name], options.calls)))
    if not options.losses:
        report.add("all else", [(call, options.calls // 20) for call in general_calls()])
        if find_spec("torch"):
            report.add_torch(options.calls)
    print(*report.leaks, f"{len(report.leaks)} leaks", sep="\n")
    return 1 if report.leaks else 0


if __name__ == "__main__":
    sys.exit(main())
