"""Losses of binary labels."""

from __future__ import annotations

from typing import Literal

from fastloss import _domains as domain
from fastloss._arguments import flag, number
from fastloss._core import Loss
from fastloss._inputs import Input, Reduction, pair
from fastloss._isa import kernels


class HingeLoss(Loss):
    r"""The loss of the support vector machine: predictions on the right side by the margin cost nothing.

    .. math:: \ell = \max(0, m - x y)

    Args:
        margin: m, the score from which on a prediction costs nothing.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred a real score, label -1 or +1, of the same shape. Other real
    labels are taken as they are.

    A call does not refuse a label of 0: it costs the margin whatever the prediction. Labels 0/1 must become -1/+1
    first, ``2 * label - 1``; :meth:`validate` finds those that did not.
    Exactly at the margin the gradient is 0; the Hessian is 0 everywhere.

    Source: Cortes and Vapnik 1995. Gluon: ``HingeLoss``. PyTorch: none for scores (``HingeEmbeddingLoss`` takes
    distances).

    >>> import fastloss as fl
    >>> fl.HingeLoss()([2.0, 0.5, 0.5], [1, 1, -1])
    array([0. , 0.5, 1.5])
    """

    __slots__ = ()

    def __init__(
        self, margin: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.Hinge(number("margin", margin)), weight, batch_axis, reduction, inputs=pair(domain.SIGN)
        )


class SquaredHingeLoss(Loss):
    r"""The squared hinge: smooth at the margin, and harder on errors.

    .. math:: \ell = \max(0, m - x y)^2

    Args:
        margin: m, the score from which on a prediction costs nothing.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred a real score, label -1 or +1, of the same shape. Other real
    labels are taken as they are.

    There is no half in front: the gradient is -2 y max(0, m - x y), the Hessian 2 y² inside the margin and 0 outside.

    Source: L2-SVM, Lee and Mangasarian 2001. Gluon: ``SquaredHingeLoss``. PyTorch: none.

    >>> import fastloss as fl
    >>> fl.SquaredHingeLoss()([2.0, 0.5, 0.5], [1, 1, -1])
    array([0.  , 0.25, 2.25])
    """

    __slots__ = ()

    def __init__(
        self, margin: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.SquaredHinge(number("margin", margin)), weight, batch_axis, reduction, inputs=pair(domain.SIGN)
        )


class LogisticLoss(Loss):
    r"""The negative log-likelihood of a binary label, given its log-odds.

    .. math:: \ell = \log(1 + e^{-x y}), \quad y \in \{-1, +1\}

    With ``label_format="binary"`` the labels are 0 and 1 and the loss is that of
    :class:`SigmoidBinaryCrossEntropyLoss`: :math:`\ell = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)`.

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        label_format: "signed" for labels -1/+1, "binary" for 0/1, which the other would take for mixtures.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the log-odds, of the label's shape. Real labels between the
    two are mixtures: a signed y counts as +1 with weight (1 + y)/2.

    Raises ValueError for another label_format.

    The gradient of a confident prediction keeps its digits: at x = 40, y = 1 it is -4.2e-18, not 0. Values are
    within 2 units in the last place of the exact ones, gradients within 3 for hard labels and 4 of the larger of their
    two terms for soft ones, Hessians within 5. Unlike Gluon's, the gradient at x = 0 is the true one.

    Source: Cox 1958. Gluon: ``LogisticLoss``. PyTorch: ``SoftMarginLoss`` (signed), ``BCEWithLogitsLoss`` (binary).

    >>> import fastloss as fl
    >>> fl.LogisticLoss()([0.0, 40.0], [1, 1])
    array([6.93147181e-01, 4.24835426e-18])
    """

    __slots__ = ()

    def __init__(
        self,
        weight: float | None = None,
        batch_axis: int = 0,
        label_format: Literal["signed", "binary"] = "signed",
        *,
        reduction: Reduction = "example",
    ) -> None:
        if not isinstance(label_format, str) or label_format not in ("signed", "binary"):
            raise ValueError(f"label_format must be 'signed' or 'binary', got {label_format!r}")
        signed = label_format == "signed"
        super().__init__(
            kernels.Logistic() if signed else kernels.SigmoidCrossEntropy(),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN_OF_CLASS if signed else domain.SHARE_OF_CLASS, domain.LOG_ODDS),
        )


class SigmoidBinaryCrossEntropyLoss(Loss):
    r"""Binary cross-entropy, for one or many independent yes-or-no labels, from logits or from probabilities.

    .. math::
        \ell = q\, y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)

    With ``from_sigmoid=True`` pred is a probability p and
    :math:`\ell = -q\, y \log(p + \epsilon) - (1 - y) \log(1 - p + \epsilon)`, :math:`\epsilon = 10^{-12}`,
    or 0 where epsilon would take it below.

    Args:
        from_sigmoid: whether pred went through a sigmoid already.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None, pos_weight=None)``, pred real (from 0 to 1 if from_sigmoid), label
    from 0 to 1 and of the same shape; soft labels are fine, and nothing outside is refused. pos_weight is q, the weight
    of the positive class, which broadcasts to pred: (C,) gives one per column. It can be differentiated
    (``wrt="pos_weight"``).

    Give it logits: a sigmoid before the loss throws away the digits that this keeps. At x = 40, y = 1 the gradient is
    -4.2e-18, where sigmoid(x) - y rounds to 0. From logits, values are within 2 units in the last place of the exact
    ones, gradients within 3 for hard labels and 4 of the larger of their two terms for soft ones, Hessians within 5;
    with pos_weight values are within 4, gradients within 5, Hessians within 6.

    Source: Good 1952. Gluon: ``SigmoidBinaryCrossEntropyLoss``, alias ``SigmoidBCELoss``. PyTorch:
    ``BCEWithLogitsLoss``; ``BCELoss``, which clamps the logarithm at -100, if from_sigmoid.

    >>> import fastloss as fl
    >>> loss = fl.SigmoidBinaryCrossEntropyLoss()
    >>> loss.grad([40.0, 0.0, 2.0], [1, 1, 1])
    array([-4.24835426e-18, -5.00000000e-01, -1.19202922e-01])
    """

    __slots__ = ()

    def __init__(
        self,
        from_sigmoid: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        is_probability = flag("from_sigmoid", from_sigmoid)
        super().__init__(
            kernels.ProbabilityCrossEntropy() if is_probability else kernels.WeightedSigmoidCrossEntropy(),
            weight,
            batch_axis,
            reduction,
            plain=None if is_probability else kernels.SigmoidCrossEntropy(),
            inputs=(
                *pair(domain.SHARE, domain.PROBABILITY if is_probability else domain.LOG_ODDS),
                Input("pos_weight", "broadcast", required=False),
            ),
        )


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss
