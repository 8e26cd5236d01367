"""PyTorch: values, gradients, second derivatives, compiled and transformed calls, modules, training."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.calls import ENTRIES, inputs_of
from tests.frameworks import CASES, DENSE, Case, every_case, every_loop, has_huge_pages
from tests.reference import LOSSES, REDUCTIONS

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.library import opcheck  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import fastloss.torch as modules  # noqa: E402
from fastloss import backends  # noqa: E402
from fastloss.backends import mapping, torch_operators  # noqa: E402


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def compiler() -> None:
    """Forgets what was compiled, of which there may be only so much for one function."""
    torch.compiler.reset()


def tensors(case: Case, targets: tuple[str, ...] | None = None) -> dict[str, Any]:
    wanted = case.targets if targets is None else targets
    return {name: torch.tensor(x, requires_grad=name in wanted) for name, x in case.inputs.items()}


def heads(value: Any) -> Any:
    return torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)


@every_case(reduction=REDUCTIONS)
def test_values_and_gradients_are_numpys(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    inputs = tensors(case)
    in_a_row = tuple(inputs) == loss.inputs[: len(inputs)]
    value = loss(*inputs.values()) if in_a_row else loss(**inputs)
    assert isinstance(value, torch.Tensor)
    assert np.array_equal(value.detach().numpy(), loss(**case.inputs))
    value.backward(torch.ones_like(value), retain_graph=True)
    for name in case.targets:
        assert np.array_equal(
            inputs[name].grad.numpy(), loss.grad(**case.inputs, wrt=case.targets)[case.targets.index(name)]
        )
    head = heads(value)
    want = loss.grad(**case.inputs, wrt=case.targets, head_grad=head.numpy())
    for _ in range(2):
        for x in inputs.values():
            x.grad = None
        value.backward(head, retain_graph=True)
        for name, gradient in zip(case.targets, want, strict=True):
            np.testing.assert_allclose(inputs[name].grad.numpy(), gradient, rtol=1e-12, atol=1e-14)


@every_case(reduction=["example", "none", "mean"])
def test_one_gradient_alone(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    for name in case.targets:
        inputs = tensors(case, (name,))
        value = loss(**inputs)
        head = heads(value)
        value.backward(head)
        want = loss.grad(**case.inputs, wrt=name, head_grad=head.numpy())
        np.testing.assert_allclose(inputs[name].grad.numpy(), want, rtol=1e-12, atol=1e-14)
        assert all(x.grad is None for other, x in inputs.items() if other != name)


@every_case(reduction=["none", "example", "weighted_mean"])
def test_gradcheck(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    names = tuple(case.inputs)
    assert gradcheck(lambda *x: loss(**dict(zip(names, x, strict=True))), tuple(tensors(case).values()))


@every_case(reduction=["none", "example", "mean"])
def test_second_derivatives_are_right_or_refused(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    inputs = tensors(case, case.targets[:1] if "pred" not in case.targets else ("pred",))
    names = tuple(inputs)

    def call(*x: Any) -> Any:
        return loss(**dict(zip(names, x, strict=True)))

    if loss.no_product is None:
        fixed = tuple(inputs.values())
        heads_too = loss.is_separable(inputs[loss.inputs[0]].ndim)
        grad_outputs = None if heads_too else torch.ones_like(call(*fixed))
        assert gradgradcheck(call, fixed, grad_outputs, fast_mode=not loss.is_elementwise)
    else:
        first = next(iter(inputs.values()))
        (gradient,) = torch.autograd.grad(call(*inputs.values()).sum(), first, create_graph=True)
        with pytest.raises(NotImplementedError, match=f"{type(loss).__name__} has no Hessian-vector product"):
            gradient.sum().backward()


# PyTorch's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@every_case(reduction=["none", "example", "mean"])
def test_forward_mode(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    first = loss.inputs[0]
    given = tensors(case, ())
    tangent = torch.cos(torch.arange(given[first].numel(), dtype=torch.float64)).reshape(given[first].shape)

    def value(x: Any) -> Any:
        return loss(**given | {first: x})

    def gradient(x: Any) -> Any:
        return torch.func.grad(lambda x: value(x).sum())(x)

    if not loss.is_separable(given[first].ndim):
        with pytest.raises(NotImplementedError, match=f"{type(loss).__name__}"):
            torch.func.jvp(value, (given[first],), (tangent,))
        return
    found, change = torch.func.jvp(value, (given[first],), (tangent,))
    torch.testing.assert_close(found, value(given[first]))
    torch.testing.assert_close(change, torch.func.jacrev(value)(given[first]).flatten(found.ndim) @ tangent.flatten())
    with torch.autograd.forward_ad.dual_level():
        dual = value(torch.autograd.forward_ad.make_dual(given[first], tangent))
        torch.testing.assert_close(torch.autograd.forward_ad.unpack_dual(dual).tangent, change)
    if loss.no_product is not None:
        with pytest.raises(NotImplementedError, match=f"{type(loss).__name__} has no Hessian-vector product"):
            torch.func.jvp(gradient, (given[first],), (tangent,))
        return
    want = loss.hvp(**given, vector=tangent, head_grad=torch.ones_like(found))
    torch.testing.assert_close(torch.func.jvp(gradient, (given[first],), (tangent,))[1], want)
    for hessian in (torch.func.hessian, jacrev_twice):
        whole = hessian(lambda x: value(x).sum())(given[first]).flatten(given[first].ndim)
        torch.testing.assert_close(whole @ tangent.flatten(), want)
    functional = torch.autograd.functional.hvp(lambda x: value(x).sum(), given[first], tangent)[1]
    torch.testing.assert_close(functional, want)


def jacrev_twice(f: Any) -> Any:
    return torch.func.jacrev(torch.func.jacrev(f))


def test_the_hessian_times_a_vector() -> None:
    """Nothing flows back through it, as through the other methods."""
    loss, x = fl.SoftmaxCELoss(), torch.arange(6.0).reshape(2, 3).requires_grad_()
    label, vector = torch.tensor([0, 2]), torch.tensor([[1.0, -1, 0], [2, 0, 0]])
    want = torch.from_numpy(loss.hvp(x.detach().numpy(), label.numpy(), vector.numpy()))
    assert torch.equal(loss.hvp(x, label, vector), want)
    out = torch.empty(2, 3)
    assert loss.hvp(x, label, vector=vector, head_grad=torch.tensor(2.0), out=out) is out
    torch.testing.assert_close(out, 2 * want)
    traced = make_fx(lambda v: loss.hvp(x, label, v, head_grad=torch.tensor(2.0)))(torch.zeros(2, 3))
    torch.testing.assert_close(traced(vector), out)
    with pytest.raises(NotImplementedError, match="SDMLLoss has no Hessian-vector product: "):
        fl.SDMLLoss().hvp(x, x, x)


def test_the_third_derivatives_are_refused() -> None:
    x = torch.arange(6.0).reshape(2, 3).requires_grad_()
    (first,) = torch.autograd.grad(fl.SoftmaxCELoss(reduction="sum")(x, torch.tensor([0, 2])), x, create_graph=True)
    (second,) = torch.autograd.grad((first**2).sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="no third derivatives of SoftmaxCrossEntropyLoss"):
        second.sum().backward()


def test_mixed_second_derivatives_are_refused() -> None:
    inputs = tensors(CASES["L2"], ("pred", "label"))
    gradients = torch.autograd.grad(fl.L2Loss(reduction="mean")(**inputs), list(inputs.values())[:2], create_graph=True)
    with pytest.raises(NotImplementedError, match="L2Loss in pred, label"):
        gradients[0].sum().backward()


@every_loop(reduction=["mean"])
def test_opcheck(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    given, inputs = torch_operators.given_tensors([tensors(case).get(name) for name in loss.inputs])
    wrt = [loss.inputs.index(name) for name in case.targets]
    head = torch.ones_like(loss(**tensors(case)).detach())
    opcheck(torch_operators.evaluate, (loss.expression, given, inputs, []))
    opcheck(torch_operators.evaluate, (loss.expression, given, inputs, wrt))
    constants = [x.detach() for x in inputs]
    opcheck(torch_operators.gradient, (loss.expression, given, constants, wrt, head))
    if loss.no_product is None:
        vector = torch.ones_like(constants[0])
        opcheck(torch_operators.product, (loss.expression, "hvp", given, constants, vector, None))
        opcheck(torch_operators.product, (loss.expression, "hvp:exact", given, constants, vector, head))


@pytest.mark.parametrize("method", ["__call__", "value_and_grad", "value_grad_and_hess"])
def test_opcheck_of_methods(method: str) -> None:
    case = CASES["BCE pos_weight"]
    loss = case.build(reduction="example")
    given, inputs = torch_operators.given_tensors([tensors(case, ()).get(name) for name in loss.inputs])
    wrt = [1, 0] if method == "value_and_grad" else [0]
    opcheck(torch_operators.results, (loss.expression, method, given, inputs, wrt, None))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["Huber", "BCE pos_weight", "softmax class_weight ignore", "SDML", "CTC"])
@pytest.mark.parametrize("reduction", ["mean", "example"])
def test_compiled_in_one_graph(name: str, reduction: str) -> None:
    case = CASES[name]
    loss = case.build(reduction=reduction)
    inputs = tensors(case)

    def double(x: dict[str, Any]) -> Any:
        return loss(**x).sum() * 2

    compiled = torch.compile(double, fullgraph=True, backend="aot_eager")
    results = [torch.autograd.grad(f(inputs), [inputs[k] for k in case.targets]) for f in (compiled, double)]
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)


@pytest.mark.usefixtures("compiler")
def test_the_compiler_sees_another_loss() -> None:
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    compiled = torch.compile(lambda loss, x: loss(x, torch.zeros(7)), fullgraph=True, backend="aot_eager")
    for rho in (1, 2.5, 2):
        loss = fl.HuberLoss(rho=rho, reduction="sum")
        assert torch.equal(compiled(loss, x), loss(x, torch.zeros(7)))


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")
def test_a_loss_built_inside_a_compiled_function() -> None:
    """It breaks the graph."""
    x = torch.linspace(-3, 3, 7, requires_grad=True)
    compiled = torch.compile(lambda x: fl.HuberLoss(rho=2, reduction="sum")(x * 2, torch.zeros(7)), backend="aot_eager")
    want = fl.HuberLoss(rho=2, reduction="sum")(x * 2, torch.zeros(7))
    assert torch.equal(compiled(x), want)
    assert torch.equal(*[torch.autograd.grad(value, x)[0] for value in (compiled(x), want)])


@pytest.mark.usefixtures("compiler")
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # by PyTorch itself
def test_inductor() -> None:
    loss = fl.SoftmaxCELoss(reduction="mean")
    x, y = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 1, 4, 3, 2, 0])

    def step(x: Any) -> Any:
        return loss(torch.tanh(x), y)

    got, want = (torch.autograd.grad(f(x), x)[0] for f in (torch.compile(step, fullgraph=True), step))
    torch.testing.assert_close(got, want)


LOOKED_FOR = "fastloss, importlib.util; importlib.util.find_spec('torch._dynamo')"


@pytest.mark.parametrize("first", ["fastloss", "torch._dynamo", LOOKED_FOR])
def test_the_compiler_knows_losses_however_imports_are_ordered(first: str) -> None:
    program = f"""
