"""Losses over classes and their distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss import _domains as domain
from fastloss import _foreign
from fastloss._arguments import flag, fraction, integer, number
from fastloss._core import Loss
from fastloss._inputs import WEIGHT, Input, Integers, Reduction, pair
from fastloss._isa import kernels
from fastloss.losses._normalizer import log_normalizer

# 2^40: larger weights are divided by a power of two
FAR = 2.0**40


def numbers_of_classes(name: str, what: str, given: Any) -> NDArray[np.float64]:
    """An argument with a number for each class, checked: finite numbers in a row."""
    a = _foreign.as_array(name, given)
    # Number by number: NumPy's cast of a whole array warns of numbers that float64 does not hold.
    numbers = list(map(float, a.ravel().tolist()))
    if a.ndim != 1 or not all(list(map(math.isfinite, numbers))):
        raise ValueError(f"{name} must be one finite {what} per class, got {given!r}")
    return np.array(numbers, np.float64)


def without_common_factor(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights divided by a power of two: a weighted mean divides by the weights, so the factor cancels."""
    largest = float(np.max(np.abs(weights), initial=0))
    is_near = largest == 0 or 1 / FAR <= largest <= FAR
    return weights if is_near else np.ldexp(weights, -math.frexp(largest)[1])


def of_classes(
    ignore_index: Any, class_weight: Any, reduction: Any
) -> tuple[int | None, bytes | None, tuple[str, int]]:
    """The ignored id and the weights as kernels take them, and which argument fixes the number of classes."""
    # Kernels compare ids as doubles; below 2^53 each integer is a double of its own.
    ignored = None if ignore_index is None else integer("ignore_index", ignore_index, 2**53 - 1)
    if class_weight is None:
        return ignored, None, ("class_weight", -1)
    weights = numbers_of_classes("class_weight", "weight", class_weight)
    # NumPy refuses to compare a structured scalar with a text
    divides = isinstance(reduction, str) and reduction == "weighted_mean"
    kept = without_common_factor(weights) if divides else weights
    return ignored, kept.tobytes(), ("class_weight", weights.size)


def class_ids(axis: int, ignored: int | None, hint: str = "") -> Input:
    """Labels that are ids of the classes along an axis, or the ignored id; hint is for other shapes."""
    ids = Integers(
        0,
        None,
        ignored,
        "class ids from 0 to {high},",
        hint="; to leave examples out, build the loss with ignore_index=",
        plural="class ids",
    )
    return Input(
        "label",
        "per row",
        domain.class_ids(axis, ignored),
        differentiable=False,
        integers=ids,
        hint=hint,
    )


def over_ids(
    kernel: Callable[..., Any],
    *parameters: Any,
    axis: int,
    reduction: Any,
    ignore_index: Any,
    class_weight: Any,
    pred: domain.Domain = domain.LOGARITHM,
) -> dict[str, Any]:
    """The arguments of the base's constructor for a loss of class ids: the kernel, and what all such losses share."""
    ignored, weights, row_parameter = of_classes(ignore_index, class_weight, reduction)
    return {
        "kernel": kernel(*parameters, ignored, weights),
        "reduction": reduction,
        "layout": "rows",
        "axis": axis,
        "inputs": (Input("pred", domain=pred), class_ids(integer("axis", axis), ignored), WEIGHT),
        "row_parameter": row_parameter,
    }


def bias_of(logit_bias: Any, weights: bytes | None) -> bytes | None:
    """The numbers that are added to the logits as kernels take them, as many as there are weights of classes."""
    if logit_bias is None:
        return None
    numbers = numbers_of_classes("logit_bias", "number", logit_bias)
    known = numbers.nbytes if weights is None else len(weights)
    if numbers.nbytes != known:
        raise ValueError(f"logit_bias must have as many classes as class_weight, {known // 8}, got {numbers.size}")
    return numbers.tobytes()


