"""PyTorch's own samples of its losses, given to the same losses here: values, and derivatives of every kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
pytest.importorskip("expecttest", reason='PyTorch\'s samples need expecttest: pip install -e ".[frameworks]"')

pytestmark = [
    # of PyTorch itself
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402

import fastloss.torch as modules  # noqa: E402

# of each of PyTorch's functions, evenly among its samples
SAMPLES = 8
SQUARES = "TripletLoss squares the distances"
# PyTorch's losses whose samples are not used
EXCLUDED = {
    "linear_cross_entropy": "LinearLoss, which is no loss of logits, has tests of its own",
    "multilabel_margin_loss": "fastloss has no such loss",
    "triplet_margin_loss": SQUARES,
    "triplet_margin_with_distance_loss": SQUARES,
}
# samples that are not used, by the reason
LEFT_OUT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "HuberLoss needs rho above 0": lambda a: a.get("beta") == 0,
    "a mean of no weight is 0 here, and NaN in PyTorch": lambda a: is_id(a) and not counts(a),
    "labels of two classes are -1 and 1": lambda a: "margin" in a and has_labels_beyond(a, -1, 1),
    "rows have an axis of classes": lambda a: "p" in a and a["input"].ndim == 0,
}


@dataclass(frozen=True)
class Sample:
    """One of PyTorch's samples as a call of a module here: the value that it must have, and the inputs."""

    want: Any
    module: Any
    inputs: tuple[Any, ...]


def has_labels_beyond(a: dict[str, Any], *known: float) -> bool:
    target = a["target"]
    return bool(target.is_floating_point() and not torch.isin(target, torch.tensor(known, dtype=target.dtype)).all())


def is_id(a: dict[str, Any]) -> bool:
    return "ignore_index" in a and not a["target"].is_floating_point()


def counts(a: dict[str, Any]) -> bool:
    return bool((a["target"] != a["ignore_index"]).any())


def plain(name: str, **parameters: Any) -> Callable[[dict[str, Any]], Any]:
    """A loss of the input and the target; parameters that are functions are of PyTorch's arguments."""

    def make(a: dict[str, Any]) -> Any:
        own = {key: f(a) if callable(f) else f for key, f in parameters.items()}
        return getattr(modules, name)(**{"reduction": a["reduction"]} | own), (a["input"], a["target"])

    return make


def binary(**parameters: Any) -> Callable[[dict[str, Any]], Any]:
    def make(a: dict[str, Any]) -> Any:
        weight = None if a["weight"] is None else a["weight"].expand(a["input"].shape)
        loss = modules.SigmoidBCELoss(reduction=a["reduction"], **parameters)
        return loss, (a["input"], a["target"], weight, a.get("pos_weight"))

    return make


def of_classes(**parameters: Any) -> Callable[[dict[str, Any]], Any]:
    def make(a: dict[str, Any]) -> Any:
        has_ids = not a["target"].is_floating_point()
        reduction = "weighted_mean" if a["reduction"] == "mean" and has_ids else a["reduction"]
        loss = modules.SoftmaxCELoss(
            axis=min(a["input"].ndim - 1, 1),
            sparse_label=has_ids,
            ignore_index=a["ignore_index"] if has_ids else None,
            label_smoothing=a.get("label_smoothing", 0),
            class_weight=a["weight"],
            reduction=reduction,
            **parameters,
        )
        return loss, (a["input"], a["target"])

    return make


def kl_div(a: dict[str, Any]) -> Any:
    label = a["target"].double().exp() if a["log_target"] else a["target"]
    weight = label[0].numel() if a["reduction"] == "batchmean" else None
    return modules.KLDivLoss(weight=weight, reduction=a["reduction"].removeprefix("batch")), (
        a["input"],
        label.detach(),
    )


def gaussian(a: dict[str, Any]) -> Any:
    pred, variance = a["input"], a["var"]
    loss = modules.GaussianNLLLoss(scale="variance", compute_full=a["full"], eps=a["eps"], reduction=a["reduction"])
    return loss, (
        pred,
        a["target"].expand(pred.shape),
        variance[..., None] if 0 < variance.ndim < pred.ndim else variance,
    )


def poisson(a: dict[str, Any]) -> Any:
    loss = modules.PoissonNLLLoss(from_logits=a["log_input"], compute_full=a["full"], reduction=a["reduction"])
    return loss, (a["input"], a["target"], None, a["eps"])


def ctc(a: dict[str, Any]) -> Any:
    lengths = [torch.as_tensor(a[name]) for name in ("input_lengths", "target_lengths")]
    loss = modules.CTCLoss(layout="TNC", blank=a["blank"], zero_infinity=a["zero_infinity"], reduction=a["reduction"])
    weight = 1 / lengths[1].double() if a["reduction"] == "mean" else None
    return loss, (a["log_probs"], a["targets"], *lengths, weight)


