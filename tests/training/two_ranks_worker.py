"""One of two processes that train together while something goes wrong on one of them.

Writes, for each case, what this rank has after every step to `FOLDER/rank-R.pt`.
"""

import itertools
import logging
import signal
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
from litespark.training.checkpoint import state
from litespark.training.checkpoint.files import write_tensors
from litespark.training.module import NonFiniteError
from litespark.training.optim import AdamWConfig, MuonConfig, OptimizerConfig
from litespark.training.parallel.config import StrategyConfig
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
NAMES = (
    *("ddp fused loss", "ddp unfused loss", "ddp muon gradient", "ddp muon nothing", "ddp fp8 loss", "ddp fp8 nothing"),
    *("fsdp fused gradient", "fsdp fused nothing", "fsdp unfused loss", "fsdp muon loss", "fsdp muon nothing"),
)
CASES: dict[str, dict[str, Any]] = {
    case: dict(zip(("name", "kind", "what"), case.split(), strict=True)) for case in NAMES
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
        steps=STEPS,
        sequences=8,
        task=task,
        optimizer=SETTINGS[kind],
        strategy=strategy,
        fp8=FP8.get(kind),
        **SIZES.get(kind, {}),
    )
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
        "lost": {} if module.model.fp8 is None else module.model.fp8.scaling.read(module.mesh),
        "momentum": momentum,
        "skipped": module.skipped_steps,
        "tokens": module.tokens_seen,
        "validation": module.validation,
    }


class Breaks(pl.Callback):
    """Makes a weight of rank 1 infinite after the second step."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if pl_module.steps_taken == 2 and dist.get_rank() == 1:
            pl_module.model.embedding.weight.data.to_local()[0, 0] = float("inf")


def signalled(micro_batch: int) -> bool:
    if dist.get_rank() == 1 and micro_batch == 2:
        signal.raise_signal(signal.SIGUSR1)
    return False


def ended(
    folder: Path,
    name: str = "ddp",
    *,
    every: int | None = 1,
    accumulate: int = 1,
    broken: bool = False,
    in_background: bool = False,
    **settings: Any,
) -> str:
    """The message with which a run ends, and the checkpoints that it leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    strategy, phases = StrategyConfig(name), Phases()  # type: ignore[arg-type]
    module = training_module(steps=STEPS, sequences=4 * accumulate, strategy=strategy, **settings)
    saver = Checkpointer(
        folder / "checkpoints", every_steps=every, keep=9, about={}, phases=phases, in_background=in_background
    )
    callbacks = [*([Breaks()] if broken else []), saver, StopOnSignal(saver)]
    run = small_run(
        folder, module, accumulate=accumulate, strategy=strategy, devices=2, phases=phases, callbacks=callbacks
    )
    try:
        run.trainer.fit(module, batches(2))
    except (NonFiniteError, checkpoint_folder.CheckpointError, Interrupted) as error:
        return f"{error}; saved {[path.name for path in checkpoint_folder.finished(folder / 'checkpoints')]}"
    return "no error"


def fails_on_rank_1(path: Path, tensors: Any) -> Any:
    if dist.get_rank() == 1 and path.parent.name.endswith("2"):
        raise OSError(28, "No space left on device")
    return write_tensors(path, tensors)


def report(folder: Path) -> None:
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    dist.init_process_group("gloo")
    results: dict[str, Any] = {case: train(folder / case, **settings) for case, settings in CASES.items()}
    for was, now in itertools.product(("ddp", "fsdp"), repeat=2):
        saved = folder / f"{was} muon nothing" / "checkpoints" / f"step-{SAVED:08d}"
        case = f"{was} as {now}"
        results[case] = train(folder / case, name=now, kind="muon", what="nothing", resume=saved)
    bad = Planted(lambda _: dist.get_rank() == 1)
    results["always bad"] = ended(folder / "bad", every=None, task=bad, optimizer=AdamWConfig(nonfinite_limit=2))
    results["broken shard"] = ended(folder / "shard", "fsdp", broken=True)
    for in_background in (False, True):
        state.write_tensors = fails_on_rank_1  # type: ignore[assignment]
        name = "refused in the background" if in_background else "refused"
        results[name] = ended(folder / name, "fsdp", in_background=in_background)
    state.write_tensors = write_tensors
    results["signalled"] = ended(folder / "signalled", every=None, accumulate=2, task=Planted(signalled))
    checkpoint_folder.shutil.disk_usage = lambda path: SimpleNamespace(free=10)  # type: ignore[assignment]
    results["full disk"] = ended(folder / "full disk")
    torch.save(results, folder / f"rank-{dist.get_rank()}.pt")
    dist.destroy_process_group()
