"""The number of processors that this process may use, and the size of their last cache."""

from __future__ import annotations

import os
from collections.abc import Iterator


def available_processors(root: str = "", bound: int = 0) -> int:
    """The processors that this process may use: its affinity, and its control group's quota rounded up.

    `bound` is the size of the affinity before OpenMP bound the first thread to a part of it; 0 if OpenMP did not.
    """
    try:
        # The affinity of the first thread: a pid of 0 would mean the calling thread, which may have narrowed its own.
        n = bound or len(os.sched_getaffinity(os.getpid()))
    except AttributeError:
        n = os.cpu_count() or 1
    for quota, period in cgroup_quotas(root):
        if quota > 0 and period > 0:
            n = min(n, -(-quota // period))
    return max(1, n)


def cgroup_quotas(root: str) -> Iterator[tuple[int, int]]:
    """(quota, period) in microseconds of this process's control groups and those above them, of version 2 and 1."""
    try:
        with open(root + "/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as f:
            groups = [line.rstrip("\n").split(":", 2) for line in f]
    except OSError:
        return
    for _, controllers, path in groups:
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root + "/sys/fs/cgroup" + ("/" + controllers if controllers else "")
        parts = [part for part in path.split("/") if part]
        for depth in range(len(parts), -1, -1):
            folder = "/".join([top, *parts[:depth]])
            try:
                if controllers:
                    yield number_in(folder + "/cpu.cfs_quota_us"), number_in(folder + "/cpu.cfs_period_us")
                else:
                    with open(folder + "/cpu.max", encoding="utf-8") as f:
                        quota, period = f.read().split()
                    if quota != "max":
                        yield int(quota), int(period)
            except (OSError, ValueError):
                continue


def number_in(path: str) -> int:
    with open(path, encoding="utf-8") as f:
        return int(f.read())


def last_cache(root: str = "") -> int:
    """The bytes of the first processor's outermost cache; 0 if the system does not tell."""
    sizes = [0]
    folder = root + "/sys/devices/system/cpu/cpu0/cache"
    try:
        for index in os.listdir(folder):
            if index.startswith("index"):
                with open(f"{folder}/{index}/size", encoding="utf-8") as f:
                    sizes.append(int(f.read().strip().removesuffix("K")) << 10)
    except (OSError, ValueError):
        pass
    return max(sizes)
