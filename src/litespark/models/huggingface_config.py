"""A Llama's `config.json`, as transformers reads and writes it, to and from `LlamaConfig`."""

from pathlib import Path
from typing import Any

import torch

from litespark.models.config import LlamaConfig, RopeScaling
from litespark.models.safetensors_folder import read_json

# LlamaConfig field -> key of config.json
_SIZES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "vocabulary": "vocab_size",
    "max_sequence_length": "max_position_embeddings",
}
# settings that change what is computed, with the one value that this model has; an absent key means that value
_FIXED = {
    "model_type": "llama",
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "quantization_config": None,
    "partial_rotary_factor": 1.0,
}


def read_config(path: Path, name: str) -> LlamaConfig:
    """The sizes in a `config.json`.

    Args:
        path: the file.
        name: what the model is to be called; the file has no name.

    Raises:
        ValueError: the file is missing or damaged, or describes a model that is not a plain Llama.
    """
    found = read_json(path)
    architectures = found.get("architectures") or ["LlamaForCausalLM"]
    if architectures != ["LlamaForCausalLM"]:
        raise ValueError(f"{path}: architectures is {architectures}; only LlamaForCausalLM can be imported")
    for key, expected in _FIXED.items():
        if found.get(key, expected) != expected:
            raise ValueError(f"{path}: {key} is {found[key]!r}; only models with {expected!r} can be imported")
    missing = sorted(set(_SIZES.values()) - found.keys())
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}; is it the config.json of a Llama?")
    theta, scaling = _read_rope(path, found)
    try:
        return LlamaConfig(
            name=name,
            **{field: found[key] for field, key in _SIZES.items()},
            # the format's own defaults for keys that older files leave out
            kv_heads=found.get("num_key_value_heads") or found["num_attention_heads"],
            head_width=found.get("head_dim"),  # type: ignore[arg-type]
            rope_theta=theta,
            rope_scaling=scaling,
            norm_epsilon=found.get("rms_norm_eps", 1e-6),
            tied=found.get("tie_word_embeddings", False),
            initial_deviation=found.get("initializer_range", 0.02),
        )
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_rope(path: Path, found: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    # transformers 5 writes rope_parameters; before it there were rope_theta and, beside it, rope_scaling
    rope = found.get("rope_parameters") or found.get("rope_scaling") or {}
    theta = rope.get("rope_theta", found.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(f"{path}: the rotary type is {kind!r}; only 'default' and 'llama3' can be imported")
    try:
        return theta, RopeScaling(
            factor=rope["factor"],
            low_frequency_factor=rope["low_freq_factor"],
            high_frequency_factor=rope["high_freq_factor"],
            original_max_sequence_length=rope["original_max_position_embeddings"],
        )
    except KeyError as error:
        raise ValueError(f"{path}: the llama3 rotary settings lack {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def to_huggingface_config(
    config: LlamaConfig, dtype: torch.dtype, eos_id: int | None, bos_id: int | None
) -> dict[str, Any]:
    """The contents of `config.json`. The rotary keys are those of transformers 4, which 5 reads too."""
    scaling = config.rope_scaling
    rope = None
    if scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_frequency_factor,
            "high_freq_factor": scaling.high_frequency_factor,
            "original_max_position_embeddings": scaling.original_max_sequence_length,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **{key: getattr(config, field) for field, key in _SIZES.items()},
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "rms_norm_eps": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": config.initial_deviation,
        "eos_token_id": eos_id,
        "bos_token_id": bos_id,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
