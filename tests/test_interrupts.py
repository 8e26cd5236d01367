"""Signals during a long call: it ends within 0.2 s if the handler raises an exception, and goes on if it does not.

The seconds are those that the processors have worked for the process, per thread of a call: on a busy machine a process
waits for its turn for any time.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.processes import environment

# four at a time would wait for each other
pytestmark = pytest.mark.thread_unsafe

# each of these takes seconds; of most inputs there is one row in memory
CALLS = {
    "elementwise": """
x = np.broadcast_to(np.float32(0.5), (1 << 30,))
call = functools.partial(fl.PoissonNLLLoss(compute_full=True, reduction="mean"), x, x)
""",
    "gradient of weights per column": """
x, weight = np.broadcast_to(np.float32(0.5), (5000, 200_000)), np.ones((1, 200_000))
call = functools.partial(fl.L2Loss(reduction="sum").grad, x, x, weight, wrt="sample_weight")
""",
    "softmax": """
x = np.broadcast_to(np.linspace(0, 1, 1000), (2_000_000, 1000))
call = functools.partial(fl.SoftmaxCELoss(reduction="mean"), x, np.zeros(len(x), np.int8))
""",
    "class ids": """
x = np.broadcast_to(np.float32(0), (1 << 32, 1))
call = functools.partial(fl.SoftmaxCELoss(reduction="mean"), x, np.broadcast_to(np.int8(0), len(x)))
""",
    "one sequence": """
x = np.broadcast_to(np.linspace(0, 1, 30), (1, 1_000_000, 30))
call = functools.partial(fl.CTCLoss(), x, np.arange(500)[None] % 29)
""",
    "gradients of sequences": """
x = np.broadcast_to(np.linspace(0, 1, 30), (40, 5000, 30))
call = functools.partial(fl.CTCLoss().grad, x, np.broadcast_to(np.arange(1500) % 29, (40, 1500)))
""",
    "pairs": """
x = np.random.default_rng(0).normal(size=(40_000, 64))
call = functools.partial(fl.SDMLLoss().grad, x, x)
""",
    "pairs of long rows": """
x = np.broadcast_to(np.linspace(0, 1, 8000), (1000, 8000))
call = functools.partial(fl.SDMLLoss(), x, x)
""",
}

PREAMBLE = """
import functools, os, signal, sys, threading, time
import numpy as np
import fastloss as fl

# whoever runs this in the background may have it ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
sent = []

def send():
    sent.append(time.process_time())
    if os.name == "nt":
        signal.raise_signal(signal.SIGINT)
    else:
        # a thread that waits for a lock wakes up of this alone
        os.kill(os.getpid(), signal.SIGINT)

def interrupted_after(call, seconds):
    timer = threading.Timer(seconds, send)
    timer.start()
    try:
        call()
    except KeyboardInterrupt:
        return (time.process_time() - sent[-1]) / fl.get_num_threads()
    finally:
        timer.join()
    return float("inf")
"""

# the better of two: what else the process does at that moment counts, too
DELAYS = """
print(min(interrupted_after(call, seconds) for seconds in (0.12, 0.3)))
a, b = np.arange(200_000.0), np.ones(200_000)
assert fl.L2Loss(reduction="sum").grad(a, b).tolist() == (a - b).tolist()
"""


def run(code: str, threads: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code],
        env=environment(FASTLOSS_NUM_THREADS=str(threads)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", CALLS)
def test_a_long_call_ends(name: str, threads: int) -> None:
    assert float(run(CALLS[name] + DELAYS, threads)) < 0.2


HANDLERS = """
class Enough(Exception):
    pass

def enough(number, frame):
    raise Enough(number)

noted = []
x = np.broadcast_to(np.float32(0), (1 << 30,))
loss = fl.PoissonNLLLoss(compute_full=True, reduction="mean")
before = sys.getrefcount(x), sys.getrefcount(loss)
for handler in (lambda number, frame: noted.append(number), enough):
    signal.signal(signal.SIGINT, handler)
    timer = threading.Timer(0.15, send)
    timer.start()
    start = time.process_time()
    try:
        print(loss(x, x), noted == [signal.SIGINT])
    except Enough as error:
        print(repr(error), time.process_time() - start < whole / 2)
    timer.join()
    whole = time.process_time() - start
assert (sys.getrefcount(x), sys.getrefcount(loss)) == before
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_the_handler_decides(threads: int) -> None:
    """One that returns does not end the call, any exception of one that raises does; nothing is kept."""
    assert run(HANDLERS, threads).splitlines() == ["1.0 True", "Enough(2) True"]


OTHER_THREAD = """
x = np.broadcast_to(np.float32(0), (1 << 29,))
loss = fl.PoissonNLLLoss(compute_full=True, reduction="mean")
done = threading.Event()

def work():
    print(loss(x, x))
    done.set()

threading.Thread(target=work).start()
print(interrupted_after(done.wait, 0.15) < 0.2, done.is_set())
"""


@pytest.mark.skipif(os.name == "nt", reason="what waits for a lock does not wake up there")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_call_of_another_thread_goes_on(threads: int) -> None:
    assert run(OTHER_THREAD, threads).splitlines() == ["True False", "1.0"]
