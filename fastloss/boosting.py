"""Gradient boosting with any loss: one object for XGBoost, LightGBM and CatBoost. The module imports none of them.

>>> import fastloss as fl
>>> from fastloss.boosting import Objective
>>> Objective(fl.HuberLoss())
Objective(HuberLoss(rho=1, weight=None, batch_axis=0, reduction='example'))
"""

from __future__ import annotations

import functools
import math
import threading
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss import num_threads as with_threads
from fastloss._arguments import integer, number
from fastloss._core import Loss
from fastloss._links import Floats, lowest, rebuilt
from fastloss.losses import PoissonNLLLoss, QuantileLoss, SmoothQuantileLoss

Array = NDArray[Any]
Library = Literal["xgboost", "lightgbm", "catboost"]

# The farthest start from 0: a probability there is within 1e-16 of 0 or 1.
FARTHEST = 36.0
POISSON_STEP = 0.7  # of XGBoost and LightGBM, in the Hessian of their Poisson objective
SAMPLE = 1024  # examples whose Hessians give the median
TURNS = 100  # to find a prediction and its scale, at most: 2 but for Student's likelihood
BLUR = 0.25  # of the middle error: the width of a logistic distribution
ONE_AT_A_TIME = (
    "CatBoost asks for the derivatives of several predictions one example at a time, which takes minutes; take its own "
    'loss_function, such as "MultiClass" or "RMSEWithUncertainty", or XGBoost or LightGBM'
)


def library_of(data: Any) -> Library:
    """The library that a data set belongs to."""
    for cls in type(data).__mro__:
        name = cls.__module__.partition(".")[0]
        if name in ("xgboost", "lightgbm"):
            return name  # type: ignore[return-value]
    raise TypeError(
        f"an objective is called with a DMatrix of XGBoost or a Dataset of LightGBM, got {type(data).__name__}"
    )


def weights_of(given: Any) -> Array | None:
    """The weights, or None for the empty array by which XGBoost says that it has none."""
    return None if given is None or np.size(given) == 0 else np.asarray(given)


def labels_of(loss: Loss, label: Array, raw: Array) -> Array:
    """For elementwise losses, a label for each prediction: one label may stand for a whole row."""
    if raw.ndim == 1 or not loss.is_elementwise:
        return label
    return np.broadcast_to(label.reshape(raw.shape if label.size == raw.size else (-1, 1)), raw.shape)


def weight_column(weight: Array | None, hessian: Array) -> Array | None:
    """Weights that broadcast to Hessians, in their dtype."""
    return None if weight is None else weight.astype(hessian.dtype).reshape(-1, *[1] * (hessian.ndim - 1))


def best_pair(loss: Loss, scale: str, label: ArrayLike, weight: Array | None) -> Array:
    """The best prediction and logarithm of its scale for all examples, each found for the other in turn."""
    numbers = np.asarray(label, np.float64)
    summed = type(loss)(**dict(rebuilt(loss).arguments) | {"reduction": "sum"})
    pred, log = np.zeros(()), np.zeros(())
    for _ in range(TURNS):  # no branch: the scale is found before
        before, pred = log, loss.best_constant(numbers, weight, **{scale: float(log)})

        def slope(at: Floats, pred: Array = pred) -> tuple[Floats, Floats]:
            inputs = np.broadcast_to(pred, numbers.shape), numbers, float(at)
            [gradient], [hessian] = summed.grad_and_hess(*inputs, weight, wrt=(scale,), hessian="expected")
            return np.asarray(gradient), np.asarray(hessian)

        with np.errstate(all="ignore"):
            log = np.maximum(lowest(slope, before, np.ones(())), -FARTHEST)
        if np.abs(log - before) < 1e-9:
            break
    return np.stack([pred, log])


