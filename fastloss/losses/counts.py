"""Losses of counts and of positive quantities."""

from __future__ import annotations

from fastloss import _domains as domain
from fastloss._arguments import flag, number
from fastloss._core import Loss
from fastloss._inputs import Input, Reduction, pair
from fastloss._isa import kernels


class PoissonNLLLoss(Loss):
    r"""The negative log-likelihood of a count, given its rate or the logarithm of its rate.

    .. math:: \ell = e^x - y x \quad\text{or, from rates,}\quad \ell = x - y \log(x + \epsilon)

    With ``compute_full=True``, Stirling's :math:`y \log y - y + \tfrac12 \log(2 \pi y)` is added where y > 1.

    Args:
        weight: a number that multiplies the loss; None is 1.
        from_logits: whether pred is the logarithm of the rate.
        batch_axis: the axis of the examples.
        compute_full: whether to approximate log y!, which does not depend on pred.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None, epsilon=1e-08)``, pred real (from 0 up if not from_logits), label a
    count from 0 up and of the same shape. epsilon, a number, is used with rates only. A label may be a fraction: a
    count per unit of exposure, with the exposure as sample_weight.

    The value is not a deviance: the minimum depends on y and may be negative. Half the deviance, from logarithms of
    rates, is ``TweedieLoss(power=1, deviance=True)``.

    Source: Stirling's approximation as in Gluon and PyTorch. Gluon 1 takes the mean over all examples, Gluon 2 and
    fastloss over each. PyTorch: ``PoissonNLLLoss(log_input, full)``.

    >>> import fastloss as fl
    >>> fl.PoissonNLLLoss().value_and_grad([0.0, 1.0], [1, 3])
    (array([ 1.        , -0.28171817]), array([ 0.        , -0.28171817]))
    """

    __slots__ = ()

    def __init__(
        self,
        weight: float | None = None,
        from_logits: bool = True,
        batch_axis: int = 0,
        compute_full: bool = False,
        *,
        reduction: Reduction = "example",
    ) -> None:
        is_log = flag("from_logits", from_logits)
        if is_log:
            kernel = kernels.PoissonFull() if flag("compute_full", compute_full) else kernels.Poisson()
        else:
            kernel = kernels.PoissonRateFull() if flag("compute_full", compute_full) else kernels.PoissonRate()
        super().__init__(
            kernel,
            weight,
            batch_axis,
            reduction,
            inputs=(
                *pair(domain.COUNT, domain.LOGARITHM if is_log else domain.RATE),
                Input("epsilon", "number", required=False, differentiable=False, default=1e-8),
            ),
            exact_is=("expected",) if is_log else (),
            link="log" if is_log else "identity",
        )


class NegativeBinomialLoss(Loss):
    r"""The negative log-likelihood of a count that varies more than Poisson's, given the logarithm of its mean.

    .. math:: \ell = (y + \theta) \log(\theta + e^x) - y x - \theta \log \theta

    With ``compute_full=True``, :math:`\log y! + \log \Gamma(\theta) - \log \Gamma(y + \theta)` is added.

    Args:
        theta: the number of failures, above 0: a count of mean m has the variance m + m²/theta.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        compute_full: whether to add the term of y and theta; without it, compare values of one theta only.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the logarithm of the mean, label a count from 0 up and of the
    same shape.

    Raises ValueError for a theta that is not above 0.

    As theta grows, the loss becomes Poisson's; theta = 1 is the geometric distribution. With a large theta, values near
    a mean of theta are within abs(log(theta)) units in the last place in float64. float32 loses digits where the mean
    divided by theta is below 1e-38. A value with the added term is within 3 units in the last place of the larger of
    both or of 1, and within 8 for a theta below 1. It is NaN for a label below 0.

    Source: Lawless 1987; Cameron and Trivedi 1986 (NB2). Gluon, PyTorch: none. scipy: ``nbinom(theta, theta / (theta +
    exp(x)))``, which adds the term. statsmodels: alpha = 1/theta, with the term.

    >>> import fastloss as fl
    >>> fl.NegativeBinomialLoss(theta=2).value_and_grad([0.0, 1.0], [1, 3])[1].round(4)
    array([ 0.    , -0.1194])
    """

    __slots__ = ()

    def __init__(
        self,
        theta: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        compute_full: bool = False,
        *,
        reduction: Reduction = "example",
    ) -> None:
        kernel = kernels.NegativeBinomialFull if flag("compute_full", compute_full) else kernels.NegativeBinomial
        super().__init__(
            kernel(number("theta", theta, above=0)),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.COUNT, domain.LOGARITHM),
            surrogate="expected",
            newton="exact",
            link="log",
        )


