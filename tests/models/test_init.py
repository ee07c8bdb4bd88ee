"""Initial weights: their distribution, and that nothing but seed and name decides them."""

import math

import pytest
import torch

from litespark.models.init import copy_weights, initialise
from litespark.models.llama.config import RopeScaling
from litespark.models.llama.model import Llama
from litespark.ops.backend import resolve
from tests.models.small import BIASES, SDPA, random_ids, small_config, small_model


def test_deviations_are_those_of_the_config_and_smaller_towards_the_residual_stream():
    model = small_model(hidden_size=128, num_layers=3, intermediate_size=256, vocab_size=500, init_std=0.05, **BIASES)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:
            assert bool((parameter == (0 if name.endswith(".bias") else 1)).all()), name
            continue
        expected = 0.05
        if "attention.output" in name or "mlp.down" in name:
            expected /= math.sqrt(6)
        # the deviation of n samples strays by sigma / sqrt(2n)
        assert abs(parameter.std().item() / expected - 1) < 5 / math.sqrt(2 * parameter.numel()), name
        assert abs(parameter.mean().item()) < 5 * expected / math.sqrt(parameter.numel()), name


@pytest.mark.parametrize("threads", [1, 50])
def test_weights_are_repeated_by_their_seed_and_ignore_the_global_generator_and_threads(monkeypatch, threads):
    first = small_model(seed=1).state_dict()
    torch.rand(3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    again, other = small_model(seed=1).state_dict(), small_model(seed=2).state_dict()
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
        assert value.ndim == 1 or not torch.equal(value, other[name]), name


def test_no_two_matrices_begin_alike():
    matrices = [value.flatten()[:8] for value in small_model().state_dict().values() if value.ndim == 2]
    assert len({tuple((row / row.norm()).tolist()) for row in matrices}) == len(matrices)


def test_a_meta_model_becomes_the_model_that_was_built_directly():
    changes = {"rope_scaling": RopeScaling(4.0, 1.0, 4.0, 16), "max_seq_len": 128}
    with torch.device("meta"):
        model = Llama(small_config(**changes), resolve(SDPA))
    assert all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    model.to_empty(device="cpu")
    initialise(model, model.config, 0)
    expected, ids = small_model(**changes), random_ids(2, 100)
    assert torch.equal(model.rotary.inverse_frequencies, expected.rotary.inverse_frequencies)
    assert torch.equal(model(ids), expected(ids))


def test_copied_weights_are_those_of_the_source_in_the_dtype_of_the_target():
    source, target = small_model(seed=1), small_model(seed=2).to(torch.bfloat16)
    copy_weights(source, target)
    for name, parameter in target.named_parameters():
        assert torch.equal(parameter, source.get_parameter(name).bfloat16()), name
