"""Lightning callbacks and a logger of the user's own: checked with the config, made with the Trainer."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from litespark.run.targets import ConfigError, named_class

OWN_CALLBACKS = "callbacks.extra"
OWN_LOGGER = "logger.own"


def checked_callbacks(extra: dict[str, Any]) -> dict[str, Any]:
    """The nodes of `callbacks.extra`, whose targets are checked; one that is null is taken out. Nothing is called.

    Raises:
        ConfigError: no mapping of names to targets, a class that is no callback, or arguments that it does not take.
    """
    nodes = {str(name): node for name, node in extra.items() if node is not None}
    for name, node in nodes.items():
        _check(node, f"{OWN_CALLBACKS}.{name}", Callback)
    return nodes


def check_logger(node: Any) -> None:
    """The same of `logger.own`."""
    if node is not None:
        _check(node, OWN_LOGGER, Logger)


def _check(node: Any, path: str, kind: type) -> None:
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(
            f"{path}: got {node!r}, expected a class and its arguments; set {path}._target_=mypkg.mine.Class"
        )
    target = named_class(node)
    if not issubclass(target, kind):
        raise ConfigError(
            f"{path}._target_: got {node['_target_']}, expected a subclass of lightning.pytorch.{kind.__name__}; name "
            "one (that of pytorch_lightning is another class)"
        )
    takes = inspect.signature(target)
    try:
        takes.bind(**{key: value for key, value in node.items() if key != "_target_"})
    except TypeError as error:
        raise ConfigError(
            f"{path}: {error}; {target.__name__} takes {takes}, set {path}.ARGUMENT=VALUE for each"
        ) from error


def made_logger(node: dict[str, Any]) -> Logger:
    """The logger of a checked node.

    Raises:
        ConfigError: it refuses its arguments.
    """
    return _made(node, OWN_LOGGER)


def _made(node: dict[str, Any], path: str) -> Any:
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ConfigError(f"{path}: {type(cause).__name__}: {cause}; set {path}.ARGUMENT=VALUE") from error


def made_callbacks(nodes: dict[str, Any]) -> list[Callback]:
    """The callbacks of checked nodes.

    Raises:
        ConfigError: one refuses its arguments, or two could not be told apart in a checkpoint.
    """
    made: dict[str, Callback] = {}
    keys: dict[str, str] = {}
    for name, node in nodes.items():
        path = f"{OWN_CALLBACKS}.{name}"
        made[name] = _made(node, path)
        if type(made[name]).state_dict is not Callback.state_dict:
            other = keys.setdefault(made[name].state_key, name)
            if other != name:
                raise ConfigError(
                    f"{path}: got a second {type(made[name]).__name__} beside {OWN_CALLBACKS}.{other}, and a "
                    "checkpoint could not tell their states apart; give the class a property state_key that differs, "
                    "or take one out"
                )
    return list(made.values())
