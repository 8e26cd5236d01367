"""Threads: the same bits for any number of them, settings, forks, and the defaults read from the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import fastloss as fl
from fastloss import _processors, _threads
from tests.processes import environment
from tests.reference import LOSSES, REDUCTIONS, Reference, call_args, draw, row_shape
from tests.selection import LOOPS, every_loop, every_loss
from tests.structured import STRUCTURED


def in_use(threads: int) -> int:
    """Of so many that are set."""
    return threads if _threads.has_openmp else 1


AFFINITY = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinities")


@pytest.fixture(autouse=True)
def default_threads() -> Iterator[None]:
    yield
    fl.set_num_threads(None)


SHAPES_AND_AXES = [((300_000,), 0), ((20_000, 7), 0), ((7, 20_000), 0), ((30, 50, 40), 1), ((20_000, 7), 1)]


@every_loop(case=SHAPES_AND_AXES, reduction=REDUCTIONS)
def test_same_bits(reference: Reference, rng: np.random.Generator, case: Any, reduction: str) -> None:
    shape, batch_axis = row_shape(reference, case[0]), case[1]
    inputs = draw(reference, rng, shape, np.float32)
    weight = rng.random(shape[batch_axis]).astype(np.float32)
    loss = reference.build(reduction=reduction, batch_axis=batch_axis)
    args = call_args(reference, inputs, weight)
    results = []
    for n in (1, 2, 3, 8):
        fl.set_num_threads(n)
        value, gradients = loss.value_and_grad(*args, wrt=("pred", "sample_weight"))
        results.append((value, *gradients))
    # the passes that compute less, with the most threads
    results.append((loss(*args), loss.grad(*args), loss.grad(*args, wrt="sample_weight")))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(a, b)


@every_loss(
    shape=[(n,) for n in (7, 15, 16, 31, 32, 33, 63, 64, 4097, 70_001)] + [(40, 45), (3, 5000)],
    dtype=[np.float32, np.float64],
    reduction=["example", "mean"],
)
def test_a_value_has_the_same_bits_whatever_comes_with_it(
    reference: Reference, rng: np.random.Generator, shape: Any, dtype: Any, reduction: str
) -> None:
    inputs = draw(reference, rng, (*row_shape(reference, shape), 3) if reference.row else shape, dtype)
    loss = reference.build(reduction=reduction)
    args = call_args(reference, inputs)
    want, gradient, _ = loss.value_grad_and_hess(*args)
    np.testing.assert_array_equal(loss(*args), want)
    value, got = loss.value_and_grad(*args)
    np.testing.assert_array_equal(value, want)
    np.testing.assert_array_equal(got, gradient)
    np.testing.assert_array_equal(loss(*call_args(reference, inputs, np.ones(len(inputs[0])))), want)
    over = inputs[0].copy()
    value, got = loss.value_and_grad(*call_args(reference, (over, *inputs[1:])), out=(None, over))
    np.testing.assert_array_equal(value, want)
    np.testing.assert_array_equal(got, gradient)


def test_same_bits_at_any_position(reference: Reference, rng: np.random.Generator) -> None:
    inputs = draw(reference, rng, (100, 1), np.float32)
    loss = reference.build(reduction="none")
    want = loss.value_grad_and_hess(*call_args(reference, inputs))
    for offset in range(1, 40):
        # a third input of 1 element broadcasts, it has no position
        part = tuple(a[offset:] if a.size > 1 else a for a in inputs)
        for a, b in zip(loss.value_grad_and_hess(*call_args(reference, part)), want, strict=True):
            np.testing.assert_array_equal(a, b[offset:])


@pytest.mark.parametrize("size", [100_000, 4_000_000])
def test_threads_near_and_far(size: int, rng: np.random.Generator) -> None:
    """Of what lies in the caches a thread takes its own part alone, else also what others have left."""
    pred, label = rng.random((2, size), np.float32)
    loss = fl.SigmoidBCELoss(reduction="mean")
    with fl.num_threads(1):
        want = loss.value_and_grad(pred, label)
    with fl.num_threads(2):
        got = loss.value_and_grad(pred, label)
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize("name", ["L2Loss", "SigmoidBCELoss", "SoftmaxCELoss"])
def test_far_arrays_have_the_bits_of_their_parts(name: str, rng: np.random.Generator) -> None:
    """What comes next is asked for where it is in memory; no order of a sum knows of that."""
    pred = rng.random((5, 1049, 1000), np.float32)
    label = rng.integers(0, 1000, pred.shape[:2]) if name == "SoftmaxCELoss" else rng.random(pred.shape, np.float32)
    loss = getattr(fl, name)()
    value, grad = loss.value_and_grad(pred, label)
    for k in range(5):
        one, its_grad = loss.value_and_grad(pred[k : k + 1], label[k : k + 1])
        assert one[0] == value[k]
        # for a mean over as many numbers
        np.testing.assert_array_equal(its_grad[0], grad[k])


def test_many_python_threads(rng: np.random.Generator) -> None:
    loss = fl.SigmoidBCELoss(reduction="mean")
    pred, label = rng.normal(size=(2, 100_000)).astype(np.float32)
    want = loss(pred, label)
    got: list[float] = []
    workers = [threading.Thread(target=lambda: got.extend(loss(pred, label) for _ in range(20))) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert got == [want] * 80


def results_of(loss: fl.Loss, inputs: dict[str, Any]) -> list[Any]:
    """Of every method."""
    results = [loss(**inputs), loss.grad(**inputs), *loss.value_and_grad(**inputs)]
    if loss.no_hessian is None:
        results += [*loss.grad_and_hess(**inputs), *loss.value_grad_and_hess(**inputs)]
    return results


@pytest.mark.parametrize("name", LOOPS)
def test_a_loss_and_its_inputs_shared_by_threads(name: str, rng: np.random.Generator) -> None:
    """Few numbers, and enough for threads of the call's own; each call has the bits that it has alone."""
    if name in LOSSES:
        loss = LOSSES[name].build()
        many = 70_000 // (LOSSES[name].classes if LOSSES[name].row else 1)
        cases = [draw(LOSSES[name], rng, (n,), np.float32) for n in (40, many)]
    else:
        loss = STRUCTURED[name].build()
        cases = [STRUCTURED[name].data(rng, n) for n in (4, 30)]
    names = [name for name in loss.inputs if name != "sample_weight"]
    inputs = [dict(zip(names, case, strict=False)) for case in cases]
    want = [results_of(loss, x) for x in inputs]
    start = threading.Barrier(8)

    def work() -> list[list[Any]]:
        start.wait()
        return [results_of(loss, x) for x in 3 * inputs]

    with ThreadPoolExecutor(8) as pool:
        for worker in [pool.submit(work) for _ in range(8)]:
            for got, alone in zip(worker.result(), 3 * want, strict=True):
                for a, b in zip(got, alone, strict=True):
                    np.testing.assert_array_equal(a, b)


