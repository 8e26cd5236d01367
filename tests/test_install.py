"""What is said to those who install: of the build without a compiler that works, and of the way to the extras."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

needs_build = pytest.mark.skipif(
    not (ROOT / "setup.py").exists() or os.name != "posix", reason="there is no setup.py that looks for a compiler"
)

# programs in the place of a compiler, the last two of which are gcc but for what they lack
PROGRAMS = {
    "silent": "exit 1",
    "talking": 'echo "cc1: error: no room left." >&2; exit 1',
    "headless": 'case "$*" in *-I/*) echo "Python.h: fatal error: not there" >&2; exit 1;; esac; exec gcc "$@"',
    "optionless": 'case "$*" in *-O2*) echo "cc: error: -O2 is unknown" >&2; exit 1;; esac; exec gcc "$@"',
}
ABSENT = "fastloss needs a C compiler, and {cc} fails: {why}. Install one (on Debian: apt-get install gcc libc6-dev "
ABSENT += "python3-dev), or name another in the environment variable CC.\n"
HEADLESS = "fastloss needs Python's header files, and {cc} fails at Python.h in {headers}: {why}. Install them (on "
HEADLESS += "Debian: apt-get install python3-dev).\n"
OPTIONLESS = (
    "fastloss needs a C compiler with its options and OpenMP, and {cc} fails: {why}. Install GCC 12 or later (on "
)
OPTIONLESS += "Debian: apt-get install gcc), or name another in the environment variable CC.\n"
LINES = {
    "nonexistent": (ABSENT, "it is not installed"),
    "nonexistent -m64": (ABSENT, "it is not installed"),
    "{folder}": (ABSENT, "Permission denied"),
    "{folder}/silent": (ABSENT, "it prints nothing"),
    "{folder}/talking": (ABSENT, "cc1: error: no room left"),
    "{folder}/headless": (HEADLESS, "Python.h: fatal error: not there"),
    "{folder}/optionless": (OPTIONLESS, "cc: error: -O2 is unknown"),
}


@needs_build
@pytest.mark.parametrize("cc", LINES)
def test_one_line_says_what_the_build_lacks(cc: str, tmp_path: Path) -> None:
    for library in ("Cython", "setuptools"):
        pytest.importorskip(library, reason=f"the build needs {library}: pip install cython setuptools")
    if "less" in cc and not shutil.which("gcc"):
        pytest.skip("the program stands in for gcc, which is not installed")
    for name, script in PROGRAMS.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        program.chmod(0o755)
    cc, (line, why) = cc.format(folder=tmp_path), LINES[cc]
    environment = os.environ | {"CC": cc, "LC_ALL": "C"}
    command = [sys.executable, "setup.py", "--version"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert result.stderr == line.format(cc=cc, why=why, headers=sysconfig.get_path("include"))
    assert (result.returncode, result.stdout) == (1, "")


@needs_build
def test_builds_that_there_are_not_are_refused() -> None:
    for library in ("Cython", "setuptools"):
        pytest.importorskip(library, reason=f"the build needs {library}: pip install cython setuptools")
    environment = os.environ | {"FASTLOSS_BUILDS": "avx2"}
    command = [sys.executable, "setup.py", "--version"]
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.returncode, result.stderr) == (1, "FASTLOSS_BUILDS must be all or native, got 'avx2'.\n")


def texts() -> list[Path]:
    """Return what people read, of that which is there."""
    folders = ("fastloss", "docs", "tests", "tools", "bench", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".py", ".sh"}]
    return [*files, *ROOT.glob("*.md"), *ROOT.glob("*.py")]


def test_no_text_installs_from_an_index() -> None:
    found = [str(path) for path in texts() if re.search(r'pip install "?fastloss', path.read_text(encoding="utf-8"))]
    assert found == []
