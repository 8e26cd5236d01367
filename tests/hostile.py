"""What may be passed where a number, a flag, a name or an array belongs, and what of it is one."""

from __future__ import annotations

import array
import collections
import ctypes
import functools
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

NAN, INF = float("nan"), float("inf")


class OwnError(Exception):
    """What an object of the caller's raises; nobody else knows what it means, so it passes through."""


class Raising:
    """Raises in every conversion."""

    def __init__(self, error: type[Exception]) -> None:
        self.error = error

    def fail(self, *args: Any, **named: Any) -> Any:
        raise self.error("from within")

    __array__ = __float__ = __index__ = __int__ = __len__ = __getitem__ = __iter__ = fail


class Indexed:
    def __index__(self) -> int:
        return 1


class Floated:
    def __float__(self) -> float:
        return 0.5


class FloatThatIsNone:
    def __float__(self) -> float:
        return None  # type: ignore[return-value]


class MyFloat(float):
    pass


class MyInt(int):
    pass


class MyText(str):
    __slots__ = ()


class NoModule:
    __module__ = None  # type: ignore[assignment]


class Offers:
    """Offers itself as an array, in whatever way."""

    def __init__(self, **offer: Any) -> None:
        self.__dict__.update(offer)


class Converts:
    """Has an __array__ that returns what it was given."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self.result


class OnlyDLPack:
    """Offers its memory by DLPack and in no other way."""

    def __init__(self, a: Any) -> None:
        self.a = np.asarray(a)

    def __dlpack__(self, **named: Any) -> Any:
        return self.a.__dlpack__(**named)

    def __dlpack_device__(self) -> Any:
        return self.a.__dlpack_device__()


class LiesAboutLength:
    def __len__(self) -> int:
        return 5

    def __getitem__(self, k: int) -> float:
        if k > 1:
            raise IndexError
        return 1.0


class HugeLength:
    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, k: int) -> float:
        raise IndexError


class Careful(np.ndarray):
    """A subclass that minds what is made of it."""

    def __array_finalize__(self, other: Any) -> None:
        self.unit = getattr(other, "unit", "m")

    def __array_wrap__(self, result: Any, context: Any = None, return_scalar: bool = False) -> Any:
        raise OwnError("wrapped")

    def __array_function__(self, function: Any, types: Any, args: Any, named: Any) -> Any:
        raise OwnError("function")


class NoUfuncs(np.ndarray):
    __array_ufunc__ = None  # type: ignore[assignment]


class Lying(np.ndarray):
    """Says that it is larger than it is."""

    shape = property(lambda self: (10**6,))  # type: ignore[assignment]
    ndim = property(lambda self: 1)  # type: ignore[assignment]
    size = property(lambda self: 10**6)  # type: ignore[assignment]
    dtype = property(lambda self: np.dtype("f2"))  # type: ignore[assignment]
    strides = property(lambda self: (2,))  # type: ignore[assignment]


def nested(depth: int) -> Any:
    inner: Any = 1.0
    for _ in range(depth):
        inner = [inner]
    return inner


def recursive() -> list[Any]:
    a: list[Any] = []
    a.append(a)
    return a


def void() -> Any:
    return np.zeros(1, "i4,f4")[0]


@dataclass(frozen=True)
class Value:
    """Something to pass as a constructor's argument, and the number, integer, flag, text or weights that it is."""

    make: Callable[[], Any]
    number: float | None = None
    integer: int | None = None
    flag: bool | None = None
    text: str | None = None
    weights: tuple[float, ...] | None = None
    lasting: bool = True  # whether it is equal to a copy of itself
    own: bool = False  # whether an exception of its own may come of it

    def is_(self, kind: str) -> Any:
        return getattr(self, kind)


def real(x: Any, **more: Any) -> Value:
    return Value(lambda: x, number=float(x), **more)


def whole(x: Any, **more: Any) -> Value:
    return real(x, integer=int(x), **more)


def text(x: str) -> Value:
    return Value(lambda: x, text=str(x))


def weights(make: Callable[[], Any]) -> Value:
    return Value(make, weights=tuple(float(x) for x in make()))


def thing(make: Callable[[], Any], **more: Any) -> Value:
    return Value(make, **more)


