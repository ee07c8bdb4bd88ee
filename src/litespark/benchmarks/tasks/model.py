"""The model that all variants start from: a small Llama whose weights are drawn, as a Hugging Face folder."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from litespark.benchmarks.step.process import initial_weights
from litespark.data.modules import build_data_module
from litespark.data.stream.modules import PreparedDataModule
from litespark.launch import Ranks
from litespark.models.llama.huggingface import export_huggingface
from litespark.run.composing import compose_parts
from litespark.run.preflight import preflight

_SIZES = (
    *("model=tiny", "model.hidden_size=256", "model.num_heads=4", "model.num_kv_heads=4"),
    *("model.intermediate_size=688", "model.vocab_size=4096", "data=standard_library", "data.max_bytes=4_000_000"),
)


def drawn_model(overrides: Sequence[str]) -> Path:
    """A folder with the model and a tokenizer of the standard library, written where it is not there.

    Of `overrides` those of paths count.
    """
    parts = compose_parts([*_SIZES, *(word for word in overrides if word.startswith("paths."))])
    data = build_data_module(parts.data, seed=parts.seed)
    assert isinstance(data, PreparedDataModule)
    folder = parts.logs.absolute() / "models" / f"drawn-{parts.llama.hidden_size}-{data.manifest.hash[:12]}"
    if not (folder / "config.json").is_file():
        machine = dataclasses.replace(
            preflight(parts, Ranks.from_environment()), device=torch.device("cpu"), precision="fp32"
        )
        weights = initial_weights(parts, machine, data.manifest)
        export_huggingface(weights, folder, tokenizer=Path(data.place), eos_id=data.manifest.eos_id)
    return folder
