"""The libraries that selection stands on, imported where they are used; without them a setting is refused."""

from __future__ import annotations

from importlib import import_module, metadata
from types import ModuleType

EXTRA = "selection"


def library(name: str, *, setting: str, extra: str = EXTRA) -> ModuleType:
    """An optional library.

    Args:
        name: of the module.
        setting: what needs it, such as `data.selection.quality`.
        extra: of this package, that brings it.

    Raises:
        ValueError: it is not installed, or something that it needs is not.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise ValueError(
            f"{setting} needs {name.partition('.')[0]}, which cannot be imported here ({error}); "
            f"run pip install 'litespark[{extra}]', or take the setting back"
        ) from error


def version(distribution: str) -> str:
    """Of an installed distribution; the rules are its code, so another version is another selection."""
    return metadata.version(distribution)
