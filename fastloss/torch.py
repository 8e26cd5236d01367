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
from typing import Any, ClassVar

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


class LabelModule(LossModule):
    """The base of the modules that are called with predictions and labels alone, and weights."""

    def forward(self, pred: Any, label: Any, sample_weight: Any = None, *, out: Any = None) -> Tensor:
        value: Tensor = self._evaluate(pred, label, sample_weight, out=out)
        return value


class L1Loss(LabelModule):
    kind = losses.L1Loss


class L2Loss(LabelModule):
    kind = losses.L2Loss


class HuberLoss(LabelModule):
    kind = losses.HuberLoss


class HingeLoss(LabelModule):
    kind = losses.HingeLoss


class SquaredHingeLoss(LabelModule):
    kind = losses.SquaredHingeLoss


class LogisticLoss(LabelModule):
    kind = losses.LogisticLoss


class SigmoidBinaryCrossEntropyLoss(LossModule):
    kind = losses.SigmoidBinaryCrossEntropyLoss

    def forward(
        self, pred: Any, label: Any, sample_weight: Any = None, pos_weight: Any = None, *, out: Any = None
    ) -> Tensor:
        value: Tensor = self._evaluate(pred, label, sample_weight, pos_weight, out=out)
        return value


class PoissonNLLLoss(LossModule):
    kind = losses.PoissonNLLLoss

    def forward(
        self, pred: Any, label: Any, sample_weight: Any = None, epsilon: Any = None, *, out: Any = None
    ) -> Tensor:
        value: Tensor = self._evaluate(pred, label, sample_weight, epsilon, out=out)
        return value


class KLDivLoss(LabelModule):
    kind = losses.KLDivLoss


class SoftmaxCrossEntropyLoss(LabelModule):
    kind = losses.SoftmaxCrossEntropyLoss


class TripletLoss(LossModule):
    kind = losses.TripletLoss

    def forward(self, pred: Any, positive: Any, negative: Any, sample_weight: Any = None, *, out: Any = None) -> Tensor:
        value: Tensor = self._evaluate(pred, positive, negative, sample_weight, out=out)
        return value


class CosineEmbeddingLoss(LossModule):
    kind = losses.CosineEmbeddingLoss

    def forward(self, input1: Any, input2: Any, label: Any, sample_weight: Any = None, *, out: Any = None) -> Tensor:
        value: Tensor = self._evaluate(input1, input2, label, sample_weight, out=out)
        return value


class CTCLoss(LossModule):
    kind = losses.CTCLoss

    def forward(
        self,
        pred: Any,
        label: Any,
        pred_lengths: Any = None,
        label_lengths: Any = None,
        sample_weight: Any = None,
        *,
        out: Any = None,
    ) -> Tensor:
        value: Tensor = self._evaluate(pred, label, pred_lengths, label_lengths, sample_weight, out=out)
        return value


class SDMLLoss(LossModule):
    kind = losses.SDMLLoss

    def forward(self, x1: Any, x2: Any, sample_weight: Any = None, *, out: Any = None) -> Tensor:
        value: Tensor = self._evaluate(x1, x2, sample_weight, out=out)
        return value


SigmoidBCELoss = SigmoidBinaryCrossEntropyLoss
SoftmaxCELoss = SoftmaxCrossEntropyLoss
