"""Losses of labels that lie between bounds: times, and ordered classes."""

from __future__ import annotations

import math
from typing import Literal

from fastloss import _domains as domain
from fastloss._arguments import number
from fastloss._core import Loss
from fastloss._inputs import WEIGHT, Input, Reduction
from fastloss._isa import kernels

END = domain.Domain("times above 0, infinity for those that have not ended", 0, without=(0,), also=(math.inf,))
LEAST = domain.Domain("thresholds below upper's, -infinity for the lowest class", also=(-math.inf,))
MOST = domain.Domain("thresholds above lower's, infinity for the highest class", also=(math.inf,))
KERNELS = {"logistic": "LogisticDuration", "extreme": "ExtremeDuration", "normal": "NormalDuration"}


class AFTLoss(Loss):
    r"""The negative log-likelihood of a time that lies between two bounds, given the logarithm of a typical time.

    .. math::
        \ell = \begin{cases} -\log \dfrac{f(z)}{\sigma t} & \text{bounds that are the same, } t \\
        -\log\left(F(\overline z) - F(\underline z)\right) & \text{else} \end{cases}, \quad
        z = \frac{\log t - x}{\sigma}

    F is the distribution of z and f its density: :math:`F = 1 / (1 + e^{-z})`, :math:`F = 1 - e^{-e^z}`, or the normal
    distribution.

    Args:
        distribution: "logistic" for log-logistic times, "normal" for log-normal ones, or "extreme", the distribution of
            the smallest of many, for Weibull's. "extreme" with scale=1 means exponential times.
        scale: sigma, above 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, lower, upper, sample_weight=None)``, pred the logarithm of a typical time; lower and upper bounds
    of the time, of pred's shape. Equal bounds mean that the time is known. upper is infinity for a time that has not
    ended by lower. lower is 0 for a time that had ended at the first look. Bounds have no gradients.

    Raises ValueError for another distribution, and for a scale that is not above 0.

    The loss is convex in pred, with a Hessian above 0. Bounds in the wrong order have no loss: the result is NaN. The
    rounding of log t and of z shows in e^z. In the tails of censored times, errors are up to abs(log t) / sigma +
    abs(z) units in the last place. In the upper tail of the extreme distribution they are e^z times as large, in the
    lower tail of the normal one, where the loss nears 0, abs(z) times. The gradient is rounded to the digits of its
    larger term. Between near bounds the normal distribution's Hessian, a difference, has errors up to 12 units.

    Source: Barnwal, Cho and Hocking 2022. Gluon, PyTorch: none. XGBoost: ``survival:aft`` (``aft_loss_distribution``,
    ``aft_loss_distribution_scale``), the same scale, but clips values at 27.6 and gradients at 15. CatBoost:
    ``SurvivalAft:dist;scale``. The default of both is "normal".

    >>> import fastloss as fl
    >>> fl.AFTLoss()([0.0, 0.0, 0.0], [2.0, 2.0, 0.0], [2.0, float("inf"), 2.0]).round(4)
    array([2.1972, 1.0986, 0.4055])
    """

    __slots__ = ()

    def __init__(
        self,
        distribution: Literal["logistic", "extreme", "normal"] = "logistic",
        scale: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        if not isinstance(distribution, str) or distribution not in KERNELS:
            raise ValueError(f"distribution must be 'logistic', 'extreme' or 'normal', got {distribution!r}")
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


class OrdinalLoss(Loss):
    r"""The negative log-likelihood of a class in an order, by proportional odds.

    .. math::
        \ell = -\log\left(F(\overline\theta - x) - F(\underline\theta - x)\right), \quad F(z) = \frac{1}{1 + e^{-z}}

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, lower, upper, sample_weight=None)``, pred the score, lower and upper the thresholds around the
    label's class, all of the same shape. lower is -infinity for the lowest class, upper infinity for the highest. With
    ``edges = [-inf, *thresholds, inf]``, lower is ``edges[label]`` and upper is ``edges[label + 1]``.

    The loss is convex in the score and in the thresholds together, with gradients in all three inputs. A threshold's
    gradient is the sum over the examples of the two classes beside it, which PyTorch and JAX take by themselves. Equal
    thresholds have an infinite loss. Thresholds in the wrong order have no loss: the result is NaN.

    Results are within 4 units in the last place of their larger term, however thin or far away the interval is.

    Source: McCullagh 1980. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM, CatBoost: none. statsmodels:
    ``OrderedModel(distr="logit")``, the same scale.

    >>> import numpy as np, fastloss as fl
    >>> label, thresholds = np.array([0, 1, 2, 2]), np.array([-1.0, 1.0])
    >>> edges = np.array([-np.inf, *thresholds, np.inf])
    >>> loss = fl.OrdinalLoss(reduction="sum")
    >>> value, (below, above) = loss.value_and_grad(
    ...     np.zeros(4), edges[label], edges[label + 1], wrt=("lower", "upper"))
    >>> round(value, 4)
    4.7117
    >>> (np.bincount(label, below, 3)[1:] + np.bincount(label, above, 3)[:-1]).round(4)
    array([-0.3056,  1.0367])
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(
            kernels.LogisticInterval(),
            weight,
            batch_axis,
            reduction,
            inputs=(Input("pred"), Input("lower", domain=LEAST), Input("upper", domain=MOST), WEIGHT),
            link=None,
        )
