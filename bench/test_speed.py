"""The cases under pytest-benchmark, a group each: ``pytest bench``. Every result is checked.

Each library has the threads that it takes by default.
"""

from __future__ import annotations

import pytest
from cases import CASES, Case, problem
from contenders import CONTENDERS, Contender
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("contender", CONTENDERS, ids=[contender.name for contender in CONTENDERS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(benchmark: BenchmarkFixture, case: Case, contender: Contender) -> None:
    """Time the value and the gradient."""
    if not contender.installed:
        pytest.skip(f"{contender.package} is not installed")
    benchmark.group = str(case)
    task = problem(case)
    step = contender.prepare(case.loss, task.pred, task.label)
    if step is None:
        pytest.skip(f"{contender.name} has no such loss")
    task.check(benchmark(step))
