"""The losses as PyTorch modules: ``fastloss.torch.L2Loss(reduction="mean")`` in place of ``torch.nn.MSELoss()``.

A module is built with the arguments of the loss of its name and called with tensors in its place. The losses themselves
take tensors, too; a module is what belongs into an ``nn.Sequential`` or is listed when a model is printed.

>>> import torch
>>> import fastloss.torch
>>> loss = fastloss.torch.HuberLoss(rho=1, reduction="mean")
>>> pred = torch.tensor([0.5, 3.0], requires_grad=True)
>>> loss(pred, torch.zeros(2)).backward()
>>> pred.grad
tensor([0.2500, 0.5000])
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch

from fastloss import losses

__all__ = [name for name in losses.__all__ if name != "Loss"]


class LossModule(torch.nn.Module):
    """The base of the modules, each of which holds one loss."""

    kind: ClassVar[type[losses.Loss]]

    def __init_subclass__(cls) -> None:
        cls.__doc__ = f"The module of :class:`fastloss.{cls.kind.__name__}`, built and called like it."
        cls.__signature__ = inspect.signature(cls.kind)  # type: ignore[attr-defined]

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__()
        self.loss = self.kind(*args, **named)

    def forward(self, *inputs: Any, **named: Any) -> torch.Tensor:
        value: torch.Tensor = self.loss(*inputs, **named)
        return value

    def extra_repr(self) -> str:
        return repr(self.loss)


class L1Loss(LossModule):
    kind = losses.L1Loss


class L2Loss(LossModule):
    kind = losses.L2Loss


class HuberLoss(LossModule):
    kind = losses.HuberLoss


class HingeLoss(LossModule):
    kind = losses.HingeLoss


class SquaredHingeLoss(LossModule):
    kind = losses.SquaredHingeLoss


class LogisticLoss(LossModule):
    kind = losses.LogisticLoss


class SigmoidBinaryCrossEntropyLoss(LossModule):
    kind = losses.SigmoidBinaryCrossEntropyLoss


class PoissonNLLLoss(LossModule):
    kind = losses.PoissonNLLLoss


class KLDivLoss(LossModule):
    kind = losses.KLDivLoss


class SoftmaxCrossEntropyLoss(LossModule):
    kind = losses.SoftmaxCrossEntropyLoss


class TripletLoss(LossModule):
    kind = losses.TripletLoss


class CosineEmbeddingLoss(LossModule):
    kind = losses.CosineEmbeddingLoss


class CTCLoss(LossModule):
    kind = losses.CTCLoss


class SDMLLoss(LossModule):
    kind = losses.SDMLLoss


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss
SoftmaxCELoss = SoftmaxCrossEntropyLoss
