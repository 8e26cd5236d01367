"""Losses beside other implementations of the same, where one is installed: values, and gradients if it has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests import reference as data

Array = np.ndarray[Any, Any]
Peer = Callable[..., tuple[Any, ...]]


def peer(module: str) -> Any:
    return pytest.importorskip(module, reason=f"{module}, to compare with, is not installed")


def scikit_learn(name: str, **parameters: Any) -> Peer:
    """A loss of boosting and of generalized linear models, which is private there."""

    def results(x: Array, y: Array) -> tuple[Any, ...]:
        losses = peer("sklearn._loss.loss")
        value, gradient = getattr(losses, name)(**parameters).loss_gradient(y, x)
        return value, gradient

    return results


def deviance(power: float) -> Peer:
    """Half of scikit-learn's deviance, of one number at a time."""

    def results(x: Array, y: Array) -> tuple[Any, ...]:
        metric = peer("sklearn.metrics").mean_tweedie_deviance
        return ([metric([b], [a], power=power) / 2 for a, b in zip(np.exp(x), y, strict=True)],)

    return results


def descent(name: str, *parameters: float) -> Peer:
    """A loss of scikit-learn's stochastic gradient descent, of one number at a time."""

    def results(x: Array, y: Array) -> tuple[Any, ...]:
        loss = getattr(peer("sklearn.linear_model._sgd_fast"), name)(*parameters)
        pairs = list(zip(x.tolist(), y.tolist(), strict=True))
        return [loss.py_loss(*pair) for pair in pairs], [loss.py_dloss(*pair) for pair in pairs]

    return results


def least_squares(rho: str, scale: float) -> Peer:
    """A loss of scipy.optimize.least_squares, whose cost is half of scale^2 rho(z^2/scale^2)."""

    def results(x: Array, y: Array) -> tuple[Any, ...]:
        loss = peer("scipy.optimize._lsq.least_squares").IMPLEMENTED_LOSSES[rho]
        z = x - y
        out = np.empty((3, z.size))
        loss((z / scale) ** 2, out, False)
        return scale**2 * out[0] / 2, out[1] * z

    return results


def torch(formula: Callable[..., Any]) -> Peer:
    """A formula of PyTorch's functions, which differentiates it."""

    def results(x: Array, *others: Array) -> tuple[Any, ...]:
        library = peer("torch")
        pred = library.tensor(x, requires_grad=True)
        value = formula(library, pred, *map(library.tensor, others))
        value.sum().backward()
        return value.detach().numpy(), pred.grad.numpy()

    return results


def likelihood(formula: Callable[..., Any]) -> Peer:
    """A log-likelihood of scipy's."""

    def results(*inputs: Array) -> tuple[Any, ...]:
        return (-formula(peer("scipy.stats"), peer("scipy.special"), *inputs),)

    return results


def negative_binomial_full(stats: Any, special: Any, x: Array, y: Array) -> Any:
    return stats.nbinom.logpmf(y, 2.5, 2.5 / (2.5 + np.exp(x)))


def negative_binomial(stats: Any, special: Any, x: Array, y: Array) -> Any:
    coefficient = special.gammaln(y + 2.5) - special.gammaln(2.5) - special.gammaln(y + 1)
    return negative_binomial_full(stats, special, x, y) - coefficient


def binomial_full(stats: Any, special: Any, x: Array, y: Array, n: Array) -> Any:
    return stats.binom.logpmf(y, n, special.expit(x))


def binomial(stats: Any, special: Any, x: Array, y: Array, n: Array) -> Any:
    return binomial_full(stats, special, x, y, n) - np.log(special.comb(n, y))


def student(stats: Any, special: Any, x: Array, y: Array, q: Array) -> Any:
    return stats.t.logpdf(y, 4, x, np.exp(q))


def duration(name: str, scale: float) -> Peer:
    """A likelihood of times that are known or lie between bounds."""

    def log_likelihood(stats: Any, special: Any, x: Array, y: Array, q: Array) -> Any:
        of = getattr(stats, name)
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = (np.log(y) - x) / scale, (np.log(q) - x) / scale
            known, between = of.logpdf(high) - np.log(scale * q), np.log(of.cdf(high) - of.cdf(low))
        return np.where(y == q, known, between)

    return likelihood(log_likelihood)