class Interrupted(type):
    """Classes of losses: while one gets an attribute, another thread builds a loss of it."""

    seen: ClassVar[list[float]] = []

    def __setattr__(cls, name: str, value: Any) -> None:
        if not Interrupted.seen:
            Interrupted.seen.append(0)
            other = threading.Thread(target=lambda: Interrupted.seen.append(cls(scale=3).scale))
            other.start()
            other.join()
        super().__setattr__(name, value)


def test_the_first_losses_of_a_class_in_two_threads() -> None:
    class Mine(fl.L2Loss, metaclass=Interrupted):
        def __init__(self, scale: float) -> None:
            super().__init__(weight=scale)

    assert Mine(scale=2).scale == 2  # type: ignore[attr-defined]
    assert Interrupted.seen == [0, 3]


@pytest.mark.thread_unsafe
def test_settings() -> None:
    default = fl.get_num_threads()
    assert 1 <= default <= (os.cpu_count() or 1)
    fl.set_num_threads(3)
    assert fl.get_num_threads() == in_use(3)
    with fl.num_threads(5):
        assert fl.get_num_threads() == in_use(5)
        with fl.num_threads(1):
            assert fl.get_num_threads() == 1
            elsewhere = []
            worker = threading.Thread(target=lambda: elsewhere.append(fl.get_num_threads()))
            worker.start()
            worker.join()
            assert elsewhere == [in_use(3)]
        assert fl.get_num_threads() == in_use(5)
    assert fl.get_num_threads() == in_use(3)
    with pytest.raises(RuntimeError, match="inside"), fl.num_threads(2):
        raise RuntimeError("inside")
    assert fl.get_num_threads() == in_use(3)
    fl.set_num_threads(None)
    assert fl.get_num_threads() == default


