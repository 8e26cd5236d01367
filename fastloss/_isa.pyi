from typing import Any

NAMES: tuple[str, ...]
supported: tuple[str, ...]
best: str
name: str
kernels: Any
