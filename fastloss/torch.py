"""The losses as PyTorch modules: ``fastloss.torch.L2Loss(reduction="mean")`` in place of ``torch.nn.MSELoss()``.

A module has the name and the arguments of a loss, and is called like it with tensors. The losses themselves take
tensors, too; modules are for ``nn.Sequential`` and for the printout of a model. The loss's arguments are attributes of
the module. Class weights are a buffer, ``weight``, as in ``nn.CrossEntropyLoss``.

>>> import torch
>>> import fastloss.torch
>>> loss = fastloss.torch.HuberLoss(rho=1, reduction="mean")
>>> pred = torch.tensor([0.5, 3.0], requires_grad=True)
>>> loss(pred, torch.zeros(2)).backward()
>>> pred.grad
tensor([0.2500, 0.5000])
"""

import inspect
import reprlib
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from fastloss import linear, losses
from fastloss._chunks import CHUNK_BYTES

# Registers the operators, which saved programs need.
from fastloss.backends import torch as backend
from fastloss.backends import torch_operators

LOSSES = [name for name in losses.__all__ if name != "Loss"]
__all__ = [*LOSSES, "LinearLoss"]


class LossModule(torch.nn.Module):
    """The base of the modules. Each module holds one loss."""

    kind: ClassVar[type[losses.Loss]]

    def __init_subclass__(cls) -> None:
        if "kind" not in cls.__dict__:
            return
        cls.__doc__ = f"The module of :class:`fastloss.{cls.kind.__name__}`, built and called like it."
        signature = inspect.signature(cls.kind)
        cls.__signature__ = signature  # type: ignore[attr-defined]
        for name in signature.parameters:
            setattr(cls, name, argument(name))

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__()
        self._hold(built(self.kind, args, named), named.get("class_weight"))

    def _hold(self, loss: losses.Loss, like: Any) -> None:
        """Keep a loss, and its class weights separately, as a tensor of another tensor's dtype."""
        arguments = dict(loss.arguments)
        weights = arguments.get("class_weight")
        self._buffers.pop("weight", None)
        if weights is not None:
            loss = built(type(loss), (), arguments | {"class_weight": None})
            dtype = like.dtype if isinstance(like, Tensor) and like.is_floating_point() else torch.float64
            # The class has an attribute of that name, which would prevent registration.
            self._buffers["weight"] = torch.tensor(weights, dtype=dtype)
        self._unweighted = loss
        # the weights in the buffer, and the loss with them
        self._weighted: tuple[Tensor, losses.Loss] | None = None

    @property
    def loss(self) -> losses.Loss:
        """The loss, with the weights that the buffer holds now."""
        weight = self._buffers.get("weight")
        if weight is None:
            return self._unweighted
        known = self._weighted
        if known is None or not torch.equal(known[0], weight):
            arguments = dict(self._unweighted.arguments) | {"class_weight": weight.tolist()}
            self._weighted = known = weight.detach().clone(), type(self._unweighted)(**arguments)
        return known[1]

    def _evaluate(self, *inputs: Any, out: Any = None) -> Any:
        weight = self._buffers.get("weight")
        named = {} if out is None else {"out": out}
        if weight is None:
            return self._unweighted(*inputs, **named)
        if is_plain(weight, *inputs):
            return self.loss(*inputs, **named)
        return torch_operators.perform(self._unweighted, "__call__", inputs, named, weight)

    def lse(self, pred: Any, out: Any = None) -> Any:
        """The logarithm of what the softmax divides by, as of the loss: class weights do not matter."""
        return self._unweighted.lse(pred, out)

    def extra_repr(self) -> str:
        arguments = dict(self._unweighted.arguments)
        weight = self._buffers.get("weight")
        if weight is not None:
            arguments["class_weight"] = tuple(weight.tolist()) if is_plain(weight) else weight.device
        return ", ".join([f"{name}={reprlib.repr(x)}" for name, x in arguments.items()])

    def __prepare_scriptable__(self) -> Any:
        raise TypeError(
            f"torch.jit.script does not take {type(self).__name__}: use torch.jit.trace, torch.compile or torch.export"
        )


class Built:
    """Losses that compiled functions build, as attributes: the compiler looks up each anew, and guards it."""


BUILT = Built()