@pytest.mark.thread_unsafe
def test_one_block_in_two_threads() -> None:
    """What was set before a with block belongs to the thread that entered it."""
    shared = fl.num_threads(5)
    inside, left = threading.Event(), threading.Event()
    elsewhere = []

    def other() -> None:
        with fl.num_threads(7):
            with shared:
                inside.set()
                left.wait()
            elsewhere.append(fl.get_num_threads())

    default = fl.get_num_threads()
    worker = threading.Thread(target=other)
    with shared:
        worker.start()
        inside.wait()
    assert fl.get_num_threads() == default
    left.set()
    worker.join()
    assert elsewhere == [in_use(7)]


@pytest.mark.thread_unsafe
def test_blocks_left_elsewhere_or_in_any_order() -> None:
    default = fl.get_num_threads()
    first, second = fl.num_threads(3), fl.num_threads(1)
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert fl.get_num_threads() == 1
    second.__exit__()
    assert fl.get_num_threads() == default
    worker = threading.Thread(target=first.__enter__)
    worker.start()
    worker.join()
    with pytest.raises(RuntimeError, match="must be left in the thread that entered it"):
        first.__exit__()
    second.n = -1
    with pytest.raises(ValueError, match="n must be between 1 and 4096, got -1"):
        second.__enter__()
    assert fl.get_num_threads() == default


ARITHMETIC = """
import numpy as np
import fastloss as fl
import torch
x, y = np.random.default_rng(0).normal(size=(2, 4_000_000)).astype(np.float32)
loss = fl.L2Loss(reduction="none", weight=1e-36)
fl.set_num_threads(2)
kept = loss.grad(x, y)
assert torch.set_flush_denormal(True)
with fl.num_threads(1):
    flushed = loss.grad(x, y)
again = [loss.grad(x, y) for _ in range(10)]
# or it would compare as it computes
torch.set_flush_denormal(False)
print((kept == 0).sum() < (flushed == 0).sum())
print(all((a == flushed).all() for a in again))
print((loss.grad(x, y) == kept).all())
"""


@pytest.mark.thread_unsafe
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="PyTorch has this setting for x86-64")
def test_threads_compute_as_their_caller() -> None:
    """Subnormal numbers are 0 for all threads of a call or for none, whatever they were when the threads began."""
    pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    assert run(ARITHMETIC).stdout == "True\nTrue\nTrue\n"


SMALL_STACK = """
import threading
import numpy as np
import fastloss as fl
def work():
    for n in (8, 1000, 5000):
        x = np.ones((n, 3), np.float32)
        for loss in (fl.L2Loss(reduction="mean"), fl.SigmoidBCELoss(), fl.SoftmaxCELoss(sparse_label=False)):
            loss.value_grad_and_hess(x, x, np.ones(n))
    print("done")
threading.stack_size(65536)
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


@pytest.mark.thread_unsafe
def test_a_small_stack_is_enough() -> None:
    result = run(SMALL_STACK, FASTLOSS_NUM_THREADS="1")
    assert result.stdout == "done\n", result.stderr


def run(code: str, **given: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], env=environment(**given), capture_output=True, text=True, timeout=120
    )


@pytest.mark.thread_unsafe
def test_environment() -> None:
    code = "import fastloss as fl; print(fl.get_num_threads())"
    assert run(code, FASTLOSS_NUM_THREADS="7").stdout == f"{in_use(7)}\n"
    assert run(code, OMP_NUM_THREADS="1").stdout == "1\n"
    assert run(code, FASTLOSS_NUM_THREADS="").stdout == run(code).stdout
    for bad in ("0", "-1", "many"):
        assert (
            "FASTLOSS_NUM_THREADS must be an integer between 1 and 4096" in run(code, FASTLOSS_NUM_THREADS=bad).stderr
        )


@AFFINITY
def test_the_affinity_of_the_process() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    assert run(code + "import fastloss as fl; print(fl.get_num_threads())").stdout == "1\n"


@AFFINITY
def test_the_affinity_of_another_thread_does_not_count() -> None:
    code = "import os, threading, fastloss as fl; one = {min(os.sched_getaffinity(0))}; n = []; "
    code += "t = threading.Thread(target=lambda: (os.sched_setaffinity(0, one), n.append(fl.get_num_threads()))); "
    ask = "import fastloss as fl; print(fl.get_num_threads())"
    assert run(code + "t.start(); t.join(); print(*n)").stdout == run(ask).stdout


@pytest.mark.parametrize(
    ("files", "want"),
    [
        ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/b/cpu.max": "150000 100000\n"}, [(150000, 100000)]),
        (
            {
                "/proc/self/cgroup": "0::/a\n",
                "/sys/fs/cgroup/a/cpu.max": "max 100000\n",
                "/sys/fs/cgroup/cpu.max": "50000 100000\n",
            },
            [(50000, 100000)],
        ),
        (
            {
                "/proc/self/cgroup": "4:cpu,cpuacct:/x\n2:memory:/x\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us": "-1\n",
                "/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us": "100000\n",
            },
            [(-1, 100000)],
        ),
        ({"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/cpu.max": "nonsense\n"}, []),
        ({}, []),
    ],
)
@AFFINITY
def test_control_groups(files: dict[str, str], want: Any, tmp_path: Path) -> None:
    for name, text in files.items():
        path = tmp_path / name[1:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert list(_processors.cgroup_quotas(str(tmp_path))) == want
    processors = len(os.sched_getaffinity(0))
    quotas = [-(-quota // period) for quota, period in want if quota > 0]
    assert _processors.available_processors(str(tmp_path)) == min([processors, *quotas])
    assert _processors.available_processors(str(tmp_path), bound=99) == min([99, *quotas])


@pytest.mark.parametrize(
    ("sizes", "want"),
    [(["32K", "512K", "32768K"], 32 << 20), (["48K"], 48 << 10), (["nonsense"], 0), ([], 0)],
)
def test_the_last_cache(sizes: list[str], want: int, tmp_path: Path) -> None:
    for k, size in enumerate(sizes):
        path = tmp_path / f"sys/devices/system/cpu/cpu0/cache/index{k}/size"
        path.parent.mkdir(parents=True)
        path.write_text(f"{size}\n", encoding="utf-8")
        (path.parents[1] / "uevent").touch()
    assert _processors.last_cache(str(tmp_path)) == want


def test_a_system_without_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    assert _processors.available_processors(str(tmp_path)) == 7


MEAN = """
import os, statistics, subprocess, sys, time
import numpy as np
import fastloss as fl
pred, label, out = np.zeros((3, 1 << 22), np.float32)
loss = fl.L2Loss(reduction="mean")

