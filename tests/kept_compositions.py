"""Composing a config takes a fifth of a second, and tests do it thousands of times: what files alone decide is kept.

That is the list of files that the chosen groups lead to, and what these files hold together. The values of a command
line, with all that is checked of them, are laid over each time.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import Overrides

# what `litespark.run.composing.ConfigLoader` gathers from the files
_STATE = ("_defined", "_chosen", "_root")
_list_files = config_loader_impl.create_defaults_list
_compose_files = ConfigLoaderImpl._compose_config_from_defaults_list
_lists: dict[str, Any] = {}
_compositions: dict[str, Any] = {}


def _key(repo: Any, *choices: Any) -> str:
    """Another for another choice, another file and a changed one."""
    folders = [Path(source.path) for source in repo.get_sources() if source.scheme() == "file"]
    files = sorted(path for folder in folders for path in folder.rglob("*.yaml"))
    return repr(([(str(path), path.stat().st_mtime_ns) for path in files], *choices))


def _list(repo: Any, config_name: str, overrides_list: list[Any], prepend_hydra: bool, skip_missing: bool) -> Any:
    overrides = Overrides(repo, overrides_list)
    deleted = {key: deletion.name for key, deletion in overrides.deletions.items()}
    chosen = (overrides.override_choices, overrides.append_group_defaults, deleted)
    key = _key(repo, config_name, chosen, prepend_hydra, skip_missing)
    if key not in _lists:
        _lists[key] = _list_files(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    kept = copy.copy(_lists[key])
    kept.defaults, kept.config_overrides = copy.deepcopy(kept.defaults), overrides.config_overrides
    return kept


def _compose(loader: Any, defaults: list[Any], repo: Any) -> Any:
    key = _key(repo, defaults)
    if key not in _compositions:
        config = _compose_files(loader, defaults, repo)
        _compositions[key] = config, {name: getattr(loader, name, None) for name in _STATE}
    config, state = copy.deepcopy(_compositions[key])
    vars(loader).update(state)
    return config


def keep() -> None:
    """Put both in the place of Hydra's own, for this process."""
    config_loader_impl.create_defaults_list = _list
    ConfigLoaderImpl._compose_config_from_defaults_list = _compose
