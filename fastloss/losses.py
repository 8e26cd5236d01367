"""The losses: a class each, with its formula, its parameters and its source. The mathematics is in ``_kernels.pyx``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from numpy.typing import NDArray

from fastloss import _domains as domain
from fastloss._core import CosineLoss, Loss, PairLoss, SequenceLoss, SoftmaxLoss, flag, integer, number
from fastloss._foreign import blank_index
from fastloss._isa import kernels

__all__ = [
    "CTCLoss",
    "CosineEmbeddingLoss",
    "HingeLoss",
    "HuberLoss",
    "KLDivLoss",
    "L1Loss",
    "L2Loss",
    "LogisticLoss",
    "Loss",
    "PoissonNLLLoss",
    "SDMLLoss",
    "SigmoidBCELoss",
    "SigmoidBinaryCrossEntropyLoss",
    "SoftmaxCELoss",
    "SoftmaxCrossEntropyLoss",
    "SquaredHingeLoss",
    "TripletLoss",
]

Reduction = Literal["example", "none", "sum", "mean", "weighted_mean"]


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
            kernels.Hinge(number("margin", margin)), weight, batch_axis, reduction, domains={"label": domain.SIGN}
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
            kernels.SquaredHinge(number("margin", margin)),
            weight,
            batch_axis,
            reduction,
            domains={"label": domain.SIGN},
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
            domains={"label": domain.SIGN_OF_CLASS if signed else domain.SHARE_OF_CLASS, "pred": domain.LOG_ODDS},
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
        if is_probability:
            kernel = other_kernel = kernels.ProbabilityCrossEntropy()
        else:
            kernel, other_kernel = kernels.SigmoidCrossEntropy(), kernels.WeightedSigmoidCrossEntropy()
        super().__init__(
            kernel,
            weight,
            batch_axis,
            reduction,
            other_kernel=other_kernel,
            inputs=("pred", "label", "sample_weight", "pos_weight"),
            domains={"label": domain.SHARE, "pred": domain.PROBABILITY if is_probability else domain.LOG_ODDS},
        )


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss


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
            third_default=1e-8,
            inputs=("pred", "label", "sample_weight", "epsilon"),
            fixed=("epsilon",),
            domains={"label": domain.COUNT, "pred": domain.LOGARITHM if is_log else domain.RATE},
        )


class KLDivLoss(Loss):
    r"""The Kullback-Leibler divergence of a predicted from a target distribution.

    .. math:: \ell_j = y_j (\log(y_j + \epsilon) - x_j), \quad \epsilon = 10^{-12}

    With ``from_logits=False``, :math:`\log \mathrm{softmax}(x)_j` takes the place of :math:`x_j`.

    Args:
        from_logits: whether pred holds log-probabilities already, as in Gluon; TensorFlow's name means the opposite.
        axis: the axis of the softmax; of no effect for log-probabilities.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred log-probabilities or logits, label probabilities of the same
    shape, which is that of the unreduced loss, too.

    The reductions are means over elements, classes included, as in Gluon 2: for the divergence itself multiply by the
    number of classes, or sum. Where y is 0 the loss is 0, even if pred is -inf. A target below -1e-12 has neither value
    nor gradient: both are NaN. From log-probabilities, values are within 4 units in the last place of the larger term.

    Source: Kullback and Leibler 1951. Gluon: ``KLDivLoss``, which sums in 1.9. PyTorch: ``KLDivLoss``.

    >>> import fastloss as fl
    >>> import numpy as np
    >>> print(round(fl.KLDivLoss(reduction="sum")(np.log([0.5, 0.5]), [0.25, 0.75]), 6))
    0.130812
    >>> fl.KLDivLoss(from_logits=False).grad([[0.0, 0.0]], [[0.25, 0.75]])
    array([[ 0.125, -0.125]])
    """

    __slots__ = ()

    def __init__(
        self,
        from_logits: bool = True,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        is_log = flag("from_logits", from_logits)
        super().__init__(
            kernels.KLDivergence() if is_log else kernels.SoftmaxDivergence(),
            weight,
            batch_axis,
            reduction,
            layout="elements" if is_log else "coupled",
            axis=axis,
            domains={"label": domain.MASS, "pred": domain.LOG_PROBABILITY if is_log else domain.LOGARITHM},
        )


class SoftmaxCrossEntropyLoss(SoftmaxLoss):
    r"""Cross-entropy over classes, with the softmax inside.

    .. math:: \ell = -\sum_j t_j \log \mathrm{softmax}(x)_j

    where t is one-hot at the label's class id, or, with ``sparse_label=False``, the label itself.

    Args:
        axis: the axis of the classes.
        sparse_label: whether labels are class ids; else they are weights or probabilities, one per class.
        from_logits: whether pred is log-probabilities already, as in Gluon; TensorFlow's name means the opposite.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`. ``"weighted_mean"`` is PyTorch's "mean": it divides by the sum of the sample and
            class weights of the examples that are not ignored, "mean" by the number of all examples.
        ignore_index: a class id, any integer, whose examples have value and gradient 0, whatever their logits.
        label_smoothing: a, from 0 to 1: t becomes (1 - a) t + a/C, with C classes.
        class_weight: one weight per class, finite and of any sign, which multiplies t.

    Call: ``loss(pred, label, sample_weight=None)``. The unreduced loss has pred's shape without the class axis. Class
    ids have that shape (or pred's with size 1 along the class axis) and any real dtype; dense labels have pred's shape.
    sample_weight is one per example, or broadcasts to the unreduced loss, which may have the class axis with size 1.

    Raises ValueError for class ids that are fractional, NaN or out of range, naming the first; nothing is written then.

    From log-probabilities and class ids without smoothing only the label's own entry is read: a NaN elsewhere in a row
    has no effect. In every other case a NaN anywhere in a row spoils its value and its derivatives.

    A logit of -inf means probability 0, and gradient 0. A confident prediction keeps its digits: with the label's
    logit far above the rest the value is log1p of the sum of the others, not log of 1. All examples ignored: 0, not
    NaN.

    Source: Bridle 1990; smoothing: Szegedy et al. 2016. Gluon: ``SoftmaxCrossEntropyLoss``, alias ``SoftmaxCELoss``,
    which clips ids out of range. PyTorch: ``CrossEntropyLoss``.

    >>> import fastloss as fl
    >>> loss = fl.SoftmaxCrossEntropyLoss()
    >>> loss([[1.0, 10.0], [8.0, 2.0]], [0, 1])
    array([9.0001234 , 6.00247569])
    """

    __slots__ = ()

    def __init__(
        self,
        axis: int = -1,
        sparse_label: bool = True,
        from_logits: bool = False,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
        ignore_index: int | None = None,
        label_smoothing: float = 0.0,
        class_weight: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        ignored = None if ignore_index is None else integer("ignore_index", ignore_index, 2**53 - 1)
        super().__init__(
            weight,
            batch_axis,
            reduction,
            axis=axis,
            sparse_label=sparse_label,
            from_logits=from_logits,
            ignore_index=ignored,
            label_smoothing=label_smoothing,
            class_weight=class_weight,
            domains={
                "label": domain.class_ids(integer("axis", axis), ignored)
                if flag("sparse_label", sparse_label)
                else domain.SHARE,
                "pred": domain.LOG_PROBABILITY if flag("from_logits", from_logits) else domain.LOGARITHM,
            },
        )


SoftmaxCELoss = SoftmaxCrossEntropyLoss


class TripletLoss(Loss):
    r"""Pulls an anchor to what is like it and pushes it from what is not, until the difference is a margin.

    .. math:: \ell = \max\Bigl(0,\; m + \sum_k (x^+_k - x_k)^2 - (x^-_k - x_k)^2\Bigr)

    Args:
        margin: m.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples; the sum is over all others.
        reduction: see :class:`Loss`. The unreduced loss is one number per example.

    Call: ``loss(pred, positive, negative, sample_weight=None)``, three real arrays of the same shape. Any of them can
    be differentiated, several in one pass: ``wrt=("positive", "negative")``.

    The distances are squared and summed, not averaged: the margin must grow with the number of features. The loss is
    linear in pred where it is not 0, so the Hessian is 0.

    Source: Schroff, Kalenichenko and Philbin 2015. Gluon: ``TripletLoss``. PyTorch: ``TripletMarginLoss`` takes the
    distances without the square.

    >>> import fastloss as fl
    >>> fl.TripletLoss().value_and_grad([[0.0, 0.0]], [[1.0, 0.0]], [[0.0, 1.0]])
    (array([1.]), array([[-2.,  2.]]))
    """

    __slots__ = ()

    def __init__(
        self, margin: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.Triplet(number("margin", margin)),
            weight,
            batch_axis,
            reduction,
            layout="examples",
            inputs=("pred", "positive", "negative", "sample_weight"),
            required=3,
        )


class CosineEmbeddingLoss(CosineLoss):
    r"""Wants vectors that belong together parallel, and others at an angle of which the cosine is below a margin.

    .. math::
        \ell = \begin{cases} 1 - c & y = 1 \\ \max(0, c - m) & y = -1 \end{cases}, \quad
        c = \frac{x_1 \cdot x_2}{\max(|x_1|\,|x_2|,\; 10^{-12})}

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        margin: m, usually from 0 to 1.
        reduction: see :class:`Loss`. The unreduced loss has the inputs' shape without the axis of the vectors.
        axis: the axis of the vectors.

    Call: ``loss(input1, input2, label, sample_weight=None)``, the vectors along an axis of both, labels 1 or -1, one
    per pair of vectors.

    Raises ValueError for any other label.

    Between near parallel vectors the loss is computed from the difference of the unit vectors: an angle of 1e-10 gives
    5e-21, where 1 - c is 0. For a vector of 0 the loss is Gluon's, c = 0, and the gradient finite, but of the order of
    1e12: leave such pairs out.

    Source: Gluon: ``CosineEmbeddingLoss``. PyTorch: ``CosineEmbeddingLoss``.

    >>> import fastloss as fl
    >>> fl.CosineEmbeddingLoss()([[1.0, 0.0], [1.0, 0.0]], [[3.0, 4.0], [3.0, 4.0]], [1, -1])
    array([0.4, 0.6])
    """

    __slots__ = ()

    def __init__(
        self,
        weight: float | None = None,
        batch_axis: int = 0,
        margin: float = 0,
        *,
        reduction: Reduction = "example",
        axis: int = -1,
    ) -> None:
        super().__init__(
            kernels.CosineEmbedding(number("margin", margin)),
            weight,
            batch_axis,
            reduction,
            axis=axis,
            domains={"label": domain.SIGN_OF_PAIR},
        )


class CTCLoss(SequenceLoss):
    r"""Connectionist temporal classification: a label sequence's negative log-likelihood over frames, unaligned.

    .. math:: \ell = -\log \sum_{\pi \in \mathcal{B}^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    where :math:`\mathcal{B}` merges repeated classes of an alignment :math:`\pi`, then drops the blanks.

    Args:
        layout: the axes of pred, "NTC" or "TNC": examples, frames, classes.
        label_layout: the axes of label, "NT" or "TN".
        weight: a number that multiplies the loss; None is 1.
        reduction: see :class:`Loss`. The unreduced loss is one number per example.
        blank: the class that is the blank: "last", "first", or its index, which counts from the end below 0.
        zero_infinity: whether a label without an alignment costs 0 instead of infinity.

    Call: ``loss(pred, label, pred_lengths=None, label_lengths=None, sample_weight=None)``, pred logits, the softmax is
    inside; label class ids of any real dtype, none of them the blank. Without label_lengths the first -1 ends a label;
    with them, what stands behind is not read. Frames behind pred_lengths get gradient 0. Only pred and sample_weight
    can be differentiated.

    With label_lengths, label may have one axis instead, in which the examples' labels follow each other, as in
    PyTorch. pred may lack the axis of the examples: label is then the ids of one example, a length is a number, and so
    is the loss, whatever the reduction.

    Raises ValueError for ids and lengths that are fractional, NaN or out of range, naming the first, and
    NotImplementedError for the Hessian, whose diagonal takes a recursion per class.

    A label that is too long for its frames (repeats need a blank between them) has loss inf and gradient 0. An empty
    label has the probability of blanks alone. Alignments are summed as mantissas and exponents in double precision,
    for float32 as well: 2000 frames lose no digits. But a probability near 1 is a number near 1, about 1e-16 per frame
    from the exact one, and so is the loss of a certain and right prediction from 0; its gradient keeps its digits.

    Source: Graves, Fernández, Gomez and Schmidhuber 2006. Gluon: ``CTCLoss``. PyTorch: ``CTCLoss``, of
    log-probabilities in the layout TNC, with the first class blank, and divided by the label's length for "mean".

    >>> import fastloss as fl
    >>> import numpy as np
    >>> fl.CTCLoss()(np.ones((2, 20, 4)), [[1, 0, -1, -1], [2, 1, 1, -1]])
    array([18.82820491, 16.50581719])
    """

    __slots__ = ()

    def __init__(
        self,
        layout: Literal["NTC", "TNC"] = "NTC",
        label_layout: Literal["NT", "TN"] = "NT",
        weight: float | None = None,
        *,
        reduction: Reduction = "example",
        blank: Literal["last", "first"] | int = "last",
        zero_infinity: bool = False,
    ) -> None:
        index = blank_index(blank)
        super().__init__(
            weight,
            reduction,
            layout=layout,
            label_layout=label_layout,
            blank=index,
            zero_infinity=zero_infinity,
            domains={
                "label": domain.sequence_ids(index, 1 if isinstance(label_layout, str) and label_layout == "TN" else 0),
                "pred": domain.LOGARITHM,
                "pred_lengths": domain.LENGTH,
                "label_lengths": domain.LENGTH,
            },
        )


class SDMLLoss(PairLoss):
    r"""Smoothed deep metric learning: of all the second vectors, each first one's own should be the nearest.

    .. math::
        \ell_i = \sum_j t_{ij} \bigl(\log(t_{ij} + \epsilon) - \log \mathrm{softmax}_j(-|x_i - y_j|^2)\bigr), \quad
        t_{ij} = \begin{cases} 1 - a & i = j \\ a/(N - 1) & i \ne j \end{cases}, \quad \epsilon = 10^{-12}

    Args:
        smoothing_parameter: a, from 0 to 1: how much of the target goes to the vectors of others.
        weight: a number that multiplies the loss (Gluon takes it and ignores it).
        batch_axis: the axis of the pairs.
        reduction: see :class:`Loss`. The unreduced loss is one number per pair.

    Call: ``loss(x1, x2, sample_weight=None)``, two real arrays of one shape, row i of one belonging to row i of the
    other. Both can be differentiated, in one call.

    Raises NotImplementedError for the Hessian.

    Every vector of the batch is a negative example for every other: large batches make the loss harder, and the time
    grows with their square, the memory does not. A single pair costs log(1 + ε), about 1e-12. A row so far
    from all others that the squares leave the range of float64 has neither value nor gradient: both are NaN.

    Source: Bonadiman, Kumar and Mittal 2019. Gluon: ``SDMLLoss``, which in 2.x divides by N. PyTorch: none.

    >>> import fastloss as fl
    >>> fl.SDMLLoss()([[0.0, 0.0], [1.0, 1.0]], [[0.0, 0.0], [1.0, 1.0]]).round(6)
    array([0.116064, 0.116064])
    """

    __slots__ = ()

    def __init__(
        self,
        smoothing_parameter: float = 0.3,
        weight: float | None = 1.0,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        super().__init__(weight, batch_axis, reduction, smoothing_parameter=smoothing_parameter)
