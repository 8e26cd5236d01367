"""Three models fitted to real data with fastloss, beside scikit-learn and NumPy, and a picture of the losses."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import OptimizeResult, brentq, minimize
from sklearn.base import is_classifier
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import HuberRegressor, LinearRegression, LogisticRegression
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import fastloss as fl
from fastloss import plot

Array = npt.NDArray[Any]
ValueAndGrad = Callable[[Array, Array], tuple[Any, Array]]

# the defaults of LogisticRegression and HuberRegressor
C = 1.0
RHO = 1.35
ALPHA = 1e-4

TOLERANCE = 1e-8
REPEATS = 51


def softmax_cross_entropy(logits: Array, ids: Array) -> tuple[Any, Array]:
    """The mean softmax cross-entropy and its gradient, in NumPy."""
    rows = np.arange(len(ids))
    shifted = logits - logits.max(axis=1, keepdims=True)
    gradient = np.exp(shifted)
    total = gradient.sum(axis=1, keepdims=True)
    value = (np.log(total[:, 0]) - shifted[rows, ids]).mean()
    gradient /= total
    gradient[rows, ids] -= 1
    gradient /= len(ids)
    return value, gradient


def sigmoid_cross_entropy(logits: Array, labels: Array) -> tuple[Any, Array]:
    """The mean binary cross-entropy and its gradient, in NumPy."""
    small = np.exp(-np.abs(logits))
    value = (np.maximum(logits, 0) - labels * logits + np.log1p(small)).mean()
    sigmoid = np.where(logits >= 0, 1, small) / (1 + small)
    return value, (sigmoid - labels) / len(labels)


def huber(predictions: Array, labels: Array) -> tuple[Any, Array]:
    """The mean Huber loss with slope 1 in its linear part, and its gradient, in NumPy."""
    error = predictions - labels
    slope = np.clip(error, -RHO, RHO) / RHO
    value = (slope * (error - RHO / 2 * slope)).mean()
    return value, slope / len(labels)


@dataclass(frozen=True)
class Task:
    """A linear model of a data set: the loss, its formula in NumPy, and scikit-learn's estimator.

    The objective is the sum of the losses plus ``penalty / 2`` times the squared norm of all weights but the intercept.
    """

    name: str
    load: Callable[..., tuple[Array, Array]]
    loss: fl.Loss
    formula: ValueAndGrad
    estimator: Any
    penalty: float
    outputs: tuple[int, ...] = ()


TASKS = (
    Task(
        "softmax regression, digits",
        load_digits,
        fl.SoftmaxCrossEntropyLoss(reduction="mean"),
        softmax_cross_entropy,
        LogisticRegression(C=C, max_iter=1000),
        penalty=1 / C,
        outputs=(10,),
    ),
    Task(
        "logistic regression, breast cancer",
        load_breast_cancer,
        fl.LogisticLoss(label_format="binary", reduction="mean"),
        sigmoid_cross_entropy,
        LogisticRegression(C=C, max_iter=1000),
        penalty=1 / C,
    ),
    # HuberRegressor's loss is 2 rho times fastloss's. It fits a scale, too, which is about 1 after error_scale.
    Task(
        "Huber regression, diabetes",
        load_diabetes,
        fl.HuberLoss(rho=RHO, reduction="mean"),
        huber,
        HuberRegressor(epsilon=RHO, alpha=ALPHA, max_iter=1000),
        penalty=ALPHA / RHO,
    ),
)


class Split(NamedTuple):
    """A data set, cut in two; the features are standardised and end in a column of ones, for the intercept."""

    train: Array
    test: Array
    train_labels: Array
    test_labels: Array


class Result(NamedTuple):
    """The result of a task: scores on the test split, in percent, and seconds per fit."""

    name: str
    score: float
    sklearn_score: float
    seconds: float
    numpy_seconds: float


def with_ones(features: Array) -> Array:
    """The features and a column of ones."""
    return np.column_stack([features, np.ones(len(features))])


def error_scale(features: Array, targets: Array) -> float:
    """The scale that HuberRegressor would give the errors of least squares: their clipped squares average 1."""
    errors = targets - LinearRegression().fit(features, targets).predict(features)

    def excess(scale: float) -> float:
        return float(np.minimum((errors / scale) ** 2, RHO**2).mean()) - 1

    largest = float(errors.std())
    return float(brentq(excess, largest / 1000, largest))


def split(task: Task) -> Split:
    """The task's data, of which a quarter is held out."""
    features, labels = task.load(return_X_y=True)
    stratify = labels if is_classifier(task.estimator) else None
    train, test, train_labels, test_labels = train_test_split(features, labels, random_state=0, stratify=stratify)
    scaler = StandardScaler().fit(train)
    train, test = scaler.transform(train), scaler.transform(test)
    if not is_classifier(task.estimator):
        scale = error_scale(train, train_labels)
        train_labels, test_labels = train_labels / scale, test_labels / scale
    return Split(with_ones(train), with_ones(test), train_labels, test_labels)


def fit(task: Task, data: Split, value_and_grad: ValueAndGrad) -> OptimizeResult:
    """Minimises the task's objective, divided by the number of examples, given the mean loss and its gradient."""
    shape = (data.train.shape[1], *task.outputs)
    penalty = task.penalty / len(data.train)

    def objective(x: Array) -> tuple[Any, Array]:
        weights = x.reshape(shape)
        value, slope = value_and_grad(data.train @ weights, data.train_labels)
        penalised = weights.copy()
        penalised[-1] = 0
        gradient = data.train.T @ slope + penalty * penalised
        return value + penalty / 2 * np.vdot(penalised, penalised), gradient.ravel()

    return minimize(objective, np.zeros(math.prod(shape)), jac=True, method="L-BFGS-B", tol=TOLERANCE)


