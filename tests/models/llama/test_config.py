"""Sizes: which are refused, and how many parameters the published ones have."""

import pytest
import torch

from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from tests.models.small import BIASES, small_config, small_model


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": -32}, "model.hidden_size: got -32, expected a whole number of at least 1"),
        ({"head_dim": 0}, "model.head_dim: got 0"),
        ({"num_heads": 4, "num_kv_heads": 3}, "model.num_heads 4 is not a multiple of model.num_kv_heads 3"),
        ({"hidden_size": 30}, "model.hidden_size 30 is not a multiple of model.num_heads 4; .* set model.head_dim"),
        ({"head_dim": 7}, "model.head_dim is 7; .* must be even"),
        ({"rope_theta": 0.0}, "model.rope_theta: got 0.0, expected a number from 1 to .*; set model.rope_theta=10000"),
        ({"tie_embeddings": "yes"}, "model.tie_embeddings: got 'yes', expected true or false"),
        ({"rope_scaling": {"factor": 8}}, r"model.rope_scaling.low_frequency_factor: got nothing"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        small_config(**changes)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((768, 12, 12, 12, 3072, 32000), 162_417_408),
        ((2048, 22, 32, 4, 5632, 32000), 1_100_048_384),
        ((3072, 28, 24, 8, 8192, 32000), 3_015_355_392),
        ((6144, 60, 48, 8, 22016, 32000), 30_026_717_184),
        ((4096, 32, 32, 8, 14336, 128256), 8_030_261_248),  # Llama 3.1
    ],
)
def test_parameters_of_the_published_sizes(sizes, expected):
    config = LlamaConfig("published", *sizes, 4096)
    with torch.device("meta"):
        model = Llama(config, resolve(OpsConfig()))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    assert config.parameter_count() == expected


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_counts_agree_with_the_built_model_for_tied_heads_and_free_head_dims(tie_embeddings):
    model = small_model(tie_embeddings=tie_embeddings, head_dim=10, **(BIASES if tie_embeddings else {}))
    assert model.config.parameter_count() == sum(parameter.numel() for parameter in model.parameters())
