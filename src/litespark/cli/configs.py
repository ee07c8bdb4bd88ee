"""Finds the repository's configs and composes one from a command's overrides."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from omegaconf import DictConfig


def repository() -> Path:
    """The folder with `train.py` and `configs/`: the current one, or the checkout that this package runs from.

    Raises:
        ValueError: neither has them.
    """
    checkout = Path(__file__).resolve().parents[3]
    for folder in (Path.cwd(), checkout):
        if (folder / "train.py").is_file() and (folder / "configs" / "train.yaml").is_file():
            return folder
    raise ValueError(
        f"found no train.py with configs/train.yaml in {Path.cwd()} or {checkout}; change into a clone of the "
        "repository, its configs are not part of the installed package"
    )


def compose(overrides: Sequence[str]) -> DictConfig:
    """The config that train.py would run with these overrides."""
    import hydra

    for override in overrides:
        if override.startswith("-"):
            raise ValueError(f"got {override!r}, expected overrides like key=value")
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
