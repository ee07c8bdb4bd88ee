"""Joins the processes of a run, and gives Lightning their ranks, so that it asks no launcher itself."""

import logging
import os
from dataclasses import replace
from datetime import timedelta

import torch.distributed as dist
from lightning.fabric.plugins.environments import ClusterEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from litespark.device import device_of
from litespark.launch import Ranks, meeting_point
from litespark.mesh import Mesh
from litespark.run.meeting import meet
from litespark.run.preflight import Machine
from litespark.run.targets import ConfigError
from litespark.training.parallel.config import StrategyConfig


def join_processes(machine: Machine, strategy: StrategyConfig) -> Machine:
    """The machine with the mesh of all ranks, which join before anything is agreed on; Lightning uses their group."""
    ranks, device = machine.ranks, machine.device
    # Lightning took it from the variables of launchers when it was imported; rank 0 alone writes
    rank_zero_only.rank = ranks.rank  # type: ignore[attr-defined]
    if ranks.rank > 0:
        logging.getLogger().setLevel(logging.WARNING)
    device_of(device).use()
    if ranks.world_size > 1 and not dist.is_initialized():
        place = meeting_point(ranks, os.environ)
        os.environ.update(place)
        backend, timeout = dist.get_default_backend_for_device(device), timedelta(seconds=strategy.timeout_seconds)
        try:
            store = meet(ranks, timeout)
            dist.init_process_group(backend, timeout=timeout, rank=ranks.rank, world_size=ranks.world_size, store=store)
        except (dist.DistNetworkError, dist.DistStoreError) as error:
            raise ConfigError(
                f"rank {ranks.rank} of {ranks.world_size} did not meet the others at {place['MASTER_ADDR']} port "
                f"{place['MASTER_PORT']} ({str(error).splitlines()[0]}), expected all of them there within "
                f"strategy.timeout_seconds={strategy.timeout_seconds}; start all processes, and if the port is "
                "taken: export MASTER_PORT=29501"
            ) from error
    return replace(machine, mesh=Mesh(ranks, strategy.roles(ranks.world_size, ranks.local_world_size)))


def part_processes(ranks: Ranks, *, finished: bool) -> None:
    """Leave them, since a sweep starts the next job in this process; after an error others may not be there to join."""
    if dist.is_initialized() and (finished or ranks.world_size == 1):
        dist.destroy_process_group()


class StartedRanks(ClusterEnvironment):
    """What Lightning asks of a cluster, answered from our ranks."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        return True

    @property
    def main_address(self) -> str:
        return os.environ.get("MASTER_ADDR", "127.0.0.1")

    @property
    def main_port(self) -> int:
        return int(os.environ.get("MASTER_PORT", "0"))

    @staticmethod
    def detect() -> bool:
        return False  # given to the Trainer, never found by it

    def world_size(self) -> int:
        return self._ranks.world_size

    def set_world_size(self, size: int) -> None:
        """Decided before."""

    def global_rank(self) -> int:
        return self._ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """Decided before; what Lightning computes takes all machines to have equally many processes."""

    def local_rank(self) -> int:
        return self._ranks.local_rank

    def node_rank(self) -> int:
        return self._ranks.rank // self._ranks.local_world_size
