"""How a run is spread over devices: Lightning strategies, and the sharding that FSDP2 applies to the model."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Annotated, Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from litespark.config.settings import Switch, settings
from litespark.device import device_of
from litespark.mesh import Roles
from litespark.ranges import Range

Precision = Literal["fp32", "bf16", "fp8"]
Residual = Literal["fp32", "bf16"]


@settings("strategy")
class StrategyConfig:
    """How a run is spread over devices."""

    name: Literal["single", "ddp", "fsdp"] = "single"
    """One device, a copy of the model on each, or parameters, gradients and optimizer states sharded over all (FSDP2);
    a resume changes between `single` and `ddp` only."""
    reshard_after_forward: Switch = True
    """For `fsdp`, free the gathered parameters of a block between forward and backward."""
    timeout_seconds: Annotated[int, Range(at_least=1, at_most=31_536_000, why="a year")] = 1800
    """How long a collective waits for the other ranks before it is an error."""

    def check_world_size(self, world_size: int) -> None:
        """Raise the ValueError for `single` under several processes; the others mean the same with one process."""
        if self.name == "single" and world_size > 1:
            raise ValueError(
                f"strategy=single: got {world_size} processes, expected one; start without torchrun, or choose "
                "strategy=ddp or strategy=fsdp"
            )

    def roles(self, world_size: int) -> Roles:
        """What so many processes are to each other."""
        return Roles(shard=world_size) if self.name == "fsdp" else Roles(replicate=world_size)


def build_strategy(config: StrategyConfig, device: torch.device, world_size: int) -> Strategy:
    """The Lightning strategy for `config` on `device` (of this rank), over `world_size` processes."""
    if config.name == "single":
        return SingleDeviceStrategy(device=device)
    group: dict[str, Any] = {
        "process_group_backend": dist.get_default_backend_for_device(device),
        "timeout": timedelta(seconds=config.timeout_seconds),
    }
    if config.name == "ddp":
        # one bucket view instead of a second copy of the gradients
        return DDPStrategy(gradient_as_bucket_view=True, **group)
    roles = config.roles(world_size)
    return ModelParallelStrategy(roles.shard, roles.tensor, save_distributed_checkpoint=False, **group)


def shard_model(
    model: nn.Module, blocks: Iterable[nn.Module], mesh: DeviceMesh, config: StrategyConfig, precision: Precision
) -> None:
    """Shard a meta model over a one-dimensional mesh, in place (FSDP2): a block is a unit, the rest one more.

    With bf16 the gathered copies are bf16 and the masters stay fp32; gradients are reduced in fp32. Activations are
    autocast, as under the other strategies, and not cast between the units: the residual stream keeps its dtype.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if precision == "bf16" else None,
        reduce_dtype=torch.float32 if precision == "bf16" else None,
        cast_forward_inputs=False,
    )
    for unit in (*blocks, model):
        fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=config.reshard_after_forward)


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Of all activations that are not in fp8, with which they are fp32 on CPUs: it is simulated, and bf16 is slow."""
    bf16 = precision == "bf16" or (precision == "fp8" and device_of(device).is_accelerator)
    return torch.bfloat16 if bf16 else torch.float32


def residual_dtype(residual: Residual, precision: Precision, device: torch.device) -> torch.dtype:
    """Of the residual stream: a choice where the other activations are bf16."""
    narrow = residual == "bf16" and activation_dtype(precision, device) == torch.bfloat16
    return torch.bfloat16 if narrow else torch.float32


def lightning_precision(precision: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's name for `precision`; bf16-mixed is autocast."""
    return "bf16-mixed" if activation_dtype(precision, device) == torch.bfloat16 else "32-true"


def forward_context(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """What the Trainer puts around the forward pass: Lightning 2.6.6 autocasts without a cache, or not at all."""
    mixed = lightning_precision(precision, device) == "bf16-mixed"
    return device_of(device).autocast(torch.bfloat16, cached=False) if mixed else nullcontext()
