"""The logarithm of what the softmax divides by: beside its definition, at the edges, and of every library's arrays."""

from __future__ import annotations

from typing import Any

import mpmath as mp
import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl

Array = NDArray[Any]
BIAS = (0.5, -1.0, 2.0, 0.0, -0.25)
OPTIONS: list[dict[str, Any]] = [
    {},
    {"label_smoothing": 0.1, "z_loss": 1.0},
    {"sparse_label": False},
    {"class_weight": (2, 0, 1, 3, -1), "weight": 3, "reduction": "sum", "ignore_index": 0},
    {"softcap": 3},
    {"softcap": 2, "logit_bias": BIAS},
]


def scores(x: Array, softcap: float | None = None, logit_bias: Any = None, **_: Any) -> Array:
    capped = softcap * np.tanh(x / softcap) if softcap else x
    return capped + (0 if logit_bias is None else np.array(logit_bias))


def exact(x: Array) -> list[Any]:
    """log sum e^x of each row, as mpmath's numbers."""
    with mp.workdps(60):
        return [mp.log(mp.fsum([mp.exp(mp.mpf(float(v))) for v in row])) for row in x]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_is_that_of_the_logits_which_the_softmax_takes(options: dict[str, Any], dtype: Any) -> None:
    special = pytest.importorskip("scipy.special", reason="scipy, to compare with, is not installed")
    x = np.random.default_rng(1).normal(scale=4, size=(3, 5, 7)).astype(dtype)
    want = special.logsumexp(scores(np.moveaxis(x, 1, -1).astype(np.float64), **options), axis=-1)
    for loss in (fl.SoftmaxCELoss(axis=1, **options), fl.SoftmaxCELoss(axis=-2, batch_axis=2, **options)):
        got = loss.lse(x)
        assert (got.dtype, got.shape) == (dtype, (3, 7))
        np.testing.assert_allclose(got, want, rtol=4 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)
    # a row is an array of its own, too
    one = fl.SoftmaxCELoss(**options).lse(x[0, :, 0])
    assert (one.shape, one) == ((), got[0, 0])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 10, 3000])
def test_its_error_is_2_units_in_the_last_place_of_the_larger_term(classes: int, dtype: Any) -> None:
    rng = np.random.default_rng(2)
    scale = 10.0 ** rng.uniform(-3, 3, (20, 1))
    x = (rng.normal(size=(20, classes)) * scale + rng.normal(size=(20, 1)) * scale[::-1]).astype(dtype)
    got, want = fl.SoftmaxCELoss().lse(x), exact(x)
    for row, y, z in zip(x, got, want, strict=True):
        term = max(abs(row.max()), abs(float(z - mp.mpf(float(row.max())))))
        assert abs(mp.mpf(float(y)) - z) <= 2 * np.spacing(dtype(term)), (row, y, z)


def test_rows_with_infinities_and_nan() -> None:
    inf, nan = np.inf, np.nan
    rows = [[-inf, -inf], [-inf, 3], [inf, 3], [inf, inf], [inf, -inf], [nan, 0], [inf, nan], [-inf, nan], [nan, nan]]
    want = [-inf, 3, inf, inf, inf, nan, nan, nan, nan]
    for dtype in (np.float32, np.float64):
        x = np.array(rows, dtype)
        np.testing.assert_array_equal(fl.SoftmaxCELoss().lse(x), want)
        long = np.pad(x, ((0, 0), (0, 198)), constant_values=-inf)
        np.testing.assert_array_equal(fl.SoftmaxCELoss().lse(long), want)
        is_edge = ~np.isfinite(want)
        normalizer: Any = fl.SoftmaxCELoss().normalizer
        np.testing.assert_array_equal(np.isnan(normalizer.grad(x)).all(1), is_edge)
        twice = fl.SoftmaxCELoss(axis=0).lse(np.tile(x.T, (2, 1)))
        np.testing.assert_allclose(twice, want + np.log([2]), rtol=np.finfo(dtype).eps)
        largest = fl.SoftmaxCELoss().lse(np.full((1, 3), np.finfo(dtype).max))
        assert largest == np.finfo(dtype).max
    # a cap makes logits finite
    capped = fl.SoftmaxCELoss(softcap=1).lse([[inf, -inf]])
    np.testing.assert_allclose(capped, 1 + np.log1p(np.exp(-2)))


def test_rows_of_no_classes_and_no_rows() -> None:
    np.testing.assert_array_equal(fl.SoftmaxCELoss().lse(np.zeros((2, 0))), [-np.inf, -np.inf])
    assert fl.SoftmaxCELoss().lse(np.zeros((0, 3))).shape == (0,)


def test_every_row_has_one_and_parts_merge() -> None:
    x = np.random.default_rng(3).normal(size=(4, 6))
    loss = fl.SoftmaxCELoss(reduction="none", ignore_index=-1)
    label = np.array([0, 3, 2, 5])
    lse = loss.lse(x)
    np.testing.assert_allclose(loss(x, label), lse - x[np.arange(4), label])
    parts = np.stack([loss.lse(x[:, :2]), loss.lse(x[:, 2:])], 1)
    np.testing.assert_allclose(loss.lse(parts), lse)
    penalty = fl.SoftmaxCELoss(reduction="none", z_loss=0.5)(x, label) - loss(x, label)
    np.testing.assert_allclose(penalty, 0.5 * lse**2)


