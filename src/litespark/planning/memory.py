"""How much memory the training state takes: the part that is exact before anything is built."""

import math

import torch

from litespark.models.spec import ModelSpec, TakesFp8, with_layers
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.settings import Fp8Config
from litespark.training.optim import MuonConfig, OptimizerConfig

# fp32 master weight, fp32 gradient, two fp32 moments of AdamW
STATE_BYTES_PER_PARAMETER = 16
WEIGHT_BYTES = 4
# Muon has one moment and no second
_MOMENT_BYTES = 4
# beside its master a weight of a block is held in bf16; in fp8 twice, one byte each, for the product forward and for
# that of the gradient
_CAST_BYTES = 2


def training_state_bytes(
    config: ModelSpec,
    shards: int = 1,
    optimizer: OptimizerConfig | None = None,
    fp8: Fp8Config | None = None,
    *,
    keeps_casts: bool = False,
    trained: int | None = None,
    reference: bool = False,
) -> int:
    """Bytes of weights, gradients and optimizer states on each of `shards` devices; activations come on top.

    `optimizer` None: AdamW. `fp8`: of which blocks the weights are kept beside their masters as they are multiplied;
    `keeps_casts`: those of all others are kept in bf16. `trained`: the parameters of an adapter, beside which the
    model is frozen, and with `keeps_casts` in bf16 alone. `reference`: the weights of a second model are there, which
    is never trained.
    """
    whole = config.parameter_count() * STATE_BYTES_PER_PARAMETER
    if trained is not None:
        whole = config.parameter_count() * WEIGHT_BYTES + trained * STATE_BYTES_PER_PARAMETER
    if isinstance(optimizer, MuonConfig):
        from litespark.training.optim.muon import block_matrices  # only where it is chosen

        with torch.device("meta"):
            model = config.build(resolve(OpsConfig()), "none")
        whole -= _MOMENT_BYTES * sum(matrix.numel() for matrix in block_matrices(model))
    if isinstance(config, TakesFp8) and (keeps_casts or fp8 is not None):
        others = 0 if fp8 is None or keeps_casts else fp8.bf16_first + fp8.bf16_last
        beside = _CAST_BYTES if trained is None else _CAST_BYTES - WEIGHT_BYTES
        whole += beside * (config.num_layers - others) * sum(map(math.prod, config.linear_shapes().values()))
    if reference:
        whole += config.parameter_count() * WEIGHT_BYTES
    return -(-whole // shards)


def layers_that_fit(config: ModelSpec, memory: int, share: float = 0.8) -> int:
    """How many layers, with embedding and head, have their state within a share of `memory` bytes; at least 1."""
    counts = range(config.num_layers, 1, -1)
    cut = (with_layers(config, layers) for layers in counts)
    return next((model.num_layers for model in cut if training_state_bytes(model) <= share * memory), 1)
