"""What the processes of tests/test_processes.py do, in functions that a process which imports nothing else can find."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

import fastloss as fl
from tests.reference import LOSSES, call_args, draw
from tests.structured import STRUCTURED

Task = Callable[..., Any]

# drawn here: a child that is forked while another thread imports numpy.random would wait for that import
RNG = np.random.default_rng(1)
PRED, LABEL = RNG.normal(size=(2, 20_000, 12)).astype(np.float32)
CLASSES = RNG.integers(0, 12, len(PRED))
SHARE = 64  # of every_call(), that each of many callers makes: several of them make each call


def bits(results: Any) -> bytes:
    return b"".join(map(bits, results)) if isinstance(results, tuple) else np.asarray(results).tobytes()


def digest() -> str:
    """The bits of sums, values and gradients of each kind of loop, all of them large enough for threads."""
    results = (
        *fl.HuberLoss(reduction="mean").value_and_grad(PRED, LABEL),
        *fl.SigmoidBCELoss(reduction="sum").value_grad_and_hess(PRED, LABEL),
        *fl.SoftmaxCELoss(reduction="mean").value_and_grad(PRED, CLASSES),
        *fl.TripletLoss(reduction="mean").value_and_grad(PRED, LABEL, LABEL[::-1]),
        *fl.SDMLLoss(reduction="mean").grad(PRED[:300], LABEL[:300], wrt=("x1", "x2")),
    )
    return hashlib.sha256(bits(results)).hexdigest()


def work(threads: int) -> tuple[str, int]:
    """The digest, asked of so many threads, and how many the calls could have."""
    fl.set_num_threads(threads)
    return digest(), fl.get_num_threads()


def environment(**given: str) -> dict[str, str]:
    """That of this process and what is given, without what says how many threads a library has, and where they run.

    Whoever starts the tests may have set it, and libraries do: a cluster of Dask's leaves OMP_NUM_THREADS=1.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "GOMP_", "KMP_")) and not name.endswith("_NUM_THREADS")
    } | given


