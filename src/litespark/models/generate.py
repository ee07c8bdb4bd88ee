"""Text generation, on token ids: greedy or sampled, with a key/value cache."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from litespark.models.compilation import uncompiled
from litespark.models.spec import Generates, ModelSpec

CANNOT = "expected a model with `config` and `new_cache` (Generates of models/spec.py)"


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
    """Continue prompts of one length, token by token.

    Args:
        model: one that `Generates`, on the device of `ids`.
        ids: (B, S) int64 prompts, S at least 1.
        temperature: divides the logits; 0 takes the likeliest token each time and ignores the next two.
        top_p: sample among the likeliest tokens that together just reach it (Holtzman et al., arXiv:1904.09751).
        eos_id: a sequence that has produced it, or one of several, is filled with it (the first).
        vocab_size: only ids below it are chosen: a model may have more rows than its tokenizer has ids.

    Returns:
        (B, S + n) int64, prompts included, n at most `max_new_tokens`.

    Raises:
        ValueError: the model does not generate, the prompt is empty or of another vocabulary, or the result too long.
    """
    ends = [] if eos_id is None else [eos_id] if isinstance(eos_id, int) else list(eos_id)
    if not isinstance(model, Generates):
        raise ValueError(f"got a {type(model).__name__}, {CANNOT}; give it these, or choose another model")
    _check(model.config, ids, max_new_tokens)
    generator = torch.Generator(ids.device).manual_seed(seed)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), uncompiled(model):
            cache = model.new_cache(ids.shape[1] + max_new_tokens)
            finished = torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)
            new = ids
            for _ in range(max_new_tokens):
                logits = model(new, cache=cache)[:, -1, :vocab_size]
                token = _choose(logits, temperature, top_k, top_p, generator)
                if ends:
                    token = token.masked_fill(finished, ends[0])
                    finished = finished | torch.isin(token, torch.tensor(ends, device=token.device))
                new = token.unsqueeze(1)
                ids = torch.cat((ids, new), dim=1)
                if ends and bool(finished.all()):
                    break
    finally:
        model.train(training)
    return ids


def _choose(
    logits: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: torch.Generator
) -> Tensor:
    """(B, V) logits -> (B,) ids."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    # so that no temperature makes the largest infinite; what a very low one makes of the others is -inf
    logits = logits.float()
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / max(temperature, torch.finfo(torch.float32).tiny)
    logits, order = logits.sort(dim=-1, descending=True, stable=True)
    if top_k is not None:
        logits[:, top_k:] = -torch.inf
    if top_p is not None:
        probabilities = logits.softmax(dim=-1)
        # a token stays while those before it fall short of p, so the first always does
        before = probabilities.cumsum(dim=-1) - probabilities
        logits = logits.masked_fill(before >= top_p, -torch.inf)
    choice = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)
    return order.gather(1, choice).squeeze(1)


def _check(config: ModelSpec, ids: Tensor, max_new_tokens: int) -> None:
    if ids.ndim != 2 or ids.numel() == 0:
        raise ValueError(f"the prompt is {tuple(ids.shape)}; expected (B, S) ids, each sequence of at least one token")
    if ids.shape[1] + max_new_tokens > config.max_seq_len:
        raise ValueError(
            f"a prompt of {ids.shape[1]} tokens and {max_new_tokens} new ones make {ids.shape[1] + max_new_tokens}, "
            f"more than the model's max_seq_len {config.max_seq_len}; shorten the prompt or ask for fewer"
        )
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= config.vocab_size:
        raise ValueError(
            f"the prompt has token ids {low}..{high}; the model's are 0..{config.vocab_size - 1}: "
            "was it encoded with the model's own tokenizer?"
        )
