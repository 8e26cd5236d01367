"""The library that the arrays of a call belong to. An array of a library means that it is imported already."""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

if TYPE_CHECKING:
    from fastloss._core import Loss
    from fastloss.linear import LinearLoss

# by the package of an array's type, or of one of its bases
BACKENDS = {"torch": "torch", "jax": "jax", "jaxlib": "jax", "autograd": "autograd", "dask": "dask"}


class Backend(Protocol):
    """What a module of this package offers."""

    ARRAYS: tuple[type, ...]

    def evaluate(self, loss: Loss, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Call a method of a loss with at least one array of the library."""

    def as_numpy(self, name: str, x: Any) -> Any:
        """Return one of its arrays as NumPy's."""

    def evaluate_linear(self, linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any]) -> Any:
        """Call a method of the loss of a linear predictor with at least one array of the library."""


@functools.lru_cache(maxsize=1024)
def backend_of(kind: type) -> Backend | None:
    """The module that takes arrays of a type; None for objects that NumPy converts."""
    for base in kind.__mro__:
        # a class may be without a module
        name = BACKENDS.get(str(base.__module__).partition(".")[0])
        if name is not None:
            backend = cast(Backend, importlib.import_module(f"fastloss.backends.{name}"))
            return backend if issubclass(kind, backend.ARRAYS) else None
    return None


