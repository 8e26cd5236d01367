"""Losses of counts."""

from __future__ import annotations

from fastloss import _domains as domain
from fastloss._arguments import flag
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
    count from 0 up and of the same shape; epsilon, a number, is used with rates only. A label may be a fraction: a
    count per unit of exposure, whose sample_weight is its exposure.

    The value is not a deviance: it may be negative, and its minimum depends on y.

    Source: Stirling's approximation as in Gluon and PyTorch. Gluon 1: the mean over all examples; Gluon 2 and this:
    over each. PyTorch: ``PoissonNLLLoss(log_input, full)``.

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
        )
