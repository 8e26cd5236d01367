"""Linear models: the loss of a linear predictor without stored predictions, and its form for optimisers.

>>> import fastloss as fl
>>> fl.LinearLoss(fl.HuberLoss())
LinearLoss(HuberLoss(rho=1, weight=None, batch_axis=0, reduction='example'), chunk_bytes=33554432)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss import _foreign
from fastloss._arguments import flag, integer, number, rebuild
from fastloss._chunks import CHUNK_BYTES, GRAD, HESS, VALUE, Call, Chunks, Products, array_of
from fastloss._core import Loss, Rows
from fastloss.backends import backend_of
from fastloss.backends.layout import layout_of
from fastloss.losses import L2Loss

Array = NDArray[Any]
Floats = NDArray[np.float64]

# the intercept to start from is no farther from 0: a probability is within 1e-16 of 0 or 1 there
FARTHEST = 36.0
BLOCK_BYTES = 1 << 19  # of rows that a dense Hessian takes at once
FEW = 16  # outputs, for more of which products of matrices are faster
WANTED = {"__call__": VALUE, "grad": GRAD, "value_and_grad": VALUE | GRAD}
DISTANCE = L2Loss(reduction="sum")


def rows_of(X: Any, in_double: bool = False) -> Rows:
    """The rows of a matrix of any library, sparse ones of SciPy included, for loops in float64 if asked for."""
    if type(X).__module__.startswith("scipy.sparse"):
        return sparse_rows(X, in_double)
    dense = array_of("X", X)
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
    a = floats(name, x)
    if a.ndim not in (1, 2) or a.shape[-1] != rows.columns or (not len(a) and a.ndim == 2):
        raise ValueError(
            f"{name} must have shape ({rows.columns},), or one of these for each output, for an X with {rows.columns} "
            f"columns, got shape {a.shape}"
        )
    if ndim is not None and a.ndim != ndim:
        raise ValueError(f"{name} must have as many axes as weight, {ndim}, got shape {a.shape}")
    return a


def offset(name: str, x: Any, weight: Array) -> Array:
    """A number for each output."""
    a = floats(name, x)
    if a.shape != weight.shape[:-1]:
        raise ValueError(
            f"{name} must have shape {weight.shape[:-1]}, a number for each output of weight, got shape {a.shape}"
        )
    return a


def floats(name: str, x: Any) -> Array:
    a = array_of(name, x)
    return a.astype(np.float64) if a.dtype.kind in "iub" else a


def cast(a: Array | None, dtype: Any) -> Any:
    """An array as loops or products of a dtype read it."""
    if a is None or a.dtype == dtype:
        return a if a is None else np.ascontiguousarray(a)
    with np.errstate(over="ignore", under="ignore"):
        return np.ascontiguousarray(_foreign.without_halves(a), dtype)


@dataclass(frozen=True, slots=True)
class Problem:
    """A call with arrays that fit together."""

    loss: Loss
    rows: Rows
    weight: Array
    bias: Array | None
    inputs: dict[str, Any]
    direction: tuple[Array, Array | None] | None = None
    chunk_bytes: int = CHUNK_BYTES
    products: Products = field(default_factory=Products)

    @property
    def value_shape(self) -> tuple[int, ...]:
        return layout_of(self.loss, (self.rows.n, *self.weight.shape[:-1])).value_shape

    def result(self, name: str, found: Any, outs: dict[str, Any]) -> Any:
        """A result in the caller's array, or of the dtype of what it is the gradient in."""
        if name in outs:
            if outs[name] is not found:
                outs[name][...] = found
            return outs[name]
        if name == "value":
            return found
        like = {"weight": self.weight, "bias": self.bias, "X": self.rows.source}[name]
        dtype = found.dtype if like.dtype.kind in "iub" or like.dtype == _foreign.BFLOAT16 else like.dtype
        return found.astype(dtype, copy=False)[()]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """What there are gradients in."""
        bias = {} if self.bias is None else {"bias": self.bias.shape}
        return {"weight": self.weight.shape, "X": (self.rows.n, self.rows.columns)} | bias

    def cast(self, dtype: Any) -> tuple[Any, Any, Any]:
        direction = self.direction and (cast(self.direction[0], dtype), cast(self.direction[1], dtype))
        return cast(self.weight, dtype), cast(self.bias, dtype), direction

    def has_many_outputs(self) -> bool:
        return self.weight.ndim == 2 and len(self.weight) > FEW and isinstance(self.rows.source, np.ndarray)

    def in_double(self) -> Problem:
        """The same beyond the range of float32, or with weights of examples beyond that of float64.

        A weighted mean divides by the sum of these.
        """
        inputs = self.inputs
        if inputs.get("sample_weight") is not None:
            examples = _foreign.as_doubles(array_of("sample_weight", inputs["sample_weight"]))
            largest = float(np.abs(examples).max(initial=0))
            if dict(self.loss.arguments).get("reduction") == "weighted_mean" and math.isfinite(largest):
                inputs = inputs | {"sample_weight": np.ldexp(examples, -math.frexp(largest)[1])}
        source = self.rows.source
        wide = _foreign.as_doubles(source) if isinstance(source, np.ndarray) else source.astype(np.float64)
        return replace(self, rows=rows_of(wide), inputs=inputs)

    def chunks(self) -> Chunks | None:
        """The chunks of rows, all checked; None: the call is to be made in double."""
        count = self.loss.of_linear(self.rows, self.weight, None, None, (), self.inputs, 0)
        if count is None:
            return None
        return Chunks(self.loss, self.rows, self.weight.shape[:-1], self.inputs, count)