import {first}
import torch, fastloss as fl
loss = fl.L2Loss(reduction="mean")
call = torch.compile(lambda x, y: loss(x, y), fullgraph=True, backend="eager")
assert call(torch.ones(3), torch.zeros(3)) == 0.5
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("name", ["L2", "BCE", "softmax", "triplet", "SDML"])
@pytest.mark.parametrize("reduction", ["mean", "example"])
def test_transforms(name: str, reduction: str) -> None:
    case = CASES[name]
    loss = case.build(reduction=reduction)
    first, *others = tensors(case, ()).values()

    def total(x: Any) -> Any:
        return loss(x, *others[:1], **dict(zip(list(case.inputs)[2:], others[1:], strict=True))).sum()

    want = torch.autograd.grad(total(first.requires_grad_()), first)[0]
    torch.testing.assert_close(torch.func.grad(total)(first.detach()), want)
    batch = torch.stack([first.detach(), first.detach() + 1])
    torch.testing.assert_close(torch.func.vmap(total)(batch), torch.stack([total(x) for x in batch]))
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(total))(batch), torch.stack([torch.func.grad(total)(x) for x in batch])
    )


def test_hessian_by_transforms() -> None:
    loss = fl.SigmoidBCELoss(reduction="sum")
    x, y = torch.linspace(-2, 2, 5, dtype=torch.float64), torch.ones(5)
    got = torch.func.grad(lambda a: torch.func.grad(lambda b: loss(b, y))(a).sum())(x)
    np.testing.assert_allclose(got.numpy(), loss.grad_and_hess(x.numpy(), y.numpy())[1], rtol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_tensor_without_axes(reduction: str) -> None:
    x, y = (torch.tensor(number, requires_grad=True) for number in (3.0, 1.0))
    for label in (y.detach(), y):
        value = fl.L2Loss(reduction=reduction)(x, label)
        assert value == 2
        (gradient,) = torch.autograd.grad(value, x)
        assert gradient == 2
        assert gradient.shape == ()


def test_large_results_have_huge_pages() -> None:
    """NumPy, whose arrays they are, asks for them."""
    x = torch.ones(4 << 20, requires_grad=True)
    fl.L2Loss(reduction="mean")(x, torch.zeros(4 << 20)).backward()
    assert has_huge_pages(x.grad.data_ptr() + x.grad.nbytes // 2)


def test_nothing_is_recorded_without_need() -> None:
    loss, x, y = fl.L2Loss(reduction="mean"), torch.ones(3, requires_grad=True), torch.zeros(3)
    with torch.no_grad():
        assert loss(x, y).grad_fn is None
    with torch.inference_mode():
        assert loss(x, y) == 0.5
    assert loss(x.detach(), y).grad_fn is None
    assert loss(x, y).grad_fn is not None


def test_a_constant_head_is_not_told_from_a_full_one() -> None:
    loss, x, y = fl.L2Loss(), torch.randn(5, 3, requires_grad=True), torch.randn(5, 3)
    (full,) = torch.autograd.grad(loss(x, y), x, torch.full((5,), 0.3))
    (constant,) = torch.autograd.grad(loss(x, y), x, torch.tensor(0.3).expand(5))
    assert torch.equal(full, constant)
    (mean,) = torch.autograd.grad(loss(x, y).mean(), x)
    torch.testing.assert_close(mean, (x - y).detach() / 15)


def test_gradients_that_are_handed_out_are_not_touched_again() -> None:
    loss, x, y = fl.L2Loss(reduction="sum"), torch.randn(5, requires_grad=True), torch.randn(5)
    value = loss(x, y)
    (first,) = torch.autograd.grad(value, x, torch.tensor(3.0), retain_graph=True)
    kept = first.clone()
    (second,) = torch.autograd.grad(value, x, torch.tensor(2.0))
    assert torch.equal(first, kept)
    torch.testing.assert_close(second, first * 2 / 3)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, x)


def test_a_changed_input_is_noticed() -> None:
    loss, x, y = fl.L2Loss(reduction="sum"), torch.randn(5, requires_grad=True), torch.randn(5)
    value = loss(x, y)
    torch.autograd.grad(value, x, retain_graph=True)
    y += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(value, x)


def test_tensors_are_read_and_written_in_place() -> None:
    loss, x, y = fl.L2Loss(reduction="none"), torch.randn(4, 6)[:, ::2], torch.randn(3, 4).t()
    assert np.shares_memory(torch_operators.as_array("pred", x), x.numpy())
    out = torch.full((4, 3), torch.nan)
    before = out._version
    assert loss.grad(x, y, out=out) is out
    assert out._version > before
    torch.testing.assert_close(out, x - y)
    value = torch.empty(4, 3)
    results = loss.value_and_grad(x, y, out=(value, None))
    assert results[0] is value
    torch.testing.assert_close(results[1], out)
    assert torch.equal(loss(x, y, out=value), results[0])


def test_other_methods_return_tensors() -> None:
    loss, x, y = fl.SigmoidBCELoss(), torch.randn(4, 3, requires_grad=True), torch.rand(4, 3)
    arrays = x.detach().numpy(), y.numpy()
    for method in ("grad", "value_and_grad", "grad_and_hess", "value_grad_and_hess"):
        got, want = getattr(loss, method)(x, y), getattr(loss, method)(*arrays)
        for a, b in zip(
            got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,), strict=True
        ):
            assert isinstance(a, torch.Tensor)
            assert np.array_equal(a.numpy(), b)
    weight, label = loss.grad(x, y, torch.ones(4), wrt=("sample_weight", "label"), head_grad=torch.arange(4.0))
    assert (weight.shape, label.shape) == ((4,), (4, 3))


def test_arrays_and_lists_beside_tensors() -> None:
    loss, x = fl.SoftmaxCELoss(reduction="mean"), torch.randn(3, 4, requires_grad=True)
    want = loss(x, torch.tensor([0, 3, 1]))
    for label in ([0, 3, 1], np.array([0, 3, 1], np.uint8), torch.tensor([0.0, 3, 1])):
        got = loss(x, label)
        assert torch.equal(got, want)
        (gradient,) = torch.autograd.grad(got, x, retain_graph=True)
        assert torch.equal(torch.autograd.grad(got, x)[0], gradient)
    assert isinstance(loss(np.zeros((3, 4)), torch.tensor([0, 3, 1])), torch.Tensor)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64", "int64"])
def test_dtypes(dtype: str) -> None:
    loss, x = fl.HuberLoss(reduction="mean"), torch.tensor([1, 2, 4]).to(getattr(torch, dtype))
    y = torch.zeros(3, dtype=torch.int32)
    value = loss(x, y)
    assert value.dtype == (torch.float64 if dtype in ("float64", "int64") else torch.float32)
    if dtype != "int64":
        value = loss(x.requires_grad_(), y)
        value.backward()
        assert x.grad is not None
        assert x.grad.dtype == x.dtype
        torch.testing.assert_close(x.grad, torch.full((3,), 1 / 3, dtype=x.dtype))


@every_loop(reduction=["example", "mean"])
def test_bfloat16_is_rounded_once(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    first = loss.inputs[0]
    given = tensors(case, ())
    x = given[first].bfloat16().requires_grad_()
    single = case.inputs | {first: x.detach().float().numpy()}
    value = loss(**given | {first: x})
    want = torch.as_tensor(loss(**single))
    assert torch.equal(value, want.to(torch.float32 if reduction == "mean" else torch.bfloat16))
    if first not in case.targets:
        return
    for head in (1, 3, 3):
        (gradient,) = torch.autograd.grad(value, x, torch.full_like(value, head), retain_graph=True)
        assert torch.equal(gradient, torch.as_tensor(loss.grad(**single, wrt=first, head_grad=head)).bfloat16())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["example", "mean"])
