"""A model of 1 to 8 billion parameters of each dense family, by the sizes in its published config."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FamilyModel:
    """`sizes` are keys of transformers' config of `model_type`."""

    name: str  # of the model
    model_type: str
    sizes: dict[str, Any]
    # SDPA has no cap of the scores
    caps_scores: bool = False


def _model(
    name: str, model_type: str, hidden: int, heads: int, kv_heads: int, intermediate: int, vocab: int, **others: Any
) -> FamilyModel:
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": intermediate,
        "vocab_size": vocab,
    }
    return FamilyModel(name, model_type, sizes | others, model_type == "gemma2")


_PARTIAL = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75}
_MULTIPLIERS = {"attention_multiplier": 0.0078125, "embedding_multiplier": 12.0, "residual_multiplier": 0.22}
FAMILY_MODELS = {
    "llama3": _model("Llama 3.1 8B", "llama", 4096, 32, 8, 14336, 128256),
    "mistral": _model("Mistral 7B v0.3", "mistral", 4096, 32, 8, 14336, 32768, sliding_window=None),
    "qwen2.5": _model("Qwen2.5 7B", "qwen2", 3584, 28, 4, 18944, 152064),
    "qwen3": _model("Qwen3 8B", "qwen3", 4096, 32, 8, 12288, 151936, head_dim=128),
    "gemma2": _model("Gemma 2 2B", "gemma2", 2304, 8, 4, 9216, 256000, head_dim=256),
    "gemma3": _model("Gemma 3 4B", "gemma3_text", 2560, 8, 4, 10240, 262208, head_dim=256, sliding_window=1024),
    "phi4": _model("Phi-4-mini", "phi3", 3072, 24, 8, 8192, 200064, rope_parameters=_PARTIAL, pad_token_id=0),
    "smollm3": _model("SmolLM3 3B", "smollm3", 2048, 16, 4, 11008, 128256),
    "olmo2": _model("OLMo 2 7B", "olmo2", 4096, 32, 32, 11008, 100352),
    "granite": _model("Granite 3.3 8B", "granite", 4096, 32, 8, 12800, 49152, logits_scaling=16.0, **_MULTIPLIERS),
}
