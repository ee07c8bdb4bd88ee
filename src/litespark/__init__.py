"""Litespark: train language models with the fewest joules per token, and verify every number."""

import importlib
from typing import Any

__version__ = "0.1.0"
_HOMES = {"apply": "apply", "remove": "apply", "kernel_mapping": "kernels"}
__all__ = list(_HOMES)


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """What `__all__` names, which imports PyTorch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"litespark.models.huggingface.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'litespark' has no attribute {name!r}")