def test_halves_are_mapped(dtype: Any, reduction: str) -> None:
    loss = fl.LogCoshLoss(reduction=reduction)
    x, y, weight = torch.randn(3, 4, 5).to(dtype), torch.randn(3, 4, 5).bfloat16(), torch.rand(3, 4).bfloat16()
    for f in (loss, loss.value_grad_and_hess, torch.func.grad(lambda *a: loss(*a).sum())):
        got, each = torch.func.vmap(f)(x, y, weight), [f(*inputs) for inputs in zip(x, y, weight, strict=True)]
        if isinstance(got, torch.Tensor):
            got, each = (got,), [(a,) for a in each]
        for a, *parts in zip(got, *each, strict=True):
            assert a.dtype == parts[0].dtype
            assert torch.equal(a, torch.stack(parts))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("name", ["Huber", "softmax class_weight ignore"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reduction", ["example", "mean"])
def test_halves_are_compiled(name: str, dtype: Any, reduction: str) -> None:
    loss = CASES[name].build(reduction=reduction)
    given = tensors(CASES[name], ())
    x = given.pop("pred").to(dtype).requires_grad_()
    compiled = torch.compile(lambda x: loss(x, **given), fullgraph=True, backend="aot_eager")
    for scale in (1, 3.7):
        found = [(f(x), *torch.autograd.grad(f(x).sum() * scale, x)) for f in (compiled, lambda x: loss(x, **given))]
        for got, want in zip(*found, strict=True):
            assert got.dtype == want.dtype
            assert torch.equal(got, want)


def test_under_autocast() -> None:
    model, x, label = torch.nn.Linear(4, 3), torch.randn(8, 4), torch.arange(8) % 3
    gradients = []
    for criterion in (fl.SoftmaxCELoss(reduction="mean"), torch.nn.functional.cross_entropy):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(x)
            value = criterion(logits, label)
        assert logits.dtype is torch.bfloat16
        assert value.dtype is torch.float32
        value.backward()
        gradients.append(model.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_modules_are_built_inside_of_compiled_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {
        "numbers": lambda x, y: modules.L1Loss(weight=2.0, reduction="mean")(x, y),
        "classes": lambda x, y: modules.SoftmaxCELoss(class_weight=(1.0, 2.0, 3.0), sparse_label=False)(x, y).sum(),
        "linear": lambda x, y: modules.LinearLoss(modules.HuberLoss(0.5, reduction="sum"))(x, y[0], y[:, 0]),
    }
    x, y = torch.rand(4, 3, requires_grad=True), torch.rand(4, 3)
    for function in functions.values():
        value, want = torch.compile(function, fullgraph=True, backend="aot_eager")(x, y), function(x, y)
        assert value.equal(want)
        for a, b in zip(torch.autograd.grad(value, x), torch.autograd.grad(want, x), strict=True):
            torch.testing.assert_close(a, b)
    # the compiler does not run what it traces
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert modules.L1Loss(weight=2.0).loss == fl.L1Loss(weight=2.0)


# PyTorch's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize("loss", [fl.SoftmaxCELoss(), fl.HuberLoss(reduction="none")], ids=["softmax", "Huber"])
def test_values_per_example_under_autocast(loss: fl.Loss) -> None:
    """float32, eager, compiled and transformed, and the gradient is rounded once, for what flows back."""
    x = torch.randn(5, 4).bfloat16()
    label = torch.arange(5) % 4 if loss.has_rows else torch.randn(5, 4)
    single = x.float().requires_grad_()
    want = loss(single, label)
    # of bfloat16, too, as what flows into a value of this type
    head = torch.rand_like(want).bfloat16().float()
    gradient = torch.autograd.grad(want, single, head)[0].bfloat16()
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    traced = make_fx(lambda x: torch.autograd.grad(loss(x, label), x, head)[0])(x.requires_grad_())
    assert torch.equal(traced(x), gradient)
    with torch.autocast("cpu", torch.bfloat16):
        for call in (loss, lambda *inputs: torch.vmap(loss)(*[a[None] for a in inputs])[0], compiled):
            value = call(x, label)
            assert value.dtype is torch.float32
            assert torch.equal(value, want)
            assert torch.equal(torch.autograd.grad(value, x, head)[0], gradient)
        for constant in (loss(x.detach(), label), loss(x.detach(), label, sample_weight=torch.ones(5))):
            assert torch.equal(constant, want)
        weight = torch.ones(5, requires_grad=True)
        value = loss(x, label, weight)
        assert torch.equal(value, want)
        assert torch.equal(torch.autograd.grad(value, x, head)[0], gradient)
        assert loss(single, label).dtype is torch.float32
        assert loss(single.double(), label).dtype is torch.float64


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda x: (x.to("meta"), x), r"pred must be a dense tensor on the CPU.* got torch.float32 on meta"),
        (lambda x: (x, x.to("meta")), r"label must be a dense tensor on the CPU"),
        (
            lambda x: (x.to(torch.float8_e5m2), x),
            r"pred must be a dense tensor.* got torch.float8_e5m2 on cpu.*\.float",
        ),
        (lambda x: (x.to("meta", torch.float8_e5m2), x.to("meta")), r"pred must be a tensor.* got torch.float8_e5m2"),
        (lambda x: (x.to("meta"), x.to("meta", torch.complex64)), r"label must be a tensor.* got torch.complex64"),
        (lambda x: (x.to_sparse(), x), r"pred must be a dense tensor.* torch.sparse_coo"),
        (lambda x: (x.to(torch.complex64), x), r"pred must be an array of real numbers, got dtype complex64"),
        (lambda x: (x,), r"L2Loss needs pred and label"),
        (lambda x: (x, x, x, x), r"L2Loss takes at most 3 inputs"),
    ],
)
def test_bad_tensors(make: Any, match: str) -> None:
    with pytest.raises(TypeError, match=match):
        fl.L2Loss()(*make(torch.ones(3)))


def test_bad_arguments() -> None:
    loss, x = fl.L2Loss(), torch.ones(3, requires_grad=True)
    with pytest.raises(TypeError, match="unexpected keyword argument 'head_grad'"):
        loss(x, x, head_grad=1)
    with pytest.raises(TypeError, match="pred twice"):
        loss(x, x, pred=x)
    with pytest.raises(TypeError, match="out cannot be differentiated, and pred requires a gradient"):
        loss(x, x, out=torch.empty(3))
    assert loss(x, x, out=None).requires_grad
    with pytest.raises(TypeError, match="out must be a tensor that stores its own numbers"):
        # a view of the other sign
        loss.grad(x, x, out=torch.zeros(3, dtype=torch.complex64).conj().imag)
    with pytest.raises(TypeError, match="out must not require a gradient"):
        loss.grad(x, x, out=torch.empty(3, requires_grad=True))
    with pytest.raises(
        ValueError,
        match="label is not differentiable: SoftmaxCrossEntropyLoss has gradients only in pred, sample_weight",
    ):
        fl.SoftmaxCELoss()(torch.ones(2, 3), torch.zeros(2, requires_grad=True))
    with pytest.raises(ValueError, match="label must have pred's shape"):
        loss(x, torch.ones(4))


def test_subclasses_of_tensors() -> None:
    """They may stand for anything, and go through the operator."""
    kind: Any = type("Mine", (torch.Tensor,), {})
    loss, y = fl.SigmoidBCELoss(reduction="sum"), torch.tensor([0.0, 1, 1])
    plain = torch.tensor([0.5, -1, 2], dtype=torch.float64, requires_grad=True)
    mine = plain.detach().as_subclass(kind).requires_grad_()
    results = []
    for x in (plain, mine):
        (gradient,) = torch.autograd.grad(loss(x, y), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), x)
        results.append([gradient.tolist(), second.tolist()])
    assert results[0] == results[1]


# PyTorch's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_vmap_is_one_call(monkeypatch: pytest.MonkeyPatch, reduction: str) -> None:
    """Nested, of gradients and under them, of second derivatives, with weights that are the same for all or not."""
    monkeypatch.setattr(mapping, "call_each", None)
    monkeypatch.setattr(torch_operators, "for_each", None)
    vmap, grad = torch.func.vmap, torch.func.grad
    torch.manual_seed(0)
    x, weight = torch.randn(2, 3, 4, 5, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    label = torch.randint(5, (2, 3, 4))
    loss = fl.SoftmaxCELoss(reduction=reduction, ignore_index=0)
    every = [(i, j) for i in range(2) for j in range(3)]

    def total(*inputs: Any) -> Any:
        return loss(*inputs).sum()

    def check(f: Any) -> None:
        got = vmap(vmap(f, (0, 0, None)), (0, 0, None))(x, label, weight[0])
        torch.testing.assert_close(got, stacked([f(x[k], label[k], weight[0]) for k in every]))
        got = vmap(vmap(f), (0, 0, None))(x, label, weight)
        torch.testing.assert_close(got, stacked([f(x[k], label[k], weight[k[1]]) for k in every]))

    def stacked(parts: list[Any]) -> Any:
        return torch.stack(parts).reshape(2, 3, *parts[0].shape)

    check(loss)
    check(grad(total))
    check(torch.func.jacfwd(loss))
    check(torch.func.hessian(total))
    want = vmap(vmap(grad(total)), (0, 0, None))(x, label, weight)

    def mapped(x: Any, weight: Any) -> Any:
        return vmap(vmap(total), (0, 0, None))(x, label, weight).sum()

    torch.testing.assert_close(grad(mapped)(x, weight), want)
    leaf = x.clone().requires_grad_()
    mapped(leaf, weight).backward()
    torch.testing.assert_close(leaf.grad, want)
    tangent = torch.randn_like(x)
    along = torch.func.jvp(lambda x: mapped(x, weight), (x,), (tangent,))[1]
    torch.testing.assert_close(along, (want * tangent).sum())
    if reduction in ("sum", "mean"):
        shared = torch.stack([total(x[i, :, 0], label[i, :, 0], weight[:, 0]) for i in range(2)]).sum()
        w = weight[:, 0].clone().requires_grad_()
        found = vmap(total, (0, 0, None))(x[:, :, 0], label[:, :, 0], w).sum()
        torch.testing.assert_close(found, shared)
        found.backward()
        torch.testing.assert_close(w.grad, grad(lambda w: sum(total(x[i, :, 0], label[i, :, 0], w) for i in (0, 1)))(w))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_heads_are_batched(reduction: str) -> None:
    """By PyTorch's older vmap, of first and second derivatives."""
    loss, x = fl.SoftmaxCELoss(reduction=reduction), torch.randn(3, 4).double().requires_grad_()
    label = torch.tensor([0, 3, 1])
    jacobian, hessian = torch.autograd.functional.jacobian, torch.autograd.functional.hessian

    def total(x: Any) -> Any:
        return loss(x, label).square().sum()

    rows = jacobian(lambda x: loss(x, label), x, vectorize=True)
    torch.testing.assert_close(rows, jacobian(lambda x: loss(x, label), x))
    torch.testing.assert_close(hessian(total, x, vectorize=True), hessian(total, x))
    value = loss(x, label)
    heads = torch.rand(5, *value.shape).double()
    for _ in range(2):
        (got,) = torch.autograd.grad(value, x, heads, is_grads_batched=True, retain_graph=True)
        for head, gradient in zip(heads, got, strict=True):
            torch.testing.assert_close(gradient, loss.grad(x, label, head_grad=head))


def test_operators_over_a_batch() -> None:
    x, y = torch.arange(6.0).reshape(3, 2), torch.ones(2)
    loss = fl.LogisticLoss()
    got = torch.func.vmap(lambda x: torch.ops.fastloss.hvp(repr(loss), "hvp", [0, 1], [x, y], y, None))(x)
    assert torch.equal(got, torch.stack([loss.grad_and_hess(row, y)[1] for row in x]))


class Stop(torch.autograd.Function):  # type: ignore[name-defined,misc]
    """Lets nothing flow back, not even zeros."""

    @staticmethod
    def forward(x: Any) -> Any:  # type: ignore[override]
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *heads: Any) -> Any:
        return None


# PyTorch's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_values_that_share_an_element() -> None:
    """The gradient for a head is no multiple of one: its derivative in pred is known, and that in the head refused."""
    loss, x, p = (
        fl.KLDivLoss(from_logits=False, reduction="none"),
        torch.randn(4, 5).double(),
        torch.rand(4, 5).double(),
    )
    head, tangent = torch.rand(2, 4, 5).double()
    gradient = functools.partial(torch_operators.gradients_for, loss.expression, [0, 1])
    product = torch.ops.fastloss.hvp(loss.expression, "hvp", [0, 1], [x, p], tangent, head)
    jvp, vjp = torch.func.jvp, torch.func.vjp
    torch.testing.assert_close(jvp(lambda x: gradient([x, p], [0], head)[0], (x,), (tangent,))[1], product)
    leaf = x.clone().requires_grad_()
    (found,) = torch.autograd.grad((loss(leaf, p) * head).sum(), leaf, create_graph=True)
    torch.testing.assert_close(torch.autograd.grad(found, leaf, tangent)[0], product)
    moved = jvp(lambda head: vjp(lambda x: loss(x, p), x)[1](head)[0], (head,), (tangent,))[1]
    torch.testing.assert_close(
        moved, torch.as_tensor(fl.Loss.grad(loss, x.numpy(), p.numpy(), head_grad=tangent.numpy()))
    )
    with pytest.raises(NotImplementedError, match="no derivative in head_grad of the gradient of KLDivLoss"):
        torch.autograd.functional.hvp(lambda x: loss(x, p).square().sum(), x, tangent)


