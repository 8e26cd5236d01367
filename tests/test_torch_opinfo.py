"""PyTorch's own samples of its losses, as functions and as modules, given to the same losses here.

Values, and derivatives: of the functions of every kind, of the modules the gradients in all inputs.
"""

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
    pytest.mark.filterwarnings("ignore:linear_cross_entropy. ``options`` ignored:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]

from torch.autograd import gradcheck, gradgradcheck  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch.testing._internal.common_modules import module_db  # noqa: E402

import fastloss.torch as modules  # noqa: E402

# of each of PyTorch's functions and modules, evenly among its samples
SAMPLES = 8
MODULE_SAMPLES = 16
SQUARES = "TripletLoss squares the distances"
# PyTorch's losses whose samples are not used
EXCLUDED = {
    "multilabel_margin_loss": "fastloss has no such loss",
    "triplet_margin_loss": SQUARES,
    "triplet_margin_with_distance_loss": SQUARES,
}
# PyTorch's modules whose samples are not used: it has none of those of triplets
EXCLUDED_MODULES = {"MultiLabelMarginLoss": EXCLUDED["multilabel_margin_loss"]}
# gradients that are not compared
NO_GRADIENTS = {("CTCLoss", torch.bfloat16): "PyTorch's formula is that of rows whose probabilities add up to 1"}
# samples that are not used, by the reason
LEFT_OUT: dict[str, Callable[[dict[str, Any]], bool]] = {
    "HuberLoss needs rho above 0": lambda a: a.get("beta") == 0,
    "a mean of no weight is 0 here, and NaN in PyTorch": lambda a: is_id(a) and not counts(a),
    "labels of two classes are -1 and 1": lambda a: "margin" in a and has_labels_beyond(a, -1, 1),
    "LinearLoss takes rows": lambda a: "linear_weight" in a and (a["input"].ndim, a["linear_weight"].ndim) != (2, 2),
    "rows have an axis of classes": lambda a: "p" in a and a["input"].ndim == 0,
}


@dataclass(frozen=True)
class Sample:
    """One of PyTorch's samples as a call of a module here: the value that it must have, and the inputs.

    leaves are the tensors that require gradients, here and, in float64, in PyTorch's call.
    """

    want: Any
    module: Any
    inputs: tuple[Any, ...]
    leaves: list[tuple[Any, Any]]


def has_labels_beyond(a: dict[str, Any], *known: float) -> bool:
    target = a["target"]
    return bool(target.is_floating_point() and not torch.isin(target, torch.tensor(known, dtype=target.dtype)).all())


def is_id(a: dict[str, Any]) -> bool:
    return "ignore_index" in a and not a["target"].is_floating_point()


def counts(a: dict[str, Any]) -> bool:
    return a["ignore_index"] is None or bool((a["target"] != a["ignore_index"]).any())


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


def of_labels(a: dict[str, Any]) -> Any:
    """Of an example the mean, also where examples are summed."""
    weight = 1 / a["input"].shape[-1] if a["reduction"] == "sum" else None
    return binary(weight=weight)(a | {"reduction": a["reduction"].replace("none", "example")})


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
    weight = label.shape[1:].numel() if a["reduction"] == "batchmean" else None
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


def linear(a: dict[str, Any]) -> Any:
    loss, (X, label) = of_classes()(a | {"ignore_index": -100 if a["ignore_index"] is None else a["ignore_index"]})
    return modules.LinearLoss(loss), (X, a["linear_weight"], label, None, a["linear_bias"])


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
    "multilabel_soft_margin_loss": of_labels,
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
    "linear_cross_entropy": linear,
}
OPS = {op.name.removeprefix("nn.functional."): op for op in op_db if op.name.startswith("nn.functional.")}


MODULES = {
    info.module_cls.__name__: info
    for info in module_db
    if info.module_cls.__name__.endswith("Loss") and info.module_cls.__name__ not in EXCLUDED_MODULES
}


