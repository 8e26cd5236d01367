"""Constructors, settings and pictures with every value for every parameter, and calls with wrong arguments."""

from __future__ import annotations

import copy
import functools
import inspect
import io
import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastloss as fl
from fastloss import _threads
from tests.hostile import VALUES, Value
from tests.judge import Failure, refusal, same_bits
from tests.matrix.base import (
    SPECIMENS,
    Case,
    Plain,
    plains,
    refused_as,
)
from tests.reference import REDUCTIONS
from tests.specimens import (
    METHODS,
)

NUMBER, OPTIONAL, INTEGER, ID, FLAG, WEIGHTS = "number", "optional number", "integer", "id", "flag", "weights"
CLASS = "class"


@dataclass(frozen=True)
class Parameter:
    """What a constructor's parameter takes."""

    kind: str
    low: float = -np.inf
    high: float = np.inf
    is_open: bool = False  # low itself is refused
    is_below: bool = False  # high itself is refused
    gap: tuple[float, float] = (0, 0)  # what lies between is refused
    choices: tuple[str, ...] = ()


LOSSES: list[type[fl.Loss]] = list(dict.fromkeys(getattr(fl, name) for name in fl.losses.__all__ if name != "Loss"))
# by the parameter's name, or by the loss's and the parameter's where other losses may mean another thing by it
PARAMETERS = {
    "weight": Parameter(OPTIONAL),
    "reduction": Parameter("choice", choices=REDUCTIONS),
    "batch_axis": Parameter(INTEGER),
    "axis": Parameter(INTEGER),
    "rho": Parameter(NUMBER, 0, is_open=True),
    "delta": Parameter(NUMBER, 0, is_open=True),
    "c": Parameter(NUMBER, 0, is_open=True),
    "beta": Parameter(NUMBER, 0, is_open=True),
    "epsilon": Parameter(NUMBER, 0),
    "expectile": Parameter(NUMBER, 0, 1, is_open=True, is_below=True),
    "quantile": Parameter(NUMBER, 0, 1, is_open=True, is_below=True),
    "margin": Parameter(NUMBER),
    "p": Parameter(INTEGER, 1, 2),
    "gamma": Parameter(NUMBER, 0, is_open=True),
    "SigmoidFocalLoss.gamma": Parameter(NUMBER, 0),
    "SoftmaxFocalLoss.gamma": Parameter(NUMBER, 0),
    "gamma_neg": Parameter(INTEGER, 0, 7),
    "gamma_pos": Parameter(INTEGER, 0, 7),
    "clip": Parameter(NUMBER, 0, 1, is_below=True),
    "alpha": Parameter(OPTIONAL, 0, 1),
    "RobustLoss.alpha": Parameter(NUMBER),
    "RobustLoss.c": Parameter(NUMBER, 1e-150, 1e150, is_open=True, is_below=True),
    "power": Parameter(NUMBER, gap=(0, 1)),
    "theta": Parameter(NUMBER, 0, is_open=True),
    "eps": Parameter(NUMBER, 0, is_open=True),
    "df": Parameter(NUMBER, 0, is_open=True),
    "GaussianNLLLoss.scale": Parameter("choice", choices=("log_variance", "variance", "log_scale")),
    "AFTLoss.scale": Parameter(NUMBER, 0, is_open=True),
    "distribution": Parameter("choice", choices=("logistic", "extreme")),
    "PolyBCELoss.epsilon": Parameter(NUMBER, -1, is_open=True),
    "PolyCELoss.epsilon": Parameter(NUMBER, -1, is_open=True),
    "q": Parameter(NUMBER, 0, 1, is_open=True),
    "smoothing_parameter": Parameter(NUMBER, 0, 1),
    "label_smoothing": Parameter(NUMBER, 0, 1),
    "z_loss": Parameter(NUMBER, 0),
    "softcap": Parameter(OPTIONAL, 0, is_open=True),
    "logit_bias": Parameter(WEIGHTS),
    "class_weight": Parameter(WEIGHTS),
    "ignore_index": Parameter(ID),
    "sparse_label": Parameter(FLAG),
    "from_logits": Parameter(FLAG),
    "from_sigmoid": Parameter(FLAG),
    "compute_full": Parameter(FLAG),
    "deviance": Parameter(FLAG),
    "label_format": Parameter("choice", choices=("signed", "binary")),
    "CTCLoss.layout": Parameter("choice", choices=("NTC", "TNC")),
    "CTCLoss.label_layout": Parameter("choice", choices=("NT", "TN")),
    "blank": Parameter(CLASS, choices=("last", "first")),
    "zero_infinity": Parameter(FLAG),
}


