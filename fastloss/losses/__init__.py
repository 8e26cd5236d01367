"""The losses, a family a file: a class each, with its formula, its parameters and its source."""

from fastloss._core import Loss
from fastloss.losses.binary import (
    HingeLoss,
    LogisticLoss,
    SigmoidBCELoss,
    SigmoidBinaryCrossEntropyLoss,
    SquaredHingeLoss,
)
from fastloss.losses.classes import KLDivLoss, SoftmaxCELoss, SoftmaxCrossEntropyLoss
from fastloss.losses.counts import PoissonNLLLoss
from fastloss.losses.regression import HuberLoss, L1Loss, L2Loss
from fastloss.losses.sequences import CTCLoss
from fastloss.losses.vectors import CosineEmbeddingLoss, SDMLLoss, TripletLoss

__all__ = [
    "CTCLoss",
    "CosineEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "L2Loss",
    "LogisticLoss",
    "Loss",
    "PoissonNLLLoss",
    "SDMLLoss",
    "SigmoidBCELoss",
    "SigmoidBinaryCrossEntropyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
    "SquaredHingeLoss",
    "TripletLoss",
]
