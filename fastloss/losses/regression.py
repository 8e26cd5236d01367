"""Losses of real predictions."""

from __future__ import annotations

from fastloss import _domains as domain
from fastloss._arguments import number
from fastloss._core import Loss
from fastloss._inputs import Input, Reduction, pair
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

    A step of gradient descent moves every prediction by the same amount, however large its error. Outliers count no
    more than others, but close to the minimum the step must shrink; :class:`HuberLoss` is smooth there.

    Source: Boscovich 1757, Laplace 1774. Gluon: ``L1Loss``. PyTorch: ``L1Loss``.

    >>> import fastloss as fl
    >>> fl.L1Loss()([[1.0, 2.0], [3.0, 4.0]], [[1.0, 4.0], [0.0, 4.0]])
    array([1. , 1.5])
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(kernels.L1(), weight, batch_axis, reduction, surrogate="majorizer")


class L2Loss(Loss):
    r"""Half the squared error, whose minimiser is the mean.

    .. math:: \ell = \tfrac12 (x - y)^2

    Args:
        weight: a number that multiplies the loss; None is 1. The half stays: 1 gives Gluon's values, 2 the squared
            error.
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
        super().__init__(kernels.L2(), weight, batch_axis, reduction, exact_is=("majorizer", "expected"))


class HuberLoss(Loss):
    r"""Quadratic for small errors, linear for large ones.

    .. math::
        \ell = \begin{cases} \frac{1}{2\rho}(x - y)^2 & |x - y| \le \rho \\
        |x - y| - \frac{\rho}{2} & \text{else} \end{cases}

    Args:
        rho: the error beyond which the loss is linear, greater than 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless rho is positive and finite.

    The slope of the linear part is 1, as in Gluon and in PyTorch's ``SmoothL1Loss`` with ``beta=rho``. PyTorch's
    ``HuberLoss`` with ``delta=rho`` is rho times as large. The Hessian is 1/rho, and 0 in the linear part. For Newton's
    method take ``hessian="majorizer"``, which is ``1 / max(rho, |x - y|)``.

    Source: Huber 1964. Gluon: ``HuberLoss``. PyTorch: ``SmoothL1Loss(beta=rho)``.

    >>> import fastloss as fl
    >>> fl.HuberLoss(rho=1)([0.5, 3.0], [0.0, 0.0])
    array([0.125, 2.5  ])
    """

    __slots__ = ()

    def __init__(
        self, rho: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.Huber(number("rho", rho, above=0)), weight, batch_axis, reduction, surrogate="majorizer"
        )


class EpsilonInsensitiveLoss(Loss):
    r"""The absolute error beyond a tolerance: the loss of support vector regression.

    .. math:: \ell = \max(0, |x - y| - \epsilon)

    Args:
        epsilon: the error up to which a prediction costs nothing, at least 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless epsilon is finite and at least 0.

    At an error of exactly epsilon the derivative is taken as 0, and the Hessian is 0 everywhere. Next to epsilon, the
    rounding of x - y limits the digits of the loss.

    Source: Vapnik 1995. Gluon, PyTorch, Keras, optax, XGBoost, LightGBM, CatBoost: none. scikit-learn:
    ``SGDRegressor(loss="epsilon_insensitive", epsilon=0.1)``, the same scale.

    >>> import fastloss as fl
    >>> fl.EpsilonInsensitiveLoss(epsilon=0.5)([0.25, -2.0], [0.0, 0.0])
    array([0. , 1.5])
    """

    __slots__ = ()

    def __init__(
        self,
        epsilon: float = 0.1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(
            kernels.EpsilonInsensitive(number("epsilon", epsilon, least=0)),
            weight,
            batch_axis,
            reduction,
            surrogate="majorizer",
        )


class SquaredEpsilonInsensitiveLoss(Loss):
    r"""The squared error beyond a tolerance, smooth at the edge of the tolerance.

    .. math:: \ell = \max(0, |x - y| - \epsilon)^2

    Args:
        epsilon: the error up to which a prediction costs nothing, at least 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless epsilon is finite and at least 0.

    The formula has no half in front: the Hessian is 2 beyond the tolerance and 0 inside. With epsilon=0 the loss is
    twice :class:`L2Loss`. Next to epsilon, the rounding of x - y limits the digits of the loss.

    Source: Vapnik 1995. Gluon, PyTorch, Keras, optax, XGBoost, LightGBM, CatBoost: none. scikit-learn:
    ``SGDRegressor(loss="squared_epsilon_insensitive", epsilon=0.1)``, the same scale.

    >>> import fastloss as fl
    >>> fl.SquaredEpsilonInsensitiveLoss(epsilon=0.5)([0.25, -2.0], [0.0, 0.0])
    array([0.  , 2.25])
    """

    __slots__ = ()

    def __init__(
        self,
        epsilon: float = 0.1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(
            kernels.SquaredEpsilonInsensitive(number("epsilon", epsilon, least=0)),
            weight,
            batch_axis,
            reduction,
            surrogate="majorizer",
        )


class MSLELoss(Loss):
    r"""Half the squared error of logarithms, for targets of many magnitudes: ratios count, not differences.

    .. math:: \ell = \tfrac12 \left(\log\frac{1 + x}{1 + y}\right)^2

    Args:
        weight: a number that multiplies the loss; None is 1. A weight of 2 gives the squared logarithmic error.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label greater than -1, of the same shape.

    A prediction of -1 costs infinity. A prediction below -1 has no loss: the result is NaN. The Hessian is negative
    where 1 + x is more than e times 1 + y; ``hessian="majorizer"`` is (1 + abs(log((1 + x)/(1 + y)))) / (1 + x)^2
    instead.

    Source: XGBoost 1.0, 2020, ``reg:squaredlogerror``, the same scale. Gluon, PyTorch, LightGBM: none. scikit-learn:
    ``mean_squared_log_error``; Keras: ``MeanSquaredLogarithmicError``; CatBoost: ``MSLE``; all twice this. Keras clamps
    predictions at 0, so the gradient vanishes below.

    >>> import fastloss as fl
    >>> fl.MSLELoss()([0.0, 9.0, 99.0], [0.0, 99.0, 9.0]).round(4)
    array([0.    , 2.6509, 2.6509])
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(
            kernels.SquaredLogarithmic(),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.ABOVE_MINUS_ONE, domain.ABOVE_MINUS_ONE),
            surrogate="majorizer",
        )


