"""What is installed and how it runs here."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from fastloss import _isa, _threads

__version__ = "0.1.0"


def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print the versions, the build of the kernels and the threads in use; ``mode="dicts"`` returns them instead.

    Raises ValueError for another mode.

    >>> import fastloss as fl
    >>> fl.show_config(mode="dicts")["fastloss"] == fl.__version__
    True
    """
    if not isinstance(mode, str) or mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    # These take longer to import than all of fastloss.
    import platform

    config = {
        "fastloss": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "platform": platform.platform(),
        "instruction set": _isa.name,
        "instruction sets of this CPU": list(_isa.supported),
        "OpenMP": _threads.has_openmp,
        "threads": _threads.get_num_threads(),
        "processors": _threads.processors_here(),
    }
    if mode == "dicts":
        return config
    width = max(map(len, config))
    for key, value in config.items():
        print(f"{key:{width}}  {', '.join(value) if isinstance(value, list) else value}")
    return None
