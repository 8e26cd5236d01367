"""Loss functions on the CPU: value, gradient and Hessian in one pass over memory.

>>> import fastloss as fl
>>> loss = fl.HuberLoss(rho=1)
>>> loss.value_and_grad([0.5, 3.0], [0.0, 0.0])
(array([0.125, 2.5  ]), array([0.5, 1. ]))
"""

from typing import TYPE_CHECKING

from fastloss import backends, losses, plot
from fastloss._config import __version__, show_config
from fastloss._threads import get_num_threads, num_threads, set_num_threads
from fastloss.linear import LinearLoss, linear_objective
from fastloss.losses import *  # noqa: F403

if TYPE_CHECKING:
    # Type checkers take a computed __all__ for an empty one.
    from fastloss._core import Loss as Loss
    from fastloss.losses._families import *  # noqa: F403
else:
    # A visible __getattr__ would tell type checkers that the module has every name.

    def __getattr__(name: str) -> None:
        from fastloss._peers import no_such_name

        raise no_such_name(__name__, name)


__all__ = [
    *losses.__all__,
    "LinearLoss",
    "__version__",
    "get_num_threads",
    "linear_objective",
    "num_threads",
    "plot",
    "set_num_threads",
    "show_config",
]

backends.follow_torch_compiler()
