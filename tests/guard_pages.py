"""Calls on arrays that end, or begin, at a page that nobody may touch: ``python -m tests.guard_pages``.

A read or a write beside an array ends the process. Results are compared, bit by bit, with those of ordinary arrays.
"""

from __future__ import annotations

import argparse
import ctypes
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from tests.judge import same_bits
from tests.specimens import METHODS, Specimen, specimens

Array = NDArray[Any]

SIZES = range(1, 131)
PAGES = 4  # for the largest array here
PROT_NONE = 0


class Guarded:
    """Memory between two pages that nobody may touch, which arrays share one after another."""

    def __init__(self) -> None:
        page = mmap.PAGESIZE
        self.memory = mmap.mmap(-1, (PAGES + 2) * page)
        self.first, self.last = page, (PAGES + 1) * page
        libc = ctypes.CDLL(None, use_errno=True)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        for at in (0, self.last):
            if libc.mprotect(ctypes.c_void_p(start + at), ctypes.c_size_t(page), PROT_NONE):
                raise OSError(ctypes.get_errno(), "mprotect")

    def like(self, a: Array, *, at_end: bool) -> Array:
        """An array of a's numbers that ends, or begins, at such a page."""
        start = self.last - a.nbytes if at_end else self.first
        made = np.frombuffer(self.memory, a.dtype, a.size, start).reshape(a.shape)
        made[...] = a
        return made


def shape_for(s: Specimen, n: int) -> tuple[int, ...]:
    """A shape of the first input whose last axis, where it may, has n numbers."""
    if s.is_of_sequences:
        return 2, 5, n % 6 + 4
    return (n,) if s.layout == "elements" else s.fitted((3, n), -1)


def calls(s: Specimen, n: int, dtype: Any) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Methods with their inputs, and what they return; a weight for each example, and none."""
    rng = np.random.default_rng(n)
    drawn = s.draw(rng, shape_for(s, n))
    inputs = {k: a.astype(dtype) if a.dtype.kind == "f" else a for k, a in zip(s.names, drawn, strict=True)}
    for weighted in (False, True):
        loss = s.loss(**s.parameters, reduction="none")
        given = inputs | ({"sample_weight": rng.random(np.shape(loss(**inputs))).astype(dtype)} if weighted else {})
        for method in METHODS:
            if not (loss.no_hessian and "hess" in method):
                wrt = s.targets(method)
                named = given | ({} if wrt is None else {"wrt": tuple(k for k in wrt if k in given)})
                yield method, named, getattr(loss, method)(**named)


def flat(result: Any) -> list[Array]:
    return [a for part in result for a in flat(part)] if isinstance(result, tuple) else [result]


def structured_as(result: Any, arrays: list[Array]) -> Any:
    """The arrays in the structure of a result."""
    if isinstance(result, tuple):
        return tuple(structured_as(part, arrays) for part in result)
    return arrays.pop(0)


def run(sizes: range, names: list[str]) -> int:
    """Make the calls, and return how many there were."""
    pool = [Guarded() for _ in range(12)]
    count = 0
    for name in names:
        s = specimens()[name]
        loss = s.loss(**s.parameters, reduction="none")
        for dtype in (np.float32, np.float64):
            for n in sizes:
                for method, named, want in calls(s, n, dtype):
                    for at_end in (True, False):
                        places = iter(pool)
                        given = {
                            k: next(places).like(a, at_end=at_end) if isinstance(a, np.ndarray) else a
                            for k, a in named.items()
                        }
                        outs = [next(places).like(np.zeros_like(a), at_end=at_end) for a in flat(want)]
                        got = getattr(loss, method)(**given, out=structured_as(want, list(outs)))
                        for a, b in zip(flat(got), flat(want), strict=True):
                            assert same_bits(a, b), (name, method, n, dtype, at_end)
                        count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="take every N-th size")
    every = parser.parse_args().every
    count = run(SIZES[::every], list(specimens()))
    print(f"{count:,} calls beside guard pages, {fl.show_config(mode='dicts')['instruction set']}")  # type: ignore[index]


if __name__ == "__main__":
    main()