VALUES: dict[str, Value] = {
    "None": thing(lambda: None),
    "True": Value(lambda: True, number=1.0, flag=True),
    "False": Value(lambda: False, number=0.0, flag=False),
    "np.True_": Value(lambda: np.True_, number=1.0, flag=True),
    **{repr(x): whole(x) for x in (0, 1, -1, 2, 7, -100, 2**31 - 1, -(2**31) + 1, 2**31, -(2**31))},
    **{repr(x): whole(x) for x in (2**53 - 1, 2**53, -(2**53), 2**63 - 1, -(2**63), 2**64)},
    "10**400": Value(lambda: 10**400, number=INF, integer=10**400),
    "-10**400": Value(lambda: -(10**400), number=-INF, integer=-(10**400)),
    **{repr(x): real(x) for x in (0.0, -0.0, 0.5, 1.0, -1.0, 1.5, 5e-324, 1e308, 1e-50, NAN, INF, -INF)},
    **{
        repr(x): whole(x)
        for x in (np.int8(1), np.uint8(1), np.int64(-1), np.uint64(2**64 - 1), np.int32(2**31 - 1), np.longlong(1))
    },
    **{repr(x): real(x) for x in (np.float16(0.5), np.float32(0.5), np.float64(0.5), np.float32("nan"))},
    "longdouble": real(np.longdouble("0.5")),
    "huge longdouble": Value(lambda: np.longdouble("1e4000"), number=INF),
    "Fraction": real(Fraction(1, 2)),
    "Decimal": real(Decimal("0.5")),
    "Decimal nan": Value(lambda: Decimal("nan"), number=NAN),
    "Decimal inf": Value(lambda: Decimal("inf"), number=INF),
    "float's subclass": real(MyFloat(0.5)),
    "int's subclass": whole(MyInt(1)),
    "__index__": Value(Indexed, number=1.0, integer=1, lasting=False),
    "__float__": Value(Floated, number=0.5, lasting=False),
    "__float__ of None": thing(FloatThatIsNone),
    "0-d": Value(lambda: np.array(0.5), number=0.5),
    "0-d int": Value(lambda: np.array(1), number=1.0, integer=1),
    "0-d nan": Value(lambda: np.array(NAN), number=NAN),
    "1j": thing(lambda: 1j),
    "np.complex64": thing(lambda: np.complex64(1)),
    "0-d complex": thing(lambda: np.array(1 + 0j)),
    "timedelta": thing(lambda: np.timedelta64(1, "s")),
    "datetime": thing(lambda: np.datetime64("2020-01-01")),
    "NaT": thing(lambda: np.datetime64("NaT")),
    "0-d timedelta": thing(lambda: np.array(1, "m8[s]")),
    **{
        repr(x): text(x)
        for x in ("", "mean", "none", "sum", "example", "weighted_mean", "signed", "binary", "NTC", "TNC", "NT", "TN")
    },
    **{repr(x): text(x) for x in ("last", "first", "1", "nan", "MEAN", "mean\0", "\ud800", "x" * 10_000)},
    "str's subclass": text(MyText("mean")),
    "np.str_": text(np.str_("mean")),
    "np.str_ number": text(np.str_("1")),
    "bytes": thing(lambda: b"1"),
    "np.bytes_": thing(lambda: np.bytes_(b"1")),
    "bytearray": Value(lambda: bytearray(b"1"), weights=(49.0,)),
    "memoryview": Value(lambda: memoryview(b"1"), weights=(49.0,)),
    "empty list": weights(list),
    "empty tuple": weights(tuple),
    "list of 1": weights(lambda: [1.0]),
    "tuple of 1": weights(lambda: (0.5,)),
    "list of 3": weights(lambda: [1.0, 0.5, 2]),
    "list of bools": weights(lambda: [True, False]),
    "list of halves": weights(lambda: [np.float16(0.5), np.float16(1)]),
    "negative": weights(lambda: [1.0, -1.0]),
    "[nan]": weights(lambda: [1.0, NAN]),
    "[inf]": weights(lambda: [INF, 1.0]),
    "[-0.0]": weights(lambda: [-0.0]),
    "[10**400]": thing(lambda: [10**400]),
    "[None]": thing(lambda: [None]),
    "[1j]": thing(lambda: [1j]),
    "['1']": thing(lambda: ["1"]),
    "['mean']": thing(lambda: ["mean"]),
    "ragged": thing(lambda: [[1.0], [1.0, 2.0]]),
    "matrix of lists": thing(lambda: [[1.0, 2.0]]),
    "range": weights(lambda: range(3)),
    "array of 1": weights(lambda: np.array([1.0])),
    "array of 2": weights(lambda: np.array([1, 2], np.uint8)),
    "swapped array": weights(lambda: np.array([1.0, 2.0], ">f8")),
    "empty array": weights(lambda: np.zeros(0)),
    "matrix": thing(lambda: np.ones((2, 2))),
    "1 x 1": thing(lambda: np.ones((1, 1))),
    "objects": thing(lambda: np.array([1.0, None])),
    "0-d object": thing(lambda: np.array(None)),
    "array of texts": thing(lambda: np.array(["mean", "sum"])),
    "array of one text": thing(lambda: np.array(["signed"])),
    "array of flags": weights(lambda: np.array([True, False])),
    "array of times": thing(lambda: np.zeros(2, "M8[s]")),
    "structured": thing(lambda: np.zeros(2, "i4,f4")),
    "void": thing(void),
    "masked array": thing(lambda: np.ma.masked_array([1.0, 2.0], [True, False])),
    "masked": thing(lambda: np.ma.masked),
    "array.array": weights(lambda: array.array("d", [1.0, 2.0])),
    "ctypes": weights(lambda: (ctypes.c_double * 2)(1.0, 2.0)),
    "deque": weights(lambda: collections.deque([1.0, 2.0])),
    "set": thing(lambda: {1.0}),
    "frozenset": thing(lambda: frozenset({1.0})),
    "dict": thing(lambda: {1: 2}),
    "dict view": thing(lambda: {1: 2}.keys()),
    "generator": thing(lambda: (x for x in [1.0, 2.0])),
    "iterator": thing(lambda: iter([1.0, 2.0])),
    "object": thing(object),
    "class": thing(lambda: int),
    "function": thing(lambda: len),
    "module": thing(lambda: np),
    "Ellipsis": thing(lambda: ...),
    "NotImplemented": thing(lambda: NotImplemented),
    "no module": thing(NoModule),
    "recursive": thing(recursive),
    "deep": thing(lambda: nested(100)),
    "a length that lies": Value(LiesAboutLength, weights=(1.0, 1.0)),
    "a huge length": thing(HugeLength, own=True),
    **{
        f"raises {error.__name__}": thing(functools.partial(Raising, error), own=True)
        for error in (OwnError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, OverflowError)
    },
    "mock": thing(mock.Mock),
}


