"""Losses of real predictions in which outliers count less."""

from __future__ import annotations

import math

from fastloss._arguments import finite, number
from fastloss._core import Loss
from fastloss._inputs import Reduction
from fastloss._isa import kernels


class LogCoshLoss(Loss):
    r"""Quadratic for small errors, linear for large ones, and smooth in between.

    .. math:: \ell = \log \cosh(x - y)

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    The Hessian, 1 - tanh(x - y)^2, is positive everywhere, but vanishes for large errors; ``hessian="majorizer"`` gives
    tanh(z)/z instead, with z = x - y. Small errors keep their digits, where log(cosh(z)) loses all.

    Source: Green 1990. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM: none. Keras: ``LogCosh``; optax: ``log_cosh``;
    CatBoost: ``LogCosh``; the same scale.

    >>> import fastloss as fl
    >>> fl.LogCoshLoss()([0.0, 3.0], [0.0, 0.0]).round(4)
    array([0.    , 2.3093])
    """

    __slots__ = ()

    def __init__(self, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example") -> None:
        super().__init__(kernels.LogCosh(), weight, batch_axis, reduction, surrogate="majorizer")


class PseudoHuberLoss(Loss):
    r"""A smooth :class:`HuberLoss`: quadratic for small errors, linear for large ones, with derivatives of every order.

    .. math:: \ell = \delta^2 \left(\sqrt{1 + (x - y)^2 / \delta^2} - 1\right)

    Args:
        delta: the error around which the loss becomes linear, greater than 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless delta is positive and finite.

    The curvature at 0 is 1, the slope for large errors is delta. :class:`HuberLoss` has Gluon's scale, with slope 1 and
    curvature 1/rho: ``weight=1 / delta`` gives this loss the same scale.

    Source: Charbonnier et al. 1994, Hartley and Zisserman 2003. Gluon, PyTorch, scikit-learn, LightGBM, CatBoost: none.
    XGBoost: ``reg:pseudohubererror(huber_slope=delta)``; SciPy: ``least_squares(loss="soft_l1", f_scale=delta)``; both
    of the same scale.

    >>> import fastloss as fl
    >>> fl.PseudoHuberLoss()([0.75, 2.4], [0.0, 0.0]).round(4)
    array([0.25, 1.6 ])
    """

    __slots__ = ()

    def __init__(
        self, delta: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.PseudoHuber(number("delta", delta, above=0)), weight, batch_axis, reduction, surrogate="majorizer"
        )


class FairLoss(Loss):
    r"""Quadratic for small errors; for large ones linear, less a logarithm.

    .. math:: \ell = c^2 \left(\frac{|x - y|}{c} - \log\left(1 + \frac{|x - y|}{c}\right)\right)

    Args:
        c: the scale, greater than 0: the slope at an error of c is half that of the largest errors.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless c is positive and finite.

    The loss is convex. Its Hessian, 1 / (1 + z/c)^2 with z = abs(x - y), falls more slowly than those of other smooth
    losses.

    Source: Fair 1974. Gluon, PyTorch, scikit-learn, XGBoost, CatBoost: none. LightGBM: ``fair(fair_c=c)``, the same
    scale.

    >>> import fastloss as fl
    >>> fl.FairLoss().grad([-1.0, 0.0, 3.0], [0.0, 0.0, 0.0])
    array([-0.5 ,  0.  ,  0.75])
    """

    __slots__ = ()

    def __init__(
        self, c: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(kernels.Fair(number("c", c, above=0)), weight, batch_axis, reduction, surrogate="majorizer")


class CauchyLoss(Loss):
    r"""The logarithm of a square, also called Lorentzian: the larger an error, the less it pulls.

    .. math:: \ell = \frac{c^2}{2} \log\left(1 + \frac{(x - y)^2}{c^2}\right)

    Args:
        c: the scale, greater than 0: the error that pulls most.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless c is positive and finite.

    The Hessian is negative for errors beyond c. Several minima may exist: begin near the median.

    Source: Black and Anandan 1996. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM, CatBoost: none. SciPy:
    ``least_squares(loss="cauchy", f_scale=c)``, the same scale; Kornia: ``cauchy_loss``, this at c = sqrt(2).

    >>> import fastloss as fl
    >>> fl.CauchyLoss().value_and_grad([1.0, 3.0], [0.0, 0.0])
    (array([0.34657359, 1.15129255]), array([0.5, 0.3]))
    """

    __slots__ = ()

    def __init__(
        self, c: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(kernels.Cauchy(number("c", c, above=0)), weight, batch_axis, reduction, surrogate="majorizer")


class GemanMcClureLoss(Loss):
    r"""A bounded loss: no error costs more than 2.

    .. math:: \ell = \frac{2 v}{4 + v}, \quad v = \frac{(x - y)^2}{c^2}

    Args:
        c: the scale, greater than 0: an error of 2 c costs half as much as the largest errors.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless c is positive and finite.

    The curvature at 0 is 1/c². The Hessian is negative for errors beyond 1.15 c, and far errors have almost no
    gradient: begin near the median, or with a large c. That gradient falls as the error's cube, which triples what
    rounding pred - label changes: it is within 6 units in the last place.

    Source: Geman and McClure 1985, in the scale of Barron 2019, alpha = -2. Geman and McClure's own,
    z^2 / (2 + 2 z^2), is a quarter of this at c = 1/2. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM, CatBoost: none.
    Kornia: ``geman_mcclure_loss``, this at c = 1.

    >>> import fastloss as fl
    >>> fl.GemanMcClureLoss()([0.0, 2.0, 1e9], [0.0, 0.0, 0.0])
    array([0., 1., 2.])
    """

    __slots__ = ()

    def __init__(
        self, c: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.GemanMcClure(number("c", c, above=0)), weight, batch_axis, reduction, surrogate="majorizer"
        )


class WelschLoss(Loss):
    r"""A bell turned upside down, also called Leclerc's loss: errors of several c cost 1 and have no gradient.

    .. math:: \ell = 1 - e^{-(x - y)^2 / (2 c^2)}

    Args:
        c: the scale, greater than 0: the error that pulls most.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless c is positive and finite.

    The curvature at 0 is 1/c². The Hessian is negative for errors beyond c: begin near the median, or with a large c.
    The gradient keeps its digits as it vanishes, until the exponential is subnormal. Only the rounding of x - y costs
    digits.

    Source: Dennis and Welsch 1978. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM, CatBoost: none. Kornia:
    ``welsch_loss``, this at c = 1.

    >>> import fastloss as fl
    >>> fl.WelschLoss()([0.0, 1.0, 1e9], [0.0, 0.0, 0.0]).round(4)
    array([0.    , 0.3935, 1.    ])
    """

    __slots__ = ()

    def __init__(
        self, c: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(kernels.Welsch(number("c", c, above=0)), weight, batch_axis, reduction, surrogate="majorizer")


class TukeyLoss(Loss):
    r"""The biweight: all errors beyond c cost the same and have no gradient.

    .. math:: \ell = \frac{c^2}{6} \left(1 - \max(0, 1 - (x - y)^2 / c^2)^3\right)

    Args:
        c: the error from which on the loss is constant, greater than 0.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError unless c is positive and finite.

    With c = 4.685 standard deviations, the estimate has 95 % of the mean's efficiency for normal errors. The default
    suits errors with a standard deviation of 1. The Hessian is negative for errors from 0.45 c to c, and 0 beyond. Next
    to c, the rounding of x - y limits the digits of the gradient.

    Source: Beaton and Tukey 1974. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM, CatBoost: none. statsmodels:
    ``TukeyBiweight(c)``, the same scale, but less c²/6.

    >>> import fastloss as fl
    >>> fl.TukeyLoss(c=2).value_and_grad([1.0, 2.0, 9.0], [0.0, 0.0, 0.0])
    (array([0.38541667, 0.66666667, 0.66666667]), array([0.5625, 0.    , 0.    ]))
    """

    __slots__ = ()

    def __init__(
        self, c: float = 4.685, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(kernels.Tukey(number("c", c, above=0)), weight, batch_axis, reduction, surrogate="majorizer")


class RobustLoss(Loss):
    r"""A family of losses, from the squared error to bounded ones, by one shape parameter.

    .. math::
        \ell = \frac{b}{\alpha} \left(\left(\frac{(x - y)^2}{b\, c^2} + 1\right)^{\alpha/2} - 1\right), \quad
        b = |\alpha - 2|

    Args:
        alpha: the shape: the larger, the more an outlier counts. 2 is the squared error, 1 :class:`PseudoHuberLoss`, 0
            :class:`CauchyLoss`, -2 :class:`GemanMcClureLoss`; towards minus infinity the loss becomes
            :class:`WelschLoss`.
        c: the scale, the size of errors where the loss ceases to be quadratic, between 1e-150 and 1e150.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred and label real, of the same shape.

    Raises ValueError for an alpha that is not finite, and for a c beyond these bounds, where c² leaves float64.

    For every alpha the curvature at 0 is 1/c². Below alpha = 1 the Hessian is negative for large errors. Begin with
    alpha near 2 and lower it slowly, so as to stay near a good minimum. For alpha from -3 to 3, values and gradients
    are within 5 units in the last place. For other alpha, and for subnormal results, errors grow with alpha: the power
    magnifies the error of its base. A residual that leaves the range when divided by c sqrt(b) counts as infinite.

    Source: Barron 2019. Gluon, PyTorch, scikit-learn, XGBoost, LightGBM, CatBoost: none.

    >>> import fastloss as fl
    >>> fl.RobustLoss(alpha=-2)([2.0, 1e9], [0.0, 0.0])
    array([1., 2.])
    >>> fl.RobustLoss(alpha=1.5)([2.0, 20.0], [0.0, 0.0]).round(4)
    array([ 1.3987, 49.855 ])
    """

    __slots__ = ()

    def __init__(
        self,
        alpha: float = 1,
        c: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        shape = finite("alpha", alpha)
        kernel, factor = of_shape(shape, number("c", c, above=1e-150, below=1e150))
        # beyond 2 the slope grows faster than the error, so no parabola lies above the loss
        super().__init__(
            kernel,
            weight,
            batch_axis,
            reduction,
            surrogate="majorizer" if shape < 2 else None,
            exact_is=("majorizer",) if shape == 2 else (),
            factor=factor,
        )


def of_shape(alpha: float, c: float) -> tuple[object, float]:
    """The kernel for a shape, and the factor that its results are multiplied by."""
    if alpha == 2:
        return kernels.L2(), 1 / c**2
    # nearer to 0 the general formula loses all digits
    if abs(alpha) < 1e-30:
        return kernels.Cauchy(c * math.sqrt(2)), 1 / c**2
    return kernels.General(c * math.sqrt(abs(alpha - 2)), alpha, c), 1
