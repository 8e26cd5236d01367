"""Linear models: the loss of a linear predictor without stored predictions, and its form for optimisers.

>>> import fastloss as fl
>>> fl.LinearLoss(fl.HuberLoss())
LinearLoss(HuberLoss(rho=1, weight=None, batch_axis=0, reduction='example'))
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss import _foreign
from fastloss._arguments import flag, number
from fastloss._core import Loss, Rows
from fastloss.losses import L2Loss

Array = NDArray[Any]
Floats = NDArray[np.float64]

# what a call of the kernels gives
VALUE, GRAD, HESS = 1, 2, 4

# the intercept to start from is no farther from 0: a probability is within 1e-16 of 0 or 1 there
FARTHEST = 36.0
BLOCK_BYTES = 1 << 19  # of rows that a dense Hessian takes at once
PARAMETERS = ("weight", "bias")
DISTANCE = L2Loss(reduction="sum")


def rows_of(X: Any, in_double: bool = False) -> Rows:
    """The rows of a matrix of any library, sparse ones of SciPy included, for loops in float64 if asked for."""
    if type(X).__module__.startswith("scipy.sparse"):
        return sparse_rows(X, in_double)
    dense = _foreign.array_of("X", X)
    if dense.ndim != 2:
        raise ValueError(f"X must have two axes, of examples and of features, got shape {dense.shape}")
    if dense.dtype.itemsize > 8:
        raise TypeError(f"X must be float32 or float64, got dtype {dense.dtype}; take X.astype(float)")
    return Rows(dense, in_double=in_double)


def sparse_rows(X: Any, in_double: bool) -> Rows:
    if X.format not in ("csr", "csc"):
        raise TypeError(f"X must be an array, or sparse in the format CSR or CSC, got {X.format}; take X.tocsr()")
    X = X.tocsr()
    if in_double:
        X = X.astype(np.float64)
    elif X.dtype not in (np.float32, np.float64):
        X = X.astype(np.float32 if X.dtype == np.float16 else np.float64)
    begins = np.ascontiguousarray(X.indptr, np.int64)
    # before they become shorter integers
    inside = not X.indices.size or (X.indices.min() >= 0 and X.indices.max() < min(X.shape[1], 2**31))
    if not inside or begins[0] < 0 or (np.diff(begins) < 0).any() or begins[-1] > min(len(X.data), len(X.indices)):
        raise ValueError("X must have indices of its columns, and below 2**31; X.check_format() says what is wrong")
    return Rows(X, begins, np.ascontiguousarray(X.indices, np.int32), np.ascontiguousarray(X.data))


def parameter(name: str, x: Any, rows: Rows, ndim: int | None = None) -> Array:
    """Weights, or an array of their shape, as an array of floats."""
    a = _foreign.array_of(name, x)
    if a.ndim not in (1, 2) or a.shape[-1] != rows.columns or (not len(a) and a.ndim == 2):
        raise ValueError(
            f"{name} must have shape ({rows.columns},), or one of these for each output, for an X with {rows.columns} "
            f"columns, got shape {a.shape}"
        )
    if ndim is not None and a.ndim != ndim:
        raise ValueError(f"{name} must have as many axes as weight, {ndim}, got shape {a.shape}")
    return a if a.dtype.kind == "f" else a.astype(np.float64)


def offset(name: str, x: Any, weight: Array) -> Array:
    """A number for each output."""
    a = _foreign.array_of(name, x)
    if a.shape != weight.shape[:-1]:
        raise ValueError(
            f"{name} must have shape {weight.shape[:-1]}, a number for each output of weight, got shape {a.shape}"
        )
    return a if a.dtype.kind == "f" else a.astype(np.float64)


def cast(a: Array | None, rows: Rows) -> Any:
    """An array as the loops read it."""
    with np.errstate(over="ignore", under="ignore"):
        return None if a is None else np.ascontiguousarray(a, rows.dtype)


def run(
    loss: Loss, rows: Rows, weight: Array, bias: Array | None, direction: Any, inputs: dict[str, Any], want: int
) -> Any:
    """The kernels' results: value and derivatives in weights and biases, or the Hessian in each prediction."""
    given = cast(weight, rows), cast(bias, rows), direction and (cast(direction[0], rows), cast(direction[1], rows))
    found = loss.of_linear(rows, *given, (), inputs, want)
    if found is not None:
        return found
    # beyond float32's range, or weights of examples beyond float64's, which a weighted mean divides by their sum
    wide = rows_of(rows.source.astype(np.float64))
    if inputs.get("sample_weight") is not None:
        examples = np.asarray(inputs["sample_weight"], np.float64)
        largest = float(np.abs(examples).max(initial=0))
        if dict(loss.arguments).get("reduction") == "weighted_mean" and math.isfinite(largest):
            inputs = inputs | {"sample_weight": np.ldexp(examples, -math.frexp(largest)[1])}
    return run(loss, wide, weight, bias, direction, inputs, want)


