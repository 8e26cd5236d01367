"""The losses, a family a file: a class each, with its formula, its parameters and its source.

A public class of a family that is a loss is in ``__all__`` by itself, and so are its other names.
"""

from fastloss._core import Loss as Loss
from fastloss.losses._families import *  # noqa: F403
from fastloss.losses._normalizer import LogNormalizer

__all__ = [
    name for name, x in globals().items() if isinstance(x, type) and issubclass(x, Loss) and x is not LogNormalizer
]

# what an expression may build: a loss calls the last in its own place
KNOWN = (*__all__, LogNormalizer.__name__)
