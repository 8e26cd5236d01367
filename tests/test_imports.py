"""What importing fastloss and calling it with NumPy's arrays brings with it: no framework, no thread, no delay."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEWORKS = {"torch", "jax", "jaxlib", "autograd", "dask", "distributed", "matplotlib", "scipy", "pandas"}

CALLS = """
import sys, numpy as np, fastloss as fl
loss = fl.SoftmaxCELoss()
loss.value_grad_and_hess([[1.0, 2.0]], [1])
loss.grad(np.ones((2, 3)), label=np.zeros(2), sample_weight=[1, 2], wrt="sample_weight")
"""


def modules_after(program: str) -> set[str]:
    listing = f"{program}\nimport sys\nprint(*[name.partition('.')[0] for name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", listing], check=True, timeout=120, capture_output=True, text=True)
    return set(result.stdout.split())


def test_no_framework_is_imported() -> None:
    assert not FRAMEWORKS & modules_after(CALLS)


@pytest.mark.parametrize("name", ["torch", "jax", "autograd", "dask"])
def test_a_framework_brings_no_other(name: str) -> None:
    pytest.importorskip(name, reason=f"{name} is not installed")
    brought = modules_after(f"import {name}")
    assert modules_after(f"import {name}{CALLS}") & FRAMEWORKS == brought & FRAMEWORKS


def answer(program: str) -> float:
    # installed modules are compiled once: where Python keeps no bytecode, their compilation would be measured
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True, env=environment)
    return float(result.stdout)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads as Linux lists them")
def test_no_thread_is_started() -> None:
    tasks = "import numpy, os; n = len(os.listdir('/proc/self/task')); import fastloss; "
    assert answer(tasks + "print(len(os.listdir('/proc/self/task')) - n)") == 0


def test_the_import_takes_no_time() -> None:
    # of the processor: a wall clock counts what else the machine does
    program = "import time, numpy; t = time.process_time(); import fastloss; print(time.process_time() - t)"
    answer(program)
    assert min(answer(program) for _ in range(7)) < 0.03
