"""What a raw prediction means, and which constant is best, for every loss by the name of its link."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastloss import _foreign

if TYPE_CHECKING:
    from fastloss._core import Loss

Array = NDArray[Any]
Floats = NDArray[np.float64]
Slope = Callable[[Floats], tuple[Floats, Floats]]

MOST_STEPS = 2000  # so many halvings of a range in float64 leave two neighbours
FAR = 700.0  # raw predictions beyond are as good as infinite: e^-FAR is about 0


class Label(NamedTuple):
    """Labels with their weights, examples along the first axis, and the other inputs of the call."""

    numbers: Array
    weight: Floats
    others: dict[str, Any]

    @property
    def mean(self) -> Floats:
        with np.errstate(invalid="ignore"):
            return np.asarray((self.weight * self.numbers).sum(0) / self.weight.sum(0))


def rebuilt(loss: Loss) -> Loss:
    """The same loss without reduction and without its weight, which moves no minimum."""
    return type(loss)(**dict(loss.arguments) | {"reduction": "none", "weight": None})


def bracket(slope: Slope, start: Floats, step: Floats) -> tuple[Floats, Floats]:
    """Points on both sides of the nearest zero of the slope, downhill from start.

    Each step is twice as long as the one before. If the slope at start is 0, both points are start. If the slope never
    changes its sign, one point is infinitely far away.
    """
    direction = -np.sign(slope(start)[0])
    near, far = start.copy(), start.copy()
    searching = direction != 0
    while searching.any():
        near, far = np.where(searching, far, near), np.where(searching, far + direction * step, far)
        searching &= (np.sign(slope(far)[0]) == -direction) & np.isfinite(far)
        step = step * 2
    return np.minimum(near, far), np.maximum(near, far)


def lowest(slope: Slope, start: Floats, step: Floats) -> Floats:
    """The nearest place where the slope changes its sign from - to +. Slope returns its derivative as well.

    Newton's step, if it stays between the last points on both sides; else a step to their middle.
    """
    low, high = bracket(slope, start, step)
    at = low / 2 + high / 2
    for _ in range(MOST_STEPS):  # no branch: two neighbours are met before
        gradient, hessian = slope(at)
        low, high = np.where(gradient <= 0, at, low), np.where(gradient >= 0, at, high)
        newton = at - np.divide(gradient, hessian, out=np.full_like(at, np.inf), where=hessian > 0)
        inside = (low < newton) & (newton < high)
        after = np.where(inside, newton, low / 2 + high / 2)
        moves = (low < after) & (after < high) & (np.abs(after - at) > 4 * np.spacing(np.abs(at)))
        if not moves.any():
            break
        at = np.where(moves, after, at)
    return at


def weighted_median(label: Floats, weight: Floats) -> Floats:
    """The median of each column."""
    order = np.argsort(label, axis=0)
    total = np.cumsum(np.take_along_axis(np.broadcast_to(weight, label.shape), order, 0), axis=0)
    middle = np.argmax(total >= total[-1] / 2, axis=0)
    return np.asarray(np.take_along_axis(label, np.take_along_axis(order, middle[None], 0), 0)[0])


def slope_over(loss: Loss, label: Label) -> Slope:
    """The slope of the sum over all examples, by the raw prediction of each column."""
    single = rebuilt(loss)
    absent = label.weight == 0

    def slope(raw: Floats) -> tuple[Floats, Floats]:
        pred = np.broadcast_to(raw, label.numbers.shape)
        parts = single.grad_and_hess(pred, label.numbers, **label.others)
        gradient, hessian = (np.where(absent, 0, label.weight * part).sum(0) for part in parts)
        return gradient, hessian

    return slope


class Link:
    """The relation between raw predictions and the means of labels. The base: both are the same."""

    def mean(self, loss: Loss, raw: Array, others: dict[str, Any]) -> Array:
        return raw.copy()

    def raw(self, loss: Loss, mean: Floats) -> Floats:
        return mean.copy()

    def best(self, loss: Loss, label: Label) -> Floats:
        numbers = label.numbers.astype(np.float64)
        start = weighted_median(numbers, label.weight)
        spread = np.median(np.abs(numbers - start), axis=0)
        step = np.where(spread > 0, spread, np.maximum(np.abs(start), 1)) / 64
        return lowest(slope_over(loss, label._replace(numbers=numbers)), start, step)


class Log(Link):
    """A raw prediction is the logarithm of the mean; the best constant has the mean of the labels."""

    def mean(self, loss: Loss, raw: Array, others: dict[str, Any]) -> Array:
        with np.errstate(over="ignore", under="ignore"):
            return np.exp(raw)

    def raw(self, loss: Loss, mean: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.log(mean)

    def best(self, loss: Loss, label: Label) -> Floats:
        return self.raw(loss, label.mean)


class Margin(Link):
    """A raw prediction is best for the share of the positive class at which both labels' slopes balance.

    The share is the sigmoid for a likelihood, and another function for other losses (Masnadi-Shirazi and Vasconcelos
    2008).
    """

    def labels(self, loss: Loss) -> tuple[float, float]:
        """The labels of the negative and of the positive class."""
        domain = loss.domains["label"]
        return domain.low, min(domain.high, 1.0)

    def mean(self, loss: Loss, raw: Array, others: dict[str, Any]) -> Array:
        single = rebuilt(loss)
        down, up = (single.grad(raw, np.full(raw.shape, y, raw.dtype), **others) for y in self.labels(loss))
        with np.errstate(all="ignore"):
            share = 1 / (1 - up / down)
        # Where neither label has a slope, the loss is satisfied: the share is 0 or 1.
        return np.where((up == 0) & (down == 0), (np.sign(raw) + 1) / 2, share).astype(raw.dtype)

    def raw(self, loss: Loss, mean: Floats) -> Floats:
        """The best raw prediction of two examples, one of each label, weighted by the shares."""
        numbers = np.reshape(self.labels(loss), (2, *[1] * mean.ndim))
        weight = np.stack([1 - mean, mean])
        return self.search(loss, Label(np.broadcast_to(numbers, weight.shape), weight, {}))

    def best(self, loss: Loss, label: Label) -> Floats:
        if label.others:
            return self.search(loss, label._replace(numbers=label.numbers.astype(np.float64)))
        negative, positive = self.labels(loss)
        return self.raw(loss, (label.mean - negative) / (positive - negative))

    def search(self, loss: Loss, label: Label) -> Floats:
        start = np.zeros(label.numbers.shape[1:])
        with np.errstate(all="ignore"):
            found = lowest(slope_over(loss, label), start, np.ones_like(start))
        return np.where(np.abs(found) > FAR, np.copysign(np.inf, found), found)


def softmax(raw: Array, axis: Any, weights: Any = 1) -> Array:
    """The softmax along an axis, with exponentials divided by weights."""
    share = np.exp(raw - raw.max(axis, keepdims=True)) / weights
    return np.asarray(share / share.sum(axis, keepdims=True))


class Softmax(Link):
    """Raw predictions are logarithms of the classes' shares, up to a constant of each row."""

    def mean(self, loss: Loss, raw: Array, others: dict[str, Any]) -> Array:
        axis = loss.row_axis(raw.ndim)
        with np.errstate(under="ignore", invalid="ignore"):
            scores = raw + self.bias(loss, raw.ndim)
            return np.asarray(softmax(scores, axis, self.weights(loss, raw.ndim)), raw.dtype)

    def weights(self, loss: Loss, ndim: int) -> Any:
        """The weights of the classes, along the classes' axis."""
        return self.of_classes(loss, ndim, "class_weight", 1)

    def bias(self, loss: Loss, ndim: int) -> Any:
        """What the loss adds to raw predictions, along the classes' axis."""
        return self.of_classes(loss, ndim, "logit_bias", 0)

    def of_classes(self, loss: Loss, ndim: int, name: str, default: float) -> Any:
        numbers = dict(loss.arguments).get(name)
        axis = loss.row_axis(ndim)
        return default if numbers is None else np.reshape(numbers, [-1 if k == axis else 1 for k in range(ndim)])

    def raw(self, loss: Loss, mean: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(mean * self.weights(loss, mean.ndim)) - self.bias(loss, mean.ndim))

    def shares(self, loss: Loss, label: Label, class_weights: bool) -> Floats:
        """The shares of the classes in the labels, weighted by examples and, if asked, by classes."""
        arguments = dict(loss.arguments)
        weights = arguments.get("class_weight")
        classes = label.others.get("classes") or (0 if weights is None else len(weights))
        if arguments.get("sparse_label", True) and loss.has_rows:
            ids, kept = label.numbers.astype(np.intp), label.numbers != arguments.get("ignore_index")
            count = np.bincount(ids[kept], label.weight[kept], minlength=classes)
        else:
            count = (label.weight * label.numbers).sum(0)
        if class_weights and weights is not None:
            count = count * np.asarray(weights)
        return np.asarray(count / count.sum(), np.float64)

    def best(self, loss: Loss, label: Label) -> Floats:
        """The logarithms of the weighted shares of the classes."""
        shares = self.shares(loss, label, True)
        smoothing = dict(loss.arguments).get("label_smoothing", 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            best = np.log((1 - smoothing) * shares + smoothing / len(shares))
            return np.asarray(best - (dict(loss.arguments).get("logit_bias") or 0))


class SlopeSoftmax(Softmax):
    """A raw prediction is best for shares proportional to its softmax divided, by label, by the slope of the loss.

    The loss is a function phi of the cross-entropy: its gradient in the label's entry is -phi' (1 - p).
    """

    def mean(self, loss: Loss, raw: Array, others: dict[str, Any]) -> Array:
        single = rebuilt(loss)
        axis: Any = loss.row_axis(raw.ndim)
        with np.errstate(all="ignore"):
            rows = np.moveaxis(softmax(raw, axis), axis, 0)
            share = np.empty_like(rows)
            for k, p in enumerate(rows):
                gradient = np.moveaxis(single.grad(raw, np.full(p.shape, k)), axis, 0)[k]
                rest = np.delete(rows, k, axis=0).sum(axis=0)
                share[k] = np.where(p == 0, 0, p * rest / -gradient)
            # A slope of 0: the share is 1.
            sure = ~np.isfinite(share)
            share = np.where(sure.any(0), sure, share)
            share /= share.sum(0)
        return np.ascontiguousarray(np.moveaxis(share, 0, axis), raw.dtype)

    def raw(self, loss: Loss, mean: Floats) -> Floats:
        """The raw predictions, by short steps along differences of logarithms: shares move up to 8 times as fast."""
        axis = loss.row_axis(mean.ndim)
        with np.errstate(divide="ignore", invalid="ignore"):
            target = np.log(mean)
            raw = np.where(mean > 0, target, -np.inf)
            for _ in range(MOST_STEPS):  # no branch: the steps are too short before
                step = np.where(mean > 0, target - np.log(self.mean(loss, raw, {})), 0)
                step = step - step.mean(axis, keepdims=True)
                raw = raw + step / 4
                if np.abs(step).max(initial=0) < 1e-12:
                    break
        return raw

    def best(self, loss: Loss, label: Label) -> Floats:
        return self.raw(loss, self.shares(loss, label, False))


LINKS: dict[str, Link] = {
    "identity": Link(),
    "log": Log(),
    "margin": Margin(),
    "softmax": Softmax(),
    "softmax of slopes": SlopeSoftmax(),
}


def link_of(loss: Loss) -> Link:
    if loss.link_name is None:
        raise NotImplementedError(
            f"{type(loss).__name__} has no link: its {loss.inputs[0]} is not a prediction of its label's mean"
        )
    return LINKS[loss.link_name]


def numbers(name: str, x: Any) -> Array:
    a = _foreign.array_of(name, x)
    return a if a.dtype in (np.float32, np.float64) else a.astype(np.float64)


def inverse_link(loss: Loss, raw: Any, others: dict[str, Any]) -> Array:
    return link_of(loss).mean(loss, numbers("raw", raw), others)


def link(loss: Loss, mean: Any) -> Array:
    a = numbers("mean", mean)
    return np.asarray(link_of(loss).raw(loss, a.astype(np.float64)), a.dtype)


def best_constant(loss: Loss, label: Any, sample_weight: Any, others: dict[str, Any]) -> Array:
    known = link_of(loss)
    a = numbers("label", label)
    if not a.ndim or not len(a):
        raise ValueError(f"label must have an axis of one or more examples, got shape {a.shape}")
    weight = np.ones(1) if sample_weight is None else numbers("sample_weight", sample_weight).astype(np.float64)
    weight = weight.reshape(-1, *[1] * (a.ndim - 1)) if weight.ndim == 1 else weight
    weight = np.broadcast_to(weight, a.shape)
    if not (weight.sum(0) > 0).all() or (weight < 0).any():
        raise ValueError("sample_weight must be from 0 up, and above 0 for one or more examples")
    return np.asarray(known.best(loss, Label(a, weight, {k: x for k, x in others.items() if x is not None})))
