"""Processes forked from one that has imported what a run needs: importing takes most of the time of a short one.

Each is a session of its own, with its own environment and a file for what it prints. A process that imports by itself
and ranks that torchrun starts are in tests/end_to_end too: what differs between the two is tested there.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.warm_imports"])


def train_py(*overrides: str) -> None:
    """What `python train.py` does."""
    sys.argv = ["train.py", *overrides]
    runpy.run_path("train.py", run_name="__main__")


@contextmanager
def started(
    work: Callable[..., object], *arguments: object, output: Path, environment: Mapping[str, str] = os.environ
) -> Iterator[ForkServerProcess]:
    """Calls `work`, a function of a module, in a process of its own, of which nothing is left in the end."""
    process = _FORKS.Process(target=_run, args=(work, arguments, output, dict(environment)))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def run_ranks(count: int, work: Callable[..., object], *arguments: object, timeout: float = 300) -> None:
    """Calls it in as many processes, with the environment that torchrun gives its ranks; fails if one of them does."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "GROUP_RANK": 0, "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "OMP_NUM_THREADS": 1}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        outputs = [Path(folder) / f"{rank}.txt" for rank in range(count)]
        ranks = []
        for rank, output in enumerate(outputs):
            own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
            ranks.append(
                stack.enter_context(started(work, *arguments, output=output, environment={**os.environ, **own}))
            )
        for rank in ranks:
            rank.join(timeout)
        said = "\n".join(output.read_text(errors="replace") for output in outputs)
        assert [rank.exitcode for rank in ranks] == [0] * count, said


def _run(work: Callable[..., object], arguments: tuple[object, ...], output: Path, environment: dict[str, str]) -> None:
    import torch

    assert "litespark.run.train" in sys.modules, "nothing was imported before"
    os.setsid()
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", torch.get_num_threads())))
    os.chdir(ROOT)
    work(*arguments)