def test_halves_and_out() -> None:
    x = np.random.default_rng(4).normal(size=(3, 40)).astype(np.float16)
    loss = fl.SoftmaxCELoss()
    wide = np.empty(3, np.float32)
    assert loss.lse(x, out=wide) is wide
    np.testing.assert_array_equal(wide, loss.lse(x.astype(np.float32)))
    half = loss.lse(x)
    assert half.dtype == np.float16
    np.testing.assert_array_equal(half, wide.astype(np.float16))


def test_threads_give_the_same_bits() -> None:
    x = np.random.default_rng(5).normal(size=(3000, 100)).astype(np.float32)
    loss = fl.SoftmaxCELoss()
    with fl.num_threads(1):
        one = loss.lse(x)
    with fl.num_threads(3):
        np.testing.assert_array_equal(loss.lse(x), one)


def test_losses_without_it_say_so() -> None:
    for loss in (fl.L2Loss(), fl.SoftmaxCELoss(from_logits=True), fl.CrammerSingerLoss()):
        with pytest.raises(NotImplementedError, match=f"^{type(loss).__name__} has no lse: it takes no softmax of log"):
            loss.lse([[0.0, 1.0]])
    with pytest.raises(TypeError, match=r"^LogNormalizer needs pred$"):
        fl.SoftmaxCELoss().lse(None)
    with pytest.raises(ValueError, match=r"^pred must have a class axis, got a scalar$"):
        fl.SoftmaxCELoss().lse(1.0)
    with pytest.raises(ValueError, match=r"^pred must have as many classes as logit_bias, 5, got shape"):
        fl.SoftmaxCELoss(logit_bias=BIAS).lse(np.zeros((2, 4)))


X = np.random.default_rng(6).normal(size=(4, 5))


def softmax(x: Array) -> Array:
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def test_torch_differentiates_it_twice() -> None:
    torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    x = torch.tensor(X, requires_grad=True)
    for loss in (fl.SoftmaxCELoss(), fl.SoftmaxCELoss(softcap=2, logit_bias=BIAS)):
        assert torch.autograd.gradcheck(loss.lse, (x,))
        assert torch.autograd.gradgradcheck(loss.lse, (x,))
    loss = fl.SoftmaxCELoss()
    np.testing.assert_allclose(torch.autograd.grad(loss.lse(x).sum(), x)[0], softmax(X))
    each = torch.func.vmap(torch.func.grad(lambda row: loss.lse(row)))(x.detach())
    np.testing.assert_allclose(each, softmax(X))
    half = x.detach().bfloat16()
    assert loss.lse(half).dtype == torch.bfloat16
    assert loss.lse(half, out=torch.empty(4)).dtype == torch.float32


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torch_compiles_it_and_modules_have_it() -> None:
    torch = pytest.importorskip("torch", reason='PyTorch is not installed: pip install -e ".[torch]"')
    modules = pytest.importorskip("fastloss.torch")
    x, label = torch.tensor(X, requires_grad=True), torch.arange(4)
    module = modules.SoftmaxCELoss(class_weight=torch.ones(5), reduction="mean")
    assert torch.equal(module.lse(x), fl.SoftmaxCELoss().lse(x))

    def objective(x: Any) -> Any:
        return fl_loss(x, label) + (fl_loss.lse(x) ** 2).mean()

    fl_loss = fl.SoftmaxCELoss(reduction="mean")
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    want = torch.autograd.grad(objective(x), x)[0]
    torch.testing.assert_close(torch.autograd.grad(compiled(x), x)[0], want)


def test_jax_differentiates_and_compiles_it() -> None:
    jax = pytest.importorskip("jax", reason='JAX is not installed: pip install -e ".[jax]"')
    x = jax.numpy.asarray(X, "float32")
    loss = fl.SoftmaxCELoss()
    got = jax.jit(jax.grad(lambda x: loss.lse(x).sum()))(x)
    np.testing.assert_allclose(got, softmax(X), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(loss.lse)(x), jax.scipy.special.logsumexp(x, axis=-1), rtol=1e-6)


def test_autograd_and_dask() -> None:
    autograd = pytest.importorskip("autograd", reason='autograd is not installed: pip install -e ".[autograd]"')
    loss = fl.SoftmaxCELoss()
    np.testing.assert_allclose(autograd.elementwise_grad(loss.lse)(X), softmax(X))
    da = pytest.importorskip("dask.array", reason='Dask is not installed: pip install -e ".[dask]"')
    lazy = loss.lse(da.from_array(X, chunks=(2, 5)))
    assert lazy.chunks == ((2, 2),)
    np.testing.assert_array_equal(lazy.compute(), loss.lse(X))
