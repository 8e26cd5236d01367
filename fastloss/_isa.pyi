from typing import Any

NAMES: tuple[str, ...]
supported: tuple[str, ...]
name: str
kernels: Any

def choose(asked: str | None, supported: tuple[str, ...]) -> str: ...
