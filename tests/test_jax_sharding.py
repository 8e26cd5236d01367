"""JAX's meshes of devices: what a loss gives inside shard_map, and of arrays that are cut, is what jnp gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sharding import PROGRAMS

jax = pytest.importorskip("jax", reason='JAX is not installed: pip install -e ".[jax]"')
if not hasattr(jax, "shard_map") or not hasattr(jax.sharding, "ManualAxisType"):
    pytest.skip("this JAX writes these programs in another way", allow_module_level=True)


def test_programs() -> None:
    """All in a process of its own: a process has as many devices as it began with."""
    process = subprocess.run(
        [sys.executable, "-m", "tests.sharding"],
        cwd=Path(__file__).parent.parent,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert process.returncode == 0, process.stderr
    failures: dict[str, str] = json.loads(process.stdout)
    assert sorted(failures) == sorted(PROGRAMS)
    assert {name: text for name, text in failures.items() if text} == {}
