"""What a config may call: classes of the user's own, for a task, a model, an optimizer, callbacks and a logger.

Hydra would call whatever `_target_` names. Only classes are called, and only those defined below the allowed prefixes:
a prefix alone would let `mypkg.some.module.os.system` through. They are listed in the pyproject.toml beside `train.py`
or in the environment, never in a config, which could allow itself.
"""

import importlib
import inspect
import os
import tomllib
import traceback
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from pydantic import TypeAdapter

from litespark.run.checkout import repository

OURS = "litespark."
ALLOWED_VARIABLE = "LITESPARK_ALLOWED_TARGETS"
# of Hydra's other words the first makes something else of a class, the rest change how arguments are handed over
_WORDS = ("_partial_", "_args_", "_recursive_", "_convert_")


class ConfigError(ValueError):
    """A config cannot be turned into a run; the message says which key, what was got and what to do."""


def check_targets(config: Any) -> None:
    """Refuse a config in which any `_target_` is not a class that a config may call; nothing is called."""
    allowed = allowed_prefixes()
    for path, key, value in _nodes(config, "", ""):
        if key in _WORDS:
            raise ConfigError(f"{path}: got {value!r}, expected a _target_ and its arguments by name only; take it out")
        if key == "_target_" and (reason := _why_not(value, allowed)) is not None:
            below = f"a class below {' or '.join(allowed)}" if allowed else "none"
            raise ConfigError(f"{path}: got the target {value!r}, expected {below}; {reason}")


def check_resolved(config: Any) -> None:
    """Refuse a text that would be resolved again: `\\${…}` resolves to `${…}`, and that could become a target."""
    for path, _, value in _nodes(config, "", ""):
        if isinstance(value, str) and "${" in value:
            raise ConfigError(
                f"{path}: got {value!r}, expected a text without ${{ in it: only the config's own interpolations are "
                "resolved, and once. Write the value itself"
            )


def _nodes(node: Any, path: str, key: str) -> Iterator[tuple[str, str, Any]]:
    yield path, key, node
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _nodes(value, f"{path}.{name}".lstrip("."), str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _nodes(value, f"{path}[{index}]", "")


def allowed_prefixes() -> tuple[str, ...]:
    """What the names of classes may begin with: those that the environment or the project adds."""
    listed = [*os.environ.get(ALLOWED_VARIABLE, "").split(","), *_allowed_by_the_project()]
    # mypkg alone would allow mypkgs too
    return tuple(f"{package.strip().rstrip('.')}." for package in listed if package.strip(" ."))


def _allowed_by_the_project() -> list[str]:
    """`[tool.litespark] allowed_targets` of the pyproject.toml beside the train.py that runs."""
    try:
        path = repository() / "pyproject.toml"
    except ValueError:  # an installed package, and no checkout here
        return []
    if not path.is_file():
        return []
    try:
        listed = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {}).get("litespark", {})
        return TypeAdapter(list[str]).validate_python(listed.get("allowed_targets", []))
    except (ValueError, AttributeError) as error:
        raise ConfigError(f'{path}: {error}; set tool.litespark.allowed_targets to a list, as ["mypkg."]') from error


def raised_in_own_code(error: BaseException) -> bool:
    """Whether an error passed through code that the project or the environment allows beside ours."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(f"{module}.".startswith(allowed_prefixes()) for module in modules)


def _why_not(target: Any, allowed: tuple[str, ...]) -> str | None:
    """Why a target is not called; None: it is a class below the prefixes. Its module is imported, where that is."""
    # a module of the name __main__ is a program, which an import would run
    if not isinstance(target, str) or not target.startswith(allowed) or "__main__" in target:
        if isinstance(target, str) and target.startswith(OURS):
            return "what is ours needs none; set its kind"
        return (
            f"a config may not call anything else. For classes of your own set {ALLOWED_VARIABLE}=yourpackage. in the "
            'environment, or allowed_targets = ["yourpackage."] under [tool.litespark] in pyproject.toml'
        )
    module, _, name = target.rpartition(".")
    try:
        imported = importlib.import_module(module)
    except (ImportError, SyntaxError) as error:
        return (
            f"{module} cannot be imported ({type(error).__name__}: {error}); correct the name, or make it importable: "
            "PYTHONPATH=FOLDER before the command, or pip install -e FOLDER"
        )
    made = getattr(imported, name, None)
    if made is None:
        own = inspect.getmembers(imported, lambda value: inspect.isclass(value) and value.__module__ == module)
        classes = [member for member, _ in own]
        near = get_close_matches(name, classes, n=1, cutoff=0.4) or sorted(classes) or ["no class at all"]
        return f"{module} has no {name}; it has {', '.join(near)}"
    if not inspect.isclass(made):
        return f"it is a {type(made).__name__}; name a class"
    if not f"{made.__module__}.".startswith(allowed):
        return f"it is defined in {made.__module__}; name it there, and allow that"
    return None
