"""Tiny runs under the real Trainer that the tests of training and of callbacks share."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.phases import Phases
from litespark.callbacks.signals import StopOnSignal
from litespark.callbacks.throughput import ThroughputMonitor
from litespark.callbacks.validation import Validation
from litespark.data.batch import TokenBatch
from litespark.data.config import SyntheticConfig
from litespark.data.stream.modules import SyntheticDataModule
from litespark.mesh import Mesh
from litespark.metrics.hardware import PeakFlops
from litespark.metrics.mfu import FlopsPerToken, MfuMeter, Rates
from litespark.metrics.validation import TokenMetrics
from litespark.models.adapters.config import LoraAdapter
from litespark.models.llama.config import LlamaConfig
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.settings import Fp8Config
from litespark.planning.flops import model_flops_per_token
from litespark.tasks.pretrain import Pretrain
from litespark.training.budget import TokenBudget
from litespark.training.model_builder import ModelBuilder
from litespark.training.module import TrainingModule
from litespark.training.optim import AdamWConfig
from litespark.training.parallel.config import StrategyConfig
from litespark.training.parallel.precision import lightning_precision
from litespark.training.parallel.strategy import build_strategy
from litespark.training.schedule import CosineSchedule, Schedule

VOCABULARY = 31
LENGTH = 8
CPU = torch.device("cpu")


def small_llama(**changes: Any) -> LlamaConfig:
    sizes = {
        "name": "small", "hidden_size": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 16,
        "vocab_size": VOCABULARY, "max_seq_len": LENGTH, "init_std": 0.2,
    }  # fmt: skip
    return LlamaConfig(**(sizes | changes))


def batches(micro_batch_size: int = 2, mesh: Mesh | None = None, **changes: Any) -> SyntheticDataModule:
    # documents make the micro-batches differ in supervised tokens
    settings = {
        "seq_len": LENGTH,
        "micro_batch_size": micro_batch_size,
        "workers": 0,
        "vocab_size": VOCABULARY,
        "synthetic_sequences": 64,
        "synthetic_validation_sequences": 5,
        "document_length": 5,
    }
    return SyntheticDataModule(SyntheticConfig(**(settings | changes)), seed=3, mesh=mesh)


class Planted(Pretrain):
    """Pre-training in which chosen micro-batches (counted from 0, on chosen ranks) go wrong.

    Args:
        at: which micro-batches.
        what: `loss` makes the loss NaN, `gradient` only the gradient of the last norm, `infinite` makes the loss inf.
    """

    def __init__(self, at: Callable[[int], bool], what: str = "loss") -> None:
        self.at = at
        self.what = what
        self.seen = 0

    def loss(self, model: Llama, batch: TokenBatch) -> Tensor:
        loss = super().loss(model, batch)
        planted = self.at(self.seen)
        self.seen += 1
        if not planted:
            return loss
        if self.what == "gradient":
            loss.register_hook(lambda gradient: gradient * float("nan"))
            return loss
        return loss * (float("inf") if self.what == "infinite" else float("nan"))


def training_module(
    *,
    steps: int,
    sequences: int,
    task: Pretrain | None = None,
    optimizer: AdamWConfig | None = None,
    schedule: Schedule | None = None,
    strategy: StrategyConfig | None = None,
    fp8: Fp8Config | None = None,
    adapter: LoraAdapter | None = None,
    precision: Any = "fp32",
    recompute: Any = "none",
    **model: Any,
) -> TrainingModule:
    """A module for a budget of `steps` steps of `sequences` sequences."""
    strategy = strategy or StrategyConfig()
    return TrainingModule(
        builder=ModelBuilder(
            small_llama(**model),
            resolve(OpsConfig()),
            seed=1,
            strategy=strategy,
            fp8=fp8,
            adapter=adapter,
            precision=precision,
            recompute=recompute,
        ),
        task=task or Pretrain(),
        optimizer=optimizer or AdamWConfig(lr=1e-2),
        schedule=schedule or CosineSchedule(warmup=0.0),
        budget=TokenBudget(sequences * LENGTH, steps=steps),
        metrics=TokenMetrics(torch.arange(model.get("vocab_size", VOCABULARY)) % 4),
        mesh=Mesh(roles=strategy.roles(dist.get_world_size())) if dist.is_initialized() else Mesh(),
    )


class Journal(pl.Callback):
    """Copies weights and counters at the end of each step."""

    def __init__(self) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.skipped: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if len(self.weights) < pl_module.steps_taken:
            self.weights.append({name: p.detach().clone() for name, p in pl_module.model.named_parameters()})
            self.skipped.append(float(pl_module._skips[0]))


@dataclass
class SmallRun:
    """A trainer with the callbacks that every run has, and what it trains."""

    module: TrainingModule
    trainer: pl.Trainer
    throughput: ThroughputMonitor
    metrics: MetricsLogger
    phases: Phases
    journal: Journal = field(default_factory=Journal)


def small_flops(mean_keys: float) -> FlopsPerToken:
    """Of a small Llama that recomputes nothing."""
    causal, full = (model_flops_per_token(small_llama(), keys) for keys in (mean_keys, LENGTH))
    return FlopsPerToken(causal, full, causal)


def small_run(
    folder: Path,
    module: TrainingModule,
    *,
    accumulate: int = 1,
    log_every: int = 1,
    validate_every: int | None = None,
    precision: Any = "fp32",
    strategy: StrategyConfig | None = None,
    devices: int = 1,
    callbacks: Sequence[pl.Callback] = (),
    phases: Phases | None = None,
    peak: float | None = None,
) -> SmallRun:
    """A trainer as `litespark.run` makes it, as far as these tests need it."""
    phases = phases or Phases()
    rates = None if peak is None else PeakFlops("cpu", "bf16", peak, "test")
    mfu = MfuMeter(Rates(rates, None, None), small_flops)
    throughput = ThroughputMonitor(mfu=mfu, log_every=log_every, warmup_steps=0, phases=phases)
    metrics, journal = MetricsLogger(folder, module.mesh), Journal()
    strategy = strategy or StrategyConfig()
    first = [each for each in callbacks if not isinstance(each, Checkpointer | StopOnSignal)]
    last = [each for each in callbacks if each not in first]
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy=build_strategy(strategy, CPU, module.mesh.roles),
        precision=lightning_precision(precision, CPU),
        max_steps=-1,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
        logger=[metrics],
        callbacks=[throughput, journal, *first, Validation(validate_every), *last],
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    return SmallRun(module, trainer, throughput, metrics, phases, journal)
