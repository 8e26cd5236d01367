"""Leaves out doctests of what is not installed, slow tests, and all but every N-th case of a test if asked for that."""

import zlib
from importlib.util import find_spec

import pytest

NEEDS = {
    "fastloss/torch.py": ["torch"],
    "docs/guide/boosting.md": ["xgboost", "lightgbm", "catboost", "sklearn"],
    "docs/guide/frameworks.md": ["torch", "jax", "autograd", "dask"],
    "docs/guide/pytorch.md": ["torch"],
    "docs/howto/ordinal.md": ["scipy"],
    "docs/howto/scipy.md": ["scipy"],
    "docs/howto/sklearn.md": ["scipy", "sklearn"],
    "tests/distributed.py": ["torch"],
}

collect_ignore = [path for path, libraries in NEEDS.items() if any(find_spec(name) is None for name in libraries)]
# these have no doctests, and each imports its library
collect_ignore_glob = ["fastloss/backends/*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--every", type=int, default=1, metavar="N", help="of the cases of each test, run every N-th, and at least one"
    )
    parser.addoption(
        "--losses", type=int, default=1, metavar="N", help="of the cases of each test of losses, run every N-th"
    )
    parser.addoption("--slow", action="store_true", help="run the tests that take minutes and gigabytes, too")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
    of_all, of_losses = config.getoption("--every"), config.getoption("--losses")
    if of_all == of_losses == 1:
        return
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = []
    for name, group in cases.items():
        every = of_all * (of_losses if of_losses > 1 and is_for_losses(group[0]) else 1)
        # each test begins with another case, so that together they reach all losses and layouts
        first = zlib.crc32(name.encode()) % min(every, len(group))
        left_out += [item for k, item in enumerate(group) if (k - first) % every]
    config.hook.pytest_deselected(items=left_out)
    gone = set(map(id, left_out))
    items[:] = [item for item in items if id(item) not in gone]


def is_for_losses(item: pytest.Item) -> bool:
    from tests.calls import ENTRIES

    parameters = item.callspec.params.values() if isinstance(item, pytest.Function) and "[" in item.nodeid else ()
    return any(isinstance(x, str) and x in ENTRIES for x in parameters)
