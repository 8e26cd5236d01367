from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastloss._domains import Domain
from fastloss._inputs import Input

# an array of pred's dtype, or a float for a total; a tuple of them where wrt is a tuple
Result: TypeAlias = Any
Out: TypeAlias = NDArray[Any] | tuple[Any, ...] | None
Wrt: TypeAlias = str | tuple[str, ...] | None
Hessian: TypeAlias = Literal["exact", "majorizer", "expected"]

class Rows:
    source: Any
    n: int
    columns: int
    dtype: np.dtype[Any]
    def __init__(
        self,
        source: Any,
        begins: NDArray[np.int64] | None = None,
        places: NDArray[np.int32] | None = None,
        numbers: NDArray[Any] | None = None,
        *,
        in_double: bool = False,
    ) -> None: ...

class Loss:
    def of_linear(
        self,
        rows: Rows,
        weight: NDArray[Any],
        bias: NDArray[Any] | None,
        direction: tuple[NDArray[Any], NDArray[Any] | None] | None,
        args: tuple[Any, ...],
        options: dict[str, Any],
        want: int,
    ) -> Any: ...
    @property
    def specs(self) -> tuple[Input, ...]: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def required(self) -> int: ...
    @property
    def fixed(self) -> tuple[str, ...]: ...
    @property
    def no_hessian(self) -> str | None: ...
    @property
    def no_product(self) -> str | None: ...
    @property
    def newton(self) -> Hessian: ...
    @property
    def link_name(self) -> str | None: ...
    @property
    def hessians(self) -> tuple[Hessian, ...]: ...
    @property
    def domains(self) -> Mapping[str, Domain]: ...
    @property
    def arguments(self) -> tuple[tuple[str, Any], ...]: ...
    @property
    def expression(self) -> str: ...
    @property
    def differentiable(self) -> tuple[str, ...]: ...
    @property
    def twice_differentiable(self) -> tuple[str, ...]: ...
    @property
    def is_elementwise(self) -> bool: ...
    def value_axes(self, ndim: int) -> tuple[int, ...] | None: ...
    def is_separable(self, ndim: int) -> bool: ...
    def __init__(
        self,
        kernel: Any,
        weight: float | None,
        batch_axis: int,
        reduction: str,
        *,
        inputs: tuple[Input, ...] = ...,
        layout: Literal["elements", "coupled", "rows", "examples"] = "elements",
        axis: int = -1,
        plain: Any = None,
        no_hessian: str | None = None,
        surrogate: Literal["majorizer", "expected"] | None = None,
        exact_is: tuple[Hessian, ...] = (),
        newton: Hessian | None = None,
        link: Literal["identity", "log", "margin", "softmax", "softmax of slopes"] | None = "identity",
        couples: str | None = None,
        factor: float = 1,
        single_ndim: int = -1,
        row: tuple[str, str] = ("class", "classes"),
        row_parameter: tuple[str, int] | None = None,
        sized_by: str | None = None,
        normalizer: Loss | None = None,
    ) -> None: ...
    @property
    def normalizer(self) -> Loss | None: ...
    @property
    def couples(self) -> str | None: ...
    @property
    def row_parameter(self) -> str | None: ...
    @property
    def has_rows(self) -> bool: ...
    def row_axis(self, ndim: int) -> int | None: ...
    def check_product(self) -> None: ...
    def check_row(self, shape: tuple[int, ...]) -> None: ...
    def check_shapes(self, shapes: Mapping[str, tuple[int, ...]]) -> None: ...
    def number_rule(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> str: ...
    def whole_rule(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> str: ...
    def validate(
        self, label: ArrayLike | None = None, pred: ArrayLike | None = None, **inputs: ArrayLike | None
    ) -> None: ...
    def inverse_link(self, raw: ArrayLike, **inputs: ArrayLike | None) -> NDArray[Any]: ...
    def link(self, mean: ArrayLike) -> NDArray[Any]: ...
    def best_constant(
        self, label: ArrayLike, sample_weight: ArrayLike | None = None, **inputs: Any
    ) -> NDArray[np.float64]: ...
    def lse(self, pred: ArrayLike, out: Out = None) -> Result: ...
    def __getattr__(self, name: str) -> Any: ...
    def __call__(self, *inputs: ArrayLike | None, out: Out = None, **named: ArrayLike | None) -> Result: ...
    def grad(
        self,
        *inputs: ArrayLike | None,
        head_grad: ArrayLike | None = None,
        out: Out = None,
        wrt: Wrt = None,
        **named: ArrayLike | None,
    ) -> Result: ...
    def value_and_grad(
        self,
        *inputs: ArrayLike | None,
        head_grad: ArrayLike | None = None,
        out: Out = None,
        wrt: Wrt = None,
        **named: ArrayLike | None,
    ) -> tuple[Result, Result]: ...
    def grad_and_hess(
        self,
        *inputs: ArrayLike | None,
        head_grad: ArrayLike | None = None,
        out: Out = None,
        wrt: Wrt = None,
        hessian: Hessian = "exact",
        **named: ArrayLike | None,
    ) -> tuple[Result, Result]: ...
    def value_grad_and_hess(
        self,
        *inputs: ArrayLike | None,
        head_grad: ArrayLike | None = None,
        out: Out = None,
        wrt: Wrt = None,
        hessian: Hessian = "exact",
        **named: ArrayLike | None,
    ) -> tuple[Result, Result, Result]: ...
    def hvp(
        self,
        *inputs: ArrayLike | None,
        vector: ArrayLike | None = None,
        head_grad: ArrayLike | None = None,
        out: Out = None,
        hessian: Hessian = "exact",
        **named: ArrayLike | None,
    ) -> Result: ...
