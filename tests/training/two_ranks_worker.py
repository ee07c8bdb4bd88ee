"""One of two processes that train together while something goes wrong on one of them.

Writes, for each case, what this rank has after every step to `FOLDER/rank-R.pt`.
"""

import logging
import signal
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.callbacks.signals import Interrupted, StopOnSignal
from litespark.ops.fp8.settings import AdaptiveConfig, Fp8Config
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.module import NonFiniteError
from litespark.training.optim import AdamWConfig, MuonConfig, OptimizerConfig
from litespark.training.strategies import StrategyConfig
from tests.training.forked_ranks import on_two_ranks
from tests.training.small_runs import Planted, batches, small_run, training_module

STEPS = 4
# the second micro-batch of the third step
BAD = 5
SETTINGS: dict[str, OptimizerConfig] = {
    "fused": AdamWConfig(lr=1e-2, eps=1e-2, grad_clip=0.5),
    "unfused": AdamWConfig(lr=1e-2, eps=1e-2, grad_clip=0.5, fused=False),
    "muon": MuonConfig(lr=1e-2, eps=1e-2, grad_clip=0.5),
    "fp8": AdamWConfig(lr=1e-2, eps=1e-2, grad_clip=0.5),
}
FP8: dict[str, Fp8Config] = {"fp8": Fp8Config(simulate=True, history=2, adaptive=AdaptiveConfig(sample_every=1))}
# of odd sizes for Muon: shards of unlike sizes (9 rows), and one that begins within the keys (12 of 8 + 8 + 8 rows)
SIZES: dict[str, dict[str, int]] = {"muon": {"hidden_size": 9, "head_dim": 4, "num_kv_heads": 2}}
CASES: dict[str, dict[str, Any]] = {
    case: dict(zip(("name", "kind", "what"), case.split(), strict=True))
    for case in (
        *("ddp fused loss", "ddp fused nothing", "ddp unfused loss", "ddp muon gradient", "ddp muon nothing"),
        *("ddp fp8 loss", "ddp fp8 nothing"),
        *("fsdp fused gradient", "fsdp fused nothing", "fsdp unfused loss", "fsdp muon loss", "fsdp muon nothing"),
    )
}
# of the undisturbed run that is resumed
SAVED = 2


def whole(parameter: torch.Tensor) -> torch.Tensor:
    return (parameter.full_tensor() if isinstance(parameter, DTensor) else parameter).detach().clone()


def train(folder: Path, *, name: str, kind: str, what: str, resume: Path | None = None) -> dict[str, Any]:
    rank = dist.get_rank()
    folder.mkdir(parents=True, exist_ok=True)
    strategy, phases = StrategyConfig(name), Phases()  # type: ignore[arg-type]
    task = Planted(lambda micro_batch: what != "nothing" and rank == 1 and micro_batch == BAD, what)
    module = training_module(
        steps=STEPS, rows=8, task=task, optimizer=SETTINGS[kind], strategy=strategy, fp8=FP8.get(kind),
        **SIZES.get(kind, {}),
    )  # fmt: skip
    saver = Checkpointer(folder / "checkpoints", every_steps=SAVED, keep=9, about={}, phases=phases)
    run = small_run(
        folder, module, accumulate=2, validate_every=STEPS, strategy=strategy, devices=2, phases=phases,
        callbacks=[saver] if kind == "muon" and what == "nothing" else [],
    )  # fmt: skip
    steps: list[list[torch.Tensor]] = []
    scales: list[list[torch.Tensor]] = []
    step = module.optimizer_step

    def after(*arguments: Any, **named: Any) -> None:
        step(*arguments, **named)
        assert module.model is not None
        steps.append([whole(parameter) for parameter in module.model.parameters()])
        if module.model.fp8 is not None:
            scaling = module.model.fp8.scaling
            scales.append([scaling.scale.clone(), scaling.history.clone()])

    module.optimizer_step = after  # type: ignore[method-assign]
    run.trainer.fit(module, batches(2), ckpt_path=resume, weights_only=None if resume is None else True)
    (momentum,) = {
        tuple(state["momentum_buffer"].to_local().shape) if name == "fsdp" else tuple(state["momentum_buffer"].shape)
        for parameter, state in run.trainer.optimizers[0].state.items()
        if parameter.shape[0] == 24 and "momentum_buffer" in state
    } or {None}
    assert module.model is not None
    return {
        "weights": steps,
        "scales": scales,
        "lost": {} if module.model.fp8 is None else module.model.fp8.scaling.read(),
        "momentum": momentum,
        "skipped": module.skipped_steps,
        "tokens": module.tokens_seen,
        "validation": module.validation,
    }


