"""What a config may call, and which kinds of values it may hand over.

A config is text that may come from anywhere, and Hydra would call whatever `_target_` names (`os.system` included).
Only classes are called, and only those defined below the allowed prefixes: a prefix alone would let
`litespark.some.module.os.system` through. `LITESPARK_ALLOWED_TARGETS` adds a project's own package.
"""

from __future__ import annotations

import importlib
import inspect
import os
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

ALLOWED_PREFIXES = ("litespark.",)
ALLOWED_VARIABLE = "LITESPARK_ALLOWED_TARGETS"

_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


class ConfigError(ValueError):
    """A config cannot be turned into a run; the message says which key, what was got and what to do."""


def check_targets(config: Any) -> None:
    """Refuse a config in which any `_target_` is not a class of ours; nothing is called.

    Raises:
        ConfigError: names the key and the target.
    """
    allowed = (*ALLOWED_PREFIXES, *filter(None, os.environ.get(ALLOWED_VARIABLE, "").split(",")))
    for key, target in _targets(config, ""):
        if not isinstance(target, str) or not target.startswith(allowed) or not _is_class_below(target, allowed):
            raise ConfigError(
                f"{key}: got the target {target!r}, expected a class below {' or '.join(allowed)}; a config may not "
                f"call anything else. For classes of your own set {ALLOWED_VARIABLE}=yourpackage. in the environment"
            )


def check_resolved(node: Any, path: str) -> None:
    """Refuse a text that would be resolved again: `\\${…}` resolves to `${…}`, and that could become a target.

    Args:
        node: resolved, with checked targets.
        path: its key.

    Raises:
        ConfigError: names the key and the text.
    """
    if isinstance(node, dict):
        for key, value in node.items():
            check_resolved(value, f"{path}.{key}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            check_resolved(value, f"{path}[{index}]")
    elif isinstance(node, str) and "${" in node:
        raise ConfigError(
            f"{path}: got {node!r}, expected a text without ${{ in it: only the config's own interpolations are "
            "resolved, and once. Write the value itself"
        )


def check_kinds(node: dict[str, Any], group: str) -> None:
    """Compare the values of a checked node with the annotations of its dataclass: numbers, texts, true or false, null.

    Other annotations are left to the dataclass itself; dataclasses within it are compared as well.

    Raises:
        ConfigError: names the key, the value and the kind that is expected.
    """
    module, _, name = node["_target_"].rpartition(".")
    target = getattr(importlib.import_module(module), name)
    if not is_dataclass(target):
        return
    hints = get_type_hints(target)
    defaults = {field.name: field.default for field in fields(target)}
    for key, value in node.items():
        if isinstance(value, dict) and "_target_" in value:
            check_kinds(value, f"{group}.{key}")
            continue
        options = _options(hints.get(key))
        if not options or value is defaults.get(key, MISSING) or any(_is_a(value, kind) for kind in options):
            continue
        expected = " or ".join("null" if kind is type(None) else _KINDS[kind] for kind in options)
        raise ConfigError(f"{group}.{key}: got {value!r}, expected {expected}; set {group}.{key}=…")


def _targets(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict):
        for key, value in config.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield here, value
            else:
                yield from _targets(value, here)
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _targets(value, f"{path}[{index}]")


def _is_class_below(target: str, allowed: tuple[str, ...]) -> bool:
    """Whether `target` is a class in a module, both of which exist, and the class is defined below the prefixes."""
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return False
    return inspect.isclass(found) and f"{found.__module__}.".startswith(allowed)


def _options(hint: Any) -> tuple[Any, ...]:
    """The plain kinds that an annotation allows; none where it is anything but plain."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return options if all(option in _KINDS or option is type(None) for option in options) else ()


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is kind if kind in (int, bool) else isinstance(value, kind)
