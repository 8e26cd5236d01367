"""The order of the sources: who may name whom, how long lines and functions are, that each file stands by itself."""

from __future__ import annotations

import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastloss as fl
from tests.reference import LOSSES
from tests.structured import STRUCTURED

PACKAGE = Path(fl.__file__).parent
CHECKOUT = PACKAGE.parent
SOURCES = sorted(path for path in PACKAGE.rglob("*") if path.suffix in {".py", ".pyx", ".pxd", ".pxi"})
HAS_SOURCES = (PACKAGE / "_kernels.pyx").exists()

pytestmark = pytest.mark.skipif(not HAS_SOURCES, reason="a wheel holds no Cython")

# what runs every loss; the files with formulas, and the lists of these, are not among it
ENGINE = [
    *(
        "_core.pyx",
        "_plan.pxd",
        "_inputs.py",
        "_arguments.py",
        "call/arrays.pxi",
        "call/inputs.pxi",
        "call/results.pxi",
        "call/linear.pxi",
    ),
    *("call/weights.pxi", "call/range.pxi", "call/schedule.pxi", "kernels/blocks.pxi", "kernels/sums.pxi"),
    *("kernels/pipeline.pxi", "kernels/checks.pxi", "kernels/elements.pxi", "kernels/rows.pxi", "kernels/linear.pxi"),
    *("backends/__init__.py", "backends/layout.py", "backends/torch.py", "backends/torch_operators.py"),
    *("backends/jax.py", "backends/jax_calls.py", "backends/autograd.py", "backends/dask.py", "backends/mapping.py"),
    *("_chunks.py", "backends/jax_partition.py", "backends/torch_linear.py", "backends/dask_linear.py"),
    *("backends/jax_linear.py", "backends/jax_weights.py"),
]
# what every loss takes, or so many that it is the engine's affair, and words of every language
SHARED = {"weight", "batch_axis", "reduction", "axis", "layout", "scale", "pred", "label", "sample_weight"}


def losses() -> list[type[fl.Loss]]:
    return list(dict.fromkeys(getattr(fl, name) for name in fl.losses.__all__ if name != "Loss"))


def names_of_losses() -> set[str]:
    """The classes, their kernels, their arguments and their inputs."""
    kernels = re.findall(r"^cdef class (\w+)\(", "\n".join(path.read_text("utf-8") for path in SOURCES), re.MULTILINE)
    found = {*fl.losses.__all__, *kernels} - {"Loss", "Kernel", "ClassKernel"}
    for cls in losses():
        found |= {*inspect.signature(cls).parameters, *cls().inputs}
    # a letter is a variable of every file
    return {name for name in found - SHARED if len(name) > 1}


@pytest.mark.parametrize("name", ENGINE)
def test_the_engine_names_no_loss(name: str) -> None:
    # the caches of a processor have the names of two losses
    text = re.sub(r"\bL[12] cache|\bin L1\b", "", (PACKAGE / name).read_text("utf-8"))
    words = set(re.findall(r"\w+", text))
    assert sorted(words & names_of_losses()) == []


