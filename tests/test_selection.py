"""The choice of losses and combinations: no shape of a loop, no value and no pair of values is left out."""

from __future__ import annotations

import itertools

import pytest

from tests.calls import ENTRIES
from tests.selection import LOOPS, combinations, shape_of_loop


def test_every_shape_of_a_loop_has_a_representative() -> None:
    represented = {shape_of_loop(name) for name in LOOPS}
    missing = [name for name in ENTRIES if shape_of_loop(name) not in represented]
    assert missing == [], "one of these cases must say, by loop=, what is new in its loop"


@pytest.mark.parametrize("axes", [["ab", "cde", "fg"], ["abcdefgh", "ijklm", "nop", "qr"], ["abc"]])
@pytest.mark.parametrize("name", ["L1", "L2", "softmax"])
def test_every_value_occurs_and_every_pair_for_a_representative(name: str, axes: list[str]) -> None:
    cases = combinations(name, *axes)
    assert len(set(cases)) == len(cases)
    assert {value for case in cases for value in case} == set("".join(axes))
    if name in LOOPS:
        for j, k in itertools.combinations(range(len(axes)), 2):
            assert {(case[j], case[k]) for case in cases} == set(itertools.product(axes[j], axes[k]))
    product = 1
    for axis in axes:
        product *= len(axis)
    assert len(cases) <= product