def check(loss: Any) -> Loss:
    """A loss that has a prediction, a label, and a loss for each example."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a loss of fastloss, such as SigmoidBCELoss(), got {type(loss).__name__}")
    if loss.inputs[:2] != ("pred", "label"):
        raise ValueError(f"loss must have a prediction and a label, got {type(loss).__name__}")
    return loss


def check_hessian(loss: Loss) -> None:
    if not loss.is_elementwise or loss.no_hessian is not None:
        reason = loss.no_hessian or "the predictions of an example depend on each other; a method of gradients does"
        raise NotImplementedError(f"{type(loss).__name__} has no Hessian of a linear predictor: {reason}")


def dense_hessian(rows: Rows, curvature: Array, has_bias: bool) -> Floats:
    """X' diag(h) X of each output, a block each, over the weights of all outputs and then their biases."""
    each = curvature.reshape(rows.n, -1)
    outputs, width = each.shape[1], rows.columns
    blocks, edges = np.zeros((outputs, width, width)), np.zeros((outputs, width))
    step = max(1, BLOCK_BYTES // max(1, width * rows.dtype.itemsize))
    for start in range(0, rows.n, step):
        part = rows.source[start : start + step].astype(rows.dtype, copy=False)
        for k in range(outputs):
            h = each[start : start + step, k]
            scaled = part * h[:, None] if isinstance(part, np.ndarray) else part.multiply(h[:, None]).tocsr()
            product = part.T @ scaled
            blocks[k] += product if isinstance(product, np.ndarray) else product.toarray()
            edges[k] += np.asarray(scaled.sum(0, dtype=np.float64)).ravel()
    size = outputs * width
    whole = np.zeros((size + outputs * has_bias,) * 2)
    for k in range(outputs):
        own = slice(k * width, (k + 1) * width)
        # a product of matrices that are not told to be the same is symmetric but for rounding
        whole[own, own] = (blocks[k] + blocks[k].T) / 2
        if has_bias:
            whole[own, size + k] = whole[size + k, own] = edges[k]
            whole[size + k, size + k] = each[:, k].sum(dtype=np.float64)
    return whole


class LinearLoss:
    r"""A loss of the predictions that rows of numbers and weights make, without storing the predictions.

    .. math:: \ell(W, b) = L(X W^\top + b, y)

    Args:
        loss: L, a loss of elements or over classes, with its reduction.

    Call: ``linear(X, weight, label, sample_weight=None, bias=None)``. X is (N, D), float32 or float64, an array or
    SciPy's CSR or CSC, which stays sparse. weight is (D,), for predictions of shape (N,), or (K, D), for (N, K). bias
    is a number, or K of them. label and sample_weight are those of the loss with such a prediction; its other inputs
    are given by name. ``grad`` and ``value_and_grad`` take ``head_grad``, and ``wrt``: "weight", "bias", or a tuple.

    Raises ValueError for shapes that do not fit and for losses in which examples meet. Raises TypeError for inputs
    without numbers.

    A call reads X once, block by block, for all results. Gradients are summed in float64, and then get their
    parameter's dtype: for an optimiser of second order, give weights in float64, whatever X is. Results have the same
    bits for any number of threads. A row without a gradient, such as one of weight 0, adds nothing, even if X is not
    finite there. Arrays in another order than C, or of other dtypes than float32 and float64, are copied by blocks.

    Use it for up to about 16 outputs: for more, a product of matrices is faster.

    Source: Gluon, PyTorch, JAX: none; scikit-learn's LinearModelLoss, which is private, makes two passes.

    >>> import fastloss as fl
    >>> linear = fl.LinearLoss(fl.SigmoidBCELoss(reduction="mean"))
    >>> linear.value_and_grad([[1.0, 2.0], [3.0, -1.0]], [0.0, 0.0], [1, 0])
    (0.6931471805599453, array([ 0.5 , -0.75]))
    """

    __slots__ = ("loss",)

    loss: Loss

    def __init__(self, loss: Loss) -> None:
        object.__setattr__(self, "loss", check(loss))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a loss is immutable: build a new one")

    def __repr__(self) -> str:
        return f"LinearLoss({self.loss!r})"

    def __eq__(self, other: object) -> bool:
        return self.loss == other.loss if isinstance(other, LinearLoss) else NotImplemented

    def __hash__(self) -> int:
        return hash((LinearLoss, self.loss))

    def __reduce__(self) -> Any:
        return LinearLoss, (self.loss,)

    def _inputs(self, label: Any, sample_weight: Any, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of the loss, by name."""
        for name in inputs:
            if name not in self.loss.inputs[2:]:
                known = ", ".join(["X", "weight", *self.loss.inputs[1:], "bias"])
                raise TypeError(f"{self!r} got an unexpected keyword argument {name!r}; its inputs are {known}")
        return {"label": label, "sample_weight": sample_weight} | inputs

    def _parameters(self, X: Any, weight: Any, bias: Any) -> tuple[Rows, Array, Array | None]:
        rows = rows_of(X)
        found = parameter("weight", weight, rows)
        return rows, found, None if bias is None else offset("bias", bias, found)

    def _gradients(
        self, X: Any, weight: Any, bias: Any, inputs: dict[str, Any], wrt: str | tuple[str, ...], want: int
    ) -> Any:
        """The value, and the gradients in the structure of wrt."""
        names = wrt if isinstance(wrt, tuple) else (wrt,)
        if not names or any(name not in PARAMETERS or names.count(name) > 1 for name in names):
            raise ValueError(f"wrt must be 'weight', 'bias', or a tuple of different ones of these, got {wrt!r}")
        if "bias" in names and bias is None:
            raise ValueError("wrt='bias', but the call has no bias; give bias=0.0, or zeros for several outputs")
        rows, w, b = self._parameters(X, weight, bias)
        value, *found = run(self.loss, rows, w, b, None, inputs, want)
        made = {"weight": found[0].reshape(w.shape).astype(w.dtype)}
        if b is not None:
            made["bias"] = found[1].reshape(b.shape).astype(b.dtype)[()]
        gradients = tuple(made[name] for name in names)
        return value, gradients if isinstance(wrt, tuple) else gradients[0]

    def __call__(
        self, X: Any, weight: ArrayLike, label: Any, sample_weight: Any = None, bias: Any = None, **inputs: Any
    ) -> Any:
        """Return the loss."""
        given = self._inputs(label, sample_weight, inputs)
        return run(self.loss, *self._parameters(X, weight, bias), None, given, VALUE)[0]

    def grad(
        self,
        X: Any,
        weight: ArrayLike,
        label: Any,
        sample_weight: Any = None,
        bias: Any = None,
        *,
        head_grad: Any = None,
        wrt: str | tuple[str, ...] = "weight",
        **inputs: Any,
    ) -> Any:
        """Return the gradient of the sum of the value, or of head_grad times the value, in weight or as wrt says."""
        given = self._inputs(label, sample_weight, inputs) | {"head_grad": head_grad}
        return self._gradients(X, weight, bias, given, wrt, GRAD)[1]

    def value_and_grad(
        self,
        X: Any,
        weight: ArrayLike,
        label: Any,
        sample_weight: Any = None,
        bias: Any = None,
        *,
        head_grad: Any = None,
        wrt: str | tuple[str, ...] = "weight",
        **inputs: Any,
    ) -> tuple[Any, Any]:
        """Return the value and the gradient, from one reading of X."""
        given = self._inputs(label, sample_weight, inputs) | {"head_grad": head_grad}
        value, gradients = self._gradients(X, weight, bias, given, wrt, VALUE | GRAD)
        return value, gradients

    def hvp(
        self,
        X: Any,
        weight: ArrayLike,
        label: Any,
        vector: Any,
        sample_weight: Any = None,
        bias: Any = None,
        **inputs: Any,
    ) -> Any:
        """Return the Hessian times a vector, from one reading of X: of losses of elements.

        The vector has weight's shape. With a bias it is a pair, of weight's shape and of bias's, and so is the result.
        """
        check_hessian(self.loss)
        given = self._inputs(label, sample_weight, inputs)
        rows, w, b = self._parameters(X, weight, bias)
        if b is not None and (not isinstance(vector, tuple) or len(vector) != 2):
            raise TypeError(
                f"vector must be a tuple of 2, for weight and for bias, with a bias, got {type(vector).__name__}"
            )
        first, second = vector if b is not None else (vector, None)
        v = parameter("vector", first, rows, w.ndim)
        if v.shape != w.shape:
            raise ValueError(f"vector must have weight's shape {w.shape}, got shape {v.shape}")
        direction = v, None if b is None else offset("vector", second, w)
        _, *found = run(self.loss, rows, w, b, direction, given, GRAD | HESS)
        product = found[0].reshape(w.shape).astype(w.dtype)
        return product if b is None else (product, found[1].reshape(b.shape).astype(b.dtype)[()])

    def hess(
        self, X: Any, weight: ArrayLike, label: Any, sample_weight: Any = None, bias: Any = None, **inputs: Any
    ) -> Floats:
        """Return the Hessian as a matrix, over the weights in C order and then the biases: of losses of elements."""
        check_hessian(self.loss)
        given = self._inputs(label, sample_weight, inputs)
        rows, w, b = self._parameters(X, weight, bias)
        return dense_hessian(rows, run(self.loss, rows, w, b, None, given, HESS), b is not None)


class LinearObjective:
    """What :func:`linear_objective` returns: it has the data, and an optimiser calls it with the parameters."""

    def __init__(
        self, loss: Loss, X: Any, label: Any, sample_weight: Any, l2: float, fit_intercept: bool, inputs: dict[str, Any]
    ) -> None:
        if dict(check(loss).arguments).get("reduction") in ("example", "none"):
            loss = type(loss)(**dict(loss.arguments) | {"reduction": "sum"})
        self.loss = loss
        self.l2, self.fit_intercept = number("l2", l2, least=0), flag("fit_intercept", fit_intercept)
        # an optimiser compares values whose difference has the digits that float32 has not
        self._rows = rows_of(X, in_double=True)
        self._others = inputs
        label = _foreign.array_of("label", label)
        loss.validate(label, sample_weight=sample_weight, **inputs)
        self._given = {"label": label, "sample_weight": sample_weight} | inputs
        self._best = self._constant(label, sample_weight)
        #: the shape of the intercept: (), or (K,) for K outputs
        self.outputs = self._best.shape
        self._size = math.prod(self.outputs) * (self._rows.columns + self.fit_intercept)
        self._seen: tuple[Floats, Array] | None = None

    def _constant(self, label: Array, sample_weight: Any) -> Floats:
        """The best constant prediction; 0 for a loss that has none."""
        if self.loss.link_name is None:
            if not self.loss.is_elementwise:
                raise NotImplementedError(
                    f"{type(self.loss).__name__} does not tell how many outputs there are; call LinearLoss"
                )
            return np.zeros(label.shape[1:])
        best = self.loss.best_constant(label, sample_weight, **self._others)
        if not self.loss.is_elementwise:
            best = best - best[np.isfinite(best)].mean()
        return np.clip(best, -FARTHEST, FARTHEST) if self.loss.link_name != "identity" else np.asarray(best)

    def split(self, w: ArrayLike) -> tuple[Floats, Floats]:
        """Return the weights, of shape (D,) or (K, D), and the intercept, a number or K of them."""
        a = np.asarray(w, np.float64)
        if a.shape != (self._size,):
            raise ValueError(f"w must have shape ({self._size},), as start() has, got shape {a.shape}")
        end = self._size - math.prod(self.outputs) * self.fit_intercept
        bias = a[end:] if self.fit_intercept else np.zeros(math.prod(self.outputs))
        return a[:end].reshape(*self.outputs, self._rows.columns), bias.reshape(self.outputs)

    def _join(self, weight: Floats, bias: Floats) -> Floats:
        return np.concatenate([weight, bias]) if self.fit_intercept else weight

    def start(self) -> Floats:
        """Return weights of 0, and the best intercept for them."""
        w = np.zeros(self._size)
        if self.fit_intercept:
            w[self._size - self._best.size :] = self._best.ravel()
        return w

    def __call__(self, w: ArrayLike) -> tuple[float, Floats]:
        """Return the value and the gradient, in float64."""
        weight, bias = self.split(w)
        value, *found = run(self.loss, self._rows, weight, bias, None, self._given, VALUE | GRAD)
        gradient = self._join(*found)
        if self.l2:
            value += self.l2 / 2 * float(np.vdot(weight, weight))
            gradient[: weight.size] += self.l2 * weight.ravel()
        return value, gradient

    def _curvature(self, w: ArrayLike) -> Array:
        """The second derivative in each prediction, kept for the next product at the same place."""
        check_hessian(self.loss)
        weight, bias = self.split(w)
        if self._seen is None or not np.array_equal(self._seen[0], np.asarray(w)):
            self._seen = np.array(w, np.float64), run(self.loss, self._rows, weight, bias, None, self._given, HESS)
        return self._seen[1]

    def hvp(self, w: ArrayLike, v: ArrayLike) -> Floats:
        """Return the Hessian times a vector. That of each prediction is kept for further vectors at the same place."""
        h = self._curvature(w)
        weight, bias = self.split(v)
        # half the square of X v, of weight h, has the gradient X' (h X v)
        given = {"label": np.broadcast_to(np.zeros((), h.dtype), h.shape), "sample_weight": h}
        product = self._join(*run(DISTANCE, self._rows, weight, bias, None, given, GRAD)[1:])
        if self.l2:
            product[: weight.size] += self.l2 * weight.ravel()
        return product

    def hess(self, w: ArrayLike) -> Floats:
        """Return the Hessian as a matrix."""
        whole = dense_hessian(self._rows, self._curvature(w), self.fit_intercept)
        end = self.split(w)[0].size
        whole[range(end), range(end)] += self.l2
        return whole

    def predict(self, w: ArrayLike, X: Any) -> Array:
        """Return the mean of the label for rows of numbers: probabilities, rates, or the predictions themselves."""
        weight, bias = self.split(w)
        X = X if type(X).__module__.startswith("scipy.sparse") else _foreign.array_of("X", X)
        raw = X @ weight.T + bias
        return raw if self.loss.link_name is None else self.loss.inverse_link(raw, **self._others)

    def __repr__(self) -> str:
        settings = f"l2={self.l2}, fit_intercept={self.fit_intercept}"
        return f"<linear_objective({self.loss!r}, X of shape {self._rows.source.shape}, {settings})>"


def linear_objective(
    loss: Loss,
    X: Any,
    label: Any,
    sample_weight: Any = None,
    *,
    l2: float = 0.0,
    fit_intercept: bool = True,
    **inputs: Any,
) -> LinearObjective:
    r"""Return a linear model's loss as a function of its parameters alone, for an optimiser.

    .. math:: f(W, b) = L(X W^\top + b, y) + \tfrac12 \lambda \lVert W \rVert^2

    Args:
        loss: L. A loss without a reduction to a number is summed.
        X, label, sample_weight: as of :class:`LinearLoss`. label is (N,), or (N, K) for K outputs.
        l2: lambda, from 0 up.
        fit_intercept: whether the model has an intercept, b.
        inputs: further inputs of the loss, by name, such as ``quantile=0.9``.

    Call: ``f(w)`` is the value and the gradient, in float64 whatever X is. w has the weights of all outputs, in C
    order, and then the intercepts. ``f.start()`` is a w to begin with. ``f.hvp(w, v)`` and ``f.hess(w)`` are of second
    order, for losses of elements. ``f.split(w)`` gives weights and intercepts, ``f.predict(w, X)`` their predictions.

    Raises ValueError for labels that the loss does not mean, and for shapes that do not fit. The Hessian of a loss
    without one raises NotImplementedError.

    The Hessian of each prediction is kept from one product to the next: give ``hessp=f.hvp`` to SciPy as it is.

    Source: scikit-learn's LinearModelLoss, whose C is 1 / l2 for a loss that is summed.

    >>> import fastloss as fl
    >>> f = fl.linear_objective(fl.SigmoidBCELoss(), [[1.0], [2.0], [3.0], [4.0]], [0, 1, 0, 1], l2=1)
    >>> f.start()
    array([0., 0.])
    >>> f(f.start())
    (2.772588722239781, array([-1.,  0.]))
    """
    return LinearObjective(loss, X, label, sample_weight, l2, fit_intercept, inputs)
