"""Losses of real predictions."""

from __future__ import annotations

from fastloss._arguments import number
from fastloss._core import Loss
from fastloss._inputs import Reduction
from fastloss._isa import kernels


class L1Loss(Loss):
    r"""The absolute error, whose minimiser is the median.

    .. math:: \ell = |x - y|

    The derivative at ``x == y`` is taken as 0, and the Hessian is 0 everywhere.

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    A step of gradient descent moves every prediction by the same amount, however large its error: outliers do not pull,
    but close to the minimum the step must shrink. :class:`HuberLoss` is smooth there.

    Source: Boscovich 1757, Laplace 1774. Gluon: ``L1Loss``. PyTorch: ``L1Loss``.

    >>> import fastloss as fl
    >>> fl.L1Loss()([[1.0, 2.0], [3.0, 4.0]], [[1.0, 4.0], [0.0, 4.0]])
    array([1. , 1.5])
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(kernels.L1(), weight, batch_axis, reduction)


class L2Loss(Loss):
    r"""Half the squared error, whose minimiser is the mean.

    .. math:: \ell = \tfrac12 (x - y)^2

    Args:
        weight: a number that multiplies the loss; the half stays, so 1 gives Gluon's values and 2 the squared error.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    With the half, the gradient is the error itself and the Hessian is 1. PyTorch's ``MSELoss`` has no half.

    Source: Legendre 1805, Gauss 1809. Gluon: ``L2Loss``. PyTorch: ``MSELoss``, twice this.

    >>> import fastloss as fl
    >>> fl.L2Loss().value_and_grad([1.0, 1.0], [2.0, 4.0])
    (array([0.5, 4.5]), array([-1., -3.]))
    """

    __slots__ = ()

    def __init__(self, weight: float | None = 1.0, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(kernels.L2(), weight, batch_axis, reduction)


class HuberLoss(Loss):
    r"""Quadratic for small errors, linear for large ones.

    .. math::
        \ell = \begin{cases} \frac{1}{2\rho}(x - y)^2 & |x - y| \le \rho \\
        |x - y| - \frac{\rho}{2} & \text{else} \end{cases}

    Args:
        rho: the error from which on the loss is linear, greater than 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless rho is positive and finite.

    In Gluon's scale, which this follows, the slope of the linear part is 1: this is PyTorch's ``SmoothL1Loss`` with
    ``beta=rho``. PyTorch's ``HuberLoss`` with ``delta=rho`` is rho times as large. The Hessian, 1/rho, is 0 in the
    linear part: boosting takes ``1 / max(rho, |x - y|)`` in its place, as the guide to derivatives says.

    Source: Huber 1964. Gluon: ``HuberLoss``. PyTorch: ``SmoothL1Loss(beta=rho)``.

    >>> import fastloss as fl
    >>> fl.HuberLoss(rho=1)([0.5, 3.0], [0.0, 0.0])
    array([0.125, 2.5  ])
    """

    __slots__ = ()

    def __init__(
        self, rho: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(kernels.Huber(number("rho", rho, above=0)), weight, batch_axis, reduction)