def built(kind: type[losses.Loss], args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    if torch.compiler.is_compiling():
        return getattr(BUILT, build(kind, args, tuple(named.items())))
    return kind(*args, **named)


@torch.compiler.assume_constant_result
def build(kind: type[losses.Loss], args: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> str:
    """The name of a loss of constants, built while PyTorch's compiler traces: it does not trace constructors in C."""
    loss = kind(*args, **dict(named))
    name = f"loss_{loss.expression.encode().hex()}"
    setattr(BUILT, name, loss)
    return name


def is_plain(*inputs: Any) -> bool:
    """Whether all tensors among the inputs hold numbers, and nothing traces operations on them."""
    if torch.compiler.is_compiling() or torch_operators.is_traced():
        return False
    return not any(isinstance(x, backend.ARRAYS) and (type(x) not in backend.PLAIN or x.is_meta) for x in inputs)


def argument(name: str) -> property:
    """An attribute for an argument of the loss. Setting it builds the loss anew."""

    def get(module: LossModule) -> Any:
        weight = module._buffers.get("weight")
        if weight is None or name not in ("weight", "class_weight"):
            return dict(module._unweighted.arguments)[name]
        return weight if name == "weight" else module.loss.class_weight  # type: ignore[attr-defined]

    def set_anew(module: LossModule, value: Any) -> None:
        like = value if name == "class_weight" else module._buffers.get("weight")
        module._hold(module.kind(**dict(module.loss.arguments) | {name: value}), like)

    return property(get, set_anew)


def forward_of(loss: losses.Loss) -> Any:
    """The forward method of a module, with the inputs of its loss by position or name.

    Tracers read the names of arguments in the code, so the method is generated, as dataclasses generate constructors.
    """
    inputs = [f"{name}: Any" if k < loss.required else f"{name}: Any = None" for k, name in enumerate(loss.inputs)]
    head = f"def forward(self, {', '.join(inputs)}, *, out: Any = None) -> Tensor:"
    made: dict[str, Any] = {}
    exec(f"{head}\n    return self._evaluate({', '.join(loss.inputs)}, out=out)", globals(), made)
    made["forward"].__qualname__ = f"{type(loss).__name__}.forward"
    return made["forward"]


def module_classes() -> dict[str, type[LossModule]]:
    """The class of each loss, by its name and by its other names."""
    made = {
        kind: type(kind.__name__, (LossModule,), {"kind": kind, "forward": forward_of(kind())})
        for kind in {getattr(losses, name) for name in LOSSES}
    }
    return {name: made[getattr(losses, name)] for name in LOSSES}


globals().update(module_classes())


class LinearLoss(torch.nn.Module):
    """The module of :class:`fastloss.LinearLoss`: a loss, or a module of one, of predictions that a call makes.

    Weights are given in the call, for they belong to a layer: ``loss(features, layer.weight, label, bias=layer.bias)``.
    The gradients in features, weight and bias are computed together with a value that is one number; for any other
    reduction the backward pass computes them.

    >>> import torch
    >>> import fastloss.torch
    >>> layer = torch.nn.Linear(8, 100)
    >>> loss = fastloss.torch.LinearLoss(fastloss.torch.SoftmaxCELoss(reduction="mean"))
    >>> loss(torch.zeros(5, 8), layer.weight, torch.arange(5), bias=layer.bias).backward()
    >>> layer.weight.grad.shape
    torch.Size([100, 8])
    """

    def __init__(self, loss: Any, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        super().__init__()
        self.loss = loss
        self.chunk_bytes = chunk_bytes
        # checks both
        linear.LinearLoss(self._own_loss(), chunk_bytes=chunk_bytes)

    def _own_loss(self) -> Any:
        return self.loss.loss if isinstance(self.loss, LossModule) else self.loss

    def forward(
        self, X: Any, weight: Any, label: Any, sample_weight: Any = None, bias: Any = None, **inputs: Any
    ) -> Tensor:
        held = linear.LinearLoss(self._own_loss(), chunk_bytes=self.chunk_bytes)
        return held(X, weight, label, sample_weight, bias, **inputs)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        own = "" if isinstance(self.loss, LossModule) else f"{self.loss!r}, "
        return f"{own}chunk_bytes={self.chunk_bytes}"


if TYPE_CHECKING:
    # A type checker does not see the classes that the loop makes.
    def __getattr__(name: str) -> Any: ...
