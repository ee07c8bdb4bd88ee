"""How the next token is drawn: by temperature, among the likeliest, with uniforms that belong to one sample alone.

N sequences, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from litespark.device import device_of


@dataclass(frozen=True)
class Sampling:
    """What is asked of a sampler.

    Attributes:
        max_new_tokens: at most so many tokens a completion, its EOS among them.
        temperature: divides the logits; 0 takes the likeliest token each time and ignores the next two.
        top_k: sample among the k likeliest.
        top_p: sample among the likeliest that together just reach it (Holtzman et al., arXiv:1904.09751).
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0


def uniforms(seed: int, prompts: list[int], samples: int, count: int) -> Tensor:
    """(prompts · samples, count) fp64 in [0, 1): those of sample j of prompt i follow from (seed, i, j) alone.

    They are raw draws, whose streams NumPy promises for all versions, and fewer of them are the first of more.
    """
    # of as many words each: numbers of other lengths would be laid end to end, and two keys be one
    keys = [(*_words(seed), *_words(prompt), sample) for prompt in prompts for sample in range(samples)]
    raw = [np.random.PCG64(np.random.SeedSequence(key)).random_raw(count) for key in keys]
    return torch.from_numpy((np.array(raw, dtype=np.uint64).reshape(-1, count) >> np.uint64(11)) * 2.0**-53)


def _words(number: int) -> tuple[int, int, int]:
    """The 96 bits of a number in words of 32, the lowest first."""
    low = 2**32 - 1
    return number & low, number >> 32 & low, number >> 64


def next_tokens(logits: Tensor, sampling: Sampling, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """(N, V) logits and (N,) uniforms -> (N,) ids and their log-probabilities (N,) fp32.

    These are at the temperature (at 1 where it is 0) and over the whole vocabulary, before `top_k` and `top_p`: what a
    trainer that divides its logits by the temperature computes of the same tokens.

    A token is found in the order of ids, not of probabilities: where rounding swaps two that are nearly alike, as it
    does between batches, the choice stays.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        return _with_log_probability(logits, logits.argmax(dim=-1))
    # so that no temperature makes the largest infinite; what a very low one makes of the others is -inf
    logits = logits - logits.amax(dim=-1, keepdim=True)
    logits = logits / max(sampling.temperature, torch.finfo(torch.float32).tiny)
    kept = _likeliest(logits, sampling.top_k, sampling.top_p)
    wide = device_of(logits.device).sum_dtype
    below = kept.softmax(dim=-1, dtype=wide).cumsum(dim=-1)
    # times the sum, which rounding leaves beside 1; it stays below it, and so the token has a probability
    sought = uniform.to(device=logits.device, dtype=wide).unsqueeze(1) * below[:, -1:]
    sought = torch.minimum(sought, torch.nextafter(below[:, -1:], torch.zeros_like(sought)))
    return _with_log_probability(logits, torch.searchsorted(below, sought, right=True).squeeze(1))


def _likeliest(logits: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """(N, V) logits, -inf where a token is not among the likeliest."""
    if top_k is None and top_p is None:
        return logits
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        ordered[:, top_k:] = -torch.inf
    if top_p is not None:
        probabilities = ordered.softmax(dim=-1)
        # a token stays while those before it fall short of p, so the first always does
        before = probabilities.cumsum(dim=-1) - probabilities
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
    return torch.empty_like(logits).scatter_(1, order, ordered)


def _with_log_probability(logits: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
    chosen = logits.gather(1, token.unsqueeze(1)).squeeze(1)
    return token, chosen - logits.logsumexp(dim=-1)
