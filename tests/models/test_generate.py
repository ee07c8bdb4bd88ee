"""Generation: the cache changes nothing, sampling follows its distribution, and limits are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from litespark.models.generate import generate
from tests.models.small import random_ids, small_model


def _greedy_without_cache(model, ids, count):
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat((ids, model(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids


def test_a_sequence_is_filled_with_eos_after_its_end_and_generation_stops_when_all_ended():
    model, prompts = small_model().train(), random_ids(2, 5)
    free = _greedy_without_cache(model, prompts, 12)[:, 5:]
    eos = int(free[0, 2])
    found = generate(model, prompts, 12, eos_id=eos)[:, 5:]
    assert torch.equal(generate(model, prompts, 12)[:, 5:], free)
    for sequence in range(2):
        ends = (free[sequence] == eos).nonzero().flatten().tolist()
        end = ends[0] if ends else 12
        assert torch.equal(found[sequence, :end], free[sequence, : min(end, found.shape[1])])
        assert bool((found[sequence, end:] == eos).all())
    alone = generate(model, prompts[:1], 12, eos_id=eos)
    assert alone[0, -1] == eos
    assert alone.shape[1] == 5 + free[0].tolist().index(eos) + 1
    assert torch.equal(generate(model, prompts[:1], 12, eos_id=[60, eos]), alone)
    assert model.training


def test_sampling_is_repeated_by_its_seed_and_leaves_the_global_generator_alone():
    model, prompts = small_model(), random_ids(2, 5)
    state = torch.get_rng_state()
    first = generate(model, prompts, 20, temperature=1.0, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generate(model, prompts, 20, temperature=1.0, seed=3), first)
    assert not torch.equal(generate(model, prompts, 20, temperature=1.0, seed=4), first)


def test_tokens_follow_the_softmax_at_their_temperature_among_the_k_likeliest_or_those_that_reach_p():
    model, prompt = small_model(init_std=0.1), random_ids(1, 5)
    logits = model(prompt)[0, -1]

    def counts(**settings):
        return torch.bincount(generate(model, prompt.repeat(4000, 1), 1, **settings)[:, -1], minlength=61)

    # five standard deviations of the likeliest token's frequency
    assert (counts(temperature=0.7) / 4000 - (logits / 0.7).softmax(-1)).abs().max() < 5 * 0.5 / 4000**0.5
    probabilities, order = (logits / 5.0).softmax(-1).sort(descending=True)
    assert set(counts(temperature=5.0, top_k=3).nonzero().flatten().tolist()) == set(order[:3].tolist())
    size = int((probabilities.cumsum(0) < 0.2).sum()) + 1
    assert 1 < size < 20
    assert set(counts(temperature=5.0, top_p=0.2).nonzero().flatten().tolist()) == set(order[:size].tolist())
    for temperature in (1e-3, 5e-324):
        for more in ({}, {"top_p": 0.9}, {"top_k": 2}):
            assert set(counts(temperature=temperature, **more).nonzero().flatten().tolist()) == {int(order[0])}


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.zeros(1, 0, dtype=torch.int64), r"the prompt is \(1, 0\); .* at least one token"),
        (torch.zeros(3, dtype=torch.int64), r"the prompt is \(3,\); expected \(B, S\)"),
        (torch.zeros(1, 63, dtype=torch.int64), "63 tokens and 2 new ones make 65, .* max_seq_len 64"),
        (torch.full((1, 4), 61), "token ids 61..61; the model's are 0..60"),
    ],
)
def test_impossible_prompts_are_refused(ids, message):
    with pytest.raises(ValueError, match=message):
        generate(small_model(), ids, 2)


class Successor(nn.Module):
    """Another family: after each token comes the next number, for which nothing needs to be kept."""

    config = SimpleNamespace(vocab_size=7, max_seq_len=16)

    def new_cache(self, capacity):
        return None

    def forward(self, tokens, cache):
        return nn.functional.one_hot((tokens + 1) % 7, 7).float()


def test_any_model_with_sizes_and_a_cache_generates_and_others_are_refused():
    assert generate(Successor(), torch.tensor([[4]]), 4).tolist() == [[4, 5, 6, 0, 1]]
    with pytest.raises(ValueError, match="got a Linear, expected a model with `config` and `new_cache`"):
        generate(nn.Linear(1, 1), torch.tensor([[4]]), 4)
