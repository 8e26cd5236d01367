"""How calls are drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from fastloss._domains import COUNT
from fastloss._domains import REAL as REAL_NUMBERS
from tests.fuzz.call import FAMILIES, SPECIMENS, Call
from tests.fuzz.mistakes import MISTAKES
from tests.fuzz.run import BUFFERS
from tests.reference import REDUCTIONS
from tests.specimens import METHODS, Shape, Specimen
from tests.test_inputs import LAYOUTS, REAL

margins = st.integers(-4, 12).map(lambda k: k / 4)
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "case": {"name": st.sampled_from(sorted(SPECIMENS))},
    "huber": {"rho": st.sampled_from([0.125, 0.5, 1, 3])},
    "hinge": {"margin": margins},
    "squared_hinge": {"margin": margins},
    "bce": {"from_sigmoid": st.booleans(), "pos_weight": st.booleans()},
    "poisson": {"logits": st.booleans(), "full": st.booleans(), "epsilon": st.booleans()},
    "classes": {
        "sparse": st.booleans(),
        "log_probabilities": st.booleans(),
        "smoothing": st.sampled_from([0, 0, 0.125, 1]),
        "ignore": st.sampled_from([None, None, 0, 1, -1, -100, 2**53 - 1]),
        "class_weight": st.booleans(),
    },
    "triplet": {"margin": margins},
    # no cosine of such numbers as are drawn: on the kink the reference is of two minds
    "cosine": {"margin": st.sampled_from([-0.1234, 0.0123, 0.2871])},
    "metric": {"smoothing": st.sampled_from([0, 0.25, 1])},
    "sequences": {
        "blank": st.sampled_from(["last", "first", None]),
        "zero_infinity": st.booleans(),
        "lengths": st.booleans(),
    },
}

BOOLEANS = st.booleans()
KEEP = st.lists(BOOLEANS, max_size=4).map(tuple)
SHAPES = [st.lists(st.integers(0, 7), min_size=least, max_size=4).map(tuple) for least in range(3)]
SEQUENCE_SHAPES = st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(1, 4))
AXES = [st.integers(-n, n - 1) for n in range(1, 5)]
LARGE = st.sampled_from([None] * 20 + [33, 65, 130, 257, 1025, 2049, 5000])
PRED_DTYPES = st.sampled_from(["f8", "f4", "f8", "f4", "f2", "i8", "u1", "?", "i4"])
DTYPES = st.sampled_from([str(d) for d in REAL])
LAYOUT_NAMES = st.sampled_from(["contiguous", *sorted(LAYOUTS)])
NUMBERS = st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 1e300, 1e-310, -1e38, 3e4])
# a case of each family, and of what kind it is
KINDS = {
    "huber": SPECIMENS["Huber"],
    "hinge": SPECIMENS["hinge"],
    "squared_hinge": SPECIMENS["squared hinge"],
    "bce": SPECIMENS["BCE pos_weight"],
    "poisson": SPECIMENS["Poisson"],
    "classes": SPECIMENS["softmax"],
    "triplet": SPECIMENS["triplet"],
    "cosine": SPECIMENS["cosine"],
    "metric": SPECIMENS["SDML"],
    "sequences": SPECIMENS["CTC"],
} | SPECIMENS
INPUTS = {
    kind: (*(name for name in s.names if s.specs[name].lies != "number"), "sample_weight") for kind, s in KINDS.items()
}
TARGETS = {
    kind: st.one_of(st.none(), st.sampled_from(names), st.permutations(names).map(tuple))
    for kind, names in INPUTS.items()
}
SPECIAL = {
    kind: st.one_of(st.none(), st.none(), st.none(), st.tuples(st.sampled_from(names), NUMBERS))
    for kind, names in INPUTS.items()
}
# in every other call one of the many cases
ANY_FAMILY = st.sampled_from([*sorted(FAMILIES), *["case"] * len(FAMILIES)])
ANY_METHOD = st.sampled_from(sorted(METHODS))
ANY_REDUCTION = st.sampled_from(REDUCTIONS)
ANY_WEIGHT = st.sampled_from([1, 1, 0.5, -2, 0])
ANY_SAMPLE_WEIGHT = st.one_of(st.none(), st.just("example"), st.just("whole"), KEEP)
ANY_HEAD = st.sampled_from([None, "number", "array"])
ANY_OUT = st.one_of(st.none(), st.lists(st.sampled_from([None, "over", *BUFFERS]), min_size=1, max_size=4).map(tuple))
ANY_THREADS = st.sampled_from([1, 1, 2, 3])
ANY_MISTAKE = st.one_of(st.none(), st.sampled_from(sorted(MISTAKES)))
SEED = 2**32 - 1
ANY_SEED = st.integers(0, SEED)


def draw_shape(draw: Any, s: Specimen) -> Shape:
    """Small, of few axes, now and then with a large one."""
    if s.is_of_sequences:
        return draw(SEQUENCE_SHAPES.filter(s.fits))
    shape: Shape = draw(SHAPES[s.least_axes])
    large = draw(LARGE)
    if large is None or not shape or (s.built.couples and large > 130):
        return shape
    k = draw(AXES[len(shape) - 1])
    return tuple(large if i == k % len(shape) else n for i, n in enumerate(shape))


def draw_dtypes(draw: Any, family: str, kind: str) -> dict[str, str]:
    """A dtype for each input. Numbers that are rounded may lie on a kink, or where the reference has no logarithm."""
    s, dtypes = KINDS[kind], {}
    for k, name in enumerate((*INPUTS[kind], "head_grad")):
        dtype = draw(DTYPES if k else PRED_DTYPES)
        if name in s.specs and dtype not in ("f4", "f8"):
            if (family in ("bce", "poisson") and k == 0) or (family == "case" and is_exact(s, name)):
                dtype = "f8"
            elif s.built.couples and dtype in ("?", "bool"):
                # vectors of 0 and 1 are so far apart that the reference's exponentials are all 0
                dtype = "f4"
        dtypes[name] = dtype
    return dtypes


def is_exact(s: Specimen, name: str) -> bool:
    """Whether an input has to be as it was drawn: trials, and all but labels beside logits, which know no kink."""
    domain = s.specs[s.names[0]].domain
    has_logits = domain is not REAL_NUMBERS and np.isinf(domain.low)
    is_trials = s.specs[name].lies == "broadcast" and s.specs[name].domain is COUNT
    return name not in s.ids and (is_trials or (name != "label" and not has_logits))


@st.composite
def calls(draw: Any) -> Call:
    """A call, good but for its mistake."""
    family = draw(ANY_FAMILY)
    parameters = {k: draw(v) for k, v in PARAMETERS[family].items()}
    kind = parameters.get("name", family)
    s = KINDS[kind]
    shape = draw_shape(draw, s)
    axes = AXES[max(len(shape), 1) - 1]
    axis, batch_axis, time_first = -1, 0, (False, False)
    if s.is_of_sequences:
        time_first = (draw(BOOLEANS), draw(BOOLEANS))
        if parameters.get("blank", 0) is None:
            parameters["blank"] = draw(AXES[shape[2] - 1])
        shape = (shape[1], shape[0], shape[2]) if time_first[0] else shape
    else:
        batch_axis = draw(axes)
        axis = draw(axes) if s.has_axis else axis
        shape = s.fitted(shape, axis)
    if family == "classes" and parameters["sparse"] and shape[axis] == 0:
        # the only id that is good is the one that is ignored
        parameters |= {"ignore": parameters["ignore"] or 0, "class_weight": False}
    if family == "case" and not s.has_good_ids(shape, axis):
        shape = tuple(n or 1 for n in shape)
    dtypes = draw_dtypes(draw, family, kind)
    return Call(
        family=family,
        parameters=parameters,
        shape=shape,
        axis=axis,
        batch_axis=batch_axis,
        time_first=time_first,
        method=draw(ANY_METHOD),
        reduction=draw(ANY_REDUCTION),
        weight=draw(ANY_WEIGHT),
        dtypes=dtypes,
        layouts={name: draw(LAYOUT_NAMES) for name in dtypes},
        wild=draw(BOOLEANS),
        squeeze=draw(BOOLEANS),
        sample_weight=draw(ANY_SAMPLE_WEIGHT),
        third_axes=draw(KEEP),
        head=draw(ANY_HEAD),
        wrt=draw(TARGETS[kind]),
        out=draw(ANY_OUT),
        threads=draw(ANY_THREADS),
        special=draw(SPECIAL[kind]),
        mistake=draw(ANY_MISTAKE),
        seed=draw(ANY_SEED),
    )
