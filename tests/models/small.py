"""Small random Llamas and sequences that tests share, and the sizes of llama3b."""

from typing import Any

import torch
from torch import Tensor

from litespark.models.init import initialise
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.models.spec import Recompute
from litespark.ops.backend import OpsConfig, resolve

SDPA = OpsConfig(attention="sdpa")
BIASES = {"attention_bias": True, "mlp_bias": True}
R3 = LlamaConfig(
    "r3",
    hidden_size=3072,
    num_layers=28,
    num_heads=24,
    num_kv_heads=8,
    intermediate_size=8192,
    vocab_size=32000,
    max_seq_len=4096,
)


def small_config(**changes: Any) -> LlamaConfig:
    sizes = {
        "name": "small",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "intermediate_size": 48,
        "vocab_size": 61,
        "max_seq_len": 64,
        # large enough that attention is far from uniform
        "init_std": 0.2,
    }
    return LlamaConfig(**(sizes | changes))


def small_model(ops: OpsConfig = SDPA, recompute: Recompute = "none", seed: int = 0, **changes: Any) -> Llama:
    model = Llama(small_config(**changes), resolve(ops), recompute)
    initialise(model, model.config, seed)
    return model


def give_biases(model: torch.nn.Module) -> None:
    """Values other than the zeros that biases begin with, which would hide that one is not used."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".bias"):
                parameter.normal_(0.0, 0.2, generator=generator)


def random_ids(*shape: int, seed: int = 0, vocab_size: int = 61) -> Tensor:
    return torch.randint(vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}
