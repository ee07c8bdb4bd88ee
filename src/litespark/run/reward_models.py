"""Reward models of `task.reward_models`: what they make of a prompt and its completions."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from litespark.data.examples.batch import pack
from litespark.data.examples.example import Example
from litespark.data.prepare.packing import best_fit_decreasing
from litespark.data.tokenizer import Tokenizer
from litespark.data.tokenizer_files import tokenizer_file
from litespark.models.evaluating import evaluating
from litespark.models.huggingface.classifier import Classifier, ClassifierFolder
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.config import Parts
from litespark.run.model_folder import ModelFolder, hash_of_folder
from litespark.run.targets import ConfigError
from litespark.tasks.grpo.rewards import Group
from litespark.tasks.reward import rewards
from litespark.tasks.task import NeedsTools
from litespark.training.checkpoint.folder import Checkpoint

log = logging.getLogger(__name__)


class RewardModel:
    """An `OwnReward`: what the model says at the end of each completion, behind which there is an EOS if it was cut.

    On one device, whole, on every rank. A ValueError for a completion that is longer than the model reads.

    Args:
        tokenizer: makes ids of the texts anew; None: the ids are those of the policy, whose EOS is `eos_id`.
    """

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer | None, eos_id: int, longest: int, device: torch.device
    ) -> None:
        self.model = model.to(device).requires_grad_(False)
        self.tokenizer = tokenizer
        self.eos_id = eos_id if tokenizer is None else tokenizer.eos_id
        self.longest = longest
        self.device = device

    def __call__(self, group: Group) -> list[float]:
        examples = [_example(ids) for ids in self._ids(group)]
        sizes = [example.sequences[0].size for example in examples]
        if max(sizes) > self.longest:
            raise ValueError(f"got {max(sizes)} ids, expected at most {self.longest}, which the reward model reads")
        packed = [[number] for number in range(len(sizes))]
        if not isinstance(self.model, Classifier):  # which is not told where sequences begin
            packed = best_fit_decreasing(sizes, max(sizes))
        rows = [[(number, examples[number]) for number in row] for row in packed]
        batch = pack(rows, max(sizes), fill_id=self.eos_id, last_ids=True).to(self.device)
        with evaluating(self.model):
            found = rewards(self.model, batch)
        values: list[float] = found.new_zeros(len(examples)).index_copy(0, batch.examples, found).tolist()
        return values

    def _ids(self, group: Group) -> list[list[int]]:
        if self.tokenizer is None:
            ids = ([*group.prompt_ids, *of] for of in group.completion_ids)
            return [of if ended else [*of, self.eos_id] for of, ended in zip(ids, group.ended, strict=True)]
        begin, (asked,) = self.tokenizer.begin_ids, self.tokenizer.encode_parts([group.prompt])
        return [
            [*begin, *asked, *answered, self.eos_id]
            for answered in map(list, self.tokenizer.encode_parts(list(group.completions)))
        ]


def _example(ids: Sequence[int]) -> Example:
    return Example((np.array(ids, dtype=np.int32),), (np.zeros(len(ids), dtype=np.float32),))


def parameters_of(folders: Mapping[str, str]) -> dict[str, int]:
    """How many each has; a ConfigError for a folder that holds no reward model. No weights are read."""
    return {name: _found(name, path)[0].parameter_count() for name, path in folders.items()}


def reward_models(
    folders: Mapping[str, str], longest: int, *, tokenizer: Tokenizer, device: torch.device
) -> dict[str, RewardModel]:
    """By name; a ConfigError as of `parameters_of`, or for one that cannot read `longest` ids of `tokenizer`."""
    return {name: _read(name, path, longest, tokenizer, device) for name, path in folders.items()}


def about_reward_models(folders: Mapping[str, str]) -> dict[str, str]:
    """What a checkpoint notes of them: a hash of the weights of each."""
    return {name: _hash(name, path) for name, path in folders.items()}


def check_reward_models(parts: Parts, checkpoint: Checkpoint) -> None:
    """A ConfigError where a resumed run would learn from another reward model than before."""
    noted = checkpoint.about.get("reward_models", {})
    for name, path in parts.task.reward_models.items() if isinstance(parts.task, NeedsTools) else ():
        if noted.get(name, ...) not in (..., _hash(name, path)):
            raise ConfigError(
                f"task.reward_models.{name}={path}: got other weights than those that {checkpoint.folder} learnt from "
                "(their hash differs); put the old ones back, name the checkpoint that holds them, or start a new run"
            )


def _hash(name: str, path: str) -> str:
    folder = _found(name, path)[1]
    return folder.sha256 if isinstance(folder, ModelFolder) else hash_of_folder(folder.path)


def _found(name: str, path: str) -> tuple[Any, ClassifierFolder | ModelFolder]:
    """What describes a reward model, and where it is."""
    setting = f"task.reward_models.{name}"
    try:
        spec: Any
        folder: ClassifierFolder | ModelFolder
        if ClassifierFolder.is_one(Path(path)):
            spec = folder = ClassifierFolder(Path(path))
        else:
            folder = ModelFolder.find(path)
            spec = folder.spec
        labels = getattr(spec, "num_labels", None)
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from error
    if labels != 1:
        got = "a language model" if labels is None else f"a classifier of {labels} labels"
        raise ConfigError(f"{setting}={path}: got {got}, expected one label; train one with task=reward data=pairs")
    return spec, folder


def _read(name: str, path: str, longest: int, tokenizer: Tokenizer, device: torch.device) -> RewardModel:
    (spec, folder), setting = _found(name, path), f"task.reward_models.{name}={path}"
    if spec.max_seq_len < longest:
        raise ConfigError(
            f"{setting}: got a model that reads {spec.max_seq_len} ids, and a prompt with its completion may "
            f"have {longest}; lower data.max_prompt_length or task.max_new_tokens"
        )
    at = tokenizer_file(folder.path) if isinstance(folder, ClassifierFolder) else folder.tokenizer
    own = None if at is None else Tokenizer.load(at)
    if own is None and spec.vocab_size < tokenizer.vocab_size:
        raise ConfigError(
            f"{setting}: got a model without a tokenizer, of {spec.vocab_size} ids, expected its files beside "
            f"the weights, or at least the {tokenizer.vocab_size} ids of the policy's; put tokenizer.json there"
        )
    if own is None:
        log.warning("%s has no tokenizer to compare with that of the policy, whose ids it is given", setting)
    elif own.hash != tokenizer.hash:
        log.info("%s has a tokenizer of its own, which reads the texts anew, without their special tokens", setting)
    anew = None if own is None or own.hash == tokenizer.hash else own
    try:
        model = folder.read() if isinstance(folder, ClassifierFolder) else folder.read(resolve(OpsConfig()))
    except ValueError as error:
        raise ConfigError(f"{setting}: {error}") from error
    return RewardModel(model, anew, tokenizer.eos_id, spec.max_seq_len, device)
