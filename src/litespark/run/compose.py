"""The config that overrides make where no `train.py` runs."""

from __future__ import annotations

from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

import litespark.run.composing  # noqa: F401 – puts our checks into Hydra
from litespark.run.checkout import repository
from litespark.run.command_line import check_overrides
from litespark.run.config import Parts, parts_from


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py would run with these overrides."""
    check_overrides(overrides)
    with hydra.initialize_config_dir(str(repository() / "configs"), version_base="1.3", job_name="litespark"):
        return hydra.compose("train", list(overrides))


def compose_parts(overrides: Sequence[str]) -> Parts:
    """The parts of that config."""
    return parts_from(compose(overrides))