def as_list(a: Array) -> Any:
    return a.tolist()


def as_tuples(a: Array) -> Any:
    return tuple(map(as_tuples, a)) if a.ndim else a.item()


# what stands for an array of numbers as well as the array itself
GOOD: dict[str, Callable[[Array], Any]] = {
    "list": as_list,
    "tuples": as_tuples,
    "list of arrays": lambda a: list(a) if a.ndim else a,
    "deque": lambda a: collections.deque(a.tolist()) if a.ndim else a,
    "memoryview": lambda a: memoryview(a),
    "scalar": lambda a: a[()],
    "__array__": Converts,
    "__array__ of a view": lambda a: Converts(a.view(Careful)),
    "__array_interface__": lambda a: Offers(__array_interface__=a.__array_interface__, base=a),
    "__array_struct__": lambda a: Offers(__array_struct__=a.__array_struct__, base=a),
    "no module": lambda a: type("Named", (Converts,), {"__module__": None})(a),
    "Careful": lambda a: a.view(Careful),
    "NoUfuncs": lambda a: a.view(NoUfuncs),
    "Lying": lambda a: a.view(Lying),
    "recarray": lambda a: a.view(np.recarray),
    "masked array without a mask": np.ma.masked_array,
    "masked array of which nothing is masked": lambda a: np.ma.masked_array(a, np.zeros(a.shape, bool)),
    "__dlpack__": OnlyDLPack,
    "memmap": lambda a: a.view(np.memmap),
    "broadcast": lambda a: np.broadcast_to(a, a.shape),
    "window": lambda a: np.lib.stride_tricks.sliding_window_view(np.pad(a, 1), (1,) * a.ndim)[
        (slice(1, -1),) * a.ndim + (0,) * a.ndim
    ],
}

