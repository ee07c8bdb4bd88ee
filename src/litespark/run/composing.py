"""How Hydra composes a config here, for every way in: runs, sweeps, each job of a sweep, `litespark` and tests.

Importing this module puts `ConfigLoader` into Hydra's place for its own, since Hydra 1.3 has no hook for what is done
here, and acts on a composed config before `train.py` gets it:

- what would be called, imported or set by Hydra itself is refused (`hydra_settings`);
- Hydra merges files by keys alone. Of `budget.tokens` and `budget.steps` the later one counts, and a setting that an
  experiment makes for one choice of a group does not outlive that choice;
- a key that is no setting is answered with the one that was meant, and not with advice to add a +.

`_load_single_config` and `_compose_config_from_defaults_list` are not public; `test_composing.py` fails where they are
no longer called.
"""

from __future__ import annotations

import contextlib
import copy
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra._internal.hydra
from hydra._internal.config_repository import ConfigRepository, IConfigRepository
from hydra._internal.hydra import ConfigLoaderImpl  # where Hydra looks it up: were it gone, this fails rather than pass
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import GroupDefault, ResultDefault
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from litespark.config.settings import together, unknown
from litespark.config.spelling import choice_for
from litespark.run.budget_rule import with_one_budget
from litespark.run.hydra_settings import check_hydra, check_search_path
from litespark.run.sweep import SWEEP
from litespark.run.targets import ConfigError

PRIMARY = "train"
# settings of which the keys are the user's own
_OPEN = ("callbacks.extra", "hydra.sweeper.params")
_said: set[str] = set()


class CompositionError(ConfigError, ConfigCompositionException):
    """A config cannot be composed; Hydra shows it as one message, like its own."""


class _Folders(ConfigRepository):
    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        try:
            check_search_path(config_search_path)
        except ConfigError as error:
            raise CompositionError(str(error)) from None
        super().initialize_sources(config_search_path)