def score(task: Task, labels: Array, outputs: Array) -> float:
    """The accuracy of a classifier, or the R² of a regression, in percent."""
    if not is_classifier(task.estimator):
        return 100 * float(r2_score(labels, outputs))
    return 100 * float(accuracy_score(labels, outputs.argmax(axis=1) if task.outputs else outputs > 0))


def duration(function: Callable[[], object]) -> float:
    """The duration of a call in seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(task: Task, tick: Callable[[], object]) -> Result:
    """Fits the task with fastloss, NumPy and scikit-learn; calls ``tick`` ``REPEATS`` times on the way.

    Raises RuntimeError if fastloss and NumPy lead to different minima.
    """
    data = split(task)

    def with_fastloss() -> OptimizeResult:
        return fit(task, data, task.loss.value_and_grad)

    def with_numpy() -> OptimizeResult:
        return fit(task, data, task.formula)

    optimum, numpy_optimum = with_fastloss(), with_numpy()
    if not math.isclose(optimum.fun, numpy_optimum.fun, rel_tol=1e-6):
        raise RuntimeError(f"{task.name}: the minimum is {optimum.fun} with fastloss, {numpy_optimum.fun} with NumPy")
    estimator = task.estimator.fit(data.train[:, :-1], data.train_labels)
    times = []
    for _ in range(REPEATS):
        # In turns, so that other work of the machine slows both.
        times.append((duration(with_fastloss), duration(with_numpy)))
        tick()
    seconds, numpy_seconds = np.median(times, axis=0)
    weights = optimum.x.reshape(data.train.shape[1], *task.outputs)
    return Result(
        task.name,
        score(task, data.test_labels, data.test @ weights),
        100 * estimator.score(data.test[:, :-1], data.test_labels),
        seconds,
        numpy_seconds,
    )


def measure_all() -> list[Result]:
    """Every task's result, with a progress bar on stderr."""
    # On matrices as small as these, threads cost far more by waiting for each other than they gain.
    with threadpool_limits(1, user_api="blas"), tqdm(total=len(TASKS) * REPEATS, unit="repeat") as bar:
        return [measure(task, bar.update) for task in TASKS]


def table(results: list[Result]) -> str:
    """The results as text: a heading, and a line for each."""
    width = max(len(result.name) for result in results)
    lines = [f"{'':{width}}     score  scikit-learn    fit time  with NumPy  speed-up"]
    for name, own_score, sklearn_score, seconds, numpy_seconds in results:
        scores = f"{own_score:7.2f} %  {sklearn_score:10.2f} %"
        times = f"{seconds * 1e3:7.2f} ms  {numpy_seconds * 1e3:7.2f} ms  {numpy_seconds / seconds:8.2f}"
        lines.append(f"{name:{width}}  {scores}  {times}")
    return "\n".join(lines)


class Curve(NamedTuple):
    """A likelihood to draw: its label, the legend's remark, and the highest prediction."""

    loss: fl.Loss
    label: float
    note: str = ""
    end: float = 5


LIKELIHOODS = (
    Curve(fl.SigmoidBinaryCrossEntropyLoss(reduction="none"), 0.25, ", label 0.25"),
    Curve(fl.SoftmaxCrossEntropyLoss(reduction="none"), 0, ", logits (x, 0, 0), label 0"),
    Curve(fl.PoissonNLLLoss(reduction="none"), 2, ", label 2"),
    Curve(fl.KLDivLoss(reduction="none"), 0.5, ", label 0.5, x ≤ 0", end=0),
)


def draw_curve(axes: Axes, curve: Curve) -> None:
    """Draws a loss, solid, and its derivative, dashed, against the prediction."""
    x = np.linspace(-5, curve.end, 1001)
    labels = np.full_like(x, curve.label)
    if isinstance(curve.loss, fl.SoftmaxCrossEntropyLoss):
        value, gradient = curve.loss.value_and_grad(np.pad(x[:, np.newaxis], ((0, 0), (0, 2))), labels)
        slope = gradient[:, 0]
    else:
        value, slope = curve.loss.value_and_grad(x, labels)
    (line,) = axes.plot(x, value, label=type(curve.loss).__name__ + curve.note)
    axes.plot(x, slope, linestyle="--", color=line.get_color())


def draw(path: Path) -> None:
    """Writes a picture of all losses."""
    figure = Figure(figsize=(15, 6), layout="constrained")
    figure.suptitle("The losses of fastloss: value (solid) and gradient (dashed)")
    panels = figure.subplots(1, 3, sharey=True)
    what: tuple[plot.What, ...] = ("value", "gradient")
    plot.regression(fl.L1Loss(), fl.L2Loss(), fl.HuberLoss(rho=2), ax=panels[0], what=what)
    plot.classification(fl.HingeLoss(), fl.SquaredHingeLoss(), fl.LogisticLoss(), ax=panels[1], what=what)
    for curve in LIKELIHOODS:
        draw_curve(panels[2], curve)
    panels[2].legend()
    for axes, title in zip(panels, ("Regression, label 0", "Classification, label 1", "Likelihoods"), strict=True):
        axes.set(title=title, xlabel="prediction x", ylabel="", ylim=(-5, 10))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("loss and its derivative")
    figure.savefig(path, dpi=120)


def run(output: Path) -> None:
    """Draws the losses into ``output``, fits every task and prints the results."""
    draw(output)
    print(table(measure_all()))
    print("score: accuracy, or R² for the Huber regression, on the quarter of the data that is held out")
    print(f"fit time: median of {REPEATS}, with the matrix products and L-BFGS, which are the same for both")
    print(f"The losses are drawn in {output}.")
