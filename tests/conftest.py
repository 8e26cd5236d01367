"""What the tests share: the losses as a fixture, seeded data, and the tolerance of a dtype."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import DTypeLike

from fastloss import _isa
from tests.reference import LOSSES, Reference

# the instruction sets of this processor, but for those that FASTLOSS_BUILDS has left out
BUILT = tuple(isa for isa in _isa.supported if any(Path(_isa.__file__).parent.glob(f"_kernels_{isa}.*")))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps the tests themselves from the search for garbage, which took a fifth of a second each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=LOSSES)
def reference(request: pytest.FixtureRequest) -> Reference:
    return LOSSES[request.param]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_260)


def assert_close(got: Any, want: Any, dtype: DTypeLike, terms: Any = 1) -> None:
    """Equal to the dtype's precision, relative to the largest entry, or to the terms that it is a difference of.

    A total is a float of Python, whatever the dtype.
    """
    tolerance = 2e-6 if dtype == np.float32 else 1e-12
    largest = max(1, np.max(np.abs(want), initial=0), np.max(np.abs(terms), initial=0))
    assert type(got) is float or np.asarray(got).dtype == dtype
    assert np.shape(got) == np.shape(want)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * largest)
