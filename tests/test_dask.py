"""Dask: lazy results are those of NumPy, however the arrays are cut into chunks."""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import fastloss as fl
from tests.conftest import assert_close, call_args, draw
from tests.reference import LOSSES
from tests.structured import STRUCTURED

dask = pytest.importorskip("dask", reason="computes on Dask's schedulers")
da = pytest.importorskip("dask.array", reason="computes on Dask's schedulers")

REDUCTIONS = ["example", "none", "sum", "mean", "weighted_mean"]
# of the axis of the examples, and of the one behind it where that may be cut
CHUNKS: list[tuple[Any, Any]] = [((3, 4), 5), ((2, 0, 4, 1), (2, 3))]


def raising_scheduler(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("something was computed")


@pytest.fixture(autouse=True)
def lazy() -> Iterator[None]:
    with dask.config.set(scheduler=raising_scheduler):
        yield


def computed(*lazy: Any) -> Any:
    results = dask.compute(*lazy, scheduler="synchronous")
    return results if len(results) > 1 else results[0]


def example(name: str, rng: np.random.Generator) -> tuple[Any, dict[str, NDArray[Any]]]:
    """A loss, or what its chunks need to know of it, and its inputs by name, for 7 examples."""
    if name in LOSSES:
        source: Any = LOSSES[name]
        inputs = call_args(draw(source, rng, (7, 5)), rng.uniform(0.5, 2, 7))
    else:
        source = STRUCTURED[name]
        inputs = (*source.data(rng, 7), rng.uniform(0.5, 2, 7))
    return source.build, dict(zip(source.build().inputs, inputs, strict=False))


def cut(name: str, given: dict[str, NDArray[Any]], chunks: tuple[Any, Any]) -> dict[str, Any]:
    """Arrays of Dask, cut along all axes that may be."""
    sizes = {7: -1 if "SDML" in name else chunks[0], 5: chunks[1] if name in LOSSES else -1}
    return {
        key: da.from_array(x, chunks=tuple([sizes.get(n, -1) if k < 2 else -1 for k, n in enumerate(x.shape)]))
        for key, x in given.items()
    }


def differentiable(loss: fl.Loss, given: dict[str, Any]) -> tuple[str, ...]:
    ids = dict(loss.arguments).get("sparse_label", False)
    return tuple([name for name in given if name not in loss.fixed and not (name == "label" and ids)])


def check(loss: fl.Loss, given: dict[str, NDArray[Any]], lazy: dict[str, Any], head: Any, lazy_head: Any) -> None:
    """All results of all methods."""
    wrt = differentiable(loss, given)
    wants = [loss(**given), *flat(loss.value_and_grad(**given, wrt=wrt, head_grad=head))]
    found = [loss(**lazy), *flat(loss.value_and_grad(**lazy, wrt=wrt, head_grad=lazy_head))]
    wants += [loss.grad(**given), loss.grad(**given, wrt="sample_weight", head_grad=head)]
    found += [loss.grad(**lazy), loss.grad(**lazy, wrt="sample_weight", head_grad=lazy_head)]
    if loss.no_hessian is None:
        wants += [*loss.grad_and_hess(**given), *loss.value_grad_and_hess(**given, head_grad=head)]
        found += [*loss.grad_and_hess(**lazy), *loss.value_grad_and_hess(**lazy, head_grad=lazy_head)]
    terms = np.max(np.abs(type(loss)(**(dict(loss.arguments) | {"reduction": "none"}))(**given)), initial=1)
    for x, got, want in zip(found, computed(*found), wants, strict=True):
        assert isinstance(x, da.Array)
        assert x.dtype == want.dtype
        assert x.shape == want.shape
        assert [sum(c) for c in x.chunks] == list(want.shape)
        assert_close(got, want, want.dtype, terms)


def flat(results: tuple[Any, tuple[Any, ...]]) -> tuple[Any, ...]:
    return results[0], *results[1]


@pytest.mark.parametrize("chunks", CHUNKS, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", [*LOSSES, *[name for name in STRUCTURED if "3000" not in name]])
def test_results(rng: np.random.Generator, name: str, reduction: str, chunks: Any) -> None:
    build, given = example(name, rng)
    loss = build(reduction=reduction, weight=0.7)
    lazy = cut(name, given, chunks)
    value = loss(**given)
    head = rng.normal(size=np.shape(value))
    lazy_head = da.from_array(head, chunks=(-1 if "SDML" in name else 4, *[-1] * head.ndim)[: head.ndim])
    check(loss, given, lazy, head, lazy_head)
