"""The config that a run was started with, as it lies in the run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

CONFIG_FILE = "config.yaml"


def read_config(path: Path) -> dict[str, Any]:
    """The config in a file.

    Raises:
        ValueError: the file is no YAML mapping any more.
        OSError: it cannot be read.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(config, dict):
            flatten(config)  # an alias may contain itself
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # of texts that look like dates, too
        reason = str(error).splitlines()[0]
        raise ValueError(f"{path} is not valid YAML ({reason}); restore the file that the run wrote") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"{path}: got {type(config).__name__}, expected a mapping; restore the file that the run wrote"
        )
    return config


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} as {"a.b": 1}; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, dict) and value
        flat |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat
