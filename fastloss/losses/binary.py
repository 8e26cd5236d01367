"""Losses of binary labels."""

from __future__ import annotations

from typing import Any, Literal

from fastloss import _domains as domain
from fastloss._arguments import flag, fraction, integer, number
from fastloss._core import Loss
from fastloss._inputs import Input, Reduction, pair
from fastloss._isa import kernels

LabelFormat = Literal["signed", "binary"]


def is_signed(label_format: Any) -> bool:
    """Whether labels are -1 and +1 instead of 0 and 1."""
    if not isinstance(label_format, str) or label_format not in ("signed", "binary"):
        raise ValueError(f"label_format must be 'signed' or 'binary', got {label_format!r}")
    return label_format == "signed"


def sign(signed: bool) -> tuple[float, float]:
    """A slope and a shift that make a label the sign of its class."""
    return (1, 0) if signed else (2, -1)


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

    Labels 0/1 must become -1/+1 first, ``2 * label - 1``. A call does not refuse a label of 0, which costs the margin
    whatever the prediction; :meth:`validate` does. Exactly at the margin the gradient is 0; the Hessian is 0
    everywhere.

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
            kernels.Hinge(number("margin", margin)),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN),
            surrogate="majorizer",
            link=None,
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

    The formula has no half in front: the gradient is -2 y max(0, m - x y). The Hessian is 2 y² inside the margin and 0
    outside.

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
            inputs=pair(domain.SIGN),
            surrogate="majorizer",
            link="margin",
        )


class SmoothedHingeLoss(Loss):
    r"""A hinge with a parabola in place of the kink at the margin; errors beyond it cost linearly.

    .. math::
        \ell = \frac{c}{\gamma} \left(t - \frac{c}{2}\right), \quad
        t = \max(0, 1 - x y), \quad c = \min(t, \gamma)

    Args:
        gamma: the length of the parabola, above 0, from the margin on.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        label_format: "signed" for labels -1/+1, "binary" for 0/1.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred a real score, label its class, of the same shape. Other real
    labels are taken as they are, once a binary y has become 2 y - 1.

    Raises ValueError for another label_format, and for a gamma that is not above 0.

    The Hessian is 1/gamma on the parabola and 0 elsewhere: a method of second order does not see errors beyond the
    parabola. As gamma falls to 0, the loss becomes :class:`HingeLoss`.

    Source: Rennie and Srebro 2005 (gamma = 1), Shalev-Shwartz and Zhang 2013. Gluon, PyTorch: none.

    >>> import fastloss as fl
    >>> fl.SmoothedHingeLoss()([2.0, 0.5, 0.5], [1, 1, -1])
    array([0.   , 0.125, 1.   ])
    """

    __slots__ = ()

    def __init__(
        self,
        gamma: float = 1,
        weight: float | None = None,
        batch_axis: int = 0,
        label_format: LabelFormat = "signed",
        *,
        reduction: Reduction = "example",
    ) -> None:
        signed = is_signed(label_format)
        super().__init__(
            kernels.SmoothedHinge(number("gamma", gamma, above=0), 1, *sign(signed)),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN_OF_CLASS if signed else domain.BINARY_OF_CLASS),
            surrogate="majorizer",
            link="margin",
        )


class ModifiedHuberLoss(Loss):
    r"""The squared hinge, continued by a line where it would be harsh on outliers.

    .. math::
        \ell = \begin{cases} \max(0, 1 - x y)^2 & x y \ge -1 \\ -4 x y & \text{otherwise} \end{cases}

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        label_format: "signed" for labels -1/+1, "binary" for 0/1.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred a real score, label its class, of the same shape. Other real
    labels are taken as they are, once a binary y has become 2 y - 1.

    Raises ValueError for another label_format.

    The score is calibrated: (1 + min(max(x, -1), 1))/2 estimates the probability of the positive class. The loss is 4
    times :class:`SmoothedHingeLoss` of gamma = 2.

    Source: Zhang 2004. Gluon, PyTorch: none. scikit-learn: ``SGDClassifier(loss="modified_huber")``.

    >>> import fastloss as fl
    >>> fl.ModifiedHuberLoss()([2.0, 0.5, -3.0], [1, 1, 1])
    array([ 0.  ,  0.25, 12.  ])
    """

    __slots__ = ()

    def __init__(
        self,
        weight: float | None = None,
        batch_axis: int = 0,
        label_format: LabelFormat = "signed",
        *,
        reduction: Reduction = "example",
    ) -> None:
        signed = is_signed(label_format)
        super().__init__(
            kernels.SmoothedHinge(2, 4, *sign(signed)),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN_OF_CLASS if signed else domain.BINARY_OF_CLASS),
            surrogate="majorizer",
            link="margin",
        )


