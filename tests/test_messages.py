"""What a refusal says of what came, and what to do about it; and what need not be refused."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import fastloss as fl
from tests.frameworks import CASES
from tests.hostile import OnlyDLPack

X = np.zeros(4)
L2 = fl.L2Loss()
CLASSES = list(dict.fromkeys(getattr(fl, name) for name in fl.losses.__all__ if name != "Loss"))


def like(module: str, name: str, *bases: str, **members: Any) -> Any:
    """An object that looks like one of a library that need not be here, by its type and what that derives from."""
    kinds: tuple[type, ...] = tuple(type(base, (), {"__module__": module}) for base in bases)
    return type(name, kinds, {"__module__": module} | members)()


def method(self: Any) -> None:
    raise AssertionError("nothing may be called")


class Codes:
    codes = np.zeros(4)


class Columns:
    """A table of several columns as pandas has it."""

    def __init__(self, **dtypes: Any) -> None:
        self.columns, self.dtypes = list(dtypes), list(dtypes.values())

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array([["a"] * len(self.columns)] * 4, object)


class Categories:
    dtype = "category"

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.array(["a", "b", "a", "b"], object)


class CategoricalSeries(Categories):
    cat = None


class Elsewhere:
    """What holds its memory on another device, and says so when it is asked for it."""

    def __dlpack__(self, **named: Any) -> Any:
        raise BufferError("the memory is on a device of type 2")

    def __dlpack_device__(self) -> Any:
        return 2, 0


MANY = {f"c{k}": np.dtype(object) for k in range(5)}
SPARSE = r"it is sparse: \.toarray\(\)"
LABELS = r"\.get_label\(\)"
TEXT = r"\.astype\(float\), or number classes with np.unique"
THINGS: dict[str, tuple[Callable[[], Any], str]] = {
    "csr_matrix": (lambda: like("scipy.sparse._csr", "csr_matrix", "spmatrix"), rf"got csr_matrix; {SPARSE}"),
    "coo_array": (lambda: like("scipy.sparse._coo", "coo_array", toarray=method), rf"got coo_array; {SPARSE}"),
    "an old csc_matrix": (lambda: like("scipy.sparse.csc", "csc_matrix"), rf"got csc_matrix; {SPARSE}"),
    "COO": (lambda: like("sparse", "COO", todense=method), r"it is sparse: \.todense\(\)"),
    "DMatrix": (lambda: like("xgboost.core", "DMatrix", get_label=method), f"got DMatrix; .*{LABELS}"),
    "DMatrix without methods": (lambda: like("xgboost.core", "DMatrix"), f"got DMatrix; .*{LABELS}"),
    "QuantileDMatrix": (lambda: like("xgboost.core", "QuantileDMatrix", "DMatrix"), f"got QuantileDMatrix; .*{LABELS}"),
    "Dataset": (lambda: like("lightgbm.basic", "Dataset", get_label=method), f"got Dataset; .*{LABELS}"),
    "Dataset without methods": (lambda: like("lightgbm.basic", "Dataset"), f"got Dataset; .*{LABELS}"),
    "Pool": (lambda: like("catboost.core", "Pool", get_label=method), f"got Pool; .*{LABELS}"),
    "LazyFrame": (
        lambda: like("polars.lazyframe.frame", "LazyFrame", collect=method),
        r"got LazyFrame; .*\.collect\(\)",
    ),
    "LazyFrame without methods": (
        lambda: like("polars.lazyframe.frame", "LazyFrame"),
        r"got LazyFrame; .*\.collect\(\)",
    ),
    "pyspark": (lambda: like("pyspark.sql", "DataFrame", toPandas=method), r"\.toPandas\(\) collects it"),
    "MXNet": (lambda: like("mxnet.ndarray", "NDArray", asnumpy=method), r"\.asnumpy\(\)"),
    "another device": (Elsewhere, "got Elsewhere: the memory is on a device of type 2"),
    "table": (
        lambda: Columns(a=np.dtype(float), b="category", c=np.dtype(object)),
        r"dtype object of a Columns; these columns hold no numbers: 'b' \(category\), 'c' \(object\); drop them",
    ),
    "wide table": (lambda: Columns(**MANY), r"'c0' \(object\), 'c1' \(object\), 'c2' \(object\) and 2 more; "),
    "mixed table": (lambda: Columns(a=np.dtype(float), b=np.dtype(bool)), r"make its columns alike: \.astype\(float\)"),
    "categories": (Categories, r"it is categorical: \.codes numbers the categories"),
    "column of categories": (CategoricalSeries, r"it is categorical: \.cat\.codes numbers the categories"),
    "list of text": (lambda: ["a", "b", "a", "b"], f"got dtype <U1; .*{TEXT}"),
    "text": (lambda: np.array(["1", "0", "1", "1"]), f"got dtype <U1; .*{TEXT}"),
    "bytes": (lambda: np.array([b"1", b"0", b"1", b"1"]), f"got dtype .S1; .*{TEXT}"),
    "text of any length": (lambda: np.array(["1"] * 4, np.dtypes.StringDType()), f"got dtype StringDType.*; .*{TEXT}"),
    "dates": (lambda: np.zeros(4, "M8[s]"), r"got dtype datetime64\[s\]; count from a date"),
    "durations": (lambda: np.zeros(4, "m8[s]"), r"got dtype timedelta64\[s\]; divide by a unit"),
    "complex": (lambda: X + 1j, r"got dtype complex128; take its \.real"),
    "fields": (lambda: np.zeros(4, "i4,f4"), r"take one of its fields: x\['f0'\]"),
    "objects": (lambda: X.astype(object), r"got dtype object; convert its objects to numbers: \.astype\(float\)"),
    "fractions": (lambda: [Fraction(1, 2)] * 4, r"got dtype object; convert its objects to numbers: \.astype\(float\)"),
    "missing": (lambda: [1, None, 2, 3], r"at position \(1,\) is a NoneType: np\.nan stands for a missing number"),
    "missing in pandas": (lambda: np.array([1, like("pandas", "NAType")]), r"is a NAType: np\.nan stands for"),
    "text among objects": (lambda: np.array([1, "a"], object), r"at position \(1,\) is a str: it is no number"),
    "ragged": (lambda: [[1, 2], [3]], "got list: .*inhomogeneous"),
    "set": (lambda: {1.0}, "got set; a set has no order: give a list"),
    "frozenset": (lambda: frozenset({1.0}), "got frozenset; a set has no order"),
    "dict": (lambda: {"label": X}, "got dict; give the value of one of its keys"),
    "values of a dict": (lambda: {"label": 1.0}.values(), "got dict_values"),
    "generator": (lambda: (x for x in X), "got generator; it can be read only once: make a list"),
    "map": (lambda: map(float, X), "got map; it can be read only once: make a list"),
    "function": (lambda: len, "got builtin_function_or_method; call it, and give the result"),
    "object": (object, "got object$"),
    "masked": (lambda: np.ma.masked_array(X, [0, 0, 1, 0]), "its mask would be dropped; fill it"),
}


@pytest.mark.parametrize("name", THINGS)
def test_what_came_and_what_to_do(name: str) -> None:
    make, message = THINGS[name]
    with pytest.raises(TypeError, match=rf"^label must (be an array of real numbers, )?.*{message}"):
        L2(X, make())
    with pytest.raises(TypeError, match=r"^pred must .*"):
        L2.grad(make(), X)
    with pytest.raises(TypeError, match=r"^label must .*"):
        L2.validate(make())
    with pytest.raises(TypeError, match=r"^class_weight must .*"):
        fl.SoftmaxCELoss(class_weight=make())


def test_weights_are_asked_for_as_such() -> None:
    with pytest.raises(TypeError, match=r"^sample_weight must .* got DMatrix; .*\.get_weight\(\)"):
        L2(X, X, like("xgboost.core", "DMatrix", get_label=method))


def test_a_sparse_matrix_of_scipy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    for make in (sparse.csr_matrix, sparse.coo_array, sparse.lil_array, sparse.dia_matrix):
        with pytest.raises(TypeError, match=rf"^label must .* got {make.__name__}; {SPARSE}"):
            L2(np.eye(2), make(np.eye(2)))
        np.testing.assert_array_equal(L2(np.eye(2), make(np.eye(2)).toarray()), [0, 0])


def test_what_boosting_holds() -> None:
    xgboost = pytest.importorskip("xgboost")
    data = xgboost.DMatrix(X[:, None], label=X)
    with pytest.raises(TypeError, match=f"^label must .* got DMatrix; .*{LABELS}"):
        L2(X, data)
    with pytest.raises(ValueError, match=r"got shape \(0,\); for no weights, give None"):
        L2(X, data.get_label(), data.get_weight())


def test_what_lightgbm_holds() -> None:
    lightgbm = pytest.importorskip("lightgbm")
    with pytest.raises(TypeError, match=f"^label must .* got Dataset; .*{LABELS}"):
        L2(X, lightgbm.Dataset(X[:, None], label=X))


def test_frames_of_polars() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"y": X})
    with pytest.raises(TypeError, match=r"^label must .* got LazyFrame; .*\.collect\(\)"):
        L2(X, frame.lazy())
    np.testing.assert_array_equal(L2(X + 1, frame.lazy().collect()), np.full(4, 0.5))
    np.testing.assert_array_equal(L2(X + 1, frame["y"]), np.full(4, 0.5))
    with pytest.raises(TypeError, match=rf"^label must .* of a Series; .*{TEXT}"):
        L2(X, polars.Series(["a", "b", "a", "b"]))


def test_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    kinds = pandas.Series(["a", "b", "a", "b"], dtype="category")
    table = pandas.DataFrame({"x": X, "kind": kinds})
    cases = [
        (kinds, r"of a Series; it is categorical: \.cat\.codes"),
        (pandas.Categorical(["a", "b", "a", "b"]), r"of a Categorical; it is categorical: \.codes"),
        (table, r"of a DataFrame; these columns hold no numbers: 'kind' \(category\)"),
        (pandas.Series(pandas.to_datetime(["2020-01-01"] * 4)), r"datetime64\[.*\] of a Series; count from a date"),
        (pandas.Series([1, pandas.NA, 2, 3], dtype=object), "np.nan stands for a missing number"),
    ]
    for given, message in cases:
        with pytest.raises(TypeError, match=f"^label must .*{message}"):
            L2(np.zeros(np.shape(given)), given)
    for given in (table["x"], table[["x"]], kinds.cat.codes, pandas.Series([0, 1, 0, 1], dtype="category")):
        assert L2(X, given).shape == (4,)


def test_tables_of_pyarrow() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    np.testing.assert_array_equal(L2(X + 1, pyarrow.array(X)), np.full(4, 0.5))
    with pytest.raises(TypeError, match=r"^label must .* got dtype object of a StringArray"):
        L2(X, pyarrow.array(["a"] * 4))


def test_a_tensor_elsewhere() -> None:
    torch = pytest.importorskip("torch")
    x = torch.zeros(4)
    cases = [
        (x.to_sparse(), r"\.to_dense\(\)"),
        (x.to(torch.float8_e5m2), r"\.float\(\)"),
    ]
    for given, message in cases:
        with pytest.raises(TypeError, match=f"^label must be a dense tensor on the CPU.*{message}"):
            L2(x, given)


@pytest.mark.parametrize("name", ["L1", "softmax", "cosine", "CTC", "SDML", "Poisson rate epsilon"])
def test_what_offers_dlpack_alone(name: str) -> None:
    case = CASES[name]
    loss = case.build()
    want = loss.value_and_grad(**case.inputs, wrt=case.targets)
    got = loss.value_and_grad(**{k: OnlyDLPack(a) for k, a in case.inputs.items()}, wrt=case.targets)
    np.testing.assert_array_equal(got[0], want[0])
    for a, b in zip(got[1], want[1], strict=True):
        np.testing.assert_array_equal(a, b)
    for k, a in case.inputs.items():
        np.testing.assert_array_equal(loss(**case.inputs | {k: OnlyDLPack(a)}), want[0])
    assert fl.SoftmaxCELoss(class_weight=OnlyDLPack(np.array([1.0, 2]))).class_weight == (1.0, 2.0)
    L2.validate(OnlyDLPack(X))


@pytest.mark.parametrize("make", [np.ma.masked_array, lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool))])
@pytest.mark.parametrize("name", CASES)
def test_masks_of_nothing(name: str, make: Callable[[Any], Any]) -> None:
    case = CASES[name]
    loss = case.build(reduction="weighted_mean")
    want = loss.value_and_grad(**case.inputs)
    got = loss.value_and_grad(**{k: make(a) for k, a in case.inputs.items()})
    np.testing.assert_array_equal(got[0], want[0])
    np.testing.assert_array_equal(got[1], want[1])
    assert type(got[1]) is np.ndarray


def test_numbers_that_are_not_masked() -> None:
    assert fl.HuberLoss(rho=np.ma.masked_array(2.0)) == fl.HuberLoss(rho=2.0)
    assert fl.SoftmaxCELoss(class_weight=np.ma.masked_array([1.0, 2.0])).class_weight == (1.0, 2.0)
    with pytest.raises(TypeError, match="rho must be a number"):
        fl.HuberLoss(rho=np.ma.masked_array(2.0, True))


EMPTY = "; for no weights, give None"


@pytest.mark.parametrize("weight", [[], np.zeros(0, np.float32), np.zeros((0, 4))])
def test_a_weight_of_no_numbers(weight: Any) -> None:
    for name, case in CASES.items():
        with pytest.raises(ValueError, match=rf"^sample_weight must be .* got shape \(0.*\){EMPTY}"):
            case.build()(**case.inputs | {"sample_weight": weight})
        assert name
    with pytest.raises(ValueError, match=rf"^pos_weight must broadcast .* got shape \(0.*\){EMPTY}"):
        fl.SigmoidBCELoss()(X, X, pos_weight=weight)
    with pytest.raises(ValueError, match=r"got shape \(3,\)$"):
        L2(X, X, [1, 2, 3])
    assert L2([], [], []).shape == (0,)


@pytest.mark.parametrize("name", ["sigma", "nu", "size_average", "pos_weight", "Reduction", "weights"])
@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_argument_of_a_constructor(cls: type[fl.Loss], name: str) -> None:
    with pytest.raises(TypeError, match=rf"^{cls.__name__}\b.*'{name}'; its arguments are \(") as caught:
        cls(**{name: 1})
    for known in inspect.signature(cls).parameters:
        assert re.search(rf"\b{known}=", str(caught.value)), known


def test_wrong_arguments_of_a_constructor() -> None:
    class Mine(fl.L2Loss):
        def __init__(self, note: str, /, *rest: Any, scale: float = 2.0, **named: Any) -> None:
            super().__init__(*rest, **named)

    known = re.escape("(rho=1, weight=None, batch_axis=0, *, reduction='example')")
    twice: Any = fl.HuberLoss
    for call in (lambda: fl.HuberLoss(1, None, 0, "sum"), lambda: twice(1, rho=2)):
        with pytest.raises(TypeError, match=rf"^HuberLoss: .*arguments?.*; its arguments are {known}$"):
            call()
    with pytest.raises(TypeError, match=r"^Mine: missing .*'note'; its arguments are \(note, /, \*rest, scale=2.0, "):
        Mine()


@pytest.mark.parametrize("cls", CLASSES)
def test_an_unknown_argument_of_a_call(cls: type[fl.Loss]) -> None:
    loss = cls()
    inputs = ", ".join(loss.inputs)
    given = dict.fromkeys(loss.inputs[: loss.required], X)
    for method, more in {
        "__call__": "a call takes {}, out",
        "grad": "grad takes {}, out, head_grad, wrt",
        "value_and_grad": "value_and_grad takes {}, out, head_grad, wrt",
        "grad_and_hess": "grad_and_hess takes {}, out, head_grad, wrt, hessian",
    }.items():
        with pytest.raises(TypeError, match=rf"^{cls.__name__} got .* 'weights'; {more.format(inputs)}$"):
            getattr(loss, method)(**given, weights=X)
