"""Measures how far values, gradients and Hessians are from the exact ones, beside PyTorch and JAX, and prints a table.

    python -m bench.accuracy > docs/accuracy.md
    python -m bench.accuracy --only Tweedie

The second command prints the rows of those losses alone.

Errors are in units in the last place (ULP) of the exact result for the given inputs, computed with 120 digits; where a
result is a sum of terms of either sign, of its largest term. PyTorch and JAX get the same formula, epsilon included.

A second column has the errors in units of what rounding the inputs would change, where that is more.
"""

from __future__ import annotations

import argparse
import importlib.util
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from typing import Any

import mpmath as mp
import numpy as np
from numpy.typing import NDArray

import fastloss as fl
from tests.described import Described, described, in_terms_of
from tests.reference import LOSSES, Reference
from tests.structured import Structured, cosine, divergence, log_softmax, metric, sequence, triplet

mp.mp.dps = 120


def as_method(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a method that calls a function of mpmath's, which may be bound to mpmath already."""
    return lambda x: function(x)


# NumPy computes the functions of objects by their methods
for numpy_name in ("exp", "expm1", "log", "log1p", "sqrt", "sinh", "cosh", "tanh", "arctan", "erfc", "loggamma"):
    setattr(mp.mpf, numpy_name, as_method(getattr(mp, numpy_name.replace("arc", "a"))))
POINTS = 2000
RESULTS = ("value", "gradient", "Hessian")
# value, gradient and Hessian, and the largest term of each
Exact = tuple[Any, Any, Any, Any, Any, Any]
Inputs = tuple[NDArray[Any], ...]


@dataclass(frozen=True)
class Case:
    """An elementwise loss, its exact values, its labels, and what it is in PyTorch (F) and JAX (jnp, nn)."""

    loss: fl.Loss
    formula: Callable[[Any, Any], Exact]
    labels: tuple[float, ...] | None  # None: real targets
    torch: Callable[..., Any]
    jax: Callable[..., Any]

    def inputs(self, dtype: Any) -> Inputs:
        """Return predictions of every magnitude, each with every label or with a target of its own."""
        rng = np.random.default_rng(1)
        edge = 85 if dtype is np.float32 else 700
        x = np.concatenate(
            [rng.uniform(-edge, edge, POINTS), rng.normal(size=POINTS), rng.normal(scale=1e-4, size=POINTS)]
        )
        if self.labels is None:
            x = np.concatenate([x, rng.normal(size=POINTS) * 10.0 ** rng.uniform(-15, 15, POINTS)])
            return x.astype(dtype), (x[::-1] * rng.choice([0.0, 0.1, 1.0], x.size)).astype(dtype)
        y = np.repeat(np.array(self.labels), x.size)
        return np.tile(x, len(self.labels)).astype(dtype), y.astype(dtype)

    def exact(self, *inputs: Any) -> Exact:
        return np.frompyfunc(self.formula, 2, 6)(*inputs)

    def place(self, at: int, x: Any, y: Any) -> str:
        return f"{x[at]:.6g}, {y[at]:.3g}"


@dataclass(frozen=True)
class Rows:
    """A loss of rows or of more inputs, exact by the tests' reference, its largest terms, its inputs, and as above."""

    loss: fl.Loss
    reference: Reference | Structured
    terms: Callable[..., Exact]  # the results, with the largest terms behind them
    data: Callable[[np.random.Generator], Inputs]
    torch: Callable[..., Any] | None
    jax: Callable[..., Any] | None

    def inputs(self, dtype: Any) -> Inputs:
        drawn = self.data(np.random.default_rng(1))
        return tuple(a.astype(dtype) if a.dtype.kind == "f" else a for a in drawn)

    def exact(self, *inputs: Any) -> Exact:
        r, value = self.reference, self.reference.value(*inputs)
        if isinstance(r, Reference):
            return self.terms(value, r.gradient(*inputs), r.hessian(*inputs), *inputs)
        ones = np.ones(value.shape)
        gradient, *_ = r.gradients(ones, *inputs).values()
        return self.terms(value, gradient, r.hessian(ones, *inputs) if r.hessian else None, *inputs)

    def place(self, at: int, *inputs: Any) -> str:
        if self.loss.is_elementwise:
            return ", ".join(f"{a[at]:.6g}" for a in inputs)
        return " x ".join(map(str, inputs[0].shape))


def plain(value: Any, gradient: Any, hessian: Any, *inputs: Any) -> Exact:
    """Return exact results that are their own largest terms."""
    return value, gradient, hessian, value, gradient, hessian


def huber(x: Any, y: Any) -> Exact:
    z = x - y
    inside = abs(z) <= 1
    return plain(z * z / 2 if inside else abs(z) - mp.mpf(1) / 2, z if inside else mp.sign(z), mp.mpf(int(inside)))


def hinge(x: Any, y: Any) -> Exact:
    z = max(mp.mpf(0), 1 - x * y)
    return plain(z, -y if z > 0 else mp.mpf(0), mp.mpf(0))


def squared_hinge(x: Any, y: Any) -> Exact:
    z = max(mp.mpf(0), 1 - x * y)
    return plain(z * z, -2 * z * y, 2 * y * y if z > 0 else mp.mpf(0))


def logistic(margin: Any, sign: Any) -> Exact:
    """log(1 + e^-margin), for a margin whose derivative in x is sign."""
    p, q = 1 / (1 + mp.exp(margin)), 1 / (1 + mp.exp(-margin))
    return plain(mp.log1p(mp.exp(-margin)), -sign * p, p * q)


def cross_entropy(x: Any, y: Any) -> Exact:
    p, q = 1 / (1 + mp.exp(-x)), 1 / (1 + mp.exp(x))
    positive, negative = y * mp.log1p(mp.exp(-x)), (1 - y) * mp.log1p(mp.exp(x))
    value, hessian = positive + negative, p * q
    return value, (1 - y) * p - y * q, hessian, value, max((1 - y) * p, y * q), hessian


def poisson(x: Any, y: Any) -> Exact:
    rate = mp.exp(x)
    return rate - y * x, rate - y, rate, max(rate, abs(y * x)), max(rate, abs(y)), rate


def kullback_leibler(x: Any, y: Any) -> Exact:
    z = mp.log(y + mp.mpf("1e-12"))
    return y * (z - x), -y, mp.mpf(0), y * max(abs(z), abs(x)), y, mp.mpf(0)


def softmax_terms(value: Any, gradient: Any, hessian: Any, x: Any, y: Any) -> Exact:
    return value, gradient, hessian, value, np.maximum(abs(gradient + y), y), hessian


def capped_terms(value: Any, gradient: Any, hessian: Any, x: Any, y: Any) -> Exact:
    """The softcap of 3 has a curvature of its own, which the gradient multiplies."""
    bent = abs(2 * np.tanh(x / 3) / 3 * gradient)
    return value, gradient, hessian, value, gradient, np.maximum(abs(hessian), bent)


def full_terms(name: str) -> Callable[..., Exact]:
    """Return the largest terms of a likelihood with its constant, by the name of the case without it."""

    def terms(value: Any, gradient: Any, hessian: Any, *inputs: Any) -> Exact:
        plain_value = LOSSES[name].value(*inputs)
        return value, gradient, hessian, np.maximum(plain_value, abs(value - plain_value)), gradient, hessian

    return terms


def divergence_terms(value: Any, gradient: Any, hessian: Any, x: Any, y: Any) -> Exact:
    entropy = y * np.log(y + 1e-12)
    largest = np.maximum(abs(entropy), abs(entropy - value))
    return value, gradient, hessian, largest, np.maximum(abs(gradient + y), y), hessian


def triplet_terms(value: Any, gradient: Any, hessian: Any, x: Any, y: Any, z: Any) -> Exact:
    near, far = (((a - x) ** 2).sum(1) for a in (y, z))
    return value, gradient, hessian, np.maximum(1, np.maximum(near, far)), gradient, hessian


def cosine_terms(value: Any, gradient: Any, hessian: Any, x: Any, y: Any, q: Any) -> Exact:
    """A cosine is a sum of terms up to 1; its derivatives are of unit vectors over the length of x."""
    square = (x * x).sum(1, keepdims=True)
    return value, gradient, hessian, value**0, gradient**0 / np.sqrt(square), hessian**0 / square


def sequence_terms(value: Any, gradient: Any, hessian: Any, x: Any, *rest: Any) -> Exact:
    p = np.exp(log_softmax(x, 2))
    return value, gradient, hessian, value, np.maximum(p, p - gradient), hessian


def pair_terms(value: Any, gradient: Any, hessian: Any, x: Any, y: Any) -> Exact:
    z = x[:, None] - y
    p = np.exp(log_softmax(-(z**2).sum(2), 1))
    return value, gradient, hessian, value, np.maximum(abs(gradient), 2 * (p[:, :, None] * abs(z)).max(1)), hessian


def scaled(reference: Reference, *shape: int) -> Callable[[np.random.Generator], Inputs]:
    """Return the reference's inputs, with logits from a few to a hundred apart."""

    def data(rng: np.random.Generator) -> Inputs:
        x, y = reference.data(rng, shape)
        return x * 10.0 ** rng.uniform(0, 1.5, (shape[0], 1)), y

    return data


def torch_cosine(F: Any, x: Any, y: Any, q: Any) -> Any:
    c = F.cosine_similarity(x, y, eps=1e-12)
    return (1 - c).where(q == 1, c.relu())


def jax_cosine(jnp: Any, nn: Any, x: Any, y: Any, q: Any) -> Any:
    c = (x * y).sum(1) / jnp.maximum(jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(y, axis=1), 1e-12)
    return jnp.where(q == 1, 1 - c, nn.relu(c))


def torch_pairs(F: Any, x: Any, y: Any) -> Any:
    n = len(x)
    t = x.new_full((n, n), 0.3 / (n - 1)).fill_diagonal_(0.7)
    return (t * ((t + 1e-12).log() - F.log_softmax(-((x[:, None] - y) ** 2).sum(2), 1))).sum(1)


def jax_pairs(jnp: Any, nn: Any, x: Any, y: Any) -> Any:
    n = len(x)
    t = jnp.where(jnp.eye(n) == 1, 0.7, 0.3 / (n - 1)).astype(x.dtype)
    return (t * (jnp.log(t + 1e-12) - nn.log_softmax(-jnp.square(x[:, None] - y).sum(2)))).sum(1)


def torch_sequences(F: Any, x: Any, y: Any, frames: Any, lengths: Any) -> Any:
    log_p = F.log_softmax(x, 2).transpose(0, 1)
    return F.ctc_loss(log_p, y, frames, lengths, blank=x.shape[2] - 1, reduction="none")


def softmax_ids(classes: int, rows: int) -> Rows:
    return Rows(
        fl.SoftmaxCELoss(),
        LOSSES["softmax"],
        plain,
        scaled(LOSSES["softmax"], rows, classes),
        lambda F, x, y: F.cross_entropy(x, y, reduction="none"),
        lambda jnp, nn, x, y: -jnp.take_along_axis(nn.log_softmax(x), y[:, None], 1)[:, 0],
    )


def structured(
    loss: fl.Loss, reference: dict[str, Any], terms: Callable[..., Exact], n: int, torch: Any, jax: Any
) -> Rows:
    r = Structured(**reference)
    return Rows(loss, r, terms, lambda rng: r.data(rng, n), torch, jax)


CASES: dict[str, Case | Rows] = {
    "L1Loss": Case(
        fl.L1Loss(),
        lambda x, y: plain(abs(x - y), mp.sign(x - y), mp.mpf(0)),
        None,
        lambda F, x, y: F.l1_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: jnp.abs(x - y),
    ),
    "L2Loss": Case(
        fl.L2Loss(),
        lambda x, y: plain((x - y) ** 2 / 2, x - y, mp.mpf(1)),
        None,
        lambda F, x, y: F.mse_loss(x, y, reduction="none") / 2,
        lambda jnp, nn, x, y: jnp.square(x - y) / 2,
    ),
    "HuberLoss": Case(
        fl.HuberLoss(),
        huber,
        None,
        lambda F, x, y: F.huber_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: jnp.where(jnp.abs(x - y) <= 1, jnp.square(x - y) / 2, jnp.abs(x - y) - 0.5),
    ),
    "HingeLoss": Case(
        fl.HingeLoss(),
        hinge,
        (-1, 1),
        lambda F, x, y: (1 - x * y).clamp(min=0),
        lambda jnp, nn, x, y: nn.relu(1 - x * y),
    ),
    "SquaredHingeLoss": Case(
        fl.SquaredHingeLoss(),
        squared_hinge,
        (-1, 1),
        lambda F, x, y: (1 - x * y).clamp(min=0).square(),
        lambda jnp, nn, x, y: jnp.square(nn.relu(1 - x * y)),
    ),
    "LogisticLoss": Case(
        fl.LogisticLoss(),
        lambda x, y: logistic(x * y, y),
        (-1, 1),
        lambda F, x, y: F.soft_margin_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: nn.softplus(-x * y),
    ),
    "SigmoidBCELoss": Case(
        fl.SigmoidBCELoss(),
        cross_entropy,
        (0, 1),
        lambda F, x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda jnp, nn, x, y: -y * nn.log_sigmoid(x) - (1 - y) * nn.log_sigmoid(-x),
    ),
    "SigmoidBCELoss, soft labels": Case(
        fl.SigmoidBCELoss(),
        cross_entropy,
        (0.1, 0.7),
        lambda F, x, y: F.binary_cross_entropy_with_logits(x, y, reduction="none"),
        lambda jnp, nn, x, y: -y * nn.log_sigmoid(x) - (1 - y) * nn.log_sigmoid(-x),
    ),
    "SigmoidBCELoss, pos_weight": Rows(
        fl.SigmoidBCELoss(),
        LOSSES["BCE pos_weight"],
        plain,
        lambda rng: (rng.normal(scale=3, size=3000), rng.choice([0.0, 1.0], 3000), rng.uniform(0.5, 3, 3000)),
        lambda F, x, y, q: F.binary_cross_entropy_with_logits(x, y, pos_weight=q, reduction="none"),
        lambda jnp, nn, x, y, q: -q * y * nn.log_sigmoid(x) - (1 - y) * nn.log_sigmoid(-x),
    ),
    "PoissonNLLLoss": Case(
        fl.PoissonNLLLoss(reduction="none"),
        poisson,
        (0, 1, 7),
        lambda F, x, y: F.poisson_nll_loss(x, y, reduction="none"),
        lambda jnp, nn, x, y: jnp.exp(x) - y * x,
    ),
    "KLDivLoss": Case(
        fl.KLDivLoss(),
        kullback_leibler,
        (0.25, 1e-6, 0.999),
        lambda F, x, y: y * ((y + 1e-12).log() - x),
        lambda jnp, nn, x, y: y * (jnp.log(y + 1e-12) - x),
    ),
    "KLDivLoss, logits": structured(
        fl.KLDivLoss(from_logits=False, reduction="none"),
        divergence(-1, (10,)),
        divergence_terms,
        1000,
        lambda F, x, y: y * ((y + 1e-12).log() - F.log_softmax(x, 1)),
        lambda jnp, nn, x, y: y * (jnp.log(y + 1e-12) - nn.log_softmax(x)),
    ),
    "SoftmaxCELoss, 10 classes": softmax_ids(10, 2000),
    "SoftmaxCELoss, 1000 classes": softmax_ids(1000, 100),
    "SoftmaxCELoss, dense labels": Rows(
        fl.SoftmaxCELoss(sparse_label=False),
        LOSSES["softmax dense"],
        softmax_terms,
        scaled(LOSSES["softmax dense"], 1000, 10),
        lambda F, x, y: F.cross_entropy(x, y, reduction="none"),
        lambda jnp, nn, x, y: -(y * nn.log_softmax(x)).sum(1),
    ),
    "TripletLoss": structured(
        fl.TripletLoss(),
        triplet(1, (100,)),
        triplet_terms,
        200,
        lambda F, x, y, z: F.relu(1 + ((y - x) ** 2 - (z - x) ** 2).sum(1)),
        lambda jnp, nn, x, y, z: nn.relu(1 + (jnp.square(y - x) - jnp.square(z - x)).sum(1)),
    ),
    "CosineEmbeddingLoss": structured(
        fl.CosineEmbeddingLoss(), cosine(0, 100), cosine_terms, 200, torch_cosine, jax_cosine
    ),
    "CTCLoss": structured(fl.CTCLoss(), sequence("last", 8, 4), sequence_terms, 50, torch_sequences, None),
    "SDMLLoss": structured(fl.SDMLLoss(), metric(mp.mpf(0.3), 16), pair_terms, 100, torch_pairs, jax_pairs),
}


def of_case(of: Described) -> Rows:
    """Return a loss that is not named here, by the tests' case of it: each result is its own largest term."""
    loss = of.case.build(reduction="none")
    is_real = loss.is_elementwise and loss.domains[loss.inputs[0]].low == -np.inf

    def data(rng: np.random.Generator) -> Inputs:
        """Draw predictions of every magnitude, where any number is one."""
        x, *others = of.data(rng)
        return x * 10.0 ** rng.uniform(-6, 1.5, x.shape) if is_real else x, *others

    return Rows(
        loss,
        of.case,
        plain,
        data,
        None,
        (lambda jnp, nn, *inputs: in_terms_of(of.case.value, jnp)(*inputs)) if of.case.is_traced else None,
    )


CASES |= {name: of_case(of) for name, of in described({type(case.loss) for case in CASES.values()}, POINTS).items()}


def of_option(name: str, terms: Callable[..., Exact] = plain) -> Rows:
    """Return an option with formulas of its own, by the name of the tests' case, beside no peer."""
    case = LOSSES[name]
    of = of_case(Described(case, POINTS))
    data = scaled(case, 1000, case.classes) if case.row else of.data
    return replace(of, terms=terms, data=data, jax=None)


CASES |= {
    "SoftmaxCELoss, softcap and logit_bias": of_option("softmax softcap logit_bias", capped_terms),
    "TweedieLoss, deviance": of_option("deviance power=1.5"),
    "AFTLoss, normal": of_option("AFT normal"),
    "NegativeBinomialLoss, full": of_option("negative binomial full", full_terms("negative binomial")),
    "BinomialLoss, full": of_option("binomial full", full_terms("binomial")),
}


def ours(case: Case | Rows, *inputs: Any) -> Any:
    named = dict(zip((name for name in case.loss.inputs if name != "sample_weight"), inputs, strict=False))
    try:
        return case.loss.value_grad_and_hess(**named)
    except NotImplementedError:
        return case.loss.value_and_grad(**named)


def torch_results(case: Case | Rows, *inputs: Any) -> Any:
    import torch
    import torch.nn.functional as F

    if case.torch is None:
        return ()
    pred, *rest = (torch.tensor(a) for a in inputs)
    value = case.torch(F, pred.requires_grad_(), *rest)
    value.sum().backward()
    return value.detach().numpy(), pred.grad.numpy() if pred.grad is not None else None


def jax_results(case: Case | Rows, *inputs: Any) -> Any:
    import jax
    import jax.numpy as jnp

    if case.jax is None:
        return ()
    formula = case.jax
    jax.config.update("jax_enable_x64", True)  # type: ignore[no-untyped-call]

    def total(*arrays: Any) -> Any:
        value = formula(jnp, jax.nn, *arrays)
        return value.sum(), value

    (_, value), gradient = jax.jit(jax.value_and_grad(total, has_aux=True))(*inputs)
    return np.asarray(value), np.asarray(gradient)


CONTENDERS = {"fastloss": ours, "torch": torch_results, "jax": jax_results}


def ulps(got: float, exact: Any, largest: Any, dtype: Any) -> float:
    """Return an error in units in the last place of the largest term; what exceeds the dtype may be infinite."""
    top = float(np.finfo(dtype).max)
    if np.isinf(got) and abs(exact) > top:
        return 0.0
    unit = mp.mpf(float(np.spacing(dtype(min(float(abs(largest)), top)))))
    return float(abs(mp.mpf(got) - exact) / unit) if np.isfinite(got) else float("inf")


def worst(got: Any, exact: Any, largest: Any, dtype: Any) -> tuple[float, int]:
    """Return the largest error of one kind of result, and at which element."""
    errors = [ulps(float(a), b, c, dtype) for a, b, c in zip(got.ravel(), exact.ravel(), largest.ravel(), strict=True)]
    at = int(np.argmax(errors))
    return errors[at], at


def moved(case: Case | Rows, inputs: tuple[Any, ...], exact: Exact) -> list[Any]:
    """Return by how much each result moves with its inputs, per relative change of these, and no less than itself."""
    step = mp.mpf("1e-40")
    by = [abs(result) for result in exact[:3]]
    names = [name for name in case.loss.inputs if name != "sample_weight"]
    reals = [k for k, a in enumerate(inputs) if a.dtype == object]
    # together: the bounds of a time that is known are one number
    fixed = {k for k in reals if names[k] in case.loss.fixed}
    for moving in filter(None, (fixed, *({k} for k in reals if k not in fixed))):
        # a count down, as it may be that of all trials
        by_name = [(-step if name == "label" else step) * (k in moving) for k, name in enumerate(names)]
        others = case.exact(*(a * (1 + move) if move else a for a, move in zip(inputs, by_name, strict=False)))
        by = [most + abs(b - a) / step for most, a, b in zip(by, exact[:3], others, strict=False)]
    return by


def rows(contenders: Iterable[str], word: str) -> Iterable[list[str]]:
    rational = np.frompyfunc(lambda a: mp.mpf(float(a)), 1, 1)
    for name, case in [pair for pair in CASES.items() if word in pair[0]]:
        for dtype in (np.float32, np.float64):
            inputs = case.inputs(dtype)
            rationals = tuple(rational(a) if a.dtype.kind == "f" else a for a in inputs)
            exact = case.exact(*rationals)
            by = moved(case, rationals, exact) if case.loss.is_elementwise else None
            found = {contender: CONTENDERS[contender](case, *inputs) for contender in contenders}
            for kind, what in enumerate(RESULTS):
                cells = [
                    worst(r[kind], exact[kind], exact[3 + kind], dtype) if kind < len(r) else None
                    for r in found.values()
                ]
                if cells[0] is not None:
                    place = case.place(cells[0][1], *inputs)
                    cells.insert(
                        1, None if by is None else worst(found["fastloss"][kind], exact[kind], by[kind], dtype)
                    )
                    yield [name, dtype.__name__, what, place, *(f"{cell[0]:.3g}" if cell else "" for cell in cells)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.accuracy", description=__doc__)
    parser.add_argument("--only", metavar="WORD", help="print the rows of losses with this word in their name")
    word = parser.parse_args().only
    contenders = [name for name in CONTENDERS if name == "fastloss" or importlib.util.find_spec(name)]
    if word is None:
        print_head(contenders)
    for row in rows(contenders, word or ""):
        print(f"| {' | '.join(row)} |", flush=True)


def print_head(contenders: list[str]) -> None:
    print("# Accuracy\n")
    print(
        "The largest errors found in any element, in units in the last place of the exact result. 1e7 in float32, or\n"
        "1e16 in float64, means that no digit is right. `python -m bench.accuracy` prints this page.\n\n"
        "Where terms of either sign cancel, the unit is that of another number:\n\n"
        "| result | unit in the last place of |\n"
        "|---|---|\n"
        "| Poisson, Kullback-Leibler, values of triplets and with a coefficient | the largest term |\n"
        "| gradients of soft and dense labels, of CTC and of SDML | the largest term |\n"
        "| Hessians with a softcap | the largest term |\n"
        "| values of cosines | 1 |\n"
        "| gradients of cosines | 1 over the vector's length |\n"
        "| Hessians of cosines | 1 over the square of the vector's length |\n"
        "\nThe column `beside inputs` has fastloss's errors in units of what rounding the inputs would change, where\n"
        "that is more than the result: the difference of a prediction and a label has no digits that these have not.\n"
        "A large number there is a Hessian at a kink or one that dies out faster than x - y is known, or the gradient\n"
        "of a mixture of both labels, of which next to nothing is left.\n"
    )
    build = (fl.show_config(mode="dicts") or {})["instruction set"]
    versions = ", ".join(f"{name} {version(name)}" for name in ("fastloss", "numpy", *contenders[1:]))
    print(f"{versions}; {build}, {platform.system()}\n")
    columns = contenders[0], "beside inputs", *contenders[1:]
    print(f"| loss | dtype | result | worst at (pred, label), or shape | {' | '.join(columns)} |")
    print(f"|---|---|---|---|{'---:|' * len(columns)}")


if __name__ == "__main__":
    main()
