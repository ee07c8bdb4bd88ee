"""The device mesh of a run, and the sharding that FSDP2 applies to a model over it."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from litespark.mesh import Roles
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import Precision

DIMENSIONS = Roles._fields
"""Of the device mesh, the slowest first: tensor ranks are neighbours, and see the same data."""


def device_mesh(roles: Roles, device: torch.device) -> DeviceMesh:
    """All ranks by role, over devices of the kind of `device`; a collective."""
    return init_device_mesh(device.type, tuple(roles), mesh_dim_names=DIMENSIONS)


def shard_model(
    model: nn.Module, blocks: Sequence[nn.Module], mesh: DeviceMesh, config: StrategyConfig, precision: Precision
) -> None:
    """Shard a meta model over the ranks of `mesh` that shard it, in place (FSDP2): a block is a unit, the rest one
    more. Over several copies (`replicate`) gradients are summed within a copy, and then across them.

    With bf16 the gathered parameters are bf16 and the masters stay fp32. Activations are autocast, as under the other
    strategies, and not cast between the units: the residual stream keeps its dtype.
    """
    bf16 = precision == "bf16"
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        reduce_dtype=getattr(torch, {"fp32": "float32", "bf16": "bfloat16"}[config.reduce_dtype]) if bf16 else None,
        cast_forward_inputs=False,
    )
    over = mesh["shard"] if mesh["replicate"].size() == 1 else mesh["replicate", "shard"]
    # what the next micro-batch needs whole is there already in the first one's backward pass
    frees = config.reshard_after_forward and config.accumulate != "whole"
    for unit in (*blocks, model):
        fully_shard(unit, mesh=over, mp_policy=policy, reshard_after_forward=frees)
    if (depth := config.prefetch) > 1:  # one is what FSDP2 does by itself
        for index, block in enumerate(blocks):
            assert isinstance(block, FSDPModule)
            block.set_modules_to_forward_prefetch(blocks[index + 1 : index + 1 + depth])  # type: ignore[arg-type]
            block.set_modules_to_backward_prefetch(blocks[max(0, index - depth) : index][::-1])  # type: ignore[arg-type]


def hold_back_gradients(model: nn.Module, *, held: bool, config: StrategyConfig) -> None:
    """Before a micro-batch that is not the last of its step (`held`), and before the last: what FSDP2 sends in it.

    Copies are summed once a step in any case; with `accumulate=whole` shards too, and parameters stay gathered.
    """
    for module in model.modules():
        if not isinstance(module, FSDPModule):
            continue
        if config.accumulate == "whole":
            module.set_requires_gradient_sync(not held, recurse=False)
            module.set_reshard_after_backward(not held, recurse=False)
        else:
            module.set_requires_all_reduce(not held, recurse=False)
