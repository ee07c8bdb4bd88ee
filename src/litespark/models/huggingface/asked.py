"""What `litespark.apply` is asked for: the model, the ops and the precision, each refused with what was expected."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from litespark.models.huggingface.sizes import caps_scores, size_of, step_shapes_of
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE, OpsConfig
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.shapes import Place

IDLE = frozenset({"swiglu_linear", "fp8"})  # ops that no model of transformers computes with, the second only in fp8
BEFORE = "litespark_attention"  # attribute of a model: the implementation of attention that it had
_LONGEST = 4096  # tokens of a sequence that backends are measured with, unless another length is given


def inside(model: Any) -> Any:
    """The model of transformers, which PEFT wraps."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def check(model: Any) -> None:
    """Refuse what this cannot be done to."""
    from transformers import PreTrainedModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    name = type(model).__name__
    what = None
    if not isinstance(model, PreTrainedModel):
        what = f"a {name}, expected a causal LM of transformers; apply before torch.compile, DDP or another wrapper"
    elif model.config.is_encoder_decoder:
        what = f"{name}, an encoder-decoder, expected a causal LM"
    elif not any(kind.__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() for kind in type(model).__mro__):
        what = f"{name}, expected a causal LM: a class that AutoModelForCausalLM makes"
    elif BEFORE in vars(model):
        what = f"a {name} that it was applied to before; litespark.remove(model) undoes that"
    elif any(part.is_meta for part in model.parameters()):
        what = (
            f"a {name} on meta, whose layers cannot be tried; give it memory first (from_pretrained, to_empty), or "
            "train it by model=huggingface"
        )
    elif any(isinstance(part, DTensor) for part in model.parameters()):
        what = f"a {name} that is sharded; apply first, and shard then"
    if what is not None:
        raise ValueError(f"litespark.apply: got {what}")


def config_of(ops: str | Mapping[str, str]) -> OpsConfig:
    """The backend of each op, "auto" where none is named."""
    if isinstance(ops, str) and ops != "litespark":
        raise ValueError(
            f'litespark.apply: got ops={ops!r}, expected "litespark", or op -> backend: {{"attention": {ops!r}}}'
        )
    if not isinstance(ops, str | Mapping):
        raise ValueError(f'litespark.apply: got ops={ops!r}, expected "litespark" or op -> backend')
    given = {} if isinstance(ops, str) else dict(ops)
    if unknown := given.keys() - BACKENDS.keys():
        raise ValueError(f"litespark.apply: got ops {sorted(unknown)}, expected some of {', '.join(BACKENDS)}")
    backends: dict[str, Any] = {op: given.get(op, AUTO) for op in BACKENDS}
    if {backends[op] for op in BACKENDS.keys() - IDLE} == {REFERENCE}:
        raise ValueError(
            'litespark.apply: got "reference" for every op, with which each layer stays as transformers computes it '
            'and nothing is applied; name another backend for some op, or leave ops at "litespark"'
        )
    try:
        return OpsConfig(**backends)
    except ValueError as error:
        raise ValueError(in_python(str(error))) from error


def why_unexpected(arguments: Mapping[str, Any]) -> str:
    """What is wrong with arguments that `litespark.apply` does not have, and what to write in their place."""
    got = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    backends = ", ".join(f'"{op}": {value!r}'.replace("'", '"') for op, value in arguments.items() if op in BACKENDS)
    expected = f"ops={{{backends}}}" if backends else "ops, sequences, length, autocast, precision or verify"
    return f"litespark.apply: got {got}, expected {expected}"


def in_python(message: str) -> str:
    """A message about ops, which speaks as in a config, as it is written in Python."""
    message = message.replace(", or ops.on_failed_verification=fallback to do so by itself", "")
    message = re.sub(r"ops\.(\w+)=(\w+)", r'ops={"\1": "\2"}', message)
    return "litespark.apply: " + re.sub(r"\bops\.(\w+):", r'ops["\1"]:', message)


def fp8_of(precision: str | Fp8Config | None, device: torch.device) -> Fp8Config | None:
    """The settings of fp8; None: without."""
    if precision is None:
        return None
    if not isinstance(precision, Fp8Config) and precision != "fp8":
        raise ValueError(f'litespark.apply: got precision={precision!r}, expected "fp8", an Fp8Config, or None')
    config = precision if isinstance(precision, Fp8Config) else Fp8Config()
    if not config.simulate and (reason := without_units(device)) is not None:
        raise ValueError(
            f'litespark.apply: got precision="fp8", and {reason}; apply without, or with '
            "Fp8Config(simulate=True), which rounds as fp8 does and is slow: for looking at losses"
        )
    return config


def place_of(model: Any, sequences: int, length: int | None, autocast: torch.dtype | None) -> Place:
    """Where the model computes, and at which sizes."""
    if autocast is not None and not isinstance(autocast, torch.dtype):
        raise ValueError(f"litespark.apply: got autocast={autocast!r}, expected a dtype, torch.bfloat16, or None")
    config = model.config.get_text_config()
    longest = min(size_of(config, "max_position_embeddings", _LONGEST), _LONGEST)
    shapes = step_shapes_of(config, sequences, length or longest)
    dtype, capped = autocast or model.dtype, caps_scores(config)
    return Place(model.device, dtype, shapes, autocast=autocast is not None, softcap=capped)