def parameters_of(loss: type[fl.Loss]) -> dict[str, Parameter]:
    """What each of a constructor's parameters takes."""
    found = {}
    for name in inspect.signature(loss).parameters:
        parameter = PARAMETERS.get(f"{loss.__name__}.{name}") or PARAMETERS.get(name)
        if parameter is None:
            raise LookupError(f"PARAMETERS of tests/matrix/callables.py must say what {name} of {loss.__name__} takes")
        found[name] = parameter
    return found


def takes(parameter: Parameter, value: Value, x: Any) -> bool:
    """Whether a parameter takes a value."""
    kind = parameter.kind
    if x is None:
        return kind in (OPTIONAL, ID, WEIGHTS)
    if kind in (NUMBER, OPTIONAL):
        n = value.number
        if n is None or not np.isfinite(n) or is_weight_per_example(parameter, x):
            return False
        ends = [parameter.low] * parameter.is_open + [parameter.high] * parameter.is_below
        inside = parameter.low <= n <= parameter.high and n not in ends
        return bool(inside and not parameter.gap[0] < n < parameter.gap[1])
    if kind in (INTEGER, ID):
        limit = 2**31 - 1 if kind == INTEGER else 2**53 - 1
        return value.integer is not None and max(-limit, parameter.low) <= value.integer <= min(limit, parameter.high)
    if kind == FLAG:
        return value.flag is not None
    if kind == WEIGHTS:
        return value.weights is not None and bool(np.isfinite(value.weights).all())
    if kind == CLASS and value.integer is not None:
        return abs(value.integer) < 2**31
    return value.text in parameter.choices


def is_weight_per_example(parameter: Parameter, x: Any) -> bool:
    """weight= refuses arrays, even of no axes, and says where weights per example go."""
    return parameter is PARAMETERS["weight"] and isinstance(x, np.ndarray)


def constructors() -> Iterator[Case]:
    """Every value for every parameter, beside each choice of the flags: taken, or refused by name."""
    for loss in LOSSES:
        parameters = parameters_of(loss)
        for name, value in itertools.product(parameters, VALUES):
            flags = [other for other, p in parameters.items() if p.kind == FLAG and other != name]
            for states in itertools.product((False, True), repeat=len(flags)):
                beside = dict(zip(flags, states, strict=True))
                run = functools.partial(built, loss, name, parameters[name], value, beside)
                yield Case((loss.__name__, name, "=", value, "beside", beside), run)


def built(loss: type[fl.Loss], name: str, parameter: Parameter, value: str, beside: dict[str, bool]) -> str:
    x = VALUES[value].make()
    if name == "ignore_index" and x is not None and beside.get("sparse_label") is False:
        return refusal(lambda: loss(**beside, ignore_index=x), *refused_as(VALUES[value], name))
    call = functools.partial(loss, **beside, **{name: x})
    of_logits = VALUES[value].number != 0 if name == "z_loss" else name in ("softcap", "logit_bias") and x is not None
    below = name == "power" and beside["deviance"] and (VALUES[value].number or 0) < 1
    if not takes(parameter, VALUES[value], x) or (of_logits and beside["from_logits"]) or below:
        return refusal(call, *refused_as(VALUES[value], name))
    made = call()
    # what was given may change afterwards, and the loss does not
    if VALUES[value].lasting and not (
        made == copy.deepcopy(made) == pickle.loads(pickle.dumps(made)) and hash(made) == hash(call())
    ):
        raise Failure(f"{made!r} is not equal to its copies")
    if f"{name}=" not in repr(made):
        raise Failure(f"{made!r} does not say its {name}")
    if parameter.kind not in (INTEGER, WEIGHTS) and not (parameter.kind == CLASS and VALUES[value].integer is not None):
        works(made)
    return "equal"


