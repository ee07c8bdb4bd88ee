"""Generation: the cache changes nothing, sampling follows its distribution, and limits are refused."""

import pytest
import torch

from litespark.models.generate import generate
from litespark.ops.backend import OpsConfig
from tests.models.small import SDPA, random_ids, small_model


def _greedy_without_cache(model, ids, count):
    with torch.no_grad():
        for _ in range(count):
            ids = torch.cat((ids, model(ids)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return ids


@pytest.mark.parametrize("ops", [OpsConfig(), SDPA], ids=["reference", "sdpa"])
def test_cached_greedy_equals_uncached_greedy(ops):
    model, prompts = small_model(ops), random_ids(3, 5)
    assert torch.equal(generate(model, prompts, 20), _greedy_without_cache(model, prompts, 20))


def test_a_row_is_filled_with_eos_after_its_end_and_generation_stops_when_all_ended():
    model, prompts = small_model(), random_ids(2, 5)
    free = _greedy_without_cache(model, prompts, 12)[:, 5:]
    eos = int(free[0, 2])
    found = generate(model, prompts, 12, eos_id=eos)[:, 5:]
    for row in range(2):
        ends = (free[row] == eos).nonzero().flatten().tolist()
        end = ends[0] if ends else 12
        assert torch.equal(found[row, :end], free[row, : min(end, found.shape[1])])
        assert bool((found[row, end:] == eos).all())
    alone = generate(model, prompts[:1], 12, eos_id=eos)
    assert alone[0, -1] == eos
    assert alone.shape[1] == 5 + free[0].tolist().index(eos) + 1
    assert torch.equal(generate(model, prompts[:1], 12, eos_id=[60, eos]), alone)


def test_sampling_is_repeated_by_its_seed_and_leaves_the_global_generator_alone():
    model, prompts = small_model(), random_ids(2, 5)
    state = torch.get_rng_state()
    first = generate(model, prompts, 20, temperature=1.0, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(generate(model, prompts, 20, temperature=1.0, seed=3), first)
    assert not torch.equal(generate(model, prompts, 20, temperature=1.0, seed=4), first)


def _next_token_counts(model, **settings):
    prompts = random_ids(1, 5).repeat(4000, 1)
    return torch.bincount(generate(model, prompts, 1, **settings)[:, -1], minlength=61)


def test_sampling_follows_the_softmax_at_its_temperature():
    model = small_model(init_std=0.1)
    frequencies = _next_token_counts(model, temperature=0.7) / 4000
    expected = (model(random_ids(1, 5))[0, -1] / 0.7).softmax(-1)
    # five standard deviations of the likeliest token's frequency
    assert (frequencies - expected).abs().max() < 5 * 0.5 / 4000**0.5


def test_top_k_takes_the_k_likeliest_only():
    model = small_model()
    counts = _next_token_counts(model, temperature=5.0, top_k=3)
    assert set(counts.nonzero().flatten().tolist()) == set(model(random_ids(1, 5))[0, -1].topk(3).indices.tolist())


def test_top_p_takes_the_smallest_set_that_reaches_p():
    model = small_model()
    probabilities, order = (model(random_ids(1, 5))[0, -1] / 5.0).softmax(-1).sort(descending=True)
    size = int((probabilities.cumsum(0) < 0.2).sum()) + 1
    assert 1 < size < 20
    counts = _next_token_counts(model, temperature=5.0, top_p=0.2)
    assert set(counts.nonzero().flatten().tolist()) == set(order[:size].tolist())


@pytest.mark.parametrize("training", [False, True])
def test_the_training_mode_is_left_as_it_was(training):
    model = small_model().train(training)
    generate(model, random_ids(1, 3), 2)
    assert model.training is training


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


@pytest.mark.parametrize("temperature", [1e-3, 5e-324])
def test_a_temperature_near_0_takes_the_likeliest_token(temperature):
    model, prompts = small_model(), random_ids(2, 5)
    for more in ({}, {"top_p": 0.9}, {"top_k": 2}):
        assert torch.equal(generate(model, prompts, 6, temperature=temperature, **more), generate(model, prompts, 6))
