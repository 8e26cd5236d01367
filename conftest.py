"""Leaves out doctests of what is not installed; the tests skip by themselves, with a reason."""

from importlib.util import find_spec

NEEDS = {
    "fastloss/torch.py": ["torch"],
    "docs/guide/frameworks.md": ["torch", "jax", "autograd", "dask"],
}

collect_ignore = [path for path, libraries in NEEDS.items() if any(find_spec(name) is None for name in libraries)]
# these have no doctests, and each imports its library
collect_ignore_glob = ["fastloss/backends/*.py"]
