"""What a config may call: classes of the user's own, for a task, a model, an optimizer, callbacks and a logger.

A config is text that may come from anywhere, and Hydra would call whatever `_target_` names (`os.system` included).
Only classes are called, and only those defined below the allowed prefixes: a prefix alone would let
`mypkg.some.module.os.system` through. A project adds its own package in the pyproject.toml beside `train.py` or in the
environment, never in a config, which could allow itself.
"""

from __future__ import annotations

import importlib
import inspect
import os
import tomllib
import traceback
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from litespark.run.checkout import repository

OURS = "litespark."
ALLOWED_VARIABLE = "LITESPARK_ALLOWED_TARGETS"
# of Hydra's other words the first makes something else of a class, the rest change how arguments are handed over
_WORDS = ("_partial_", "_args_", "_recursive_", "_convert_")


class ConfigError(ValueError):
    """A config cannot be turned into a run; the message says which key, what was got and what to do."""


def check_targets(config: Any) -> None:
    """Refuse a config in which any `_target_` is not a class that a config may call; nothing is called.

    Raises:
        ConfigError: names the key and the target.
    """
    allowed = allowed_prefixes()
    for key, target in _targets(config, ""):
        if not key.endswith("_target_"):
            raise ConfigError(f"{key}: got {target!r}, expected a _target_ and its arguments by name only; take it out")
        _class_of(key, target, allowed)


def allowed_prefixes() -> tuple[str, ...]:
    """What the names of classes may begin with: those that the project or the environment adds.

    Raises:
        ConfigError: the project's list is none.
    """
    variable = filter(None, (each.strip() for each in os.environ.get(ALLOWED_VARIABLE, "").split(",")))
    return (*variable, *_allowed_by_the_project())


def raised_in_own_code(error: BaseException) -> bool:
    """Whether an error passed through code that the project or the environment allows beside ours."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(f"{module}.".startswith(allowed_prefixes()) for module in modules)


def _allowed_by_the_project() -> list[str]:
    """`[tool.litespark] allowed_targets` of the pyproject.toml beside the train.py that runs."""
    try:
        path = repository() / "pyproject.toml"
    except ValueError:  # an installed package, and no checkout here
        return []
    if not path.is_file():
        return []
    try:
        project = tomllib.loads(path.read_text(encoding="utf-8"))
        listed = project.get("tool", {}).get("litespark", {}).get("allowed_targets", [])
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise ConfigError(f"{path}: got a file that cannot be read ({error}), expected TOML; correct it") from error
    if not isinstance(listed, list) or not all(isinstance(each, str) and each.strip(".") for each in listed):
        raise ConfigError(
            f'{path}: got tool.litespark.allowed_targets = {listed!r}, expected a list of packages, such as ["mypkg."]'
        )
    # mypkg alone would allow mypkgs too
    return [f"{each.rstrip('.')}." for each in listed]


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
            check_resolved(value, f"{path}.{key}".lstrip("."))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            check_resolved(value, f"{path}[{index}]")
    elif isinstance(node, str) and "${" in node:
        raise ConfigError(
            f"{path}: got {node!r}, expected a text without ${{ in it: only the config's own interpolations are "
            "resolved, and once. Write the value itself"
        )


def named_class(node: dict[str, Any]) -> type:
    """The class of a node whose `_target_` is checked."""
    module, _, name = node["_target_"].rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _targets(config: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(config, dict):
        for key, value in config.items():
            here = f"{path}.{key}" if path else str(key)
            if key == "_target_" or key in _WORDS:
                yield here, value
            else:
                yield from _targets(value, here)
    elif isinstance(config, list):
        for index, value in enumerate(config):
            yield from _targets(value, f"{path}[{index}]")


def _class_of(key: str, target: Any, allowed: tuple[str, ...]) -> type:
    """The class that `target` names, once its module is imported.

    Raises:
        ConfigError: it is no class, or not one below the prefixes.
    """
    # a module of the name __main__ is a program, which an import would run
    if not isinstance(target, str) or not target.startswith(allowed) or "__main__" in target:
        ours = isinstance(target, str) and target.startswith(OURS)
        raise _not_allowed(key, target, allowed, "what is ours needs none; set its kind" if ours else None)
    module, _, name = target.rpartition(".")
    try:
        found = importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        raise _not_allowed(
            key,
            target,
            allowed,
            f"{module} cannot be imported ({type(error).__name__}: {error}); correct the name, or make it importable: "
            "PYTHONPATH=FOLDER before the command, or pip install -e FOLDER",
        ) from error
    made = getattr(found, name, None)
    if made is None:
        classes = [each for each, value in vars(found).items() if inspect.isclass(value) and value.__module__ == module]
        near = get_close_matches(name, classes, n=1, cutoff=0.4) or sorted(classes)
        reason = f"{module} has no {name}; {'it has ' + ', '.join(near) if near else 'it has no class at all'}"
        raise _not_allowed(key, target, allowed, reason)
    if not inspect.isclass(made):
        raise _not_allowed(key, target, allowed, f"it is a {type(made).__name__}; name a class")
    if not f"{made.__module__}.".startswith(allowed):
        raise _not_allowed(key, target, allowed, f"it is defined in {made.__module__}; name it there, and allow that")
    return made


def _not_allowed(key: str, target: Any, allowed: tuple[str, ...], reason: str | None = None) -> ConfigError:
    reason = reason or (
        f"a config may not call anything else. For classes of your own set {ALLOWED_VARIABLE}=yourpackage. in the "
        'environment, or allowed_targets = ["yourpackage."] under [tool.litespark] in pyproject.toml'
    )
    below = f"a class below {' or '.join(allowed)}" if allowed else "none"
    return ConfigError(f"{key}: got the target {target!r}, expected {below}; {reason}")
