"""Sequence classifiers of transformers whose body is a causal language model: read, and asked at every place.

B batch, S sequence length, L labels.
"""

import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from litespark.models.huggingface.folder import quiet, transformers_config
from litespark.models.safetensors_folder import SafetensorsReader, read_json

_KIND = "ForSequenceClassification"


class Classifier(nn.Module):
    """Ids (B, S), one sequence in each row, padded behind -> scores (B, S, L) in fp32."""

    def __init__(self, of_transformers: Any) -> None:
        super().__init__()
        self.of_transformers = of_transformers

    def forward(self, tokens: Tensor, **_: Any) -> Tensor:
        hidden = self.of_transformers.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        scores: Tensor = self.of_transformers.score(hidden)
        return scores.float()


@dataclass(frozen=True)
class ClassifierFolder:
    """A Hugging Face folder of a sequence classifier; a ValueError from what reads it where it is none."""

    path: Path

    @staticmethod
    def is_one(path: Path) -> bool:
        config = path / "config.json"
        stated = read_json(config).get("architectures") if config.is_file() else None
        return isinstance(stated, list) and bool(stated) and str(stated[0]).endswith(_KIND)

    @cached_property
    def config(self) -> Any:
        """Of transformers."""
        content = read_json(self.path / "config.json")
        config = copy.copy(transformers_config({**content, "architectures": None}, self.path / "config.json"))
        # as transformers: two where nothing names them
        config.num_labels = len(content.get("id2label") or ()) or content.get("num_labels", 2)
        return config

    @property
    def num_labels(self) -> int:
        return int(self.config.num_labels)

    @property
    def vocab_size(self) -> int:
        return int(self.config.vocab_size)

    @property
    def max_seq_len(self) -> int:
        return int(getattr(self.config, "max_position_embeddings", None) or 2**31 - 1)

    def parameter_count(self) -> int:
        with torch.device("meta"):
            made = _auto().from_config(self.config)
        return sum(parameter.numel() for parameter in made.parameters())

    def read(self) -> Classifier:
        """With its weights, in fp32 on the CPU."""
        SafetensorsReader(self.path)
        try:
            with quiet():
                pair: Any = _auto().from_pretrained(
                    self.path, config=self.config, dtype=torch.float32, local_files_only=True, trust_remote_code=False,
                    use_safetensors=True, output_loading_info=True,
                )  # fmt: skip
        except Exception as error:  # of another library, which has its own kinds
            raise ValueError(f"{self.path}: transformers cannot read it: {str(error).strip()[:300]}") from error
        loaded, loading_info = pair
        if missing := sorted(loading_info["missing_keys"]):
            raise ValueError(f"{self.path} lacks {', '.join(missing[:3])}; fetch the folder again")
        if not hasattr(loaded, "score"):
            raise ValueError(f"{self.path}: got a {type(loaded).__name__} without `score`; choose another model")
        return Classifier(loaded)


def _auto() -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification
