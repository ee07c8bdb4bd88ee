"""What every model of a life makes of the same held-out text: sources, functions, pairs, prompts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from litespark.data.examples.stream import ExampleDataModule
from litespark.data.modules import build_data_module
from litespark.data.stream.modules import SequenceDataModule
from litespark.data.tokenizer import Tokenizer
from litespark.metrics.records.lifecycle import Sample, Scores
from litespark.models.generate import Completions, complete
from litespark.models.sampling import Sampling
from litespark.run.config import Parts
from litespark.tasks.grpo.rewards import REWARDS
from litespark.tasks.preferences.task import Preference
from litespark.tasks.task import Task
from litespark.training.validation import validate

_SAMPLES = 4
"""Of each prompt."""
_AT_ONCE = 64


@dataclass(frozen=True)
class Prompts:
    """Held-out prompts as texts and ids, with the columns that rewards read."""

    texts: list[str]
    ids: list[torch.Tensor]
    columns: list[dict[str, Any]]
    tokenizer: Tokenizer
    new_tokens: int


class HeldOut:
    """Held-out text of the stages, by the parts of their configs."""

    def __init__(self, parts: dict[str, Parts], device: torch.device) -> None:
        self.device = device
        self.measured: list[tuple[str, Task, SequenceDataModule]] = [
            ("bits_per_byte", parts["base"].task, _data(parts["base"])),
            ("loss", parts["sft"].task, _data(parts["sft"])),
            ("accuracy", Preference("simpo"), _data(parts["dpo"])),  # by log-probabilities a token, without a reference
        ]
        self.prompts = _prompts(parts["grpo"])

    def scores(self, name: str, model: nn.Module) -> Scores:
        """Of a language model on the device."""
        found = []
        for metric, task, data in self.measured:
            metrics = task.metrics(data.manifest).to(self.device)
            found.append(validate(model, task, metrics, data.val_dataloader(), self.device)[metric])
        completions = self._completed(model, temperature=1.0, samples=_SAMPLES)
        texts = self._texts(completions, _SAMPLES)
        columns = [of for of in self.prompts.columns for _ in range(_SAMPLES)]
        shares = [REWARDS[reward](texts, texts, columns) for reward in ("parses", "keeps_signature")]
        lengths = [len(ids) for ids in completions.ids]
        return Scores(name, *found, *(sum(values) / len(values) for values in (*shares, lengths)))

    def samples(self, name: str, model: nn.Module, count: int) -> list[Sample]:
        """The likeliest completions of the first prompts."""
        texts = self._texts(self._completed(model, temperature=0.0, samples=1, count=count), 1)
        return [Sample(prompt, name, text) for prompt, text in zip(self.prompts.texts, texts, strict=False)]

    def _completed(
        self, model: nn.Module, *, temperature: float, samples: int, count: int | None = None
    ) -> Completions:
        prompts = self.prompts
        return complete(
            model,
            [ids.to(self.device) for ids in prompts.ids[:count]],
            Sampling(prompts.new_tokens, temperature),
            samples=samples,
            eos_ids=frozenset({prompts.tokenizer.eos_id}),
            vocab_size=prompts.tokenizer.vocab_size,
            at_once=_AT_ONCE,
        )

    def _texts(self, completions: Completions, samples: int) -> list[str]:
        decode, eos_id = self.prompts.tokenizer.decode, self.prompts.tokenizer.eos_id
        texts = []
        for place, ids in enumerate(completions.ids):
            prompt = self.prompts.ids[place // samples].tolist()
            kept = [token for token in ids.tolist() if token != eos_id]
            # behind its prompt, since a tokenizer may treat the beginning of a text differently
            texts.append(decode([*prompt, *kept]).removeprefix(decode(prompt)))
        return texts


def _data(parts: Parts) -> SequenceDataModule:
    return build_data_module(parts.data, seed=parts.seed)


def _prompts(parts: Parts) -> Prompts:
    data = _data(parts)
    assert isinstance(data, ExampleDataModule)
    tokenizer = Tokenizer.load(data.folder)
    held = data.examples("validation")
    examples: Sequence[Any] = [held[number] for number in range(min(len(held), parts.data.validation_sequences))]
    ids = [torch.from_numpy(example.sequences[0].astype("int64")) for example in examples]
    texts = [tokenizer.decode(prompt.tolist()) for prompt in ids]
    return Prompts(texts, ids, [example.about for example in examples], tokenizer, parts.task.max_new_tokens)  # type: ignore[attr-defined]