class Objective:
    r"""A loss as the objective of gradient boosting: the gradient and the Hessian of each example.

    .. math:: g_i = w_i \frac{\partial \ell}{\partial x_i}, \quad h_i = s\, w_i \max(H_i, h_{\min})

    Args:
        loss: the loss, of elements or over classes. Its reduction must not divide by the number of examples.
        hessian: H. ``"exact"``, ``"majorizer"``, ``"expected"``: see :class:`fastloss.Loss`. ``"ones"``: 1. ``"auto"``:
            ``loss.newton``, the kind that makes Newton's step safe.
        min_hessian: the least H, from 0 up.
        hessian_scale: s. ``"auto"``: the scale of the calling library's own objective, so that the trees are the same.
            For K classes that is 2 in XGBoost and K/(K - 1) in LightGBM; for the Poisson likelihood, e^0.7.
        num_threads: threads of a call. More than 1 is rarely faster: XGBoost's threads and these wait for each other.
        inputs: further inputs of the loss, by name, such as ``pos_weight=3`` or ``quantile=[0.1, 0.5, 0.9]``.

    Give the same object to all libraries:

    - ``xgboost.train(..., obj=objective)``, ``XGBClassifier(objective=objective)`` and ``XGBRegressor``;
    - ``lightgbm.train({"objective": objective}, ...)``, ``LGBMClassifier(objective=objective)``, ``LGBMRegressor``;
    - ``CatBoost({"loss_function": objective, "eval_metric": objective.metric})``, for one prediction per example.

    XGBoost and LightGBM take several outputs in one model: classes, ``quantile=[0.1, 0.9]``, and losses of two
    predictions such as :class:`fastloss.GaussianNLLLoss`. The second output is then the logarithm of the scale. Labels
    stay 1-D.

    Raises TypeError if loss is no loss. Raises ValueError for a loss that divides by the number of examples, or lacks a
    prediction, a label and a Hessian for each example. The first call raises ValueError for labels that the loss does
    not mean, such as 0 and 1 for a loss of -1 and +1.

    A library does not know the start and the link of a foreign objective. ``init_score`` and ``base_score`` give the
    start. ``predict`` turns raw predictions into probabilities, rates and the like. ``metric`` is the evaluation
    metric.

    The next call of the same thread fills the returned arrays again.

    Source: Friedman 2001; Chen and Guestrin 2016; surrogates of Hessians: de Leeuw and Lange 2009.

    >>> import fastloss as fl
    >>> from fastloss.boosting import Objective
    >>> objective = Objective(fl.SigmoidBCELoss())
    >>> gradient, hessian = objective([0.0, 1.0], [0.0, 0.0])
    >>> gradient, hessian
    (array([ 0.5, -0.5], dtype=float32), array([0.25, 0.25], dtype=float32))
    >>> objective.predict(0.0)
    array(0.5)
    """

    def __init__(
        self,
        loss: Loss,
        *,
        hessian: Literal["auto", "exact", "majorizer", "expected", "ones"] = "auto",
        min_hessian: float = 1e-16,
        hessian_scale: float | Literal["auto"] = "auto",
        num_threads: int = 1,
        **inputs: Any,
    ) -> None:
        if not isinstance(loss, Loss):
            raise TypeError(f"loss must be a loss of fastloss, such as HuberLoss(), got {type(loss).__name__}")
        if loss.inputs[:2] != ("pred", "label") or "pred" not in loss.twice_differentiable:
            raise ValueError(
                f"loss must have a prediction, a label and a Hessian for each example, got {type(loss).__name__}"
            )
        # what a second output of the trees predicts
        self._second = next((name for name in loss.twice_differentiable if name != "pred"), None)
        if self._second and loss.domains[self._second].low == 0:
            raise ValueError(
                "loss must take the logarithm of its scale, because trees predict any sign, "
                f"got scale={self._second!r}; take scale='log_variance'"
            )
        reduction = dict(loss.arguments).get("reduction")
        if reduction in ("mean", "weighted_mean"):
            raise ValueError(
                f"loss must not divide by the number of examples, got reduction={reduction!r}: trees would have no "
                "splits; leave reduction out"
            )
        kinds = ("auto", *loss.hessians, "ones")
        if hessian not in kinds:
            raise ValueError(
                f"hessian of {type(loss).__name__} must be one of {', '.join(map(repr, kinds))}, got {hessian!r}"
            )
        self.loss, self.hessian, self.inputs = loss, hessian, inputs
        self.min_hessian = number("min_hessian", min_hessian, least=0)
        self.hessian_scale = (
            hessian_scale if hessian_scale == "auto" else number("hessian_scale", hessian_scale, above=0)
        )
        self.num_threads = integer("num_threads", num_threads)
        self._summed = type(loss)(**dict(loss.arguments) | {"reduction": "sum"})
        self._memory = threading.local()
        self._seen = 0

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: ArrayLike | None = None) -> tuple[Array, Array]:
        """Return the gradient and the Hessian of each example, in float32 and in the order of the raw predictions.

        Estimators give labels, raw predictions and weights. ``train`` gives raw predictions and the data set, which has
        the labels and the weights.
        """
        if hasattr(y_pred, "get_label"):
            return self._derivatives(library_of(y_pred), y_true, y_pred.get_label(), y_pred.get_weight())
        raw = np.asarray(y_pred)
        # XGBoost's raw predictions are float32
        return self._derivatives("xgboost" if raw.dtype == np.float32 else "lightgbm", raw, y_true, sample_weight)

    def calc_ders_range(self, approxes: Any, targets: Any, weights: Any) -> Array:
        """Return minus the gradient and minus the Hessian, as CatBoost asks: an array of shape (N, 2)."""
        gradient, hessian = self._derivatives("catboost", np.asarray(approxes), np.asarray(targets), weights)
        return np.stack([-gradient, -hessian], axis=1)

    def calc_ders_multi(self, approxes: Any, target: Any, weight: Any) -> Any:
        """Refuse: CatBoost calls this for each example alone, 100 times slower than its own objective."""
        raise NotImplementedError(ONE_AT_A_TIME)

    def _derivatives(self, library: Library, raw: Any, label: Any, weight: Any) -> tuple[Array, Array]:
        raw, label, weight = np.asarray(raw), np.asarray(label), weights_of(weight)
        inputs = self._inputs(raw, label)
        if len(label) != self._seen:
            self.loss.validate(inputs[1], inputs[0])
            self._seen = len(label)
        gradient, hessian = self._buffers(raw, np.float64 if library == "catboost" else np.float32)
        outs: Any = gradient, hessian
        given = self.inputs | {"sample_weight": weight}
        if self._second is not None:
            outs = tuple((x[:, 0], x[:, 1]) for x in outs)
            given["wrt"] = "pred", self._second
        kind = self.loss.newton if self.hessian == "auto" else self.hessian
        with with_threads(self.num_threads):
            if kind == "ones":
                self._summed.grad(*inputs, out=outs[0], **given)
                columns = weight_column(weight, hessian)
                hessian[...] = 1 if columns is None else columns
            else:
                self._summed.grad_and_hess(*inputs, out=outs, hessian=kind, **given)
            if kind == "majorizer" and self._has_kinks:
                self._bend(raw, inputs[1], weight, hessian)
        self._raise(hessian, weight)
        scale = self._scale(library, kind, raw) if self.hessian_scale == "auto" else self.hessian_scale
        if scale != 1:
            hessian *= hessian.dtype.type(scale)
        return gradient, hessian

    def _inputs(self, raw: Array, label: Array) -> tuple[Array, ...]:
        """The inputs of the loss, by position."""
        if self._second is None:
            return raw, labels_of(self.loss, label, raw)
        if raw.shape[1:] != (2,):
            raise ValueError(
                f"{type(self.loss).__name__} predicts two numbers for each example, got raw predictions of shape "
                f"{raw.shape}: give the library what objective.params(label) returns"
            )
        return raw[:, 0], label, raw[:, 1]

    def _buffers(self, raw: Array, dtype: Any) -> tuple[Array, Array]:
        """Arrays for the results of this thread, kept from one round to the next."""
        order: Literal["F", "C"] = "F" if raw.flags.f_contiguous and not raw.flags.c_contiguous else "C"
        wanted = raw.shape, order, dtype
        if vars(self._memory).get("wanted") != wanted:
            self._memory.wanted = wanted
            self._memory.kept = np.empty(raw.shape, dtype, order), np.empty(raw.shape, dtype, order)
        kept: tuple[Array, Array] = self._memory.kept
        return kept

    @functools.cached_property
    def _has_kinks(self) -> bool:
        """Whether the loss consists of straight lines: its majoriser grows without bound near a kink."""
        signed = self.loss.domains["label"].low == -1
        pred = np.linspace(-3, 3, 50)
        label = np.full(50, 1.0 if signed else 0.0)
        return self.loss.is_elementwise and not self._summed.grad_and_hess(pred, label)[1].any()

    def _bend(self, raw: Array, label: Array, weight: Array | None, hessian: Array) -> None:
        """Turns the majorisers of a loss with kinks into Hessians for Newton's step.

        At a kink a majoriser grows without bound, and one example would stop its leaf: the median bounds all. Newton's
        step divides by the density of the errors at 0. For an outer quantile the majoriser is far larger than this
        density. The density of errors blurred by a logistic distribution takes most of its place there.
        """
        columns = weight_column(weight, hessian)
        some = slice(None, None, max(1, len(hessian) // SAMPLE))
        counted = np.ones(len(hessian[some]), bool) if columns is None else columns[some].ravel() > 0
        if not counted.any():
            return
        middle = np.median(hessian[some][counted] / (1 if columns is None else columns[some][counted]), axis=0)
        np.minimum(hessian, middle if columns is None else middle * columns, out=hessian)
        if type(self.loss) is not QuantileLoss:
            return
        quantile = np.asarray(self.inputs.get("quantile", self.loss.quantile), np.float64)
        share = np.broadcast_to(4 * quantile * (1 - quantile), raw.shape[1:])
        hessian *= share.astype(hessian.dtype)
        for k in np.ndindex(share.shape):
            if share[k] < 1:
                # middle: the median of majorisers 1/(2 |error|)
                width = BLUR / 2 / float(np.asarray(middle)[k])
                smooth = SmoothQuantileLoss(beta=width, weight=1 - float(share[k]), reduction="sum")
                at = (slice(None), *k)
                hessian[at] += smooth.grad_and_hess(raw[at], label[at], sample_weight=weight)[1]

    def _raise(self, hessian: Array, weight: Array | None) -> None:
        """Raises Hessians to at least min_hessian. Checking first whether one is below costs a fifth as much."""
        least = hessian.dtype.type(self.min_hessian)
        if hessian.size and not hessian.min() >= least:
            columns = weight_column(weight, hessian)
            np.maximum(hessian, least if columns is None else least * columns, out=hessian)

    def _scale(self, library: Library, kind: str, raw: Array) -> float:
        if kind != "exact":
            return 1.0
        if self.loss.link_name == "softmax" and raw.ndim == 2:
            classes = raw.shape[1]
            return 2.0 if library == "xgboost" else classes / (classes - 1)
        if type(self.loss) is PoissonNLLLoss and library in ("xgboost", "lightgbm"):
            return math.exp(POISSON_STEP)
        return 1.0

    def _start(self, label: ArrayLike, weight: ArrayLike | None) -> Array:
        if self._second is not None:
            return best_pair(self.loss, self._second, label, weights_of(weight))
        label = np.asarray(label)
        several = np.shape(self.inputs.get("quantile", 0))
        if label.ndim == len(several) == 1:
            label = np.broadcast_to(label[:, np.newaxis], label.shape + several)
        best = self.loss.best_constant(label, weights_of(weight), **self.inputs)
        if self.loss.link_name == "softmax":
            best = np.maximum(best, -FARTHEST)
            return np.asarray(best - best.mean())
        return best if self.loss.link_name == "identity" else np.clip(best, -FARTHEST, FARTHEST)

    def init_score(self, label: ArrayLike, weight: ArrayLike | None = None, n: int | None = None) -> Array:
        """Return the start of each example, for LightGBM's ``Dataset(init_score=)`` and CatBoost's ``Pool(baseline=)``.

        The shape is (N,), or (N, K) for K outputs. The labels are those of training: for another data set give its
        number of examples, n. LightGBM's raw predictions lack the start: add ``base_score(label)``.
        """
        start = self._start(label, weight)
        return np.tile(start, (len(np.asarray(label)) if n is None else integer("n", n), *[1] * start.ndim))

    def base_score(
        self, label: ArrayLike, weight: ArrayLike | None = None, api: Literal["native", "classifier"] = "native"
    ) -> float | list[float]:
        """Return the start in the form of XGBoost's parameter ``base_score``: a list for several outputs.

        ``api="native"`` gives a raw prediction, for ``xgboost.train`` and ``XGBRegressor``. ``api="classifier"`` gives
        a probability, for ``XGBClassifier``, which turns it into log-odds.
        """
        if api not in ("native", "classifier"):
            raise ValueError(f"api must be 'native' or 'classifier', got {api!r}")
        start = self._start(label, weight)
        made: float | list[float] = (
            1 / (1 + np.exp(-start)) if api == "classifier" and not start.ndim else start
        ).tolist()
        return made

    def predict(self, raw: ArrayLike) -> Array:
        """Return what raw predictions mean: probabilities, rates, or the predictions themselves.

        For a loss of two predictions, the second result is the variance or the scale itself, not its logarithm.
        """
        if self._second is None:
            return self.loss.inverse_link(raw, **self.inputs)
        pred, log = np.moveaxis(np.asarray(raw), -1, 0)
        return np.stack([self.loss.inverse_link(pred), np.exp(log)], axis=-1)

    @property
    def metric(self) -> Metric:
        """The loss as evaluation metric of each of the libraries: the weighted mean over examples."""
        return Metric(self)

    def params(
        self,
        label: ArrayLike,
        weight: ArrayLike | None = None,
        library: Library = "xgboost",
        api: Literal["native", "classifier"] = "native",
    ) -> dict[str, Any]:
        """Return the parameters that a library needs with this objective, to merge into the other parameters.

        XGBoost needs the start, ``base_score(api=api)``, the number of outputs, and the ``max_delta_step`` of its own
        Poisson objective. LightGBM needs this objective and the number of outputs: the start goes into the data set.
        CatBoost needs this objective and its metric.
        """
        start = self.base_score(label, weight, api)
        outputs = len(start) if isinstance(start, list) else 1
        if library == "xgboost":
            own = {"base_score": start, "disable_default_eval_metric": True}
            if type(self.loss) is PoissonNLLLoss:
                own["max_delta_step"] = POISSON_STEP
            several = "num_class" if self.loss.link_name == "softmax" else "num_target"
            return own | ({several: outputs} if outputs > 1 else {})
        if library == "lightgbm":
            return {"objective": self, "metric": "None"} | ({"num_class": outputs} if outputs > 1 else {})
        if library == "catboost":
            if outputs > 1:
                raise NotImplementedError(ONE_AT_A_TIME)
            # CatBoost's own losses do without these steps.
            own = {"boost_from_average": False, "leaf_estimation_iterations": 1}
            return {"loss_function": self, "eval_metric": self.metric} | own
        raise ValueError(f"library must be 'xgboost', 'lightgbm' or 'catboost', got {library!r}")

    def _settings(self) -> dict[str, Any]:
        names = ("hessian", "min_hessian", "hessian_scale", "num_threads")
        defaults = ("auto", 1e-16, "auto", 1)
        pairs = zip(names, defaults, strict=True)
        return {name: getattr(self, name) for name, default in pairs if getattr(self, name) != default} | self.inputs

    def __repr__(self) -> str:
        return f"Objective({', '.join([repr(self.loss), *[f'{k}={x!r}' for k, x in self._settings().items()]])})"

    def __eq__(self, other: object) -> bool:
        return repr(self) == repr(other) if isinstance(other, Objective) else NotImplemented

    def __hash__(self) -> int:
        return hash(repr(self))

    def __reduce__(self) -> Any:
        return functools.partial(Objective, self.loss, **self._settings()), ()


class Metric:
    """An objective's loss as evaluation metric: name, value, and that less is better, as far as a library asks.

    XGBoost: ``train(custom_metric=)``, ``XGBClassifier(eval_metric=)``; LightGBM: ``train(feval=)``,
    ``fit(eval_metric=)``; CatBoost: ``eval_metric=``. The metric takes raw predictions: these libraries pass them if
    the objective is an :class:`Objective`, too.
    """

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.__name__ = type(objective.loss).__name__
        arguments = dict(objective.loss.arguments) | {"reduction": "weighted_mean"}
        self._mean = type(objective.loss)(**arguments)

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: ArrayLike | None = None) -> Any:
        if hasattr(y_pred, "get_label"):
            value = self._value(y_true, y_pred.get_label(), y_pred.get_weight())
            return (self.__name__, value) if library_of(y_pred) == "xgboost" else (self.__name__, value, False)
        value = self._value(y_pred, y_true, sample_weight)
        return value if np.asarray(y_pred).dtype == np.float32 else (self.__name__, value, False)

    def _value(self, raw: Any, label: Any, weight: Any) -> float:
        inputs = self.objective._inputs(np.asarray(raw), np.asarray(label))
        return float(self._mean(*inputs, sample_weight=weights_of(weight), **self.objective.inputs))

    def is_max_optimal(self) -> bool:
        """Whether more is better, as CatBoost asks."""
        return False

    def evaluate(self, approxes: Any, target: Any, weight: Any) -> tuple[float, float]:
        """Return the weighted sum of losses and the sum of weights, as CatBoost asks."""
        total = float(len(target) if weight is None else np.sum(weight))
        return self._value(np.asarray(approxes)[0], np.asarray(target), weight) * total, total

    def get_final_error(self, error: float, weight: float) -> float:
        """Return the mean, as CatBoost asks."""
        return error / weight if weight else 0.0

    def __reduce__(self) -> Any:
        return Metric, (self.objective,)
