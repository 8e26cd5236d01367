"""Cases under pytest-benchmark, a table each: ``pytest bench``, or ``pytest bench --short``. Every result is checked.

Each library has the threads that it takes by default.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
from cases import CASES, Case, Step, problem
from contenders import CONTENDERS, Contender
from pytest_benchmark.fixture import BenchmarkFixture


class Extent(NamedTuple):
    """The sizes that are timed, the seconds of a contender in a case, and its rounds where those are too short."""

    sizes: tuple[int, ...]
    seconds: float
    rounds: int


# A call, the caches, the memory: torch.compile takes seconds for each size, and compare.py times the others, too.
WHOLE = Extent((8, 65_536, 1_048_576), 0.1, 5)
SHORT = Extent((65_536,), 0.01, 3)


def filters(contender: Contender) -> str:
    """Return which warnings are no errors: all that peers cause, and what they left open when fastloss has its turn."""
    return "ignore::ResourceWarning" if contender.package == "fastloss" else "ignore"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the test its cases and contenders; those of a case come one after the other."""
    short = metafunc.config.getoption("--short", default=False)
    extent = SHORT if short else WHOLE
    timing = pytest.mark.benchmark(max_time=extent.seconds, min_rounds=extent.rounds)
    metafunc.parametrize(
        ("case", "contender"),
        [
            pytest.param(
                *(case, contender),
                id=f"{case}-{contender.name}",
                marks=[timing, pytest.mark.filterwarnings(filters(contender))],
            )
            for case in CASES
            if case.is_described or case.size in extent.sizes
            for contender in CONTENDERS
            # to compile a step takes seconds, and there will be many losses
            if not (short and case.is_described and contender.name not in ("fastloss", "numpy"))
        ],
    )


@pytest.fixture
def step(case: Case, contender: Contender) -> Step:
    """Prepare and check what is timed. The first call compiles, which is not timed."""
    if not contender.installed:
        pytest.skip(f"{contender.name} needs {contender.missing}, which is not installed")
    task = problem(case)
    step = contender.prepare(case.loss, *task.inputs)
    if step is None:
        pytest.skip(f"{contender.name} has no such loss")
    task.check(step())
    return step


# the step comes first: pytest-benchmark reports a fixture that a skipped test did not use
def test_speed(step: Step, benchmark: BenchmarkFixture, case: Case) -> None:
    """Time the value and the gradient."""
    benchmark.group = str(case)
    problem(case).check(benchmark(step))
