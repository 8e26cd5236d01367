"""Checks a source distribution and wheels: what they hold, their size, and that the source builds without git.

python tools/check_dist.py dist/*.tar.gz wheelhouse/*.whl
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

LARGEST = 2_500_000  # bytes of a wheel
IN_WHEELS = {".py", ".pyi", ".so", ".pyd", ".dylib", ".dll"}
GENERATED = {".c", ".o", ".so", ".pyc", ".html"}
WRITTEN = {"bench/triad.c", "tests/faults.c"}
NEEDED = {"setup.py", "pyproject.toml", "LICENSE", "licenses/libgomp.txt", "README.md", "CHANGELOG.md"}


def check(holds: bool, message: str) -> None:
    if not holds:
        sys.exit(message)


def belongs(name: PurePosixPath) -> bool:
    """Whether a wheel needs a file: a module, its types, a library, or what describes the distribution."""
    if name.parts[0].endswith(".dist-info"):
        return True
    if name.name.startswith("_elementary"):
        return False
    kind = name.name == "py.typed" or name.suffix in IN_WHEELS or ".so" in name.suffixes
    return kind and name.parts[0] in ("fastloss", "fastloss.libs")


def check_wheel(path: Path) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = [PurePosixPath(member.filename) for member in wheel.infolist() if not member.is_dir()]
    strangers = [str(name) for name in names if not belongs(name)]
    check(not strangers, f"{path.name} holds {strangers}")
    check(any(name.name == "py.typed" for name in names), f"{path.name} lacks py.typed")
    for licence in ("LICENSE", "libgomp.txt"):
        check(any(name.name == licence for name in names), f"{path.name} lacks {licence}")
    size = path.stat().st_size
    check(size <= LARGEST, f"{path.name} has {size:,} bytes, more than {LARGEST:,}")
    print(f"{path.name}: {len(names)} files, {size:,} bytes")


def check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive, tempfile.TemporaryDirectory() as folder:
        files = [PurePosixPath(*PurePosixPath(member.name).parts[1:]) for member in archive if member.isfile()]
        generated = [str(name) for name in files if name.suffix in GENERATED and str(name) not in WRITTEN]
        check(not generated, f"{path.name} holds {generated}")
        missing = NEEDED - {str(name) for name in files}
        check(not missing, f"{path.name} lacks {sorted(missing)}")
        # a git that does nothing but fail stands before any other
        shim = Path(folder, "bin", "git")
        shim.parent.mkdir()
        shim.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        shim.chmod(0o755)
        environment = os.environ | {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}"}
        command = [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--wheel-dir",
            folder,
            str(path.resolve()),
        ]
        subprocess.run(command, check=True, env=environment, cwd=folder, timeout=1800)
        built = [wheel.name for wheel in Path(folder).glob("*.whl")]
    print(f"{path.name}: {len(files)} files, {path.stat().st_size:,} bytes, builds {', '.join(built)} without git")


if __name__ == "__main__":
    for argument in map(Path, sys.argv[1:]):
        check_wheel(argument) if argument.suffix == ".whl" else check_sdist(argument)
