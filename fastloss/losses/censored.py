"""Losses of times that are known to lie between bounds."""

from __future__ import annotations

import math
from typing import Literal

from fastloss import _domains as domain
from fastloss._arguments import number
from fastloss._core import Loss
from fastloss._inputs import WEIGHT, Input, Reduction
from fastloss._isa import kernels

END = domain.Domain("times above 0, infinity for those that have not ended", 0, without=(0,), also=(math.inf,))
KERNELS = {"logistic": "LogisticDuration", "extreme": "ExtremeDuration"}


class AFTLoss(Loss):
    r"""The negative log-likelihood of a time between two bounds, given the logarithm of a typical one.

    .. math::
        \ell = \begin{cases} -\log \dfrac{f(z)}{\sigma t} & \text{bounds that are the same, } t \\
        -\log\left(F(\overline z) - F(\underline z)\right) & \text{else} \end{cases}, \quad
        z = \frac{\log t - x}{\sigma}

    F is the distribution of z and f its density: :math:`F = 1 / (1 + e^{-z})`, or :math:`F = 1 - e^{-e^z}`.

    Args:
        distribution: "logistic", which makes times log-logistic, or "extreme", of the smallest of many, which makes
            them Weibull's; with scale=1 they are exponential then.
        scale: sigma, above 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, lower, upper, sample_weight=None)``, pred the logarithm of a typical time; lower and upper bounds
    of the time, of pred's shape. Where they are the same, the time is known. upper is infinity for a time that has not
    ended by lower; lower is 0 for one that had ended when somebody looked first. There are no gradients in bounds.

    Raises ValueError for another distribution, and for a scale that is not above 0.

    The loss is convex in pred, with a Hessian above 0. Bounds in the wrong order have no loss: the result is NaN. The
    rounding of log t and of z shows in e^z: in the tails of censored times, errors are up to abs(log t) / sigma +
    abs(z) units in the last place, and in the upper one of the extreme distribution e^z times as many. The gradient is
    rounded to the digits of its larger term.

    Source: Barnwal, Cho and Hocking 2022. Gluon, PyTorch: none. XGBoost: ``survival:aft``
    (``aft_loss_distribution``, ``aft_loss_distribution_scale``), the same scale, but the value ends at 27.6 and the
    gradient at 15; CatBoost: ``SurvivalAft:dist;scale``.

    >>> import fastloss as fl
    >>> fl.AFTLoss()([0.0, 0.0, 0.0], [2.0, 2.0, 0.0], [2.0, float("inf"), 2.0]).round(4)
    array([2.1972, 1.0986, 0.4055])
    """

    __slots__ = ()

    def __init__(
        self,
        distribution: Literal["logistic", "extreme"] = "logistic",
        scale: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        if not isinstance(distribution, str) or distribution not in KERNELS:
            raise ValueError(f"distribution must be 'logistic' or 'extreme', got {distribution!r}")
        super().__init__(
            getattr(kernels, KERNELS[distribution])(number("scale", scale, above=0)),
            weight,
            batch_axis,
            reduction,
            inputs=(
                Input("pred"),
                Input("lower", domain=domain.MASS, differentiable=False),
                Input("upper", domain=END, differentiable=False),
                WEIGHT,
            ),
            link=None,
        )
