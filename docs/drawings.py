"""The pictures of the guide's explanations: lost digits, the order of a sum, the memory's roof."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pictures
from matplotlib.axes import Axes

import fastloss as fl

FOLDER = "made"
# what bench/report.py has printed
SPEED = Path(__file__).with_name("speed.md")
MARKERS = {"numpy": "^", "numba": "s", "fastloss": "o"}
PIECES = 8


def tails(ax: Axes) -> None:
    """The gradient of binary cross-entropy for a label of 1, by the sigmoid and by fastloss."""
    x = np.linspace(31, 42, 1101)
    ax.semilogy(x, -fl.SigmoidBCELoss(reduction="none").grad(x, np.ones_like(x)), label="fastloss")
    by_sigmoid = 1 - 1 / (1 + np.exp(-x))
    ax.semilogy(x, np.where(by_sigmoid > 0, by_sigmoid, np.nan), label="1 - sigmoid(x)")
    ax.text(x[by_sigmoid == 0][0] + 0.1, by_sigmoid[by_sigmoid > 0][-1], "then 0", color="C1", va="center")
    ax.set(xlabel="logit x (label 1)", ylabel="minus the gradient")
    ax.legend()


def bits(ax: Axes) -> None:
    """The same pieces, whoever adds them up: a row for each number of threads, a colour for each thread."""
    for row, threads in enumerate((1, 2, 3)):
        for piece in range(PIECES):
            thread = piece * threads // PIECES
            ax.barh(-row, 0.9, left=piece, height=0.5, align="center", color=f"C{thread}")
        ax.text(-0.3, -row, f"{threads} thread{'s' * (threads > 1)}", ha="right", va="center")
    for piece in range(PIECES):
        ax.annotate("", (piece + 0.45, -3.25), (piece + 0.45, -2.4), arrowprops={"arrowstyle": "->", "color": "gray"})
        ax.text(piece + 0.45, -3.5, f"{'+ ' * (piece > 0)}s{piece + 1}", ha="center", va="center")
    ax.text(-0.3, -3.5, "the sum", ha="right", va="center")
    ax.set(xlim=(-2.2, PIECES), ylim=(-3.9, 0.5))
    ax.axis("off")


def speed() -> dict[tuple[str, int], dict[str, float]]:
    """Nanoseconds for each element, by loss and size of float32, then by library."""
    lines = SPEED.read_text(encoding="utf-8").splitlines()
    head, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|"))
    found = {}
    for row in rows:
        named = re.fullmatch(r"(\w+) float32 (\d+)", row[0])
        if named:
            micro = {library: row[head.index(library)].replace(",", "") for library in MARKERS}
            size = int(named[2])
            found[named[1], size] = {library: 1e3 * float(time) / size for library, time in micro.items() if time}
    return found


def roof(ax: Axes) -> None:
    """What a pass over memory takes, against what it takes in the cache, and the least that it can."""
    near, far = 1 << 16, 1 << 24
    times = speed()
    losses = [loss for loss, size in times if size == far]
    for library, marker in MARKERS.items():
        known = [loss for loss in losses if library in times[loss, near]]
        ax.loglog(*([times[loss, size][library] for loss in known] for size in (near, far)), marker, label=library)
    memory = min(times[loss, far]["fastloss"] for loss in losses)
    x = np.geomspace(0.08, 12, 100)
    ax.plot(x, np.maximum(x, memory), color="gray", zorder=0, label="roof")
    ax.text(0.25, 0.9 * memory, "memory", va="top")
    ax.text(2.6, 2.2, "arithmetic", va="top")
    ax.set(xlabel="in the cache, ns for each element", ylabel="in memory, ns for each element", ylim=(0.35, 20))
    ax.legend()


DRAWINGS: dict[str, Callable[[Axes], None]] = {"tails": tails, "bits": bits, "roof": roof}


def write_to(source: Path, write: Callable[[Path, str], None]) -> None:
    """Writes each picture, on a light and on a dark ground."""
    folder = source / FOLDER
    folder.mkdir(exist_ok=True)
    for name, paint in DRAWINGS.items():
        for ground, svg in pictures.themed(paint).items():
            write(pictures.files(folder, name)[ground], svg)