def native_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def forked(task: Task, *args: Any) -> Any:
    """What a task returns in a child."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with os.fdopen(write, "w") as pipe:
                json.dump(task(*args), pipe)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return json.loads(result)


def in_threads(tasks: list[Callable[[], Any]]) -> list[Any]:
    """What tasks return that begin at the same time, each in a Python thread of its own."""
    start = threading.Barrier(len(tasks))
    results: list[Any] = [None] * len(tasks)

    def run(k: int) -> None:
        start.wait()
        results[k] = tasks[k]()

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextmanager
def repeated(task: Task) -> Iterator[None]:
    """Does a task over and over in another Python thread, until the block ends."""
    stop = threading.Event()

    def repeat() -> None:
        while not stop.is_set():
            task()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def in_pool(method: str, threads: int) -> list[Any]:
    with multiprocessing.get_context(method).Pool(2) as pool:
        return pool.map(work, [threads] * 2)


def in_executor(method: str, threads: int) -> list[Any]:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as executor:
        return list(executor.map(work, [threads] * 2))


def in_joblib(backend: str, threads: int) -> list[Any]:
    from joblib import Parallel, delayed

    return list(Parallel(n_jobs=2, backend=backend)(delayed(work)(threads) for _ in range(2)))


def command(task: Task, *args: Any, before: str = "") -> list[str]:
    """A Python process that prints what a task of this module returns."""
    name = task.__name__
    code = f"import json; from tests.processes import {name}; print(json.dumps({name}(*{args!r})))"
    return [sys.executable, "-c", f"{before}\n{code}"]


def in_subprocess(threads: int) -> list[Any]:
    done = subprocess.run(command(work, threads), capture_output=True, text=True, check=True)
    return [json.loads(done.stdout)]


def in_spawned(threads: int) -> list[Any]:
    read, write = os.pipe()
    child = os.posix_spawn(
        sys.executable, command(work, threads), os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)]
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        result = pipe.read()
    os.waitpid(child, 0)
    return [json.loads(result)]


CHILDREN: dict[str, Callable[[int], list[Any]]] = {
    "os.fork": lambda threads: [forked(work, threads)],
    "multiprocessing fork": lambda threads: in_pool("fork", threads),
    "multiprocessing spawn": lambda threads: in_pool("spawn", threads),
    "multiprocessing forkserver": lambda threads: in_pool("forkserver", threads),
    "executor fork": lambda threads: in_executor("fork", threads),
    "executor spawn": lambda threads: in_executor("spawn", threads),
    "executor forkserver": lambda threads: in_executor("forkserver", threads),
    "joblib loky": lambda threads: in_joblib("loky", threads),
    "joblib multiprocessing": lambda threads: in_joblib("multiprocessing", threads),
    "subprocess": in_subprocess,
    "posix_spawn": in_spawned,
}


def parent_and_children(how: str, parent: int, child: int) -> list[Any]:
    """The parent's work, that of its children, and the parent's again."""
    return [work(parent), *CHILDREN[how](child), work(parent)]


def fork_in_a_thread() -> list[Any]:
    [results] = in_threads([lambda: [work(2), forked(work, 2), work(2)]])
    return [work(2), *results, work(2)]


def fork_in_a_fork() -> list[Any]:
    return [work(2), *forked(lambda: [work(2), forked(work, 2), work(2)]), work(2)]


def fork_in_a_block() -> list[Any]:
    with fl.num_threads(2):
        return [work(1), forked(work, 1), work(1)]


def fork_during_calls() -> list[Any]:
    """Forks while two other threads are inside calls."""
    results: list[Any] = []

    def call() -> None:
        results.append(work(2))

    with repeated(call), repeated(call):
        results += [forked(work, 2) for _ in range(10)]
    return results


def threads_in_a_fork() -> list[Any]:
    return [work(2), *forked(in_threads, [lambda: work(2)] * 8), work(2)]


def every_call() -> list[Callable[[], Any]]:
    """A small and a large call of every loss, of the value and all derivatives in pred."""
    rng = np.random.default_rng(2)
    calls: list[Callable[[], Any]] = []
    for reference in LOSSES.values():
        for size in (100, 100_000):
            inputs = draw(reference, rng, (size // reference.classes if reference.row else size,), np.float32)
            calls.append(partial(reference.build(reduction="mean").value_grad_and_hess, *call_args(reference, inputs)))
    for structured in STRUCTURED.values():
        for n in (3, 300):
            named = dict(zip(structured.names, structured.data(rng, n), strict=False))
            calls.append(partial(structured.build().value_and_grad, **named))
    return calls


def many_callers(callers: int, most: int) -> tuple[int, list[str]]:
    """Calls by Python threads while another sets the number of threads, up to a most.

    Each thread takes a share of every_call(), in an order of its own. Returns how many calls it were, and which had
    other bits than alone.
    """
    calls = every_call()
    with fl.num_threads(1):
        want = [bits(call()) for call in calls]

    def call_all(seed: int) -> list[bool]:
        rng = np.random.default_rng(seed)
        right = [True] * len(calls)
        for k in rng.permutation(len(calls))[:SHARE]:
            with fl.num_threads(int(rng.integers(1, most + 1))) if rng.random() < 0.5 else nullcontext():
                right[k] = bits(calls[k]()) == want[k]
        return right

    choices = cycle([*range(1, most + 1), None])
    with repeated(lambda: fl.set_num_threads(next(choices))):
        right = in_threads([partial(call_all, seed) for seed in range(callers)])
    wrong = [repr(calls[k]) for caller in right for k in range(len(calls)) if not caller[k]]
    return callers * SHARE, wrong


def with_small_stacks() -> tuple[list[str], int]:
    """Which calls of every loss have other bits in two threads than in one, and how many threads were started."""
    calls = every_call()
    with fl.num_threads(1):
        want = [bits(call()) for call in calls]
    before = native_threads()
    fl.set_num_threads(2)
    wrong = [repr(call) for call, one in zip(calls, want, strict=True) if bits(call()) != one]
    return wrong, native_threads() - before


def in_a_small_stack(threads: int) -> tuple[list[str], int]:
    """The same, made by a Python thread whose stack is as small."""
    calls = every_call()
    with fl.num_threads(1):
        want = [bits(call()) for call in calls]
    fl.set_num_threads(threads)
    threading.stack_size(1 << 16)
    [results] = in_threads([lambda: [bits(call()) for call in calls]])
    return [repr(call) for call, one, other in zip(calls, want, results, strict=True) if one != other], len(calls)


def callers_at_the_end(callers: int) -> int:
    """Daemon threads, which are in the middle of calls when Python ends: returns how many there are."""
    calls = every_call()
    ready = threading.Barrier(callers + 1)

    def call_for_ever(first: int) -> None:
        ready.wait()
        for call in cycle(calls[first:] + calls[:first]):
            call()

    for k in range(callers):
        threading.Thread(target=call_for_ever, args=(k,), daemon=True).start()
    ready.wait()
    time.sleep(0.05)
    return threading.active_count() - 1


def refuse_threads(limit: str, spare: int) -> None:
    """Lets the system start few threads more: for a limit on their number, or on memory beyond what is spare."""
    import resource

    if limit == "processes":
        if os.getuid() == 0:
            os.setuid(65534)
        resource.setrlimit(resource.RLIMIT_NPROC, (10, 10))
    elif limit == "memory":
        # of one page, a thread's stack of megabytes
        size = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + spare, size + spare))


def many_threads(threads: int, limit: str = "") -> tuple[bool, int]:
    """Whether a call that asks for many threads gives the bits of one thread, and how many it started."""
    pred, label = np.random.default_rng(3).random((2, 1 << 22), np.float32)
    loss = fl.SigmoidBCELoss(reduction="mean")
    with fl.num_threads(1):
        want = loss(pred, label)
    before = native_threads()
    refuse_threads(limit, 1 << 26)
    fl.set_num_threads(threads)
    same = all(loss(pred, label) == want for _ in range(3))
    return same, native_threads() - before


def threads_after_a_smaller_team(limit: str, how: str) -> tuple[bool, list[int]]:
    """Whether 64 threads, then 2, then 64 that the system refuses give the bits of one, and how many it were each time.

    The smaller team is fastloss's or PyTorch's, which may have the same OpenMP; or all is in another Python thread.
    """
    pred, label = np.random.default_rng(3).random((2, 1 << 20), np.float32)
    loss = fl.SigmoidBCELoss(reduction="mean")
    with fl.num_threads(1):
        want = loss(pred, label)
    others = native_threads()
    results, counts = [], []

    def smaller_team() -> None:
        if how == "torch":
            import torch

            torch.set_num_threads(2)
            torch.exp(torch.ones(1 << 20))
        else:
            results.append(loss(pred, label))

    def teams() -> None:
        for threads in (64, 2, 64):
            fl.set_num_threads(threads)
            if threads == 2:
                end = time.perf_counter() + 5
                # calls do with one for a while where cores are taken; threads that are not needed end by themselves
                while native_threads() - others > 5 and time.perf_counter() < end:
                    smaller_team()
                    time.sleep(0.01)
                refuse_threads(limit, 40 << 20)
            else:
                results.extend(loss(pred, label) for _ in range(5))
            counts.append(native_threads() - others)

    if how == "thread":
        in_threads([teams])
    else:
        teams()
    return all(result == want for result in results), counts


# a row in memory for all of them, so that calls take seconds; and a call of many threads that takes milliseconds
LONG = np.broadcast_to(np.float32(0.5), (1 << 29,))
LONG_LOSS = fl.PoissonNLLLoss(compute_full=True, reduction="mean")


def call_beside_a_first_call() -> bool:
    """Whether a thread's first call ends while that of another, which takes seconds, goes on."""
    fl.set_num_threads(2)

    def call_and_interrupt() -> None:
        time.sleep(0.1)
        work(2)
        os.kill(os.getpid(), signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=call_and_interrupt)
    thread.start()
    try:
        LONG_LOSS(LONG, LONG)
    except KeyboardInterrupt:
        return True
    finally:
        thread.join()
    return False


