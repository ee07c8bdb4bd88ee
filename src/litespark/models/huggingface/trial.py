"""Tries our ops in the layers of a model that is too large to be tried itself: in a small one of the same classes."""

import dataclasses
from typing import Any

import torch

from litespark.models.huggingface.apply import Module, apply_ops, ops_of
from litespark.models.huggingface.model import CausalLM
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.models.init import initialise
from litespark.ops.backend import Ops, OpsConfig, names_of, resolve

# sizes of the small model; the size of a head stays
_SMALL = {"num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 64, "moe_intermediate_size": 32,
          "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}  # fmt: skip
_NO_TOKENS = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))


def lost_ops(spec: HuggingFaceConfig, ops: Ops, device: torch.device) -> dict[str, str]:
    """Op -> the reason why its backend in `ops` does not compute what a layer does that the table has for it."""
    from transformers import __version__

    small = _small(spec)
    known = {module.name: module for module in _applied(small, ops, None)}
    lost: dict[str, str] = {}
    for module in _applied(small, ops, device):
        for op in known[module.name].ops.keys() - module.ops.keys():
            lost[op] = f"not in {module.kind} of transformers {__version__}: {module.reason}"
    return lost


def _small(spec: HuggingFaceConfig) -> HuggingFaceConfig:
    two = spec.with_layers(min(2, spec.num_layers))
    assert two.config is not None
    config = spec.transformers
    heads = config.num_attention_heads
    own_size = getattr(config, "head_dim", None)
    sizes: dict[str, Any] = {**_SMALL, **_NO_TOKENS, "hidden_size": 64 if own_size else 2 * config.hidden_size // heads}
    sizes["num_key_value_heads"] = 1 if (getattr(config, "num_key_value_heads", None) or heads) < heads else 2
    stated = {config.attribute_map.get(key, key): value for key, value in sizes.items()}
    return dataclasses.replace(
        two, config={**two.config, **{key: value for key, value in stated.items() if key in two.config}}
    )


def _applied(spec: HuggingFaceConfig, ops: Ops, device: torch.device | None) -> list[Module]:
    """What computes with `ops`, on meta or tried on `device`."""
    with torch.device("meta"):
        model = CausalLM(spec, resolve(OpsConfig()), "none")
    if not ops_of(model.causal_lm):
        return []
    if device is not None:
        model.to_empty(device=device)
        initialise(model, spec, seed=0)
        with torch.no_grad():
            for parameter in model.parameters():  # norms begin as if they had no weight
                parameter.add_(0.1 * torch.linspace(-1, 1, parameter.numel(), device=device).view_as(parameter))
    return apply_ops(model.causal_lm, ops, names_of(ops), probing=device is not None)
