"""Tiny random models of each family, with what is peculiar to it switched on."""

from typing import Any

import torch
import transformers

_SIZES = {
    "vocab_size": 97, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
_WINDOWS = {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
_HALF = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 24}
# model_type -> what differs from the sizes above
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "head_dim": 16},
    "mistral": {"sliding_window": 6},
    "qwen2": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 6, "tie_word_embeddings": True},
    "qwen3": {"head_dim": 16},
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 24, **_WINDOWS},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 24, **_WINDOWS},
    "phi3": _HALF,
    "smollm3": {"no_rope_layers": [1, 0, 1]},
    "olmo2": {},
    "olmo3": _WINDOWS,
    "granite": {
        "attention_multiplier": 0.2, "residual_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 3.0
    },
    "helium": {"head_dim": 16, "num_attention_heads": 3, "num_key_value_heads": 1},
    "ernie4_5": {"head_dim": 16},
    "glm": {"head_dim": 16, "attention_bias": True, **_HALF},
    "glm4": {"head_dim": 16, **_HALF},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.3},
    "cohere2": {"logit_scale": 0.3, **_WINDOWS},
    "starcoder2": {"use_bias": True, "sliding_window": None},
    "gpt_neox": _HALF,
    "qwen3_moe": {"num_experts": 4, "mlp_only_layers": [0], "head_dim": 16, **_EXPERTS},
    "mixtral": {"num_local_experts": 4, **_EXPERTS},
}  # fmt: skip


def build(family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **other: Any) -> Any:
    """A random model; the weights of its norms and biases are random too, which they are not when it is made."""
    settings = {**_SIZES, **FAMILIES[family], **other}
    if "layer_types" in settings:
        settings["layer_types"] = settings["layer_types"][: settings["num_hidden_layers"]]
    config = transformers.AutoConfig.for_model(family, **settings)
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "norm" in name:
                parameter.add_(torch.randn_like(parameter) / 4)
            else:
                parameter.mul_(3)  # else every answer is as good as any
    return model.to(dtype)
