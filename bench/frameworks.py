"""Losses of PyTorch's and JAX's arrays, value and gradient, beside those of the frameworks themselves.

    python bench/frameworks.py

Both take turns; the times are medians. In PyTorch a turn is a forward and a backward pass to a leaf without a gradient,
in JAX a compiled value_and_grad.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

import fastloss as fl

Call = Callable[[], Any]

# which loss, PyTorch's module and its arguments, the loss in JAX
ELEMENTWISE: dict[str, tuple[fl.Loss, Any, Callable[..., Any]]] = {
    "L1": (fl.L1Loss(reduction="mean"), torch.nn.L1Loss(), lambda x, y: abs(x - y).mean()),
    "L2": (fl.L2Loss(weight=2, reduction="mean"), torch.nn.MSELoss(), lambda x, y: ((x - y) ** 2).mean()),
    "Huber": (
        fl.HuberLoss(reduction="mean"),
        torch.nn.SmoothL1Loss(),
        lambda x, y: jnp.where(abs(x - y) > 1, abs(x - y) - 0.5, (x - y) ** 2 / 2).mean(),
    ),
    "BCE": (
        fl.SigmoidBCELoss(reduction="mean"),
        torch.nn.BCEWithLogitsLoss(),
        lambda x, y: (jax.nn.softplus(x) - x * y).mean(),
    ),
}
SOFTMAX = (
    fl.SoftmaxCELoss(reduction="mean"),
    torch.nn.CrossEntropyLoss(),
    lambda x, y: -jnp.take_along_axis(jax.nn.log_softmax(x), y[:, None], 1).mean(),
)


def cases() -> Any:
    rng = np.random.default_rng(0)
    for size in (8, 1 << 22):
        x = rng.normal(size=size).astype(np.float32)
        y = (rng.random(size) < 0.5).astype(np.float32)
        for name, losses in ELEMENTWISE.items():
            yield f"{name} {size:,}", losses, x, y
    for rows, classes in ((2, 4), (4096, 1000), (512, 32000)):
        logits = rng.normal(size=(rows, classes)).astype(np.float32)
        yield f"softmax {rows:,} x {classes:,}", SOFTMAX, logits, rng.integers(0, classes, rows)


def in_torch(loss: Any, x: Any, y: Any, dtype: torch.dtype = torch.float32) -> Call:
    pred, label = torch.tensor(x).to(dtype).requires_grad_(), torch.tensor(y)
    label = label.to(dtype) if label.is_floating_point() else label

    def call() -> Any:
        pred.grad = None
        loss(pred, label).backward()
        return pred.grad

    return call


def in_jax(loss: Any, x: Any, y: Any) -> Call:
    call = jax.jit(jax.value_and_grad(loss))
    pred, label = jnp.asarray(x), jnp.asarray(y)
    return lambda: call(pred, label)[1].block_until_ready()


def compare(calls: list[Call], seconds: float) -> list[float]:
    """Median seconds of each, taking turns."""
    for call in calls:
        call()
    start = time.perf_counter()
    calls[0]()
    # small calls in rows, in which the machine is as warm as in a loop of the user's
    row = max(1, min(200, int(2e-3 / (time.perf_counter() - start))))
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 7:
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            for _ in range(row):
                call()
            taken.append((time.perf_counter() - start) / row)
    return [statistics.median(taken) for taken in times]


def print_frameworks(seconds: float) -> None:
    print("| case | PyTorch, µs | with fastloss | ratio | JAX, µs | with fastloss | ratio |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, (ours, torchs, jaxs), x, y in cases():
        cells = []
        for framework, theirs in ((in_torch, torchs), (in_jax, jaxs)):
            calls = [framework(theirs, x, y), framework(ours, x, y)]
            want, got = (np.asarray(call()) for call in calls)
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
            slow, fast = compare(calls, seconds)
            cells += [f"{slow * 1e6:,.1f}", f"{fast * 1e6:,.1f}", f"{slow / fast:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def print_halves(seconds: float) -> None:
    """Large cases in types of two bytes, beside PyTorch's in the same type and ours in float32."""
    print("| case | dtype | PyTorch, µs | with fastloss | ratio | of float32's time |")
    print("|---|---|---:|---:|---:|---:|")
    for name, (ours, torchs, _), x, y in cases():
        for dtype in (torch.bfloat16, torch.float16) if x.size > 1000 else ():
            calls = [in_torch(torchs, x, y, dtype), in_torch(ours, x, y, dtype), in_torch(ours, x, y)]
            want, got, _ = (call().float() for call in calls)
            # two steps of float16's subnormals
            torch.testing.assert_close(got, want, rtol=0.05, atol=max(float(want.abs().max()) / 64, 2**-23))
            slow, fast, single = compare(calls, seconds)
            cells = f"{slow * 1e6:,.0f} | {fast * 1e6:,.0f} | {slow / fast:.2f} | {fast / single:.2f}"
            print(f"| {name} | {str(dtype).removeprefix('torch.')} | {cells} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=2, help="for each case")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    fl.set_num_threads(options.threads)
    print_frameworks(options.seconds)
    print()
    print_halves(options.seconds)


if __name__ == "__main__":
    main()
