"""The losses whose elements depend on each other, in naive NumPy float64: rows, vectors, pairs, sequences.

Their gradients are those of sum_i m_i l_i for given multipliers m of the unreduced loss l, because weights and head
gradients do not simply multiply them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastloss as fl

Array = NDArray[Any]


@dataclass(frozen=True)
class Structured:
    """A loss, its unreduced value, the gradients by input, and inputs for n examples."""

    loss: Callable[..., fl.Loss]
    value: Callable[..., Array]
    gradients: Callable[..., dict[str, Array]]
    data: Callable[[np.random.Generator, int], tuple[Array, ...]]
    hessian: Callable[..., Array] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def build(self, **parameters: Any) -> fl.Loss:
        return self.loss(**self.parameters, **parameters)


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

    def data(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        y = rng.dirichlet(np.ones(int(np.prod(shape))), n).reshape(n, *shape)
        return rng.normal(scale=2, size=(n, *shape)), np.where(rng.random(y.shape) < 0.1, 0, y)

    return {
        "loss": fl.KLDivLoss,
        "value": value,
        "gradients": gradients,
        "hessian": hessian,
        "data": data,
        "parameters": {"from_logits": False, "axis": axis},
    }


def triplet(margin: float, shape: tuple[int, ...]) -> dict[str, Any]:
    def total(x: Array, y: Array, z: Array) -> Array:
        return np.asarray(margin + ((y - x) ** 2 - (z - x) ** 2).reshape(len(x), -1).sum(1))

    def gradients(m: Array, x: Array, y: Array, z: Array) -> dict[str, Array]:
        c = (m * (total(x, y, z) > 0)).reshape(-1, *[1] * len(shape))
        return {"pred": 2 * c * (z - y), "positive": 2 * c * (y - x), "negative": 2 * c * (x - z)}

    return {
        "loss": fl.TripletLoss,
        "value": lambda x, y, z: np.maximum(0, total(x, y, z)),
        "gradients": gradients,
        "hessian": lambda m, x, y, z: 0 * x,
        "data": lambda rng, n: tuple(rng.normal(size=(3, n, *shape))),
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

    def data(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        x, y = rng.normal(size=(2, n, width))
        # both signs of the cosine, and near parallel and antiparallel vectors, for both labels
        near = rng.choice([-1.0, 0, 0, 1], (n, 1))
        return x, y + 5 * near * x, rng.choice([-1, 1], n)

    return {
        "loss": fl.CosineEmbeddingLoss,
        "value": value,
        "gradients": gradients,
        "hessian": hessian,
        "data": data,
        "parameters": {"margin": margin},
    }


def metric(smoothing: float, width: int) -> dict[str, Any]:
    def parts(x: Array, y: Array) -> tuple[Array, Array]:
        n = len(x)
        square = ((x[:, None] - y[None]) ** 2).sum(2)
        target = np.full((n, n), smoothing / max(n - 1, 1))
        np.fill_diagonal(target, 1 - smoothing if n > 1 else 1)
        return square, target

    def value(x: Array, y: Array) -> Array:
        square, target = parts(x, y)
        return np.asarray((target * (np.log(target + 1e-12) - log_softmax(-square, 1))).sum(1))

    def gradients(m: Array, x: Array, y: Array) -> dict[str, Array]:
        square, target = parts(x, y)
        g = 2 * m[:, None] * (target - np.exp(log_softmax(-square, 1)))
        z = x[:, None] - y[None]
        return {"x1": (g[:, :, None] * z).sum(1), "x2": -(g[:, :, None] * z).sum(0)}

    def data(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        x = rng.normal(scale=0.5, size=(n, width))
        return x, x + rng.normal(scale=0.5, size=x.shape)

    return {
        "loss": fl.SDMLLoss,
        "value": value,
        "gradients": gradients,
        "data": data,
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


def sequence(blank: str | int, frames: int = 5, classes: int = 3) -> dict[str, Any]:
    """Connectionist temporal classification by counting all alignments."""
    index = blank_among(blank, classes)

    def examples(x: Array, y: Array, n: Array, k: Array) -> Any:
        for i in range(len(x)):
            label = y[i, : int(k[i])].astype(int).tolist()
            yield i, int(n[i]), alignments(int(n[i]), classes, index, label)

    def value(x: Array, y: Array, n: Array, k: Array) -> Array:
        p = np.exp(log_softmax(x, 2))
        out = np.zeros(len(x), x.dtype)
        for i, length, paths in examples(x, y, n, k):
            out[i] = -np.log(sum(np.prod([p[i, t, path[t]] for t in range(length)]) for path in paths))
        return out

    def gradients(m: Array, x: Array, y: Array, n: Array, k: Array) -> dict[str, Array]:
        p = np.exp(log_softmax(x, 2))
        g = np.zeros(x.shape, x.dtype)
        for i, length, paths in examples(x, y, n, k):
            weight = np.array([np.prod([p[i, t, path[t]] for t in range(length)]) for path in paths])
            for path, w in zip(paths, weight / weight.sum(), strict=True):
                for t in range(length):
                    g[i, t, path[t]] -= w
            g[i, :length] += p[i, :length]
        return {"pred": m[:, None, None] * g}

    def data(rng: np.random.Generator, n: int) -> tuple[Array, ...]:
        """Empty labels, repeats and short predictions, all with an alignment."""
        label = without_blank(rng.integers(0, classes - 1, (n, 2)), index)
        return (
            rng.normal(scale=2, size=(n, frames, classes)),
            label,
            rng.integers(3, frames + 1, n),
            rng.integers(0, 3, n),
        )

    return {
        "loss": fl.CTCLoss,
        "value": value,
        "gradients": gradients,
        "data": data,
        "parameters": {"blank": blank},
    }


STRUCTURED = {
    "KL logits": Structured(**divergence(-1, (5,))),
    "KL logits axis=1": Structured(**divergence(1, (4, 3))),
    "KL logits 3000 classes": Structured(**divergence(-1, (3000,))),
    "triplet": Structured(**triplet(1, (6,))),
    "triplet margin=5": Structured(**triplet(5, (3, 4))),
    "triplet numbers": Structured(**triplet(1, ())),
    "triplet 3000 features": Structured(**triplet(0, (3000,))),
    "cosine": Structured(**cosine(0, 5)),
    "cosine margin=0.3": Structured(**cosine(0.3, 300)),
    "SDML": Structured(**metric(0.3, 4)),
    "SDML smoothing=0": Structured(**metric(0, 17)),
    "CTC": Structured(**sequence("last")),
    "CTC blank=first": Structured(**sequence("first")),
    "CTC blank=1": Structured(**sequence(1)),
    "CTC blank=-3": Structured(**sequence(-3, frames=4, classes=4)),
}