# PyTorch's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_third_derivatives_are_refused() -> None:
    loss, x = fl.LogCoshLoss(), torch.randn(3, 2).double().requires_grad_()
    (first,) = torch.autograd.grad(loss(x, torch.zeros(3, 2)).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    for call in (lambda: torch.autograd.grad(second.sum(), x, retain_graph=True), lambda: second.sum().backward()):
        with pytest.raises(NotImplementedError, match="no third derivatives of LogCoshLoss"):
            call()
    slope = torch.func.grad(lambda x: loss(x, torch.zeros(3, 2)).sum())
    ones = torch.ones(3, 2).double()
    with pytest.raises(NotImplementedError, match="no third derivatives of LogCoshLoss"):
        torch.func.jvp(lambda x: torch.func.jvp(slope, (x,), (ones,))[1], (x.detach(),), (ones,))
    # in the vector the product is linear
    got = torch.func.jvp(lambda v: torch.func.vjp(slope, x.detach())[1](v)[0], (ones,), (ones,))[1]
    assert torch.equal(got, loss.hvp(x.detach(), torch.zeros(3, 2), ones))


def test_nothing_flows_back() -> None:
    loss, x, y = fl.LogCoshLoss(), torch.randn(3, 2).double().requires_grad_(), torch.zeros(3, 2).double()
    value = torch_operators.Value.apply(loss.expression, [0, 1], 0, x, y)
    assert torch.equal(torch.autograd.grad(Stop.apply(value).sum() + x.sum(), x)[0], torch.ones_like(x))
    (first,) = torch.autograd.grad(loss(x, y).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x, create_graph=True)
    for derivative in (first, second):
        (got,) = torch.autograd.grad(Stop.apply(derivative).sum() + x.sum(), x, retain_graph=True)
        assert torch.equal(got, torch.ones_like(x))


def test_operators_over_a_batch_are_differentiated() -> None:
    x, y = torch.randn(2, 3, 2).double().requires_grad_(), torch.randn(2, 3, 2).double().requires_grad_()
    loss, evaluate = fl.LogisticLoss(reduction="none"), torch.ops.fastloss.evaluate
    for wrt in ([0], [0, 1]):
        value = torch.func.vmap(lambda x, y, wrt=wrt: evaluate(loss.expression, [0, 1], [x, y], wrt)[0])(x, y)
        targets = (x, y)[: len(wrt)]
        got, want = (torch.autograd.grad(v.sum(), targets, retain_graph=True) for v in (value, loss(x, y)))
        torch.testing.assert_close(got, want)
    weighted, weights = fl.SoftmaxCELoss(class_weight=[1, 2]), torch.rand(2, 2).double()
    label, at = torch.tensor([0, 1, 1]), len(weighted.inputs)
    found = torch.func.vmap(lambda x, w: evaluate(weighted.expression, [0, 1, at], [x, label, w], [])[0])(x, weights)
    for k, w in enumerate(weights.tolist()):
        torch.testing.assert_close(found[k], fl.SoftmaxCELoss(class_weight=w)(x[k].detach(), label))


def test_class_weights_of_a_module_are_mapped() -> None:
    module, weights = modules.SoftmaxCELoss(class_weight=torch.ones(2)), torch.rand(3, 2)
    ((name, _),) = module.named_buffers()
    x, label = torch.randn(3, 4, 2), torch.randint(2, (3, 4))

    def call(weight: Any, x: Any, label: Any) -> Any:
        return torch.func.functional_call(module, {name: weight}, (x, label))

    got = torch.func.vmap(call)(weights, x, label)
    slopes = torch.func.vmap(torch.func.grad(lambda x, w, label: call(w, x, label).sum()))(x, weights, label)
    for k, w in enumerate(weights.tolist()):
        loss = fl.SoftmaxCELoss(class_weight=w)
        torch.testing.assert_close(got[k], loss(x[k], label[k]))
        torch.testing.assert_close(slopes[k], loss.grad(x[k], label[k]))


# PyTorch's own
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_a_tangent_beside_an_input_that_requires_a_gradient() -> None:
    loss, x, tangent = fl.LogCoshLoss(), torch.randn(3, 2).double(), torch.randn(3, 2).double()
    label = torch.randn(3, 2).double().requires_grad_()
    with torch.autograd.forward_ad.dual_level():
        value = loss(torch.autograd.forward_ad.make_dual(x, tangent), label)
        found = torch.autograd.forward_ad.unpack_dual(value).tangent
    torch.testing.assert_close(found, (loss.grad(x, label.detach()) * tangent).sum(1))


def test_without_tangents_no_forward_mode_is_refused() -> None:
    x = torch.randn(3, 2)
    with torch.autograd.forward_ad.dual_level():
        assert torch.equal(fl.L2Loss().grad(x, 2 * x), -x / 2)


def test_a_pytorch_without_compiler_stays_without() -> None:
    assert backends._TorchCompilerFinder().find_spec("torch._dynamo", []) is None


def test_what_the_compiler_sees() -> None:
    loss, x, y = fl.HuberLoss(), torch.tensor([1.0, 2]), torch.zeros(2)
    assert torch.equal(torch_operators.traced(loss, x, label=y, out=None), loss(x, y))
    with pytest.raises(TypeError, match="takes only the loss's inputs"):
        torch_operators.traced(loss, x, y, out=x)
    # what a call that is not traced refuses before it gets here
    for inputs, named, match in [
        ((x, y, y, y), {}, "takes at most 3 inputs"),
        ((x, y), {"pred": x}, "got pred twice"),
        ((x,), {}, "needs pred and label"),
    ]:
        with pytest.raises(TypeError, match=match):
            torch_operators.traced(loss, *inputs, **named)


@pytest.mark.usefixtures("compiler")
def test_a_users_subclass_is_called_but_not_compiled() -> None:
    class L2Loss(fl.L2Loss):
        pass

    loss, x, y = L2Loss(), torch.ones(2, 3), torch.zeros(2, 3)
    assert loss(x, y).tolist() == [0.5, 0.5]
    with pytest.raises(TypeError, match="takes only fastloss's own losses, no subclass, got L2Loss"):
        torch.func.vmap(loss)(x, y)
    with pytest.raises(Exception, match="takes only fastloss's own losses, no subclass, got L2Loss"):
        torch.compile(lambda x, y: loss(x, y), fullgraph=True, backend="eager")(x, y)


def test_a_users_subclass_is_called_once() -> None:
    """What it does around the call, and what it builds, whatever its name."""

    class HuberLoss(fl.HuberLoss):
        def __init__(self, rho: float, **named: Any) -> None:
            super().__init__(rho=10 * rho, **named)

        def __call__(self, pred: Any, label: Any) -> Any:  # type: ignore[override]
            return 2 * super().__call__(pred, label)

        def grad(self, *inputs: Any, **options: Any) -> Any:
            return 3 * super().grad(*inputs, **options)

    for reduction in ("example", "sum"):
        loss, label = HuberLoss(1, reduction=reduction), torch.tensor([0.0, 1])
        for both in (False, True):
            pred = torch.tensor([5.0, 2], requires_grad=True)
            want = 2 * fl.HuberLoss(10, reduction=reduction)(pred.detach().numpy(), label.numpy())
            np.testing.assert_array_equal(loss(pred.detach().numpy(), label.numpy()), want)
            # of tensors, totals have their dtype
            want = np.asarray(want, np.float32)
            np.testing.assert_array_equal(loss(pred.detach(), label), want)
            value = loss(pred, label.clone().requires_grad_(both))
            np.testing.assert_array_equal(value.detach(), want)
            for _ in range(2):
                (gradient,) = torch.autograd.grad(value.sum(), pred, retain_graph=True)
                np.testing.assert_allclose(gradient, [1, 0.2])
            np.testing.assert_allclose(loss.grad(pred, label), [1.5, 0.3])
            with pytest.raises(TypeError, match="takes only fastloss's own losses, no subclass, got HuberLoss"):
                torch.autograd.grad(value.sum(), pred, create_graph=True)[0].sum().backward()


# what PyTorch imports for it
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_forward_mode_of_other_methods_is_refused() -> None:
    x, y = torch.ones(3), torch.zeros(3)
    loss = fl.L2Loss()
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, x)
        assert torch.equal(loss(x, y, out=None), torch.full((3,), 0.5))
        for inputs, name in (((moving, y), "pred"), ((y, moving), "label")):
            with pytest.raises(NotImplementedError, match=f"forward-mode .* {name} has a tangent"):
                loss.grad(*inputs)


# what PyTorch imports for it
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_what_a_loss_does_not_have_is_refused_by_name() -> None:
    x = torch.eye(3, dtype=torch.float64)
    divergence, pairs = fl.KLDivLoss(from_logits=False, reduction="none"), fl.SDMLLoss()
    with pytest.raises(NotImplementedError, match="forward-mode derivative of KLDivLoss in pred is not known"):
        torch.func.jvp(lambda a: divergence(a, x), (x,), (x,))
    with pytest.raises(NotImplementedError, match="SDMLLoss has no diagonal Hessian"):
        make_fx(pairs.grad_and_hess)(x, x)


def test_values_that_share_logits_are_differentiated_twice() -> None:
    x, target = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.rand(3, 4, dtype=torch.float64)
    loss = fl.KLDivLoss(from_logits=False, reduction="none")
    assert gradgradcheck(lambda pred: loss(pred, target), x, torch.ones(3, 4, dtype=torch.float64))


def test_the_gradient_in_the_label_alone_is_not_differentiated() -> None:
    x, label = (torch.ones(3, dtype=torch.float64, requires_grad=True) for _ in "xy")
    values = fl.L2Loss(reduction="none")(x, label)
    gradients = torch.autograd.grad(values, (x, label), torch.ones(3), create_graph=True)
    for gradient in gradients:
        with pytest.raises(NotImplementedError, match="no second derivatives of L2Loss in pred, label"):
            gradient.sum().backward(retain_graph=True)