def run(problem: Problem, want: int, wrt: tuple[str, ...] = ("weight", "bias"), into: Any = None) -> Any:
    """The value, if wanted, and derivatives by what they are in; or the Hessian in each prediction, alone.

    Derivatives may be added up in arrays of the caller's, by name, if these have the dtype of the sums.
    """
    if want != HESS and ("X" in wrt or problem.has_many_outputs()):
        return run_by_chunks(problem, want, wrt, into or {})
    loss, rows = problem.loss, problem.rows
    found = loss.of_linear(rows, *problem.cast(rows.dtype), (), problem.inputs, want)
    if found is None:
        return run(problem.in_double(), want, wrt, into)
    if want == HESS:
        return found
    value, weight, bias = found
    return value, {"weight": weight.reshape(problem.weight.shape), "bias": bias.reshape(problem.weight.shape[:-1])}


def run_by_chunks(problem: Problem, want: int, wrt: tuple[str, ...], into: dict[str, Array]) -> Any:
    chunks = problem.chunks()
    if chunks is None:
        return run_by_chunks(problem.in_double(), want, wrt, into)
    dtype = problem.rows.dtype
    chunks.limit(max(1, math.prod(chunks.shape[1:])) * dtype.itemsize, problem.chunk_bytes)
    sums: dict[str, Array] = {}
    for name, shape in problem.shapes.items():
        if want != VALUE and name in wrt:
            kept = np.dtype(np.float64) if name == "bias" else dtype
            given = into.get(name)
            if given is None or given.dtype != kept or not given.flags.c_contiguous:
                given = np.empty(shape, kept)
            given.fill(0)
            sums[name] = given
    return Call(chunks, *problem.cast(dtype), dtype, problem.products).run(want, sums), sums


def check(loss: Any) -> Loss:
    """A loss that has a prediction, a label, and a loss for each example."""
    if not isinstance(loss, Loss):
        raise TypeError(f"loss must be a loss of fastloss, such as SigmoidBCELoss(), got {type(loss).__name__}")
    if loss.inputs[:2] != ("pred", "label"):
        raise ValueError(f"loss must have a prediction and a label, got {type(loss).__name__}")
    return loss


def curvature(problem: Problem) -> Callable[[slice], Array]:
    """The second derivatives in the predictions of some rows: one of each, or for classes one of each pair."""
    if problem.loss.is_elementwise:
        whole = run(problem, HESS).reshape(problem.rows.n, -1)
        return lambda part: whole[part]
    chunks = problem.chunks()
    if chunks is None:
        return curvature(problem.in_double())
    weight, bias, _ = problem.cast(problem.rows.dtype)

    def of_rows(part: slice) -> Array:
        pred = chunks.features(part, problem.rows.dtype) @ weight.T + (0 if bias is None else bias)
        columns = []
        for k in range(pred.shape[1]):
            vector = np.broadcast_to(np.arange(pred.shape[1]) == k, pred.shape)
            columns.append(chunks.loss.hvp(pred, **chunks.inputs(part), vector=vector, head_grad=chunks.head_of(part)))
        return np.stack(columns, 2)

    return of_rows


