"""A Llama's `config.json`, as transformers reads and writes it, to and from `LlamaConfig`."""

from pathlib import Path
from typing import Any

import torch

from litespark.models.llama.config import LlamaConfig, RopeScaling
from litespark.models.safetensors_folder import read_json

# LlamaConfig field -> key of config.json; the first six are in every file
_KEYS = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "max_seq_len": "max_position_embeddings",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "norm_eps": "rms_norm_eps",
    "tie_embeddings": "tie_word_embeddings",
    "init_std": "initializer_range",
}
# RopeScaling field -> key of its rotary settings
_SCALING = {
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_max_seq_len": "original_max_position_embeddings",
}
# what transformers takes for a key that is absent or null
_ABSENT = {"head_dim": None, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "initializer_range": 0.02}
# settings that change what is computed, with the values that this model has, the absent one first
_FIXED: dict[str, tuple[Any, ...]] = {
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "quantization_config": (None,),
    "partial_rotary_factor": (1.0, None),
}


def read_config(path: Path, name: str) -> LlamaConfig:
    """The sizes in a `config.json`, as transformers 5 reads them, of a plain Llama; ValueError: it is of none."""
    content = read_json(path)
    architectures = content.get("architectures") or ["LlamaForCausalLM"]
    if architectures != ["LlamaForCausalLM"]:
        raise ValueError(f"{path}: architectures is {architectures}; only LlamaForCausalLM can be imported")
    for key, expected in _FIXED.items():
        if content.get(key, expected[0]) not in expected:
            raise ValueError(f"{path}: {key} is {content[key]!r}; only models with {expected[0]!r} can be imported")
    given = {key: value for key, value in content.items() if value not in (None, {})}
    if missing := sorted(set(list(_KEYS.values())[:6]) - given.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}; is it the config.json of a Llama?")
    values: dict[str, Any] = {**_ABSENT, "num_key_value_heads": given["num_attention_heads"], **given}
    values["initializer_range"] = values["initializer_range"] or _ABSENT["initializer_range"]  # some write 0
    theta, scaling = _read_rope(path, values)
    sizes = {field: values[key] for field, key in _KEYS.items()}
    try:
        return LlamaConfig(name=name, rope_theta=theta, rope_scaling=scaling, **sizes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _read_rope(path: Path, values: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    # before transformers 5 wrote rope_parameters there were rope_theta and, beside it, rope_scaling; where a file has
    # both, transformers takes the old one, and rope_theta where the one taken has none
    rope = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"{path}: the rotary settings are {rope!r}; expected a JSON object or null")
    theta = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    part = rope.get("partial_rotary_factor", 1.0)
    if part not in (1.0, None):
        raise ValueError(f"{path}: partial_rotary_factor is {part!r}; only models with 1.0 can be imported")
    kind = rope.get("rope_type", rope.get("type", "default"))
    # stretched by nothing, it is the default
    if kind == "default" or (kind == "linear" and rope.get("factor") == 1):
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"{path}: the rotary type is {kind!r}; only 'default' and 'llama3' can be imported, since others compute "
            "other angles. Choose a model without that stretching"
        )
    rope = {"original_max_position_embeddings": values["max_position_embeddings"], **rope}
    try:
        return theta, RopeScaling(**{field: rope[key] for field, key in _SCALING.items()})
    except KeyError as error:
        raise ValueError(f"{path}: the llama3 rotary settings lack {error}") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def why_not_transformers(config: LlamaConfig) -> str | None:
    """Why transformers takes no such Llama; None: it does."""
    hidden_size, heads = config.hidden_size, config.num_heads
    reason = f"transformers refuses a Llama whose hidden_size {hidden_size} is not a multiple of its num_heads {heads}"
    return reason if hidden_size % heads else None


def to_huggingface_config(
    config: LlamaConfig, dtype: torch.dtype, eos_id: int | None, bos_id: int | None
) -> dict[str, Any]:
    """The contents of `config.json`. The rotary keys are those of transformers 4, which 5 reads too."""
    scaling = config.rope_scaling
    rope = scaling and {"rope_type": "llama3"} | {key: getattr(scaling, field) for field, key in _SCALING.items()}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        **{key: getattr(config, field) for field, key in _KEYS.items()},
        "rope_theta": config.rope_theta,
        "rope_scaling": rope,
        "eos_token_id": eos_id,
        "bos_token_id": bos_id,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
