"""The logarithm of what a softmax divides by, as a loss without a label: every library's arrays have it by that."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from fastloss import _domains as domain
from fastloss._core import Loss
from fastloss._inputs import WEIGHT, Input, Reduction
from fastloss._isa import kernels


class LogNormalizer(Loss):
    """log sum e^v of rows of logits x, with v = c tanh(x/c) + bias for a softcap c and a logit_bias."""

    __slots__ = ()

    def __init__(
        self,
        axis: int = -1,
        softcap: float = 0,
        logit_bias: Sequence[float] | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "none",
    ) -> None:
        bias = None if logit_bias is None else np.array(logit_bias, np.float64).tobytes()
        super().__init__(
            kernels.AdjustedCrossEntropy(False, 0, softcap, bias, alone=True),
            None,
            batch_axis,
            reduction,
            layout="rows",
            axis=axis,
            inputs=(Input("pred", domain=domain.LOGARITHM), WEIGHT),
            row_parameter=None if logit_bias is None else ("logit_bias", len(logit_bias)),
            link=None,
        )


@functools.lru_cache(maxsize=16)
def log_normalizer(axis: int, softcap: float, bias: bytes | None) -> LogNormalizer:
    """The loss of a softcap, 0 for none, and of a bias as the bytes of doubles: built once, for that takes a while."""
    return LogNormalizer(axis, softcap, None if bias is None else np.frombuffer(bias).tolist())
