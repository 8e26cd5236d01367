"""The loss of a linear predictor of other libraries' arrays: their own gradients of the same formula, or a refusal."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastloss as fl

RNG = np.random.default_rng(5)
N, D = 50, 8
WRT = ("weight", "bias", "X")


def loss_of(outputs: int, reduction: str) -> fl.LinearLoss:
    """Of chunks of at most a few rows."""
    return fl.LinearLoss(fl.SoftmaxCELoss(reduction=reduction), chunk_bytes=7 * 4 * outputs)


class TestTorch:
    @pytest.fixture(autouse=True)
    def torch(self) -> Any:
        return pytest.importorskip("torch", reason="PyTorch is not installed")

    def inputs(self, torch: Any, outputs: int, dtype: str = "float32") -> Any:
        made = [torch.from_numpy(RNG.normal(size=shape)) for shape in ((N, D), (outputs, D), outputs)]
        made = [x.to(getattr(torch, dtype)).requires_grad_() for x in made]
        return (*made, torch.from_numpy(RNG.integers(0, outputs, N)))

    def expected(self, torch: Any, X: Any, weight: Any, bias: Any, label: Any, reduction: str, factor: float) -> Any:
        X, weight, bias = (x.detach().double().requires_grad_() for x in (X, weight, bias))
        functional = torch.nn.functional
        value = functional.cross_entropy(functional.linear(X, weight, bias), label, reduction=reduction)
        (factor * value).sum().backward()
        return value.detach(), X.grad, weight.grad, bias.grad

    @pytest.mark.parametrize("outputs", [5, 40])
    @pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_backward(self, torch: Any, reduction: str, dtype: str, outputs: int) -> None:
        X, weight, bias, label = self.inputs(torch, outputs, dtype)
        linear = loss_of(outputs, reduction)
        value = linear(X, weight, label, bias=bias)
        total = 2 * value.sum()
        total.backward(retain_graph=True)
        found = value.detach(), X.grad, weight.grad, bias.grad
        tolerance = {"float64": 1e-12, "float32": 1e-5}.get(dtype, 0.05)
        for a, b in zip(found, self.expected(torch, X, weight, bias, label, reduction, 2), strict=True):
            torch.testing.assert_close(a.double(), b, rtol=tolerance, atol=tolerance)
        assert [x.dtype for x in found[1:]] == [X.dtype] * 3
        first = weight.grad.clone()
        total.backward()
        torch.testing.assert_close(weight.grad, 2 * first, rtol=tolerance, atol=tolerance)
        with torch.no_grad():
            again = linear(X, weight, label, bias=bias)
            torch.testing.assert_close(again, value, rtol=tolerance, atol=tolerance)

    def test_one_of_the_inputs(self, torch: Any) -> None:
        X, weight, _, label = self.inputs(torch, 40)
        for names in (["X"], ["weight"]):
            given = {name: x.detach().requires_grad_(name in names) for name, x in (("X", X), ("weight", weight))}
            loss_of(40, "mean")(**given, label=label).backward()
            assert [name for name, x in given.items() if x.grad is not None] == names
        shared = torch.from_numpy(np.broadcast_to(np.float32(0.5), (N, D)).copy())
        whole = loss_of(40, "sum")(shared, weight, label)
        one = loss_of(40, "sum")(np.broadcast_to(np.float32(0.5), (N, D)), weight, label)
        torch.testing.assert_close(whole, one)

    @pytest.mark.parametrize("outputs", [5, 40])
    def test_halves_beyond_the_range_of_float32(self, torch: Any, outputs: int) -> None:
        X, weight, _, label = self.inputs(torch, outputs, "bfloat16")
        loss = fl.SoftmaxCELoss(reduction="weighted_mean", weight=1e39)
        examples = torch.ones(N, dtype=torch.bfloat16)
        fl.LinearLoss(loss)(X, weight, label, examples).backward()
        expected = fl.LinearLoss(loss).grad(X.detach().double(), weight.detach().double(), label, examples.double())
        assert weight.grad.dtype == torch.bfloat16
        torch.testing.assert_close(weight.grad, expected.bfloat16())

    def test_under_transforms(self, torch: Any) -> None:
        X, weight, bias, label = self.inputs(torch, 40)
        for reduction in ("mean", "none"):
            linear = loss_of(40, reduction)
            expected = self.expected(torch, X, weight, bias, label, reduction, 1)
            found = torch.func.grad(lambda w, linear=linear: linear(X, w, label, bias=bias).sum())(weight)
            torch.testing.assert_close(found.double(), expected[2], rtol=1e-5, atol=1e-5)
            for reentrant in (False, True):
                weight.grad = None
                checkpoint = torch.utils.checkpoint.checkpoint
                checkpoint(linear, X, weight, label, None, bias, use_reentrant=reentrant).sum().backward()
                torch.testing.assert_close(weight.grad.double(), expected[2], rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_compiled(self, torch: Any, reduction: str) -> None:
        X, weight, bias, label = self.inputs(torch, 40)
        linear = loss_of(40, reduction)
        compiled = torch.compile(
            lambda X, weight: linear(X, weight, label, bias=bias), backend="aot_eager", fullgraph=True
        )
        value = compiled(X, weight)
        value.sum().backward()
        expected = self.expected(torch, X, weight, bias, label, reduction, 1)
        for a, b in zip((value.detach(), X.grad, weight.grad, bias.grad), expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_traced(self, torch: Any, dtype: str) -> None:
        X, weight, _, label = (x.detach() for x in self.inputs(torch, 40, dtype))
        make_fx = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
        for reduction in ("mean", "none"):
            linear = loss_of(40, reduction)
            traced = make_fx(linear, tracing_mode="fake")(X, weight, label)
            torch.testing.assert_close(traced(X, weight, label), linear(X, weight, label))

        def product(X: Any, weight: Any, label: Any) -> Any:
            slope = torch.func.grad(lambda w: loss_of(40, "mean")(X, w, label))
            return torch.func.vjp(slope, weight)[1](weight)[0]

        traced = make_fx(product, tracing_mode="fake")(X, weight, label)
        torch.testing.assert_close(traced(X, weight, label), product(X, weight, label))

    def test_modules(self, torch: Any) -> None:
        import fastloss.torch

        X, weight, bias, label = self.inputs(torch, 40)
        own = fl.SoftmaxCELoss(reduction="mean")
        expected = fl.LinearLoss(own)(X, weight, label, bias=bias)
        for loss in (own, fastloss.torch.SoftmaxCELoss(reduction="mean")):
            module = fastloss.torch.LinearLoss(loss)
            assert module(X, weight, label, bias=bias) == expected
            assert "chunk_bytes=33554432" in repr(module)
        weights = torch.ones(40)
        module = fastloss.torch.LinearLoss(fastloss.torch.SoftmaxCELoss(reduction="mean", class_weight=weights))
        assert module(X, weight, label, bias=bias) == expected
        with pytest.raises(TypeError, match="loss must be a loss of fastloss"):
            fastloss.torch.LinearLoss(torch.nn.MSELoss())

    def test_other_methods(self, torch: Any) -> None:
        X, weight, bias, label = (x.detach() for x in self.inputs(torch, 40))
        linear = loss_of(40, "mean")
        arrays: Any = [x.numpy() for x in (X, weight, label)]
        out = torch.empty_like(weight)
        assert linear.grad(X, weight, label, bias=bias, out=out, head_grad=torch.tensor(2.0)) is out
        expected = linear.grad(arrays[0], arrays[1], arrays[2], bias=bias.numpy(), head_grad=2)
        np.testing.assert_allclose(out.numpy(), expected, rtol=1e-5, atol=1e-7)
        found = linear.hvp(X, weight, label, (weight, bias), bias=bias)
        expected = linear.hvp(arrays[0], arrays[1], arrays[2], (arrays[1], bias.numpy()), bias=bias.numpy())
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a.numpy(), b, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            linear.hvp(X, weight, label, weight).numpy(), linear.hvp(*arrays, arrays[1]), rtol=1e-4, atol=1e-6
        )
        found = linear.hess(X, weight[:3], label % 3)
        np.testing.assert_allclose(found, linear.hess(arrays[0], arrays[1][:3], arrays[2] % 3))

    @pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    def test_refusals(self, torch: Any) -> None:
        X, weight, _, label = self.inputs(torch, 40)
        linear, each = loss_of(40, "mean"), loss_of(40, "none")
        with pytest.raises(ValueError, match=r"sample_weight is not differentiable: .* give sample_weight.detach\(\)"):
            linear(X, weight, label, torch.ones(N, requires_grad=True))
        with pytest.raises(TypeError, match="grad of LinearLoss takes no tensors inside of PyTorch's transforms"):
            torch.func.vmap(lambda x: linear.grad(x, weight, label))(X[None])
        (slope,) = torch.autograd.grad(linear(X, weight, label), X, create_graph=True)
        with pytest.raises(NotImplementedError, match="no second derivatives of LinearLoss in X"):
            slope.sum().backward()
        (slope,) = torch.autograd.grad((each(X, weight, label) ** 2).sum(), weight, create_graph=True)
        with pytest.raises(NotImplementedError, match="no derivative in head_grad"):
            slope.sum().backward()
        X, weight = X.detach(), weight.detach()
        along = functools.partial(torch.func.jvp, primals=(weight,), tangents=(weight,))
        with pytest.raises(NotImplementedError, match="no forward-mode derivatives of LinearLoss with a value for"):
            along(lambda w: each(X, w, label))
        with pytest.raises(ValueError, match=r"sample_weight is not differentiable: .* give sample_weight.detach\(\)"):
            torch.func.jvp(lambda w: linear(X, weight, label, w), (torch.ones(N),), (torch.ones(N),))
        slope_of = torch.func.grad(lambda w: linear(X, w, label))
        with pytest.raises(NotImplementedError, match="no third derivatives of LinearLoss"):
            torch.func.grad(lambda w: along(slope_of, primals=(w,))[1].sum())(weight)
        with pytest.raises(NotImplementedError, match="no third derivatives of LinearLoss"):
            along(lambda w: along(slope_of, primals=(w,))[1].sum())
        weight.requires_grad_()
        make_fx = importlib.import_module("torch.fx.experimental.proxy_tensor").make_fx
        for loss in (linear, each):
            traced = make_fx(loss)(X, weight, label)
            (slope,) = torch.autograd.grad(traced(X, weight, label).sum(), weight, create_graph=True)
            with pytest.raises(NotImplementedError, match="no second derivatives of a compiled LinearLoss"):
                slope.sum().backward()

    @pytest.mark.parametrize("outputs", [None, 5, 40])
    def test_second_derivatives(self, torch: Any, outputs: int | None) -> None:
        """Hessians times vectors, by double backward and by forward over reverse, beside those of the method."""
        X, weight, bias, label = (x.detach() for x in self.inputs(torch, outputs or 1, "float64"))
        loss: Any = fl.SoftmaxCELoss
        if outputs is None:
            weight, bias, label, loss = weight[0], bias[0], label % 2, fl.LogisticLoss
        vector, func = (weight.flip(0) + 1, bias + 2), torch.func
        for reduction in ("mean", "none"):
            linear = fl.LinearLoss(loss(reduction=reduction), chunk_bytes=7 * 8 * (outputs or 1))
            both = linear.hvp(X, weight, label, vector, bias=bias)
            alone = linear.hvp(X, weight, label, vector[0])

            def total(weight: Any, bias: Any = None, linear: Any = linear) -> Any:
                return linear(X, weight, label, bias=bias).sum()

            leaves = weight.clone().requires_grad_(), bias.clone().requires_grad_()
            slopes = torch.autograd.grad(total(*leaves), leaves, create_graph=True)
            torch.testing.assert_close(torch.autograd.grad(slopes, leaves, vector), both)
            (slope,) = torch.autograd.grad(total(leaves[0]), leaves[0], create_graph=True)
            torch.testing.assert_close(torch.autograd.grad(slope, leaves[0], vector[0])[0], alone)
            _, pull = func.vjp(func.grad(total, (0, 1)), weight, bias)
            torch.testing.assert_close(pull(vector), both)
            # those of bias alone
            _, pull = func.vjp(func.grad(total, 1), weight, bias)
            want = linear.hvp(X, weight, label, (0 * weight, vector[1]), bias=bias)
            torch.testing.assert_close(pull(vector[1]), want)
            if reduction == "none":
                continue
            value, change = func.jvp(total, (weight, bias), vector)
            slopes = linear.grad(X, weight, label, bias=bias, wrt=("weight", "bias"))
            torch.testing.assert_close(value, total(weight, bias))
            torch.testing.assert_close(change, (slopes[0] * vector[0]).sum() + (slopes[1] * vector[1]).sum())
            torch.testing.assert_close(func.jvp(func.grad(total, (0, 1)), (weight, bias), vector)[1], both)
            assert func.grad(lambda w, total=total: func.jvp(total, (w,), vector[:1])[1])(weight).equal(alone)
            squares = func.grad(lambda w, b, total=total: func.grad(total)(w, b).square().sum() / 2, (0, 1))
            torch.testing.assert_close(
                squares(weight, bias), linear.hvp(X, weight, label, (slopes[0], 0 * bias), bias=bias)
            )

    def test_mapped(self, torch: Any) -> None:
        X, weight, _, label = (x.detach() for x in self.inputs(torch, 3, "float64"))
        for reduction in ("mean", "none"):
            linear = loss_of(3, reduction)
            total = lambda w, x=X, linear=linear: linear(x, w, label).sum()  # noqa: E731
            batch = torch.stack([X, 2 * X])
            found = torch.func.vmap(torch.func.grad(total), (None, 0))(weight, batch)
            torch.testing.assert_close(found, torch.stack([linear.grad(x, weight, label) for x in batch]))
            whole = torch.func.jacrev(torch.func.grad(total))(weight)
            want = linear.hess(X, weight, label)
            torch.testing.assert_close(whole.reshape(want.shape), torch.as_tensor(want))
        linear = loss_of(3, "mean")
        torch.testing.assert_close(torch.func.hessian(lambda w: linear(X, w, label))(weight), whole / N)


def numpy_inputs(outputs: int) -> tuple[Any, Any, Any, Any]:
    X, weight, bias = (RNG.normal(size=shape) for shape in ((N, D), (outputs, D), outputs))
    return X, weight, bias, RNG.integers(0, outputs, N)


class TestJax:
    """By chunks of at most seven rows."""

    @pytest.fixture(autouse=True)
    def jax(self) -> Any:
        return pytest.importorskip("jax", reason="JAX is not installed")

    def case(self, jax: Any, reduction: str) -> tuple[fl.LinearLoss, dict[str, Any], tuple[Any, ...]]:
        """A loss of classes, with all that a weighted mean counts; and the same inputs of NumPy, in float64."""
        X, weight, bias, label = (np.asarray(x, np.float32) for x in numpy_inputs(40))
        loss = fl.SoftmaxCELoss(
            reduction=reduction, ignore_index=0, class_weight=np.linspace(1, 2, 40).tolist(), weight=1.5
        )
        examples = (np.arange(N) % 4).astype(np.float32)
        given = {"X": X, "weight": weight, "label": label.astype(int), "sample_weight": examples, "bias": bias}
        expected = fl.LinearLoss(loss).value_and_grad(
            **{name: x if name == "label" else x.astype(float) for name, x in given.items()}, wrt=WRT
        )
        arrays = {name: jax.numpy.asarray(x) for name, x in given.items()}
        return fl.LinearLoss(loss, chunk_bytes=7 * 4 * 40), arrays, expected

    @pytest.mark.parametrize("reduction", ["mean", "weighted_mean", "sum", "none"])
    def test_values_and_gradients(self, jax: Any, reduction: str) -> None:
        linear, given, (value, slopes) = self.case(jax, reduction)

        def total(*own: Any) -> Any:
            return linear(**given | dict(zip(WRT, own, strict=True))).sum()

        own = [given[name] for name in WRT]
        for wrap in (jax.jit, lambda f: f)[: 1 + (reduction == "weighted_mean")]:
            np.testing.assert_allclose(wrap(linear)(**given), value, rtol=1e-5, atol=1e-6)
            found, gradients = wrap(jax.value_and_grad(total, (0, 1, 2)))(*own)
            np.testing.assert_allclose(found, np.sum(value), rtol=1e-5)
            for a, b in zip(gradients, slopes, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)

    def test_other_derivatives(self, jax: Any) -> None:
        """Forward mode, second derivatives, batches, and derivatives in the weights of examples."""
        linear, given, (value, slopes) = self.case(jax, "weighted_mean")
        vector = given["weight"] + 1

        def total(weight: Any, examples: Any = given["sample_weight"]) -> Any:
            return linear(**given | {"weight": weight, "sample_weight": examples})

        def derivatives(weight: Any) -> Any:
            forward = jax.jvp(jax.grad(total), (weight,), (vector,))[1]
            backward = jax.grad(lambda w: (jax.grad(total)(w) * vector).sum())(weight)
            both = jax.vmap(jax.value_and_grad(total))(jax.numpy.stack([weight, vector]))
            return jax.jvp(total, (weight,), (vector,)), (forward, backward), both

        (found, change), products, both = jax.jit(derivatives)(given["weight"])
        np.testing.assert_allclose(found, value, rtol=1e-5)
        np.testing.assert_allclose(change, (slopes[0] * np.asarray(vector)).sum(), rtol=1e-4)
        numbers = {name: np.asarray(x) for name, x in given.items()}
        want = linear.hvp(**numbers, vector=(np.asarray(vector), 0 * numbers["bias"]))[0]
        for product in products:
            np.testing.assert_allclose(product, want, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(both[0], [value, total(vector)], rtol=1e-5)
        np.testing.assert_allclose(both[1][0], slopes[0], rtol=1e-4, atol=1e-5)
        examples, step = given["sample_weight"], np.where(np.arange(N) == 7, 0.25, 0)
        ends = [total(given["weight"], examples + sign * step) for sign in (1, -1)]
        slope = jax.grad(total, 1)(given["weight"], examples)
        np.testing.assert_allclose(slope[7], (ends[0] - ends[1]) / 0.5, rtol=1e-2)

    def test_what_is_left_out_may_hold_anything(self, jax: Any) -> None:
        linear, given, (value, slopes) = self.case(jax, "mean")
        lost = (np.asarray(given["sample_weight"]) == 0) | (np.asarray(given["label"]) == 0)
        given["X"] = jax.numpy.where(lost[:, None], np.inf, given["X"])
        found, slope = jax.value_and_grad(lambda w: linear(**given | {"weight": w}))(given["weight"])
        np.testing.assert_allclose(found, value, rtol=1e-5)
        np.testing.assert_allclose(slope, slopes[0], rtol=1e-4, atol=1e-5)

    def test_inputs_of_rows_and_of_all(self, jax: Any) -> None:
        """Numbers for each output, a label of which all rows share a part, and no weights."""
        X, weight, _, _ = (np.asarray(x, np.float32) for x in numpy_inputs(40))
        labels, numbers = RNG.random((N, 40)).astype(np.float32), RNG.uniform(0.2, 0.8, 40).astype(np.float32)
        for reduction in ("weighted_mean", "example", "none"):
            linear = fl.LinearLoss(fl.QuantileLoss(reduction=reduction), chunk_bytes=7 * 4 * 40)
            want = linear(X, weight, labels, quantile=numbers)
            found = linear(*map(jax.numpy.asarray, (X, weight, labels)), quantile=jax.numpy.asarray(numbers))
            np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-6)
        ids = fl.LinearLoss(fl.SoftmaxCELoss(reduction="weighted_mean"))
        label = RNG.integers(0, 3, N)
        want = fl.LinearLoss(fl.SoftmaxCELoss()).grad(X, weight[:3], label)
        few = jax.grad(lambda w: fl.LinearLoss(fl.SoftmaxCELoss())(X, w, label).sum())(jax.numpy.asarray(weight[:3]))
        np.testing.assert_allclose(few, want, rtol=1e-4, atol=1e-5)
        none = ids(jax.numpy.zeros((0, D)), jax.numpy.asarray(weight), jax.numpy.zeros(0, int))
        assert none == 0
        # one chunk, and the derivative in rows alone
        each = fl.LinearLoss(fl.SoftmaxCELoss(reduction="none"))
        slope = jax.grad(lambda X: ids(X, weight, label))(jax.numpy.asarray(X))
        np.testing.assert_allclose(slope, ids.grad(X, weight, label, wrt="X"), rtol=1e-4, atol=1e-6)
        found = each(jax.numpy.asarray(X), weight, label)
        np.testing.assert_allclose(found, each(X, weight, label), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("reduction", ["mean", "none"])
    def test_halves(self, jax: Any, reduction: str) -> None:
        """Products and sums are made in float32."""
        jnp = jax.numpy
        X, weight, bias, label = numpy_inputs(40)
        halves = [jnp.asarray(x, jnp.bfloat16) for x in (X, weight, bias)]
        single = [x.astype(np.float32) for x in halves]
        linear = loss_of(40, reduction)

        def call(X: Any, weight: Any, bias: Any) -> Any:
            return linear(X, weight, label, bias=bias).sum()

        assert linear(*halves[:2], label).dtype == (jnp.bfloat16 if reduction == "none" else jnp.float32)
        gradients = jax.jit(jax.grad(call, (0, 1, 2)))
        for a, b in zip(gradients(*halves), gradients(*single), strict=True):
            assert a.dtype == jnp.bfloat16
            np.testing.assert_allclose(a.astype(np.float32), b, rtol=1e-2, atol=1e-4)

    def test_memory(self, jax: Any) -> None:
        """A compiled program takes little more than the scores of a chunk: parts of a product with the weights."""
        shapes = ((2048, 64), "f4"), ((8000, 64), "f4"), ((2048,), "i4")
        X, weight, label = (jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes)
        linear = fl.LinearLoss(fl.SoftmaxCELoss(reduction="mean"), chunk_bytes=1 << 21)
        program = jax.jit(jax.value_and_grad(lambda X, w, y: linear(X, w, y), (0, 1))).lower(X, weight, label).compile()
        assert program.memory_analysis().temp_size_in_bytes < (1 << 21) + (5 << 20)

    def test_refusals(self, jax: Any) -> None:
        X, weight, bias, label = (jax.numpy.asarray(x) for x in numpy_inputs(40))
        linear = loss_of(40, "mean")
        with pytest.raises(ValueError, match=r"weight must have shape \(7,\), or one of these for each output"):
            linear(X[:, 1:], weight, label)
        with pytest.raises(ValueError, match=r"bias must have shape \(40,\)"):
            linear(X, weight, label, bias=bias[1:])
        with pytest.raises(ValueError, match=r"label must have pred's shape \(50, 40\) without axis 1"):
            linear(X, weight, label[1:])
        with pytest.raises(ValueError, match="loss must have batch_axis=0 and axis=-1"):
            fl.LinearLoss(fl.SoftmaxCELoss(axis=0))(X, weight, jax.numpy.zeros(40, int))


@pytest.mark.parametrize("library", ["jax", "autograd"])
def test_composed(library: str) -> None:
    module = pytest.importorskip(library, reason=f"{library} is not installed")
    grad = module.grad
    numpy = importlib.import_module(f"{library}.numpy")
    X, weight, bias, label = (numpy.asarray(x) for x in numpy_inputs(40))
    linear = loss_of(40, "mean")
    arrays = [np.asarray(x) for x in (X, weight, label)]
    given = {"bias": np.asarray(bias)}
    found = grad(lambda w: linear(X, w, label, bias=bias))(weight)
    np.testing.assert_allclose(found, linear.grad(*arrays, **given), rtol=1e-4, atol=1e-6)
    found = grad(lambda w: linear(X.tolist(), w, label))(weight)
    np.testing.assert_allclose(found, linear.grad(*arrays), rtol=1e-4, atol=1e-6)
    with pytest.raises(TypeError, match=r"grad of LinearLoss takes no arrays of (JAX|autograd)"):
        grad(lambda w: linear.grad(X, w, label).sum())(weight)


class TestDask:
    @pytest.fixture(autouse=True)
    def array(self) -> Any:
        return pytest.importorskip("dask.array", reason="Dask is not installed")

    @pytest.mark.parametrize("outputs", [5, 40])
    @pytest.mark.parametrize("reduction", ["weighted_mean", "mean", "example"])
    def test_chunks(self, array: Any, reduction: str, outputs: int) -> None:
        X, weight, bias, label = numpy_inputs(outputs)
        linear = fl.LinearLoss(fl.SoftmaxCELoss(reduction=reduction, ignore_index=0))
        examples, wrt = RNG.integers(0, 3, N), ("weight", "bias", "X")
        expected = linear.value_and_grad(X, weight, label, examples, bias, wrt=wrt, head_grad=3)
        for lazy in (lambda x: x, lambda x: array.from_array(x, chunks=13)):
            given = array.from_array(X, chunks=(20, -1)), weight, lazy(label), lazy(examples), bias
            value, gradients = linear.value_and_grad(*given, wrt=wrt, head_grad=3)
            assert isinstance(value, array.Array)
            np.testing.assert_allclose(value.compute(), expected[0], rtol=1e-12)
            for a, b in zip(gradients, expected[1], strict=True):
                np.testing.assert_allclose(a.compute(), b, rtol=1e-9, atol=1e-13)
            np.testing.assert_allclose(linear(*given).compute(), expected[0], rtol=1e-12)
            found = linear.grad(*given[:1], array.from_array(weight), *given[2:], head_grad=3)
            np.testing.assert_allclose(found.compute(), expected[1][0], rtol=1e-9, atol=1e-13)
        whole = array.from_array(X.astype(np.float32), chunks=(20, -1))
        assert linear(whole, weight, label).dtype == (np.float64 if reduction != "example" else np.float32)

    def test_refusals(self, array: Any) -> None:
        X, weight, _, label = numpy_inputs(5)
        lazy, linear = array.from_array(X, chunks=(20, -1)), loss_of(5, "weighted_mean")
        with pytest.raises(TypeError, match="hess of LinearLoss of Dask's arrays gives the value and gradients alone"):
            linear.hess(lazy, weight, label)
        with pytest.raises(TypeError, match=r"X must be an array of Dask .* take da.from_array\(X\)"):
            linear(X, weight, array.from_array(label))
        with pytest.raises(ValueError, match="X must have two axes"):
            linear(lazy[0], weight, label)
        with pytest.raises(ValueError, match=r"X must be one chunk along axis 1, .* rechunk\({1: -1}\)"):
            linear(lazy.rechunk({1: 4}), weight, label)
        with pytest.raises(ValueError, match="sample_weight must have a sum with a reciprocal"):
            linear(lazy, weight, label, np.full(N, 1e-310)).compute()


@pytest.mark.slow
def test_rows_that_no_memory_holds(tmp_path: Path) -> None:
    """4 GB in a file: read in this process, and by two workers of 1 GB each."""
    array = pytest.importorskip("dask.array", reason="Dask is not installed")
    distributed = pytest.importorskip("distributed", reason="Dask's workers are not installed")
    n, d, rows = 10_000_000, 100, 250_000
    X = np.memmap(tmp_path / "rows", np.float32, "w+", shape=(n, d))
    for start in range(0, n, rows):
        X[start : start + rows] = np.random.default_rng(start).standard_normal((rows, d), np.float32)
    X.flush()
    label, weight = np.arange(n) % 2, np.full(d, 0.1, np.float32)
    linear = fl.LinearLoss(fl.SigmoidBCELoss(reduction="mean"))
    value, gradient = linear.value_and_grad(X, weight, label)

    def part(start: int) -> Any:
        return np.memmap(tmp_path / "rows", np.float32, "r", offset=4 * d * start, shape=(rows, d))

    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, memory_limit="1GB", dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster),
    ):
        dask = importlib.import_module("dask")
        pieces = [array.from_delayed(dask.delayed(part)(k), (rows, d), np.float32) for k in range(0, n, rows)]
        lazy = linear.value_and_grad(array.concatenate(pieces), weight, array.arange(n, chunks=rows) % 2)
        found = dask.compute(*lazy)
        assert found[0] == pytest.approx(value, rel=1e-6)
        np.testing.assert_allclose(found[1], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_lazy_results_of_halves_have_the_dtypes_that_they_say(half: str) -> None:
    array = pytest.importorskip("dask.array", reason="Dask is not installed")
    dtype = getattr(pytest.importorskip("ml_dtypes", reason="gives NumPy a bfloat16"), half, np.float16)
    X, weight, label = np.ones((6, 3), dtype), np.zeros(3, dtype), np.zeros(6, np.float32)
    linear = fl.LinearLoss(fl.L2Loss(reduction="none"))
    wants = linear.value_and_grad(X, weight, label, wrt=("weight", "X"))
    founds = linear.value_and_grad(array.from_array(X, chunks=(2, 3)), weight, label, wrt=("weight", "X"))
    for found, want in zip((founds[0], *founds[1]), (wants[0], *wants[1]), strict=True):
        assert found.dtype == found.compute().dtype == want.dtype
        np.testing.assert_array_equal(found.compute().astype(float), want.astype(float))
