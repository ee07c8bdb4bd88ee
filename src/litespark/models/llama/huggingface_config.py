"""A Llama's `config.json`, as transformers reads and writes it, to and from `LlamaConfig`."""

import math
from pathlib import Path
from typing import Any

import torch

from litespark.models.llama.config import LlamaConfig
from litespark.models.safetensors_folder import end_ids, read_json
from litespark.ops.rope.reference import SCALING_NUMBERS, RopeScaling

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
    "attention_bias": "attention_bias",
    "mlp_bias": "mlp_bias",
    "init_std": "initializer_range",
}
# RopeScaling field -> key of its rotary settings
_SCALING = {
    "kind": "rope_type",
    "factor": "factor",
    "low_frequency_factor": "low_freq_factor",
    "high_frequency_factor": "high_freq_factor",
    "original_max_seq_len": "original_max_position_embeddings",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "truncate": "truncate",
    "attention_factor": "attention_factor",
}
# what transformers takes for a key that is absent or null
_ABSENT = {
    "head_dim": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attention_bias": False,
    "mlp_bias": False,
    "initializer_range": 0.02,
}
# settings that change what is computed, with the values that this model has, the absent one first
_FIXED: dict[str, tuple[Any, ...]] = {
    "architectures": (["LlamaForCausalLM"], None, []),
    "model_type": ("llama",),
    "hidden_act": ("silu", "swish"),
    "partial_rotary_factor": (1.0, None),
}


