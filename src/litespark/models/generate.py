"""Text generation, on token ids: greedy or sampled, batched over ragged prompts, with a key/value cache.

P prompts, N completions of them in all, S the longest prompt, B rows of the batch as it stands, V vocabulary.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from litespark.device import device_of
from litespark.models.cache import Cache
from litespark.models.compilation import uncompiled
from litespark.models.evaluating import evaluating
from litespark.models.sampling import Sampling, next_tokens, uniforms
from litespark.models.spec import Generates, ModelSpec

CANNOT = "expected a model with `config` and `new_cache` (Generates of models/spec.py)"
_COMPACTED_BELOW = 0.75
"""Rows that have stopped are carried along until they are so many: to leave them out moves what is cached."""


@dataclass(frozen=True)
class Completions:
    """What was generated, in the order of prompts, the samples of one side by side; on the device of the model.

    Attributes:
        ids: N times (n,) int64, the EOS that ended it included.
        ended: whether each reached an EOS, and was not cut.
        log_probabilities: N times (n,) fp32 of those ids; see `sampling.next_tokens` for what they are of.
    """

    ids: list[Tensor]
    ended: list[bool]
    log_probabilities: list[Tensor]


def complete(
    model: nn.Module,
    prompts: Sequence[Tensor],
    sampling: Sampling,
    *,
    samples: int = 1,
    numbers: Sequence[int] | None = None,
    eos_ids: Collection[int] = (),
    vocab_size: int | None = None,
    at_once: int | None = None,
    any_rank: Callable[[bool], bool] = bool,
) -> Completions:
    """Continue each of `prompts`, (n,) int64 ids on the device of the model, `samples` times.

    A prompt is read once for all of its samples, and sequences that have ended leave the batch. The text of a sample
    follows from the weights, its prompt, `sampling` and its numbers, not from what else is in the batch, up to the
    rounding of matrix products of other shapes.

    Args:
        model: one that `Generates`.
        numbers: of the prompts, by which their random numbers are drawn; None: 0, 1, …
        vocab_size: only ids below it are chosen: a model may have more rows than its tokenizer has ids.
        at_once: at most so many sequences in the batch, though all samples of a prompt always are; None: all.
        any_rank: whether it is true on any rank; for a model that is sharded over ranks, each of which has to take as
            many steps.

    Raises:
        ValueError: the model does not generate, a prompt is empty or of another vocabulary, or the result too long.
    """
    if not isinstance(model, Generates):
        raise ValueError(f"got a {type(model).__name__}, {CANNOT}; give it these, or choose another model")
    _check(model.config, prompts, sampling.max_new_tokens)
    numbers = range(len(prompts)) if numbers is None else numbers
    size = len(prompts) if at_once is None else max(1, at_once // samples)
    found = Completions([], [], [])
    with evaluating(model), uncompiled(model):
        for begin in range(0, len(prompts), size):
            here = slice(begin, begin + size)
            draws = uniforms(sampling.seed, list(numbers[here]), samples, sampling.max_new_tokens)
            ids, logs = _sequences(model, prompts[here], sampling, samples, draws, eos_ids, vocab_size, any_rank)
            _add(found, ids, logs, set(eos_ids))
    return found


def generate(
    model: nn.Module,
    ids: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos_id: int | Sequence[int] | None = None,
    vocab_size: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Continue prompts of one length, (B, S) int64 on the device of the model, by one sample each; see `complete`.

    Returns:
        (B, S + n) int64, prompts included, n at most `max_new_tokens`. A sequence that has ended is filled with
        `eos_id`, of several the first.
    """
    if ids.ndim != 2 or ids.numel() == 0:
        raise ValueError(f"the prompt is {tuple(ids.shape)}; expected (B, S) ids, each sequence of at least one token")
    ends = [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)
    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, seed)
    completions = complete(model, list(ids), sampling, eos_ids=ends, vocab_size=vocab_size)
    fill = float(ends[0]) if ends else 0.0
    return torch.cat((ids, nn.utils.rnn.pad_sequence(completions.ids, True, fill)), dim=1)


