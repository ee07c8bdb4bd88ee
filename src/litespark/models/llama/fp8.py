"""A Llama in fp8: which linear layers of its blocks are, and by which recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from litespark.ops.fp8.reference import Pieces
from litespark.ops.fp8.scaling import Scaling
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.linear.state import BlockLinears, Fp8Linear, Fp8State, scaling_of

if TYPE_CHECKING:
    from litespark.models.llama.model import Llama

# linear layer of a block, as `Fp8Config.linears` calls it -> where it is in the block
PATHS = {"qkv": "attention.qkv", "output": "attention.output", "gate_up": "mlp.gate_up", "down": "mlp.down"}


def enable_fp8(model: Llama, config: Fp8Config, pieces: Pieces) -> Fp8State:
    """Let the blocks of `model` multiply in fp8, in place; parameters stay masters and keep their names.

    Weights may be loaded before or after. Call `finish_step` of what is returned, which is `model.fp8` from now on,
    after each optimizer step: nothing else shows that a fused optimizer has changed the weights.
    """
    device = model.embedding.weight.device
    assert not model.embedding.weight.is_meta, "memory comes first"
    chosen = range(config.bf16_first, model.config.num_layers - config.bf16_last)
    names = [f"blocks.{layer}.{PATHS[linear]}" for layer in chosen for linear in PATHS if linear in config.linears]
    scaling = scaling_of(names, config, device)
    blocks = {layer: _linears(model, layer, config, pieces, scaling) for layer in chosen}
    for layer, linears in blocks.items():
        # nn.Module types its attributes as tensors and modules
        model.blocks[layer].fp8 = linears  # type: ignore[assignment]
    model.fp8 = Fp8State(scaling, blocks)
    return model.fp8


def _linears(model: Llama, layer: int, config: Fp8Config, pieces: Pieces, scaling: Scaling) -> BlockLinears:
    def linear(name: str, path: str) -> Fp8Linear:
        weight = model.blocks[layer].get_submodule(path).weight
        assert isinstance(weight, torch.nn.Parameter)
        chosen = scaling if name in config.linears else None
        return Fp8Linear(f"blocks.{layer}.{path}", weight, pieces, chosen, config)

    return BlockLinears(**{name: linear(name, path) for name, path in PATHS.items()})
