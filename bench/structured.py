"""Times the losses over vectors, pairs and sequences beside PyTorch's, forward plus backward, and prints the ratios.

The same work on both sides: the value of each example, and the gradients in every real input. PyTorch's SDML is timed
with both ways of its ``cdist``: by matrix products, the default, which loses the digits of near pairs, and exactly.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from timeit import Timer
from typing import Any

import numpy as np
import torch
from compare import SECONDS, measure
from report import table

import fastloss as fl

Steps = dict[str, Callable[[], Any]]


def torch_step(loss: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Callable[[], Any]:
    """Return a step that computes the sum of a loss and its gradients."""

    def step() -> Any:
        for a in inputs:
            a.grad = None
        value = loss(*inputs)
        value.sum().backward()  # type: ignore[no-untyped-call]
        return value.detach().numpy(), tuple(a.grad.numpy() for a in inputs if a.grad is not None)

    return step


def variables(*arrays: Any) -> tuple[torch.Tensor, ...]:
    """Return arrays as tensors with gradients."""
    return tuple(torch.tensor(a, requires_grad=True) for a in arrays)


def vectors(rng: np.random.Generator) -> dict[str, Steps]:
    """Return triplets and angles of 65,536 vectors of 128."""
    x, y, z = rng.standard_normal((3, 65_536, 128), dtype=np.float32)
    label = rng.choice([-1, 1], len(x))
    triplet, cosine = fl.TripletLoss(), fl.CosineEmbeddingLoss()
    tensors, labels = variables(x, y, z), torch.tensor(label)
    return {
        "TripletLoss 65536x128": {
            "fastloss": lambda: triplet.value_and_grad(x, y, z, wrt=("pred", "positive", "negative")),
            "torch": torch_step(lambda a, b, c: torch.relu(1 + ((b - a) ** 2 - (c - a) ** 2).sum(1)), *tensors),
        },
        "CosineEmbeddingLoss 65536x128": {
            "fastloss": lambda: cosine.value_and_grad(x, y, label, wrt=("input1", "input2")),
            "torch": torch_step(
                lambda a, b: torch.nn.functional.cosine_embedding_loss(a, b, labels, reduction="none"), *tensors[:2]
            ),
        },
    }


def pairs(rng: np.random.Generator) -> dict[str, Steps]:
    """Return SDML of 1,024 pairs of vectors of 128."""
    x = rng.standard_normal((1024, 128), dtype=np.float32)
    y = x + 0.3 * rng.standard_normal(x.shape, dtype=np.float32)
    loss, tensors = fl.SDMLLoss(), variables(x, y)
    target = torch.full((len(x), len(x)), 0.3 / (len(x) - 1)).fill_diagonal_(0.7)

    def torch_loss(mode: str) -> Callable[..., torch.Tensor]:
        def value(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            log_p = torch.log_softmax(-(torch.cdist(a, b, compute_mode=mode) ** 2), 1)
            return (target * (torch.log(target + 1e-12) - log_p)).sum(1)

        return value

    return {
        f"SDMLLoss 1024x128, {name}": {
            "fastloss": lambda: loss.value_and_grad(x, y, wrt=("x1", "x2")),
            "torch": torch_step(torch_loss(mode), *tensors),
        }
        for name, mode in (
            ("matrix products", "use_mm_for_euclid_dist_if_necessary"),
            ("exact", "donot_use_mm_for_euclid_dist"),
        )
    }


def sequences(rng: np.random.Generator) -> dict[str, Steps]:
    """Return CTC of 32 sequences of 500 frames, 64 classes, labels of 50, the softmax inside."""
    pred = rng.standard_normal((32, 500, 64), dtype=np.float32)
    label = rng.integers(1, 64, (32, 50))
    loss, tensors = fl.CTCLoss(blank="first"), variables(pred)
    labels, frames, lengths = torch.tensor(label), torch.full((32,), 500), torch.full((32,), 50)
    return {
        "CTCLoss 32x500x64, labels of 50": {
            "fastloss": lambda: loss.value_and_grad(pred, label, wrt=("pred",)),
            "torch": torch_step(
                lambda a: torch.nn.functional.ctc_loss(
                    torch.log_softmax(a, 2).transpose(0, 1), labels, frames, lengths, reduction="none"
                ),
                *tensors,
            ),
        }
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of each contender")
    options = parser.parse_args()
    fl.set_num_threads(options.threads)
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    rows = [["value and gradients", "fastloss ms", "torch ms", "torch/fastloss"]]
    for case, steps in (vectors(rng) | pairs(rng) | sequences(rng)).items():
        (value, gradients), (want, want_gradients) = (step() for step in steps.values())
        for got, expected in zip((value, *gradients), (want, *want_gradients), strict=True):
            # PyTorch's float32 is the less accurate one
            np.testing.assert_allclose(got, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max(), err_msg=case)
        times = measure({name: Timer(step) for name, step in steps.items()}, SECONDS)
        ratio = times["torch"] / times["fastloss"]
        rows.append([case, f"{times['fastloss'] * 1e3:.1f}", f"{times['torch'] * 1e3:.1f}", f"{ratio:.2f}"])
    print(table(rows))


if __name__ == "__main__":
    main()
