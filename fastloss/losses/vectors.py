"""Losses of vectors: distances, angles, and all pairs of a batch."""

from __future__ import annotations

from collections.abc import Mapping

from fastloss import _domains as domain
from fastloss._arguments import fraction, number
from fastloss._core import Loss
from fastloss._inputs import WEIGHT, Input, Integers, Reduction
from fastloss._isa import kernels


class TripletLoss(Loss):
    r"""Pulls an anchor towards a positive and away from a negative, until the distances differ by a margin.

    .. math:: \ell = \max\Bigl(0,\; m + \sum_k (x^+_k - x_k)^2 - (x^-_k - x_k)^2\Bigr)

    Args:
        margin: m.
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples; the sum is over all others.
        reduction: see :class:`Loss`. The unreduced loss is one number per example.

    Call: ``loss(pred, positive, negative, sample_weight=None)``, three real arrays of the same shape.
    ``wrt=("positive", "negative")`` gives the gradients in several of them, in one pass.

    The distances are squared and summed, not averaged: the margin must grow with the number of features. Where the loss
    is not 0, it is linear in pred, so the Hessian is 0.

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
            inputs=(Input("pred"), Input("positive"), Input("negative"), WEIGHT),
            link=None,
        )


class CosineEmbeddingLoss(Loss):
    r"""Draws vectors that belong together parallel, and turns others until their cosine is at most a margin.

    .. math::
        \ell = \begin{cases} 1 - c & y = 1 \\ \max(0, c - m) & y = -1 \end{cases}, \quad
        c = \frac{x_1 \cdot x_2}{\max(|x_1|\,|x_2|,\; 10^{-12})}

    Args:
        weight: a number that multiplies the loss; None is 1.
        batch_axis: the axis of the examples.
        margin: m, usually from 0 to 1.
        reduction: see :class:`Loss`. The unreduced loss has the inputs' shape without the axis of the vectors.
        axis: the axis of the vectors.

    Call: ``loss(input1, input2, label, sample_weight=None)``, the vectors along one axis of both, label 1 or -1, one
    per pair of vectors.

    Raises ValueError for any other label.

    The loss of nearly parallel vectors is computed from the difference of the unit vectors. An angle of 1e-10 gives
    5e-21, where 1 - c is 0. A vector of zeros has c = 0, as in Gluon, and a finite gradient of the order of 1e12: leave
    such pairs out.

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
        signs = Integers(1, 1, -1, "1 and -1,")
        super().__init__(
            kernels.CosineEmbedding(number("margin", margin)),
            weight,
            batch_axis,
            reduction,
            layout="rows",
            axis=axis,
            row=("feature", "features"),
            inputs=(
                Input("input1"),
                Input("input2"),
                Input("label", "per row", domain.SIGN_OF_PAIR, differentiable=False, integers=signs),
                WEIGHT,
            ),
            link=None,
        )


class SDMLLoss(Loss):
    r"""Smoothed deep metric learning: of all second vectors, the own one should be nearest to each first vector.

    .. math::
        \ell_i = \sum_j t_{ij} \bigl(\log(t_{ij} + \epsilon) - \log \mathrm{softmax}_j(-|x_i - y_j|^2)\bigr), \quad
        t_{ij} = \begin{cases} 1 - a & i = j \\ a/(N - 1) & i \ne j \end{cases}, \quad \epsilon = 10^{-12}

    Args:
        smoothing_parameter: a, from 0 to 1: the share of the target that other pairs' vectors get.
        weight: a number that multiplies the loss (Gluon takes it and ignores it).
        batch_axis: the axis of the pairs.
        reduction: see :class:`Loss`. The unreduced loss is one number per pair.

    Call: ``loss(x1, x2, sample_weight=None)``, two real arrays of one shape; row i of one belongs to row i of the
    other. ``wrt=("x1", "x2")`` gives both gradients.

    Raises NotImplementedError for the Hessian.

    Every vector of the batch is a negative example for every other: large batches make the loss harder. The time grows
    with the square of the batch, the memory does not. A single pair costs log(1 + ε), about 1e-12. A row so far from
    all others that the squares leave the range of float64 has neither value nor gradient: both are NaN.

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
        super().__init__(
            kernels.SmoothedMetric(fraction("smoothing_parameter", smoothing_parameter)),
            weight,
            batch_axis,
            reduction,
            layout="examples",
            couples="x2",
            inputs=(Input("x1"), Input("x2"), WEIGHT),
            no_hessian="each distance enters the softmax of its row, so the diagonal would take a sum over all pairs "
            "for each feature",
            link=None,
        )

    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        if len(shapes["x1"]) < 2:
            raise ValueError(f"x1 must have an axis of examples and one of features, got shape {shapes['x1']}")
