"""The cases under pytest-benchmark, a group each: ``pytest bench``. Every result is checked.

Each library has the threads that it takes by default.
"""

from __future__ import annotations

import pytest
from cases import CASES, CONTENDERS, Case, Contender, problem
from pytest_benchmark.fixture import BenchmarkFixture


@pytest.mark.parametrize("contender", CONTENDERS, ids=[contender.module for contender in CONTENDERS])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_speed(benchmark: BenchmarkFixture, case: Case, contender: Contender) -> None:
    """Time the value and the gradient."""
    pytest.importorskip(contender.module, reason=f"{contender.module} is not installed")
    benchmark.group = str(case)
    task = problem(case)
    task.check(benchmark(contender.prepare(case.loss, task.pred, task.label)))
