"""The cost of a small call, counted in instructions, which repeat exactly where times do not."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPEATS = 500
# sorted() gathers what it sorts in PySequence_List: callgrind counts inside that function alone
SCRIPT = """
import gc, sys
from itertools import repeat, starmap
import numpy as np
import fastloss as fl

x = np.arange(8, dtype=np.float32)
y = x[::-1].copy()
out = np.empty_like(x), np.empty_like(x)
loss = fl.L2Loss()
calls = {
    "add": lambda: np.add(x, y),
    "value": lambda: loss(x, y),
    "value_and_grad": lambda: loss.value_and_grad(x, y),
    "out": lambda: loss.value_and_grad(x, y, out=out),
}
call = calls[sys.argv[1]]
for _ in range(10):
    call()
gc.disable()
sorted(map(callable, starmap(call, repeat((), int(sys.argv[2])))))
"""
# of np.add's instructions
BOUNDS = {"value": 1.05, "value_and_grad": 1.4, "out": 1.6}


def instructions(call: str, path: Path) -> float:
    """Return how many instructions one such call takes."""
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=PySequence_List", f"--callgrind-out-file={path}"]
    # valgrind knows no AVX-512
    environment = os.environ | {"PYTHONHASHSEED": "0", "FASTLOSS_ISA": "baseline"}
    script = [sys.executable, "-c", SCRIPT, call, str(REPEATS)]
    done = subprocess.run(command + script, env=environment, capture_output=True, text=True, check=True, timeout=300)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1]) / REPEATS


@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_a_small_call(tmp_path: Path) -> None:
    counts = {call: instructions(call, tmp_path / "callgrind.out") for call in ("add", *BOUNDS)}
    assert counts["add"] > 1000, counts
    for call, bound in BOUNDS.items():
        assert counts[call] <= bound * counts["add"], counts
