"""Makes a call, and judges what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastloss as fl
from tests.fuzz.call import Attempt, Call, attempt_of, laid_out
from tests.fuzz.mistakes import MISTAKES
from tests.judge import Failure, equality, is_close, parts, refusal
from tests.specimens import METHODS, Array, expected, nested
from tests.test_inputs import LAYOUTS

UNALIGNED: Callable[[Array], Array] = LAYOUTS["unaligned"]

BUFFERS: dict[str, Callable[[Array], Array]] = {
    "contiguous": np.zeros_like,
    "fortran": lambda a: np.zeros_like(a, order="F"),
    "strided": lambda a: np.zeros((*a.shape, 2), a.dtype)[..., 0],
    "reversed": lambda a: np.asarray(np.zeros_like(a)[(slice(None, None, -1),) * a.ndim]),
    "unaligned": lambda a: UNALIGNED(np.zeros_like(a)),
    "subclass": lambda a: np.zeros_like(a).view(np.recarray),
}


def buffer_for(kind: str | None, a: Array, target: Any) -> Any:
    """The caller's buffer for a result: of some layout, or over the input that it is the gradient in, if that fits."""
    if kind != "over":
        return None if kind is None else BUFFERS[kind](a)
    fits = (
        type(target) is np.ndarray
        and target.dtype == a.dtype
        and target.dtype.isnative
        and target.shape == a.shape
        and target.flags.writeable
    )
    return target if fits else None


def results_of(a: Attempt) -> list[tuple[str, str | None]]:
    """For each result, which it is, and the input that it is the gradient in."""
    wrt = a.options.get("wrt", a.specimen.names[0])
    named: list[tuple[str, str | None]] = []
    for part in METHODS[a.call.method]:
        names = wrt if isinstance(wrt, tuple) else (wrt,)
        named += [(part, None)] if part == "value" else [(part, name) for name in names]
    return named


def run(call: Call) -> str:
    """Makes a call plainly, then as it is to be made; returns how that ended."""
    a = attempt_of(call)
    fl.set_num_threads(1)
    flat: list[Any] = []
    if a.specimen.hessian is None and "hessian" in METHODS[call.method]:
        a.refuses("no diagonal Hessian", NotImplementedError)
    else:
        made = getattr(a.specimen.loss(**a.constructor), call.method)(**a.inputs, **a.options)
        a.results = [np.asarray(x) for x in parts(made)]
        if call.special is None:
            compare(a)
        flat = [None] * len(a.results)
    a.inputs = {k: laid_out(a, k, x) for k, x in a.inputs.items()}
    if call.mistake is not None and not a.refusals:
        MISTAKES[call.mistake](a)
    elif call.out and not a.refusals:
        kinds = [call.out[k % len(call.out)] for k in range(len(a.results))]
        # a sum over examples, as those in weights are, may not lie over what it is summed from
        over = [
            a.inputs.get(k or "") if part == "gradient" and k not in ("sample_weight", *a.specimen.free) else None
            for part, k in results_of(a)
        ]
        flat = list(map(buffer_for, kinds, a.results, over))
        a.options["out"] = nested(flat, call.method, a.options.get("wrt"))
    return judge(a, flat)


def judge(a: Attempt, flat: list[Any]) -> str:
    """Makes the call as it was prepared."""

    def made() -> Any:
        return getattr(a.specimen.loss(**a.constructor), a.call.method)(**a.inputs, **a.options)

    given = [x for x in (*a.inputs.values(), *parts(a.options.get("out"))) if isinstance(x, np.ndarray)]
    fl.set_num_threads(a.call.threads)
    if a.refusals:
        return refusal(made, a.refusals, a.word, given)
    return equality(made, a.results, given, flat)


def compare(a: Attempt) -> None:
    """A plain call's results with the reference's."""
    call, s = a.call, a.specimen
    inputs = {k: x for k, x in a.inputs.items() if k != "sample_weight"}
    if call.time_first[1]:
        inputs["label"] = inputs["label"].T
    with np.errstate(all="ignore"):
        want = expected(
            s,
            a.lay,
            inputs,
            None if a.spread is None else a.inputs["sample_weight"].reshape(a.spread),
            weight=call.weight,
            reduction=call.reduction,
            head_grad=a.options.get("head_grad", 1),
        )
    first = inputs[s.names[0]].dtype
    dtype = first if first in (np.float32, np.float16) else np.dtype(np.float64)
    for (part, name), x in zip(results_of(a), a.results, strict=True):
        found = want.hessians if part == "hessian" else want.gradients
        y = want.value if name is None else found[name]
        what = f"hessian of {name}" if part == "hessian" else name or part
        if not is_close(x, np.reshape(y, x.shape), dtype, want.terms.get(what, 0)):
            raise Failure(f"{name or part}: {x!r} is not {y!r}")
