"""PyTorch: values, gradients, second derivatives, compiled and transformed calls, modules, training."""

from __future__ import annotations

import copy
import io
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.frameworks import CASES, DENSE, Case
from tests.reference import LOSSES, REDUCTIONS

torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')

from torch.autograd import forward_ad, gradcheck, gradgradcheck  # noqa: E402
from torch.library import opcheck  # noqa: E402

import fastloss.torch as modules  # noqa: E402
from fastloss import backends  # noqa: E402
from fastloss.backends import torch_operators  # noqa: E402


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


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_values_and_gradients_are_numpys(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    inputs = tensors(case)
    value = loss(*inputs.values()) if "pos_weight" not in inputs else loss(**inputs)
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


@pytest.mark.parametrize("name", ["pred", "sample_weight", "label", "pos_weight", "negative", "input2", "x2"])
@pytest.mark.parametrize("reduction", ["example", "none", "mean"])
def test_one_gradient_alone(case: Case, reduction: str, name: str) -> None:
    if name not in case.targets:
        return
    loss = case.build(reduction=reduction)
    inputs = tensors(case, (name,))
    value = loss(**inputs)
    head = heads(value)
    value.backward(head)
    want = loss.grad(**case.inputs, wrt=name, head_grad=head.numpy())
    np.testing.assert_allclose(inputs[name].grad.numpy(), want, rtol=1e-12, atol=1e-14)
    assert all(x.grad is None for other, x in inputs.items() if other != name)


@pytest.mark.parametrize("reduction", ["none", "example", "weighted_mean"])
def test_gradcheck(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    names = tuple(case.inputs)
    assert gradcheck(lambda *x: loss(**dict(zip(names, x, strict=True))), tuple(tensors(case).values()))


@pytest.mark.parametrize("reduction", ["none", "example", "mean"])
def test_second_derivatives_are_right_or_refused(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    inputs = tensors(case, case.targets[:1] if "pred" not in case.targets else ("pred",))
    names = tuple(inputs)

    def call(*x: Any) -> Any:
        return loss(**dict(zip(names, x, strict=True)))

    if loss.is_elementwise:
        assert gradgradcheck(call, tuple(inputs.values()))
    else:
        first = next(iter(inputs.values()))
        (gradient,) = torch.autograd.grad(call(*inputs.values()).sum(), first, create_graph=True)
        with pytest.raises((NotImplementedError, RuntimeError), match=r"second derivatives|gradient"):
            gradient.sum().backward()


def test_mixed_second_derivatives_are_refused() -> None:
    inputs = tensors(CASES["L2"], ("pred", "label"))
    gradients = torch.autograd.grad(fl.L2Loss(reduction="mean")(**inputs), list(inputs.values())[:2], create_graph=True)
    with pytest.raises(NotImplementedError, match="L2Loss in pred, label"):
        gradients[0].sum().backward()


@pytest.mark.parametrize("reduction", ["example", "mean"])
def test_opcheck(case: Case, reduction: str) -> None:
    loss = case.build(reduction=reduction)
    given, inputs = torch_operators.given_tensors([tensors(case).get(name) for name in loss.inputs])
    wrt = [loss.inputs.index(name) for name in case.targets]
    head = torch.ones_like(loss(**tensors(case)).detach())
    opcheck(torch_operators.evaluate, (loss.expression, given, inputs, []))
    opcheck(torch_operators.evaluate, (loss.expression, given, inputs, wrt))
    constants = [x.detach() for x in inputs]
    opcheck(torch_operators.gradient, (loss.expression, given, constants, wrt, head))
    if loss.no_hessian is None:
        opcheck(torch_operators.hessian, (loss.expression, given, constants))


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
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # by PyTorch itself
def test_inductor() -> None:
    loss = fl.SoftmaxCELoss(reduction="mean")
    x, y = torch.randn(6, 5, requires_grad=True), torch.tensor([0, 1, 4, 3, 2, 0])

    def step(x: Any) -> Any:
        return loss(torch.tanh(x), y)

    got, want = (torch.autograd.grad(f(x), x)[0] for f in (torch.compile(step, fullgraph=True), step))
    torch.testing.assert_close(got, want)


LOOKED_FOR = "fastloss, importlib.util; importlib.util.find_spec('torch._dynamo')"


@pytest.mark.parametrize("first", ["fastloss", "torch", "torch._dynamo", LOOKED_FOR])
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


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_dtypes(dtype: str) -> None:
    loss, x = fl.HuberLoss(reduction="mean"), torch.tensor([1, 2, 4]).to(getattr(torch, dtype))
    y = torch.zeros(3, dtype=torch.int32)
    value = loss(x, y)
    assert value.dtype == (torch.float32 if dtype in ("float16", "float32") else torch.float64)
    if dtype != "int64":
        value = loss(x.requires_grad_(), y)
        value.backward()
        assert x.grad is not None
        assert x.grad.dtype == x.dtype
        torch.testing.assert_close(x.grad, torch.full((3,), 1 / 3, dtype=x.dtype))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda x: (x.to("meta"), x), r"pred must be a dense tensor on the CPU.* got torch.float32 on meta"),
        (lambda x: (x, x.to("meta")), r"label must be a dense tensor on the CPU"),
        (lambda x: (x.bfloat16(), x), r"pred must be a dense tensor.* got torch.bfloat16 on cpu"),
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
    with pytest.raises(TypeError, match="out must be a tensor whose numbers are those in its memory"):
        # a view of the other sign
        loss.grad(x, x, out=torch.zeros(3, dtype=torch.complex64).conj().imag)
    with pytest.raises(TypeError, match="out must not require a gradient"):
        loss.grad(x, x, out=torch.empty(3, requires_grad=True))
    with pytest.raises(
        ValueError,
        match="label is to be differentiated, but SoftmaxCrossEntropyLoss has gradients in pred, sample_weight",
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


def test_operators_over_a_batch() -> None:
    x, y = torch.arange(6.0).reshape(3, 2), torch.ones(2)
    loss = fl.LogisticLoss()
    got = torch.func.vmap(lambda x: torch.ops.fastloss.hessian(repr(loss), [0, 1], [x, y]))(x)
    assert torch.equal(got, torch.stack([loss.grad_and_hess(row, y)[1] for row in x]))


def test_a_pytorch_without_compiler_stays_without() -> None:
    assert backends._TorchCompilerFinder().find_spec("torch._dynamo", []) is None


def test_what_the_compiler_sees() -> None:
    loss, x, y = fl.HuberLoss(), torch.tensor([1.0, 2]), torch.zeros(2)
    assert torch.equal(torch_operators.traced(loss, x, label=y, out=None), loss(x, y))
    with pytest.raises(TypeError, match="takes the loss's inputs alone"):
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
    with pytest.raises(TypeError, match="takes the losses of fastloss alone, got L2Loss"):
        torch.func.vmap(loss)(x, y)
    with pytest.raises(Exception, match="takes the losses of fastloss alone, got L2Loss"):
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
            np.testing.assert_array_equal(loss(pred.detach(), label), want)
            value = loss(pred, label.clone().requires_grad_(both))
            np.testing.assert_array_equal(value.detach(), want)
            for _ in range(2):
                (gradient,) = torch.autograd.grad(value.sum(), pred, retain_graph=True)
                np.testing.assert_allclose(gradient, [1, 0.2])
            np.testing.assert_allclose(loss.grad(pred, label), [1.5, 0.3])
            with pytest.raises(TypeError, match="takes the losses of fastloss alone, got HuberLoss"):
                torch.autograd.grad(value.sum(), pred, create_graph=True)[0].sum().backward()


# what PyTorch imports for it
@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")
def test_forward_mode_is_refused() -> None:
    x, y = torch.ones(3), torch.zeros(3)
    loss = fl.L2Loss()
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(x, x)
        assert torch.equal(loss(x, y, out=None), torch.full((3,), 0.5))
        for inputs, name in (((moving, y), "pred"), ((y, moving), "label")):
            for method in (loss, loss.grad):
                with pytest.raises(NotImplementedError, match=f"forward-mode .* {name} has a tangent"):
                    method(*inputs)


@pytest.mark.parametrize(
    "expression", ["kernels.L2()", "number(name='x', x=1)", "L2Loss(1.0)", "L2Loss(weight=print())"]
)
def test_operators_build_losses_alone(expression: str) -> None:
    with pytest.raises(ValueError, match=r"must build a loss of fastloss's from literals|malformed node"):
        torch.ops.fastloss.evaluate(expression, [0, 1], [torch.ones(2), torch.ones(2)], [])


def test_every_loss_has_a_module() -> None:
    assert set(modules.__all__) == set(fl.losses.__all__) - {"Loss"}
    for name in modules.__all__:
        module = getattr(modules, name)
        assert module.kind is getattr(fl, name)
        assert repr(module().loss) in repr(module())


@pytest.mark.parametrize("name", LOSSES)
def test_modules_are_saved_and_restored(name: str) -> None:
    module = getattr(modules, LOSSES[name].loss.__name__)(**LOSSES[name].parameters, reduction="sum")
    stream = io.BytesIO()
    torch.save(torch.nn.Sequential(module), stream)
    stream.seek(0)
    for other in (torch.load(stream, weights_only=False)[0], pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert other.loss == module.loss
    assert module.state_dict() == {}


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
