"""From prompts to a batch that the policy learns from: completions, rewards, advantages.

P prompts, G completions of each, N = P·G; B packed sequences of S places.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from litespark.data.examples.batch import PADDING, ExampleBatch, pack
from litespark.data.examples.example import Example
from litespark.models.generate import Completions, complete
from litespark.models.sampling import Sampling
from litespark.tasks.grpo.losses import advantages
from litespark.tasks.grpo.rewards import REASONS, Group, OwnReward
from litespark.tasks.grpo.scoring import Scorer, Scores
from litespark.tasks.grpo.settings import GRPO

_EQUAL = 1e-8  # as close to 0 as TRL takes a deviation for none
Sampler = Callable[[nn.Module, Sequence[Tensor], Sampling, int, Sequence[int], int], Completions]
"""(policy, prompts, sampling, completions of each, numbers of prompts, version of the weights) -> what is sampled, by a
server or by our own engine."""


@dataclass(kw_only=True)
class RolloutBatch(ExampleBatch):
    """Prompts with their completions, N sequences, of which weights are 1 on the ids of completions."""

    advantages: Tensor
    """(N,) fp32, 0 in groups that are left out."""
    counted: Tensor
    """(N,) fp32, 0 in groups that are left out, else 1."""
    lengths: Tensor
    """(N,) fp32, ids of each completion."""
    sampled: Tensor
    """(B, S) fp32, log-probabilities of the labels under the sampler; 0 where none counts."""
    old: Tensor | None = None
    """(B, S) fp32, the same under the policy when they were sampled; None: the policy is still that."""
    reference_logs: Tensor | None = None
    """(B, S) fp32, the same under the reference model, where there is one."""
    seen: Tensor
    """(K, 2) fp32, what is observed of completions and rewards."""
    counted_completions: int
    counted_tokens: int

    def of_tokens(self, values: Tensor) -> Tensor:
        """(N,) -> (B, S): the value of the sequence of each place, 0 for padding."""
        padded = torch.cat([values, values.new_zeros(1)])
        return padded[torch.where(self.sequence_of == PADDING, len(values), self.sequence_of)]


@dataclass(frozen=True)
class Tools:
    """What a run gives to rollouts.

    Attributes:
        examples: the prompts of a split, "train" or "validation", by their number; longest_prompt: in ids, of both.
        decode: ids to text. ends: ids that end a completion. vocab_size: of the tokenizer.
        seq_len: of packed sequences. max_seq_len: of the model.
        share_prompts: see `data.examples.batch.pack`.
        during: a context in which the run is in a phase, "rollout" or "reward".
        sample: completions of prompts; None: `models.generate.complete`.
        any_rank: see there. gather: what each rank gives, on all of them. from_first: what the first makes.
        whole: whether each rank has the whole model, without an adapter.
        why_not: why the run may not call the function of a dotted name; None: it may.
        reward_models: those in folders, by name, for sequences of so many ids.
    """

    examples: Callable[[str], Sequence[Example]]
    decode: Callable[[list[int]], str]
    ends: frozenset[int]
    vocab_size: int
    fill_id: int
    seq_len: int
    seed: int
    during: Callable[[Any], AbstractContextManager[None]]
    any_rank: Callable[[bool], bool] = bool
    gather: Callable[[list[float]], list[list[float]]] = lambda values: [values]
    from_first: Callable[[Callable[[], Any], str], Any] = lambda make, doing: make()
    whole: bool = True
    sample: Sampler | None = None
    longest_prompt: int = 0
    max_seq_len: int = sys.maxsize
    why_not: Callable[[str], str | None] = lambda name: None
    reward_models: Callable[[Mapping[str, str], int], Mapping[str, OwnReward]] = lambda folders, longest: {}
    share_prompts: bool = False


def completions_of(
    settings: GRPO,
    tools: Tools,
    model: nn.Module,
    prompts: Sequence[Tensor],
    samples: int,
    numbers: Sequence[int],
    version: int,
) -> Completions:
    sampling = Sampling(settings.max_new_tokens, settings.temperature, settings.top_k, settings.top_p, tools.seed)
    if tools.sample is not None:
        return tools.sample(model, prompts, sampling, samples, numbers, version)
    return complete(
        model,
        prompts,
        sampling,
        samples=samples,
        numbers=numbers,
        eos_ids=tools.ends,
        vocab_size=tools.vocab_size,
        any_rank=tools.any_rank,
    )


def scores_of(
    scorer: Scorer, tools: Tools, prompts: Sequence[Example], completions: Completions, samples: int
) -> Scores:
    groups = []
    for index, prompt in enumerate(prompts):
        ids = prompt.sequences[0].tolist()
        here = slice(index * samples, (index + 1) * samples)
        found = [of.tolist() for of in completions.ids[here]]
        texts = [text_of(tools, ids, of) for of in found]
        groups.append(Group(tools.decode(ids), texts, prompt.about, ids, found, completions.ended[here]))
    return scorer(groups)


def text_of(tools: Tools, prompt: list[int], completion: list[int]) -> str:
    """Decoded behind its prompt, since a tokenizer may treat the beginning of a text differently; without its end."""
    kept = completion[:-1] if completion and completion[-1] in tools.ends else completion
    return tools.decode([*prompt, *kept]).removeprefix(tools.decode(prompt))


def batch_of(
    settings: GRPO, tools: Tools, prompts: Sequence[tuple[int, Example]], completions: Completions, scores: Scores
) -> RolloutBatch:
    """On the CPU; a ValueError where a prompt and its completion are longer than packed sequences."""
    size = settings.num_generations
    found = [ids.tolist() for ids in completions.ids]
    logs = torch.cat(completions.log_probabilities).float().cpu()
    examples = []
    for place, ids in enumerate(found):
        number, prompt = prompts[place // size]
        before = prompt.sequences[0]
        weights = np.zeros(before.size + len(ids), dtype=np.float32)
        weights[before.size :] = 1
        examples.append((number, Example((np.concatenate([before, np.array(ids, np.int32)]),), (weights,))))
    rows = _rows(examples, tools.seq_len, tools.share_prompts)
    batch = pack(rows, tools.seq_len, fill_id=tools.fill_id, share_prompts=tools.share_prompts)
    sampled = torch.zeros(batch.tokens.shape)
    sampled[batch.weights > 0] = logs  # both in the order of sequences
    counted = (~scores.rewards.isnan()).flatten()
    among = scores.rewards
    if settings.scale_rewards == "batch":
        among = torch.tensor([reward for held in tools.gather(among.flatten().tolist()) for reward in held])
    lengths = torch.tensor([len(ids) for ids in found], dtype=torch.float32)
    return RolloutBatch(
        **{field.name: getattr(batch, field.name) for field in fields(batch)},
        advantages=advantages(scores.rewards, settings.loss_type, settings.scale_rewards, among).flatten().float(),
        counted=counted.float(),
        lengths=lengths,
        sampled=sampled,
        seen=seen(scores, lengths, completions.ended),
        counted_completions=int(counted.sum()),
        counted_tokens=int(lengths[counted].sum()),
    )


def seen(scores: Scores, lengths: Tensor, ended: Sequence[bool]) -> Tensor:
    """(K, 2) fp32: sums and what divides them, of all that is observed of completions, as `GRPO.observed` names it."""
    known = scores.rewards[~scores.rewards.isnan().any(1)]
    each = scores.each[~scores.rewards.isnan().any(1)].flatten(0, 1)
    spread = known.std(1) if len(known) and known.shape[1] > 1 else known.new_zeros(len(known))
    rows: list[tuple[Tensor | int, int]] = [(known.sum(), known.numel()), (spread.sum(), len(known))]
    rows.append(((spread < _EQUAL).sum(), len(known)))
    rows += [(each[:, index].sum(), len(each)) for index in range(each.shape[1])]
    rows += [(lengths.sum(), len(lengths)), (sum(ended), len(ended))]
    rows += [(scores.left_out[reason], len(scores.rewards)) for reason in REASONS]
    return torch.tensor([[float(total), float(count)] for total, count in rows])


def _rows(examples: list[tuple[int, Example]], seq_len: int, share_prompts: bool) -> list[list[tuple[int, Example]]]:
    """Packed sequences of examples in their order, each in the one that is being filled.

    With `share_prompts` those of a prompt that come to lie side by side are one example.
    """
    rows: list[list[tuple[int, Example]]] = []
    left = -1
    for numbered in examples:
        places = numbered[1].input_count
        if places > seq_len:
            raise ValueError(
                f"a prompt and its completion have {places} places, more than data.seq_len={seq_len}; raise it, or "
                "lower data.max_prompt_length or task.max_new_tokens"
            )
        number, before = rows[-1][-1] if rows else (-1, numbered[1])
        if share_prompts and number == numbered[0]:
            joined = Example(before.sequences + numbered[1].sequences, before.weights + numbered[1].weights)
            more = joined.places(share_prompts=True) - before.places(share_prompts=True)
            if more <= left:
                rows[-1][-1] = number, joined
                left -= more
                continue
        if places > left:
            rows.append([])
            left = seq_len
        rows[-1].append(numbered)
        left -= places
    return rows
