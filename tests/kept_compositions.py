"""Composing a config takes a third of a second, and tests do it thousands of times: what files alone decide is kept.

Only what the values on a command line do not change: the list of files that the chosen groups lead to, and what these
files hold together. Another file, a changed one or another choice is composed anew, and the values, with all that is
checked of them, are laid over each time.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hydra._internal import config_loader_impl
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import DefaultsList, Overrides

_list_files = config_loader_impl.create_defaults_list
_compose_files = ConfigLoaderImpl._compose_config_from_defaults_list
_MOST = 100  # of a megabyte or so
_lists: dict[str, DefaultsList] = {}
_compositions: dict[str, Any] = {}


def _files(repo: Any) -> list[Any]:
    """The folders that are searched, with the time of every file in the local ones."""
    found: list[Any] = []
    for source in repo.get_sources():
        found.append(f"{source.scheme()}://{source.path}")
        if source.scheme() == "file":
            paths = sorted(Path(source.path).rglob("*.yaml"))
            found.append([(str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in paths])
    return found


def _list(repo: Any, config_name: str, overrides_list: list[Any], prepend_hydra: bool, skip_missing: bool) -> Any:
    overrides = Overrides(repo, overrides_list)
    deleted = {key: deletion.name for key, deletion in overrides.deletions.items()}
    chosen = (overrides.override_choices, overrides.append_group_defaults, deleted)
    key = repr((_files(repo), config_name, chosen, prepend_hydra, skip_missing))
    if key not in _lists:
        _lists[key] = _list_files(repo, config_name, overrides_list, prepend_hydra, skip_missing)
    kept = copy.copy(_lists[key])
    kept.defaults, kept.config_overrides = copy.deepcopy(kept.defaults), overrides.config_overrides
    return kept


def _compose(loader: Any, defaults: list[Any], repo: Any) -> Any:
    key = repr((_files(repo), defaults))
    if key not in _compositions:
        if len(_compositions) == _MOST:
            _compositions.clear()
        _compositions[key] = _compose_files(loader, defaults, repo)
    return copy.deepcopy(_compositions[key])


def keep() -> None:
    """Put both in the place of Hydra's own, for this process."""
    config_loader_impl.create_defaults_list = _list
    ConfigLoaderImpl._compose_config_from_defaults_list = _compose
