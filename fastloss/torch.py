"""The losses as PyTorch modules: ``fastloss.torch.L2Loss(reduction="mean")`` in place of ``torch.nn.MSELoss()``.

A module is built with the arguments of the loss of its name and called with tensors in its place. The losses themselves
take tensors, too; a module is what belongs into an ``nn.Sequential`` or is listed when a model is printed. The loss's
arguments are attributes of the module. Weights of classes are a buffer, ``weight``, as in ``nn.CrossEntropyLoss``.

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

from fastloss import losses

# the operators, which programs that were saved need
from fastloss.backends import torch as backend
from fastloss.backends import torch_operators

__all__ = [name for name in losses.__all__ if name != "Loss"]


class LossModule(torch.nn.Module):
    """The base of the modules, each of which holds one loss."""

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
        self._hold(self.kind(*args, **named), named.get("class_weight"))

    def _hold(self, loss: losses.Loss, like: Any) -> None:
        """Keep a loss, and its weights of classes apart from it, as a tensor of the dtype of another."""
        arguments = dict(loss.arguments)
        weights = arguments.get("class_weight")
        self._buffers.pop("weight", None)
        if weights is not None:
            loss = type(loss)(**arguments | {"class_weight": None})
            dtype = like.dtype if isinstance(like, Tensor) and like.is_floating_point() else torch.float64
            # the class has an attribute of that name, beside which none is registered
            self._buffers["weight"] = torch.tensor(weights, dtype=dtype)
        self._unweighted = loss
        # weights of the buffer's, and the loss with them
        self._weighted: tuple[Tensor, losses.Loss] | None = None

    @property
    def loss(self) -> losses.Loss:
        """The loss, with the weights that are now in the buffer."""
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


def is_plain(*inputs: Any) -> bool:
    """Whether the numbers of all tensors among the inputs can be looked at, and nothing traces what is done to them."""
    if torch.compiler.is_compiling() or torch_operators.is_traced():
        return False
    return not any(isinstance(x, backend.ARRAYS) and (type(x) not in backend.PLAIN or x.is_meta) for x in inputs)


def argument(name: str) -> property:
    """An attribute for an argument of the loss, which is built anew if it is set."""

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
    """The method of a module that is called: with the inputs of its loss, by position or name.

    Tracers read the names of a call in its code, so that it is written, as a dataclass writes its constructor.
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
        for kind in {getattr(losses, name) for name in __all__}
    }
    return {name: made[getattr(losses, name)] for name in __all__}


globals().update(module_classes())

if TYPE_CHECKING:
    # a type checker does not see what the loops have made
    def __getattr__(name: str) -> Any: ...
