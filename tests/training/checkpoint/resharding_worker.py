"""Runs that save under every strategy, and that go on from what another one saved, as a rank takes part in them."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch.distributed as dist

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.training.module import TrainingModule
from litespark.training.parallel.config import StrategyConfig
from tests.training.small_runs import batches, small_run, training_module
from tests.training.strategy_grid import OPTIMIZERS

STEPS, SAVED, SEQUENCES = 4, 2, 8
CASES: dict[int, dict[str, dict[str, Any]]] = {
    1: {"single": {"name": "single"}},
    2: {"ddp on 2": {"name": "ddp"}, "fsdp on 2": {"name": "fsdp"}, "tp on 2": {"name": "tp"}},
    4: {
        "fsdp on 4": {"name": "fsdp"},
        "hsdp on 4": {"name": "hsdp", "shard": 2},
        "fsdp_tp on 4": {"name": "fsdp_tp", "tensor": 2},
    },
}
# ten rows over two and four ranks: shards of unlike sizes
SIZES: dict[str, Any] = {
    "hidden_size": 10, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "head_dim": 4, "intermediate_size": 16,
    "vocab_size": 32, "tie_embeddings": True,
}  # fmt: skip


class SavesAtOnce(Checkpointer):
    """Also saves what was loaded, before the first step."""

    def train_started(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        super().train_started(trainer, module)
        if module.steps_taken:
            self.saved_step = None
            self.save(trainer, module)


def saved(folder: Path, settings: dict[str, Any], resume: Path | None = None) -> None:
    folder.mkdir(exist_ok=True)
    strategy, phases = StrategyConfig(**settings), Phases()
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    module = training_module(
        steps=STEPS, sequences=SEQUENCES, optimizer=OPTIMIZERS["adamw"], strategy=strategy, **SIZES
    )
    saver = SavesAtOnce(folder / "checkpoints", every_steps=SAVED, keep=9, about={}, phases=phases)
    run = small_run(
        folder, module, accumulate=SEQUENCES // (2 * module.mesh.roles.data), strategy=strategy, devices=ranks,
        phases=phases, callbacks=[saver], validate_every=STEPS,
    )  # fmt: skip
    data = batches(2, module.mesh, vocab_size=SIZES["vocab_size"])
    run.trainer.fit(module, data, ckpt_path=resume, weights_only=None if resume is None else True)


def report(folder: Path, ranks: int, sources: list[str]) -> None:
    """The runs on so many `ranks`; with `sources`, from each of their checkpoints."""
    if ranks > 1:
        dist.init_process_group("gloo")
    for name, settings in CASES[ranks].items():
        if not sources:
            saved(folder / name, settings)
        for source in sources:
            saved(folder / f"{source} to {name}", settings, folder / source / "checkpoints" / f"step-{SAVED:08d}")
    if ranks > 1:
        dist.destroy_process_group()
