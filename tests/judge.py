"""What a call may do: return what is right, or raise the right exception and leave everything as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]


class Failure(AssertionError):
    """What a call did that it must not."""


def parts(x: Any) -> list[Any]:
    """The arrays of what a method returns, or of out."""
    return [a for part in x for a in parts(part)] if isinstance(x, tuple) else [x]


def same_bits(a: Any, b: Any) -> bool:
    """Whether arrays agree to the last bit; one NaN is as good as another."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    return bool(((a == b) & (np.signbit(a) == np.signbit(b)) | (a != a) & (b != b)).all())


def largest(a: Array) -> float:
    """The largest absolute value of the finite ones."""
    return float(np.max(abs(a[np.isfinite(a)]), initial=0))


# in which numbers are compared with those of float64
TOLERANCES = {np.dtype(np.float16): 2e-3, np.dtype(np.float32): 4e-6, np.dtype(np.float64): 4e-12}


def is_close(got: Any, want: Any, dtype: DTypeLike, terms: float = 0) -> bool:
    """Whether a result is right to the dtype's precision, relative to the largest entry or to what it is a sum of.

    A total is a float of Python, which NumPy takes for float64.
    """
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype == np.float16:
        # whose largest number is small
        with np.errstate(over="ignore"):
            want = want.astype(np.float16).astype(np.float64)
    tolerance = TOLERANCES[np.dtype(dtype)]
    scale = max(1.0, largest(want), terms)
    return bool(
        (got.dtype == dtype or (got.shape == () and got.dtype == np.float64))
        and got.shape == want.shape
        and np.allclose(got, want, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    )


def bytes_of(arrays: Iterable[Any]) -> list[bytes]:
    """What arrays hold, numbers that do not compare included; the bytes behind an array that repeats them, once."""
    return [x.tobytes() for x in arrays]


def refusal(
    call: Callable[[], Any], kinds: Sequence[type[Exception]], word: str, untouched: Sequence[Array] = ()
) -> str:
    """The name of the exception that a call raises, which must be one of these, with that word in its message."""
    before = bytes_of(untouched)
    try:
        got = call()
    except Exception as error:
        # NumPy has a MemoryError of its own
        kind = MemoryError if isinstance(error, MemoryError) else type(error)
        if kind not in kinds or word not in str(error):
            text = f"{type(error).__name__}: {error}"
            raise Failure(f"{text}; it should have been {names(kinds)} with {word!r}") from error
        if bytes_of(untouched) != before:
            raise Failure(f"{type(error).__name__}: {error}; but an argument has changed") from error
        return kind.__name__
    raise Failure(f"it returned {got!r}; it should have raised {names(kinds)} with {word!r}")


def names(kinds: Sequence[type[Exception]]) -> str:
    return " or ".join(kind.__name__ for kind in kinds)


def equality(
    call: Callable[[], Any], want: Sequence[Array], untouched: Sequence[Array] = (), buffers: Sequence[Any] = ()
) -> str:
    """'equal', if a call returns these results to the last bit, in the caller's buffers where there are any."""
    kept = [x for x in untouched if not any(b is not None and np.may_share_memory(x, b) for b in buffers)]
    before = bytes_of(kept)
    results = parts(call())
    if len(results) != len(want):
        raise Failure(f"{len(results)} results, not {len(want)}")
    for x, y in zip(results, want, strict=True):
        if not same_bits(x, y):
            raise Failure(f"{x!r} is not, to the last bit, {y!r}")
    for x, buffer in zip(results, buffers or [None] * len(results), strict=True):
        if buffer is not None and x is not buffer:
            raise Failure("a result is not the caller's buffer")
    if bytes_of(kept) != before:
        raise Failure("an input has changed")
    return "equal"