def interval(stats: Any, special: Any, x: Array, y: Array, q: Array) -> Any:
    return np.log(stats.logistic.cdf(q - x) - stats.logistic.cdf(y - x))


def focal(library: Any, x: Any, y: Any) -> Any:
    entropy = library.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
    return (0.25 * y + 0.75 * (1 - y)) * (1 - library.exp(-entropy)) ** 2 * entropy


def asymmetric(library: Any, x: Any, y: Any) -> Any:
    p, v = library.sigmoid(x), library.clamp(library.sigmoid(x) - 0.05, min=0)
    return library.where(y == 1, (p - 1) * library.log(p), -(v**4) * library.log(1 - v))


def entropy(formula: Callable[..., Any]) -> Peer:
    """A function of PyTorch's cross-entropy."""
    return torch(lambda library, x, y: formula(library, library.nn.functional.cross_entropy(x, y, reduction="none")))


def highest_of_others(library: Any, x: Any, y: Any) -> Any:
    """The formula of optax."""
    own = library.nn.functional.one_hot(y, x.shape[-1])
    return (x + 1 - own).max(-1)[0] - (x * own).sum(-1)


def capped(library: Any, x: Any, y: Any) -> Any:
    scores = 2 * library.tanh(x / 2) + library.tensor(data.SIGNED_WEIGHT)
    return library.nn.functional.cross_entropy(scores, y, reduction="none")


def rows_of(name: str) -> Callable[..., tuple[Array, ...]]:
    return lambda rng, shape: data.LOSSES[name].data(rng, (*shape, 7))


