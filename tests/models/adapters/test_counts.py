"""FLOPs of training an adapter against PyTorch's own count of what is run."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from litespark.models.adapters.config import LoraAdapter
from litespark.models.adapters.counts import adapter_counts
from litespark.ops.backend import OpsConfig, resolve
from litespark.planning.flops import hardware_flops_per_token, model_flops_per_token
from litespark.training.model_builder import ModelBuilder
from tests.models.adapters.test_lora import CPU, SIZES, written

SEQUENCES, LENGTH = 2, 24


@pytest.mark.parametrize("targets", [(), ("o_proj", "up_proj"), ("gate_proj",)])
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_flops_equal_what_is_counted(tmp_path, kind, targets):
    found, adapter = written(tmp_path, kind), LoraAdapter(rank=3, targets=targets)
    counts = adapter_counts(found.spec, adapter)
    builder = ModelBuilder(found.spec, resolve(OpsConfig()), 1, load_weights=found.fill, adapter=adapter)
    ids = torch.zeros(SEQUENCES, LENGTH, dtype=torch.int64)
    counted = {}
    for recompute in ("none", "full"):
        model = replace(builder, recompute=recompute).build(CPU).train()
        if kind == "qwen3":  # the counter does not have the other on a CPU
            model.causal_lm.set_attn_implementation("eager")
        with FlopCounterMode(display=False) as counter:
            model(ids, ids).backward()
        counted[recompute] = counter.get_total_flops() / (SEQUENCES * LENGTH)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert counts.trained == counts.products == trained
    # below the first adapter the gradient of attention is left out, which the formula has
    absent = 8 * SIZES["num_attention_heads"] * SIZES["head_dim"] * LENGTH if targets else 0
    assert counted["none"] + absent == model_flops_per_token(found.spec, LENGTH, counts)
    assert counted["full"] + absent == hardware_flops_per_token(found.spec, LENGTH, "full", counts)
    assert counted["none"] < 0.9 * model_flops_per_token(found.spec, LENGTH)
