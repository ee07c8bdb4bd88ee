"""Small agreements between the hosts of a run, without touching a device.

Ranks have to agree on host facts at every step: how many tokens were seen together, whether somebody was told to
stop. Reducing those on the device would make the host wait for it; a gloo group beside the main one does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

PATIENCE = timedelta(days=1)


class HostGroup:
    """All ranks of the run over gloo; a run of one process needs no group and answers itself.

    Create it on every rank at the same point (it is a collective), after the process group exists.
    """

    def __init__(self) -> None:
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        several = self.world_size > 1
        self._group: Any = dist.new_group(backend="gloo") if several else None
        # not over the store of `first_rank`: torchrun holds it, and may be gone when a last checkpoint is written
        self._patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if several else None

    def sum(self, values: Sequence[int]) -> list[int]:
        """The sums over all ranks of `values`, integers below 2^63; a collective."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.int64, device="cpu")
        dist.all_reduce(tensor, group=self._group)
        return [int(value) for value in tensor.tolist()]

    def wait(self) -> None:
        """Wait until every rank is here, for a day: one of them may be hashing what takes it an hour; a collective."""
        if self._patient is not None:
            dist.barrier(group=self._patient)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, in the order of ranks, on every rank; a collective."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values
