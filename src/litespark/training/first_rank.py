"""What one rank does alone before the training, and how the others wait for it: as long as it takes.

A collective has a time-out, which a preparation of hours would outlast. So the result comes over the store of the
process group, where waiting has no end by itself: it ends with the result, with the error of that rank, or when it
has given no sign of life for a while.
"""

from __future__ import annotations

import itertools
import logging
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from litespark.launch import started_together

T = TypeVar("T")
log = logging.getLogger(__name__)

BEAT_SECONDS = 5.0
"""Between two signs of life of a rank at work."""
SILENT_SECONDS = 300.0
"""Without one it is taken for dead."""
SAID_AFTER_SECONDS = 5.0
"""Whoever waits longer names what for."""
_POLL_SECONDS = 0.2
# never reset: after a process group is made anew, the store may hold what was sent over the one before
_numbers = itertools.count()


class RankError(RuntimeError):
    """The rank that is waited for has ended, or failed in a way that only it can show in full."""


def from_first(make: Callable[[], T], doing: str) -> T:
    """What `make` returns on rank 0, on every rank; every rank calls it, and an error of rank 0 is raised on all.

    Args:
        make: called on rank 0 alone; its result or its error is pickled for the others.
        doing: what the others wait for, such as "the data to be prepared".

    Raises:
        RankError: on the others, where rank 0 gives no sign of life or its error cannot be pickled.
    """
    return from_ranks([0], make, doing)[0]


def from_ranks(working: Sequence[int], make: Callable[[], T], doing: str) -> list[T]:
    """What `make` returns on each rank of `working`, at the same time, on every rank; otherwise as `from_first`."""
    number = next(_numbers)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [make() for _ in working]
    store = dist.distributed_c10d._get_default_store()  # the public way would be to make a second one
    keys = {rank: f"litespark/from_ranks/{number}/{rank}" for rank in working}
    mine = dist.get_rank()
    if mine in keys:
        own = _send(store, keys[mine], make)
    # one line a machine; on that of rank 0, which is at work itself, it is rank 1's
    says = started_together(os.environ).local_rank == 0 or mine == 1
    return [own if rank == mine else _receive(store, key, f"{doing} on rank {rank}", says=says)
            for rank, key in keys.items()]  # fmt: skip


def _send(store: dist.Store, key: str, make: Callable[[], T]) -> T:
    try:
        with _signs_of_life(store, f"{key}/alive"):
            result = make()
    except BaseException as error:
        store.set(key, _pickled_error(error))  # type: ignore[arg-type]  # bytes are taken too
        raise
    store.set(key, pickle.dumps((result, None)))  # type: ignore[arg-type]
    return result


def _receive(store: dist.Store, key: str, doing: str, *, says: bool) -> Any:
    begun = seen = time.monotonic()
    life = b""
    try:
        while not store.check([key]):
            now = time.monotonic()
            if says and now - begun > SAID_AFTER_SECONDS:
                log.warning("waiting for %s, without a time-out", doing)
                says = False
            if store.check([f"{key}/alive"]) and (latest := store.get(f"{key}/alive")) != life:
                life, seen = latest, now
            if now - seen > SILENT_SECONDS:
                raise RankError(
                    f"no sign of life for {now - seen:.0f} s while waiting for {doing}; the output of that rank has "
                    "the reason"
                )
            time.sleep(_POLL_SECONDS)
        result, error = pickle.loads(store.get(key))
    except dist.DistError as error:
        raise RankError(
            f"lost the connection to the other ranks while waiting for {doing} ({error}); that rank has ended, "
            "and its output has the reason"
        ) from error
    if error is not None:
        raise error
    return result


def _pickled_error(error: BaseException) -> bytes:
    """The error for the other ranks: itself where it can be pickled, else one that names it."""
    if isinstance(error, Exception):
        try:
            content = pickle.dumps((None, error))
            pickle.loads(content)
            return content
        except Exception as refused:  # noqa: BLE001 (whatever an error's own pickling raises)
            log.debug("%r cannot be pickled: %r", error, refused)
    return pickle.dumps((None, RankError(f"rank {dist.get_rank()} stopped: {type(error).__name__}: {error}")))


@contextmanager
def _signs_of_life(store: dist.Store, key: str) -> Iterator[None]:
    ended = threading.Event()

    def beat() -> None:
        for count in itertools.count():
            store.set(key, str(count))
            if ended.wait(BEAT_SECONDS):
                return

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