@pytest.mark.parametrize(
    "expression", ["kernels.L2()", "number(name='x', x=1)", "L2Loss(1.0)", "L2Loss(weight=print())"]
)
def test_operators_build_losses_alone(expression: str) -> None:
    with pytest.raises(ValueError, match=r"must build a loss of fastloss from literals|malformed node"):
        torch.ops.fastloss.evaluate(expression, [0, 1], [torch.ones(2), torch.ones(2)], [])


def test_every_loss_has_a_module() -> None:
    assert set(modules.__all__) == set(fl.losses.__all__) - {"Loss"} | {"LinearLoss"}
    for name in modules.LOSSES:
        module = getattr(modules, name)
        assert module.kind is getattr(fl, name)
        assert repr(module()) == repr(module().loss)
        assert (module.__name__, module.__module__) == (module.kind.__name__, "fastloss.torch")
        me, *inputs, out = inspect.signature(module.forward).parameters.values()
        assert [x.name for x in (me, *inputs, out)] == ["self", *module().loss.inputs, "out"]
        assert [x.default is x.empty for x in inputs].count(True) == module().loss.required
        assert out.kind is out.KEYWORD_ONLY


@pytest.mark.parametrize("name", LOSSES)
def test_modules_are_saved_and_restored(name: str) -> None:
    module = getattr(modules, LOSSES[name].loss.__name__)(**LOSSES[name].parameters, reduction="sum")
    stream = io.BytesIO()
    torch.save(torch.nn.Sequential(module), stream)
    stream.seek(0)
    for other in (torch.load(stream, weights_only=False)[0], pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert other.loss == module.loss
    assert list(module.state_dict()) == (["weight"] if getattr(module, "class_weight", None) else [])


METHODS = ("__call__", "grad", "value_and_grad", "grad_and_hess", "value_grad_and_hess")
TRACED = ["Huber", "BCE pos_weight", "softmax class_weight ignore", "triplet", "SDML", "CTC"]
TRACERS: dict[str, Any] = {
    "real": lambda f, inputs: make_fx(f)(*inputs),
    "fake": lambda f, inputs: make_fx(f, tracing_mode="fake")(*inputs),
    "symbolic": lambda f, inputs: make_fx(f, tracing_mode="symbolic")(*inputs),
    "before dispatch": lambda f, inputs: make_fx(f, pre_dispatch=True)(*inputs),
    "jit": lambda f, inputs: torch.jit.trace(f, tuple(inputs)),
    "fx": lambda f, inputs: torch.fx.symbolic_trace(
        f if isinstance(f, torch.nn.Module) else naming_arguments(f, len(inputs))
    ),
}


@pytest.fixture(params=TRACERS)
def trace(request: pytest.FixtureRequest) -> Any:
    """A tracer, by a function of a function and its inputs."""
    return TRACERS[request.param]


jit = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # by PyTorch itself


def naming_arguments(f: Any, n: int) -> Any:
    """The function with as many arguments: that tracer does not take a list of them."""
    return {
        2: lambda a, b: f(a, b),
        3: lambda a, b, c: f(a, b, c),
        4: lambda a, b, c, d: f(a, b, c, d),
        5: lambda a, b, c, d, e: f(a, b, c, d, e),
    }[n]


def taking_two(f: Any) -> Any:
    """The function with two arguments, which tracers count."""
    return lambda a, b: f(a, b)


def flat(x: Any) -> list[Any]:
    return [z for y in x for z in flat(y)] if isinstance(x, (tuple, list)) else [x]


def assert_same(got: Any, want: Any) -> None:
    assert len(flat(got)) == len(flat(want))
    for a, b in zip(flat(got), flat(want), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert torch.equal(a, b)


@jit
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TRACED)
def test_a_traced_call_is_no_constant(trace: Any, name: str, method: str) -> None:
    case = CASES[name]
    inputs = tensors(case, ())
    later = {k: x + 0.25 if x.is_floating_point() else x for k, x in inputs.items()}
    for reduction in ("none", "weighted_mean"):
        loss = case.build(reduction=reduction)
        options = {"wrt": case.targets} if method in ("grad", "value_and_grad") else {}

        def call(*x: Any, loss: Any = loss, options: Any = options) -> Any:
            return getattr(loss, method)(**dict(zip(inputs, x, strict=True)), **options)

        if "hess" in method and loss.no_hessian is not None:
            with pytest.raises(NotImplementedError, match="has no diagonal Hessian"):
                trace(call, inputs.values())(*inputs.values())
        else:
            program = trace(call, inputs.values())
            for x in (inputs, later):
                assert_same(program(*x.values()), call(*x.values()))


@jit
@pytest.mark.filterwarnings("ignore:torch.as_tensor results are registered as constants")  # which they are
def test_heads_buffers_and_constants_of_a_traced_call(trace: Any) -> None:
    loss, x, y = fl.L2Loss(), torch.linspace(-1, 2, 5), torch.linspace(3, 1, 5)
    for call in (
        lambda a, b: loss.grad(a, [1.0, 2, 3, 4, 5], head_grad=b),
        lambda a, b: loss.value_and_grad(a, b, head_grad=2.5),
        lambda a, b: loss.grad(a, b, out=torch.empty_like(a)),
        lambda a, b: loss.value_and_grad(a, b, out=(None, torch.empty_like(a))),
        lambda a, b: loss(a, np.arange(5.0), sample_weight=b, out=torch.empty_like(a)),
        lambda a, b: loss(label=a, pred=b),
    ):
        program = trace(call, (x, y))
        assert_same(program(x * 2, y), call(x * 2, y))


@jit
def test_a_program_traced_without_gradients_has_them(trace: Any) -> None:
    for reduction in ("mean", "example"):
        loss, x, y = fl.HuberLoss(reduction=reduction), torch.linspace(-3, 2, 6), torch.zeros(6)
        program = trace(taking_two(loss), (x, y))
        for wanted in ((True, False), (True, True), (False, True)):
            inputs = [z.clone().requires_grad_(w) for z, w in zip((x, y), wanted, strict=True)]
            tracked = [z for z in inputs if z.requires_grad]
            found = [torch.autograd.grad(f(*inputs).square().sum(), tracked) for f in (program, loss)]
            assert_same(*found)


@jit
def test_a_program_traced_with_gradients_has_them(trace: Any) -> None:
    loss = fl.SoftmaxCELoss(reduction="mean")
    x, y = torch.randn(4, 3, requires_grad=True), torch.tensor([0, 2, 1, 1])
    program = trace(lambda a, b: loss(a * 2, b), (x, y))
    assert_same(*[torch.autograd.grad(f(x, y), x) for f in (program, lambda a, b: loss(a * 2, b))])


TRANSFORMED: dict[str, Any] = {
    "grad": torch.func.grad(lambda a, b: fl.L2Loss(reduction="sum")(a, b)),
    "vmap": torch.func.vmap(lambda a, b: fl.L2Loss()(a, b)),
    "methods in vmap": torch.func.vmap(lambda a, b: fl.L2Loss().value_grad_and_hess(a, b)),
    "vmap of grad": torch.func.vmap(torch.func.grad(lambda a, b: fl.L2Loss(reduction="mean")(a, b))),
    "jacrev": torch.func.jacrev(lambda a, b: fl.L2Loss(reduction="none")(a, b)),
    "functionalize": torch.func.functionalize(lambda a, b: fl.L2Loss()(a, b)),
    "grad of grad": torch.func.grad(
        lambda a, b: torch.func.grad(lambda c: fl.L2Loss(reduction="sum")(c, b))(a).square().sum()
    ),
    "a step": lambda a, b: torch.autograd.grad(fl.L2Loss()(z := a.detach().requires_grad_(), b).sum(), z),
}


@pytest.mark.parametrize("name", TRANSFORMED)
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_transforms_that_are_traced(name: str, mode: str) -> None:
    f, x, y = TRANSFORMED[name], torch.linspace(-3, 2, 6).reshape(2, 3), torch.ones(2, 3)
    program = make_fx(f, tracing_mode=mode)(x, y)
    assert_same(program(x, y * 3), f(x, y * 3))


def test_a_backward_pass_that_is_traced() -> None:
    for reduction in ("sum", "example"):
        x = torch.linspace(-3, 2, 6, requires_grad=True)
        value = fl.L2Loss(reduction=reduction)(x, torch.zeros(6))

        back = functools.partial(torch.autograd.grad, value, x, retain_graph=True)
        program = make_fx(lambda head: back(head))(torch.ones_like(value))  # noqa: B023
        assert_same(program(torch.full_like(value, 3)), back(torch.full_like(value, 3)))


def test_modes_see_the_operators() -> None:
    seen = []

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **kwargs or {})

    loss, x = fl.L2Loss(), torch.ones(3)
    with Mode():
        assert torch.equal(loss(x, x), torch.zeros(3))
        loss.grad(x, x)
    assert {"fastloss.evaluate.default", "fastloss.results.default"} <= set(seen)


@jit
def test_what_a_tracer_is_refused(trace: Any) -> None:
    class Mine(fl.L2Loss):
        pass

    loss, x = fl.L2Loss(), torch.ones(3)
    for call, error, match in [
        (lambda a, b: Mine()(a, b), TypeError, "takes only fastloss's own losses, no subclass, got Mine"),
        (lambda a, b: loss(a, b, scale=2), TypeError, "unexpected keyword argument 'scale'"),
        (lambda a, b: loss.grad(a, b, scale=2), TypeError, "unexpected keyword argument 'scale'"),
        (lambda a, b: loss.grad_and_hess(a, b, wrt="label"), ValueError, "L2Loss has no Hessian in label"),
        (lambda a, b: loss.grad(a, b, wrt="sample_weight"), ValueError, "the call has no sample_weight"),
    ]:
        with pytest.raises(error, match=match):
            trace(call, (x, x))(x, x)


def test_buffers_of_a_traced_call_must_fit() -> None:
    loss, x = fl.L2Loss(), torch.ones(3)
    for method, out, error, match in [
        ("grad", np.empty(3), TypeError, "out must be a tensor of floats or None where a call is traced"),
        ("grad", torch.empty(3, dtype=torch.int64), TypeError, "out must be a tensor of floats"),
        ("grad", torch.empty(3, requires_grad=True), TypeError, "out must not require a gradient"),
        ("grad", torch.empty(4), ValueError, r"out must have shape \(3,\), got \(4,\)"),
        ("value_and_grad", torch.empty(3), TypeError, "out must be a tuple of 2"),
    ]:
        with pytest.raises(error, match=match):
            make_fx(taking_two(functools.partial(getattr(loss, method), out=out)))(x, x)
    with pytest.raises(TypeError, match="out cannot be differentiated, and pred"):
        make_fx(lambda a: loss(a.detach().requires_grad_(), x, out=torch.empty(3)))(x)
    with pytest.raises(ValueError, match="method must be one of"):
        torch.ops.fastloss.results(loss.expression, "run", [0, 1], [x, x], [], None)