class ConfigLoader(ConfigLoaderImpl):
    """Hydra's loader with our checks; see the head of the module."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        self.config_search_path = config_search_path
        self.repository = _Folders(config_search_path)
        self._start([])

    def _start(self, overrides: list[Override]) -> None:
        self._overrides = overrides
        # what the chosen options of the groups define, their names, and the keys of the root
        self._defined: dict[str, Any] = {}
        self._chosen: dict[str, str] = {}
        self._root: set[str] | None = None

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose and check; see Hydra's own.

        Raises:
            CompositionError: the config cannot be composed or would make Hydra do something.
        """
        try:
            self._start(OverridesParser.create().parse_overrides(overrides))
            config = super().load_configuration(config_name, overrides, run_mode, from_shell, validate_sweep_overrides)
            check_hydra(config)
            if self._root is not None:
                self._check_keys(config)
                self._fit_variant(config)
        except CompositionError:
            raise
        except ConfigError as error:
            raise CompositionError(str(error)) from None
        except OverrideParseException as error:
            raise CompositionError(_unreadable(error)) from None
        except MissingConfigException as error:
            raise CompositionError(_no_choice(error)) from None
        except KeyError as error:  # what Hydra makes of it
            raise CompositionError(f"hydra.job.env_copy: the environment has no {error}; take it out") from None
        except (ConfigCompositionException, ValueError) as error:
            raise CompositionError(self._cannot_override(error)) from None
        self._decide_budget(config)
        if run_mode == config.hydra.mode == RunMode.MULTIRUN:
            _make_folder_of_sweep(config)
        return config

    def _load_single_config(self, default: ResultDefault, repo: IConfigRepository) -> ConfigResult:
        layer = super()._load_single_config(default, repo)
        if not isinstance(layer.config, DictConfig) or (default.config_path or "").startswith("hydra/"):
            return layer
        layer = copy.copy(layer)
        layer.config = config = copy.deepcopy(layer.config)
        if default.config_path == PRIMARY:
            self._root = _root_keys(layer)
        if default.package or default.config_path == PRIMARY:
            _lay_over(self._defined, OmegaConf.to_container(config))
            self._chosen[str(default.package)] = str(default.config_path)
        else:
            for group in list(config):
                self._leave_out_of_others(config, (str(group),), self._defined, str(default.config_path), repo)
        if isinstance(budget := OmegaConf.select(config, "budget"), DictConfig):
            budget.merge_with(with_one_budget(budget))
        return layer

    def _leave_out_of_others(
        self, node: Any, path: tuple[str, ...], defined: Any, file: str, repo: IConfigRepository
    ) -> None:
        """Take out of a file's settings those of another choice of their group than the chosen one."""
        key = path[-1]
        inner: Any = node._get_node(key)
        is_group = isinstance(inner, DictConfig) and not inner._is_none() and not inner._is_interpolation()
        if len(path) > 1 and (key not in defined or (is_group and not isinstance(defined[key], dict))):
            if (choice := _choice_with(path, is_group, repo)) is not None:
                group = choice.rpartition("/")[0]
                chosen = self._chosen.get(group.replace("/", "."), group).rpartition("/")[2]
                _say(f"{'.'.join(path)} of {file} is left out: {group}={chosen} has no such setting")
                del node[key]
        elif is_group and isinstance(defined.get(key), dict) and "_target_" not in inner:
            for each in list(inner):
                self._leave_out_of_others(inner, (*path, str(each)), defined[key], file, repo)

    def _compose_config_from_defaults_list(self, defaults: list[ResultDefault], repo: IConfigRepository) -> DictConfig:
        """Leave keys of our groups to `_check_keys`, which has an answer to all that are none."""
        config: DictConfig = super()._compose_config_from_defaults_list(defaults, repo)
        for key in (*_OPEN, *(str(key) for key in config if key != "hydra")):
            if isinstance(node := OmegaConf.select(config, key, throw_on_missing=False), DictConfig):
                OmegaConf.set_struct(node, False)
        return config

    def _check_keys(self, config: DictConfig) -> None:
        """Refuse keys that nothing would read; a value that an interpolation refers to is read by that."""
        values: Any = OmegaConf.to_container(config)
        del values["hydra"]
        known = {key: value for key, value in self._defined.items() if key in (self._root or ())}
        given = {override.key_or_group: str(override.input_line) for override in self._overrides}
        faults = []
        for key, value in _unknown_keys(values, known):
            is_hydras = key.rpartition(".")[2].startswith("_")  # `check_targets` has an answer to its words
            if is_hydras or re.search(rf"\$\{{[^}}]*\b{re.escape(key)}\b", str(values)):
                continue
            path = tuple(key.split("."))
            choice = _choice_with(path, False, self.repository) if len(path) > 1 else None
            if choice is not None and key in given:
                chosen = "=".join(choice.rsplit("/", 1))
                faults.append(
                    f"got {given[key]}, a setting of {chosen}, which is not chosen; choose it, or take it out"
                )
            else:
                value = given[key].partition("=")[2] if key in given else value
                faults.append(unknown(key, value, [*_paths(known), *self._groups(known)]))
        if faults:
            raise CompositionError(together(faults))

    def _groups(self, known: dict[str, Any]) -> list[str]:
        """The groups, nested ones too, as they are chosen: `data/selection`."""
        return [name for key in _paths(known) if self.repository.group_exists(name := key.replace(".", "/"))]

    def _cannot_override(self, error: Exception) -> str:
        """One line for an override that Hydra cannot take, without its advice to add a +."""
        for override in self._overrides:
            line, key = str(override.input_line), override.key_or_group
            is_group = self.repository.group_exists(key) and not override.is_hydra_override()
            if is_group and (override.is_add() or override.is_force_add()):
                return f"got {line}, expected no + before a group; write {line.lstrip('+')}"
            if is_group and override.value() is None and not override.is_delete():
                return f"got {line}, expected a choice; write ~{key} for none"
            if is_group and f"Could not override '{key}'" in str(error):
                return (
                    f"got {line}, but what is chosen has no {key}; take it out, or choose another {key.split('/')[0]}"
                )
            if f"'{key}'" in str(error) or line in str(error):
                value = None if override.is_delete() else line.partition("=")[2]
                if key.split(".")[0] not in (self._root or ()):
                    known = {each: each in self._defined for each in self._root or ()} | self._defined
                    return unknown(key, value, [*_paths(known), *self._groups(known)])
                return f"got {line}, but there is no setting {key}; take it out"
        # a group that is no name, a number of thousands of digits
        return f"the overrides cannot be read: {str(error).splitlines()[0]:.300}"

    def _fit_variant(self, config: DictConfig) -> None:
        """Take out of `variant`, which a file of sweep/ sets, what the chosen options of the groups do not have."""
        if isinstance(variant := config.get("variant"), DictConfig):
            with open_dict(variant):
                for group in list(variant):
                    given = bool(variant._get_node(group))
                    self._leave_out_of_others(variant, (str(group),), self._defined, "variant", self.repository)
                    if given and not variant._get_node(group):
                        del variant[group]

    def load_sweep_config(self, master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
        """The config of a job; of a sweep that is refused at its first job no file stays. See Hydra's own."""
        try:
            return super().load_sweep_config(master_config, sweep_overrides)
        except CompositionError:
            if not SWEEP.jobs:
                folder = Path(master_config.hydra.sweep.dir)
                (folder / "multirun.yaml").unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    folder.rmdir()
            raise

    def _decide_budget(self, config: DictConfig) -> None:
        """The length that was given on the command line counts, not one of the files."""
        given: dict[str, Any] = {}
        for override in self._overrides:
            if override.key_or_group == "budget" and isinstance(value := override.value(), dict):
                given |= value
            elif override.key_or_group.startswith("budget.") and not override.is_delete():
                given[override.key_or_group.removeprefix("budget.")] = override.value()
        if isinstance(budget := config.get("budget"), DictConfig):
            budget.merge_with(with_one_budget(given))


def _root_keys(primary: ConfigResult) -> set[str]:
    groups = {str(each.group).split("/")[0] for each in primary.defaults_list or [] if isinstance(each, GroupDefault)}
    return {str(key) for key in primary.config} | groups


def _choice_with(path: tuple[str, ...], as_group: bool, repo: IConfigRepository) -> str | None:
    """The first choice of a group (`optim/adamw`) in which the setting `path` stands; None: there is none."""
    for depth in range(len(path) - 1, 0, -1):
        group = "/".join(path[:depth])
        if not repo.group_exists(group):
            continue
        for option in repo.get_group_options(group):
            found = repo.load_config(f"{group}/{option}")
            if found is not None and isinstance(found.config, DictConfig):
                node = OmegaConf.to_container(found.config)
                for key in path[depth:]:
                    node = node[key] if isinstance(node, dict) and key in node else ...
                if node is not ... and (not as_group or isinstance(node, dict)):
                    return f"{group}/{option}"
    return None


def _lay_over(below: dict[str, Any], above: Any) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _unknown_keys(values: dict[str, Any], known: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Keys that are not in `known`, with their values; those below a null or a class are left to who reads them."""
    for key, value in values.items():
        here = f"{path}{key}"
        if key not in known:
            yield here, value
        elif isinstance(value, dict) and isinstance(known[key], dict) and "_target_" not in value and here not in _OPEN:
            yield from _unknown_keys(value, known[key], f"{here}.")


def _paths(node: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """The dotted keys of a mapping, of those within it too."""
    if path:
        yield ".".join(path)
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _paths(value, (*path, str(key)))


def _no_choice(error: MissingConfigException) -> str:
    group, _, word = str(error.missing_cfg_file or "").rpartition("/")
    where = re.match(r"In '(.*?)'", str(error))
    if not group or error.options is None:
        # a group that is no name, a number of thousands of digits
        return f"the overrides cannot be read: {str(error).splitlines()[0]:.300}"
    place = "" if where is None or where[1] == PRIMARY else f" (asked for in {where[1]})"
    if not error.options:
        return f"got {group}={word}{place}, but there is no group {group}"
    advice = choice_for(group, word, list(error.options))
    listed = ", ".join(error.options)
    return f"got {group}={word}{place}, expected one of {listed}; {advice or f'choose one: {group}=…'}"


def _unreadable(error: OverrideParseException) -> str:
    reason = str(error).splitlines()[0].split(" expecting ")[0].removeprefix("LexerNoViableAltException: ")
    key, equals, value = str(error.override).partition("=")
    if not equals:
        return f"got {error.override!r}, expected key=value"
    quoted = value.replace("\\", "\\\\").replace('"', '\\"')
    return (
        f"got {error.override!r}, which cannot be read ({reason}); a value with spaces, commas, brackets, quotes or = "
        f"stands in quotes of its own: '{key}=\"{quoted}\"'"
    )


def _make_folder_of_sweep(config: DictConfig) -> None:
    """Hydra makes it before it calls any code of ours: where the disk refuses, that would be a traceback."""
    folder = OmegaConf.select(config, "hydra.sweep.dir", throw_on_resolution_failure=False)
    try:
        Path(str(folder)).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        raise CompositionError(
            f"paths.logs: cannot make the folder of the sweep, {folder} ({error}); set paths.logs to a writable folder"
        ) from error


def _say(line: str) -> None:
    """One line, once: Hydra composes a config several times, and logging is not set up yet."""
    if line not in _said:
        _said.add(line)
        print(line, file=sys.stderr)


hydra._internal.hydra.ConfigLoaderImpl = ConfigLoader  # type: ignore[misc]