def dense_hessian(rows: Rows, outputs: int, curvature: Callable[[slice], Array], has_bias: bool) -> Floats:
    """The sum over rows of their products with the curvature, over the weights of all outputs and then their biases."""
    width = rows.columns
    blocks, edges = np.zeros((outputs, outputs, width, width)), np.zeros((outputs, outputs, width))
    corner = np.zeros((outputs, outputs))
    step = max(1, BLOCK_BYTES // max(1, max(width, outputs) * rows.dtype.itemsize))
    for start in range(0, rows.n, step):
        own = slice(start, start + step)
        part, each = rows.source[own].astype(rows.dtype, copy=False), curvature(own)
        for j in range(outputs):
            for k in range(j, outputs if each.ndim == 3 else j + 1):
                h = each[:, j, k] if each.ndim == 3 else each[:, j]
                scaled = part * h[:, None] if isinstance(part, np.ndarray) else part.multiply(h[:, None]).tocsr()
                product = part.T @ scaled
                blocks[j, k] += product if isinstance(product, np.ndarray) else product.toarray()
                edges[j, k] += np.asarray(scaled.sum(0, dtype=np.float64)).ravel()
                corner[j, k] += h.sum(dtype=np.float64)
    size = outputs * width
    whole = np.zeros((size + outputs * has_bias,) * 2)
    for j in range(outputs):
        for k in range(j, outputs):
            first, second = slice(j * width, (j + 1) * width), slice(k * width, (k + 1) * width)
            # a product of matrices that are not told to be the same is symmetric but for rounding
            whole[first, second] = whole[second, first] = (blocks[j, k] + blocks[j, k].T) / 2
            if has_bias:
                whole[first, size + k] = whole[size + k, first] = edges[j, k]
                whole[second, size + j] = whole[size + j, second] = edges[j, k]
                whole[size + j, size + k] = whole[size + k, size + j] = corner[j, k]
    return whole


def named_outs(out: Any, parts: tuple[str, ...], names: tuple[str, ...], is_tuple: bool) -> dict[str, Any]:
    """The caller's arrays by what is stored in them, of arrays in the structure of what a method returns."""
    if out is None:
        return {}
    if len(parts) > 1 and (not isinstance(out, tuple) or len(out) != 2):
        raise TypeError(f"out must be a tuple of 2, for the value and the gradient, got {type(out).__name__}")
    given = dict(zip(parts, out if len(parts) > 1 else (out,), strict=True))
    found = {"value": given.get("value")}
    gradients = given.get("gradient")
    if gradients is not None:
        each = gradients if is_tuple else (gradients,)
        if not isinstance(each, tuple) or len(each) != len(names):
            raise TypeError(
                f"out for the derivatives must be a tuple of {len(names)}, an array or None for each of "
                f"{', '.join(names)}, got {type(gradients).__name__}"
            )
        found |= dict(zip(names, each, strict=True))
    return {name: x for name, x in found.items() if x is not None}


def check_out(what: str, out: Any, shape: tuple[int, ...], others: Mapping[str, Any]) -> None:
    """Refuse an array that the result does not fit in, or that shares memory with others of the call."""
    if not isinstance(out, np.ndarray) or (out.dtype.kind != "f" and not _foreign.is_bfloat16(out.dtype)):
        kind = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out for the {what} must be an array of floats or None, got {kind}")
    if out.shape != shape:
        raise ValueError(f"out for the {what} must have shape {shape}, got {out.shape}")
    if not out.flags.writeable:
        raise ValueError(f"out for the {what} is read-only")
    for name, x in others.items():
        if isinstance(x, np.ndarray) and np.may_share_memory(out, x):
            raise ValueError(f"out for the {what} shares memory with {name}; give it memory of its own")


def check_outs(problem: Problem, outs: Mapping[str, Any], given: Mapping[str, Any], derivative: str) -> None:
    for name, out in outs.items():
        what = name if name == "value" else f"{derivative} in {name}"
        shape = problem.value_shape if name == "value" else problem.shapes[name]
        check_out(what, out, shape, {**given, **{f"out for {x}": y for x, y in outs.items() if x != name}})


class LinearLoss:
    r"""A loss of the predictions that rows of numbers and weights make, without storing the predictions.

    .. math:: \ell(W, b) = L(X W^\top + b, y)

    Args:
        loss: L, a loss of elements or over classes, with its reduction.
        chunk_bytes: how much memory the predictions of a chunk of rows may take, where a call goes by chunks.

    Call: ``linear(X, weight, label, sample_weight=None, bias=None)``. X is (N, D), float32 or float64, an array or
    SciPy's CSR or CSC, which stays sparse. weight is (D,), for predictions of shape (N,), or (K, D), for (N, K). bias
    is a number, or K of them. label and sample_weight are those of the loss with such a prediction; its other inputs
    are given by name. ``grad`` and ``value_and_grad`` take ``wrt``: "weight", "bias", "X", or a tuple. They and ``hvp``
    take ``head_grad``, and ``out``: arrays for the results, in the structure of what is returned.

    Raises ValueError for shapes that do not fit and for losses in which examples meet. Raises TypeError for inputs
    without numbers.

    A call for few outputs reads X once, block by block, for all results. Gradients are summed in float64, and then get
    their parameter's dtype: for an optimiser of second order, give weights in float64, whatever X is. Results have the
    same bits for any number of threads. A row without a gradient, such as one of weight 0, adds nothing, even if X is
    not finite there. Arrays in another order than C, or of other dtypes than float32 and float64, are copied by blocks.

    With more than 16 outputs, and for the gradient in X, a call goes by chunks of rows. BLAS makes the predictions of a
    chunk in a buffer of ``chunk_bytes``, which is all the memory that the call takes beside its results. It sums in the
    dtype of X, in an order of its own. Rows of weight 0 and rows with an ignored id are left out of the products.

    Tensors of PyTorch and arrays of JAX get their gradients in the forward pass, rows of Dask are read by a task for
    each chunk. autograd differentiates the product and the loss, with stored predictions, as JAX does for few outputs.

    Source: Gluon, JAX: none; PyTorch's linear_cross_entropy, of class ids alone; scikit-learn's LinearModelLoss, which
    is private, makes two passes.

    >>> import fastloss as fl
    >>> linear = fl.LinearLoss(fl.SigmoidBCELoss(reduction="mean"))
    >>> linear.value_and_grad([[1.0, 2.0], [3.0, -1.0]], [0.0, 0.0], [1, 0])
    (0.6931471805599453, array([ 0.5 , -0.75]))
    """

    # JAX keeps functions by weak references
    __slots__ = ("__weakref__", "chunk_bytes", "loss")

    loss: Loss
    chunk_bytes: int

    def __init__(self, loss: Loss, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        size = integer("chunk_bytes", chunk_bytes, largest=2**62)
        if size <= 0:
            raise ValueError(f"chunk_bytes must be above 0, got {size}")
        object.__setattr__(self, "loss", check(loss))
        object.__setattr__(self, "chunk_bytes", size)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a loss is immutable: build a new one")

    def __repr__(self) -> str:
        return f"LinearLoss({self.loss!r}, chunk_bytes={self.chunk_bytes})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LinearLoss):
            return NotImplemented
        return (self.loss, self.chunk_bytes) == (other.loss, other.chunk_bytes)

    def __hash__(self) -> int:
        return hash((LinearLoss, self.loss, self.chunk_bytes))

    def __reduce__(self) -> Any:
        return rebuild, (type(self), (self.loss,), (("chunk_bytes", self.chunk_bytes),))

    def _call(self, method: str, given: dict[str, Any], named: dict[str, Any], options: dict[str, Any]) -> Any:
        """Make a call, whose inputs have known names."""
        for name in named:
            if name not in self.loss.inputs[2:]:
                known = ", ".join(["X", "weight", *self.loss.inputs[1:], "bias"])
                raise TypeError(f"{self!r} got an unexpected keyword argument {name!r}; its inputs are {known}")
        return dispatch(self, method, given | named, options)

    def compute(self, method: str, given: dict[str, Any], options: dict[str, Any], products: Any = None) -> Any:
        """Make a call of arrays of NumPy, with products of matrices by another library if given."""
        problem = self._problem(given, products)
        if options.get("head_grad") is not None:
            problem = replace(problem, inputs=problem.inputs | {"head_grad": options["head_grad"]})
        if method == "hess":
            self.loss.check_product()
            outputs = math.prod(problem.weight.shape[:-1])
            return dense_hessian(problem.rows, outputs, curvature(problem), problem.bias is not None)
        if method == "hvp":
            return self._product(problem, given, options["vector"], options.get("out"))
        wrt, want = options.get("wrt", "weight"), WANTED[method]
        names = targets(wrt, problem.bias is not None) if want & GRAD else ()
        if "X" in names and not isinstance(problem.rows.source, np.ndarray):
            raise ValueError("wrt='X', but X is sparse, and its gradient is not; take X.toarray()")
        parts = ("value",) * (want & VALUE) + ("gradient",) * (want & GRAD > 0)
        outs = named_outs(options.get("out"), parts, names, isinstance(wrt, tuple))
        check_outs(problem, outs, given, "gradient")
        value, found = run(problem, want, names, outs)
        gradients = tuple([problem.result(name, found[name], outs) for name in names])
        value = problem.result("value", value, outs)
        if want == VALUE:
            return value
        whole = gradients if isinstance(wrt, tuple) else gradients[0]
        return whole if want == GRAD else (value, whole)

    def _problem(self, given: dict[str, Any], products: Any) -> Problem:
        rows = rows_of(given["X"])
        weight = parameter("weight", given["weight"], rows)
        bias = given["bias"]
        return Problem(
            self.loss,
            rows,
            weight,
            None if bias is None else offset("bias", bias, weight),
            {name: x for name, x in given.items() if name not in ("X", "weight", "bias")},
            chunk_bytes=self.chunk_bytes,
            products=products or Products(),
        )

    def _product(self, problem: Problem, given: Mapping[str, Any], vector: Any, out: Any) -> Any:
        self.loss.check_product()
        weight, bias = problem.weight, problem.bias
        if bias is not None and (not isinstance(vector, tuple) or len(vector) != 2):
            raise TypeError(
                f"vector must be a tuple of 2, for weight and for bias, with a bias, got {type(vector).__name__}"
            )
        first, second = vector if bias is not None else (vector, None)
        v = parameter("vector", first, problem.rows, weight.ndim)
        if v.shape != weight.shape:
            raise ValueError(f"vector must have weight's shape {weight.shape}, got shape {v.shape}")
        direction = v, None if bias is None else offset("vector", second, weight)
        names = ("weight",) if bias is None else ("weight", "bias")
        outs = named_outs(out, ("gradient",), names, bias is not None)
        check_outs(problem, outs, {**given, "vector": v, "the vector's second array": direction[1]}, "product")
        _, found = run(replace(problem, direction=direction), GRAD | HESS, names, outs)
        products = tuple([problem.result(name, found[name], outs) for name in names])
        return products[0] if bias is None else products

    def __call__(
        self,
        X: Any,
        weight: ArrayLike,
        label: Any,
        sample_weight: Any = None,
        bias: Any = None,
        *,
        out: Any = None,
        **inputs: Any,
    ) -> Any:
        """Return the loss."""
        return self._call("__call__", arranged(X, weight, label, sample_weight, bias), inputs, {"out": out})

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
        out: Any = None,
        **inputs: Any,
    ) -> Any:
        """Return the gradient of the sum of the value, or of head_grad times the value, in weight or as wrt says."""
        options = {"head_grad": head_grad, "wrt": wrt, "out": out}
        return self._call("grad", arranged(X, weight, label, sample_weight, bias), inputs, options)

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
        out: Any = None,
        **inputs: Any,
    ) -> tuple[Any, Any]:
        """Return the value and the gradient, from one reading of X."""
        options = {"head_grad": head_grad, "wrt": wrt, "out": out}
        found = self._call("value_and_grad", arranged(X, weight, label, sample_weight, bias), inputs, options)
        return found[0], found[1]

    def hvp(
        self,
        X: Any,
        weight: ArrayLike,
        label: Any,
        vector: Any,
        sample_weight: Any = None,
        bias: Any = None,
        *,
        head_grad: Any = None,
        out: Any = None,
        **inputs: Any,
    ) -> Any:
        """Return the Hessian times a vector, from one reading of X: of losses that have such a product, as loss.hvp.

        The vector has weight's shape. With a bias it is a pair, of weight's shape and of bias's, and so are the result
        and out.
        """
        options = {"vector": vector, "head_grad": head_grad, "out": out}
        return self._call("hvp", arranged(X, weight, label, sample_weight, bias), inputs, options)

    def hess(
        self, X: Any, weight: ArrayLike, label: Any, sample_weight: Any = None, bias: Any = None, **inputs: Any
    ) -> Floats:
        """Return the Hessian as a matrix, over the weights in C order and then the biases.

        It takes as many products with X as there are outputs, and for classes as there are pairs of these.
        """
        found: Floats = self._call("hess", arranged(X, weight, label, sample_weight, bias), inputs, {})
        return found


