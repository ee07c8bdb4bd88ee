"""What a config may put below `hydra`.

Hydra calls what it finds there before the code of a job runs: `_target_` of callbacks, launcher and sweeper, the
factories, classes and `ext://` names of `logging`; it imports modules that the search path names; and it changes the
environment. So these stay as they are shipped, and the rest, which is names, texts and folders, is free.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig, OmegaConf

from litespark.run.targets import ConfigError

# by their keys; what lies below is free too, and calls nothing
_FREE = {
    *("mode", "run", "sweep", "output_subdir", "verbose", "help", "hydra_help", "overrides", "runtime", "searchpath"),
    "sweeper.max_batch_size",
    *(f"job.{key}" for key in ("name", "chdir", "override_dirname", "id", "num", "config_name", "config")),
}
# settings that a sweep goes through, as text; a mapping with a _target_ there would be called
_PARAMS = ("sweeper", "params")
_SHIPPED = {
    "launcher._target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "sweeper._target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
}
_LOGGING = ("job_logging", "hydra_logging")
_LOGGING_CLASSES = {"logging.StreamHandler", "logging.NullHandler", "logging.FileHandler", "logging.Formatter"}
# what Hydra's own choices name, and nothing else
_LOG_FILE = {"filename": "${hydra.runtime.output_dir}/${hydra.job.name}.log", "mode": "a"}
_LOGGING_OBJECTS = {"ext://sys.stdout", "ext://sys.stderr"}
# whose search path it is: the command's or a config's; others are Hydra's own and those of installed plugins
_FROM_OUTSIDE = ("main", "command-line", "hydra.searchpath")


def check_hydra(config: DictConfig) -> None:
    """Refuse settings below `hydra` that would make it call, import or change anything; nothing was called yet.

    Args:
        config: composed; it is not resolved.

    Raises:
        ConfigError: names the key and what it is set to.
    """
    node = config._get_node("hydra")
    assert isinstance(node, DictConfig)
    if node._is_interpolation():  # it could come to another value after this check than before
        raise _refused("hydra", node._value(), "take it out")
    values = OmegaConf.to_container(node, resolve=False)
    for path, value in _set(values, ()):
        key = ".".join(path)
        if value is None or value == "???" or _SHIPPED.get(key) == value or _is_plain_logging(path, value):
            continue
        if path[:2] == _PARAMS:
            if (
                len(path) == 3
                and not path[2].startswith("_")
                and isinstance(value, str | int | float)
                and "${" not in str(value)
            ):
                continue
            raise _refused(f"hydra.{key}", value, "write what is swept as key: value,value there, without ${…}")
        raise _refused(f"hydra.{key}", value, "set the variable in the shell" if path[0] == "job" else "take it out")


def _refused(key: str, value: Any, advice: str) -> ConfigError:
    return ConfigError(
        f"{key}: got {value!r}, which no config may set: Hydra would act on it before the config is checked. "
        f"Nothing was called; {advice}. What may be set below hydra: mode, run, sweep, sweeper.params, verbose, "
        "job.name, and levels and formats of logging"
    )


def check_search_path(search_path: ConfigSearchPath) -> None:
    """Refuse places for configs that are no folders: to look into a package is to import it.

    Raises:
        ConfigError: names the place.
    """
    for place in search_path.get_path():
        scheme, found, _ = (place.path or "").partition("://")
        if found and scheme != "file" and str(place.provider).startswith(_FROM_OUTSIDE):
            raise ConfigError(
                f"{place.provider}: got {place.path}, expected a folder: a package would be imported, and so run. "
                "Nothing was; name the folder that holds the configs"
            )


def _set(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is set outside of what is free, leaf by leaf."""
    if ".".join(path) in _FREE:
        return
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _set(value, (*path, str(key)))
    elif isinstance(node, list):
        for value in node:
            yield from _set(value, path)
    else:
        yield path, node


def _is_plain_logging(path: tuple[str, ...], value: Any) -> bool:
    """Whether a value of `logging.config.dictConfig` names nothing that would be called, imported or written to."""
    if path[0] not in _LOGGING or not {"()", "."}.isdisjoint(path):
        return False
    if path[-1] == "class":
        return value in _LOGGING_CLASSES
    if path[-1] in _LOG_FILE:
        return value == _LOG_FILE[path[-1]]
    # dictConfig resolves ext:// by importing, and OmegaConf ${…} only later
    return (
        not (isinstance(value, str) and (re.match(r"[a-z]+://", value) or "${" in value)) or value in _LOGGING_OBJECTS
    )