def mean(threads):
    times = []
    end = time.perf_counter() + 0.4
    with fl.num_threads(threads):
        while time.perf_counter() < end:
            start = time.perf_counter()
            loss.value_and_grad(pred, label, out=(None, out))
            times.append(time.perf_counter() - start)
    return statistics.mean(times)

def ratio(threads):
    # the least of ratios taken by turns: other work comes and goes, waiting for a core stays
    return min([mean(threads) / mean(1) for _ in range(5)])
"""

NEIGHBOUR = """
spin = f"import os\\nwhile os.getppid() == {os.getpid()}: pass"
with subprocess.Popen([sys.executable, "-c", spin]) as neighbour:
    try:
        print(ratio(fl.get_num_threads()))
    finally:
        neighbour.kill()
"""


@pytest.mark.thread_unsafe
@pytest.mark.skipif(fl.get_num_threads() == 1, reason="a call has one thread")
def test_a_busy_neighbour() -> None:
    """Threads on all cores, of which another process holds one, wait for it unless they notice: 4 times as long."""
    result = run(MEAN + NEIGHBOUR)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2


# a thread has the affinity of the one that starts it
ONE_CORE = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
pred, label, out = pred[: 1 << 19], label[: 1 << 19], out[: 1 << 19]
print(ratio(2))
"""


@pytest.mark.thread_unsafe
@AFFINITY
def test_more_threads_than_cores() -> None:
    """The same within one process: each call would wait for a thread that has no core."""
    result = run(MEAN + ONE_CORE)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < 2


FORK = """
import os, sys, time
import numpy as np
import fastloss as fl
pred = np.zeros(1_000_000, np.float32)
label = np.ones(1_000_000, np.float32)
loss = fl.L2Loss(reduction="mean")
fl.set_num_threads(2)
assert loss(pred, label) == 0.5
child = os.fork()
if child == 0:
    fl.set_num_threads(2)
    ok = loss(pred, label) == 0.5 and fl.get_num_threads() == 1
    os._exit(0 if ok else 1)
for _ in range(100):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        sys.exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.1)
os.kill(child, 9)
os.waitpid(child, 0)
sys.exit(2)
"""


@pytest.mark.thread_unsafe
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_is_serial_and_alive() -> None:
    result = run(FORK)
    assert result.returncode == 0, result.stderr
