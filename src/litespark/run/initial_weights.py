"""What a run starts from: a Hugging Face Llama folder, or a run of ours, with its sizes and its tokenizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from litespark.config.settings import fields_of
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import tokenizer_file
from litespark.models.init import copy_weights
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.huggingface import load_huggingface
from litespark.models.llama.huggingface_config import read_config
from litespark.models.llama.model import Llama
from litespark.override_text import override
from litespark.run import load
from litespark.run.config import ConfigError, Parts
from litespark.run.folder import CONFIG, TOKENIZER, run_of
from litespark.training.checkpoint.folder import Checkpoint, find, is_run

log = logging.getLogger(__name__)

_CONFIG = "config.json"
# settings of a model that its weights do not depend on
_FREE = ("name", "max_seq_len", "init_std")


@dataclass(frozen=True)
class InitialWeights:
    """A model on disk."""

    folder: Path
    config: LlamaConfig
    checkpoint: Checkpoint | None
    tokenizer: Path | None

    @classmethod
    def find(cls, path: str | Path) -> InitialWeights:
        """What a Hugging Face Llama folder, a run (its newest valid checkpoint) or a checkpoint of one holds."""
        path = Path(path)
        try:
            if not path.is_dir():
                raise ValueError(
                    f"got {path}, expected a Hugging Face Llama folder (config.json and *.safetensors), a run folder "
                    "or a checkpoint in it"
                )
            if (path / _CONFIG).is_file() or not ((path / CONFIG).exists() or is_run(path)):
                return cls(path, read_config(path / _CONFIG, path.name), None, tokenizer_file(path))
            checkpoint = find(path)
            folder = run_of(checkpoint.folder.resolve())
            tokenizer = (folder / TOKENIZER).is_dir() and tokenizer_file(load.tokenizer_folder(checkpoint))
            return cls(folder, load.model_config(checkpoint), checkpoint, tokenizer or None)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}; name another folder") from error

    def differences(self, model: LlamaConfig) -> list[str]:
        """What to set so that `model` can be filled with the weights, as it is typed."""
        return [
            override(f"model.{key}", getattr(self.config, key))
            for key in fields_of(LlamaConfig)
            if key not in _FREE and getattr(self.config, key) != getattr(model, key)
        ]

    def fill(self, model: nn.Module) -> None:
        """Copy the weights into `model`, which has their sizes."""
        assert isinstance(model, Llama)
        ours = self.checkpoint
        source = load.load_model(ours, model.ops) if ours else load_huggingface(self.folder, model.ops)
        copy_weights(source, model)


def check_tokenizer(found: InitialWeights | None, parts: Parts, tokenizer: str | Path) -> None:
    """Compare the tokenizer of the data with the one that the initial weights were trained with."""
    if found is None or parts.allow_other_tokenizer:
        return
    if found.tokenizer is None:
        log.warning("initial_weights=%s has no tokenizer to compare with that of the data", parts.initial_weights)
        return
    difference = Tokenizer.load(tokenizer).difference(Tokenizer.load(found.tokenizer))
    if difference is not None:
        raise ConfigError(
            f"initial_weights={parts.initial_weights}: got the tokenizer of {tokenizer}, expected that of the weights, "
            f"{found.tokenizer}: {difference}. Leave out data.tokenizer, and that one is taken; to train these weights "
            "on other ids all the same, set allow_other_tokenizer=true"
        )
