"""Units over processes: the parent itself where one is enough, else a pool whose processes never outlive it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litespark.data.prepare.plan import Plan
from litespark.data.prepare.unit import METERS, UnitWorker
from litespark.data.text.splits import SplitRule

_worker: UnitWorker | None = None


def usable_cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def shared_meters(units: int) -> tuple[Any, NDArray[np.int64]]:
    """Memory for (units, len(METERS)) counts that all processes see, without a lock since each row has one writer."""
    memory = multiprocessing.get_context("spawn").RawArray("q", max(units, 1) * len(METERS))
    return memory, _array(memory)


def run_units(
    plan: Plan, rule: SplitRule | None, scratch: Path, stage: str, numbers: Sequence[int], memory: Any
) -> None:
    """Take units through a stage, in any order, in as many processes as is asked for or as there are cores.

    Where it ends early, the processes end at once: what they leave is done again. ValueError: what a unit raised first,
    or a process that ended by itself.
    """
    processes = min(plan.config.processes or usable_cores(), len(numbers))
    if processes <= 1:
        worker = UnitWorker(plan, rule, scratch, _array(memory))
        for number in numbers:
            worker.run(stage, number)
        return
    # spawned, not forked: the parent may run threads of torch and of `tokenizers`, which do not survive a fork
    context = multiprocessing.get_context("spawn")
    stop_reader, stop_writer = context.Pipe(duplex=False)
    task = (replace(plan, tokenizer=None), rule, scratch, memory, stop_reader)
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=task)
    try:
        for future in as_completed([pool.submit(_run, stage, number) for number in numbers]):
            future.result()
    except BrokenProcessPool as error:
        raise ValueError(
            f"a process that prepared a unit ended by itself ({plan.place}), most often because the machine ran out of "
            f"memory: set data.processes below {processes}, or data.unit_bytes or data.chunk_tokens lower. "
            "What was finished is kept: the same command continues."
        ) from error
    finally:
        stop_writer.close()  # the processes see it and end
        pool.shutdown(wait=True, cancel_futures=True)
        stop_reader.close()


def _begin(plan: Plan, rule: SplitRule | None, scratch: Path, memory: Any, stop: connection.Connection) -> None:
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's matter, which then stops this process
    # one thread each: there is a process for every core
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["RAYON_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_the_parent, args=(stop,), daemon=True).start()
    _worker = UnitWorker(plan, rule, scratch, _array(memory))


def _end_with_the_parent(stop: connection.Connection) -> None:
    """End this process, whatever it is doing, when the parent closes the pipe or is no more."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel, stop])
    os._exit(1)


def _run(stage: str, number: int) -> None:
    assert _worker is not None
    _worker.run(stage, number)


def _array(memory: Any) -> NDArray[np.int64]:
    return np.frombuffer(memory, dtype=np.int64).reshape(-1, len(METERS))
