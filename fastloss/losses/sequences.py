"""Losses of sequences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from numpy.typing import NDArray

from fastloss import _domains as domain
from fastloss._arguments import flag
from fastloss._core import Loss
from fastloss._foreign import blank_index
from fastloss._inputs import WEIGHT, Input, Reduction
from fastloss._isa import kernels

Shape = tuple[int, ...]


class CTCLoss(Loss):
    r"""Connectionist temporal classification: the negative log-likelihood of labels without an alignment.

    .. math:: \ell = -\log \sum_{\pi \in \mathcal{B}^{-1}(y)} \prod_t \mathrm{softmax}(x_t)_{\pi_t}

    where :math:`\mathcal{B}` merges repeated classes of an alignment :math:`\pi`, then drops the blanks.

    Args:
        layout: the axes of pred, "NTC" or "TNC": examples, frames, classes.
        label_layout: the axes of label, "NT" or "TN".
        weight: a number that multiplies the loss; None is 1.
        reduction: see :class:`Loss`. The unreduced loss is one number per example.
        blank: the class that is the blank: "last", "first", or its index, which counts from the end below 0.
        zero_infinity: whether a label without an alignment costs 0 instead of infinity.

    Call: ``loss(pred, label, pred_lengths=None, label_lengths=None, sample_weight=None)``, pred logits (the loss takes
    the softmax), label class ids of any real dtype except the blank. Without label_lengths, the first -1 ends a label;
    with them, nothing behind a label's length is read. Frames behind pred_lengths get gradient 0. Only pred and
    sample_weight can be differentiated.

    With label_lengths, label may also have a single axis, with the labels of all examples one after another, as in
    PyTorch. pred may lack the axis of the examples: label then holds the ids of one example, and lengths are numbers.
    The loss is a number then, whatever the reduction.

    Raises ValueError for ids and lengths that are fractional, NaN or out of range, naming the first. Raises
    NotImplementedError for the Hessian: its diagonal would take a recursion per class.

    A label that is too long for its frames (repeats need a blank between them) has loss inf and gradient 0. An empty
    label has the probability of blanks alone. Alignments are summed in double precision, as mantissas and exponents,
    for float32 as well: 2000 frames lose no digits. A probability near 1 is rounded, by about 1e-16 per frame: the loss
    of a certain and right prediction has that absolute error. The gradient of such a prediction keeps its digits.

    Source: Graves, Fernández, Gomez and Schmidhuber 2006. Gluon: ``CTCLoss``. PyTorch: ``CTCLoss`` takes
    log-probabilities in the layout TNC, has the first class as blank, and divides by the label's length for "mean".

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
        for name, value, choices in (("layout", layout, ("NTC", "TNC")), ("label_layout", label_layout, ("NT", "TN"))):
            if not isinstance(value, str) or value not in choices:
                raise ValueError(f"{name} must be {choices[0]!r} or {choices[1]!r}, got {value!r}")
        time_first = label_layout == "TN"
        length = Input("", "own", domain.LENGTH, required=False, differentiable=False, axes="N")
        super().__init__(
            kernels.TemporalClassification(index, time_first, flag("zero_infinity", zero_infinity)),
            weight,
            layout.index("N"),
            reduction,
            layout="examples",
            single_ndim=2,
            inputs=(
                Input("pred", domain=domain.LOGARITHM),
                Input(
                    "label",
                    "own",
                    domain.sequence_ids(index, int(time_first)),
                    differentiable=False,
                    axes=label_layout,
                ),
                length._replace(name="pred_lengths"),
                length._replace(name="label_lengths"),
                WEIGHT,
            ),
            no_hessian="its diagonal would take a recursion for each class",
            link=None,
        )

    def check_shapes(self, shapes: Mapping[str, Shape]) -> None:
        pred = shapes["pred"]
        if len(pred) not in (2, 3):
            layout = dict(self.arguments)["layout"]
            raise ValueError(f"pred must have 3 axes, {layout}, got shape {pred}; one example may have 2, TC")
        self.blank_among(pred)
        if "label" not in shapes:
            return
        label, single = shapes["label"], len(pred) == 2
        n = 1 if single else pred[dict(self.arguments)["layout"].index("N")]
        for name in ("pred_lengths", "label_lengths"):
            given = shapes.get(name)
            if given is not None and given != (n,) and not (single and given == ()):
                number = "a number, or " if single else ""
                raise ValueError(f"{name} must be {number}one length per example, shape ({n},), got shape {given}")
        layout = dict(self.arguments)["label_layout"]
        in_a_row = len(label) == 1 and (single or "label_lengths" in shapes)
        if not in_a_row and not (len(label) == 2 and label[layout.index("N")] == n):
            count = "1 example" if n == 1 else f"{n} examples"
            one = "is good, too" if single else "with the ids of all, one after another, needs label_lengths"
            raise ValueError(f"label must have 2 axes, {layout}, for {count}, got shape {label}; one axis {one}")

    def blank_among(self, pred: Shape) -> int:
        """Return the blank's index among the classes of a prediction with this shape."""
        classes, blank = pred[-1], blank_index(dict(self.arguments)["blank"])
        if classes == 0:
            raise ValueError(f"pred must have at least one class, the blank, got shape {pred}")
        if not -classes <= blank < classes:
            raise ValueError(
                f"blank must be between {-classes} and {classes - 1} for a pred with {classes} classes, got {blank}"
            )
        return blank % classes

    def number_rule(self, name: str, shapes: Mapping[str, Shape]) -> str:
        pred, label = shapes["pred"], shapes["label"]
        classes, blank = pred[-1], self.blank_among(pred)
        if name == "label":
            low, high = int(blank == 0), classes - 1 - int(blank == classes - 1)
            but = f" but the blank, {blank}" if 0 < blank < classes - 1 else ""
            return f"ids from {low} to {high}{but}, with -1 behind the last unless label_lengths is given,"
        arguments = dict(self.arguments)
        frames = pred[0] if len(pred) == 2 else pred[arguments["layout"].index("T")]
        width = label[0] if len(label) == 1 else label[arguments["label_layout"].index("T")]
        return f"lengths from 0 to {frames if name == 'pred_lengths' else width},"

    def whole_rule(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str:
        shape, total = arrays[name].shape, 0
        for length in arrays["label_lengths"].tolist():
            total += int(length)
        text = f"more than {shape[0]}" if total > shape[0] else str(total)
        return f"as many ids as label_lengths sum up to, {text}, got shape {shape}"
