"""Messages about objects in place of arrays: what came, and what to do. No library is imported for that."""

from __future__ import annotations

import inspect
import operator
import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastloss.backends import backend_of

PROTOCOLS = ("__array__", "__array_interface__", "__array_struct__")
# stands for bfloat16, as bits, if no library has given NumPy that dtype
BFLOAT16 = np.dtype([("bfloat16", np.uint16)])
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
# advice by a method of the type; the first method found decides
METHODS = {
    "get_label": "take the labels that it holds: .get_label()",
    "toarray": "it is sparse: .toarray() makes it dense",
    "todense": "it is sparse: .todense() makes it dense",
    "collect": "it is lazy: .collect() computes it",
    "toPandas": "it is lazy: .toPandas() collects it",
    "asnumpy": ".asnumpy() makes an array of it",
    "__next__": "it can be read only once: make a list of it, list(...)",
}
# the same for types without such methods, by package and name
TYPES = {
    ("xgboost", "DMatrix"): METHODS["get_label"],
    ("lightgbm", "Dataset"): METHODS["get_label"],
    ("catboost", "Pool"): METHODS["get_label"],
    ("scipy", "spmatrix"): METHODS["toarray"],
    ("scipy", "sparray"): METHODS["toarray"],
    ("polars", "LazyFrame"): METHODS["collect"],
    ("cupy", "ndarray"): "it is on another device: .get() copies it",
}
TEXT = "convert texts of numbers with .astype(float), or number classes with np.unique(label, return_inverse=True)[1]"
KINDS = {
    "c": "take its .real, or its absolute value",
    "M": 'count from a date: (x - x.min()) / np.timedelta64(1, "s")',
    "m": 'divide by a unit: x / np.timedelta64(1, "s")',
    "S": TEXT,
    "U": TEXT,
    "T": TEXT,
}


def is_kind_of_masked(kind: type) -> bool:
    """Whether a type is a masked array. Without numpy.ma, which is slow to import, no masked array exists."""
    masked = sys.modules.get("numpy.ma")
    return masked is not None and issubclass(kind, masked.MaskedArray)


def is_masked(x: Any) -> bool:
    """Whether an array or a number has a mask that hides something."""
    return is_kind_of_masked(type(x)) and bool(np.ma.is_masked(x))


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether a dtype is ml_dtypes' bfloat16, by name: the library need not be installed."""
    return dtype.num >= 256 and dtype.name == "bfloat16"


def without_halves(a: NDArray[Any]) -> NDArray[Any]:
    """An array, in float32 if its numbers are halves; bfloat16's stand-in dtype counts as bfloat16."""
    if a.dtype == BFLOAT16:
        return (a["bfloat16"].astype(np.uint32) << 16).view(np.float32)
    return a.astype(np.float32) if a.dtype == np.float16 or is_bfloat16(a.dtype) else a


def as_doubles(a: NDArray[Any]) -> NDArray[np.float64]:
    """An array's numbers in float64; bfloat16's stand-in dtype counts as bfloat16."""
    return without_halves(a).astype(np.float64, copy=False)


def imported(x: Any) -> Any:
    """An object that offers only DLPack, as an array; everything else as it is, because NumPy knows it.

    PyTorch's bfloat16, which NumPy lacks, becomes its float32.
    """
    if str(getattr(x, "dtype", None)) == "torch.bfloat16":
        return x.float()
    if hasattr(x, "__dlpack__") and not any(hasattr(x, name) for name in PROTOCOLS):
        return np.from_dlpack(x)
    return x


def as_array(name: str, x: Any) -> NDArray[Any]:
    """An object that is no plain array as an array of numbers, if NumPy can make one."""
    if is_masked(x):
        raise TypeError(
            f"{name} must not be a masked array: its mask would be dropped; fill it with a small number, and give "
            "masked examples a sample_weight of 0"
        )
    try:
        a = np.asarray(imported(x))
    except RecursionError:
        raise
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name} must be an array of real numbers, {about(x, name)}: {error}") from None
    if a.dtype.kind not in "fiub" and not is_bfloat16(a.dtype):
        raise TypeError(f"{name} must be an array of real numbers, {about(x, name, a)}")
    return a


def array_of(name: str, x: Any) -> NDArray[Any]:
    """An array of any library, or an object that NumPy can convert, as an array of numbers."""
    kind: type = type(x)
    backend = backend_of(kind)
    return as_array(name, x if backend is None else backend.as_numpy(name, x))


def about_weights(a: NDArray[Any]) -> str:
    """Advice for weights that do not fit: a library without weights gives an empty array."""
    return "" if a.size else "; for no weights, give None"


