"""What a config may put below `hydra`.

Hydra calls what it finds there before the code of a job runs: `_target_` of callbacks, launcher and sweeper, and the
factories, classes and `ext://` names of `logging`; it imports modules that the search path names, and it changes the
environment. So these stay as they are shipped, and the rest, which is names, texts and folders, is free.
"""

import re
from collections.abc import Iterator
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig, OmegaConf

from litespark.run.targets import ConfigError

# by their keys; what lies below is free too, and calls nothing
_FREE = {
    *("mode", "run", "sweep", "output_subdir", "verbose", "help", "hydra_help", "overrides", "runtime", "searchpath"),
    *(f"job.{key}" for key in ("name", "chdir", "override_dirname", "id", "num", "config_name", "config")),
    "sweeper.max_batch_size",
}
_SHIPPED = {
    "launcher._target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "sweeper._target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    "job_logging.handlers.file.class": "logging.FileHandler",
    "job_logging.handlers.file.filename": "${hydra.runtime.output_dir}/${hydra.job.name}.log",
}
# what Hydra itself meets with a traceback where it is another
_KINDS: dict[str, tuple[tuple[type, ...], str]] = {
    **dict.fromkeys(("launcher", "sweeper"), ((dict,), "a mapping")),
    "verbose": ((bool, str, list), "true, false or names of loggers"),
}
# all that the shipped choices of logging name
_LOGGING_NAMES = {"logging.StreamHandler", "logging.NullHandler", "ext://sys.stdout", "ext://sys.stderr"}
# whose search path it is: the command's or a config's; others are Hydra's own and those of installed plugins
_FROM_OUTSIDE = ("main", "command-line", "hydra.searchpath")


class CompositionError(ConfigError, ConfigCompositionException):
    """A config cannot be composed; Hydra shows it as one message, like its own."""


def check_hydra(config: DictConfig) -> None:
    """Refuse settings below `hydra` that would make it call, import or change anything; nothing was called yet."""
    node = config._get_node("hydra")
    assert isinstance(node, DictConfig)
    # an interpolation could come to another value after this check than before
    values: Any = node._value() if node._is_interpolation() else OmegaConf.to_container(node, resolve=False)
    for name, (fits, expected) in _KINDS.items() if isinstance(values, dict) else ():
        if name in values and not isinstance(values[name], fits):
            raise CompositionError(f"hydra.{name}: got {values[name]!r}, expected {expected}; take it out")
    for path, value in _leaves(values, ()):
        key = ".".join(path)
        shipped = value is None or value == "???" or _SHIPPED.get(key) == value
        if not shipped and not _is_plain_logging(path, value) and not _is_swept(path, value):
            raise CompositionError(
                f"{f'hydra.{key}'.rstrip('.')}: got {value!r}, which no config may set: Hydra would act on it "
                "before the config is checked. Nothing was called; take it out, or set a variable in the shell. "
                "Free are mode, run, sweep, sweeper.params (as key: value,value), verbose, job.name, levels of logging"
            )


def check_search_path(search_path: ConfigSearchPath) -> None:
    """Refuse places for configs that are no folders: to look into a package is to import it."""
    for place in search_path.get_path():
        scheme, separator, _ = (place.path or "").partition("://")
        if separator and scheme != "file" and str(place.provider).startswith(_FROM_OUTSIDE):
            raise CompositionError(
                f"{place.provider}: got {place.path}, expected a folder: a package would be imported, and so run. "
                "Nothing was; name the folder that holds the configs"
            )


def _leaves(node: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What is set outside of what is free."""
    if ".".join(path) in _FREE:
        return
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else ((None, value) for value in node):
            yield from _leaves(value, path if key is None else (*path, str(key)))
    else:
        yield path, node


def _is_swept(path: tuple[str, ...], value: Any) -> bool:
    """Whether it is the text of what a sweep goes through; a mapping with a _target_ there would be called."""
    is_text = isinstance(value, str | int | float) and "${" not in str(value)
    return path[:2] == ("sweeper", "params") and len(path) == 3 and not path[2].startswith("_") and is_text


def _is_plain_logging(path: tuple[str, ...], value: Any) -> bool:
    """Whether a value of `logging.config.dictConfig` names nothing that would be called, imported or written to."""
    if path[:1] not in (("job_logging",), ("hydra_logging",)) or not {"()", ".", "filename"}.isdisjoint(path):
        return False
    # dictConfig resolves ext:// by importing, and OmegaConf ${…} only later
    names = path[-1] == "class" or (isinstance(value, str) and re.search(r"^[a-z]+://|\$\{", value))
    return not names or value in _LOGGING_NAMES
