"""The losses whose elements depend on each other, in naive NumPy float64: rows, vectors, pairs, sequences.

Their gradients are those of sum_i m_i l_i for given multipliers m of the unreduced loss l, because weights and head
gradients do not simply multiply them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from tests.cases import Case

Array = NDArray[Any]
Draw = Callable[[np.random.Generator, tuple[int, ...]], tuple[Array, ...]]


@dataclass(frozen=True)
class Structured(Case):
    """A loss, its unreduced value, the gradients by input, and its inputs.

    These are drawn for any shape of the first one: examples first, classes and features last, time before classes.
    """

    value: Callable[..., Array]
    gradients: Callable[..., dict[str, Array]]
    draw: Draw
    shape: tuple[int, ...]  # of an example
    hessian: Callable[..., Array] | None = None
    draw_any: Draw | None = None  # inputs for generated calls, which meet what the first have not: infinite losses

    def data(self, rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        """Inputs for n examples."""
        return self.draw(rng, (n, *self.shape))


def log_softmax(x: Array, axis: int) -> Array:
    return np.asarray(x - np.log(np.exp(x).sum(axis, keepdims=True)))


def divergence(axis: int, shape: tuple[int, ...]) -> dict[str, Any]:
    def value(x: Array, y: Array) -> Array:
        return np.asarray(y * (np.log(y + 1e-12) - log_softmax(x, axis)))

    def gradients(m: Array, x: Array, y: Array) -> dict[str, Array]:
        p, t = np.exp(log_softmax(x, axis)), m * y
        return {
            "pred": t.sum(axis, keepdims=True) * p - t,
            "label": m * (np.log(y + 1e-12) + y / (y + 1e-12) - log_softmax(x, axis)),
        }

    def hessian(m: Array, x: Array, y: Array) -> Array:
        p = np.exp(log_softmax(x, axis))
        return np.asarray((m * y).sum(axis, keepdims=True) * p * (1 - p))

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        y = rng.dirichlet(np.ones(shape[-1]), shape[:-1]) if shape[-1] else np.zeros(shape)
        return rng.normal(scale=2, size=shape), np.where(rng.random(shape) < 0.1, 0, y)

    return {
        "loss": fl.KLDivLoss,
        "value": value,
        "gradients": gradients,
        "hessian": hessian,
        "draw": draw,
        "shape": shape,
        "parameters": {"from_logits": False, "axis": axis},
    }


def triplet(margin: float, shape: tuple[int, ...]) -> dict[str, Any]:
    def total(x: Array, y: Array, z: Array) -> Array:
        return np.asarray(margin + ((y - x) ** 2 - (z - x) ** 2).reshape(len(x), -1).sum(1))

    def gradients(m: Array, x: Array, y: Array, z: Array) -> dict[str, Array]:
        c = (m * (total(x, y, z) > 0)).reshape(-1, *[1] * (x.ndim - 1))
        return {"pred": 2 * c * (z - y), "positive": 2 * c * (y - x), "negative": 2 * c * (x - z)}

    return {
        "loss": fl.TripletLoss,
        "value": lambda x, y, z: np.maximum(0, total(x, y, z)),
        "gradients": gradients,
        "hessian": lambda m, x, y, z: 0 * x,
        "draw": lambda rng, shape: tuple(rng.normal(size=(3, *shape))),
        "shape": shape,
        "parameters": {"margin": margin},
    }


def cosine(margin: float, width: int) -> dict[str, Any]:
    def parts(x: Array, y: Array) -> tuple[Array, ...]:
        a, b = (np.sqrt((v * v).sum(-1, keepdims=True)) for v in (x, y))
        u, v = x / a, y / b
        return a, b, u, v, (u * v).sum(-1, keepdims=True)

    def value(x: Array, y: Array, q: Array) -> Array:
        c = parts(x, y)[-1][..., 0]
        return np.where(q == 1, 1 - c, np.maximum(0, c - margin))

    def slope(m: Array, q: Array, c: Array) -> Array:
        return (m * np.where(q == 1, -1, c[..., 0] > margin))[..., None]

    def gradients(m: Array, x: Array, y: Array, q: Array) -> dict[str, Array]:
        a, b, u, v, c = parts(x, y)
        s = slope(m, q, c)
        return {"input1": s * (v - c * u) / a, "input2": s * (u - c * v) / b}

    def hessian(m: Array, x: Array, y: Array, q: Array) -> Array:
        a, _, u, v, c = parts(x, y)
        return np.asarray(-slope(m, q, c) * (2 * u * v + c - 3 * c * u * u) / a**2)

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        x, y = rng.normal(size=(2, *shape))
        if shape[-1]:
            # no vector of zeros, which has no angle
            x[..., 0], y[..., 0] = abs(x[..., 0]) + 1, np.where(y[..., 0] < 0, -1, 1) + y[..., 0]
        # both signs of the cosine, and near parallel and antiparallel vectors, for both labels
        near = rng.choice([-1.0, 0, 0, 1], (*shape[:-1], 1))
        return x, y + 5 * near * x, rng.choice([-1, 1], shape[:-1])

    return {
        "loss": fl.CosineEmbeddingLoss,
        "value": value,
        "gradients": gradients,
        "hessian": hessian,
        "draw": draw,
        "shape": (width,),
        "parameters": {"margin": margin},
    }


def metric(smoothing: float, width: int) -> dict[str, Any]:
    def parts(x: Array, y: Array) -> tuple[Array, Array]:
        n = len(x)
        square = ((x[:, None] - y[None]) ** 2).reshape(n, n, -1).sum(2)
        return square, np.where(np.eye(n) == 1, 1 - smoothing if n > 1 else 1, smoothing / max(n - 1, 1))

    def value(x: Array, y: Array) -> Array:
        square, target = parts(x, y)
        return np.asarray((target * (np.log(target + 1e-12) - log_softmax(-square, 1))).sum(1))

    def gradients(m: Array, x: Array, y: Array) -> dict[str, Array]:
        square, target = parts(x, y)
        g = 2 * m[:, None] * (target - np.exp(log_softmax(-square, 1)))
        z = x[:, None] - y[None]
        terms = g.reshape(*g.shape, *[1] * (x.ndim - 1)) * z
        return {"x1": terms.sum(1), "x2": -terms.sum(0)}

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        # near enough that the exponentials are not all 0
        scale = min(0.5, 2 / np.sqrt(max(1, np.prod(shape[1:]))))
        x = rng.normal(scale=scale, size=shape)
        return x, x + rng.normal(scale=scale, size=shape)

    return {
        "loss": fl.SDMLLoss,
        "value": value,
        "gradients": gradients,
        "draw": draw,
        "shape": (width,),
        "parameters": {"smoothing_parameter": smoothing},
    }


def alignments(frames: int, classes: int, blank: int, label: list[int]) -> list[tuple[int, ...]]:
    """Every sequence of classes that the label is left of, without repeats and then without blanks."""
    return [
        path for path in product(range(classes), repeat=frames) if [k for k, _ in groupby(path) if k != blank] == label
    ]


def blank_among(blank: str | int, classes: int) -> int:
    """The index of the blank, of which -1 is the last."""
    return {"last": -1, "first": 0}.get(blank, blank) % classes  # type: ignore[call-overload, operator]


def without_blank(ids: Array, blank: int) -> Array:
    """Class ids, counted without the blank, as what they are."""
    return ids + (ids >= blank)


def sequence(
    blank: str | int, frames: int = 5, classes: int = 3, *, zero_infinity: bool = False, lengths: bool = True
) -> dict[str, Any]:
    """Connectionist temporal classification by counting all alignments.

    Without lengths a label ends at -1, and a prediction with its last frame.
    """

    def examples(x: Array, y: Array, n: Array | None = None, k: Array | None = None) -> Any:
        if n is None or k is None:
            # the first -1, or one behind the last
            ends = np.pad(y == -1, ((0, 0), (0, 1)), constant_values=True)
            n, k = np.full(len(x), x.shape[1]), ends.argmax(1)
        index = blank_among(blank, x.shape[2])
        for i in range(len(x)):
            label = y[i, : int(k[i])].astype(int).tolist()
            yield i, int(n[i]), alignments(int(n[i]), x.shape[2], index, label)

    def value(x: Array, y: Array, *both: Array) -> Array:
        p = np.exp(log_softmax(x, 2))
        out = np.full(len(x), 0.0 if zero_infinity else np.inf).astype(x.dtype)
        for i, length, paths in examples(x, y, *both):
            if paths:
                out[i] = -np.log(sum(np.prod([p[i, t, path[t]] for t in range(length)]) for path in paths))
        return out

    def gradients(m: Array, x: Array, y: Array, *both: Array) -> dict[str, Array]:
        p = np.exp(log_softmax(x, 2))
        g = np.zeros(x.shape, x.dtype)
        for i, length, paths in examples(x, y, *both):
            if not paths:
                continue
            weight = np.array([np.prod([p[i, t, path[t]] for t in range(length)]) for path in paths])
            for path, w in zip(paths, weight / weight.sum(), strict=True):
                for t in range(length):
                    g[i, t, path[t]] -= w
            g[i, :length] += p[i, :length]
            g[i] *= m[i]
        return {"pred": g}

    def labelled(x: Array, y: Array, n: Array, k: Array) -> tuple[Array, ...]:
        return (x, y, n, k) if lengths else (x, np.where(np.arange(y.shape[1]) >= k[:, None], -1, y))

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        """Empty labels, repeats and short predictions, all with an alignment."""
        n, most, width = shape
        label = without_blank(rng.integers(0, width - 1, (n, 2)), blank_among(blank, width))
        pred = rng.normal(scale=2, size=shape)
        return labelled(pred, label, rng.integers(3, most + 1, n), rng.integers(0, 3, n))

    def draw_any(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
        n, most, width = shape
        longest = int(rng.integers(0, most + 2)) if width > 1 else 0
        label = without_blank(rng.integers(0, max(width - 1, 1), (n, longest)), blank_among(blank, width))
        pred = rng.normal(scale=2, size=shape)
        return labelled(pred, label, rng.integers(0, most + 1, n), rng.integers(0, longest + 1, n))

    return {
        "loss": fl.CTCLoss,
        "is_traced": False,
        "value": value,
        "gradients": gradients,
        "draw": draw,
        "shape": (frames, classes),
        "draw_any": draw_any,
        "parameters": {"blank": blank, "zero_infinity": zero_infinity},
    }


STRUCTURED = {
    "KL logits": Structured(**divergence(-1, (5,)), loop="a softmax whose loss has an element for each class"),
    "KL logits axis=1": Structured(**divergence(1, (4, 3)), loop="the same, with the classes before another axis"),
    "KL logits 3000 classes": Structured(
        **divergence(-1, (3000,)), loop="the same, with rows that take more than a block"
    ),
    "triplet": Structured(**triplet(1, (6,)), loop="vectors, three of them"),
    "triplet margin=5": Structured(**triplet(5, (3, 4)), loop="vectors of several axes"),
    "triplet numbers": Structured(**triplet(1, ()), loop="vectors of no axis"),
    "triplet 3000 features": Structured(**triplet(0, (3000,)), loop="vectors that take more than a block"),
    "cosine": Structured(**cosine(0, 5), loop="vectors with a label each"),
    "cosine margin=0.3": Structured(**cosine(0.3, 300), loop="longer ones"),
    "SDML": Structured(**metric(0.3, 4), loop="every row against every other"),
    "SDML smoothing=0": Structured(**metric(0, 17)),
    "CTC": Structured(**sequence("last"), loop="sequences, with lengths"),
    "CTC blank=first": Structured(**sequence("first", zero_infinity=True)),
    "CTC blank=1": Structured(**sequence(1)),
    "CTC blank=-3": Structured(**sequence(-3, frames=4, classes=4)),
    "CTC padded": Structured(**sequence("last", lengths=False), loop="sequences, of which a label ends at -1"),
}
