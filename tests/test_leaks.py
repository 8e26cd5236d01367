"""Calls leave nothing behind: a short run of tests/leaks.py, and that it sees what it looks for."""

from __future__ import annotations

import gc
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

import fastloss as fl
from tests.calls import ENTRIES, Call
from tests.leaks import MALLINFO, general_calls, growth

pytestmark = pytest.mark.thread_unsafe

CALLS = 150
CHOSEN = [
    *("L1", "L2", "Huber", "hinge", "squared hinge", "logistic signed", "BCE pos_weight", "Poisson rate epsilon", "KL"),
    *("softmax class_weight ignore", "KL logits", "triplet", "cosine", "SDML", "CTC"),
]
KNOWN = {ENTRIES[name].loss for name in CHOSEN}
# of each class
LOSSES = [*CHOSEN, *{case.loss: name for name, case in ENTRIES.items() if case.loss not in KNOWN}.values()]


@pytest.fixture(autouse=True)
def only_new_objects_are_searched() -> None:
    """For garbage: what the tests before have left would take a second each of the hundred times."""
    gc.collect()
    gc.freeze()


def test_calls_leave_nothing() -> None:
    command = [sys.executable, "-m", "tests.leaks", "--calls", str(CALLS), *LOSSES]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("call", list(general_calls()), ids=lambda call: call.name)
def test_all_else_leaves_nothing(call: Call) -> None:
    found = growth(call, CALLS // 10)
    assert not found.leaks, found


KEPT: list[Any] = []
LOSS = fl.L2Loss()


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("references", lambda: KEPT.append(LOSS)),
        ("blocks", lambda: KEPT.append(object())),
        pytest.param(
            "bytes",
            lambda: KEPT.append(bytearray(4096)),
            marks=pytest.mark.skipif(
                MALLINFO is None or bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
                reason="the system does not say what Python has of it",
            ),
        ),
    ],
)
def test_a_leak_is_seen(kind: str, make: Callable[[], Any]) -> None:
    call = Call(kind, partial(lambda loss: make(), LOSS))
    try:
        found = growth(call, CALLS)
        assert found.leaks
        assert getattr(found, kind) >= CALLS
    finally:
        KEPT.clear()