class ExpectileLoss(Loss):
    r"""The squared error with a weight for each side, whose minimiser is an expectile.

    .. math::
        \ell = \begin{cases} (1 - \tau)\,(x - y)^2 & x > y \\ \tau\,(x - y)^2 & \text{else} \end{cases}

    Args:
        expectile: tau, greater than 0 and less than 1: the weight of predictions that are too low.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless expectile is between 0 and 1.

    At tau = 0.5 the loss is :class:`L2Loss`. Expectiles are to the mean what quantiles are to the median: smooth in the
    data, and moved by outliers. The Hessian is exact and positive: 2 tau where ``x <= y``, else 2 (1 - tau).

    Source: Newey and Powell 1987. Gluon, PyTorch, scikit-learn, LightGBM: none. CatBoost: ``Expectile:alpha=tau``, the
    same scale.

    >>> import fastloss as fl
    >>> fl.ExpectileLoss(expectile=0.75)([2.0, -2.0], [0.0, 0.0])
    array([1., 3.])
    """

    __slots__ = ()

    def __init__(
        self,
        expectile: float = 0.5,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(
            kernels.Expectile(number("expectile", expectile, above=0, below=1)),
            weight,
            batch_axis,
            reduction,
            surrogate="majorizer",
            newton="exact",
        )


def of_quantile(quantile: float) -> tuple[Input, ...]:
    """The inputs of a loss of quantiles: a call may give quantiles in place of the constructor's."""
    return *pair(), Input("quantile", "broadcast", domain.QUANTILE, required=False, default=quantile)


class QuantileLoss(Loss):
    r"""The pinball loss, whose minimiser is a quantile; one call takes one quantile or many.

    .. math:: \ell = \max\left((1 - \tau)(x - y),\ -\tau (x - y)\right)

    The derivative at ``x == y`` is taken as 0, and the Hessian is 0 everywhere.

    Args:
        quantile: tau, greater than 0 and less than 1, where a call gives none.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None, quantile=None)``, pred and label real, of the same shape. quantile is
    tau, from 0 to 1, and broadcasts to pred. With a pred of (N, K) and the label repeated along K, shape (K,) gives
    each column a quantile of its own. ``wrt="quantile"`` gives its gradient.

    Raises ValueError unless the constructor's quantile is between 0 and 1.

    Nothing keeps the quantiles of a row in order: the model must do that. At tau = 0.5 the loss is half of
    :class:`L1Loss`. For Newton's method, which needs a Hessian above 0, take :class:`SmoothQuantileLoss`.

    Source: Koenker and Bassett 1978. Gluon, PyTorch, Keras, optax: none. scikit-learn: ``QuantileRegressor(quantile)``;
    XGBoost: ``reg:quantileerror(quantile_alpha)``; LightGBM: ``quantile(alpha)``; CatBoost: ``Quantile:alpha``; all of
    the same scale.

    >>> import fastloss as fl
    >>> fl.QuantileLoss(quantile=0.75)([1.0, -1.0], [0.0, 0.0])
    array([0.25, 0.75])
    >>> fl.QuantileLoss(reduction="none")([[1.0, 1.0]], [[2.0, 2.0]], quantile=[0.25, 0.75])
    array([[0.25, 0.75]])
    """

    __slots__ = ()

    def __init__(
        self,
        quantile: float = 0.5,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        q = number("quantile", quantile, above=0, below=1)
        super().__init__(
            kernels.PinballOfQuantile(),
            weight,
            batch_axis,
            reduction,
            plain=kernels.Pinball(q),
            inputs=of_quantile(q),
            surrogate="majorizer",
        )


class SmoothQuantileLoss(Loss):
    r"""A :class:`QuantileLoss` without a kink, smoothed by a logistic distribution.

    .. math:: \ell = \beta \left(\tau \log(1 + e^{-t}) + (1 - \tau) \log(1 + e^t)\right), \quad t = (x - y) / \beta

    Args:
        quantile: tau, greater than 0 and less than 1, where a call gives none.
        beta: the width of the bend, greater than 0; 0.02 times the spread of the errors is usual.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None, quantile=None)``, pred and label real, of the same shape. quantile is
    tau, from 0 to 1, and broadcasts to pred. With a pred of (N, K) and the label repeated along K, shape (K,) gives
    each column a quantile of its own. ``wrt="quantile"`` gives its gradient.

    Raises ValueError unless quantile is between 0 and 1, and beta is positive and finite.

    The loss is above the pinball loss by at most beta log 2. The gradient, sigmoid(t) - tau, is within 4 units in the
    last place of the larger of the two terms. The Hessian is positive, but vanishes for large errors;
    ``hessian="majorizer"`` is tanh(t/2) / (2 t beta) instead.

    Source: Zheng 2011; Fasiolo et al. 2021, the same scale. Gluon, PyTorch, scikit-learn, LightGBM, CatBoost: none.

    >>> import fastloss as fl
    >>> fl.SmoothQuantileLoss(quantile=0.75, beta=0.5).value_and_grad([0.0, 9.0], [0.0, 0.0])
    (array([0.34657359, 2.25000001]), array([-0.25      ,  0.24999998]))
    """

    __slots__ = ()

    def __init__(
        self,
        quantile: float = 0.5,
        beta: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        q = number("quantile", quantile, above=0, below=1)
        super().__init__(
            kernels.SmoothPinball(number("beta", beta, above=0)),
            weight,
            batch_axis,
            reduction,
            inputs=of_quantile(q),
            surrogate="majorizer",
        )
