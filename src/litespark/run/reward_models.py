"""Reward models of `task.reward_models`: what they make of a prompt and its completions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from litespark.data.examples.batch import pack
from litespark.data.examples.example import Example
from litespark.data.prepare.packing import best_fit_decreasing
from litespark.data.tokenizer import Tokenizer
from litespark.models.evaluating import evaluating
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.model_folder import ModelFolder
from litespark.run.targets import ConfigError
from litespark.tasks.reward import rewards


class RewardModel:
    """A `Reward` of texts: what the model says at the EOS behind each completion, sampled or not.

    On one device, whole, on every rank. A ValueError for a completion that is longer than the model reads.
    """

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, longest: int, device: torch.device) -> None:
        self.model = model.to(device).requires_grad_(False)
        self.tokenizer = tokenizer
        self.longest = longest
        self.device = device

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Mapping[str, Any]]
    ) -> list[float]:
        examples = [self._example(*texts) for texts in zip(prompts, completions, strict=True)]
        sizes = [example.sequences[0].size for example in examples]
        if max(sizes) > self.longest:
            raise ValueError(f"got {max(sizes)} ids, expected at most {self.longest}, which the reward model reads")
        rows = [[(number, examples[number]) for number in row] for row in best_fit_decreasing(sizes, self.longest)]
        places = max(sum(sizes[number] for number, _ in row) for row in rows)
        batch = pack(rows, places, fill_id=self.tokenizer.eos_id, last_ids=True).to(self.device)
        with evaluating(self.model):
            found = rewards(self.model, batch)
        values: list[float] = found.new_zeros(len(examples)).index_copy(0, batch.examples, found).tolist()
        return values

    def _example(self, prompt: str, completion: str) -> Example:
        asked, answered = (list(self.tokenizer.encode_parts([text])[0]) for text in (prompt, completion))
        ids = np.array([*self.tokenizer.begin_ids, *asked, *answered, self.tokenizer.eos_id], dtype=np.int32)
        return Example((ids,), (np.zeros(ids.size, dtype=np.float32),))


def parameters_of(folders: Mapping[str, str]) -> dict[str, int]:
    """How many each has; a ConfigError for a folder that holds no reward model. No weights are read."""
    return {name: _found(name, path).spec.parameter_count() for name, path in folders.items()}


def reward_models(folders: Mapping[str, str], longest: int, device: torch.device) -> dict[str, RewardModel]:
    """By name; a ConfigError as of `parameters_of`, or for one that cannot read `longest` ids."""
    return {name: _read(name, path, longest, device) for name, path in folders.items()}


def _found(name: str, path: str) -> ModelFolder:
    setting = f"task.reward_models.{name}"
    try:
        found = ModelFolder.find(path)
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from error
    labels = getattr(found.spec, "num_labels", None)
    if labels != 1:
        got = "a language model" if labels is None else f"a classifier of {labels} labels"
        raise ConfigError(f"{setting}={path}: got {got}, expected one label; train one with task=reward data=pairs")
    if found.tokenizer is None:
        raise ConfigError(f"{setting}={path}: got a model without a tokenizer, expected its files beside the weights")
    return found


def _read(name: str, path: str, longest: int, device: torch.device) -> RewardModel:
    found = _found(name, path)
    if found.spec.max_seq_len < longest:
        raise ConfigError(
            f"task.reward_models.{name}={path}: got a model that reads {found.spec.max_seq_len} ids, and a "
            f"prompt with its completion may have {longest}; lower data.max_prompt_length or task.max_new_tokens"
        )
    assert found.tokenizer is not None
    own = Tokenizer.load(found.tokenizer)
    return RewardModel(found.read(resolve(OpsConfig())), own, found.spec.max_seq_len, device)