def functions(lines: list[str]) -> Iterator[tuple[str, int]]:
    """The head of each function, and how many lines it has to its last."""
    for start, head in enumerate(lines):
        if not re.match(r"\s*(cdef|cpdef|def)\b(?! class| extern)[^=]*\(", head):
            continue
        indent = len(head) - len(head.lstrip())
        body = start
        while body < len(lines) - 1 and not lines[body].rstrip().endswith(":"):
            body += 1
        last = body
        for k in range(body + 1, len(lines)):
            if lines[k].strip() and len(lines[k]) - len(lines[k].lstrip()) <= indent:
                break
            last = k if lines[k].strip() else last
        yield head.strip(), last - start + 1


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_lines_and_functions_are_short(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert [line for line in lines if len(line) > 120] == []
    # a function of C that Cython declares has no body
    declared = path.name == "_machine.pxd"
    assert [head for head, n in functions(lines) if n > 60 and not declared] == []


# each with what it stands on, in the order of the translation unit
def included(name: str) -> list[str]:
    return re.findall(r'^include "fastloss/(.+)"', (PACKAGE / name).read_text("utf-8"), re.MULTILINE)


CIMPORT = re.compile(r"^from [\w.]+ cimport (?:\(([^)]*)\)|(.*))$", re.MULTILINE)


def cimported(text: str) -> set[str]:
    """The names that a file takes from others."""
    parts = [part for found in CIMPORT.findall(text) for part in re.split(r",\s*", "".join(found).strip().strip(","))]
    return {part.split()[-1] for part in parts if part.strip()}


@pytest.mark.parametrize("name", included("_kernels.pyx") if HAS_SOURCES else [])
def test_each_file_of_kernels_says_what_it_uses(name: str) -> None:
    """What is cimported in other files alone is not known in this one."""
    text = (PACKAGE / name).read_text("utf-8")
    # a file of formulas takes all of the elementary functions
    functions = re.findall(r"\b(\w+)\(", (PACKAGE / "_math.pxd").read_text("utf-8")) if "formulas/" in name else []
    files = ("_kernels.pyx", *included("_kernels.pyx"))
    everywhere = {known for other in files for known in cimported((PACKAGE / other).read_text("utf-8"))}
    code = CIMPORT.sub("", re.sub(r'"""[\s\S]*?"""|#.*|"[^"\n]*"', "", text))
    used = set(re.findall(r"\b\w+\b", code))
    assert sorted((used & everywhere) - cimported(text) - {"real_t", *functions}) == []
    assert sorted(cimported(text) - used - {"*"}) == []


# shapes of loops, of which none may lean on another
LOOPS = [["labels", "classes", "few_classes", "divergences", "vectors", "rows"], ["pairs"], ["sequences"]]


def parts() -> dict[str, list[str]]:
    """Files of kernels that are to compile without the others, by the last of each list."""
    files = included("_kernels.pyx") if HAS_SOURCES else []
    base = [name for name in files if name.endswith("base.pxi")]
    found = {name: [*base, name] for name in files if "formulas/" in name and name not in base}
    loops = [[f"kernels/{name}.pxi" for name in names] for names in LOOPS]
    engine = [name for name in files if not any(name in names for names in loops)]
    return found | {names[-1]: [*engine, *names] for names in loops}


@pytest.mark.parametrize("name", parts())
def test_each_file_of_kernels_compiles_without_the_others(name: str, tmp_path: Path) -> None:
    pytest.importorskip("Cython", reason="Cython is not installed: pip install cython")
    unit = tmp_path / "unit.pyx"
    unit.write_text("cimport cython\n" + "".join(f'include "fastloss/{part}"\n' for part in parts()[name]), "utf-8")
    command = [sys.executable, "-m", "cython", "-3", "-I", str(CHECKOUT), str(unit), "-o", str(tmp_path / "unit.c")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=CHECKOUT, timeout=300, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(shutil.which("git") is None or not (CHECKOUT / ".git").exists(), reason="no checkout")
def test_what_a_line_of_cython_includes_is_in_the_checkout() -> None:
    listed = subprocess.run(["git", "ls-files", "fastloss"], cwd=CHECKOUT, capture_output=True, text=True, check=True)
    known = set(listed.stdout.split())
    for unit in ("_kernels.pyx", "_core.pyx"):
        assert {f"fastloss/{name}" for name in included(unit)} <= known


def test_every_loss_of_a_family_is_in_the_package() -> None:
    families = [path for path in (PACKAGE / "losses").glob("*.py") if not path.name.startswith("_")]
    text = "\n".join(path.read_text("utf-8") for path in families)
    found = re.findall(r"^(?:class )?(\w+Loss)(?:\(\w+\):| = \w+)$", text, re.MULTILINE)
    assert sorted(fl.losses.__all__) == sorted([*found, "Loss"]), "fastloss/losses/_families.py"


EXAMPLES = CHECKOUT / "docs" / "adding.md"


@pytest.mark.skipif(shutil.which("git") is None or not (CHECKOUT / ".git").exists(), reason="no checkout")
def test_the_examples_of_added_losses_apply() -> None:
    examples = re.findall(r"```diff\n(.*?)```", EXAMPLES.read_text("utf-8"), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        command = ["git", "apply", "--check", "-C0", "--recount", "-"]
        result = subprocess.run(command, input=example, cwd=CHECKOUT, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr


# where each loss is named by hand
PLACES = ["CHANGELOG.md"]


@pytest.mark.parametrize("place", PLACES)
def test_no_loss_is_forgotten(place: str) -> None:
    path = CHECKOUT / place
    if not path.exists():
        pytest.skip(f"{place} is in a checkout alone")
    words = set(re.findall(r"\w+", path.read_text("utf-8")))
    aliases = [{name for name in fl.losses.__all__ if getattr(fl, name) is cls} for cls in losses()]
    assert [sorted(names) for names in aliases if not words & names] == []


def test_no_loss_lacks_a_reference() -> None:
    described = {reference.loss for reference in LOSSES.values()} | {one.loss for one in STRUCTURED.values()}
    assert described == set(losses())
