from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from numpy.typing import ArrayLike, NDArray

from fastloss._domains import Domain

# an array of pred's dtype, or a float for a total; a tuple of them where wrt is a tuple
Result: TypeAlias = Any
Out: TypeAlias = NDArray[Any] | tuple[Any, ...] | None
Wrt: TypeAlias = str | tuple[str, ...] | None

class Loss:
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def required(self) -> int: ...
    @property
    def fixed(self) -> tuple[str, ...]: ...
    @property
    def no_hessian(self) -> str | None: ...
    @property
    def domains(self) -> Mapping[str, Domain]: ...
    @property
    def arguments(self) -> tuple[tuple[str, Any], ...]: ...
    @property
    def expression(self) -> str: ...
    @property
    def differentiable(self) -> tuple[str, ...]: ...
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
        layout: Literal["elements", "coupled", "rows", "examples"] = "elements",
        axis: int = -1,
        other_kernel: Any = None,
        third_default: float = 1.0,
        inputs: tuple[str, ...] = ("pred", "label", "sample_weight"),
        required: int = 2,
        fixed: tuple[str, ...] = (),
        no_hessian: str | None = None,
        domains: Mapping[str, Domain] = ...,
    ) -> None: ...
    def validate(
        self, label: ArrayLike | None = None, pred: ArrayLike | None = None, **inputs: ArrayLike | None
    ) -> None: ...
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
        **named: ArrayLike | None,
    ) -> tuple[Result, Result]: ...
    def value_grad_and_hess(
        self,
        *inputs: ArrayLike | None,
        head_grad: ArrayLike | None = None,
        out: Out = None,
        **named: ArrayLike | None,
    ) -> tuple[Result, Result, Result]: ...

class SoftmaxLoss(Loss):
    def __init__(
        self,
        weight: float | None,
        batch_axis: int,
        reduction: str,
        *,
        axis: int,
        sparse_label: bool,
        from_logits: bool,
        ignore_index: int | None,
        label_smoothing: float,
        class_weight: Sequence[float] | NDArray[Any] | None,
        domains: Mapping[str, Domain],
    ) -> None: ...

class CosineLoss(Loss):
    def __init__(
        self,
        kernel: Any,
        weight: float | None,
        batch_axis: int,
        reduction: str,
        *,
        axis: int,
        domains: Mapping[str, Domain],
    ) -> None: ...

class PairLoss(Loss):
    def __init__(
        self, weight: float | None, batch_axis: int, reduction: str, *, smoothing_parameter: float
    ) -> None: ...

class SequenceLoss(Loss):
    def __init__(
        self,
        weight: float | None,
        reduction: str,
        *,
        layout: str,
        label_layout: str,
        blank: int,
        zero_infinity: bool,
        domains: Mapping[str, Domain],
    ) -> None: ...

def number(name: str, x: float, above: float | None = None, below: float | None = None) -> float: ...
def flag(name: str, x: Literal[True, False] | Any) -> bool: ...
def integer(name: str, x: int, largest: int = ...) -> int: ...
