"""Triton's interpreter adapts its language anew for each call of a function within a kernel: a third of its time.

Here it does so once a launch for each module that has such functions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from triton.runtime import interpreter

_patch = interpreter._patch_lang
_patched: set[str] = set()


class _Launch:
    """What the interpreter puts back when a launch ends."""

    def __init__(self, scope: Any) -> None:
        self._scope = scope

    def restore(self) -> None:
        _patched.clear()
        self._scope.restore()


def _patch_once(fn: Callable[..., Any]) -> _Launch | None:
    """The scope of a launch; a call within one needs none."""
    if fn.__module__ in _patched:
        return None
    scope = _patch(fn)
    _patched.add(fn.__module__)
    return _Launch(scope)


def keep() -> None:
    """Put it in the place of Triton's own, for this process."""
    interpreter._patch_lang = _patch_once
