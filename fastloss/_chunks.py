"""A linear predictor by chunks of rows: for many outputs, such as a vocabulary, and for gradients in the rows.

A product by BLAS makes the predictions of a chunk in a buffer, the loss puts its derivatives in their place, and two
more products multiply these by the rows and by the weights. The buffer is the memory that a call takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastloss import _foreign
from fastloss._core import Loss, Rows
from fastloss.backends.layout import layout_of, left_out, with_reduction

Array = NDArray[Any]

# what a call of the kernels gives
VALUE, GRAD, HESS = 1, 2, 4

# of predictions. More rows at once make the product faster: it reads all weights for each chunk.
CHUNK_BYTES = 1 << 25
# of a gradient, to which a product is added at once
PART_BYTES = 1 << 22


class Products:
    """What is done to whole matrices, by NumPy."""

    def multiply(self, a: Array, b: Array, out: Array) -> None:
        np.matmul(a, b, out=out)

    def shift(self, a: Array, b: Array) -> None:
        """Add a row to each row."""
        a += b

    def add(self, total: Array, a: Array, b: Array) -> None:
        """Add a product in parts: as a whole it would take as much memory as the total."""
        step = max(1, PART_BYTES // max(1, b.shape[1] * total.itemsize))
        room = np.empty((min(step, len(total)), b.shape[1]), total.dtype)
        for k in range(0, len(total), step):
            part = room[: len(total) - k]
            np.matmul(a[k : k + step], b, out=part)
            total[k : k + step] += part

    def add_rows(self, total: Array, a: Array) -> None:
        total += a.sum(0, dtype=np.float64)


class Chunks:
    """The rows of a call, a chunk after the other, with the inputs of the loss that belong to them.

    Rows that the call leaves out, of weight 0 or with an ignored id, are in no chunk.
    """

    def __init__(self, loss: Loss, rows: Rows, outputs: tuple[int, ...], inputs: dict[str, Any], count: float) -> None:
        self.shape = (rows.n, *outputs)
        layout = layout_of(loss, self.shape)
        self.is_total = layout.value_axes == ()
        self.value_shape = layout.value_shape
        #: of a chunk: a mean is a sum, times a share of the whole
        self.loss = with_reduction(loss, "sum") if self.is_total else loss
        self.share = (1 / count if count else 0.0) if self.is_total else 1.0
        self.source = rows.source
        given = {name: array_of(name, x) for name, x in inputs.items() if x is not None}
        if "sample_weight" in given:
            given["sample_weight"] = _foreign.without_halves(given["sample_weight"])
        head = given.pop("head_grad", np.ones(()))
        self.head: Any = float(_foreign.as_doubles(head)) * self.share if not head.ndim else head
        self.kept = self._kept(given)
        self.placed = {name: layout.place(name, x) for name, x in given.items()}
        self.rows = 1

    def _kept(self, given: dict[str, Array]) -> Array | None:
        """The rows that are not left out; None: all."""
        first = self.loss.inputs[0]
        mask = left_out(self.loss, given | {first: np.broadcast_to(0.0, self.shape)}, first)
        if mask is None:
            return None
        mask = np.broadcast_to(mask.all(axis=tuple(range(1, mask.ndim))), self.shape[:1])
        return np.flatnonzero(~mask) if mask.any() else None

    def limit(self, row_bytes: int, chunk_bytes: int) -> None:
        """Say how many bytes a row takes, and a chunk may take."""
        self.rows = max(1, min(chunk_bytes // max(1, row_bytes), self.shape[0]))

    def __iter__(self) -> Iterator[Any]:
        """What each chunk's rows are of all: a slice, or indices."""
        n = self.shape[0] if self.kept is None else len(self.kept)
        chunks = -(-n // self.rows)
        for k in range(chunks):
            part = slice(k * n // chunks, (k + 1) * n // chunks)
            yield part if self.kept is None else self.kept[part]

    def inputs(self, part: Any) -> dict[str, Any]:
        whole = self.shape[0]
        return {name: x[part] if axes[:1] == (0,) and len(x) == whole else x for name, (x, axes) in self.placed.items()}

    def head_of(self, part: Any) -> Any:
        """What flows back into the values of a chunk, which have the rows along their only axis or the first."""
        return self.head[part] if isinstance(self.head, np.ndarray) else self.head

    def features(self, part: Any, dtype: DTypeLike) -> Any:
        """The numbers of the rows."""
        x = self.source[part]
        if x.dtype == dtype:
            return x
        return (_foreign.without_halves(x) if isinstance(x, np.ndarray) else x).astype(dtype)


class Call:
    """Predictions and losses of the chunks of a call, in buffers that all of them use."""

    def __init__(
        self, chunks: Chunks, weight: Array, bias: Array | None, direction: Any, dtype: Any, products: Products
    ) -> None:
        self.chunks, self.products, self.dtype = chunks, products, dtype
        self.has_axis = weight.ndim > 1
        self.weight, self.bias = as_matrix(weight), bias
        self.direction = direction and (as_matrix(direction[0]), direction[1])
        self.room = [np.empty((chunks.rows, len(self.weight)), dtype) for _ in range(2 if direction else 1)]

    def _predict(self, x: Array, weight: Array, bias: Array | None, room: Array) -> Array:
        found = room[: len(x)]
        self.products.multiply(x, weight.T, found)
        if bias is not None:
            self.products.shift(found, bias)
        return found if self.has_axis else found[:, 0]

    def _derive(self, x: Array, part: Any, want: int) -> Any:
        """The value of a chunk, if wanted, and in the place of the predictions their derivatives."""
        loss, inputs, head = self.chunks.loss, self.chunks.inputs(part), self.chunks.head_of(part)
        pred = self._predict(x, self.weight, self.bias, self.room[0])
        if self.direction is not None:
            weight, bias = self.direction
            vector = self._predict(x, weight, bias, self.room[1])
            loss.hvp(pred, **inputs, vector=vector, head_grad=head, out=pred)
            return None
        if want == VALUE:
            return loss(pred, **inputs)
        if want == GRAD:
            loss.grad(pred, **inputs, head_grad=head, out=pred)
            return None
        return loss.value_and_grad(pred, **inputs, head_grad=head, out=(None, pred))[0]

    def run(self, want: int, sums: dict[str, Array]) -> Any:
        """The value, if wanted; the derivatives are added to the sums."""
        # what is no number is a result, not a warning
        with np.errstate(all="ignore"):
            return self._run(want, sums)

    def _run(self, want: int, sums: dict[str, Array]) -> Any:
        chunks = self.chunks
        value: Any = 0.0 if chunks.is_total else np.zeros(chunks.value_shape, self.dtype)
        for part in chunks:
            x = chunks.features(part, self.dtype)
            found = self._derive(x, part, want)
            if not want & VALUE:
                value = None
            elif chunks.is_total:
                value += found * chunks.share
            else:
                value[part] = found
            if sums:
                self._add(x, part, self.room[0][: len(x)], sums)
        return value

    def _add(self, x: Array, part: Any, slopes: Array, sums: dict[str, Array]) -> None:
        if "weight" in sums:
            self.products.add(as_matrix(sums["weight"]), slopes.T, x)
        if "bias" in sums:
            self.products.add_rows(sums["bias"].reshape(-1), slopes)
        if "X" in sums:
            to = sums["X"]
            direct = isinstance(part, slice) and to.dtype == self.dtype
            found = to[part] if direct else np.empty(x.shape, self.dtype)
            self.products.multiply(slopes, self.weight, found)
            if not direct:
                to[part] = found


def array_of(name: str, x: Any) -> Array:
    """An array of numbers, of any library; as it is, if it has the dtype that stands for bfloat16."""
    return x if type(x) is np.ndarray and x.dtype == _foreign.BFLOAT16 else _foreign.array_of(name, x)


def as_matrix(weight: Array) -> Array:
    return weight.reshape(-1, weight.shape[-1])