def is_changed(is_log: bool, *options: tuple[float, float | None, Any]) -> bool:
    """Whether z_loss, softcap or logit_bias is used: of each how much, what it is else, and what was given."""
    for name, (used, unused, given) in zip(("z_loss", "softcap", "logit_bias"), options, strict=True):
        if used and is_log:
            raise ValueError(
                f"{name} must be {unused} with from_logits=True, where the exponentials sum to 1, got {given!r}"
            )
    return any(used for used, _, _ in options)


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
    shape. The unreduced loss has that shape, too.

    Reductions are means over elements, classes included, as in Gluon 2. For the divergence itself, multiply by the
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
            inputs=pair(domain.MASS, domain.LOG_PROBABILITY if is_log else domain.LOGARITHM),
            link=None if is_log else "softmax",
        )


class SoftmaxCrossEntropyLoss(Loss):
    r"""Cross-entropy over classes, with the softmax inside.

    .. math:: \ell = -\sum_j t_j \log \mathrm{softmax}(x)_j

    where t is one-hot at the label's class id, or, with ``sparse_label=False``, the label itself.

    Args:
        axis: the axis of the classes.
        sparse_label: whether labels are class ids; else they are weights or probabilities, one per class.
        from_logits: whether pred is log-probabilities already, as in Gluon; TensorFlow's name means the opposite.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        reduction: see :class:`Loss`. ``"weighted_mean"`` is PyTorch's "mean": it divides by the sum of sample weight
            times class weight over the examples that are not ignored. ``"mean"`` divides by the number of all examples.
        ignore_index: a class id, any integer, whose examples have value and gradient 0, whatever their logits.
        label_smoothing: a, from 0 to 1: t becomes (1 - a) t + a/C, with C classes.
        class_weight: one weight per class, finite and of any sign, which multiplies t.
        z_loss: c, from 0 up: adds :math:`c (\log \sum_j e^{x_j})^2`, which no class_weight multiplies. The penalty
            keeps logits near log-probabilities: without it, a constant added to all costs nothing. 1e-4 is usual.
        softcap: c, above 0: :math:`c \tanh(x / c)` takes the place of x, so that no logit leaves (-c, c). None: x.
        logit_bias: one number per class, finite, which is added to x, behind the softcap. Logarithms of the classes'
            shares give rare classes the margin of "logit adjustment".

    Call: ``loss(pred, label, sample_weight=None)``. The unreduced loss has pred's shape without the class axis. Class
    ids have that shape, or pred's with size 1 along the class axis, and any real dtype. Dense labels have pred's shape.
    sample_weight is one number per example, or broadcasts to the unreduced loss; a class axis of size 1 may stay.

    Raises ValueError for class ids that are fractional, NaN or out of range, naming the first; nothing is written then.

    From log-probabilities and class ids without smoothing, a call reads the label's own entry only: a NaN elsewhere in
    a row has no effect. In every other case a NaN anywhere in a row spoils its value and its derivatives.

    A logit of -inf means probability 0, and gradient 0. Where the label's logit is far above the rest, the value is
    log1p of the sum of the others: confident predictions keep their digits. If all examples are ignored, the mean is 0,
    not NaN. With z_loss, softcap or logit_bias, class ids take as long as dense labels. The penalty may make the
    Hessian negative where the sum of the exponentials is below 1, and a softcap where logits are near c.

    A softcap maps infinite logits to -c and c, where the gradient is 0: such an example has a value. Both options round
    logits to pred's precision before the softmax. An error of 3 units in the last place of c is one of 3e-6 in the
    ratio of two probabilities in float32, for c = 15. Beyond the cap the gradient falls as e^(-2 abs(x) / c), with an
    error of about abs(x) / c units. With a softcap the loss has no link.

    ``loss.lse(pred)`` is the logarithm of what the softmax divides by, :math:`\log \sum_j e^{x_j}`, behind softcap and
    logit_bias: what the z_loss squares, for a log, and what merges the softmaxes of parts of the classes. It takes a
    pass of its own over pred, without labels, and from_logits=True has none.

    Source: Bridle 1990; smoothing: Szegedy et al. 2016; z_loss: Chowdhery et al. 2022 (PaLM); softcap: Bello et al.
    2017; logit_bias: Menon et al. 2021. Gluon: ``SoftmaxCrossEntropyLoss``, alias ``SoftmaxCELoss``, which clips ids
    out of range. PyTorch: ``CrossEntropyLoss``. Liger: ``LigerCrossEntropyLoss``, whose lse_square_scale is the z_loss
    here, and whose softcap is the same.

    >>> import fastloss as fl
    >>> loss = fl.SoftmaxCrossEntropyLoss()
    >>> loss([[1.0, 10.0], [8.0, 2.0]], [0, 1])
    array([9.0001234 , 6.00247569])
    >>> loss.lse([[1.0, 10.0], [8.0, 2.0]])
    array([10.0001234 ,  8.00247569])
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
        z_loss: float = 0.0,
        softcap: float | None = None,
        logit_bias: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        sparse, is_log = flag("sparse_label", sparse_label), flag("from_logits", from_logits)
        smoothing, penalty = fraction("label_smoothing", label_smoothing), number("z_loss", z_loss, least=0)
        # The weights of dense labels multiply targets; a weighted mean does not divide by them.
        ignored, weights, row_parameter = of_classes(ignore_index, class_weight, reduction if sparse else "none")
        if ignored is not None and not sparse:
            raise ValueError(
                "ignore_index needs sparse_label=True; give examples with dense labels a sample_weight of 0"
            )
        limit = 0 if softcap is None else number("softcap", softcap, above=0)
        bias = bias_of(logit_bias, weights)
        changes = is_changed(is_log, (penalty, 0, z_loss), (limit, None, softcap), (bias is not None, None, logit_bias))
        super().__init__(
            kernels.AdjustedCrossEntropy(sparse, penalty, limit, bias, smoothing, ignored, weights)
            if changes
            else kernels.SoftmaxCrossEntropy(sparse, is_log, smoothing, ignored, weights),
            weight,
            batch_axis,
            reduction,
            layout="rows",
            axis=axis,
            inputs=(
                Input("pred", domain=domain.LOG_PROBABILITY if is_log else domain.LOGARITHM),
                class_ids(
                    integer("axis", axis),
                    ignored,
                    "; for one-hot or soft labels build the loss with sparse_label=False",
                )
                if sparse
                else Input("label", domain=domain.SHARE, hint="; class ids need sparse_label=True"),
                WEIGHT,
            ),
            row_parameter=row_parameter if bias is None else ("class_weight", len(bias) // 8),
            sized_by=None if bias is None else "logit_bias",
            exact_is=() if limit else ("expected",),
            link=None if limit else "softmax",
            normalizer=None if is_log else log_normalizer(integer("axis", axis), limit, bias),
        )

    def lse(self, pred: ArrayLike, out: Any = None) -> Any:
        # PyTorch's compiler sees into Python alone
        return super().lse(pred, out) if self.normalizer is None else self.normalizer(pred, out=out)


SoftmaxCELoss = SoftmaxCrossEntropyLoss


class SoftmaxFocalLoss(Loss):
    r"""Cross-entropy over classes that counts easy examples less: the more probable the label was, the less.

    .. math:: \ell = -(1 - p)^\gamma \log p, \quad p = \mathrm{softmax}(x)_y

    Args:
        gamma: the power of 1 minus the label's probability, from 0 up; 0 is cross-entropy.
        axis: the axis of the classes.
        weight, batch_axis, reduction, ignore_index, class_weight: as of :class:`SoftmaxCrossEntropyLoss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred logits, label a class id for each row of them.

    Raises ValueError for a gamma below 0, and for class ids that are fractional, NaN or out of range, naming the first.

    The best prediction is less certain than the labels: its softmax is nearer to equal probabilities. The Hessian is
    below 0 for a confident error. A confident prediction keeps its digits, because nothing is subtracted from 1: a
    label of probability 1 - 1e-20 costs 1e-60.

    Largest errors up to gamma = 2, in units in the last place: values and gradients 4 in float32, 7 in float64.
    Hessians: 12 of their largest term. Each unit of gamma adds 3, because the power multiplies the rounding of
    exponentials. Where a probability is subnormal, the Hessian has as few digits.

    Source: Lin et al. 2017. Gluon, PyTorch: none. Keras: ``CategoricalFocalCrossentropy``; its alpha is the weight
    here. kornia: ``focal_loss``; its alpha is a class_weight of 1 - alpha for the class 0 and alpha for others, and its
    mean divides by the classes, too. MONAI: ``FocalLoss(use_softmax=True)``, which does both as well.

    >>> import fastloss as fl
    >>> fl.SoftmaxFocalLoss()([[1.0, 0.0, 0.0], [8.0, 2.0, 3.0]], [0, 1]).round(4)
    array([0.0991, 5.9797])
    """

    __slots__ = ()

    def __init__(
        self,
        gamma: float = 2,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
        ignore_index: int | None = None,
        class_weight: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        super().__init__(
            surrogate="majorizer",
            link="softmax of slopes",
            weight=weight,
            batch_axis=batch_axis,
            **over_ids(
                kernels.SoftmaxFocal,
                number("gamma", gamma, least=0),
                axis=axis,
                reduction=reduction,
                ignore_index=ignore_index,
                class_weight=class_weight,
            ),
        )


class PolyCELoss(Loss):
    r"""Cross-entropy over classes plus a multiple of the first term of its expansion, 1 - p.

    .. math:: \ell = -\log p + \epsilon (1 - p), \quad p = \mathrm{softmax}(x)_y

    Args:
        epsilon: what is added to the first term's coefficient of 1; above -1.
        axis: the axis of the classes.
        weight, batch_axis, reduction, ignore_index, class_weight: as of :class:`SoftmaxCrossEntropyLoss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred logits, label a class id for each row of them.

    Raises ValueError for an epsilon that is not above -1, and for class ids that are fractional, NaN or out of range,
    naming the first.

    The gradient for a confident and right prediction is 1 + epsilon times that of cross-entropy. For a confident error
    both are the same. With epsilon above 1 the Hessian is below 0 for a confident error. With epsilon below 0, values
    are rounded to the digits of their larger term.

    Source: Leng et al. 2022 (Poly-1). Gluon, PyTorch: none. optax: ``poly_loss_cross_entropy``, with the same default
    of 2, and labels with a number for each class.

    >>> import fastloss as fl
    >>> fl.PolyCELoss()([[1.0, 0.0, 0.0], [8.0, 2.0, 3.0]], [0, 1]).round(4)
    array([1.3992, 8.0043])
    """

    __slots__ = ()

    def __init__(
        self,
        epsilon: float = 2,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
        ignore_index: int | None = None,
        class_weight: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        super().__init__(
            surrogate="majorizer",
            link="softmax of slopes",
            weight=weight,
            batch_axis=batch_axis,
            **over_ids(
                kernels.PolyCrossEntropy,
                number("epsilon", epsilon, above=-1),
                axis=axis,
                reduction=reduction,
                ignore_index=ignore_index,
                class_weight=class_weight,
            ),
        )


class GeneralizedCELoss(Loss):
    r"""A loss over classes between cross-entropy and the absolute error: wrong labels disturb it less.

    .. math:: \ell = \frac{1 - p^q}{q}, \quad p = \mathrm{softmax}(x)_y

    Args:
        q: the power, above 0 and up to 1; towards 0 the loss becomes cross-entropy, at 1 it is 1 - p.
        axis: the axis of the classes.
        weight, batch_axis, reduction, ignore_index, class_weight: as of :class:`SoftmaxCrossEntropyLoss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred logits, label a class id for each row of them.

    Raises ValueError for a q out of these bounds, and for class ids that are fractional, NaN or out of range, naming
    the first.

    No example costs more than 1/q, and the gradient of a hopeless one is 0: its label may be wrong. Begin with
    cross-entropy, or with a small q. The label's Hessian is below 0 where p is below q/(1 + q).

    Largest errors in float64, in units in the last place: gradients 5, Hessians 6 of their largest term.

    Source: Zhang and Sabuncu 2018. Gluon, PyTorch: none. Keras: ``CategoricalGeneralizedCrossEntropy``, of
    probabilities and with a default of 0.5.

    >>> import fastloss as fl
    >>> fl.GeneralizedCELoss()([[1.0, 0.0, 0.0], [8.0, 2.0, 3.0]], [0, 1]).round(4)
    array([0.4575, 1.4073])
    """

    __slots__ = ()

    def __init__(
        self,
        q: float = 0.7,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
        ignore_index: int | None = None,
        class_weight: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        power = number("q", q, above=0)
        if power > 1:
            raise ValueError(f"q must be greater than 0 and at most 1, got {q!r}")
        super().__init__(
            surrogate="majorizer",
            link="softmax of slopes",
            weight=weight,
            batch_axis=batch_axis,
            **over_ids(
                kernels.GeneralizedCrossEntropy,
                power,
                axis=axis,
                reduction=reduction,
                ignore_index=ignore_index,
                class_weight=class_weight,
            ),
        )


class MultiMarginLoss(Loss):
    r"""The hinge over classes: the label's score is to be above every other by the margin.

    .. math:: \ell = \frac{1}{C} \sum_{j \ne y} \max(0, m + x_j - x_y)^p

    Args:
        p: the power, 1 or 2.
        margin: m, how far above another class's score the label's costs nothing.
        axis: the axis of the C classes.
        weight, batch_axis, reduction, ignore_index, class_weight: as of :class:`SoftmaxCrossEntropyLoss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred real scores, label a class id for each row of them.

    Raises ValueError for another p, and for class ids that are fractional, NaN or out of range, naming the first.

    The gradients of a row sum to 0: a step raises the label's score by as much as it lowers all others together. With p
    = 1 the Hessian is 0.

    Source: Weston and Watkins 1999. Gluon: none. PyTorch: ``MultiMarginLoss``, which divides by C as well. Its weight
    is the class_weight here, and its mean divides by the number of examples, not by their weights.

    >>> import fastloss as fl
    >>> fl.MultiMarginLoss()([[1.0, 2.5, 0.5], [8.0, 2.0, 3.0]], [0, 0])
    array([1., 0.])
    """

    __slots__ = ()

    def __init__(
        self,
        p: int = 1,
        margin: float = 1,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
        ignore_index: int | None = None,
        class_weight: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        if integer("p", p) not in (1, 2):
            raise ValueError(f"p must be 1 or 2, got {p!r}")
        super().__init__(
            link=None,
            weight=weight,
            batch_axis=batch_axis,
            **over_ids(
                kernels.MultiMargin,
                p == 2,
                number("margin", margin),
                axis=axis,
                reduction=reduction,
                ignore_index=ignore_index,
                class_weight=class_weight,
                pred=domain.REAL,
            ),
        )


class CrammerSingerLoss(Loss):
    r"""The hinge over classes that sees only the worst error: the label's score is to be above the highest other.

    .. math:: \ell = \max(0, m + \max_{j \ne y} x_j - x_y)

    Args:
        margin: m, how far above the highest other score the label's costs nothing.
        axis: the axis of the classes.
        weight, batch_axis, reduction, ignore_index, class_weight: as of :class:`SoftmaxCrossEntropyLoss`.

    Call: ``loss(pred, label, sample_weight=None)``, pred real scores, label a class id for each row of them.

    Raises ValueError for class ids that are fractional, NaN or out of range, naming the first.

    With a margin of 1, the sum of the losses is at least the number of errors. The gradient is 0, or -1 at the label
    and 1 at the first of the highest others. The Hessian is 0.

    Source: Crammer and Singer 2001. Gluon, PyTorch: none. optax: ``multiclass_hinge_loss``. scikit-learn:
    ``LinearSVC(multi_class="crammer_singer")``. Keras's ``CategoricalHinge`` is another loss: the label counts among
    the others with a score of 0.

    >>> import fastloss as fl
    >>> fl.CrammerSingerLoss()([[1.0, 2.5, 0.5], [8.0, 2.0, 3.0]], [0, 0])
    array([2.5, 0. ])
    """

    __slots__ = ()

    def __init__(
        self,
        margin: float = 1,
        axis: int = -1,
        weight: float | None = None,
        batch_axis: int = 0,
        *,
        reduction: Reduction = "example",
        ignore_index: int | None = None,
        class_weight: Sequence[float] | NDArray[Any] | None = None,
    ) -> None:
        super().__init__(
            link=None,
            weight=weight,
            batch_axis=batch_axis,
            **over_ids(
                kernels.CrammerSinger,
                number("margin", margin),
                axis=axis,
                reduction=reduction,
                ignore_index=ignore_index,
                class_weight=class_weight,
                pred=domain.REAL,
            ),
        )
