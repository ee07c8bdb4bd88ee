"""One of several processes that train together and count what they send; writes FOLDER/rank-R.pt."""

import logging
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist

from litespark.benchmarks.traffic.collectives import Sent
from litespark.benchmarks.traffic.counting import TrafficMode
from litespark.training.parallel.config import StrategyConfig
from tests.training.small_runs import batches, small_run, training_module

ACCUMULATE = 3
# of which rows do not divide by the ranks
SIZES = {
    "num_layers": 2, "hidden_size": 9, "head_dim": 4, "num_heads": 4, "num_kv_heads": 4, "intermediate_size": 16,
    "vocab_size": 32,
}  # fmt: skip
SEQUENCES = 2  # of a micro-batch
# DDP finds its buckets in the first
_COUNTED_STEP = 3
CASES: dict[str, dict[str, Any]] = {
    "ddp": {"name": "ddp"},
    "fsdp": {"name": "fsdp", "precision": "bf16", "recompute": "full"},
    "fsdp whole": {"name": "fsdp", "accumulate": "whole"},
    "tp": {"name": "tp", "precision": "bf16", "recompute": "full"},
}
# of four ranks
MORE_CASES: dict[str, dict[str, Any]] = {
    "fsdp keeps": {"name": "fsdp", "reshard_after_forward": False},
    "hsdp": {"name": "hsdp", "shard": 2},
    "hsdp whole": {"name": "hsdp", "shard": 2, "accumulate": "whole", "precision": "bf16", "reduce_dtype": "bf16"},
    "fsdp_tp": {"name": "fsdp_tp", "tensor": 2},
    "fsdp_tp of copies": {
        "name": "fsdp_tp", "tensor": 2, "shard": 1, "accumulate": "whole", "precision": "bf16", "recompute": "full",
    },
}  # fmt: skip


class Counts(pl.Callback):
    """Counts the last step."""

    def __init__(self) -> None:
        self.stack = ExitStack()
        self.mode: TrafficMode | None = None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_taken == _COUNTED_STEP - 1 and self.mode is None:
            self.mode = TrafficMode(pl_module.model.parameters(), tokens=1, pairs=1)
            self.stack.enter_context(self.mode.counting())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_taken == _COUNTED_STEP:
            self.stack.close()


def sent(folder: Path, *, precision: str = "fp32", recompute: str = "none", **settings: Any) -> list[Sent]:
    folder.mkdir(parents=True, exist_ok=True)
    strategy, world_size = StrategyConfig(**settings), dist.get_world_size()
    module = training_module(
        steps=_COUNTED_STEP, sequences=strategy.roles(world_size).data * ACCUMULATE * SEQUENCES, strategy=strategy,
        precision=precision, recompute=recompute, **SIZES,
    )  # fmt: skip
    counts = Counts()
    run = small_run(
        folder, module, accumulate=ACCUMULATE, strategy=strategy, devices=world_size, precision=precision,
        callbacks=[counts],
    )  # fmt: skip
    # as `litespark.callbacks.signals` has it in every run
    run.trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
    run.trainer.fit(module, batches(SEQUENCES, module.mesh, vocab_size=SIZES["vocab_size"]))
    assert counts.mode is not None
    return [one for phase in counts.mode.phases for one in phase.sent]


def report(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    rank, cases = dist.get_rank(), CASES | (MORE_CASES if dist.get_world_size() == 4 else {})
    counted = {case: [tuple(one) for one in sent(folder / f"{case} {rank}", **cases[case])] for case in cases}
    torch.save(counted, folder / f"rank-{rank}.pt")
    dist.destroy_process_group()
