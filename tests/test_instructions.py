"""What valgrind sees: the cost of a small call in instructions, which times do not repeat; memory that nobody wrote."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import BUILT

ROOT = Path(__file__).parent.parent
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


# every result of every loss, with all that a call takes and with the least; where a loop is new, with all reductions
CALLS = """
import numpy as np
import fastloss as fl
from tests.calls import ENTRIES, inputs_of, methods_of
from tests.reference import REDUCTIONS

fl.set_num_threads(1)
rng = np.random.default_rng(0)
for k, entry in enumerate(ENTRIES.values()):
    inputs = inputs_of(entry, rng, 5)
    plain = {name: a for name, a in inputs.items() if name != "sample_weight"}
    for reduction in REDUCTIONS if entry.loop else REDUCTIONS[k % 5 :][:1]:
        loss = entry.build(reduction=reduction)
        loss(**plain)
        loss.value_and_grad(**inputs, wrt=tuple(name for name in loss.differentiable if name in inputs))
        if "grad_and_hess" in methods_of(loss):
            loss.value_grad_and_hess(**plain)
print("done")
"""

# valgrind knows no AVX-512
SIMULATED = {"PYTHONHASHSEED": "0", "FASTLOSS_ISA": "baseline"}
needed = pytest.mark.skipif(
    not shutil.which("valgrind") or "baseline" not in BUILT, reason="needs valgrind, and the build that it can run"
)


def instructions(call: str, path: Path) -> float:
    """Return how many instructions one such call takes."""
    command = ["valgrind", "--tool=callgrind", "--toggle-collect=PySequence_List", f"--callgrind-out-file={path}"]
    script = [sys.executable, "-c", SCRIPT, call, str(REPEATS)]
    environment = os.environ | SIMULATED
    done = subprocess.run(command + script, env=environment, capture_output=True, text=True, check=True, timeout=300)
    found = re.search(r"Collected : (\d+)", done.stderr)
    assert found, done.stderr
    return int(found[1]) / REPEATS


@needed
def test_a_small_call(tmp_path: Path) -> None:
    calls = "add", *BOUNDS
    with ThreadPoolExecutor() as pool:
        counts = dict(zip(calls, pool.map(instructions, calls, [tmp_path / call for call in calls]), strict=True))
    assert counts["add"] > 1000, counts
    for call, bound in BOUNDS.items():
        assert counts[call] <= bound * counts["add"], counts


@needed
def test_no_call_reads_what_nobody_wrote() -> None:
    command = ["valgrind", "-q", "--error-limit=no", "--num-callers=4", sys.executable, "-c", CALLS]
    # in blocks of Python's own allocator nobody would see it
    environment = os.environ | SIMULATED | {"PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True, timeout=600)
    assert done.stdout == "done\n"
    # Python itself does
    assert re.findall(rf" at 0x\w+: (.*) \(in {ROOT}/fastloss/", done.stderr) == []