class NotNative(ValueError):
    """A sound `config.json` of a model that the native Llama is not; `reason` is why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: {reason}. model=huggingface model.path={path.parent} trains any causal LM that transformers has"
        )
        self.reason = reason


def why_not_native(folder: Path) -> str | None:
    """Why the model of a Hugging Face folder is none for the native Llama; None: it is one.

    Raises:
        ValueError: `config.json` is missing or damaged, or has sizes that no Llama has.
    """
    try:
        read_config(folder / "config.json", folder.name)
    except NotNative as error:
        return error.reason
    return None


def read_config(path: Path, name: str) -> LlamaConfig:
    """The sizes in a `config.json`, as transformers 5 reads them.

    Raises:
        ValueError: it is missing or damaged, or has sizes that no Llama has; a `NotNative`: it is of another model.
    """
    content = read_json(path)
    for key, expected in _FIXED.items():
        if content.get(key, expected[0]) not in expected:
            raise NotNative(path, f"{key} is {content[key]!r}, that of the native Llama {expected[0]!r}")
    if content.get("quantization_config") is not None:
        raise ValueError(
            f"{path}: quantization_config is {content['quantization_config']!r:.80}, and quantised weights are not "
            "trained; take the folder that they were quantised from"
        )
    given = {key: value for key, value in content.items() if value not in (None, {})}
    if missing := sorted(set(list(_KEYS.values())[:6]) - given.keys()):
        raise ValueError(f"{path} lacks {', '.join(missing)}; is it the config.json of a Llama?")
    values: dict[str, Any] = {**_ABSENT, "num_key_value_heads": given["num_attention_heads"], **given}
    values["initializer_range"] = values["initializer_range"] or _ABSENT["initializer_range"]  # some write 0
    theta, scaling = _read_rope(path, values)
    sizes = {field: values[key] for field, key in _KEYS.items()}
    # one alone is what the tokenizer has too, or what transformers writes where none was named
    eos_ids = tuple(ends) if len(ends := end_ids(path.parent)) > 1 else ()
    try:
        return LlamaConfig(name=name, rope_theta=theta, rope_scaling=scaling, eos_ids=eos_ids, **sizes)
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
        raise NotNative(path, f"partial_rotary_factor is {part!r}, that of the native Llama 1.0")
    kind = rope.get("rope_type", rope.get("type", "default"))
    # stretched by nothing, it is the default
    if kind == "default" or (kind == "linear" and rope.get("factor") == 1):
        return theta, None
    if not isinstance(kind, str) or kind not in SCALING_NUMBERS:
        why = "angles that depend on the length of a sequence" if kind in ("longrope", "su") else "angles of its own"
        kinds = ", ".join(SCALING_NUMBERS)
        raise NotNative(
            path, f"the rotary type is {kind!r}, with {why}; those of the native Llama are default, {kinds}"
        )
    try:
        return theta, _read_scaling(path, kind, rope, values)
    except NotNative:
        raise
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path}: {error}") from error


def _read_scaling(path: Path, kind: str, rope: dict[str, Any], values: dict[str, Any]) -> RopeScaling:
    longest = values["max_position_embeddings"]
    original = rope.get("original_max_position_embeddings", longest)
    if kind != "dynamic":  # transformers prefers the key beside the rotary settings
        original = values.get("original_max_position_embeddings", original)
    elif original < longest:  # from the one on in other projects, from the other on in transformers
        raise NotNative(
            path,
            f"the angles of its dynamic rotary scaling depend on the length of a sequence beyond {original}, and "
            f"max_position_embeddings is {longest}; the native Llama takes it with max_position_embeddings {original}",
        )
    numbers: dict[str, Any] = {**rope, "rope_type": kind, "original_max_position_embeddings": original}
    scales = rope.get("mscale"), rope.get("mscale_all_dim")
    if kind == "yarn" and numbers.get("attention_factor") is None and all(scales):
        scale, other = (0.1 * number * math.log(max(rope["factor"], 1)) + 1 for number in scales if number)
        numbers["attention_factor"] = scale / other
    fields = ("factor", "kind", *SCALING_NUMBERS[kind])
    taken: dict[str, Any] = {field: numbers.get(_SCALING[field]) for field in fields}
    return RopeScaling(**taken)


def why_not_transformers(config: LlamaConfig) -> str | None:
    """Why transformers takes no such Llama; None: it does."""
    hidden_size, heads = config.hidden_size, config.num_heads
    reason = f"transformers refuses a Llama whose hidden_size {hidden_size} is not a multiple of its num_heads {heads}"
    return reason if hidden_size % heads else None


def all_eos_ids(config: LlamaConfig, eos_id: int | None) -> int | list[int] | None:
    """`eos_token_id` as transformers has it: the tokenizer's `eos_id` first, then the others of the model."""
    ids = list(dict.fromkeys(number for number in (eos_id, *config.eos_ids) if number is not None))
    return ids if len(ids) > 1 else next(iter(ids), None)


def to_huggingface_config(
    config: LlamaConfig, dtype: torch.dtype, eos_id: int | None, bos_id: int | None
) -> dict[str, Any]:
    """The contents of `config.json`. The rotary keys are those of transformers 4, which 5 reads too."""
    scaling = config.rope_scaling
    numbers = {key: getattr(scaling, field) for field, key in _SCALING.items()} if scaling else {}
    # beyond it, and nowhere else, transformers has other angles
    longest = {"max_position_embeddings": scaling.original_max_seq_len} if scaling and scaling.kind == "dynamic" else {}
    labels = {str(number): f"LABEL_{number}" for number in range(config.num_labels or 0)}
    classifies = {"id2label": labels, "label2id": {label: int(number) for number, label in labels.items()}}
    return {
        "architectures": ["LlamaForCausalLM" if config.num_labels is None else "LlamaForSequenceClassification"],
        "model_type": "llama",
        "hidden_act": "silu",
        **{key: getattr(config, field) for field, key in _KEYS.items()},
        **longest,
        **(classifies if labels else {}),
        "rope_theta": config.rope_theta,
        "rope_scaling": {key: value for key, value in numbers.items() if value is not None} or None,
        "eos_token_id": all_eos_ids(config, eos_id),
        "bos_token_id": bos_id,
        "torch_dtype": str(dtype).removeprefix("torch."),
    }