def works(loss: fl.Loss) -> None:
    """Whatever was built can be called."""
    shape: tuple[int, ...] = (2, 3, 2)
    named: dict[str, Any] = {}
    for spec in loss.specs[: loss.required]:
        own = shape
        if spec.lies == "per row":
            own = shape[:-1]
        elif spec.lies == "own":
            # an empty label for each example
            own = tuple(shape[loss.layout.index("N")] if letter == "N" else 0 for letter in spec.axes)
        named[spec.name] = np.full(own, spec.integers.low if spec.integers else 0.5)
    with np.errstate(all="raise"):
        loss.value_and_grad(**named)


def arguments() -> Iterator[Case]:
    """Too many arguments, unknown ones, the same twice, of constructors and of every method."""
    for loss in LOSSES:
        signature = inspect.signature(loss)
        positional = [p.default for p in signature.parameters.values() if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        first = next(iter(signature.parameters))
        for n in range(1, 5):
            run = functools.partial(refusal, functools.partial(loss, *positional, *[None] * n), [TypeError], "argument")
            yield Case((loss.__name__, "of", len(positional) + n, "arguments"), run)
        for word in ("nu", "Reduction", "reduce", "size_average", "self", "", "weight ", "кернел", "__init__"):
            run = functools.partial(refusal, functools.partial(loss, **{word: 1}), [TypeError], "argument")
            yield Case((loss.__name__, repr(word)), run)
        run = functools.partial(refusal, functools.partial(loss, positional[0], **{first: 1}), [TypeError], first)
        yield Case((loss.__name__, first, "twice"), run)
        for name in signature.parameters:
            yield Case((loss.__name__, name, "set"), functools.partial(unchanging, loss, name))
        yield Case((loss.__name__, "built again"), functools.partial(built_again, loss))
        yield Case((loss.__name__, "never built"), functools.partial(never_built, loss))
    for plain in plains(6, ("f8",), ("example",)):
        for method in METHODS:
            yield from misuses(plain, method)


def unchanging(loss: type[fl.Loss], name: str) -> str:
    made = loss()
    before = repr(made)
    answer = refusal(lambda: setattr(made, name, 1), [AttributeError], "")
    if repr(made) != before:
        raise Failure("a loss has changed")
    return answer


def built_again(loss: type[fl.Loss]) -> str:
    """A loss whose constructor is called once more stays as it was."""
    s = next(s for s in SPECIMENS.values() if s.loss is loss)
    made = loss(**s.parameters)
    inputs = dict(zip(s.names, s.data(np.random.default_rng(0), s.fitted((3, 4, 3), -1)), strict=True))
    before = np.array(made(**inputs))
    others = {"weight": 0.5, "margin": 3.0, "rho": 4.0, "smoothing_parameter": 0.9, "from_logits": False}
    given = {k: v for k, v in others.items() if k in inspect.signature(loss).parameters}
    answer = refusal(functools.partial(made.__init__, **given), [TypeError], "immutable")  # type: ignore[misc]
    if not same_bits(made(**inputs), before):
        raise Failure("a loss has changed")
    return answer


def never_built(loss: type[fl.Loss]) -> str:
    """A loss without its constructor, as of a subclass that forgot it, has no kernel to call."""
    forgotten = type("Forgotten", (loss,), {"__init__": lambda self: None})()
    x = np.ones((2, 3, 2))
    for method in METHODS:
        refusal(functools.partial(getattr(forgotten, method), x, x, x), [TypeError], "")
    return refusal(forgotten, [TypeError], "")


NO_TARGETS: list[Any] = ["", "Pred", "pred ", "weights", "out", "epsilon", b"pred", 0, 1.5, np.nan, True, int, ...]
NO_TARGETS += [(), [], (None,), (("pred",),), {"pred"}, {"pred": 1}, object(), np.array(1), np.array(["pred", "label"])]


def misuses(plain: Plain, method: str) -> Iterator[Case]:
    """A method with arguments that it does not have, or without those that it needs."""
    call, given = functools.partial(plain.method(method)), plain.inputs
    required = plain.s.inputs[: plain.s.required]
    everything = [given.get(k) for k in plain.s.inputs]
    first = plain.s.names[0]

    def case(what: str, run: Callable[[], Any], word: str, kind: type[Exception] = TypeError) -> Case:
        if "hessian" in METHODS[method] and plain.s.hessian is None:
            # there may be two mistakes now
            return Case((plain, method, what), functools.partial(refusal, run, [kind, NotImplementedError], ""))
        return Case((plain, method, what), functools.partial(refusal, run, [kind], word))

    for n in range(1, 4):
        yield case(f"{n} too many", functools.partial(call, *everything, *[None] * n), "at most")
    for word in ("weights", "Label", "dtype", "reduction", "axis", "where", "self", "inputs", "options", "", "out "):
        yield case(repr(word), functools.partial(call, **given, **{word: None}), "unexpected keyword")
    for name in plain.s.inputs:
        yield case(f"{name} twice", functools.partial(call, *everything, **{name: given.get(name)}), f"{name} twice")
    for name in required:
        rest: dict[str, Any] = {k: a for k, a in given.items() if k != name}
        yield case(f"without {name}", functools.partial(call, **rest), "needs")
        yield case(f"{name}=None", functools.partial(call, **rest, **{name: None}), "needs")
    yield case("nothing", call, "needs")
    if method == "__call__":
        yield case("head_grad", functools.partial(call, **given, head_grad=1), "head_grad")
    if method == "__call__":
        yield case("wrt", functools.partial(call, **given, wrt=first), "wrt")
        return
    if "hessian" in METHODS[method]:
        for name in set(plain.wrt) - {*plain.loss.twice_differentiable}:
            yield case(f"wrt={name!r}", functools.partial(call, **given, wrt=name), "no Hessian in", ValueError)
    for wrong in (*NO_TARGETS, *plain.s.ids, [first], (first, first), (first, None), (first, "x"), np.array([first])):
        yield case(f"wrt={wrong!r}", functools.partial(call, **given, wrt=wrong), "wrt", ValueError)
    bare = {k: a for k, a in given.items() if k in required}
    yield case(
        "wrt an input that is not there", functools.partial(call, **bare, wrt="sample_weight"), "wrt", ValueError
    )


def settings() -> Iterator[Case]:
    """Every value as a number of threads and as a mode, and unknown keywords."""
    for name, value in VALUES.items():
        yield Case(("set_num_threads", name), functools.partial(threads_set, value))
        yield Case(("num_threads", name), functools.partial(threads_inside, value))
        yield Case(("show_config", name), functools.partial(config_shown, value))
        for keyword in ("m", "threads", "modes"):
            for call in (fl.set_num_threads, fl.num_threads, fl.show_config, fl.get_num_threads):
                run = functools.partial(keyword_refused, call, keyword, value)
                yield Case((call.__name__, keyword, "=", name), run)


def is_count(value: Value, x: Any) -> bool:
    """Whether something is a number of threads; True is an integer to Python."""
    n = int(x) if isinstance(x, bool) else value.integer
    return n is not None and 1 <= n <= 4096


def in_use(value: Value) -> int:
    """Of as many threads as are asked for."""
    return int(value.number or 0) if _threads.has_openmp else 1


def threads_set(value: Value) -> str:
    x = value.make()
    before = fl.get_num_threads()
    if x is None or is_count(value, x):
        fl.set_num_threads(x)
        now = fl.get_num_threads()
        fl.set_num_threads(None)
        if x is not None and now != in_use(value):
            raise Failure(f"{now} threads")
        return "equal"
    answer = refusal(lambda: fl.set_num_threads(x), *refused_as(value, "n must be"))
    if fl.get_num_threads() != before:
        raise Failure("the number of threads has changed")
    return answer


def threads_inside(value: Value) -> str:
    x = value.make()
    before = fl.get_num_threads()
    if not is_count(value, x):
        return refusal(lambda: fl.num_threads(x), *refused_as(value, "n must be"))
    with fl.num_threads(x):
        if fl.get_num_threads() != in_use(value):
            raise Failure(f"{fl.get_num_threads()} threads")
    if fl.get_num_threads() != before:
        raise Failure("the number of threads has changed")
    return "equal"


def config_shown(value: Value) -> str:
    x = value.make()
    with redirect_stdout(io.StringIO()):
        return refusal(lambda: fl.show_config(x), [ValueError], "mode")


def keyword_refused(call: Callable[..., Any], keyword: str, value: Value) -> str:
    return refusal(lambda: call(**{keyword: value.make()}), [TypeError], "")


def pictures() -> Iterator[Case]:
    if find_spec("matplotlib") is None:
        return
    functions = {fl.plot.regression: 3, fl.plot.classification: 3, fl.plot.curves: 5}
    for (function, n), (name, value) in itertools.product(functions.items(), VALUES.items()):
        for argument in ("loss", "what", "ax", "label", "pred")[:n]:
            run = functools.partial(drawn, function, argument, value)
            yield Case((function.__name__, argument, "=", name), run)
    axes = (0, -1, 2, -3, 31, 32, 2**31 - 1, -(2**31) + 1)
    for name in SPECIMENS:
        for reduction, batch_axis in itertools.product(("example", "mean"), axes):
            run = functools.partial(curve_of, name, reduction, batch_axis)
            yield Case(("curves", name, reduction, "batch_axis =", batch_axis), run)


def drawn(function: Callable[..., Any], argument: str, value: Value) -> str:
    """A picture with one argument replaced, which is taken or refused by name, before anything is drawn."""
    from matplotlib import pyplot as plt

    x = value.make()
    losses = (x,) if argument == "loss" else (fl.L2Loss(),)
    options: dict[str, Any] = {"label": 0, "pred": [0.0, 1.0]} if function is fl.plot.curves else {}
    if argument != "loss":
        options[argument] = x
    good = {
        "what": value.text in ("value", "gradient", "hessian"),
        "ax": x is None,
        "label": value.number is not None and np.isfinite(value.number),
        "pred": x is None or bool(value.weights),
        "loss": False,
    }[argument]
    try:
        if good:
            function(*losses, **options)
            return "equal"
        answer = refusal(lambda: function(*losses, **options), *refused_as(value, argument))
        if plt.get_fignums():
            raise Failure("a figure is left")
        return answer
    finally:
        plt.close("all")


def curve_of(name: str, reduction: str, batch_axis: int) -> str:
    from matplotlib import pyplot as plt

    s = SPECIMENS[name]
    options: dict[str, Any] = dict(s.parameters) | {"reduction": reduction}
    if s.has_batch_axis:
        options["batch_axis"] = batch_axis
    loss = s.loss(**options)
    try:
        if s.layout != "elements" or s.required > 2:
            why = "needs" if s.layout == "elements" else "no value per element"
            return refusal(lambda: fl.plot.curves(loss, label=0, pred=[0.5]), [TypeError], why)
        if not -32 <= batch_axis < 32:
            return refusal(lambda: fl.plot.curves(loss, label=0, pred=[0.5]), [ValueError], "axes")
        line = fl.plot.curves(loss, label=0, pred=[0.5], what="value").get_lines()[1]
        # with the same reduction: a total of -0 is 0
        if not same_bits(line.get_ydata(), np.ravel(s.loss(**s.parameters, reduction=reduction)(0.5, 0.0))):
            raise Failure(f"{line.get_ydata()}")
        return "equal"
    finally:
        plt.close("all")
