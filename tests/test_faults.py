"""No memory: MemoryError and nothing else, wherever it runs out. A short run of tests/faults.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import build_allocator, reason_to_skip, tally_of

pytestmark = [
    pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip())),
    pytest.mark.thread_unsafe,
]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_allocator(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("BCE pos_weight", "large"),
        ("CTC", "error"),
        ("SDML", "small"),
        ("softmax class_weight", "build"),
    ],
)
def test_allocations_fail(library: Path, name: str, size: str) -> None:
    tally = tally_of(name, library, [size])
    assert tally.defects == []
    assert tally.injected == tally.errors + tally.tolerated
    assert tally.errors > 100
    # the error of the call stands where there is no memory for its traceback
    assert tally.tolerated < tally.errors / (3 if size == "error" else 50)
