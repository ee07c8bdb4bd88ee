"""How much memory the training state takes: the part that is exact before anything is built."""

import dataclasses
import math

import torch

from litespark.models.spec import ModelSpec, TakesFp8
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.settings import Fp8Config
from litespark.training.optim import MuonConfig, OptimizerConfig

# fp32 master weight, fp32 gradient, two fp32 moments of AdamW
STATE_BYTES_PER_PARAMETER = 16
# Muon has one moment and no second
_MOMENT_BYTES = 4
# beside its master a weight of a block in fp8 is held twice, one byte each, for the product forward and for that of the
# gradient, or, where its layer is not in fp8, once in bf16
_FP8_BYTES = 2


def training_state_bytes(
    config: ModelSpec, shards: int = 1, optimizer: OptimizerConfig | None = None, fp8: Fp8Config | None = None
) -> int:
    """Bytes of weights, gradients and optimizer states on each of `shards` devices; activations come on top.

    `optimizer` None: AdamW. `fp8`: of which blocks the weights are kept beside their masters as they are multiplied.
    """
    whole = config.parameter_count() * STATE_BYTES_PER_PARAMETER
    if isinstance(optimizer, MuonConfig):
        from litespark.training.optim.muon import block_matrices  # only where it is chosen

        with torch.device("meta"):
            model = config.build(resolve(OpsConfig()), "none")
        whole -= _MOMENT_BYTES * sum(matrix.numel() for matrix in block_matrices(model))
    if fp8 is not None and isinstance(config, TakesFp8):
        blocks = config.num_layers - fp8.bf16_first - fp8.bf16_last
        whole += _FP8_BYTES * blocks * sum(map(math.prod, config.linear_shapes().values()))
    return -(-whole // shards)


def layers_that_fit(config: ModelSpec, memory: int, share: float = 0.8) -> int:
    """How many layers, with embedding and head, have their state within a share of `memory` bytes; at least 1."""
    counts = range(config.num_layers, 1, -1)
    cut = (dataclasses.replace(config, num_layers=layers) for layers in counts)
    return next((model.num_layers for model in cut if training_state_bytes(model) <= share * memory), 1)
