"""The key `variant`: settings laid over all others, so that one value of one key of a sweep changes several together.

For instance `variant={label:no_fused_loss,ops:{linear_cross_entropy:reference}}`.
"""

import copy
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from litespark.run.folder import flatten
from litespark.run.targets import ConfigError

KEY = "variant"
# names the variant in the run's folder and in tables; no setting
LABEL = "label"


def with_variant(config: DictConfig) -> DictConfig:
    """A copy of `config` with the settings under `variant` laid over all others, and of them only the label left."""
    given = config.get(KEY)
    if given is None:
        return config
    if not isinstance(given, DictConfig):
        raise ConfigError(f"{KEY}: got {given!r}, expected a mapping of settings: {KEY}={{ops:{{rope:reference}}}}")
    # unresolved: what is interpolated follows the settings that are laid over it
    settings: Any = OmegaConf.to_container(given, resolve=False)
    label = settings.pop(LABEL, None)
    changed = copy.deepcopy(config)
    with open_dict(changed):
        changed.merge_with(settings)
        changed[KEY] = None if label is None else {LABEL: str(label)}
    return changed


def legible(override: str) -> str:
    """An override as part of a folder's name: of a `variant` its label, or else its settings one by one."""
    value = OverridesParser.create().parse_override(override).value() if override.startswith(f"{KEY}=") else None
    if not isinstance(value, dict) or not value:
        return override
    return str(value.get(LABEL) or "_".join(f"{key}={inner}" for key, inner in flatten(value).items()))
