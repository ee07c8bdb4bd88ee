"""What a run starts from: a Hugging Face folder, or another run, with its sizes and its tokenizer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, fields
from pathlib import Path

from torch import nn

from litespark.config.groups import NATIVE
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import tokenizer_file
from litespark.models.init import copy_weights
from litespark.models.spec import HasHuggingFace, ModelSpec
from litespark.ops.backend import OpsConfig, resolve
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
    config: ModelSpec
    checkpoint: Checkpoint | None
    tokenizer: Path | None

    @classmethod
    def find(cls, path: str | Path, family: type[ModelSpec] = NATIVE) -> InitialWeights:
        """What a Hugging Face folder of `family`, a run (its newest valid checkpoint) or a checkpoint of one holds."""
        path = Path(path)
        try:
            if not path.is_dir():
                raise ValueError(
                    f"got {path}, expected a Hugging Face folder (config.json and *.safetensors), a run folder "
                    "or a checkpoint in it"
                )
            if (path / _CONFIG).is_file() or not ((path / CONFIG).exists() or is_run(path)):
                if not issubclass(family, HasHuggingFace):
                    raise ValueError(
                        f"got {path}, no run, and a {family.__name__}, expected a run of that, or a family that reads "
                        "Hugging Face folders (HasHuggingFace of models/spec.py); name such a run"
                    )
                config = family.huggingface().read_config(path / _CONFIG, path.name)
                return cls(path, config, None, tokenizer_file(path))
            checkpoint = find(path)
            folder = run_of(checkpoint.folder.resolve())
            tokenizer = (folder / TOKENIZER).is_dir() and tokenizer_file(load.tokenizer_folder(checkpoint))
            return cls(folder, load.model_config(checkpoint), checkpoint, tokenizer or None)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}; name another folder") from error

    def differences(self, model: ModelSpec) -> list[str]:
        """What to set so that `model` can be filled with the weights, as it is typed."""
        if type(model) is not type(self.config):
            return [f"model to one that makes a {type(self.config).__name__}"]
        return [
            override(f"model.{key}", getattr(self.config, key))
            for key in (field.name for field in fields(model))
            if key not in _FREE and getattr(self.config, key) != getattr(model, key)
        ]

    def fill(self, model: nn.Module) -> None:
        if self.checkpoint is not None:
            source = load.load_model(self.checkpoint)
        else:
            assert isinstance(self.config, HasHuggingFace)
            source = self.config.huggingface().load_huggingface(self.folder, resolve(OpsConfig()))
        copy_weights(source, model)


def check_tokenizer(used: InitialWeights | None, parts: Parts, tokenizer: str | Path) -> None:
    """Compare the tokenizer of the data with the one that the initial weights were trained with."""
    if used is None or parts.allow_other_tokenizer:
        return
    if used.tokenizer is None:
        log.warning("initial_weights=%s has no tokenizer to compare with that of the data", parts.initial_weights)
        return
    difference = Tokenizer.load(tokenizer).difference(Tokenizer.load(used.tokenizer))
    if difference is not None:
        raise ConfigError(
            f"initial_weights={parts.initial_weights}: got the tokenizer of {tokenizer}, expected that of the weights, "
            f"{used.tokenizer}: {difference}. Leave out data.tokenizer, and that one is taken; to train these weights "
            "on other ids all the same, set allow_other_tokenizer=true"
        )
