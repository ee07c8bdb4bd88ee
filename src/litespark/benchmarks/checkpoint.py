"""What a checkpoint costs on this disk: `python -m litespark.benchmarks.checkpoint model=llama160m`, in one process.

Weights and the states of AdamW of a model are written by this project, by it in the background, by `torch.save`, and by
`torch.distributed.checkpoint` as they come, each several times in turn. A row has the median seconds that a step waits
and until all is on the disk, bytes, and the most memory that a write takes beside the state. What PyTorch writes is
flushed to the disk after it, as ours is; ours is also hashed, theirs is not.
"""

import logging
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch
import torch.distributed.checkpoint as dcp

from litespark.atomic import flush_tree
from litespark.mesh import Mesh
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.composing import compose_parts
from litespark.training.checkpoint.background import Background
from litespark.training.checkpoint.keep import Keep
from litespark.training.checkpoint.state import OPTIMIZERS, WEIGHTS, prepare, write

ROUNDS = 3


class Cost(NamedTuple):
    """Of one write: seconds a step waits, seconds until it is on the disk, bytes there, bytes of memory beside."""

    waits: float
    done: float
    size: int
    memory: int


def state_of(overrides: list[str]) -> dict[str, Any]:
    """Weights of a model and states as AdamW has them, random numbers on the CPU."""
    model = compose_parts(overrides).model.build(resolve(OpsConfig()), "none")
    weights = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    states = {
        name.removeprefix("model."): {"exp_avg": torch.randn_like(weight), "exp_avg_sq": torch.rand_like(weight)}
        for name, weight in weights.items()
    }
    return {WEIGHTS: weights, OPTIMIZERS: [{"state": states}]}


def measured(save: Callable[[Path], Callable[[], object]], place: Path) -> Cost:
    """The cost of `save`, which returns what waits until all is written."""
    process, peak, ended = psutil.Process(), 0, threading.Event()
    before = process.memory_info().rss - process.memory_info().shared

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.005):
            memory = process.memory_info()
            peak = max(peak, memory.rss - memory.shared)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    begun = time.perf_counter()
    wait = save(place)
    waits = time.perf_counter() - begun
    wait()
    done = time.perf_counter() - begun
    ended.set()
    watching.join()
    size = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    shutil.rmtree(place)
    return Cost(waits, done, size, max(0, peak - before))


def ways(state: dict[str, Any]) -> dict[str, Callable[[Path], Callable[[], object]]]:
    """Each takes a place, and returns what waits until all is written there."""
    mesh, keep = Mesh(), Keep(1)
    background = Background(mesh)  # its copy is made in the first write, and used again

    def ours(place: Path) -> Callable[[], object]:
        write(mesh, place, 1, state, {}, keep)
        return lambda: None

    def ours_in_background(place: Path) -> Callable[[], object]:
        background.start(prepare(mesh, place, 1, state, {}, keep))
        return background.wait

    def torch_save(place: Path) -> Callable[[], object]:
        place.mkdir()
        torch.save(state, place / "state.pt")
        flush_tree(place)
        return lambda: None

    def dcp_save(place: Path) -> Callable[[], object]:
        dcp.save(state, checkpoint_id=place, no_dist=True)
        flush_tree(place)
        return lambda: None

    return {"litespark": ours, "litespark, in the background": ours_in_background, "torch.save": torch_save,
            "torch.distributed.checkpoint": dcp_save}  # fmt: skip


def main(overrides: list[str]) -> None:
    logging.getLogger("torch").setLevel(logging.ERROR)
    state = state_of(overrides)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR"), prefix="litespark-checkpoint-") as folder:
        costs: dict[str, list[Cost]] = {}
        all_ways = ways(state)
        for _ in range(ROUNDS):
            for name, save in all_ways.items():
                costs.setdefault(name, []).append(measured(save, Path(folder) / "checkpoints"))
    print(f"{'':30} {'step waits':>12} {'on the disk':>12} {'bytes':>10} {'memory':>10}")
    for name, of_way in costs.items():
        waits, done, size, _ = (statistics.median(column) for column in zip(*of_way, strict=True))
        memory = max(cost.memory for cost in of_way)
        print(f"{name:30} {waits:10.2f} s {done:10.2f} s {size / 1e9:7.2f} GB {memory / 1e9:7.2f} GB")


if __name__ == "__main__":
    main(sys.argv[1:])
