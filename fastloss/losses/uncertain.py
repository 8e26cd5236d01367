"""Losses of two predictions: of a label, and of the error to expect."""

from __future__ import annotations

import math
from typing import Any, Literal

from fastloss import _domains as domain
from fastloss._arguments import flag, number
from fastloss._core import Loss
from fastloss._inputs import WEIGHT, Input, Reduction
from fastloss._isa import kernels

Scale = Literal["log_variance", "variance", "log_scale"]


def with_scale(name: str, what: domain.Domain = domain.REAL) -> tuple[Input, ...]:
    """pred, label, the other prediction, and sample_weight."""
    return Input("pred"), Input("label"), Input(name, "broadcast", what), WEIGHT


class GaussianNLLLoss(Loss):
    r"""The negative log-likelihood of a label that is normal, given its mean and its variance.

    .. math:: \ell = \tfrac12 \left(s + (x - y)^2 e^{-s}\right), \quad s = \log \sigma^2

    With ``compute_full=True``, :math:`\tfrac12 \log 2 \pi` is added.

    Args:
        scale: what the second prediction is, and its name in the call: "log_variance" is s, "log_scale" is s/2, the
            logarithm of the standard deviation, and "variance" is e^s.
        compute_full: whether to add the constant.
        eps: the least variance, above 0: lower ones count as eps. Logarithms need no bound.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, log_variance, sample_weight=None)``, pred the mean, label real and of the same shape;
    log_variance (log_scale, variance) broadcasts to them. ``wrt=("pred", "log_variance")`` gives the gradients in both,
    and ``grad_and_hess`` the Hessians.

    Raises ValueError for another scale, and for an eps that is not above 0.

    Logarithms are the better choice: no variance is below 0, and the gradient does not explode where the variance is
    small. The Hessian in the scale vanishes where errors are smaller than expected: boosting and natural gradients take
    its mean, 1/2 for log_variance, 2 for log_scale. The gradient in a variance below eps is that at eps, as in PyTorch.
    Values, and derivatives in the scale, are rounded to the digits of their larger term.

    Source: Nix and Weigend 1994. Gluon: none. PyTorch: ``GaussianNLLLoss(full, eps)``, of the variance. CatBoost:
    ``RMSEWithUncertainty``; NGBoost: ``Normal``; both take the log_scale and add the constant.

    >>> import fastloss as fl
    >>> loss = fl.GaussianNLLLoss()
    >>> loss.value_and_grad([0.0, 3.0], [0.0, 0.0], [0.0, 2.0], wrt=("pred", "log_variance"))[1][1].round(4)
    array([ 0.5  , -0.109])
    >>> fl.GaussianNLLLoss("variance")([1.0], [3.0], variance=4.0).round(4)
    array([1.1931])
    """

    __slots__ = ()

    def __init__(
        self,
        scale: Scale = "log_variance",
        compute_full: bool = False,
        eps: float = 1e-6,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        constant = math.log(2 * math.pi) / 2 if flag("compute_full", compute_full) else 0
        least = number("eps", eps, above=0)
        made: dict[Any, Any] = {
            "log_variance": lambda: kernels.GaussianOfLogarithm(1, constant),
            "log_scale": lambda: kernels.GaussianOfLogarithm(2, constant),
            "variance": lambda: kernels.GaussianOfVariance(least, constant),
        }
        if not isinstance(scale, str) or scale not in made:
            raise ValueError(f"scale must be 'log_variance', 'variance' or 'log_scale', got {scale!r}")
        super().__init__(
            made[scale](),
            weight,
            batch_axis,
            reduction,
            inputs=with_scale(scale, domain.MASS if scale == "variance" else domain.REAL),
            surrogate="expected",
        )


class LaplaceNLLLoss(Loss):
    r"""The negative log-likelihood of a label with Laplace's distribution, given its median and its scale.

    .. math:: \ell = q + |x - y|\, e^{-q}, \quad q = \log b

    With ``compute_full=True``, :math:`\log 2` is added. The derivative in x at ``x == y`` is taken as 0, and the
    Hessian in x is 0 everywhere.

    Args:
        compute_full: whether to add the constant.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, log_scale, sample_weight=None)``, pred the median, label real and of the same shape;
    log_scale, the logarithm of the mean absolute error, broadcasts to them. ``wrt=("pred", "log_scale")`` gives the
    gradients in both, and ``grad_and_hess`` the Hessians.

    An error costs in proportion to itself, not to its square: outliers move neither prediction as far as those of
    :class:`GaussianNLLLoss`. For boosting and natural gradients, the Hessians in pred and log_scale have substitutes
    that are above 0: e^(-2 q) and 1.

    Source: Laplace 1774. Gluon, PyTorch, CatBoost: none. NGBoost: ``Laplace``; scipy: ``laplace(x, exp(q))``; both with
    the constant.

    >>> import fastloss as fl
    >>> fl.LaplaceNLLLoss().grad_and_hess([3.0], [1.0], [0.0], wrt=("pred", "log_scale"))
    ((array([1.]), array([-1.])), (array([0.]), array([2.])))
    """

    __slots__ = ()

    def __init__(
        self,
        compute_full: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(
            kernels.LaplaceOfLogarithm(math.log(2) if flag("compute_full", compute_full) else 0),
            weight,
            batch_axis,
            reduction,
            inputs=with_scale("log_scale"),
            surrogate="expected",
        )


class StudentTNLLLoss(Loss):
    r"""The negative log-likelihood of a label with Student's t distribution, given its centre and its scale.

    .. math:: \ell = q + \frac{\nu + 1}{2} \log\left(1 + \frac{(x - y)^2 e^{-2 q}}{\nu}\right), \quad q = \log \sigma

    With ``compute_full=True``, :math:`\log \Gamma(\nu/2) - \log \Gamma((\nu + 1)/2) + \tfrac12 \log \pi \nu` is added.

    Args:
        df: nu, the degrees of freedom, above 0: 3 to 5 suit labels with outliers, 1 is Cauchy's distribution.
        compute_full: whether to add the constant; without it, compare values of one df only.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, log_scale, sample_weight=None)``, pred the centre, label real and of the same shape;
    log_scale broadcasts to them. ``wrt=("pred", "log_scale")`` gives the gradients in both, and ``grad_and_hess`` the
    Hessians.

    Raises ValueError for a df that is not above 0.

    The gradient in pred falls again for errors beyond sigma sqrt(nu), where the Hessian is below 0: start from a
    median. Boosting takes the Hessian's mean instead, (nu + 1) / (nu + 3) e^(-2 q), and 2 nu / (nu + 3) in log_scale.
    Sigma is not the standard deviation, which is sqrt(nu / (nu - 2)) times sigma. As nu grows, the loss becomes
    :class:`GaussianNLLLoss` of the log_scale.

    Source: Lange, Little and Taylor 1989. Gluon, PyTorch, CatBoost: none. NGBoost: ``T``, with nu = 3; scipy:
    ``t(nu, x, exp(q))``; both add the constant.

    >>> import fastloss as fl
    >>> fl.StudentTNLLLoss(df=4).grad([0.5, 50.0], [0.0, 0.0], 0.0).round(4)
    array([0.5882, 0.0998])
    """

    __slots__ = ()

    def __init__(
        self,
        df: float = 5,
        compute_full: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(
            kernels.StudentOfLogarithm(number("df", df, above=0), flag("compute_full", compute_full)),
            weight,
            batch_axis,
            reduction,
            inputs=with_scale("log_scale"),
            surrogate="expected",
        )
