"""How Hydra composes a config here, for every way in: runs, sweeps, each job of a sweep, `litespark` and tests.

Importing this module puts `ConfigLoader` into Hydra's place for its own, which has no hook before it acts on a config.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import hydra
import hydra._internal.hydra
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.hydra import ConfigLoaderImpl  # where Hydra looks it up: were it gone, this fails rather than pass
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from litespark.config.settings import together, unknown
from litespark.config.spelling import choice_for
from litespark.run.checkout import repository, settings_of_files
from litespark.run.command_line import check_overrides
from litespark.run.hydra_settings import CompositionError, check_hydra, check_search_path

if TYPE_CHECKING:
    from litespark.run.config import Parts

OWN_CALLBACKS, OWN_LOGGER = "callbacks.extra", "logger.own"
# settings whose keys are the user's own and need no +; the classes have them too, but take seconds to import
OWN_KEYS = (OWN_CALLBACKS, OWN_LOGGER, "data.mixture", "task.rewards", "task.reward_models", "hydra.sweeper.params")


class _Folders(ConfigRepository):
    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        check_search_path(config_search_path)
        super().initialize_sources(config_search_path)


class ConfigLoader(ConfigLoaderImpl):
    """Hydra's loader; what a config would have Hydra call, import or set is refused before it acts on it."""

    def __init__(self, config_search_path: ConfigSearchPath) -> None:
        self.config_search_path = config_search_path
        self.repository = _Folders(config_search_path)

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose and check; see Hydra's own."""
        try:
            left = OverridesParser.create().parse_overrides(overrides)
        except OverrideParseException as error:
            raise CompositionError(_unreadable(error)) from None
        wrong = [override for override in left if config_name and self._is_no_choice(override)]
        refused: list[tuple[Override, Exception | None]] = [(override, None) for override in wrong]
        left = [override for override in left if override not in wrong]
        while True:
            lines = [_opened(override) for override in left]
            try:
                config = super().load_configuration(config_name, lines, run_mode, from_shell, validate_sweep_overrides)
                break
            except CompositionError:
                raise
            except (HydraException, ValueError, KeyError) as error:
                said = str(error)
                named = [word for word in left if f"'{word.key_or_group}'" in said or _line(word) in said]
                if not named:
                    reason = said.strip() or repr(error.__cause__)
                    raise CompositionError(f"the config cannot be composed: {reason.splitlines()[0]:.300}") from None
                left.remove(named[0])
                refused.append((named[0], error))
        answers = [self._answer(*override, config) for override in refused]
        if run_mode == RunMode.MULTIRUN:  # before each of its jobs refuses them
            added = [override for override in left if override.is_add() and not override.is_hydra_override()]
            values = {override.key_or_group: _line(override).partition("=")[2] for override in added}
            answers += unread(values, settings_of_files(), f"{overrides} {OmegaConf.to_container(config)}")
        if answers:
            raise CompositionError(together(answers))
        check_hydra(config)
        _decide_budget(config, left)
        return config

    def _is_no_choice(self, override: Override) -> bool:
        """Whether it names a group of ours, and no choice of it or with a +."""
        if override.package or override.is_delete() or override.is_hydra_override():
            return False
        named = isinstance(override.value(), str | dict) or override.is_sweep_override()
        return self.repository.group_exists(override.key_or_group) and (override.is_add() or not named)

    def _answer(self, override: Override, error: Exception | None, config: DictConfig) -> str:
        """What to write instead of an override that Hydra cannot take, without its advice to add a +."""
        line, key = _line(override), override.key_or_group
        group = key.partition(".")[0]
        if error is None:
            return f"got {line}, expected a choice; write {key}=CHOICE, or ~{key} for none"
        if isinstance(error, MissingConfigException) and error.options:
            listed, advice = ", ".join(error.options), choice_for(key, str(override.value()), error.options)
            return f"got {line}, expected one of {listed}; {advice or f'choose one: {key}=…'}"
        if "Ambiguous" in str(error):
            return f"got {line}, expected one value; give -m to sweep over several, or write {key}=[…] for a list"
        if isinstance(given := override.value(), dict) and "_target_" in given:
            return f"got {line}, expected a choice; write configs/{key}/NAME.yaml with the _target_, and {key}=NAME"
        if self.repository.group_exists(key) and not override.is_hydra_override():
            return f"got {line}, but what is chosen has no {key}; take it out, or choose another {key.split('/')[0]}"
        if group == "hydra" or "/" in key or override.is_delete():
            return f"got {line}: {str(error.__cause__ or error).partition(chr(10))[0]}; take it out"
        if isinstance(node := config.get(group), DictConfig) and "_target_" in node:
            return f"got {line}, which its file does not set; write +{line} for an argument of {node['_target_']}"
        known = settings_of_files()
        if key in known and OmegaConf.select(config, key) is None:
            if group == "model" and OmegaConf.select(config, "model.kind") == "huggingface":
                return f"got {line}, but model=huggingface has the name and sizes of model.path; take it out"
            return f"got {line}, a setting of {known[key]}, which is not chosen; choose it, or take it out"
        return unknown(key, line.partition("=")[2], list(known))


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py would run with these overrides."""
    check_overrides(overrides)
    with hydra.initialize_config_dir(str(repository() / "configs"), version_base="1.3", job_name="litespark"):
        return hydra.compose("train", list(overrides))


def compose_parts(overrides: Sequence[str]) -> Parts:
    from litespark.run.config import parts_from  # a job composes before it imports torch

    return parts_from(compose(overrides))


def unread(given: Mapping[str, Any], read: Collection[str], text: str) -> list[str]:
    """Answers to keys beside what is `read`; one that an interpolation in `text` refers to is read by that."""
    beside = [key for key in given if key.partition(".")[0] not in read]
    strange = [key for key in beside if not re.search(rf"\$\{{[^}}]*\b{re.escape(key)}\b", text)]
    return [unknown(key, given[key], list(settings_of_files())) for key in strange]


def _line(override: Override) -> str:
    return str(override.input_line)


def _opened(override: Override) -> str:
    key = override.key_or_group
    # `check_targets` has an answer to a target
    is_own = key.endswith("._target_") or any(f"{key}.".startswith(f"{group}.") for group in OWN_KEYS)
    plain = not (override.is_add() or override.is_force_add() or override.is_delete())
    return f"++{_line(override)}" if is_own and plain else _line(override)


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


def _decide_budget(config: DictConfig, overrides: list[Override]) -> None:
    """Of `budget.tokens` and `budget.steps` the one on the command line counts, and not the other one of a file."""
    given: dict[str, Any] = {}
    for override in overrides:
        if override.key_or_group == "budget" and isinstance(value := override.value(), dict):
            given |= value
        elif override.key_or_group.startswith("budget.") and not override.is_delete():
            given[override.key_or_group.removeprefix("budget.")] = override.value()
    for one, other in (("tokens", "steps"), ("steps", "tokens")):
        if given.get(one) is not None and other not in given and isinstance(config.get("budget"), DictConfig):
            config.budget[other] = None


hydra._internal.hydra.ConfigLoaderImpl = ConfigLoader  # type: ignore[misc]
