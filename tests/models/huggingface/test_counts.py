"""The counts of families of transformers, against PyTorch's count of a step that is run."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from litespark.models.huggingface.counts import counts_of, keys_in_window

SEQUENCES, LENGTH = 2, 12
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}
LOCAL = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "sliding_window": 64}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 4, "num_local_experts": 4, "moe_intermediate_size": 24}
FAMILIES = {
    "llama": {"attention_bias": True, "tie_word_embeddings": True},
    "mistral": {"head_dim": 12, "sliding_window": 64},
    "qwen2": {},
    "qwen3": {"head_dim": 12},
    "gemma2": {"head_dim": 12, **LOCAL},
    "gemma3_text": {"head_dim": 12, **LOCAL},
    "phi3": {},
    "smollm3": {"no_rope_layers": [1, 1, 0]},
    "olmo2": {},
    "olmo3": LOCAL,
    "granite": {"residual_multiplier": 0.3},
    "glm4": {"head_dim": 12},
    "cohere2": LOCAL,
    "starcoder2": {},
    "gpt_neox": {"hidden_dropout": 0.0, "attention_dropout": 0.0},
    "qwen3_moe": {"head_dim": 12, "mlp_only_layers": [1], **EXPERTS},
    "mixtral": EXPERTS,
}


def _config(family, **changes):
    return CONFIG_MAPPING[family](**(SIZES | FAMILIES.get(family, {}) | changes))


def _model(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").train()
    if model._can_set_experts_implementation():
        model.set_experts_implementation("eager")  # the counter does not see the usual one
    return model


def _counted(model):
    """Operations a token of a step that is run, forward and backward, without those of rotary angles."""
    ids = torch.randint(3, model.config.vocab_size, (SEQUENCES, LENGTH), generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    angles = sum(sum(ops.values()) for name, ops in counter.get_flop_counts().items() if name.endswith("rotary_emb"))
    return (counter.get_total_flops() - angles) / (SEQUENCES * LENGTH)


def _of_model(counts):
    return 6 * counts.matmul_parameters + counts.attention_flops(LENGTH)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_and_flops_equal_what_is_counted(family):
    model = _model(_config(family))
    counts = counts_of(model.config)
    assert (counts.counted, counts.uncounted) == ((), None)
    assert counts.parameters == sum(parameter.numel() for parameter in model.parameters())
    once = _counted(model)
    assert once == _of_model(counts)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    assert _counted(model) == once + counts.recomputed_flops(LENGTH, "full")
    assert counts_of(model) == counts


def test_what_no_rule_knows_is_counted_and_named():
    model = _model(_config("falcon", alibi=False))
    counts = counts_of(model.config)
    assert counts.counted == ("FalconAttention",)
    assert _counted(model) == _of_model(counts)


def test_what_cannot_be_counted_has_a_reason_and_is_what_the_rules_know():
    counts = counts_of(_config("diffllama"))
    assert "cannot count it without values" in counts.uncounted
    assert counts.matmul_parameters == counts_of(_config("llama")).matmul_parameters


@pytest.mark.parametrize("length", [1, 5, 6, 17])
def test_a_window_leaves_the_keys_that_its_mask_leaves(length):
    seen = [min(query + 1, 5) for query in range(length)]
    assert keys_in_window((length + 1) / 2, 5) == pytest.approx(sum(seen) / length, rel=1e-12)


def test_layers_with_a_window_are_told_from_those_without():
    counts = counts_of(_config("gemma3_text", sliding_window=5))
    local, everywhere = keys_in_window(6.5, 5), 6.5
    assert counts.attention_flops(6.5) == 12 * 4 * 12 * (2 * local + everywhere)
    everywhere_too = counts_of(_config("mistral", sliding_window=5))
    assert everywhere_too.attention_flops(6.5) == 12 * 4 * 12 * 3 * local