def _sequences(
    model: Generates,
    prompts: Sequence[Tensor],
    sampling: Sampling,
    samples: int,
    draws: Tensor,
    eos_ids: Collection[int],
    vocab_size: int | None,
    any_rank: Callable[[bool], bool],
) -> tuple[Tensor, Tensor]:
    """(N, max_new_tokens) ids and their log-probabilities; what follows the EOS of a sequence means nothing."""
    device, longest, count = prompts[0].device, max(map(len, prompts)), len(prompts) * samples
    draws = draws.to(device_of(device).sum_dtype).to(device)
    ids = torch.zeros(count, sampling.max_new_tokens, dtype=torch.int64, device=device)
    logs = torch.zeros(count, sampling.max_new_tokens, device=device)
    ends = torch.tensor(sorted(eos_ids), dtype=torch.int64, device=device)
    # which sequence is in each row of the batch, and whether it has ended
    sequence = torch.arange(count, device=device)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    cache = model.new_cache(longest + sampling.max_new_tokens)
    logits = _read_prompts(model, prompts, longest, cache)
    if samples > 1:
        logits = logits.repeat_interleave(samples, dim=0)
        if cache is not None:
            cache.repeat(samples)
    for step in range(sampling.max_new_tokens):
        token, log = next_tokens(logits[:, :vocab_size], sampling, draws[sequence, step])
        ids[sequence, step], logs[sequence, step] = token, log
        if step + 1 == sampling.max_new_tokens:
            break
        if len(ends):
            ended = ended | torch.isin(token, ends)
            going = int((~ended).sum())
            if not any_rank(going > 0):
                break
            if 0 < going < _COMPACTED_BELOW * len(ended):
                rows = (~ended).nonzero().squeeze(1)
                token, sequence, ended = token[rows], sequence[rows], ended[rows]
                if cache is not None:
                    cache.select(rows)
        logits = model(token.unsqueeze(1), cache=cache)[:, -1]
    return ids, logs


def _read_prompts(model: Generates, prompts: Sequence[Tensor], longest: int, cache: Cache | None) -> Tensor:
    """(P, V): the logits behind each prompt; prompts of several lengths are padded at their left."""
    tokens = torch.stack([nn.functional.pad(prompt, (longest - len(prompt), 0)) for prompt in prompts])
    if cache is not None:
        cache.only_last = True
        if any(len(prompt) < longest for prompt in prompts):
            cache.first = torch.tensor([longest - len(prompt) for prompt in prompts], device=tokens.device)
    logits: Tensor = model(tokens, cache=cache)
    return logits[:, -1]


def _add(found: Completions, ids: Tensor, logs: Tensor, ends: set[int]) -> None:
    for row, listed in enumerate(ids.tolist()):
        end = next((place + 1 for place, token in enumerate(listed) if token in ends), None)
        found.ids.append(ids[row, :end])
        found.log_probabilities.append(logs[row, :end])
        found.ended.append(end is not None)


def _check(config: ModelSpec, prompts: Sequence[Tensor], max_new_tokens: int) -> None:
    if not prompts or any(prompt.ndim != 1 or prompt.numel() == 0 for prompt in prompts):
        raise ValueError(
            f"prompts are {[tuple(prompt.shape) for prompt in prompts]}; expected (n,) ids each, at least one token"
        )
    longest = max(map(len, prompts))
    if longest + max_new_tokens > config.max_seq_len:
        raise ValueError(
            f"a prompt of {longest} tokens and {max_new_tokens} new ones make {longest + max_new_tokens}, "
            f"more than the model's max_seq_len {config.max_seq_len}; shorten the prompt or ask for fewer"
        )
    together = torch.cat(list(prompts))
    low, high = int(together.min()), int(together.max())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"the prompt has token ids {low}..{high}; the model's are 0..{config.vocab_size - 1}: "
            "was it encoded with the model's own tokenizer?"
        )
