"""How Hydra composes a config here, for every way in: runs, sweeps, each job of a sweep, `litespark` and tests.

Hydra acts on a composed config before `train.py` gets it, so what must be refused before that is refused where configs
are composed, and nowhere else: importing this module puts `ConfigLoader` into Hydra's place for its own. That is also
where it is known which file or override a setting came from: of `budget.tokens` and `budget.steps` the later one
counts, a setting that an experiment makes for one choice of a group does not outlive that choice, and a word that is no
setting is answered with the one that was meant.

Written for Hydra 1.3: `_load_single_config` and `_compose_config_from_defaults_list` are not public there, and
`test_composing.py` fails where they are no longer called.
"""

from __future__ import annotations

import contextlib
import copy
import re
import shlex
import sys
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

from litespark.experiment.budget_rule import with_one_budget
from litespark.experiment.config_tree import lay_over, may_be_set, paths, unknown_keys, value_above
from litespark.experiment.hydra_settings import check_hydra, check_search_path
from litespark.experiment.spelling import advice_for, choice_for
from litespark.experiment.sweep import SWEEP
from litespark.experiment.targets import ConfigError

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
            self._refuse_choices(error)
            if isinstance(error, ConfigCompositionException):
                raise
            # a group that is no name, a number of thousands of digits
            raise CompositionError(f"the overrides cannot be read: {str(error)[:300]}") from None
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
            lay_over(self._defined, OmegaConf.to_container(config))
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
        config: DictConfig = super()._compose_config_from_defaults_list(defaults, repo)
        for key in _OPEN:
            if isinstance(node := OmegaConf.select(config, key, throw_on_missing=False), DictConfig):
                OmegaConf.set_struct(node, False)
        if self._root is not None:
            for override in self._overrides:
                if not (override.is_add() or override.is_force_add()):
                    self._check_key(config, override, repo)
        return config

    def _check_key(self, config: DictConfig, override: Override, repo: IConfigRepository) -> None:
        """Refuse an override of a setting that is not there, with the one that was meant."""
        key = override.key_or_group
        if repo.group_exists(key):
            return
        values: Any = OmegaConf.to_container(config)
        if (above := value_above(values, key)) is not None:
            self._refuse_below(override, *above, values)
        if may_be_set(config, key):
            return
        if override.is_hydra_override():
            raise CompositionError(f"got {override.input_line}, but there is no setting {key}; take it out")
        path = tuple(key.split("."))
        choice = _choice_with(path, False, repo) if len(path) > 1 else None
        if choice is not None and choice.rpartition("/")[0] in _groups(config, repo):
            raise CompositionError(
                f"got {override.input_line}, a setting of {'='.join(choice.rsplit('/', 1))}, which is not chosen; "
                "choose it, or take the setting out"
            )
        self._refuse(override.input_line or key, key, config, repo)

    def _refuse_below(self, override: Override, above: str, value: Any, values: Any) -> None:
        key, line = override.key_or_group, str(override.input_line)
        if override.is_delete():
            raise CompositionError(f"got {line}, but {above} is {value}, without settings of its own; take it out")
        if value is not None:
            raise CompositionError(f"got {line}, but {above} is one value, {value}; set {above}=…")
        written = line.split("=", 1)[1]
        inner = key.removeprefix(f"{above}.").split(".")
        whole = ":{".join(inner) + f":{written}" + "}" * len(inner)
        known = [each for each in paths(values) if each != above and each.split(".")[0] in (self._root or ())]
        advice = [advice_for(key, written, known), f"set it as a whole: {shlex.quote(f'{above}={{{whole}')}"]
        raise CompositionError(f"got {line}, but {above} is null; {', or '.join(each for each in advice if each)}")

    def _check_keys(self, config: DictConfig) -> None:
        """Refuse keys that nothing would read; a value that an interpolation refers to is read by that."""
        values: Any = OmegaConf.to_container(config)
        del values["hydra"]
        known = {key: value for key, value in self._defined.items() if key in (self._root or ())}
        for key in unknown_keys(values, known):
            if re.search(rf"\$\{{[^}}]*\b{re.escape(key)}\b", str(values)):
                continue
            root = key.split(".")[0]
            lines = [each.input_line for each in self._overrides if each.key_or_group.split(".")[0] == root]
            self._refuse(lines[0] if lines else None, key, config, self.repository)

    def _refuse(self, line: str | None, key: str, config: DictConfig, repo: Any) -> None:
        value = line.split("=", 1)[1] if line and "=" in line else None
        known = [each for each in paths(OmegaConf.to_container(config)) if each.split(".")[0] in (self._root or ())]
        advice = advice_for(key, value, [*known, *_groups(config, repo)]) or "python train.py --cfg job shows them all"
        raise CompositionError(f"got {line or f'{key} in a config file'}, but there is no setting {key}; {advice}")

    def _refuse_choices(self, error: Exception) -> None:
        """Name the choice of a group that Hydra cannot take, in one line and without its advice to add a +."""
        for override in self._overrides:
            if override.is_hydra_override() or not self.repository.group_exists(override.key_or_group):
                continue
            line, key = str(override.input_line), override.key_or_group
            if override.is_add() or override.is_force_add():
                raise CompositionError(f"got {line}, expected no + before a group; write {line.lstrip('+')}") from error
            if override.value() is None and not override.is_delete():
                raise CompositionError(f"got {line}, expected a choice; write ~{key} for none") from error
            if f"Could not override '{key}'" in str(error):
                raise CompositionError(
                    f"got {line}, but what is chosen has no {key}; take it out, or choose another {key.split('/')[0]}"
                ) from error

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


def _groups(config: DictConfig, repo: Any) -> list[str]:
    """The groups of the config, nested ones too, as they are chosen: `data/selection`."""
    found = (each.replace(".", "/") for each in paths(OmegaConf.to_container(config)))
    return [each for each in found if not each.startswith("hydra") and repo.group_exists(each)]


def _no_choice(error: MissingConfigException) -> str:
    group, _, word = str(error.missing_cfg_file or "").rpartition("/")
    where = re.match(r"In '(.*?)'", str(error))
    if not group or error.options is None:
        return str(error).splitlines()[0]
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
