"""Leaves out the doctests of what imports a library that is not installed; tests skip by themselves, with a reason."""

from importlib.util import find_spec

NEEDS = {
    "fastloss/torch.py": ["torch"],
    "fastloss/backends/torch.py": ["torch"],
    "fastloss/backends/torch_operators.py": ["torch"],
    "fastloss/backends/jax.py": ["jax"],
    "fastloss/backends/autograd.py": ["autograd"],
    "fastloss/backends/dask.py": ["dask"],
    "docs/guide/frameworks.md": ["torch", "jax", "autograd", "dask"],
}

collect_ignore = [path for path, libraries in NEEDS.items() if any(find_spec(name) is None for name in libraries)]
