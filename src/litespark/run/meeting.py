"""The store in which the ranks of one start meet: torchrun keeps its own over restarts, with what ranks left."""

import time
from datetime import timedelta
from uuid import uuid4

import torch.distributed as dist

from litespark.launch import Ranks

_POLL_SECONDS = 0.01


def meet(ranks: Ranks, timeout: timedelta) -> dist.Store:
    """A store that is new and the same for all ranks of this start, which wait here for each other.

    The number of the restart would not tell starts apart: with several machines torchrun counts on each by itself.

    Raises:
        dist.DistError: they are not all there within `timeout`.
    """
    store, _, _ = next(dist.rendezvous("env://", ranks.rank, ranks.world_size, timeout=timeout))
    store.set_timeout(timeout)
    start = _lead(store, ranks.world_size, timeout) if ranks.rank == 0 else _follow(store, ranks.rank)
    return dist.PrefixStore(start, store)


def _lead(store: dist.Store, world_size: int, timeout: timedelta) -> str:
    """Name this start to each rank that asks, until all have heard it; what dead ranks asked is answered for nobody."""
    start, answered, missing = uuid4().hex, set(), set(range(1, world_size))
    deadline = time.monotonic() + timeout.total_seconds()
    while missing:
        for rank in sorted(missing):
            if store.check([f"asks/{rank}"]) and (asker := store.get(f"asks/{rank}").decode()) not in answered:
                store.set(f"start/{asker}", start)
                answered.add(asker)
        missing = {rank for rank in missing if not store.check([f"heard/{start}/{rank}"])}
        if missing and time.monotonic() > deadline:
            raise dist.DistStoreError(f"rank {', '.join(map(str, sorted(missing)))} did not come")
        time.sleep(_POLL_SECONDS if missing else 0)
    return start


def _follow(store: dist.Store, rank: int) -> str:
    asker = uuid4().hex
    store.set(f"asks/{rank}", asker)
    start = store.get(f"start/{asker}").decode()
    store.set(f"heard/{start}/{rank}", "")
    return start
