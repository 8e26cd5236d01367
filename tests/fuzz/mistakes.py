"""What can be wrong with a call, and how it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from tests.fuzz.call import Attempt
from tests.specimens import Array, nested, value_shape


def bad_dtype(a: Attempt) -> None:
    name = a.one_of(a.inputs)
    kind = a.one_of(["c16", "O", "U3", "M8[s]", "m8[s]", "V8", "S2", "i4,f4"])
    a.inputs[name] = np.zeros(np.shape(a.inputs[name]), kind)
    a.refuses(name, TypeError)


def bad_shape(a: Attempt) -> None:
    """One number too many along an axis, which fits nothing; or an axis too many."""
    name = a.one_of([k for k in a.inputs if k != a.specimen.names[0]])
    shape = list(np.shape(a.inputs[name]))
    s = a.specimen
    if name == "sample_weight" or (name in s.free and name != "label"):
        # not 1, which broadcasts
        shape = [9999, *[1] * (len(shape) - 1)] if shape and a.rng.random() < 0.5 else [2, *[1] * 31]
    elif shape and a.rng.random() < 0.7 and not s.is_of_sequences:
        shape[a.rng.integers(len(shape))] += 1
    else:
        shape = [2, *shape]
    a.inputs[name] = np.ones(shape)
    a.refuses(name, ValueError)


def bad_id(a: Attempt) -> None:
    s = a.specimen
    # which of a sequence's ids are read is a matter of its length
    names = [k for k in s.ids if np.size(a.inputs[k]) and not (s.is_of_sequences and k == "label")]
    if not names or 0 in a.call.shape:
        return bad_dtype(a)
    name = a.one_of(names)
    width = a.call.shape[a.call.axis]
    bad = [0.5, np.nan, np.inf, -np.inf, -1.5, 1e300, -(2.0**63), 2.0**64, 2.0**53, -7.0]
    integers = s.specs[name].integers
    if integers is not None and integers.high is None:
        bad += [float(width), width + 1.0, -2.0]
    spoiled = np.array(a.inputs[name], float)
    spoiled.flat[a.rng.integers(spoiled.size)] = a.one_of(bad)
    a.inputs[name] = spoiled
    if a.inputs.get("sample_weight") is not None:
        # where one is 0, nobody looks at the id
        weight = np.array(a.inputs["sample_weight"])
        a.inputs["sample_weight"] = np.where(weight == 0, np.ones_like(weight), weight)
    return a.refuses(name, ValueError)


def bad_batch_axis(a: Attempt) -> None:
    if not a.specimen.has_batch_axis:
        return unknown_keyword(a)
    n = max(len(a.call.shape), 1)
    a.constructor["batch_axis"] = int(a.one_of([n, -n - 1, n + 1, 2**31 - 1, -(2**31) + 1]))
    return a.refuses("batch_axis", ValueError)


def bad_axis(a: Attempt) -> None:
    if "axis" not in a.constructor:
        return bad_batch_axis(a)
    n = len(a.call.shape)
    a.constructor["axis"] = int(a.one_of([n, -n - 1, 2**31 - 1]))
    return a.refuses("axis", ValueError)


def unknown_keyword(a: Attempt) -> None:
    a.options[a.one_of(["weights", "Pred", "reduction", "dtype"])] = None
    a.refuses("unexpected keyword argument", TypeError)


def missing_input(a: Attempt) -> None:
    del a.inputs[a.one_of(a.specimen.names[: a.specimen.required])]
    a.refuses("needs", TypeError)


def bad_wrt(a: Attempt) -> None:
    if a.call.method == "__call__":
        a.options["wrt"] = "pred"
        return a.refuses("wrt", TypeError)
    first = a.specimen.names[0]
    fixed = a.specimen.ids[0] if a.specimen.ids else "weight"
    a.options.pop("out", None)
    a.options["wrt"] = a.one_of(["", "weights", (), (first, first), (first, "x"), None.__class__, 0, [first], fixed])
    return a.refuses("wrt", ValueError)


def bad_head(a: Attempt) -> None:
    if a.call.method == "__call__":
        return unknown_keyword(a)
    shape = value_shape(a.lay, a.call.shape, a.call.reduction)
    a.options["head_grad"] = np.ones((*shape, 2))
    return a.refuses("head_grad", ValueError)


def other_dtype(like: Array, a: Attempt) -> Array:
    return np.zeros(like.shape, a.one_of(["i8", "?", "O", like.dtype.newbyteorder()]))


def read_only(like: Array, a: Attempt) -> Array:
    out = np.zeros_like(like)
    out.flags.writeable = False
    return out


def crowded(like: Array, a: Attempt) -> Any:
    """All results in one place."""
    if like.size < 2:
        return like.tolist()
    return as_strided(np.zeros(like.size, like.dtype), like.shape, (0,) * like.ndim)


def shifted(like: Array, a: Attempt) -> Any:
    """One number further on in memory than the first input."""
    name = a.specimen.names[0]
    first = a.inputs[name]
    if first.nbytes <= like.itemsize or not like.size:
        return like.tolist()
    memory = np.zeros(first.nbytes + like.nbytes + like.itemsize, np.uint8)
    a.inputs[name] = memory[: first.nbytes].view(first.dtype).reshape(first.shape)
    a.inputs[name][...] = first
    return memory[like.itemsize : like.itemsize + like.nbytes].view(like.dtype).reshape(like.shape)


BAD_BUFFERS: list[Callable[[Array, Attempt], Any]] = [
    other_dtype,
    read_only,
    crowded,
    shifted,
    lambda like, a: np.zeros((*like.shape, 2), like.dtype),
    lambda like, a: like.tolist(),
    lambda like, a: np.ma.masked_array(like),
    lambda like, a: (None,) * 9,
]


def bad_out(a: Attempt) -> None:
    """A buffer that must be refused, in the place of one of the results."""
    k = int(a.rng.integers(len(a.results)))
    flat: list[Any] = [None] * len(a.results)
    flat[k] = a.one_of(BAD_BUFFERS)(a.results[k], a)
    a.options["out"] = nested(flat, a.call.method, a.options.get("wrt"))
    a.refuses("out", TypeError, ValueError)


def shared_out(a: Attempt) -> None:
    """The same buffer for two results."""
    twins = [
        (i, k) for k, x in enumerate(a.results) for i, y in enumerate(a.results[:k]) if x.shape == y.shape and x.size
    ]
    if not twins:
        return bad_out(a)
    flat: list[Any] = [None] * len(a.results)
    i, k = a.one_of(twins)
    flat[i] = flat[k] = np.zeros_like(a.results[k])
    a.options["out"] = nested(flat, a.call.method, a.options.get("wrt"))
    return a.refuses("share memory", ValueError)


MISTAKES = {
    mistake.__name__: mistake
    for mistake in (
        bad_dtype,
        bad_shape,
        bad_id,
        bad_batch_axis,
        bad_axis,
        unknown_keyword,
        missing_input,
        bad_wrt,
        bad_head,
        bad_out,
        shared_out,
    )
}
