"""What the processes of tests/test_torch_distributed.py do: each trains on its part of a batch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

import fastloss.torch as modules

STEPS = 4


class Model(torch.nn.Module):
    """Two layers and the loss, whose activations are computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        self.criterion = modules.SoftmaxCELoss(class_weight=[1, 2, 3], label_smoothing=0.1, reduction="mean")

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        return checkpoint(lambda x: self.criterion(self.layers(x), y), x, use_reentrant=False)


def shard(model: Model) -> Any:
    return fully_shard(model, mesh=init_device_mesh("cpu", (distributed.get_world_size(),)))


WRAPPERS: dict[str, Callable[[Model], Any]] = {"DDP": DistributedDataParallel, "FSDP2": shard}


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 8, generator=generator), torch.arange(8) % 3


def curve(model: Any, x: torch.Tensor, y: torch.Tensor) -> list[float]:
    """The losses of the steps of a training."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    found = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        value = model(x, y)
        value.backward()
        optimizer.step()
        found.append(value.item())
    return found


def trained(rank: int, size: int, store: str) -> dict[str, list[float]]:
    """By the wrapper, the curve of all processes together."""
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    x, y = [a.chunk(size)[rank] for a in batch()]
    curves = {}
    for name, wrap in WRAPPERS.items():
        found = torch.tensor(curve(wrap(Model()), x, y))
        distributed.all_reduce(found)
        curves[name] = (found / size).tolist()
    distributed.destroy_process_group()
    return curves


if __name__ == "__main__":
    print(json.dumps(trained(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
