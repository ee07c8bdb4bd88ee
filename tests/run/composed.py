"""Configs as train.py composes them, for a model and data that need no files."""

from __future__ import annotations

from pathlib import Path

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from litespark.run.config import Parts, parts_from

CONFIGS = Path(__file__).parents[2] / "configs"


def config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides=["data=synthetic", "trainer.accelerator=cpu", *overrides])


def parts(*overrides: str) -> Parts:
    return parts_from(config(*overrides))