def wrong_arguments(kind: type, signature: inspect.Signature, error: TypeError) -> str:
    """The message of a constructor for arguments that it does not take."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    known = signature.replace(parameters=plain, return_annotation=inspect.Signature.empty)
    return f"{kind.__name__}: {error}; its arguments are {known}"


def unknown_keyword(kind: str, inputs: tuple[str, ...], method: str, name: str) -> str:
    """The message of a loss's method for an unknown argument."""
    known = [*inputs, "out"]
    known += ["head_grad", "wrt"] if "grad" in method else []
    known += ["vector", "head_grad", "hessian"] if method == "hvp" else ["hessian"] * method.endswith("hess")
    what = "a call" if method == "__call__" else method
    return f"{kind} got an unexpected keyword argument {name!r}; {what} takes {', '.join(known)}"


def blank_index(blank: Any) -> int:
    """The index of the blank's class, which counts from the end if it is negative."""
    if isinstance(blank, str) and blank in ("last", "first"):
        return -1 if blank == "last" else 0
    try:
        if isinstance(blank, (bool, np.bool_)):
            raise TypeError
        index = operator.index(blank)
    except TypeError:
        raise TypeError(f"blank must be 'last', 'first' or the index of a class, got {blank!r}") from None
    if abs(index) >= 2**31:
        raise ValueError(f"blank must be at most {2**31 - 1} in absolute value, got {index}")
    return index


def about(x: Any, name: str, a: NDArray[Any] | None = None) -> str:
    """What came, and what to do: for an object that NumPy cannot convert, or converts to an array without numbers."""
    kind = type(x)
    if a is None or (a.ndim == 0 and a.dtype == object and not isinstance(x, np.ndarray)):
        advice = of_type(kind, name) or of_container(x)
        return f"got {kind.__name__}{advice and f'; {advice}'}"
    whole = "" if kind in (np.ndarray, list, tuple) else f" of a {kind.__name__}"
    advice = of_columns(x) or of_type(kind, name) or of_dtype(a)
    return f"got dtype {a.dtype}{whole}{advice and f'; {advice}'}"


def of_type(kind: type, name: str) -> str:
    advice = of_base(kind) or of_method(kind)
    if advice == METHODS["get_label"] and name == "sample_weight":
        return "take the weights that it holds: .get_weight()"
    return advice


# No comprehensions, and keys only: if an iterator gets no memory, CPython frees it twice, leaks it, or crashes.
def of_base(kind: type) -> str:
    for base in kind.__mro__:
        # A class may lack a module.
        advice = TYPES.get((str(base.__module__).split(".", 1)[0], base.__name__))
        if advice is not None:
            return advice
    return ""


def of_method(kind: type) -> str:
    for method in METHODS:
        if hasattr(kind, method):
            return METHODS[method]
    return METHODS["toarray"] if str(kind.__module__).startswith("scipy.sparse") else ""


def of_container(x: Any) -> str:
    if isinstance(x, (set, frozenset)):
        return "a set has no order: give a list"
    if isinstance(x, dict):
        return "give the value of one of its keys"
    if callable(x):
        return "call it, and give the result"
    return ""


def of_columns(x: Any) -> str:
    """Advice for a table, or one of its columns, that holds other things than numbers."""
    dtypes = getattr(x, "dtypes", None)
    columns = getattr(x, "columns", None)
    if columns is not None and dtypes is not None:
        pairs = list(zip(columns, dtypes, strict=False))
        bad = [f"{column!r} ({dtype})" for column, dtype in pairs if not is_number(dtype)]
        if not bad:
            return "make its columns alike: .astype(float)"
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        return f"these columns hold no numbers: {', '.join(bad[:3])}{more}; drop them, or convert them to numbers"
    if str(getattr(x, "dtype", "")) == "category":
        codes = ".cat.codes" if hasattr(x, "cat") else ".codes"
        return f"it is categorical: {codes} numbers the categories, .astype(float) reads those that are numbers"
    return ""


def is_number(dtype: Any) -> bool:
    return getattr(dtype, "kind", "O") in "fiub" or str(dtype).startswith(("Int", "UInt", "Float"))


def of_dtype(a: NDArray[Any]) -> str:
    if a.dtype.kind == "V":
        return f"take one of its fields: x[{a.dtype.names[0]!r}]" if a.dtype.names else "make it float32: .astype('f4')"
    if a.dtype != object:
        return KINDS.get(a.dtype.kind, "")
    for k in range(a.size):
        x = a.item(k)
        if not isinstance(x, NUMBERS) and type(x).__name__ not in ("Decimal", "Fraction"):
            missing = x is None or type(x).__name__ == "NAType"
            what = "np.nan stands for a missing number" if missing else "it is no number"
            at = tuple(map(int, np.unravel_index(k, a.shape)))
            return f"at position {at} is a {type(x).__name__}: {what}"
    return "convert its objects to numbers: .astype(float)"