def dispatch(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
    """Make a call where its arrays belong. PyTorch's compiler has a function of its own in the place of this one."""
    for x in (*given.values(), *options.values()):
        kind: Any = type(x)
        backend = None if kind is np.ndarray else backend_of(kind)
        if backend is not None:
            return backend.evaluate_linear(linear, method, given, options)
    return linear.compute(method, given, options)


def arranged(X: Any, weight: Any, label: Any, sample_weight: Any, bias: Any) -> dict[str, Any]:
    return {"X": X, "weight": weight, "label": label, "sample_weight": sample_weight, "bias": bias}


def targets(wrt: Any, has_bias: bool) -> tuple[str, ...]:
    """What wrt names, checked."""
    names = wrt if isinstance(wrt, tuple) else (wrt,)
    if not names or any(name not in ("weight", "bias", "X") or names.count(name) > 1 for name in names):
        raise ValueError(f"wrt must be 'weight', 'bias', 'X', or a tuple of different ones of these, got {wrt!r}")
    if "bias" in names and not has_bias:
        raise ValueError("wrt='bias', but the call has no bias; give bias=0.0, or zeros for several outputs")
    return names


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

    def _join(self, found: dict[str, Array]) -> Floats:
        weight = found["weight"].ravel()
        return np.concatenate([weight, found["bias"].ravel()]) if self.fit_intercept else weight

    def start(self) -> Floats:
        """Return weights of 0, and the best intercept for them."""
        w = np.zeros(self._size)
        if self.fit_intercept:
            w[self._size - self._best.size :] = self._best.ravel()
        return w

    def __call__(self, w: ArrayLike) -> tuple[float, Floats]:
        """Return the value and the gradient, in float64."""
        problem = self._problem(w)
        value, found = run(problem, VALUE | GRAD)
        gradient = self._join(found)
        if self.l2:
            value += self.l2 / 2 * float(np.vdot(problem.weight, problem.weight))
            gradient[: problem.weight.size] += self.l2 * problem.weight.ravel()
        return value, gradient

    def _problem(self, w: ArrayLike) -> Problem:
        return Problem(self.loss, self._rows, *self.split(w), self._given)

    def _curvature(self, w: ArrayLike) -> Array:
        """The second derivative in each prediction, kept for the next product at the same place."""
        if self._seen is None or not np.array_equal(self._seen[0], np.asarray(w)):
            self._seen = np.array(w, np.float64), run(self._problem(w), HESS)
        return self._seen[1]

    def hvp(self, w: ArrayLike, v: ArrayLike) -> Floats:
        """Return the Hessian times a vector.

        The second derivative in each prediction of a loss of elements is kept for further vectors at the same place.
        """
        self.loss.check_product()
        weight, bias = self.split(v)
        if self.loss.is_elementwise:
            h = self._curvature(w)
            # half the square of X v, of weight h, has the gradient X' (h X v)
            given = {"label": np.broadcast_to(np.zeros((), h.dtype), h.shape), "sample_weight": h}
            problem = Problem(DISTANCE, self._rows, weight, bias, given)
            found = run(problem, GRAD)[1]
        else:
            found = run(replace(self._problem(w), direction=(weight, bias)), GRAD | HESS)[1]
        product = self._join(found)
        if self.l2:
            product[: weight.size] += self.l2 * weight.ravel()
        return product

    def hess(self, w: ArrayLike) -> Floats:
        """Return the Hessian as a matrix."""
        self.loss.check_product()
        whole = dense_hessian(self._rows, math.prod(self.outputs), curvature(self._problem(w)), self.fit_intercept)
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
    order. ``f.split(w)`` gives weights and intercepts, ``f.predict(w, X)`` their predictions.

    Raises ValueError for labels that the loss does not mean, and for shapes that do not fit. The Hessian of a loss
    without one raises NotImplementedError.

    For a loss of elements the Hessian of each prediction is kept from one product to the next: give ``hessp=f.hvp`` to
    SciPy as it is. ``f.hess`` of K classes takes K (K + 1) / 2 products of the rows' width squared: it is for few.

    Source: scikit-learn's LinearModelLoss, whose C is 1 / l2 for a loss that is summed.

    >>> import fastloss as fl
    >>> f = fl.linear_objective(fl.SigmoidBCELoss(), [[1.0], [2.0], [3.0], [4.0]], [0, 1, 0, 1], l2=1)
    >>> f.start()
    array([0., 0.])
    >>> f(f.start())
    (2.772588722239781, array([-1.,  0.]))
    """
    return LinearObjective(loss, X, label, sample_weight, l2, fit_intercept, inputs)
