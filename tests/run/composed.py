"""Configs as train.py composes them, for a model and data that need no files."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from litespark.run.composing import compose
from litespark.run.config import Parts, parts_from

CONFIGS = Path(__file__).parents[2] / "configs"


SMALL = (
    "data=synthetic data.seq_len=8 data.micro_batch_size=2 trainer.global_batch_size=2 trainer.accelerator=cpu "
    "model.vocab_size=64 model.hidden_size=16 model.num_layers=1 model.num_heads=2 model.num_kv_heads=1 "
    "model.intermediate_size=16 data.synthetic_validation_sequences=1 budget.tokens=null budget.steps=2 "
    "metrics.probe_seconds=0 callbacks.report=false callbacks.progress=false callbacks.sample_prompt=null name=small"
).split()


def config(*overrides: str) -> DictConfig:
    return compose(["data=synthetic", "trainer.accelerator=cpu", *overrides])


def parts(*overrides: str) -> Parts:
    return parts_from(config(*overrides))
