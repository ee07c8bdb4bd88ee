"""The ranks of a run by role, and the only way for them to agree.

What is on the host goes over gloo: nothing waits for a device, and data may take hours to prepare. Tensors go over the
group of their device, in the order of its work, and the host does not wait.
"""

import copy
import logging
import os
import pickle
import time
from collections.abc import Callable, Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist

from litespark.launch import ALONE, Ranks, started_together

T = TypeVar("T")
log = logging.getLogger(__name__)

PATIENCE = timedelta(days=1)
"""How long a rank waits for another; one that has died is noticed at once."""
SAID_AFTER_SECONDS = 5.0
"""After so long a rank logs what it waits for."""
_POLL_SECONDS = 0.02


class RankError(RuntimeError):
    """Another rank has ended, or failed in a way that only it can show in full."""


class Roles(NamedTuple):
    """In how many ways the ranks of a run differ; the product is their number."""

    replicate: int = 1  # copies of the model
    shard: int = 1  # parts of each copy, gathered where they are computed with
    tensor: int = 1  # parts of each matrix, computed with where they are, by neighbouring ranks on the same data

    @property
    def data(self) -> int:
        """Ranks that differ in their data, over which gradients are averaged."""
        return self.replicate * self.shard


class Mesh:
    """The ranks of a run, made on all of them at the same point, once they have joined; one process needs no group.

    Every method is a collective. `local_rank` is the rank within the machine, `data_rank` that among the ranks that
    differ in their data. Without `roles` each rank has a copy of the model.
    """

    def __init__(self, ranks: Ranks | None = None, roles: Roles | None = None) -> None:
        joined = dist.is_initialized()
        ranks = ranks or (started_together(os.environ) if joined else ALONE)
        self.rank = dist.get_rank() if joined else 0
        self.world_size = dist.get_world_size() if joined else 1
        self.local_rank = ranks.local_rank
        self.is_first = self.rank == 0
        self.roles = roles or Roles(replicate=self.world_size)
        self.data_rank = self.rank // self.roles.tensor
        self._join()

    def _join(self) -> None:
        several = self.world_size > 1
        self._group: Any = dist.new_group(backend="gloo") if several else None
        self._patient: Any = dist.new_group(backend="gloo", timeout=PATIENCE) if several else None

    def apart(self) -> "Mesh":
        """The same ranks, to agree in another thread at the same time."""
        mesh = copy.copy(self)
        mesh._join()
        return mesh

    def sum(self, values: Sequence[int]) -> list[int]:
        """The sums over all ranks of `values`, integers below 2^63."""
        if self._group is None:
            return list(values)
        tensor = torch.tensor(list(values), dtype=torch.int64, device="cpu")
        dist.all_reduce(tensor, group=self._group)
        return [int(value) for value in tensor.tolist()]

    def sum_of_data(self, counts: Sequence[int], flag: bool) -> tuple[list[int], bool]:
        """The sums of `counts` over the ranks that differ in their data, and whether `flag` is set on any rank."""
        *sums, flags = self.sum([*counts, int(flag)])
        return [total // self.roles.tensor for total in sums], flags > 0

    def sum_on_device(self, tensor: torch.Tensor) -> None:
        """Replace `tensor`, of the device of this rank, by its sum over the ranks that differ in their data."""
        if self._group is not None:
            dist.all_reduce(tensor)
        if self.roles.tensor > 1:
            tensor.div_(self.roles.tensor)

    def max_on_device(self, tensor: torch.Tensor) -> None:
        """As `sum_on_device`, with the largest of each value."""
        if self._group is not None:
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)

    def any(self, value: bool) -> bool:
        return self.sum([int(value)]) != [0]

    def all(self, value: bool) -> bool:
        return self.sum([int(value)]) == [self.world_size]

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, in the order of ranks."""
        return self._gathered(value, self._group)

    def from_first(self, make: Callable[[], T], doing: str) -> T:
        """What `make` returns on rank 0, which alone calls it; its error is raised on all ranks.

        The others wait as long as it takes for what `doing` names, such as "the data to be prepared". Where rank 0
        ends, or its error cannot be pickled, they raise a RankError.
        """
        return self.from_ranks([0], make, doing)[0]

    def from_all(self, make: Callable[[], T], doing: str) -> list[T]:
        """What `make` returns on each rank, in the order of ranks; otherwise as `from_first`."""
        return self.from_ranks(range(self.world_size), make, doing)

    def from_ranks(self, working: Collection[int], make: Callable[[], T], doing: str) -> list[T]:
        """What `make` returns on each rank of `working`, at the same time; otherwise as `from_first`."""
        if self._patient is None:
            return [make() for _ in working]
        result = mine = None
        if self.rank in working:
            try:
                result = make()
            except BaseException as error:  # noqa: BLE001 (raised below, after the others are told)
                mine = error
        try:
            self._wait(f"{doing} on rank {', '.join(map(str, working))}")
            answers = self._gathered((result, mine and _for_others(mine, self.rank)), self._patient)
        except (dist.DistError, RuntimeError) as error:
            raise mine or RankError(
                f"lost the connection to the other ranks while waiting for {doing} ({error}); one of them has ended, "
                "and its output has the reason"
            ) from error
        for raised in (mine, *(error for _, error in answers)):
            if raised is not None:
                raise raised
        return [answers[rank][0] for rank in working]  # type: ignore[misc]  # no error: there is a result

    def _wait(self, doing: str) -> None:
        """Wait until every rank is here; in small pieces, between which signals are heard."""
        everybody = dist.barrier(group=self._patient, async_op=True)
        begun = time.monotonic()
        # one line a machine; on that of rank 0, which is often the one at work, it is rank 1's
        says = self.rank == 1 or (self.rank != 0 and self.local_rank == 0)
        while not everybody.is_completed():
            if says and time.monotonic() - begun > SAID_AFTER_SECONDS:
                log.warning("waiting for %s, without a time-out", doing)
                says = False
            time.sleep(_POLL_SECONDS)
        everybody.wait()

    def _gathered(self, value: T, group: Any) -> list[T]:
        if group is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=group)
        return values


def _for_others(error: BaseException, rank: int) -> Exception:
    """The error itself where it can be pickled, else one that names it."""
    if isinstance(error, Exception):
        try:
            pickle.loads(pickle.dumps(error))
            return error
        except Exception as refused:  # noqa: BLE001 (whatever an error's own pickling raises)
            log.debug("%r cannot be pickled: %r", error, refused)
    return RankError(f"rank {rank} stopped: {type(error).__name__}: {error}")