def wait_in_a_handler() -> list[Any]:
    """The work of a pool's thread, for which the handler of a signal waits that comes during the main thread's call."""
    fl.set_num_threads(2)
    results: list[Any] = []

    def shut_down(number: int, frame: Any) -> None:
        pool.shutdown(wait=True)
        results.append(future.result())
        raise InterruptedError

    def later() -> tuple[str, int]:
        time.sleep(0.1)
        return work(2)

    signal.signal(signal.SIGTERM, shut_down)
    pool = ThreadPoolExecutor(1)
    future = pool.submit(later)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        while True:
            LONG_LOSS(LONG, LONG)
    except InterruptedError:
        return results


def call_in_a_handler() -> list[Any]:
    """The work of a handler, whose signal comes during a call, and work after it."""
    fl.set_num_threads(2)
    results: list[Any] = []
    signal.signal(signal.SIGTERM, lambda number, frame: results.append(work(2)))
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    x = LONG[: 1 << 27]
    while not results:
        value = LONG_LOSS(x, x)
    timer.join()
    assert value == LONG_LOSS(x[:1], x[:1])
    return [*results, work(2)]


def with_little_memory(name: str, rows: int) -> bool:
    """Whether the loss of one long row is a number, with memory for so many more rows and 4 MB."""
    import resource

    fl.set_num_threads(1)
    row = np.ones((1, 1 << 23), np.float32)
    loss, inputs = {
        "triplet": (fl.TripletLoss(), (row, row, row)),
        "cosine": (fl.CosineEmbeddingLoss(), (row, row, [1])),
        "softmax": (fl.SoftmaxCELoss(), (row, [0])),
        "weighted softmax": (fl.SoftmaxCELoss(reduction="weighted_mean"), (row, [0], [2])),
    }[name]
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = size + rows * row.nbytes + (1 << 22)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return bool(np.isfinite(loss(*inputs)).all())


