"""Reads a trained model back from a run folder: weights, sizes and tokenizer, for export and generation.

Nothing in a run folder is trusted: files are verified against the seal, nothing is unpickled, no config instantiated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from litespark.data.tokenizer import Tokenizer
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.huggingface import load_huggingface
from litespark.models.llama.model import Llama
from litespark.ops.backend import Ops, OpsConfig, resolve
from litespark.run.folder import SEAL, TOKENIZER, run_of
from litespark.training.checkpoint.folder import Checkpoint, CheckpointError, find
from litespark.training.checkpoint.state import read_state

# where the LightningModule keeps its model
_PREFIX = "model."


class Trained(NamedTuple):
    """A trained model, the folder of its tokenizer, and its checkpoint."""

    model: Llama
    tokenizer: Path
    checkpoint: Checkpoint


def load_trained(path: str | Path, ops: OpsConfig | None = None) -> Trained:
    """The model of a run folder (its newest valid checkpoint) or of one checkpoint in it, on the CPU in fp32.

    It computes with `ops`, or the references. A CheckpointError where there is no valid checkpoint of a model of this
    project; a ValueError where the run has no tokenizer, or another one by now.
    """
    checkpoint = find(path)
    tokenizer = tokenizer_folder(checkpoint)
    return Trained(load_model(checkpoint, resolve(ops or OpsConfig())).eval(), tokenizer, checkpoint)


def load_for_generation(path: str | Path) -> tuple[Llama, Path]:
    """A model and the folder of its tokenizer, from a run, a checkpoint, or a Hugging Face Llama folder."""
    path = Path(path)
    if (path / "config.json").is_file():
        return load_huggingface(path, resolve(OpsConfig())).eval(), path
    trained = load_trained(path)
    return trained.model, trained.tokenizer


def model_config(checkpoint: Checkpoint) -> LlamaConfig:
    """The sizes that a checkpoint's seal states."""
    stated = checkpoint.about.get("model")
    try:
        if not isinstance(stated, Mapping):
            raise ValueError(f"got {stated!r:.80}, expected the settings of a model")
        return LlamaConfig(**stated)
    except ValueError as error:
        raise CheckpointError(
            f"{checkpoint.folder / SEAL} does not describe a Llama of this version, which alone is read back: {error}"
        ) from error


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """The folder in which the run of a checkpoint keeps its tokenizer."""
    folder = run_of(checkpoint.folder.resolve()) / TOKENIZER
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is missing: this run has no tokenizer (one on data=synthetic has none), or its checkpoint was "
            "taken out of the run folder that training wrote (logs/runs/NAME/checkpoints/step-…); put it back there"
        )
    if Tokenizer.load(folder).hash != checkpoint.about.get("tokenizer_hash"):
        raise ValueError(
            f"{folder} holds another tokenizer than the one that {checkpoint.folder} was trained with (its hash "
            "differs); put the old one back"
        )
    return folder


def load_model(checkpoint: Checkpoint, ops: Ops) -> Llama:
    """The model of a checkpoint, on the CPU in fp32; names and shapes of its weights have to be the model's."""
    with torch.device("meta"):
        model = Llama(model_config(checkpoint), ops)
    model.to_empty(device="cpu")
    state = read_state(checkpoint).get("state_dict")
    items = state.items() if isinstance(state, Mapping) else ()
    found = {
        name.removeprefix(_PREFIX): value
        for name, value in items  # beside them lie those of a task's metrics
        if isinstance(name, str) and name.startswith(_PREFIX) and isinstance(value, Tensor)
    }
    expected = dict(model.named_parameters())
    for name in sorted(found.keys() | expected.keys()):
        there, wanted = (tuple(side[name].shape) if name in side else None for side in (found, expected))
        if there != wanted:
            raise CheckpointError(
                f"{checkpoint.state}: {name} is {there or 'absent'}, expected {wanted or 'no such weight'} for "
                f"{model.config.name} as its seal describes it; this checkpoint is of another kind or version"
            )
    with torch.no_grad():
        for name, parameter in expected.items():
            parameter.copy_(found[name])
    return model
