"""Litespark: train language models with the fewest joules per token, and verify every number."""

from typing import Any

__version__ = "0.1.0"
__all__ = ["apply", "remove"]


def __dir__() -> list[str]:
    return [*globals(), *__all__]


def __getattr__(name: str) -> Any:
    """`litespark.apply` and `litespark.remove`, which import PyTorch."""
    if name in __all__:
        from litespark.models.huggingface import apply as module

        return getattr(module, name)
    raise AttributeError(f"module 'litespark' has no attribute {name!r}")