@pytest.mark.usefixtures("compiler")
def test_other_methods_behind_a_graph_break() -> None:
    loss, x, y = fl.L2Loss(reduction="sum"), torch.linspace(-3, 2, 6), torch.zeros(6)
    for method in METHODS:

        def call(a: Any, b: Any, method: str = method) -> Any:
            return getattr(loss, method)(a * 2, b)

        assert_same(torch.compile(call, backend="eager")(x, y), call(x, y))


def meta(x: Any) -> Any:
    return x.detach().to("meta").requires_grad_(x.requires_grad)


@every_case(reduction=["example", "none", "mean"])
def test_meta_tensors_give_meta_results(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    inputs = tensors(case)
    described = {name: meta(x) for name, x in inputs.items()}
    value = loss(**inputs)
    value.backward(torch.ones_like(value))
    shown = loss(**described)
    shown.backward(torch.ones_like(shown))
    pairs = [(shown, value), *((described[k].grad, inputs[k].grad) for k in case.targets)]
    for method in METHODS:
        if "hess" not in method or loss.no_hessian is None:
            pairs += zip(*[flat(getattr(loss, method)(**x)) for x in (described, inputs)], strict=True)
    for got, want in pairs:
        assert got.is_meta
        assert (got.shape, got.dtype) == (want.shape, want.dtype)


def test_other_things_beside_meta_tensors() -> None:
    x = torch.zeros(2, 3, device="meta")
    assert fl.SoftmaxCELoss()(x, [0, 1]).is_meta
    assert fl.L2Loss().grad(x, np.zeros((2, 3)), head_grad=2.0).is_meta
    for inputs, name in (((x, torch.zeros(2, 3)), "pred"), ((torch.zeros(2, 3), x), "label")):
        with pytest.raises(TypeError, match=f"{name} must be a dense tensor on the CPU .* got torch.float32 on meta"):
            fl.L2Loss().grad(*inputs)


FITTING = [
    ((5,), (5, 1)),
    ((5, 1), (5,)),
    ((), (1, 1)),
    ((1,), ()),
    ((1, 5, 1), (5,)),
    ((2, 3, 1), (2, 3)),
    ((3, 0), (3, 0)),
]


@pytest.mark.parametrize(("shape", "other"), FITTING)
def test_shapes_that_fit_are_described(shape: tuple[int, ...], other: tuple[int, ...]) -> None:
    loss = fl.L2Loss(reduction="none")
    assert loss(torch.ones(shape, device="meta"), torch.ones(other, device="meta")).shape == shape
    assert loss(torch.ones(shape), torch.ones(other)).shape == shape


@pytest.mark.parametrize(
    ("loss", "shapes", "match"),
    [
        (fl.L2Loss(), [(5, 1), (1, 5)], r"label must have pred's shape \(5, 1\), .*got shape \(1, 5\)"),
        (fl.L2Loss(), [(2, 3, 1), (2, 1, 3)], "label must have pred's shape"),
        (fl.L2Loss(), [(4,), (5,)], "label must have pred's shape"),
        (fl.L2Loss(), [(3, 0), (3,)], "label must have pred's shape"),
        (fl.L2Loss(), [(3,), (3, 2)], "label must have pred's shape"),
        (fl.L2Loss(), [(3, 2), (3, 2), (2,)], "sample_weight must be one weight per example"),
        (fl.L2Loss(), [(3, 2), (3, 2), (2, 2)], "sample_weight must be"),
        (fl.L2Loss(), [(3, 2), (3, 2), (1, 3, 2)], "sample_weight must be"),
        (fl.SoftmaxCELoss(), [(4, 3), (3,)], r"label must have pred's shape \(4, 3\) without axis 1, \(4,\)"),
        (fl.SoftmaxCELoss(), [(4, 5, 3), (5, 4)], "label must have pred's shape"),
        (fl.SoftmaxCELoss(), [(4, 3), (4,), (4, 3)], "sample_weight must be"),
        (fl.SoftmaxCELoss(sparse_label=False), [(4, 3), (4,)], "label must have pred's shape"),
        (fl.TripletLoss(), [(4, 3), (4, 3), (3, 4)], "negative must have pred's shape"),
        (fl.CosineEmbeddingLoss(), [(4, 3), (4, 3), (3,)], "label must have input1's shape"),
        (fl.SDMLLoss(), [(4, 3), (3, 4)], "x2 must have x1's shape"),
        (fl.SDMLLoss(), [(3,), (3,)], "x1 must have an axis of examples and one of features"),
        (fl.SoftmaxCELoss(), [(), ()], "pred must have a class axis, got a scalar"),
        (fl.SoftmaxCELoss(class_weight=(1, 2)), [(4, 3), (4,)], "as many classes as class_weight, 2, got shape"),
        (fl.CTCLoss(), [(2, 5, 3, 1), (2, 2)], "pred must have 3 axes, NTC"),
        (fl.CTCLoss(), [(2, 5, 3), (3, 2)], r"label must have 2 axes, NT, for 2 examples, got shape \(3, 2\)$"),
        (fl.CTCLoss(), [(2, 5, 3), (2, 2), (3,)], "pred_lengths must be one length per example"),
        (fl.CTCLoss(), [(2, 5, 3), (2, 2), (2,), (2,), (7,)], "sample_weight must be one weight per example"),
        (fl.CTCLoss(blank=7), [(2, 5, 3), (2, 2)], "blank must be between -3 and 2 for a pred with 3 classes, got 7"),
        (fl.L2Loss(), [(3, 2), (3, 2), (0,)], "for no weights, give None"),
    ],
)
def test_shapes_that_do_not_fit_are_not_described(loss: fl.Loss, shapes: list[Any], match: str) -> None:
    for method in ("__call__", "grad"):
        with pytest.raises(ValueError, match=match):
            getattr(loss, method)(*[torch.zeros(shape, device="meta") for shape in shapes])


def test_heads_and_factors_that_do_not_fit_are_not_described() -> None:
    x = torch.zeros(3, 2, device="meta")
    with pytest.raises(ValueError, match=r"head_grad must be a number or have the value's shape \(3,\)"):
        fl.L2Loss().grad(x, x, head_grad=torch.zeros(2, device="meta"))
    with pytest.raises(ValueError, match="pos_weight must broadcast to pred's shape"):
        fl.SigmoidBCELoss()(x, x, pos_weight=torch.zeros(3, device="meta"))
    assert fl.SigmoidBCELoss()(x, x, pos_weight=torch.zeros(2, device="meta")).shape == (3,)
    for shape in ((3,), (1,), (3, 1), (3, 2), (1, 2)):
        assert fl.L2Loss()(x, x, torch.zeros(shape, device="meta")).shape == (3,)
    for shape in ((3,), (3, 1), (1, 1)):
        assert fl.SoftmaxCELoss()(x, torch.zeros(3, device="meta"), torch.zeros(shape, device="meta")).shape == (3,)


@pytest.mark.usefixtures("compiler")
def test_sizes_that_a_program_does_not_know() -> None:
    module = modules.L2Loss()
    shapes = {name: {0: torch.export.Dim("n")} for name in ("pred", "label")}
    exported = torch.export.export(module, (torch.zeros(4, 3), torch.ones(4, 3)), dynamic_shapes=shapes)
    assert exported.module()(torch.zeros(7, 3), torch.ones(7, 3)).shape == (7,)
    assert torch_operators.same_size(3, 3)

    class Unknown:
        def __eq__(self, other: object) -> Any:
            raise RuntimeError("depends on the data")

    assert torch_operators.same_size(Unknown(), 3)


def test_totals_that_are_floats_have_preds_dtype() -> None:
    for dtype, want in (("f2", "f4"), ("f4", "f4"), ("f8", "f8"), ("i4", "f8")):
        got = torch_operators.as_value(0.1, np.ones(3, dtype))
        assert got.shape == ()
        assert got.numpy() == np.array(0.1, want)
        assert got.numpy().dtype == want
    single = np.ones(3, np.float32)
    for x in (1e300, -1e300, float("inf"), float("nan"), 3.4028235e38):
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(torch_operators.as_value(x, single).numpy(), np.float32(x))
    for dtype in (torch.float32, torch.float64):
        x = torch.full((2,), 2e19, dtype=dtype)
        for value in (
            fl.L2Loss(reduction="sum")(x, torch.zeros(2)),
            fl.L2Loss(reduction="sum").value_and_grad(x, -x)[0],
        ):
            assert (value.dtype, value.shape) == (dtype, ())
            assert value.isinf() == (dtype == torch.float32)


@pytest.mark.parametrize("missing", [float("nan"), float("inf")])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_weight_of_0_leaves_an_example_out(reduction: str, missing: float) -> None:
    """In the value, the gradient and the second derivative, whatever computes them."""
    for name in ("L2", "BCE", "Poisson"):
        loss = CASES[name].build(reduction=reduction)
        y, weight = torch.tensor([[1.0], [1], [0]]), torch.tensor([1.0, 0, 2])
        found = []
        for hole in (0.5, missing):
            x = torch.tensor([[0.25], [hole], [1]], requires_grad=True)
            labels = y.clone()
            labels[1] = hole
            value = loss(x, labels, weight)
            (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=True)
            (second,) = torch.autograd.grad(gradient.square().sum(), x)
            (again,) = torch.autograd.grad(torch_operators.call(loss, [x, labels, weight]).sum(), x)
            found.append((value.detach(), gradient.detach(), second, again))
            assert gradient[1] == second[1] == again[1] == 0
        assert_same(*found)


def roots() -> list[tuple[Any, Any, Any]]:
    """Calls whose first example is left out and has a value of 0, where the derivative of a root is infinite."""
    y, weight = torch.tensor([[np.nan], [0], [0]]), torch.tensor([0.0, 1, 2])
    labels, weights = y.numpy(), weight.numpy()
    x, ids = torch.arange(3.0)[:, None], torch.tensor([-1, 0, 1])
    return [
        (lambda p: fl.L2Loss()(p, y, weight), x, 0),
        (lambda p: fl.L2Loss()(p, labels, sample_weight=weights), x, 0),
        (lambda p: fl.L2Loss(reduction="none")(p, y, weight[:, None]), x, 0),
        (lambda p: fl.L2Loss(reduction="sum")(p[:1], y[:1], weight[:1]), x, 0),
        (lambda p: fl.SoftmaxCELoss(ignore_index=-1)(p, ids), torch.eye(3), 0),
        (lambda p: fl.SoftmaxCELoss(axis=0)(p, ids.abs(), weight[None]), torch.eye(3), (slice(None), 0)),
        (lambda p: fl.CTCLoss()(p, torch.ones(3, 1), sample_weight=weight), torch.ones(3, 2, 3), 0),
    ]


@pytest.mark.parametrize("way", ["eager", "recorded", "func", "graph"])
@pytest.mark.parametrize("k", range(7))
def test_infinity_does_not_flow_into_what_is_left_out(k: int, way: str) -> None:
    call, x, out = roots()[k]
    x.requires_grad_(way != "func")

    def total(p: Any) -> Any:
        return call(p).sqrt().sum()

    if way == "func":
        gradient = torch.func.grad(total)(x)
    elif way == "graph":
        gradient = make_fx(lambda p: torch.autograd.grad(total(p), p)[0])(x)(x)
    else:
        (gradient,) = torch.autograd.grad(total(x), x, create_graph=way == "recorded")
    assert not gradient[out].any()
    assert gradient.isfinite().all()


def test_infinity_does_not_flow_into_the_gradient_of_what_is_left_out() -> None:
    x, weight = torch.arange(3.0, requires_grad=True), torch.tensor([0.0, 1, 2])
    for reduction in ("example", "sum", "weighted_mean"):
        loss = fl.L2Loss(reduction=reduction)
        (gradient,) = torch.autograd.grad(loss(x, torch.zeros(3), weight).sum(), x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sqrt().sum(), x)
        assert second[0] == 0
        assert second.isfinite().all()


def test_infinity_flows_where_nothing_is_left_out() -> None:
    x = torch.arange(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(fl.L2Loss()(x, torch.zeros(3)).sqrt().sum(), x)
    assert gradient.isnan().tolist() == [True, False, False]


def test_factors_and_labels_of_other_shapes_are_left_out() -> None:
    loss, nothing = fl.SigmoidBCELoss(reduction="sum"), torch.zeros(3)
    inputs = torch.ones(3, 1), torch.ones(3), torch.ones(1)
    for x in inputs:
        x.requires_grad_()
    p, y, q = inputs
    value = loss(p, y, nothing, q).sqrt()
    for create_graph in (True, False):
        found = torch.autograd.grad(value, inputs, create_graph=create_graph, retain_graph=True)
        assert [g.tolist() for g in found] == [[[0]] * 3, [0] * 3, [0]]
    weight = torch.tensor([0.0, 1, 1])
    want = torch.autograd.grad(loss(p, y, weight, q), inputs)
    assert_same(torch.func.grad(lambda *x: loss(*x[:2], weight, x[2]), (0, 1, 2))(*[x.detach() for x in inputs]), want)
    pairs = torch.rand(3, 2, requires_grad=True)
    other = torch.rand(3, 2, requires_grad=True)
    want = torch.autograd.grad(fl.SDMLLoss(reduction="sum")(pairs, other, weight), (pairs, other))
    sdml = torch.func.grad(lambda a, b: fl.SDMLLoss(reduction="sum")(a, b, weight), (0, 1))
    assert_same(sdml(pairs.detach(), other.detach()), want)


def test_gradients_for_a_head_are_transformed() -> None:
    """Those, too, that the forward pass has not computed: its heads of 1 would not give them."""
    x, y, weight = torch.rand(3, 4), torch.softmax(torch.rand(3, 4), -1), torch.ones(3)
    for loss, inputs, wrt in (
        (fl.L2Loss(), (x, y, weight), (2,)),
        (fl.L2Loss(), (x, y, weight), (0, 2)),
        (fl.KLDivLoss(from_logits=False, reduction="none"), (x, y), (0,)),
        (fl.SDMLLoss(), (x, y, weight), (0, 1, 2)),
    ):

        def total(*inputs: Any, loss: Any = loss) -> Any:
            return (loss(*inputs) * 2).sum()

        leaves = [a.clone().requires_grad_() for a in inputs]
        want = torch.autograd.grad(total(*leaves), [leaves[k] for k in wrt])
        assert_same(torch.func.grad(total, wrt)(*inputs), want)
        mapped = torch.func.vmap(torch.func.grad(total, wrt))(*[torch.stack([a, a]) for a in inputs])
        for got, gradient in zip(mapped, want, strict=True):
            assert_same(got[1], gradient)
    with pytest.raises(NotImplementedError, match="no second derivatives of L2Loss in sample_weight"):
        torch.func.grad(lambda w: torch.func.grad(lambda v: fl.L2Loss()(x, y, v).sum())(w).sum())(weight)


@pytest.mark.parametrize(
    "call",
    [
        lambda x, f: torch.func.vmap(lambda p: f(p, p))(x),
        lambda x, f: torch.func.grad(lambda p: f(p, p))(x),
        lambda x, f: f(x.to("meta"), x.to("meta")),
        lambda x, f: torch.fx.symbolic_trace(lambda p: f(p, p)),
    ],
)
def test_validate_looks_at_numbers(call: Any) -> None:
    with pytest.raises(TypeError, match=r"label must hold numbers for validate to read, and .*; call validate"):
        call(torch.ones(3, 2), fl.L2Loss().validate)
    with pytest.raises(TypeError, match=r"got torch.float8_e5m2 .*\.float\(\) makes one of it"):
        fl.L2Loss().validate(torch.ones(3).to(torch.float8_e5m2))
    fl.L2Loss().validate(torch.ones(3).bfloat16())


def test_a_meta_tensor_is_not_to_be_moved() -> None:
    x = torch.ones(3)
    with pytest.raises(TypeError, match=r"out must be a dense tensor .* a tensor on meta has no numbers"):
        fl.L2Loss()(x, x, out=x.to("meta"))


def test_shapes_that_do_not_fit_are_refused() -> None:
    for shape, other in (((5, 1), (1, 5)), ((2, 3, 1), (2, 1, 3)), ((5,), (4, 1))):
        for device in ("cpu", "meta"):
            with pytest.raises(ValueError, match="label must have pred's shape"):
                fl.L2Loss()(torch.zeros(shape, device=device), torch.zeros(other, device=device))


def test_modules_are_printed_short_and_have_the_arguments() -> None:
    model = torch.nn.Sequential(modules.SoftmaxCELoss(class_weight=range(1000)), modules.HuberLoss(rho=2))
    text = repr(model)
    assert text.count("SoftmaxCrossEntropyLoss(") == text.count("HuberLoss(") == 1
    assert "class_weight=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, ...)" in text
    assert len(text) < 500
    for name in modules.LOSSES:
        module = getattr(modules, name)()
        for argument, value in module.loss.arguments:
            assert getattr(module, argument) == value
    huber = model[1]
    huber.rho = 3
    assert huber.loss == fl.HuberLoss(rho=3)
    assert huber(torch.tensor([4.0]), torch.zeros(1)) == 2.5
    with pytest.raises(ValueError, match="rho must be greater than 0"):
        huber.rho = -1
    assert huber.rho == 3

    class Mine(modules.HuberLoss):  # type: ignore[misc]
        """Its own."""

    assert Mine.__doc__ == "Its own."
    assert Mine(2).rho == 2


class Classifier(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self, criterion: Any) -> None:
        super().__init__()
        self.layer, self.criterion = torch.nn.Linear(4, 3), criterion

    def forward(self, x: Any, y: Any) -> Any:
        return self.criterion(self.layer(x), y)


def classifiers() -> tuple[Any, Any, Any, Any]:
    """PyTorch's, ours with its state, and a batch."""
    torch.manual_seed(0)
    theirs = Classifier(torch.nn.CrossEntropyLoss(weight=torch.tensor([1, 3, 0.5])))
    ours = Classifier(modules.SoftmaxCELoss(class_weight=[1, 1, 1], reduction="weighted_mean"))
    x, y = torch.randn(6, 4), torch.tensor([0, 1, 2, 1, 0, 0])
    ours(x, y)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours, x, y


def test_weights_of_classes_are_loaded() -> None:
    theirs, ours, x, y = classifiers()
    torch.testing.assert_close(ours(x, y), theirs(x, y))
    assert ours.criterion.class_weight == (1, 3, 0.5)
    assert ours.criterion.loss == fl.SoftmaxCELoss(class_weight=[1, 3, 0.5], reduction="weighted_mean")
    theirs.load_state_dict(ours.state_dict())
    assert modules.SoftmaxCELoss(weight=2).state_dict() == {}
    assert modules.SoftmaxCELoss(weight=2).weight == 2
    for change in (
        lambda weight: weight.mul_(torch.tensor([1, 2, 3])),
        lambda weight: weight.data.copy_(torch.tensor([3, 2, 1])),
        lambda weight: setattr(ours.criterion, "weight", torch.tensor([0.5, 2, 2])),
        lambda weight: setattr(ours.criterion, "class_weight", [2, 1, 7]),
    ):
        change(ours.criterion.weight)
        theirs.criterion.weight = ours.criterion.weight.float()
        torch.testing.assert_close(ours(x, y), theirs(x, y))
    ours.criterion.reduction = "mean"
    assert ours.criterion.class_weight == (2, 1, 7)
    ours.criterion.class_weight = None
    assert list(ours.state_dict()) == ["layer.weight", "layer.bias"]
    assert modules.SoftmaxCELoss(class_weight=torch.ones(2)).weight.dtype == torch.float32
    assert modules.SoftmaxCELoss(class_weight=torch.ones(2, dtype=torch.int64)).weight.dtype == torch.float64
    halves = torch.tensor([1, 1.5], dtype=torch.bfloat16)
    assert modules.SoftmaxCELoss(class_weight=halves).weight.equal(halves)
    assert fl.SoftmaxCELoss(class_weight=halves) == fl.SoftmaxCELoss(class_weight=[1, 1.5])


def test_numbers_of_bfloat16_flow_back() -> None:
    """NumPy has no such numbers: a head of no axes has a dtype that stands for theirs."""
    x = torch.tensor(3, dtype=torch.bfloat16, requires_grad=True)
    fl.L1Loss(reduction="none")(x, torch.tensor(1, dtype=torch.bfloat16)).backward(torch.tensor(1.5, dtype=x.dtype))
    assert x.grad == 1.5


def test_weights_of_classes_are_moved() -> None:
    _, ours, x, y = classifiers()
    want = ours(x, y)
    for dtype in (torch.float64, torch.bfloat16, torch.float16, torch.float32):
        criterion = ours.criterion.to(dtype)
        assert criterion.weight.dtype == dtype
        assert torch.equal(criterion(ours.layer(x), y), want)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert torch.equal(other(x, y), want)
        other.criterion.weight[1] = 1
        assert not torch.equal(other(x, y), want)
    assert torch.equal(ours(x, y), want)
    without = copy.deepcopy(ours).to("meta")
    assert without(x.to("meta"), y.to("meta")).is_meta
    assert "class_weight=device(type='meta')" in repr(without)
    without.load_state_dict(ours.state_dict(), assign=True)
    assert torch.equal(without(x, y), want)


@jit
def test_weights_of_classes_are_traced() -> None:
    """As state of the program, which another replaces."""
    _, ours, x, y = classifiers()
    other = copy.deepcopy(ours)
    other.criterion.weight.copy_(torch.tensor([4, 1, 2]))

    def compiled(model: Any) -> Any:
        model.compile(backend="aot_eager", fullgraph=True)
        return model

    for trace in (
        lambda model: torch.jit.trace(model, (x, y)),
        torch.fx.symbolic_trace,
        lambda model: torch.export.export(model, (x, y)).module(),
        compiled,
    ):
        program = trace(copy.deepcopy(ours))
        torch.testing.assert_close(program(x, y.flip(0)), ours(x, y.flip(0)))
        program.load_state_dict(other.state_dict())
        torch.testing.assert_close(program(x, y), other(x, y))
        got, want = (torch.autograd.grad(f(x, y), list(f.parameters())) for f in (program, other))
        torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-7)
    state = dict(ours.named_parameters()) | {"criterion.weight": other.criterion.weight}
    want = other(x, y)
    assert torch.equal(torch.func.functional_call(ours, state, (x, y)), want)
    program = make_fx(lambda s: torch.func.functional_call(ours, s, (x, y)))(dict(ours.state_dict()))
    assert torch.equal(program(state), want)
    for weight in (torch.ones(3).requires_grad_(), torch.ones(3, dtype=torch.float64).requires_grad_()):
        with pytest.raises(ValueError, match="class_weight is not differentiable: SoftmaxCrossEntropyLoss has"):
            make_fx(lambda w: torch.func.functional_call(ours, {"criterion.weight": w}, (x, y)))(weight)


@jit
def test_modules_are_traced_by_themselves(trace: Any) -> None:
    for module in (modules.HuberLoss(rho=2), modules.SigmoidBCELoss(reduction="mean")):
        x, y = torch.linspace(-3, 3, 7), torch.linspace(0, 1, 7)
        assert_same(trace(module, (x, y))(x * 2, y), module(x * 2, y))
    alone = torch.fx.symbolic_trace(modules.SoftmaxCELoss(class_weight=[1, 3]))
    assert alone(torch.zeros(2, 2), torch.tensor([0, 1])).tolist() == pytest.approx([np.log(2), 3 * np.log(2)])


@jit
def test_modules_are_not_scripted() -> None:
    for module in (modules.L2Loss(), torch.nn.Sequential(modules.L2Loss())):
        with pytest.raises(TypeError, match=r"does not take L2Loss: use torch\.jit\.trace"):
            torch.jit.script(module)


@jit
def test_saved_programs_in_a_new_process(tmp_path: Path) -> None:
    """They say what to import where it is not, and need no more than it."""
    x, y = torch.zeros(3), torch.ones(3)
    module = modules.L2Loss(reduction="sum")
    torch.export.save(torch.export.export(module, (x, y)), tmp_path / "exported.pt2")
    torch.jit.trace(module, (x, y)).save(tmp_path / "traced.pt")
    torch.save(torch.fx.symbolic_trace(module), tmp_path / "graph.pt")
    program = f"""
import warnings, torch
warnings.simplefilter("ignore")
x, y = torch.zeros(3), torch.full((3,), 5.0)
path = {str(tmp_path)!r}
for load, name in ((torch.export.load, "exported.pt2"), (torch.jit.load, "traced.pt")):
    try:
        load(path + "/" + name)
    except RuntimeError as error:
        print(error)
import fastloss.torch
assert torch.export.load(path + "/exported.pt2").module()(x, y) == 37.5
assert torch.jit.load(path + "/traced.pt")(x, y) == 37.5
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert "torch.ops.fastloss.evaluate.default to an operator" in done.stderr
    assert "Please import the custom op" in done.stderr
    assert "Unknown builtin op: fastloss::evaluate" in done.stdout
    program = f"""
import torch
graph = torch.load({str(tmp_path / "graph.pt")!r}, weights_only=False)
assert graph(torch.zeros(3), torch.full((3,), 5.0)) == 37.5
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_dense_layer_like_mxnet() -> None:
    weight, bias, x = (torch.tensor(DENSE[k], requires_grad=True) for k in ("W", "b", "X"))
    value = fl.L2Loss()(torch.nn.functional.linear(x, weight, bias), torch.tensor(DENSE["y"]))
    value.backward(torch.ones_like(value))
    for k, parameter in (("W", weight), ("b", bias), ("X", x)):
        np.testing.assert_allclose(parameter.grad.numpy(), DENSE[f"grad_{k}"], rtol=1e-6)


def test_training_like_the_framework() -> None:
    """Two layers on the digits: the same curve of losses as with cross_entropy."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    x, y = datasets.load_digits(return_X_y=True)
    x, y = torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)
    curves = []
    for loss in (modules.SoftmaxCELoss(reduction="mean"), torch.nn.CrossEntropyLoss()):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        curve = []
        for _ in range(100):
            optimizer.zero_grad()
            value = loss(model(x), y)
            value.backward()
            optimizer.step()
            curve.append(value.item())
        curves.append(curve)
    assert curves[0][-1] < 0.3 < 2 < curves[0][0]
    np.testing.assert_allclose(*curves, rtol=0, atol=1e-5)


def characters() -> tuple[Any, Any, int]:
    """Eight characters of Python's own documentation, the next one, and how many kinds there are."""
    topics = pytest.importorskip("pydoc_data.topics", reason="this Python has no documentation").topics
    text = topics["assignment"][:2000]
    kinds = sorted(set(text))
    ids = torch.tensor([kinds.index(c) for c in text])
    return ids[:-1].unfold(0, 8, 1), ids[8:], len(kinds)


def digits() -> tuple[Any, Any, int]:
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn has the digits")
    x, y = datasets.load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y), 10


