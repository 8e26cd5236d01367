"""Processes and threads: children of every kind, many callers, many threads, other libraries' pools, and limits."""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastloss as fl
from fastloss import _processors, _threads
from tests import processes
from tests.processes import CHILDREN, command, environment

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux lists them"),
    pytest.mark.skipif(not _threads.has_openmp, reason="without OpenMP a call has one thread"),
    pytest.mark.thread_unsafe,
]

ROOT = Path(__file__).parent.parent
ALONE = _processors.available_processors() == 1


def call(
    task: Callable[..., Any],
    *args: Any,
    prefix: tuple[str, ...] = (),
    before: str = "",
    given: dict[str, str] | None = None,
) -> Any:
    """What a task returns in a process of its own, with variables of its environment as given.

    A task that hangs has ended after 60 seconds and those that its Pythons need to start.
    """
    limit = 60 + 5 * seconds_to_start(before)
    with subprocess.Popen(
        [*prefix, *command(task, *args, before=before)],
        cwd=ROOT,
        env=environment(**(given or {})),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            # with its children, which are in its group
            os.killpg(process.pid, signal.SIGKILL)
            pytest.fail(f"{task.__name__}{args} took more than {limit:.0f} s: {process.communicate()[1]}")
    assert process.returncode == 0, err
    return json.loads(out)


@functools.cache
def seconds_to_start(before: str) -> float:
    start = time.perf_counter()
    subprocess.run(
        command(processes.native_threads, before=before),
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
        timeout=100,
    )
    return time.perf_counter() - start


@functools.cache
def serial_digest() -> str:
    with fl.num_threads(1):
        return processes.digest()


def in_turn(*threads: int) -> list[list[Any]]:
    """The work of processes that may use so many threads."""
    return [[serial_digest(), n] for n in threads]


def start_method(how: str) -> str:
    return multiprocessing.get_start_method() if how == "joblib multiprocessing" else how.split()[-1].split(".")[-1]


@pytest.mark.parametrize(
    ("how", "parent", "child"),
    [*[(how, 2, 2) for how in CHILDREN], *[(how, *n) for how in ("os.fork", "subprocess") for n in ((1, 2), (2, 1))]],
)
def test_parent_and_children(how: str, parent: int, child: int) -> None:
    """A forked child has one thread, any other as many as it asks for."""
    if how.startswith("joblib"):
        pytest.importorskip("joblib", reason="joblib is not installed: pip install scikit-learn")
    first, *children, last = call(processes.parent_and_children, how, parent, child)
    assert [first, last] == in_turn(parent, parent)
    assert children == in_turn(1 if start_method(how) == "fork" else child) * len(children)
    assert children


def test_fork_in_a_python_thread() -> None:
    assert call(processes.fork_in_a_thread) == in_turn(2, 2, 1, 2, 2)


def test_fork_in_a_fork() -> None:
    assert call(processes.fork_in_a_fork) == in_turn(2, 1, 1, 1, 2)


def test_fork_in_a_block() -> None:
    assert call(processes.fork_in_a_block) == in_turn(2, 1, 2)


def test_fork_during_calls() -> None:
    results = call(processes.fork_during_calls)
    assert results.count([serial_digest(), 1]) == 10
    assert results.count([serial_digest(), 2]) == len(results) - 10 > 0


def test_threads_in_a_fork() -> None:
    assert call(processes.threads_in_a_fork) == in_turn(2, *[1] * 8, 2)


def test_many_callers() -> None:
    calls, wrong = call(processes.many_callers, 16, 8)
    assert wrong == []
    assert calls > 16 * 50


def test_callers_at_the_end() -> None:
    assert call(processes.callers_at_the_end, 8) == 8


@pytest.mark.parametrize("threads", [64, 4096])
def test_many_threads(threads: int) -> None:
    """Calls use what they are given, and 4 million losses are work for 300 threads."""
    same, started = call(processes.many_threads, threads)
    assert same
    assert started >= 63


@pytest.mark.parametrize("limit", ["processes", "memory"])
def test_threads_that_the_system_refuses(limit: str) -> None:
    """OpenMP would end the process."""
    same, started = call(processes.many_threads, 4096, limit)
    assert same
    assert started < 10


@pytest.mark.parametrize("how", ["", "thread", "torch"])
@pytest.mark.parametrize("limit", ["processes", "memory"])
def test_threads_that_the_system_refuses_after_a_smaller_team(limit: str, how: str) -> None:
    """OpenMP ends the threads that a smaller team does not need, and the process where it may not start them again."""
    if how == "torch":
        pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    same, (first, fewer, last) = call(processes.threads_after_a_smaller_team, limit, how)
    assert same
    assert first >= 63
    assert max(fewer, last) < 20


def test_a_stack_that_does_not_fit() -> None:
    """Threads are tried with the stacks that OpenMP gives them."""
    same, started = call(processes.many_threads, 64, "memory", given={"OMP_STACKSIZE": "1G"})
    assert same
    assert started == 0


def test_a_small_stack_is_enough_for_a_thread() -> None:
    """It is as small as glibc allows."""
    wrong, started = call(processes.with_small_stacks, given={"OMP_STACKSIZE": "16k"})
    assert wrong == []
    assert started > 0


@pytest.mark.parametrize("threads", [1, 2])
def test_a_small_stack_is_enough_for_a_caller(threads: int) -> None:
    wrong, calls = call(processes.in_a_small_stack, threads)
    assert wrong == []
    assert calls > 50


def test_calls_do_not_wait_for_each_other() -> None:
    assert call(processes.call_beside_a_first_call)


def test_a_handler_waits_for_a_call() -> None:
    assert call(processes.wait_in_a_handler) == in_turn(2)


def test_a_call_in_a_handler() -> None:
    assert call(processes.call_in_a_handler) == in_turn(2, 2)


BINDING = [
    "OMP_PROC_BIND=true",
    "OMP_PROC_BIND=close",
    "OMP_PROC_BIND=spread",
    "OMP_PLACES=cores",
    "OMP_PLACES=threads",
]


@pytest.mark.parametrize("given", BINDING)
def test_threads_that_openmp_binds(given: str) -> None:
    """The process's processors count, not the one that its first thread is bound to."""
    name, value = given.split("=")
    threads, started = call(processes.default_threads, given={name: value})
    assert threads == _processors.available_processors()
    assert ALONE or started > 0


@pytest.mark.parametrize("given", BINDING)
def test_binding_keeps_to_the_affinity(given: str) -> None:
    name, value = given.split("=")
    assert call(processes.default_threads, prefix=on_one_processor(), given={name: value}) == [1, 0]


@pytest.mark.parametrize("given", BINDING)
@pytest.mark.parametrize("first", ["torch", "fastloss"])
def test_binding_beside_torch(first: str, given: str) -> None:
    pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    name, value = given.split("=")
    ours, theirs = call(processes.threads_like_torch, before=f"import {first}, torch", given={name: value})
    assert ours == theirs == _processors.available_processors()


@pytest.mark.parametrize(("name", "rows"), [("triplet", 0), ("cosine", 0), ("softmax", 2), ("weighted softmax", 2)])
def test_a_long_row_is_not_copied_without_need(name: str, rows: int) -> None:
    """What is read in place needs no buffer; softmax keeps the exponentials and the targets of one row."""
    assert call(processes.with_little_memory, name, rows)


def on_one_processor() -> tuple[str, ...]:
    taskset = shutil.which("taskset")
    if not taskset:
        pytest.skip("taskset, of util-linux, is not installed")
    return taskset, "-c", str(min(os.sched_getaffinity(0)))


def test_affinity() -> None:
    assert call(processes.default_threads, prefix=on_one_processor()) == [1, 0]


@pytest.fixture
def half_a_processor() -> Iterator[Path]:
    """A control group of this machine's with that quota."""
    versions = {"/sys/fs/cgroup/cpu": ("cpu.cfs_quota_us", "50000"), "/sys/fs/cgroup": ("cpu.max", "50000 100000")}
    for top, (name, quota) in versions.items():
        group = Path(top) / f"fastloss-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / name).exists():
                (group / name).write_text(quota, encoding="utf-8")
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("this process may not make control groups")


def test_quota(half_a_processor: Path) -> None:
    assert call(processes.threads_in_group, str(half_a_processor / "cgroup.procs")) == [1, 0]


@pytest.mark.parametrize("api", [None, "openmp"])
def test_threadpoolctl(api: str | None) -> None:
    pytest.importorskip("threadpoolctl", reason='threadpoolctl is not installed: pip install -e ".[demo]"')
    *limited, (threads, started) = call(processes.under_threadpoolctl, api)
    two = min(2, _processors.available_processors())
    assert limited == [[1, 0], two, [1, 0], two, [1, 0]]
    assert threads == _processors.available_processors()
    assert ALONE or started > 0


@pytest.mark.parametrize("first", ["torch", "fastloss"])
def test_beside_torch(first: str) -> None:
    pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    results, others, by_turns = call(processes.beside_torch, before=f"import {first}, torch")
    assert results == in_turn(2) * len(results)
    assert len(set(others)) == 1
    assert by_turns < 10


def test_workers_of_a_data_loader() -> None:
    pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    assert call(processes.data_loader, before="import torch") == in_turn(2, 1, 1, 1, 1, 2)


def test_beside_blas() -> None:
    assert call(processes.beside_blas) == [in_turn(2) * 5] * 2
