"""Lightning callbacks and a logger of the user's own: checked with the config, made with the Trainer."""

from __future__ import annotations

import inspect
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_class, instantiate

from litespark.run.targets import ConfigError

OWN_CALLBACKS = "callbacks.extra"
OWN_LOGGER = "logger.own"


def check_own(node: Any, path: str, kind: type) -> None:
    """Refuse a node that does not make a `kind`; its target is checked already, and nothing is called."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(
            f"{path}: got {node!r}, expected a class and its arguments; set {path}._target_=mypkg.mine.Class"
        )
    target = get_class(node["_target_"])
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


def made_own(node: dict[str, Any], path: str) -> Any:
    """The callback or logger of a checked node."""
    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        raise ConfigError(f"{path}: {type(cause).__name__}: {cause}; set {path}.ARGUMENT=VALUE") from error