@pytest.mark.parametrize("data", [characters, digits])
def test_training_under_autocast_like_the_framework(data: Any) -> None:
    """A language model of characters, and a network for digits: the curve of cross_entropy, as far as bfloat16 goes."""
    x, y, n = data()
    curves = []
    for loss in (modules.SoftmaxCELoss(reduction="mean"), torch.nn.CrossEntropyLoss()):
        torch.manual_seed(0)
        layers = [torch.nn.LazyLinear(32), torch.nn.Tanh(), torch.nn.Linear(32, n)]
        first = [] if x.is_floating_point() else [torch.nn.Embedding(n, 16), torch.nn.Flatten()]
        model = torch.nn.Sequential(*first, *layers)
        model(x[:1])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        curve = []
        for step in range(60):
            part = slice(step % 8, None, 8)
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x[part])
                value = loss(logits, y[part])
            assert (logits.dtype, value.dtype) == (torch.bfloat16, torch.float32)
            value.backward()
            optimizer.step()
            curve.append(value.item())
        curves.append(curve)
    assert curves[0][-1] < curves[0][0] / 1.5
    np.testing.assert_allclose(*curves, rtol=2**-6)


@pytest.mark.parametrize("name", ENTRIES)
def test_every_module_calls_its_loss(name: str) -> None:
    """By position, in the order of the loss's inputs."""
    entry = ENTRIES[name]
    inputs = {k: torch.from_numpy(a) for k, a in inputs_of(entry, np.random.default_rng(1), 4, np.float64).items()}
    loss = entry.build()
    module = getattr(modules, type(loss).__name__)(**entry.parameters)
    args = [inputs.get(k) for k in loss.inputs]
    torch.testing.assert_close(module(*args), loss(*args), rtol=0, atol=0)