class BinomialLoss(Loss):
    r"""The negative log-likelihood of a number of successes among trials, given the log-odds of a success.

    .. math:: \ell = y \log(1 + e^{-x}) + (n - y) \log(1 + e^x)

    With ``compute_full=True``, :math:`-\log \binom{n}{y}` is added, which is 0 for one trial.

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        compute_full: whether to add the term of y and n; without it, compare values of one n only.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None, trials=None)``, pred the log-odds, label the successes, of the same
    shape. trials is n, which broadcasts to pred: (C,) gives one per column; None is 1. ``wrt="trials"`` gives its
    gradient.

    For one trial the loss is :class:`SigmoidBinaryCrossEntropyLoss`. For n trials it is that of the label y/n with the
    sample_weight n, except that a weighted mean divides by other weights. A value with the added term is within 3 units
    in the last place of the larger of both or of 1. It is NaN for a label below 0 or above trials.

    Source: Bernoulli 1713; McCullagh and Nelder 1989. Gluon, PyTorch: none. scipy: ``binom(n, 1 / (1 + exp(-x)))``,
    which adds the term.

    >>> import fastloss as fl
    >>> fl.BinomialLoss()([0.0, 40.0], [3, 10], None, 10).round(4)
    array([6.9315, 0.    ])
    >>> fl.BinomialLoss(compute_full=True)([0.0, 40.0], [3, 10], None, 10).round(4)
    array([2.144, 0.   ])
    """

    __slots__ = ()

    def __init__(
        self,
        weight: float | None = None,
        batch_axis: int = 0,
        compute_full: bool = False,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(
            kernels.BinomialFull() if flag("compute_full", compute_full) else kernels.Binomial(),
            weight,
            batch_axis,
            reduction,
            plain=kernels.SigmoidCrossEntropy(),
            inputs=(
                *pair(domain.COUNT, domain.LOG_ODDS),
                Input("trials", "broadcast", domain.COUNT, required=False),
            ),
            surrogate="majorizer",
            newton="exact",
            exact_is=("expected",),
            link="margin",
        )


class GammaLoss(Loss):
    r"""The negative log-likelihood of a positive quantity that varies in proportion to its mean, given as a logarithm.

    .. math:: \ell = x + y e^{-x}

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the logarithm of the mean, label above 0, of the same shape.

    For a gamma distribution of shape k, multiply by ``weight=k``; the best prediction stays the same. The Hessian, y
    e^-x, vanishes where the prediction is too high: there a method of second order needs a bound on its steps. Values,
    and gradients 1 - y e^-x, are rounded to the digits of their larger term.

    Source: McCullagh and Nelder 1989. Gluon, PyTorch: none. scikit-learn: ``GammaRegressor``. XGBoost: ``reg:gamma``.
    LightGBM: ``gamma``. All have this scale.

    >>> import fastloss as fl
    >>> fl.GammaLoss().value_and_grad([0.0, 1.0], [1, 3])
    (array([1.        , 2.10363832]), array([ 0.        , -0.10363832]))
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(
            kernels.Gamma(),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.POSITIVE),
            surrogate="expected",
            newton="exact",
            link="log",
        )


class InverseGaussianLoss(Loss):
    r"""The negative log-likelihood of a positive quantity with a heavy tail, given the logarithm of its mean.

    .. math:: \ell = \frac{y e^{-2 x}}{2} - e^{-x}

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the logarithm of the mean, label above 0, of the same shape.

    The loss plus 1/(2 y) is half the deviance, ``TweedieLoss(power=3, deviance=True)``. The Hessian is below 0 where
    the mean is above 2 y: there Newton's step leads away from the minimum.

    Source: Tweedie 1957. Gluon, PyTorch: none. scikit-learn: ``TweedieRegressor(power=3)``, of this scale.

    >>> import fastloss as fl
    >>> fl.InverseGaussianLoss().value_and_grad([0.0, 0.0], [1, 3])
    (array([-0.5,  0.5]), array([ 0., -2.]))
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(
            kernels.InverseGaussian(),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.POSITIVE),
            surrogate="expected",
            link="log",
        )


