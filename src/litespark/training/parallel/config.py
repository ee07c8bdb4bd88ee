"""The settings of a strategy, and the roles that they give to the ranks of a run."""

from typing import Annotated, Literal

from litespark.config.settings import Switch, settings
from litespark.mesh import Roles
from litespark.ranges import Count, Range


@settings("strategy")
class StrategyConfig:
    """How a run is spread over devices."""

    name: Literal["single", "ddp", "fsdp", "hsdp", "tp", "fsdp_tp"] = "single"
    """`single`: one device. `ddp`: a copy of the model on each. `fsdp`: parameters, gradients and optimizer states
    sharded over all (FSDP2). `hsdp`: sharded over `shard` devices, by default those of a machine, and copied across.
    `tp`: every matrix computed in parts by all devices on the same data (tensor and sequence parallel). `fsdp_tp`:
    matrices in parts over `tensor` devices, by default those of a machine, and sharded across."""
    shard: Count | None = None
    """For `hsdp` and `fsdp_tp`, how many ranks share one copy of the model's shards; null is the processes of a machine
    for `hsdp`, and all that `tensor` leaves for `fsdp_tp`."""
    tensor: Count | None = None
    """For `fsdp_tp`, how many neighbouring ranks compute each matrix together; null is the processes of a machine."""
    reshard_after_forward: Switch = True
    """Where parameters are sharded, free the gathered ones of a block between forward and backward; not with
    `accumulate=whole`."""
    accumulate: Literal["sharded", "whole"] = "sharded"
    """Where parameters are sharded, how the micro-batches of a step add up their gradients: `sharded` gathers and
    reduces in each; `whole` keeps gathered weights and whole gradients between them, which takes the memory of both and
    gathers in the first alone and reduces in the last."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Where parameters are sharded and computed with in bf16, the dtype in which gradients are summed over ranks."""
    prefetch: Annotated[int, Range(at_least=1, at_most=16)] = 1
    """Where parameters are sharded, how many blocks ahead of the one that computes are gathered."""
    timeout_seconds: Annotated[int, Range(at_least=1, at_most=31_536_000, why="a year")] = 1800
    """How long a collective waits for the other ranks before it is an error."""

    hang_seconds: Annotated[int, Range(at_least=1, at_most=31_536_000, why="a year")] | None = 600
    """Of several ranks, how long one may take for a micro-batch before it counts as hung: each then writes its stacks
    and ends, well before the time-out of a collective. Null: never."""

    @property
    def shards(self) -> bool:
        """Whether FSDP2 has the parameters, as DTensors; else every rank has them whole."""
        return self.name not in ("single", "ddp")

    def roles(self, world_size: int, local_world_size: int | None = None) -> Roles:
        """What so many processes are to each other, with `local_world_size` on each machine (None: all on one); a
        ValueError where there is no such division of them."""
        local = local_world_size or world_size
        if self.name == "single" and world_size > 1:
            raise ValueError(
                f"strategy=single: got {world_size} processes, expected one; start without torchrun, or choose "
                "strategy=ddp or strategy=fsdp"
            )
        match self.name:
            case "single" | "ddp":
                return Roles(replicate=world_size)
            case "fsdp":
                return Roles(shard=world_size)
            case "tp":
                return Roles(tensor=world_size)
            case "hsdp":
                shard, tensor = self.shard or local, 1
            case "fsdp_tp":
                tensor = self.tensor or local
                self._check_divides("tensor", tensor, world_size)
                shard = self.shard or world_size // tensor
        self._check_divides("shard", shard, world_size // tensor)
        return Roles(world_size // (shard * tensor), shard, tensor)

    def _check_divides(self, key: str, size: int, ranks: int) -> None:
        if ranks % size:
            fitting = max(n for n in range(1, size + 1) if ranks % n == 0)
            raise ValueError(
                f"strategy.{key}: got {size}, expected a number that divides the {ranks} processes that it is a part "
                f"of; set strategy.{key}={fitting}, or start another number of processes"
            )