def test_what_has_no_memory_is_refused_by_name() -> None:
    meta = torch.ones(3, 2, device="meta")
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        fl.L2Loss()(meta, meta, nonsense=1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nonsense'"):
        fl.L2Loss().grad(meta, meta, nonsense=1)
    with pytest.raises(TypeError, match=r"head_grad must be a dense tensor on the CPU like pred, got .* on meta"):
        fl.L2Loss().grad(torch.ones(3, 2), torch.ones(3, 2), head_grad=meta[:, 0])
    with pytest.raises(TypeError, match="head_grad must be on meta like pred"):
        fl.L2Loss().grad(meta, meta, head_grad=torch.ones(3))


@pytest.mark.parametrize(
    ("loss", "shapes"),
    [
        (fl.L2Loss(), ((5, 3), (5, 4))),
        (fl.L2Loss(), ((5, 3), (3, 5))),
        (fl.L2Loss(), ((5, 3), (5, 3), (4,))),
        (fl.L2Loss(), ((5, 3), (5, 3), (5, 4))),
        (fl.SoftmaxCELoss(), ((5, 3), (4,))),
        (fl.SoftmaxCELoss(), ((5, 3), (5,), (5, 3))),
        (fl.SigmoidBCELoss(), ((5, 3), (5, 3), (5,), (4,))),
    ],
)
def test_shapes_that_are_symbols_are_compared(loss: fl.Loss, shapes: Any) -> None:
    inputs = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match="must"):
        make_fx(lambda *args: loss(*args), tracing_mode="symbolic")(*inputs)


def test_symbols_fit_but_for_axes_of_size_1() -> None:
    pred, label = torch.rand(5, 1), torch.rand(5)
    program = make_fx(lambda *args: fl.L2Loss()(*args), tracing_mode="symbolic")(pred, label)
    torch.testing.assert_close(program(pred, label), fl.L2Loss()(pred, label))


def test_hessians_in_two_predictions() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 5, 3))
    loss = fl.GaussianNLLLoss(reduction="weighted_mean")

    def call(pred: Any, label: Any, log_variance: Any) -> Any:
        return loss.value_grad_and_hess(pred, label, log_variance, wrt=("pred", "log_variance"))

    value, *want = call(x, y, x[0])
    tensors = [torch.from_numpy(a) for a in (x, y, x[0])]
    for traced in (call, make_fx(call)(*tensors), torch.fx.symbolic_trace(call)):
        found, *got = traced(*tensors)
        assert found.item() == value
        for parts, others in zip(got, want, strict=True):
            for a, b in zip(parts, others, strict=True):
                np.testing.assert_array_equal(a.numpy(), b)
    with pytest.raises(ValueError, match="has no Hessian in label, only in pred and log_variance"):
        loss.grad_and_hess(*tensors, wrt="label")
