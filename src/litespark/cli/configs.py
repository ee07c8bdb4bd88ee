"""Composes a config from a command's overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def repository() -> Path:
    """The folder with `train.py` and `configs/`; see `litespark.experiment.checkout`."""
    from litespark.experiment import checkout

    return checkout.repository()


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py would run with these overrides."""
    import hydra

    import litespark.experiment.composing  # noqa: F401 – puts our checks into Hydra
    from litespark.experiment.command_line import check_overrides

    check_overrides(overrides)
    with hydra.initialize_config_dir(str(repository() / "configs"), version_base="1.3", job_name="litespark"):
        return hydra.compose("train", list(overrides))


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Let a command take overrides."""
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="OVERRIDE",
        help="settings as for train.py: experiment=NAME group=CHOICE key=value …",
    )
