"""The option of ``pytest bench``, and which of the files here hold tests."""

from __future__ import annotations

from pathlib import Path

import pytest

# the others are scripts, whose imports take seconds and may warn
collect_ignore = [path.name for path in Path(__file__).parent.glob("*.py") if not path.name.startswith("test_")]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--short``."""
    parser.addoption("--short", action="store_true", help="bench: time one size of each loss, in few rounds")
