"""Generation: neither cache nor batch changes a text, sampling follows its distribution, and limits are refused."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from litespark.models.cache import Cache
from litespark.models.generate import complete, generate
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.init import initialise
from litespark.models.sampling import Sampling, next_tokens, uniforms
from litespark.ops.backend import OpsConfig, resolve
from tests.models.small import SDPA, random_ids, small_model


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

    def counts(samples=200, **settings):
        ids = complete(model, [prompt[0]], Sampling(1, **settings), samples=samples).ids
        return torch.bincount(torch.cat(ids), minlength=61)

    # five standard deviations of the likeliest token's frequency
    assert (counts(4000, temperature=0.7) / 4000 - (logits / 0.7).softmax(-1)).abs().max() < 5 * 0.5 / 4000**0.5
    probabilities, order = (logits / 5.0).softmax(-1).sort(descending=True)
    assert set(counts(temperature=5.0, top_k=3).nonzero().flatten().tolist()) == set(order[:3].tolist())
    size = int((probabilities.cumsum(0) < 0.2).sum()) + 1
    assert 1 < size < 20
    assert set(counts(1000, temperature=5.0, top_p=0.2).nonzero().flatten().tolist()) == set(order[:size].tolist())
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


_SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "eos_token_id": 2}
MODELS = {
    "native": small_model,
    "qwen3": lambda: _of_transformers("qwen3", SDPA, head_dim=8),
    "mistral with a window": lambda: _of_transformers("mistral", OpsConfig(), sliding_window=6),
}


def _of_transformers(family, ops, **more):
    spec = HuggingFaceConfig("folder", config={"model_type": family, **_SIZES, **more})
    with torch.device("meta"):
        model = spec.build(resolve(ops), "none")
    model.to_empty(device="cpu")
    initialise(model, spec, 0)
    return model


def _alone(model, prompt, number, sampling, sample, ends):
    """Without a cache, a batch or padding: each token from the logits of the whole text before it."""
    draws = uniforms(sampling.seed, [number], sample + 1, sampling.max_new_tokens)[sample]
    ids, logs = prompt, []
    with torch.no_grad():
        for draw in draws:
            token, log = next_tokens(model(ids[None])[:, -1], sampling, draw[None])
            ids, logs = torch.cat((ids, token)), [*logs, log]
            if int(token) in ends:
                break
    return ids[len(prompt) :], torch.cat(logs)


@pytest.mark.parametrize("name", MODELS)
def test_samples_of_ragged_prompts_are_those_of_each_alone_as_sequences_leave_the_batch(name, monkeypatch):
    model = MODELS[name]().train()
    prompts = [random_ids(length, seed=length) for length in (3, 11, 1, 6)]
    ends = {5, 9, 17, 23, 31, 42}
    left = []
    monkeypatch.setattr(
        Cache, "select", lambda self, rows, select=Cache.select: (left.append(rows), select(self, rows))
    )
    for temperature in (0.0, 1.5):
        sampling = Sampling(16, temperature, top_p=None if temperature == 0 else 0.95, seed=7)
        found = complete(model, prompts, sampling, samples=3, numbers=[10, 4, 8, 6], eos_ids=ends)
        assert model.training
        model.eval()
        for index, number in enumerate([10, 4, 8, 6]):
            for sample in (0, 2):
                ids, logs = _alone(model, prompts[index], number, sampling, sample, ends)
                place = 3 * index + sample
                assert found.ids[place].equal(ids)
                assert found.ended[place] == (int(ids[-1]) in ends)
                torch.testing.assert_close(found.log_probabilities[place], logs, rtol=1e-4, atol=1e-5)
        again = complete(model, prompts[::-1], sampling, samples=3, numbers=[6, 8, 4, 10], eos_ids=ends, at_once=7)
        for index in range(4):
            for sample in range(3):
                assert again.ids[3 * (3 - index) + sample].equal(found.ids[3 * index + sample])
        model.train()
    assert left
    assert set(found.ended) == {True, False}


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


def test_no_two_samples_have_the_same_random_numbers():
    """Numbers of prompts of other lengths, as those of later steps are, and seeds too."""
    keys = [(seed, prompt) for seed in (0, 7, 2**32) for prompt in (0, 7, 1 << 32, 1 << 32 | 7, 2 << 32 | 7, 1 << 94)]
    draws = [tuple(row.tolist()) for seed, prompt in keys for row in uniforms(seed, [prompt], 3, 4)]
    assert len(set(draws)) == 3 * len(keys)