def default_threads() -> tuple[int, int]:
    """How many threads a call has by default, and how many large ones start."""
    before = native_threads()
    digest()
    return fl.get_num_threads(), native_threads() - before


def threads_like_torch() -> tuple[int, int]:
    """How many threads a call has by default, and how many PyTorch has."""
    import torch

    return fl.get_num_threads(), torch.get_num_threads()


def threads_in_group(procs: str) -> tuple[int, int]:
    """The same, in a control group that this process enters by its file of processes."""
    Path(procs).write_text(str(os.getpid()), encoding="utf-8")
    return default_threads()


def under_threadpoolctl(api: str | None) -> list[Any]:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api=api):
        results = [default_threads()]
        with threadpool_limits(2, user_api=api):
            results.append(fl.get_num_threads())
            with threadpool_limits(1, user_api=api):
                results.append(default_threads())
            results.append(fl.get_num_threads())
        results.append(default_threads())
    return [*results, default_threads()]


def beside_torch() -> tuple[list[Any], list[str], float]:
    """Both libraries by turns, and at the same time: the results of each, and how much longer calls take by turns."""
    import torch

    torch.set_num_threads(2)
    fl.set_num_threads(2)
    x = torch.linspace(-1, 1, 1 << 20)
    matrix = x[: 1 << 18].reshape(512, 512)

    def of_torch() -> str:
        return hashlib.sha256(bits((torch.exp(x).numpy(), (matrix @ matrix).numpy()))).hexdigest()

    pred, label = np.random.default_rng(4).random((2, 1 << 20), np.float32)
    loss = fl.SigmoidBCELoss(reduction="mean")

    def seconds() -> float:
        start = time.perf_counter()
        loss(pred, label)
        return time.perf_counter() - start

    alone = min(seconds() for _ in range(20))
    results, others, by_turns = [work(2)], [of_torch()], np.inf
    for _ in range(20):
        others.append(of_torch())
        by_turns = min(by_turns, seconds())
    with repeated(lambda: others.append(of_torch())):
        results += [work(2) for _ in range(10)]
    return [*results, work(2)], [*others, of_torch()], by_turns / alone


def beside_blas() -> list[Any]:
    """Calls while two other threads multiply matrices, each with a pool of threads of NumPy's."""
    matrix = np.ones((500, 500))
    with repeated(lambda: matrix @ matrix), repeated(lambda: matrix @ matrix):
        return in_threads([lambda: [work(2) for _ in range(5)]] * 2)


def data_loader() -> list[Any]:
    """The work of a PyTorch data set in forked workers, after both libraries used threads in the parent."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Work(Dataset[Any]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, k: int) -> Any:
            return work(2)

    torch.set_num_threads(2)
    torch.exp(torch.ones(1 << 20))
    loader = DataLoader(Work(), batch_size=None, num_workers=2, multiprocessing_context="fork")
    return [work(2), *loader, work(2)]
