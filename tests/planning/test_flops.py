"""The closed formulas against PyTorch's own count of what is run."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from litespark.models.llama.config import LlamaConfig
from litespark.ops.backend import OpsConfig
from litespark.planning.flops import causal_mean_keys, hardware_flops_per_token, model_flops_per_token
from tests.models.small import BIASES, random_ids, small_config, small_model

SEQUENCES, LENGTH = 2, 24


def _counted(**arguments):
    model = small_model(OpsConfig(), **arguments)
    with FlopCounterMode(display=False) as counter:
        model(random_ids(SEQUENCES, LENGTH), random_ids(SEQUENCES, LENGTH, seed=1)).backward()
    return counter.get_total_flops() / (SEQUENCES * LENGTH)


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_embeddings": True}, {"num_kv_heads": 1, "head_dim": 14}, {"num_kv_heads": 4, "num_layers": 3}, BIASES],
)
def test_full_convention_equals_what_is_counted(changes):
    assert _counted(**changes) == model_flops_per_token(small_config(**changes), LENGTH)


@pytest.mark.parametrize("changes", [{}, {"num_kv_heads": 1, "head_dim": 14, "num_layers": 3}, BIASES])
def test_recomputation_equals_what_is_counted(changes):
    assert _counted(recompute="full", **changes) == hardware_flops_per_token(small_config(**changes), LENGTH, "full")


def test_the_two_conventions_of_the_3b_model_at_4096():
    config = LlamaConfig("3b", 3072, 28, 24, 8, 8192, 32000, 4096)
    full, causal = (model_flops_per_token(config, keys) for keys in (4096, causal_mean_keys(4096)))
    assert full == 6 * 2_916_876_288 + 12 * 28 * 3072 * 4096
    assert causal == 6 * 2_916_876_288 + 12 * 28 * 3072 * 2048.5
    # reading F instead of C flatters this model by a tenth
    assert full / causal == pytest.approx(1.11, abs=0.005)
