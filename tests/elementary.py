"""Measures the error of the elementary functions of _math in units in the last place (ULP): python -m tests.elementary

float32: every input there is, against NumPy's float64 functions; a quarter of an hour, or --every N for every Nth.
float64: millions of random inputs of every magnitude, against long double, which has 11 bits more on x86.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastloss import _isa

CHUNK = 1 << 22
# log1p_unit leaves out the tiny u: log(1 + u) is u there
SMALL = 1e-30


@dataclass(frozen=True)
class Function:
    """What a function of _math computes, for which first arguments, and its stated error; a second one is `second`."""

    exact: Callable[[Any, Any], Any]
    low: float
    high: float
    second: float = 0.0
    within: float = 1.0


def log1pmx(t: Any) -> Any:
    """t - log(1 + t), by its series where that cancels: its ends are below the rounding of either wider type."""
    series = np.zeros_like(t)
    for k in range(24, 1, -1):
        series = series * -t + t.dtype.type(1) / k
    return np.where(t < 0.1, t * t * series, t - np.log1p(t))


FUNCTIONS = {
    "exp": Function(lambda a, b: np.exp(a), -np.inf, np.inf),
    "exp_nonpositive": Function(lambda a, b: np.exp(a), -np.inf, 0),
    "exp_sum(x, 0.7)": Function(lambda a, b: np.exp(a) * np.exp(b), -np.inf, np.inf, 0.7, within=1.1),
    "exp_sum(x, -30.3)": Function(lambda a, b: np.exp(a) * np.exp(b), -np.inf, np.inf, -30.3, within=1.1),
    "expm1_nonpositive": Function(lambda a, b: np.expm1(a), -np.inf, 0, within=1.3),
    "exp_beside_expm1": Function(lambda a, b: np.exp(a), -np.inf, 0),
    "log1pmx_unit": Function(lambda a, b: log1pmx(a), 0, 1, within=2.5),
    "sqrt": Function(lambda a, b: np.sqrt(a), 0, np.inf, within=0.5),
    "log1p_unit": Function(lambda a, b: np.log1p(a), SMALL, 1),
    "log_from_one": Function(lambda a, b: np.log(a), 1, np.inf),
    "log_sum(x, 0)": Function(lambda a, b: np.log(a), 0, np.inf),
    "log_sum(x, 1)": Function(lambda a, b: np.log1p(a), -1, np.inf, 1.0),
    "log_sum(x, 1e-12)": Function(
        lambda a, b: np.log(np.maximum(a, b)) + np.log1p(np.minimum(a, b) / np.maximum(a, b)), 0, np.inf, 1e-12
    ),
}


def computed(name: str, a: Any, b: Any, built: Any) -> Any:
    """Return a function of _math of a and b, in their dtype."""
    out = np.empty_like(a)
    function = name.partition("(")[0]
    built.elementary(function, a.dtype == np.float64, a.size, a.ctypes.data, b.ctypes.data, out.ctypes.data)
    return out


def ulps(got: Any, exact: Any) -> Any:
    """Return the errors in units in the last place of the exact results; an overflow to infinity is none."""
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        _, exponent = np.frexp(np.clip(np.abs(exact), info.smallest_subnormal, info.max))
        unit = np.ldexp(np.ones_like(exact), np.maximum(exponent - 1, info.minexp) - info.nmant)
        error = np.abs(got - exact) / unit
        right = (got == exact) | (np.isnan(got) & np.isnan(exact)) | ((np.abs(exact) > info.max) & np.isinf(got))
    return np.where(right, 0, error)


def every_float(every: int) -> Iterator[Any]:
    """Yield all float32, or every Nth."""
    step = CHUNK * every
    for start in range(0, 1 << 32, step):
        yield np.arange(start, min(start + step, 1 << 32), every, dtype=np.uint32).view(np.float32)


def random_doubles(chunks: int) -> Iterator[Any]:
    """Yield random float64: of every bit pattern, and of ordinary size."""
    rng = np.random.default_rng(1)
    for _ in range(chunks):
        yield rng.integers(0, 1 << 64, CHUNK // 16, dtype=np.uint64).view(np.float64)
        yield rng.uniform(-760, 760, CHUNK // 16)
        yield rng.normal(size=CHUNK // 16)
        yield np.exp(rng.uniform(-40, 40, CHUNK // 16))


def worst(name: str, chunks: Iterable[Any], wider: Any, built: Any) -> tuple[float, float]:
    """Return the largest error of a function in one of the builds of _elementary.pyx, and for which input."""
    function = FUNCTIONS[name]
    most, where = -1.0, np.nan
    for a in chunks:
        with np.errstate(all="ignore"):
            a = a[((a >= function.low) & (a <= function.high)) | np.isnan(a)]
            b = np.full_like(a, function.second)
            error = ulps(computed(name, a, b, built), function.exact(a.astype(wider), b.astype(wider)))
        if a.size and (at := np.nanargmax(np.where(np.isnan(error), np.inf, error))) >= 0 and error[at] > most:
            most, where = float(error[at]), float(a[at])
    return most, where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="every Nth float32 instead of all")
    parser.add_argument("--chunks", type=int, default=16, help="a million random float64 each")
    options = parser.parse_args()
    built = importlib.import_module(f"fastloss._elementary_{_isa.name}")
    print(f"instruction set {_isa.name}\n")
    print(f"| {'function':18} | {'dtype':7} | {'max ULP':>8} | {'at':>24} |")
    print(f"| {'-' * 18} | {'-' * 7} | {'-' * 7}: | {'-' * 23}: |")
    for name in FUNCTIONS:
        for dtype, chunks, wider in (
            ("float32", every_float(options.every), np.float64),
            ("float64", random_doubles(options.chunks), np.longdouble),
        ):
            most, where = worst(name, chunks, wider, built)
            print(f"| {name:18} | {dtype:7} | {most:8.4f} | {where:24.17g} |", flush=True)


if __name__ == "__main__":
    main()
