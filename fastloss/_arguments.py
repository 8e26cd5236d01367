"""The arguments of a loss's constructor: kept, shown, compared, and checked."""

from __future__ import annotations

import inspect
import math
import operator
import weakref
from collections.abc import Callable
from itertools import repeat
from typing import Any

import numpy as np

from fastloss import _foreign

# the signature of each class, for as long as the class lives
signatures: weakref.WeakKeyDictionary[type, inspect.Signature] = weakref.WeakKeyDictionary()
VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def signature_of(cls: type) -> inspect.Signature:
    """The signature of a class's constructor. A class seen for the first time gets an attribute for each argument."""
    signature = signatures.get(cls)
    if signature is None:
        signature = inspect.signature(cls)
        for name, parameter in signature.parameters.items():
            # An attribute of the class itself stays. A __getattr__ instead would slow down the lookup of every method.
            if parameter.kind not in VARIABLE and not hasattr(cls, name):
                setattr(cls, name, Argument(name))
        # Set last: a thread that finds the signature finds the attributes, too.
        signatures[cls] = signature
    return signature


class Argument:
    """An attribute of a loss for an argument; the attribute of a subclass may hide it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, loss: Any, cls: type | None = None) -> Any:
        if loss is None:
            return self
        for known, value in loss.arguments:
            if known == self.name:
                return value
        # A derived class may lack the argument.
        raise AttributeError(f"{type(loss).__name__} has no argument {self.name!r}")


def arguments_of(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[tuple[str, Any], ...], int]:
    """The constructor's arguments, by name and with defaults, and how many of them have a position only."""
    found: list[tuple[str, Any]] = []
    n_positional = 0
    signature = signature_of(cls)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(_foreign.wrong_arguments(cls, signature, error)) from None
    bound.apply_defaults()
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            found += zip(value, map(frozen, value.values()), strict=True)
            continue
        if kind is inspect.Parameter.VAR_POSITIONAL:
            found += zip(repeat(name), map(frozen, value), strict=False)
        else:
            found.append((name, frozen(value)))
        if kind is inspect.Parameter.POSITIONAL_ONLY or (kind is inspect.Parameter.VAR_POSITIONAL and value):
            n_positional = len(found)
    return tuple(found), n_positional


EXACT: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, bytes.__bytes__),
)


def frozen(value: Any) -> Any:
    """A number as Python's, a sequence as an immutable tuple, everything else as it is."""
    if isinstance(value, (np.generic, np.ndarray)) and value.ndim == 0:
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    # a member of an Enum, for example, is no literal
    for kind, exact in EXACT:
        if isinstance(value, kind):
            return exact(value)
    try:
        value = _foreign.imported(value)
        if np.ndim(value) == 1:
            # By way of a list: Python leaks a tuple if it gets no memory to grow.
            parts = value if isinstance(value, (list, tuple)) else np.asarray(value).tolist()
            return tuple(list(map(frozen, parts)))  # noqa: C414
    except (TypeError, ValueError, RuntimeError, BufferError):
        # No array: the constructor refuses it and names the argument.
        return value
    for convert in (operator.index, float):
        if hasattr(value, f"__{convert.__name__}__"):
            try:
                return convert(value)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                pass
    return value


def rebuild(cls: type, positional: tuple[Any, ...], named: tuple[tuple[str, Any], ...]) -> Any:
    """Unpickles a loss."""
    return cls(*positional, **dict(named))


NO_NUMBERS = (str, bytes, np.complexfloating, np.timedelta64, np.datetime64)


def as_float(x: Any) -> float | None:
    """A number as a float; None for anything else."""
    # float() would parse texts, and drop imaginary parts, masks and units of time.
    if isinstance(x, NO_NUMBERS) or _foreign.is_masked(x) or not (hasattr(x, "__float__") or hasattr(x, "__index__")):
        return None
    try:
        return float(x)
    except (TypeError, ValueError):
        return None
    except OverflowError:
        return math.inf


def not_finite(name: str, x: Any) -> Exception:
    """The exception for an argument that is no number, or no finite one."""
    if as_float(x) is None:
        return TypeError(f"{name} must be a number, got {x!r}")
    return ValueError(f"{name} must be finite, got {x!r}")


def finite(name: str, x: Any) -> float:
    """x as a float; refuses NaN, infinities, and anything but numbers."""
    value = as_float(x)
    if value is None or not math.isfinite(value):
        raise not_finite(name, x)
    return value


def number(
    name: str, x: Any, above: float | None = None, below: float | None = None, least: float | None = None
) -> float:
    """A constructor's argument as a float, strictly between `above` and `below`, and not less than `least`."""
    value = finite(name, x)
    bounds = {
        f"greater than {above}": above is None or value > above,
        f"at least {least}": least is None or value >= least,
        f"less than {below}": below is None or value < below,
    }
    if not all(bounds.values()):
        given = [text for text, limit in zip(bounds, (above, least, below), strict=True) if limit is not None]
        raise ValueError(f"{name} must be {' and '.join(given)}, got {x!r}")
    return value


def fraction(name: str, x: Any) -> float:
    """A constructor's argument as a float from 0 to 1."""
    value = finite(name, x)
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must be between 0 and 1, got {x!r}")
    return value


def flag(name: str, x: Any) -> bool:
    """A constructor's argument as a bool."""
    if isinstance(x, (bool, np.bool_)):
        return bool(x)
    raise TypeError(f"{name} must be True or False, got {x!r}")


def integer(name: str, x: Any, largest: int = 2**31 - 1) -> int:
    """A constructor's argument as an int of at most the given absolute value."""
    try:
        if isinstance(x, (bool, np.bool_)):
            raise TypeError
        value = operator.index(x)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {x!r}") from None
    if abs(value) > largest:
        raise ValueError(f"{name} must be at most {largest} in absolute value, got {value}")
    return value
