"""``pytest bench``: the short form times and checks every contender, and of the warnings only fastloss's are errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections import Counter
from pathlib import Path

import pytest

import fastloss as fl

BENCH = Path(__file__).parents[1] / "bench"

pytest.importorskip("pytest_benchmark", reason='pytest-benchmark is not installed: pip install -e ".[bench]"')
if not BENCH.exists():
    pytest.skip("the benchmarks are not beside the tests", allow_module_level=True)

# contenders of each kind, in the place of those that are there
CONTENDERS = """
import warnings
import contenders
from contenders import Contender, fastloss_step, numpy_step

def noisy(prepare, category):
    def prepare_noisy(*problem):
        warnings.warn("as it is imported", category)
        step = prepare(*problem)
        def noisy_step():
            warnings.warn("as it runs", category)
            return step()
        return noisy_step
    return prepare_noisy

def wrong(*problem):
    return lambda: (0, problem[1])

contenders.CONTENDERS = (
    Contender("plain", "fastloss", fastloss_step),
    Contender("noisy", "fastloss", noisy(fastloss_step, UserWarning)),
    Contender("deprecated peer", "numpy", noisy(numpy_step, DeprecationWarning)),
    Contender("noisy peer", "numpy", noisy(numpy_step, UserWarning)),
    Contender("leaking peer", "numpy", noisy(numpy_step, ResourceWarning)),
    Contender("wrong peer", "numpy", wrong),
    Contender("absent peer", "no_such_package", numpy_step),
    Contender("peer without a compiler", "numpy", numpy_step, program="no-such-compiler"),
    Contender("peer without the loss", "numpy", lambda *problem: None),
)
"""
CASE = "L2Loss float32 65536"
OUTCOMES = {
    "plain": "PASSED",
    "noisy": "ERROR",
    "deprecated peer": "PASSED",
    "noisy peer": "PASSED",
    "leaking peer": "PASSED",
    "wrong peer": "ERROR",
    "absent peer": "SKIPPED",
    "peer without a compiler": "SKIPPED",
    "peer without the loss": "SKIPPED",
}


def pytest_bench(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``pytest bench`` beside it, as a user does."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "bench", *arguments]
    # a worker of pytest-xdist does not time
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": path, "COLUMNS": "300"}
    return subprocess.run(
        command, cwd=BENCH.parent, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


# torch.compile takes half a minute where it has not been run before: the whole of the short form has it
def test_the_short_form_prints_a_table_with_every_contender() -> None:
    result = pytest_bench("--short", "-k", "L2Loss and float32 and not compiled")
    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(rf"benchmark '{CASE}': \d tests", result.stdout)
    timed = set(re.findall(rf"^test_speed\[{CASE}-(\S+)\] ", result.stdout, re.MULTILINE))
    skipped = int((re.search(r"(\d) skipped", result.stdout) or [0, 0])[1])
    assert {"fastloss", "numpy"} <= timed <= {"fastloss", "numpy", "torch", "jax", "numba", "sklearn", "numexpr"}
    assert len(timed) + skipped == 7


@pytest.mark.parametrize(("arguments", "sizes"), [(("--short",), 1), ((), 3)])
def test_every_loss_and_dtype_has_its_sizes(arguments: tuple[str, ...], sizes: int) -> None:
    result = pytest_bench("--collect-only", "-q", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    cases = re.findall(r"::test_speed\[(\w+) (\w+) (\S+?)-fastloss\]", result.stdout)
    counts = Counter(case[:2] for case in cases)
    sized = {loss for loss, dtype in counts if dtype == "float64"}
    assert len(sized) == 10
    assert {n for (loss, _), n in counts.items() if loss in sized} == {sizes}
    # the others have peers made of the tests' formulas, over one size
    assert {n for (loss, _), n in counts.items() if loss not in sized} == {1}
    assert {getattr(fl, loss) for loss, _ in counts} == {getattr(fl, name) for name in fl.losses.__all__} - {fl.Loss}


def test_warnings_of_peers_are_no_errors(tmp_path: Path) -> None:
    (tmp_path / "other_contenders.py").write_text(CONTENDERS, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(BENCH)])
    result = pytest_bench("--short", "-v", "-p", "other_contenders", "-k", CASE.replace(" ", " and "), path=path)
    found = dict(re.findall(rf"::test_speed\[{CASE}-(.*?)\] (\w+)", result.stdout))
    assert found == OUTCOMES, result.stdout + result.stderr


def test_numbers_of_results_warn_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCH)
    from cases import Case, number, problem
    from contenders import torch_step

    torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        values = [number(value) for value in (2, 2.0, problem(Case("L2Loss", (8,))).inputs[0].dtype.type(2))]
        values += [number(torch.tensor(2.0, requires_grad=needed)) for needed in (False, True)]
        assert values == [2.0] * 5
        for case in (Case("L2Loss", (8,)), Case("SoftmaxCELoss", (1, 8), "float64")):
            task = problem(case)
            step = torch_step(case.loss, *task.inputs)
            assert step is not None
            task.check(step())