MADE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "l1_loss": plain("L1Loss"),
    "mse_loss": plain("L2Loss", weight=2),
    "smooth_l1_loss": plain("HuberLoss", rho=lambda a: a["beta"]),
    "huber_loss": plain("HuberLoss", rho=lambda a: a["delta"], weight=lambda a: a["delta"]),
    "soft_margin_loss": plain("LogisticLoss"),
    "hinge_embedding_loss": plain("HingeEmbeddingLoss", margin=lambda a: a["margin"]),
    "poisson_nll_loss": poisson,
    "multi_margin_loss": plain(
        "MultiMarginLoss", p=lambda a: a["p"], margin=lambda a: a["margin"], class_weight=lambda a: a["weight"]
    ),
    "binary_cross_entropy_with_logits": binary(),
    "binary_cross_entropy": binary(from_sigmoid=True),
    "multilabel_soft_margin_loss": binary(),
    "cross_entropy": of_classes(),
    "nll_loss": of_classes(from_logits=True),
    "kl_div": kl_div,
    "gaussian_nll_loss": gaussian,
    "margin_ranking_loss": lambda a: (
        modules.HingeLoss(margin=a["margin"], reduction=a["reduction"]),
        (a["input1"] - a["input2"], a["target"]),
    ),
    "cosine_embedding_loss": lambda a: (
        modules.CosineEmbeddingLoss(margin=a["margin"], reduction=a["reduction"]),
        (a["input1"], a["input2"], a["target"]),
    ),
    "ctc_loss": ctc,
}
OPS = {op.name.removeprefix("nn.functional."): op for op in op_db if op.name.startswith("nn.functional.")}


def samples(name: str, dtype: Any = torch.float64) -> list[Sample]:
    function = getattr(torch.nn.functional, name)
    found = []
    torch.manual_seed(0)
    every = list(OPS[name].sample_inputs("cpu", torch.float64, requires_grad=False))
    for sample in every[:: max(1, len(every) // SAMPLES)]:
        args = [x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in sample.args]
        bound = inspect.signature(function).bind(sample.input.to(dtype), *args, **sample.kwargs)
        bound.apply_defaults()
        if name in ("soft_margin_loss", "margin_ranking_loss"):
            # of two classes
            bound.arguments["target"] = bound.arguments["target"].sign()
        if not any(is_left_out(bound.arguments) for is_left_out in LEFT_OUT.values()):
            module, inputs = MADE[name](bound.arguments)
            want = function(
                *[x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in bound.args]
            )
            found.append(Sample(want, module, inputs))
    return found


def call(sample: Sample) -> tuple[Callable[..., Any], Any]:
    """A function of the first input alone, and this."""
    return lambda x: sample.module(x, *sample.inputs[1:]), sample.inputs[0].detach().requires_grad_()


@pytest.mark.parametrize("name", MADE)
def test_values(name: str) -> None:
    for sample in samples(name):
        f, x = call(sample)
        torch.testing.assert_close(f(x).reshape(sample.want.shape), sample.want, rtol=1e-9, atol=1e-11)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for sample in samples(name, dtype):
            value = sample.module(*sample.inputs).reshape(sample.want.shape)
            torch.testing.assert_close(value.to(dtype), sample.want.to(dtype))


@pytest.mark.parametrize("name", MADE)
def test_derivatives(name: str) -> None:
    """Reverse and forward mode, second derivatives, and all of them for a batch of vectors."""
    for sample in samples(name):
        f, x = call(sample)
        loss = sample.module.loss
        is_pushed = loss.is_separable(x.ndim)
        forward = {"check_forward_ad": is_pushed, "check_batched_forward_grad": is_pushed}
        # the first backward pass scales the gradient of the forward pass, and others compute their own
        assert gradcheck(f, x, fast_mode=True, check_batched_grad=True, nondet_tol=1e-14, **forward)
        if loss.no_product is None:
            assert gradgradcheck(f, x, fast_mode=True, check_batched_grad=True, nondet_tol=1e-14)


@pytest.mark.parametrize("name", MADE)
def test_vmap(name: str) -> None:
    for sample in samples(name):
        f, x = call(sample)
        batch = torch.stack([x.detach(), x.detach() * 0.5])
        torch.testing.assert_close(torch.vmap(f)(batch), torch.stack([f(row) for row in batch]))


def test_no_loss_of_pytorch_is_forgotten() -> None:
    known = {name for name in OPS if name.endswith(("loss", "cross_entropy", "kl_div", "cross_entropy_with_logits"))}
    assert known == {*MADE, *EXCLUDED}
