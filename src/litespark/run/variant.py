"""The key `variant`: settings laid over all others, so that one override can change several of them together.

A sweep takes every combination of the values of its keys; an ablation wants some settings changed together and no
other combination. `variant={label:no_fused_loss,ops:{linear_cross_entropy:reference}}` is one value of one key.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from litespark.run.budget_rule import with_one_budget
from litespark.run.targets import ConfigError

KEY = "variant"
# names the variant in the run's folder and in tables; no setting
LABEL = "label"


def with_variant(config: DictConfig) -> DictConfig:
    """A copy of `config` with the settings under `variant` laid over all others, and of them only the label left.

    Raises:
        ConfigError: `variant` is no mapping, has a key that the config does not know, or names a group's choice.
    """
    given = config.get(KEY)
    if given is None:
        return config
    if not isinstance(given, DictConfig):
        raise ConfigError(f"{KEY}: got {given!r}, expected a mapping of settings: {KEY}={{ops:{{rope:reference}}}}")
    # unresolved: what is interpolated follows the settings that are laid over it
    settings = OmegaConf.to_container(given, resolve=False)
    assert isinstance(settings, dict)
    label = settings.pop(LABEL, None)
    if isinstance(budget := settings.get("budget"), dict):
        budget |= with_one_budget(budget)
    changed = copy.deepcopy(config)
    with open_dict(changed):
        changed[KEY] = None if label is None else {LABEL: str(label)}
    for path, value in _leaves(settings, ()):
        _lay(changed, path, value)
    return changed


def legible(override: str) -> str:
    """An override as part of a folder's name: of a `variant` its label, or else its settings one by one."""
    if not override.startswith(f"{KEY}="):
        return override
    value = OverridesParser.create().parse_override(override).value()
    if not isinstance(value, dict) or not value:
        return override
    words = {str(key): each for key, each in value.items()}
    if LABEL in words:
        return str(words[LABEL])
    return "_".join(f"{'.'.join(path)}={each}" for path, each in _leaves(words, ()))


def _leaves(settings: dict[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        here = (*path, str(key))
        if isinstance(value, dict) and value:
            yield from _leaves(value, here)
        else:
            yield here, value


def _lay(config: DictConfig, path: tuple[str, ...], value: Any) -> None:
    """Set one key of `config`, which must be there and hold a plain value."""
    node: Any = config
    for depth, key in enumerate(path):
        if not isinstance(node, DictConfig) or key not in node or path[0] == KEY:
            known = ", ".join(sorted(map(str, node))) if isinstance(node, DictConfig) else "no keys"
            where = ".".join(path[:depth]) or "the config"
            raise ConfigError(
                f"{KEY}: got {'.'.join(path)}, expected a key of the config ({where} has {known}); correct it, or take "
                "it out"
            )
        if depth < len(path) - 1:
            node = node._get_node(key)
    old = node._get_node(path[-1])
    if isinstance(old, DictConfig) and not old._is_none():
        name = ".".join(path)
        raise ConfigError(
            f"{KEY}: got {name}={value!r}, expected a mapping of single settings of {name}; a group cannot be chosen "
            f"by name there. Choose it outside ({name}=…), or write its settings out: {KEY}={{{name}:{{key:value}}}}"
        )
    node[path[-1]] = value