def is_floating(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.is_floating_point()


def cast(x: Any, dtype: Any) -> Any:
    """A leaf of another dtype; what is not of floats as it is."""
    return x.detach().to(dtype).requires_grad_(x.requires_grad) if is_floating(x) else x


def made(name: str, args: Any, named: dict[str, Any], dtype: Any) -> Sample | None:
    """A call of one of PyTorch's functions, its numbers rounded to a dtype; None: it is left out."""
    function = getattr(torch.nn.functional, name)
    bound = inspect.signature(function).bind(*args, **named)
    bound.apply_defaults()
    own = {key: cast(x, dtype) for key, x in bound.arguments.items()}
    if name in ("soft_margin_loss", "margin_ranking_loss"):
        # of two classes
        own["target"] = own["target"].sign()
    if name == "kl_div":
        # of probabilities
        own["input"] = own["input"].detach().nan_to_num(-1).requires_grad_(own["input"].requires_grad)
        own["target"] = own["target"].detach().nan_to_num(-1)
        own["target"] = own["target"] if own["log_target"] else own["target"].abs()
    if any(is_left_out(own) for is_left_out in LEFT_OUT.values()):
        return None
    theirs = {key: cast(x, torch.float64) for key, x in own.items()}
    leaves = [(x, theirs[key]) for key, x in own.items() if is_floating(x) and x.requires_grad]
    bound.arguments.update(theirs)
    return Sample(function(*bound.args, **bound.kwargs), *MADE[name](own), leaves)


def samples(name: str, dtype: Any = torch.float64) -> list[Sample]:
    torch.manual_seed(0)
    every = list(OPS[name].sample_inputs("cpu", torch.float64, requires_grad=False))
    calls = [((x.input, *x.args), x.kwargs) for x in every[:: max(1, len(every) // SAMPLES)]]
    return [x for args, named in calls if (x := made(name, args, named, dtype)) is not None]


class Calls(TorchFunctionMode):  # type: ignore[misc]
    """Keeps the calls of PyTorch's losses that its modules make."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.__name__ in MADE:
            self.found.append((function.__name__, args, kwargs or {}))
        return function(*args, **kwargs or {})


def module_samples(name: str, dtype: Any) -> list[Sample]:
    torch.manual_seed(0)
    info = MODULES[name]
    every = info.module_inputs_func(info, device="cpu", dtype=torch.float64, requires_grad=True, training=True)
    with Calls() as calls:
        for sample in every[:: max(1, len(every) // MODULE_SAMPLES)]:
            module = info.module_cls(*sample.constructor_input.args, **sample.constructor_input.kwargs)
            module(*sample.forward_input.args, **sample.forward_input.kwargs)
    return [x for call in calls.found if (x := made(*call, dtype)) is not None]


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


# LinearLoss has second derivatives in weight and bias alone, and tests of its own
@pytest.mark.parametrize("name", [name for name in MADE if name != "linear_cross_entropy"])
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_modules(name: str, dtype: Any) -> None:
    """Values, and gradients in all inputs that are differentiable here, for the same flow into the values."""
    every = module_samples(name, dtype)
    assert every
    for sample in every:
        value = sample.module(*sample.inputs).reshape(sample.want.shape)
        torch.testing.assert_close(value.to(dtype), sample.want.to(dtype))
        if (name, dtype) in NO_GRADIENTS:
            continue
        head = torch.rand(value.shape, dtype=torch.float64).to(value.dtype)
        own, theirs = zip(*sample.leaves, strict=True)
        found = torch.autograd.grad(value, own, head, allow_unused=True)
        wants = torch.autograd.grad(sample.want, theirs, head.double())
        assert found[0] is not None
        for gradient, want in zip(found, wants, strict=True):
            if gradient is not None:
                torch.testing.assert_close(gradient, want.to(dtype))


def test_no_loss_of_pytorch_is_forgotten() -> None:
    known = {name for name in OPS if name.endswith(("loss", "cross_entropy", "kl_div", "cross_entropy_with_logits"))}
    assert known == {*MADE, *EXCLUDED}