class TweedieLoss(Loss):
    r"""Half the deviance of a quantity whose variance is a power of its mean, given the logarithm of the mean.

    .. math::
        \ell = \frac{e^{(2 - p) x}}{2 - p} + \frac{y e^{(1 - p) x}}{p - 1}

    With ``deviance=True``, the deviance's term of the label alone is added, and the loss is 0 where the prediction is
    right. The term is :math:`y^{2 - p} / ((1 - p)(2 - p))` for y > 0, :math:`y \log y - y` for p = 1, and
    :math:`-\log y - 1` for p = 2. Without it, p = 1 and p = 2 are :class:`PoissonNLLLoss` and :class:`GammaLoss`.

    Args:
        power: p, not between 0 and 1. From 1 to 2 labels may be 0 or positive, which suits sums of claims.
        deviance: whether the value is half the deviance, for a power of 1 or more. Derivatives in pred are the same;
            ``hessian="expected"`` needs False.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the logarithm of the mean, label of the same shape. Labels:
    any number for p <= 0, from 0 up for 1 <= p < 2, above 0 for p >= 2.

    Raises ValueError for a power between 0 and 1, for which no distribution exists, and for a deviance below 1.

    The loss is convex in pred for p from 1 to 2, and not for all predictions with another p. Near those two powers
    values grow as 1/(p - 1) and 1/(2 - p); differences between values do not. Near its zero, half the deviance has the
    digits of the difference between pred and log y. Elsewhere it is rounded to the digits of its largest term.

    Source: Tweedie 1984; Jorgensen 1987. Gluon, PyTorch: none. scikit-learn: ``TweedieRegressor(power)``. XGBoost and
    LightGBM: ``tweedie_variance_power``, from 1 to 2. All have this scale. ``sklearn.metrics.mean_tweedie_deviance`` is
    twice the mean with deviance=True.

    >>> import fastloss as fl
    >>> fl.TweedieLoss().value_and_grad([0.0, 0.0], [0, 3])
    (array([2., 8.]), array([ 1., -2.]))
    >>> fl.TweedieLoss(power=1, deviance=True)([0.0, 0.0, 0.0], [0, 1, 3]).round(4)
    array([1.    , 0.    , 1.2958])
    """

    __slots__ = ()

    def __init__(
        self,
        power: float = 1.5,
        deviance: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        p = number("power", power)
        if 0 < p < 1:
            raise ValueError(f"power must be 0 or less, or 1 or more, got {power!r}")
        kernel = {1.0: kernels.Poisson, 2.0: kernels.Gamma, 3.0: kernels.InverseGaussian}.get(p)
        is_deviance = flag("deviance", deviance)
        if is_deviance and p < 1:
            raise ValueError(f"deviance must be False for a power below 1, whose labels may be negative, got {power!r}")
        label = domain.REAL if p <= 0 else domain.MASS if p < 2 else domain.POSITIVE
        super().__init__(
            kernels.Deviance(p) if is_deviance else kernels.Tweedie(p) if kernel is None else kernel(),
            weight,
            batch_axis,
            reduction,
            inputs=pair(label, domain.LOGARITHM if p < 2 else domain.REAL),
            surrogate=None if p == 1 or is_deviance else "expected",
            newton="exact" if 1 <= p <= 2 or is_deviance else "expected",
            exact_is=("expected",) if p == 1 else (),
            link="log",
        )
