"""The Lightning strategy of a run."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import (
    DDPStrategy,
    ModelParallelStrategy,
    ParallelStrategy,
    SingleDeviceStrategy,
    Strategy,
)

from litespark.mesh import Roles
from litespark.training.checkpoint.strategy import SavesByName
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.sharding import device_mesh, hold_back_gradients


class AloneStrategy(SavesByName, SingleDeviceStrategy):
    """One device."""


class CopiesStrategy(SavesByName, DDPStrategy):
    """A copy of the model on each device."""


class MeshStrategy(SavesByName, ModelParallelStrategy):
    """FSDP2 and tensor parallelism over one device mesh of three dimensions: `replicate`, `shard`, `tensor`.

    Lightning's own mesh has two, sums over ranks in every micro-batch, and has no copies of a sharded model.
    """

    def __init__(self, config: StrategyConfig, roles: Roles, **group: Any) -> None:
        super().__init__(roles.shard, roles.tensor, **group)
        self._config, self._roles = config, roles

    def setup_environment(self) -> None:
        ParallelStrategy.setup_environment(self)
        self._setup_distributed()
        self._device_mesh = device_mesh(self._roles, self.root_device)
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        return {}  # the data module gives each rank its rows

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Around a micro-batch that is not the last of its step."""
        assert self.model is not None
        hold_back_gradients(self.model, held=True, config=self._config)
        try:
            yield
        finally:
            hold_back_gradients(self.model, held=False, config=self._config)


def build_strategy(config: StrategyConfig, device: torch.device, roles: Roles) -> Strategy:
    """The Lightning strategy for `config` on `device` (of this rank), over the ranks of `roles`."""
    if config.name == "single":
        return AloneStrategy(device=device)
    group: dict[str, Any] = {
        "process_group_backend": dist.get_default_backend_for_device(device),
        "timeout": timedelta(seconds=config.timeout_seconds),
    }
    if config.name == "ddp":
        # one bucket view instead of a second copy of the gradients; buffers are tables, the same on every rank
        return CopiesStrategy(gradient_as_bucket_view=True, broadcast_buffers=False, **group)
    return MeshStrategy(config, roles, **group)