def bind(loss: Loss, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inputs that are given, by name and in the order of the call, and the other arguments."""
    if len(inputs) > len(loss.inputs):
        raise TypeError(
            f"{type(loss).__name__} takes at most {len(loss.inputs)} inputs ({', '.join(loss.inputs)}), "
            f"got {len(inputs)}"
        )
    given = dict(zip(loss.inputs, inputs, strict=False))
    options = {name: x for name, x in named.items() if name not in loss.inputs}
    for name in loss.inputs:
        if name in named:
            if name in given:
                raise TypeError(f"{type(loss).__name__} got {name} twice, by position and by name")
            given[name] = named[name]
    *others, last = loss.inputs[: loss.required]
    if any(given.get(name) is None for name in (*others, last)):
        raise TypeError(f"{type(loss).__name__} needs {', '.join(others)} and {last}")
    return {name: given[name] for name in loss.inputs if given.get(name) is not None}, options


def spelled(method: str, options: dict[str, Any]) -> str:
    """A method and the kind of its Hessian as one text, for calls made later."""
    kind = options.pop("hessian", "exact")
    return method if kind == "exact" else f"{method}:{kind}"


def make(loss: Loss, call: str, **arguments: Any) -> Any:
    """Makes a call from the text of spelled()."""
    method, _, kind = call.partition(":")
    return getattr(loss, method)(**arguments, **({"hessian": kind} if kind else {}))


def compose(linear: LinearLoss, method: str, given: dict[str, Any], options: dict[str, Any], library: str) -> Any:
    """The loss of a linear predictor by operations of a library, which differentiates them: predictions are stored."""
    if method != "__call__" or options.get("out") is not None:
        raise TypeError(
            f"{method} of LinearLoss takes no arrays of {library}, nor does out=; differentiate the call itself with "
            f"{library}, or give NumPy's arrays"
        )
    X, weight = (np.asarray(x) if isinstance(x, (list, tuple)) else x for x in (given["X"], given["weight"]))
    pred = X @ weight.T
    pred = pred if given["bias"] is None else pred + given["bias"]
    return linear.loss(pred, **{name: x for name, x in given.items() if name not in ("X", "weight", "bias")})


def check_own(loss: Loss) -> None:
    """Refuses a user's subclasses where losses are built anew: their constructors are unknown."""
    if not type(loss).__module__.startswith("fastloss.losses."):
        raise TypeError(
            f"a compiled or lazy call takes only fastloss's own losses, no subclass, got {type(loss).__name__}"
        )


@functools.lru_cache(maxsize=1024)
def loss_of(expression: str) -> Loss:
    """The loss that an expression builds; compiled programs hold losses as expressions."""
    losses = importlib.import_module("fastloss.losses")
    match ast.parse(expression, mode="eval").body:
        case ast.Call(func=ast.Name(id=name), args=[], keywords=keywords) if name in losses.KNOWN:
            arguments = {x.arg: ast.literal_eval(x.value) for x in keywords if x.arg}
            return cast("Loss", getattr(losses, name)(**arguments))
    raise ValueError(f"an expression must build a loss of fastloss from literals, got {expression!r}")


def along(loss: Loss, head: Any, pred: Any) -> Any:
    """What flows back into the value, laid along the first input."""
    axes = loss.value_axes(pred.ndim)
    return head.reshape([n if k in axes else 1 for k, n in enumerate(pred.shape)]) if axes else head


def is_ready(loss: Loss, wrt: Sequence[int], ndim: int) -> bool:
    """Whether the gradients for heads of 1, from the forward pass, give the gradients for any head.

    wrt are positions in the call, ndim is of the first input.
    """
    return loss.value_axes(ndim) == () or (len(wrt) == 1 and wrt[0] == 0 and loss.is_separable(ndim))


def check_differentiable(loss: Loss, names: Sequence[str]) -> None:
    for name in names:
        if name not in loss.differentiable:
            raise ValueError(
                f"{name} is not differentiable: {type(loss).__name__} has gradients only in "
                f"{', '.join(loss.differentiable)}"
            )


def targets_of(loss: Loss, method: str, wrt: Any, given: Mapping[str, Any]) -> tuple[str, ...]:
    """The inputs that wrt names, checked: all are given, and the method can differentiate in them."""
    names = wrt if isinstance(wrt, tuple) else (loss.inputs[0] if wrt is None else wrt,)
    for name in names:
        if name not in loss.inputs:
            known = ", ".join(map(repr, loss.inputs))
            raise ValueError(f"wrt must name inputs of {type(loss).__name__}, {known}, got {name!r}")
        if name not in loss.differentiable:
            raise ValueError(f"wrt={name!r}: {name} is not differentiable")
        if name not in given:
            raise ValueError(f"wrt={name!r}, but the call has no {name}")
        if method.endswith("hess") and name not in loss.twice_differentiable:
            raise ValueError(
                f"wrt={name!r}: {type(loss).__name__} has no Hessian in {name}, only in "
                f"{' and '.join(loss.twice_differentiable)}; grad and value_and_grad give the gradient alone"
            )
    if len(set(names)) != len(names) or not names:
        raise ValueError(f"wrt must name one or more different inputs, got {wrt!r}")
    return names


def is_total(loss: Loss) -> bool:
    """Whether the value is a number for all examples: a sum, which keeps more digits than halves have."""
    return dict(loss.arguments)["reduction"] not in ("example", "none")


def check_second_derivatives(loss: Loss, wrt: Sequence[int], wanted: Sequence[int]) -> None:
    """Refuses to differentiate the gradients in some inputs, by position, with respect to others."""
    if list(wrt) != [0] or list(wanted) != [0]:
        names = ", ".join([loss.inputs[k] for k in sorted({*wrt, *wanted})])
        raise NotImplementedError(
            f"fastloss has no second derivatives of {type(loss).__name__} in {names}: only in the first input"
        )
    loss.check_product()


class _TorchCompilerFinder:
    """Imports our part for PyTorch behind PyTorch's compiler.

    The compiler traces calls without making them: no code of fastloss would run, and the compiler cannot trace a loss's
    C.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != "torch._dynamo":
            return None
        # Not by importlib.util.find_spec, which asks this finder, too. Whoever asks need not import.
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                sys.meta_path.remove(self)
                _teach_torch_compiler()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _teach_torch_compiler() -> None:
    importlib.import_module("fastloss.backends.torch_operators").teach_compiler()


def follow_torch_compiler() -> None:
    """Makes losses known to torch.compile, now or when it is imported."""
    if "torch._dynamo" in sys.modules:
        _teach_torch_compiler()
    else:
        sys.meta_path.insert(0, _TorchCompilerFinder())
