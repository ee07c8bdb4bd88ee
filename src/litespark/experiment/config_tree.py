"""Walks over nested settings, as plain values or as OmegaConf's nodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig


def lay_over(below: dict[str, Any], above: Any) -> None:
    """Merge the mapping `above` into `below`."""
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            lay_over(below[key], value)
        else:
            below[key] = value


def may_be_set(config: DictConfig, key: str) -> bool:
    """Whether a key is there; what lies below an interpolation, or in an open mapping, is left to Hydra."""
    node: Any = config
    for each in key.split("."):
        if not isinstance(node, DictConfig) or node._is_interpolation():
            return True
        if node._get_flag("struct") is False:
            return True
        if each not in node.keys():  # noqa: SIM118 – a key of which the value is missing (???) is not "in" it
            return False
        node = node._get_node(each)
    return True


def value_above(values: Mapping[str, Any], key: str) -> tuple[str, Any] | None:
    """The setting above `key` that is null or a plain value, so that no setting can lie in it, and that value."""
    node: Any = values
    parts = key.split(".")
    for depth, part in enumerate(parts):
        if not isinstance(node, Mapping):
            is_interpolation = isinstance(node, str) and "${" in node
            return None if is_interpolation else (".".join(parts[:depth]), node)
        if part not in node:
            return None
        node = node[part]
    return None


def unknown_keys(values: Mapping[str, Any], known: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys of mappings that no class reads; those of a class are compared with its arguments when it is called."""
    for key, value in values.items():
        if key not in known:
            yield f"{path}{key}"
        elif isinstance(value, dict) and isinstance(known[key], dict) and "_target_" not in value:
            yield from unknown_keys(value, known[key], f"{path}{key}.")


def paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted keys of a mapping, of those within it too; no targets."""
    if path:
        yield ".".join(path)
    if isinstance(node, dict):
        for key, value in node.items():
            if key != "_target_":
                yield from paths(value, (*path, str(key)))