class HingeEmbeddingLoss(Loss):
    r"""The distance of a pair that belongs together; for any other pair, how far its distance falls short of the
    margin.

    .. math::
        \ell = \begin{cases} x & y = 1 \\ \max(0, m - x) & y = -1 \end{cases}

    Args:
        margin: m, the distance from which on a pair that does not belong together costs nothing.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred a distance, label of the same shape: 1 for a pair that belongs
    together, -1 for any other. Real labels between the two are mixtures: y counts as 1 with weight (1 + y)/2.

    Labels 0/1 must become -1/+1 first, ``2 * label - 1``: a label of 0 is half of each here, and both in full in
    PyTorch. Exactly at the margin the gradient is 0; the Hessian is 0 everywhere.

    Source: Hadsell, Chopra and LeCun 2006, with squared distances. Gluon: none. PyTorch: ``HingeEmbeddingLoss``.

    >>> import fastloss as fl
    >>> fl.HingeEmbeddingLoss()([0.25, 0.25, 3.0], [1, -1, -1])
    array([0.25, 0.75, 0.  ])
    """

    __slots__ = ()

    def __init__(
        self, margin: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.HingeEmbedding(number("margin", margin)),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN),
            link=None,
        )


class ExponentialLoss(Loss):
    r"""AdaBoost's loss: a wrong prediction costs the exponential of its score.

    .. math:: \ell = e^{-x y}, \quad y \in \{-1, +1\}

    With ``label_format="binary"`` the labels are 0 and 1: :math:`\ell = y e^{-x} + (1 - y) e^x`.

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        label_format: "signed" for labels -1/+1, "binary" for 0/1; with the wrong one, labels count as mixtures.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred half the log-odds, of the label's shape. Real labels between
    the two are mixtures: a signed y counts as +1 with weight (1 + y)/2.

    Raises ValueError for another label_format.

    The probability of the positive class is that of twice the score, 1/(1 + e^(-2 x)). The Hessian is the loss itself.
    In float32 a score of 88.8 on the wrong side costs infinity.

    Source: Freund and Schapire 1997. Gluon, PyTorch: none. scikit-learn: ``GradientBoostingClassifier(loss=
    "exponential")``, labels 0/1.

    >>> import fastloss as fl
    >>> fl.ExponentialLoss()([0.0, 1.0, 1.0], [1, 1, -1]).round(4)
    array([1.    , 0.3679, 2.7183])
    """

    __slots__ = ()

    def __init__(
        self,
        weight: float | None = None,
        batch_axis: int = 0,
        label_format: LabelFormat = "signed",
        *,
        reduction: Reduction = "example",
    ) -> None:
        signed = is_signed(label_format)
        share = (0.5, 0.5) if signed else (1, 0)
        super().__init__(
            kernels.Exponential(*share),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN_OF_CLASS if signed else domain.SHARE_OF_CLASS, domain.LOG_ODDS),
            link="margin",
        )


class LogisticLoss(Loss):
    r"""The negative log-likelihood of a binary label, given its log-odds.

    .. math:: \ell = \log(1 + e^{-x y}), \quad y \in \{-1, +1\}

    With ``label_format="binary"`` the labels are 0 and 1 and the loss is that of
    :class:`SigmoidBinaryCrossEntropyLoss`: :math:`\ell = y \log(1 + e^{-x}) + (1 - y) \log(1 + e^x)`.

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        label_format: "signed" for labels -1/+1, "binary" for 0/1; with the wrong one, labels count as mixtures.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the log-odds, of the label's shape. Real labels between the
    two are mixtures: a signed y counts as +1 with weight (1 + y)/2.

    Raises ValueError for another label_format.

    The gradient of a confident prediction keeps its digits: at x = 40, y = 1 it is -4.2e-18, not 0. Largest errors, in
    units in the last place: values 2, gradients 3, Hessians 5. With soft labels a gradient's error is up to 4 units of
    the larger of its two terms. Unlike Gluon's, the gradient at x = 0 is the true one.

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
        label_format: LabelFormat = "signed",
        *,
        reduction: Reduction = "example",
    ) -> None:
        signed = is_signed(label_format)
        super().__init__(
            kernels.Logistic() if signed else kernels.SigmoidCrossEntropy(),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SIGN_OF_CLASS if signed else domain.SHARE_OF_CLASS, domain.LOG_ODDS),
            surrogate="majorizer",
            newton="exact",
            exact_is=("expected",),
            link="margin",
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
    from 0 to 1 and of the same shape. Soft labels are fine; a call does not refuse labels outside. pos_weight is q, the
    weight of the positive class, which broadcasts to pred: (C,) gives one per column. ``wrt="pos_weight"`` gives its
    gradient.

    Give it logits: a sigmoid before the loss throws away the digits that this keeps. At x = 40, y = 1 the gradient is
    -4.2e-18, where sigmoid(x) - y rounds to 0. Largest errors from logits, in units in the last place: values 2,
    gradients 3, Hessians 5. With soft labels a gradient's error is up to 4 units of the larger of its two terms. With
    pos_weight: values 4, gradients 5, Hessians 6.

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
            surrogate=None if is_probability else "majorizer",
            exact_is=() if is_probability else ("expected",),
            newton="exact",
            link="identity" if is_probability else "margin",
            inputs=(
                *pair(domain.SHARE, domain.PROBABILITY if is_probability else domain.LOG_ODDS),
                Input("pos_weight", "broadcast", required=False),
            ),
        )


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss


class PolyBCELoss(Loss):
    r"""Binary cross-entropy plus a multiple of the first term of its expansion, the probability of the wrong class.

    .. math::
        \ell = y (\log(1 + e^{-x}) + \epsilon q) + (1 - y) (\log(1 + e^x) + \epsilon p), \quad
        p = 1 - q = \frac{1}{1 + e^{-x}}

    Args:
        epsilon: what is added to the first term's coefficient of 1; above -1.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the log-odds, label from 0 to 1 and of the same shape. Labels
    between the two are mixtures.

    Raises ValueError for an epsilon that is not above -1.

    The gradient for a confident and right prediction is 1 + epsilon times that of cross-entropy. With epsilon above 1
    the Hessian is below 0 for a confident error.

    Largest errors, in units in the last place: values and gradients 4, Hessians 6.

    Source: Leng et al. 2022 (Poly-1). Gluon, PyTorch: none. optax: ``poly_loss_cross_entropy``, over classes.

    >>> import fastloss as fl
    >>> fl.PolyBCELoss()([0.0, 2.0], [1, 1]).round(4)
    array([1.1931, 0.2461])
    """

    __slots__ = ()

    def __init__(
        self, epsilon: float = 1, weight: float | None = None, batch_axis: int = 0, *, reduction: Reduction = "example"
    ) -> None:
        super().__init__(
            kernels.PolySigmoidCrossEntropy(number("epsilon", epsilon, above=-1)),
            weight,
            batch_axis,
            reduction,
            inputs=pair(domain.SHARE, domain.LOG_ODDS),
            surrogate="majorizer",
            link="margin",
        )


def focal_inputs() -> tuple[Input, ...]:
    """pred, and a label without a gradient: numbers between its two values mean nothing."""
    pred, _, weight = pair(pred=domain.LOG_ODDS)
    return pred, Input("label", domain=domain.BINARY, differentiable=False), weight


class SigmoidFocalLoss(Loss):
    r"""Binary cross-entropy that counts easy examples less: the more probable the label was, the less.

    .. math::
        \ell = w_y\, q^\gamma \log(1 + e^{-m}), \quad q = \frac{1}{1 + e^m}, \quad m = (2 y - 1) x

    The weight w is alpha for the label 1 and 1 - alpha for 0; without alpha, w is 1.

    Args:
        alpha: the weight of the label 1, from 0 to 1; None weighs neither.
        gamma: the power of the probability of the wrong class, from 0 up; 0 is cross-entropy.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the log-odds, label 0 or 1 and of the same shape. A call takes
    a label above 0.5 for 1, any other for 0; :meth:`validate` refuses labels in between. No gradient in label exists.

    Raises ValueError for an alpha that is not from 0 to 1, and for a gamma below 0.

    The best prediction is not the log-odds: the sigmoid of it is nearer to 1/2 than the probability of the label 1. The
    Hessian is below 0 for a confident error. Largest errors up to gamma = 2, in units in the last place: values 3,
    gradients 5, Hessians 9 of their largest term. Each unit of gamma adds one, because gamma multiplies the rounding of
    log(q).

    Source: Lin et al. 2017. Gluon, PyTorch: none. torchvision and optax: ``sigmoid_focal_loss``. Keras:
    ``BinaryFocalCrossentropy``, without alpha by default. All have this scale, but treat labels between 0 and 1 in
    other ways.

    >>> import fastloss as fl
    >>> fl.SigmoidFocalLoss()([0.0, 1.0, 1.0], [1, 1, 0]).round(4)
    array([0.0433, 0.0057, 0.5264])
    """

    __slots__ = ()

    def __init__(
        self,
        alpha: float | None = 0.25,
        gamma: float = 2,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        positive = 1 if alpha is None else fraction("alpha", alpha)
        power = number("gamma", gamma, least=0)
        super().__init__(
            kernels.SigmoidFocal(1 if alpha is None else 1 - positive, positive, power, power),
            weight,
            batch_axis,
            reduction,
            inputs=focal_inputs(),
            surrogate="majorizer",
            link="margin",
        )


def small_power(name: str, x: Any) -> int:
    """An integer that a kernel raises to by squares."""
    value = integer(name, x)
    if not 0 <= value <= 7:
        raise ValueError(f"{name} must be between 0 and 7, got {x!r}")
    return value


class AsymmetricLoss(Loss):
    r"""A focal loss for many labels with few positives: improbable labels of 0 cost nothing.

    .. math::
        \ell = \begin{cases}
        (1 - p)^{\gamma_+} \cdot -\log p & y = 1 \\
        v^{\gamma_-} \cdot -\log(1 - v), \quad v = \max(0, p - c) & y = 0
        \end{cases}, \quad p = \frac{1}{1 + e^{-x}}

    Args:
        gamma_neg: the power for the label 0, an integer from 0 to 7.
        gamma_pos: the power for the label 1, an integer from 0 to 7.
        clip: c, from 0 to less than 1, the probability up to which a label of 0 costs nothing.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred the log-odds, label 0 or 1 and of the same shape. A call takes
    a label above 0.5 for 1, any other for 0; :meth:`validate` refuses labels in between. No gradient in label exists.

    Raises ValueError for a power that is not from 0 to 7, and for a clip that is not from 0 to less than 1.

    A label of 0 costs at most -log(c), whatever the prediction; if the prediction is certain, the gradient is 0. The
    Hessian is below 0 for a confident error; ``hessian="majorizer"`` leaves out what the power makes negative. Errors
    for the label 1 grow by 2 units in the last place with each unit of the power. For the label 0, v keeps the rounding
    error of p: near the clip, where the loss is almost 0, few of its digits are right.

    Source: Ridnik et al. 2021. Gluon, PyTorch: none. timm: ``AsymmetricLossMultiLabel``, whose logarithms stop at 1e-8.

    >>> import fastloss as fl
    >>> fl.AsymmetricLoss()([0.0, -3.0, 2.0], [1, 0, 0]).round(4)
    array([0.3466, 0.    , 0.8464])
    """

    __slots__ = ()

    def __init__(
        self,
        gamma_neg: int = 4,
        gamma_pos: int = 1,
        clip: float = 0.05,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
    ) -> None:
        powers = small_power("gamma_neg", gamma_neg), small_power("gamma_pos", gamma_pos)
        # A clip below 1e-30 shows only beyond x = 69, where its reciprocal nearly leaves the range of float32.
        free = number("clip", clip, below=1, least=0)
        super().__init__(
            kernels.AsymmetricFocal(free, *powers) if free > 1e-30 else kernels.SigmoidFocal(1, 1, *powers),
            weight,
            batch_axis,
            reduction,
            inputs=focal_inputs(),
            surrogate="majorizer",
            link="margin",
        )