# a loss, the data of its case, and the peer
PEERS: dict[str, tuple[fl.Loss, Callable[..., tuple[Array, ...]], Peer]] = {
    "pseudo-Huber": (fl.PseudoHuberLoss(2), data.regression_data, least_squares("soft_l1", 2)),
    "Cauchy": (fl.CauchyLoss(2), data.regression_data, least_squares("cauchy", 2)),
    # without ties, whose gradient is -quantile in scikit-learn, and 0 here
    "quantile": (
        fl.QuantileLoss(0.75),
        lambda rng, shape: tuple(rng.normal(size=(2, *shape))),
        scikit_learn("PinballLoss", quantile=0.75),
    ),
    "epsilon": (fl.EpsilonInsensitiveLoss(0.5), data.regression_data, descent("EpsilonInsensitive", 0.5)),
    "epsilon squared": (
        fl.SquaredEpsilonInsensitiveLoss(0.5),
        data.regression_data,
        descent("SquaredEpsilonInsensitive", 0.5),
    ),
    "Huber": (
        fl.HuberLoss(0.5, weight=0.5),
        data.regression_data,
        torch(lambda library, x, y: library.nn.functional.huber_loss(x, y, reduction="none", delta=0.5)),
    ),
    "exponential": (fl.ExponentialLoss(label_format="binary"), data.binary_data, scikit_learn("ExponentialLoss")),
    "modified Huber": (fl.ModifiedHuberLoss(), data.signed_data, descent("ModifiedHuber")),
    "hinge embedding": (
        fl.HingeEmbeddingLoss(),
        lambda rng, shape: (rng.gamma(2.0, 0.5, shape), rng.choice([-1.0, 1.0], shape)),
        torch(lambda library, x, y: library.nn.functional.hinge_embedding_loss(x, y, reduction="none")),
    ),
    "focal": (fl.SigmoidFocalLoss(), data.hard_data, torch(focal)),
    "asymmetric": (fl.AsymmetricLoss(), data.hard_data, torch(asymmetric)),
    "softmax softcap": (
        fl.SoftmaxCELoss(softcap=2, logit_bias=data.SIGNED_WEIGHT),
        rows_of("softmax"),
        torch(capped),
    ),
    "softmax focal": (
        fl.SoftmaxFocalLoss(),
        rows_of("softmax focal"),
        entropy(lambda library, s: (1 - library.exp(-s)) ** 2 * s),
    ),
    # optax's formula
    "softmax poly": (
        fl.PolyCELoss(epsilon=1.5),
        rows_of("softmax poly"),
        entropy(lambda library, s: s + 1.5 * (1 - library.exp(-s))),
    ),
    # Keras's formula
    "generalized cross-entropy": (
        fl.GeneralizedCELoss(q=0.5),
        rows_of("generalized cross-entropy"),
        entropy(lambda library, s: (1 - library.exp(-s) ** 0.5) / 0.5),
    ),
    "multi-margin": (
        fl.MultiMarginLoss(p=2, margin=0.5),
        rows_of("multi-margin"),
        torch(lambda library, x, y: library.nn.functional.multi_margin_loss(x, y, p=2, margin=0.5, reduction="none")),
    ),
    "Crammer-Singer": (fl.CrammerSingerLoss(), rows_of("Crammer-Singer"), torch(highest_of_others)),
    "negative binomial": (fl.NegativeBinomialLoss(theta=2.5), data.count_data, likelihood(negative_binomial)),
    "negative binomial full": (
        fl.NegativeBinomialLoss(2.5, compute_full=True),
        data.count_data,
        likelihood(negative_binomial_full),
    ),
    "binomial": (fl.BinomialLoss(), data.trials_data, likelihood(binomial)),
    "binomial full": (fl.BinomialLoss(compute_full=True), data.trials_data, likelihood(binomial_full)),
    "Gaussian": (
        fl.GaussianNLLLoss("variance", True, 0.75),
        data.gaussian_of_variance(0.75)["data"],
        torch(lambda library, x, y, q: library.nn.functional.gaussian_nll_loss(x, y, q, True, 0.75, "none")),
    ),
    "Gaussian log_variance": (
        fl.GaussianNLLLoss(compute_full=True),
        data.uncertain_data,
        likelihood(lambda stats, special, x, y, q: stats.norm.logpdf(y, x, np.exp(q / 2))),
    ),
    "Laplace": (
        fl.LaplaceNLLLoss(compute_full=True),
        data.uncertain_data,
        likelihood(lambda stats, special, x, y, q: stats.laplace.logpdf(y, x, np.exp(q))),
    ),
    "Student's t": (fl.StudentTNLLLoss(4, compute_full=True), data.uncertain_data, likelihood(student)),
    "AFT": (fl.AFTLoss(scale=0.5), data.censored_data, duration("logistic", 0.5)),
    "AFT extreme": (fl.AFTLoss("extreme", 2), data.censored_data, duration("gumbel_l", 2)),
    "AFT normal": (fl.AFTLoss("normal", 0.75), data.censored_data, duration("norm", 0.75)),
    "ordinal": (fl.OrdinalLoss(), data.interval_data, likelihood(interval)),
    "gamma": (fl.GammaLoss(), data.positive_data, scikit_learn("HalfGammaLoss")),
    "inverse Gaussian": (fl.InverseGaussianLoss(), data.positive_data, scikit_learn("HalfTweedieLoss", power=3)),
    "deviance power=1": (fl.TweedieLoss(1, True), data.count_data, deviance(1)),
    "deviance power=1.5": (fl.TweedieLoss(1.5, True), data.claim_data, deviance(1.5)),
    "deviance power=2": (fl.TweedieLoss(2, True), data.positive_data, deviance(2)),
    "deviance power=3": (fl.TweedieLoss(3, True), data.positive_data, deviance(3)),
    "Tweedie power=-1": (fl.TweedieLoss(power=-1), data.regression_data, scikit_learn("HalfTweedieLoss", power=-1)),
    "Tweedie power=1": (fl.TweedieLoss(power=1), data.count_data, scikit_learn("HalfTweedieLoss", power=1)),
    "Tweedie power=1.5": (fl.TweedieLoss(power=1.5), data.claim_data, scikit_learn("HalfTweedieLoss", power=1.5)),
    "Tweedie power=2.5": (fl.TweedieLoss(power=2.5), data.positive_data, scikit_learn("HalfTweedieLoss", power=2.5)),
}


def without_weights(loss: fl.Loss) -> list[str]:
    return [name for name in loss.inputs if name != "sample_weight"]


@pytest.mark.parametrize("name", PEERS)
def test_peers_agree(rng: np.random.Generator, name: str) -> None:
    loss, draw, results = PEERS[name]
    pred, label, *third = draw(rng, (500,))
    want = results(pred, label, *third)
    got = loss.value_and_grad(**dict(zip(without_weights(loss), (pred, label, *third), strict=False)))
    for a, b in zip(got, want, strict=False):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
