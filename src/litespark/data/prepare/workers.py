"""Units over processes: the parent itself where one is enough, else a pool whose processes never outlive it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import connection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.prepare.unit import METERS, Preparation, UnitWorker
from litespark.data.tokenizer import Tokenizer

_ENDED = 1
_worker: UnitWorker | None = None


def usable_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def process_count(asked: int | None, units: int) -> int:
    """Processes that are worth starting: as asked, or one a core that this process may use; one a unit at most."""
    return max(min(asked or usable_cores(), units), 1)


def shared_meters(units: int) -> tuple[Any, NDArray[np.int64]]:
    """Memory for (units, len(METERS)) counts that all processes see, and the array on it.

    Without a lock: each row has one writer, and a process that is killed holds up nobody.
    """
    memory = multiprocessing.get_context("spawn").RawArray("q", max(units, 1) * len(METERS))
    return memory, _array(memory)


def run_units(
    preparation: Preparation, stage: str, numbers: Sequence[int], memory: Any, tokenizer: Tokenizer | None = None
) -> Iterator[int]:
    """Take units through a stage, in any order; gives the number of each as it is done.

    A tokenizer that is loaded already serves where no process is started.

    Where it ends early, by an error here or in the caller, the processes end at once: what they leave is done again.

    Raises:
        ValueError: what a unit raised first, or a process that ended by itself.
    """
    processes = process_count(preparation.config.processes, len(numbers))
    if processes == 1:
        worker = UnitWorker(preparation, _array(memory), tokenizer)
        for number in numbers:
            worker.run(stage, number)
            yield number
        return
    with _pool(preparation, processes, memory) as pool:
        futures = {pool.submit(_run, stage, number): number for number in numbers}
        try:
            for future in as_completed(futures):
                future.result()
                yield futures[future]
        except BrokenProcessPool as error:
            raise ValueError(
                f"a process that prepared a unit ended by itself ({preparation.prepared}). Where it printed an error, "
                "that is why. Where it did not, most often the machine ran out of memory: set data.processes below "
                f"{processes}, or data.unit_bytes or data.chunk_tokens lower (a new start). What was finished is "
                "kept: the same command continues."
            ) from error


@contextmanager
def _pool(preparation: Preparation, processes: int, memory: Any) -> Iterator[ProcessPoolExecutor]:
    # spawned, not forked: the parent may run threads of torch and of `tokenizers`, which do not survive a fork
    context = multiprocessing.get_context("spawn")
    stop_reader, stop_writer = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(preparation, memory, stop_reader)
    )
    try:
        yield pool
    finally:
        stop_writer.close()  # the processes see it and end
        pool.shutdown(wait=True, cancel_futures=True)
        stop_reader.close()


def _begin(preparation: Preparation, memory: Any, stop: connection.Connection) -> None:
    """The first thing in each process of a pool."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's matter, which then stops this process
    # one thread each: there is a process for every core
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_the_parent, args=(stop,), daemon=True).start()
    _worker = UnitWorker(preparation, _array(memory))


def _end_with_the_parent(stop: connection.Connection) -> None:
    """End this process, whatever it is doing, when the parent says so or is no more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel, stop])
    os._exit(_ENDED)


def _run(stage: str, number: int) -> None:
    assert _worker is not None
    _worker.run(stage, number)


def _array(memory: Any) -> NDArray[np.int64]:
    return np.frombuffer(memory, dtype=np.int64).reshape(-1, len(METERS))
