"""PyTorch's models that are spread over processes learn as in one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
if not torch.distributed.is_available():
    pytest.skip("this PyTorch has no processes", allow_module_level=True)


def test_two_processes(tmp_path: Path) -> None:
    """With activations computed again, by DistributedDataParallel and by FSDP2."""
    from tests import distributed

    command = [sys.executable, "-m", "tests.distributed"]
    root = Path(__file__).parent.parent
    processes = [
        subprocess.Popen(
            [*command, str(rank), "2", str(tmp_path / "store")],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=200) for process in processes]
    finally:
        for process in processes:
            process.kill()
    alone = distributed.curve(distributed.Model(), *distributed.batch())
    assert alone[-1] < alone[0]
    for process, (out, err) in zip(processes, outputs, strict=True):
        assert process.returncode == 0, err
        curves = json.loads(out)
        assert list(curves) == list(distributed.WRAPPERS)
        for found in curves.values():
            assert found == pytest.approx(alone, rel=1e-5)
