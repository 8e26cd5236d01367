from typing import Any

NAMES: tuple[str, ...]
supported: tuple[str, ...]
is_amd: bool
name: str
kernels: Any

def choose(asked: str | None, supported: tuple[str, ...]) -> str: ...
