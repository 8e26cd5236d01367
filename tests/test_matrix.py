"""A sample of the matrix of inputs and a few drawn calls; python -m tests.matrix and python -m tests.fuzz make more."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.matrix.__main__ import Selection, run

pytestmark = pytest.mark.thread_unsafe


def test_a_sample_of_the_matrix() -> None:
    every = 2603
    report = run(Selection(every=every))
    assert not report.violations
    assert report.outcomes.total() * every > 500_000
    assert report.outcomes["equal"] > report.outcomes.total() / 3


def test_a_few_drawn_calls() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--seconds=0", "--round=300", "--seed=1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