# what is refused as an array, whatever its shape; own: or raises what it likes
BAD: dict[str, tuple[Callable[[Array], Any], bool]] = {
    "complex": (lambda a: a + 1j, False),
    "objects": (lambda a: a.astype(object), False),
    "decimals": (lambda a: np.frompyfunc(lambda x: Decimal(float(x)), 1, 1)(a), False),
    "text": (lambda a: a.astype("U9"), False),
    "bytes": (lambda a: a.astype("S9"), False),
    "StringDType": (lambda a: np.asarray(a, float).astype(np.dtypes.StringDType()), False),
    "datetime": (lambda a: np.zeros(a.shape, "M8[s]"), False),
    "timedelta": (lambda a: np.zeros(a.shape, "m8[s]"), False),
    "structured": (lambda a: np.zeros(a.shape, "i4,f4"), False),
    "void": (lambda a: np.zeros(a.shape, "V8"), False),
    "subarray": (lambda a: np.zeros(a.shape, [("x", "f8", (2,))]), False),
    "masked": (
        lambda a: np.ma.masked_array(a, np.arange(a.size).reshape(a.shape) == 0) if a.size else np.ma.masked,
        False,
    ),
    "masked constant": (lambda a: np.ma.masked, False),
    "masked matrix": (lambda a: np.ma.masked_all(a.shape) if a.size else np.ma.masked, False),
    "str": (lambda a: "1.0", False),
    "bytes of a text": (lambda a: b"1.0", False),
    "dict": (lambda a: {0: a}, False),
    "set": (lambda a: {1.0}, False),
    "frozenset": (lambda a: frozenset({1.0}), False),
    "generator": (lambda a: (x for x in [1.0]), False),
    "iterator": (lambda a: iter([1.0]), False),
    "map": (lambda a: map(float, [1.0]), False),
    "object": (lambda a: object(), False),
    "class": (lambda a: np.ndarray, False),
    "function": (lambda a: np.sum, False),
    "dtype": (lambda a: a.dtype, False),
    "Ellipsis": (lambda a: ..., False),
    "NotImplemented": (lambda a: NotImplemented, False),
    "list of None": (lambda a: [None], False),
    "list of text": (lambda a: ["1"], False),
    "list of sets": (lambda a: [{1}], False),
    "list of complex": (lambda a: [1j], False),
    "list with a huge int": (lambda a: [10**400], False),
    "huge int": (lambda a: 10**400, False),
    "2**64": (lambda a: 2**64, False),
    "ragged": (lambda a: [[1.0], [1.0, 2.0]], False),
    "ragged deeper": (lambda a: [[[1.0]], [1.0]], False),
    "deep": (lambda a: nested(70), False),
    "recursive": (lambda a: recursive(), False),
    "Fraction": (lambda a: Fraction(1, 2), False),
    "Decimal": (lambda a: Decimal("0.5"), False),
    "1j": (lambda a: 1j, False),
    "NaT": (lambda a: np.datetime64("NaT"), False),
    "mock": (lambda a: mock.Mock(), False),
    "no module": (lambda a: NoModule(), False),
    "__float__": (lambda a: Floated(), False),
    "__index__": (lambda a: Indexed(), False),
    "__array__ of a number": (lambda a: Converts(5), False),
    "__array__ of None": (lambda a: Converts(None), False),
    "__array__ of a list": (lambda a: Converts([1.0]), False),
    "__array__ of objects": (lambda a: Converts(a.astype(object)), False),
    "__array__ that is none": (lambda a: Offers(__array__=5), False),
    "interface of None": (lambda a: Offers(__array_interface__=None), False),
    "interface of nothing": (lambda a: Offers(__array_interface__={}), False),
    "interface of a text": (lambda a: Offers(__array_interface__="f8"), False),
    "interface without a type": (lambda a: Offers(__array_interface__={"shape": (1,), "version": 3}), False),
    "interface of a wrong type": (
        lambda a: Offers(__array_interface__={"shape": (1,), "typestr": "zz", "data": b"x" * 8, "version": 3}),
        False,
    ),
    "interface of a negative shape": (
        lambda a: Offers(__array_interface__={"shape": (-1,), "typestr": "<f8", "data": b"x" * 8, "version": 3}),
        False,
    ),
    "interface of a huge shape": (
        lambda a: Offers(__array_interface__={"shape": (2**62, 4), "typestr": "<f8", "data": b"x" * 8, "version": 3}),
        False,
    ),
    "struct of a number": (lambda a: Offers(__array_struct__=5), False),
    "a huge length": (lambda a: HugeLength(), True),
    **{
        f"raises {error.__name__}": (functools.partial(lambda error, a: Raising(error), error), True)
        for error in (OwnError, TypeError, ValueError, RuntimeError, AttributeError, IndexError, MemoryError)
    },
}