def always_bad(folder: Path) -> str:
    """The message with which a run ends whose rank 1 never has a finite loss."""
    folder.mkdir(parents=True, exist_ok=True)
    strategy = StrategyConfig("ddp")
    rank = dist.get_rank()
    module = training_module(
        steps=STEPS, rows=4, task=Planted(lambda _: rank == 1), optimizer=AdamWConfig(nonfinite_limit=2),
        strategy=strategy,
    )  # fmt: skip
    run = small_run(folder, module, strategy=strategy, devices=2)
    try:
        run.trainer.fit(module, batches(2))
    except NonFiniteError as error:
        return str(error)
    return "no error"


def full_disk(folder: Path) -> str:
    """The message with which a run ends whose rank 0 finds no room for a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    strategy, phases = StrategyConfig("ddp"), Phases()
    module = training_module(steps=2, rows=4, strategy=strategy)
    saver = Checkpointer(folder / "checkpoints", every_steps=1, keep=1, about={}, phases=phases)
    run = small_run(folder, module, strategy=strategy, devices=2, phases=phases, callbacks=[saver])
    usage = checkpoint_folder.shutil.disk_usage
    checkpoint_folder.shutil.disk_usage = lambda path: SimpleNamespace(free=10)  # type: ignore[assignment]
    try:
        run.trainer.fit(module, batches(2))
    except checkpoint_folder.CheckpointError as error:
        return str(error)
    finally:
        checkpoint_folder.shutil.disk_usage = usage
    return "no error"


def broken_shard(folder: Path) -> str:
    """The message with which a sharded run ends whose rank 1 holds a weight that is not finite, and what was saved."""

    class Plant(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if pl_module.steps_taken == 2 and dist.get_rank() == 1:
                pl_module.model.embedding.weight.data.to_local()[0, 0] = float("inf")

    folder.mkdir(parents=True, exist_ok=True)
    strategy, phases = StrategyConfig("fsdp"), Phases()
    module = training_module(steps=STEPS, rows=4, strategy=strategy)
    saver = Checkpointer(folder / "checkpoints", every_steps=1, keep=9, about={}, phases=phases)
    run = small_run(folder, module, strategy=strategy, devices=2, phases=phases, callbacks=[Plant(), saver])
    try:
        run.trainer.fit(module, batches(2))
    except NonFiniteError as error:
        return f"{error}; saved {[path.name for path in (folder / 'checkpoints').iterdir()]}"
    return "no error"


def signalled(folder: Path) -> str:
    """The message with which a run ends whose rank 1 gets a signal in the second step."""
    folder.mkdir(parents=True, exist_ok=True)
    strategy, phases, rank = StrategyConfig("ddp"), Phases(), dist.get_rank()

    def ask(micro_batch: int) -> bool:
        if rank == 1 and micro_batch == 2:
            signal.raise_signal(signal.SIGUSR1)
        return False

    module = training_module(steps=STEPS, rows=8, strategy=strategy, task=Planted(ask))
    saver = Checkpointer(folder / "checkpoints", every_steps=None, keep=1, about={}, phases=phases)
    callbacks = [saver, StopOnSignal(saver)]
    run = small_run(folder, module, accumulate=2, strategy=strategy, devices=2, phases=phases, callbacks=callbacks)
    try:
        run.trainer.fit(module, batches(2))
    except Interrupted as error:
        return f"{error}, found {checkpoint_folder.find(folder).step}"
    return "no end"


def report(folder: Path, rank: int) -> None:
    results: dict[str, Any] = {case: train(folder / case, **settings) for case, settings in CASES.items()}
    for name in ("ddp", "fsdp"):
        saved = folder / f"{name} muon nothing" / "checkpoints" / f"step-{SAVED:08d}" / "state.ckpt"
        results[f"{name} resumed"] = train(
            folder / f"{name} resumed", name=name, kind="muon", what="nothing", resume=saved
        )
    results["always bad"] = always_bad(folder / "always bad")
    results["full disk"] = full_disk(folder / "full disk")
    results["broken shard"] = broken_shard(folder / "broken shard")
    results["signalled"] = signalled(folder / "signalled")
    torch.save(results, folder / f"rank-{rank}.pt")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    place = Path(sys.argv[1])
    on_two_ranks(lambda rank: report(place, rank), place / "store")
