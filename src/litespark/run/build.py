"""Puts the parts of a run together: data, module, instruments, loggers, callbacks, Trainer."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch import loggers
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.profilers import PyTorchProfiler
from torchmetrics import Metric

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.cost_of_quality import CostOfQuality
from litespark.callbacks.energy import EnergyMonitor
from litespark.callbacks.fp8 import Fp8Monitor
from litespark.callbacks.metrics_logger import MetricsLogger
from litespark.callbacks.phases import Phases
from litespark.callbacks.progress import ProgressBar
from litespark.callbacks.reference import ReferenceModel
from litespark.callbacks.run_record import RunRecorder
from litespark.callbacks.signals import StopOnSignal
from litespark.callbacks.throughput import ThroughputMonitor
from litespark.callbacks.validation import Validation
from litespark.callbacks.watchdog import Watchdog
from litespark.data.manifest import Manifest
from litespark.data.stream.modules import SequenceDataModule
from litespark.device import device_of
from litespark.mesh import Mesh
from litespark.metrics.energy import EnergyJournal
from litespark.metrics.energy_by_phase import EnergyByPhase, EnergyMeter
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.ops.backend import Ops
from litespark.ops.choice import Choice
from litespark.reports.quantities import count, scaled
from litespark.run.adapter import about_base
from litespark.run.choose_ops import choose_ops, log_choices, op_record
from litespark.run.choose_optimizer import choose_adamw
from litespark.run.composing import OWN_CALLBACKS, OWN_LOGGER
from litespark.run.config import ConfigError, Parts, made_own
from litespark.run.folder import CHECKPOINTS, ENERGY, REFERENCES
from litespark.run.instruments import build_mfu, say_what_is_absent
from litespark.run.preflight import Machine
from litespark.run.processes import StartedRanks
from litespark.run.record import RunRecord, SegmentRecord, TargetRecord
from litespark.run.reward_models import about_reward_models
from litespark.run.rollouts import running_task
from litespark.tasks.task import Compares, NeedsTools
from litespark.training.any_accelerator import lightning_accelerator
from litespark.training.budget import TokenBudget
from litespark.training.model_builder import ModelBuilder
from litespark.training.module import TrainingModule
from litespark.training.parallel.precision import lightning_precision, residual_dtype
from litespark.training.parallel.strategy import build_strategy

log = logging.getLogger(__name__)


@dataclass
class Run:
    """Everything that a run is made of, ready to fit."""

    folder: Path
    trainer: pl.Trainer
    module: TrainingModule
    data: SequenceDataModule
    recorder: RunRecorder
    energy: EnergyMonitor
    reference: list[ReferenceModel]
    validation: Validation
    quality: CostOfQuality
    metrics: MetricsLogger
    tensorboard: TensorBoardLogger


def check_vocabulary(parts: Parts, manifest: Manifest) -> None:
    """The model must have a row for each id of the data; rows above them are padding, which no token reaches."""
    rows, ids = parts.model.vocab_size, manifest.vocab_size
    if rows < ids:
        grow = "" if parts.from_folder else f"set model.vocab_size={ids}, or "
        raise ConfigError(
            f"model.vocab_size: got {rows}, expected at least the {ids} ids of the data's manifest ({manifest.name}); "
            f"{grow}prepare the text with a tokenizer of at most {rows} ids"
        )
    if rows > ids:
        log.info("model.vocab_size=%d: the data has %d ids, the %d rows above them are padding", rows, ids, rows - ids)


def token_budget(parts: Parts, manifest: Manifest | None = None) -> TokenBudget:
    """The length of the run; with the `manifest` of the data also where its sequences are padded."""
    filled = 1.0 if manifest is None else manifest.filled("train")
    return TokenBudget.plan(parts.budget, max(1, round(filled * parts.trainer.global_batch_size * parts.data.seq_len)))


def build_module(parts: Parts, machine: Machine, manifest: Manifest, budget: TokenBudget, ops: Ops) -> TrainingModule:
    """The LightningModule of a run; nothing of the model is allocated before the Trainer configures it."""
    builder = ModelBuilder(
        parts.model,
        ops,
        parts.seed,
        recompute=parts.recompute,
        strategy=parts.strategy,
        precision=machine.precision,
        residual_dtype=residual_dtype(parts.residual, machine.precision, machine.device),
        load_weights=None if parts.weights is None else parts.weights.fill,
        fp8=parts.fp8 if machine.precision == "fp8" else None,
        compile_mode=machine.compile_mode,
        adapter=parts.adapter,
    )
    return TrainingModule(
        builder=builder,
        task=parts.task,
        metrics=_metrics(parts, manifest),
        optimizer=parts.optim,
        schedule=parts.schedule,
        budget=budget,
        mesh=machine.mesh,
        cuda_graph=parts.ops.cuda_graph,
    )


def _metrics(parts: Parts, manifest: Manifest) -> Metric:
    metrics = parts.task.metrics(manifest)
    if not isinstance(metrics, Metric):
        raise ConfigError(
            f"{type(parts.task).__name__}.metrics: got {type(metrics).__name__}, expected a torchmetrics.Metric whose "
            '`compute` returns scalars by name, "loss" among them; see CONTRIBUTING.md'
        )
    return metrics


def construct_module(parts: Parts, machine: Machine, manifest: Manifest) -> tuple[TrainingModule, list[Choice]]:
    """The module as it stands before the first step, made without a Trainer for one process, and its ops' choices."""
    ops, choices = choose_ops(parts, machine)
    parts, of_adamw = choose_adamw(parts, machine)
    module = build_module(parts, machine, manifest, token_budget(parts), ops)
    module.construct(machine.device)
    return module, choices + of_adamw


def build_run(
    parts: Parts,
    machine: Machine,
    folder: Path,
    data: SequenceDataModule,
    record: RunRecord,
    segment: SegmentRecord,
    meter: EnergyMeter,
) -> Run:
    """All parts of a run that is written into `folder`; `segment` says at which step it begins."""
    ops, choices = choose_ops(parts, machine, record.ops)
    parts, of_adamw = choose_adamw(parts, machine, record.ops)
    choices += of_adamw
    record.ops = list(map(op_record, choices))
    module = build_module(parts, machine, data.manifest, token_budget(parts, data.manifest), ops)
    if machine.mesh.is_first:
        log_choices(choices, machine.device)
        if parts.from_folder and parts.resume is None:
            log.info("%s: weights %s", parts.model.name, parts.initial_weights)
        if isinstance(parts.model, HuggingFaceConfig):
            log.info("%s", parts.model.described(ops))
    throughput, energy = _meters(parts, machine, folder, meter)
    metrics = MetricsLogger(folder, machine.mesh)
    metrics.progress = lambda: (module.steps_taken, module.tokens_seen)
    own = [made_own(node, f"{OWN_CALLBACKS}.{name}") for name, node in parts.callbacks.extra.items()]
    checkpointer = _checkpointer(parts, record, folder, data.manifest, throughput.phases, own, machine.mesh)
    validation = Validation(parts.trainer.validate_every, at_start=parts.trainer.validate_at_start)
    target = None if parts.budget.target_bpb is None else TargetRecord(parts.budget.target_bpb)
    quality = CostOfQuality(target=target, throughput=throughput, energy=energy, checkpointer=checkpointer)
    module.task = running_task(parts, machine, data, throughput.phases)
    reference: list[ReferenceModel] = []
    if isinstance(parts.task, Compares) and parts.task.needs_reference:
        about = about_reference(parts, machine.precision, {op.op: op.used for op in record.ops})
        cache = parts.logs / REFERENCES
        reference = [ReferenceModel(folder, cache, phases=throughput.phases, about=about)]
    fp8 = None
    if machine.precision == "fp8":
        fp8 = Fp8Monitor(parts.fp8, next((op.used for op in record.ops if op.op == "fp8"), None), throughput.every)
    recorder = RunRecorder(
        folder, record, segment, throughput=throughput, energy=energy, metrics=metrics, quality=quality, fp8=fp8
    )
    # the order matters: a window is closed before what casts lost and its energy are read, then comes a validation and
    # what is the user's own, all before a checkpoint holds them, the record sees them all, and a stop comes last
    before = [throughput, *([] if fp8 is None else [fp8]), energy, *reference, validation, *own]
    callbacks: list[Callback] = [*before, checkpointer, quality, recorder]
    if parts.callbacks.progress:
        callbacks.append(_progress(parts, machine, metrics, throughput, energy))
    callbacks.append(StopOnSignal(checkpointer))
    if machine.ranks.world_size > 1 and (patience := parts.strategy.hang_seconds) is not None:
        callbacks.append(Watchdog(patience, machine.ranks.rank, throughput.phases))
    purge: dict[str, Any] = {"purge_step": segment.first_step + 1} if segment.first_step else {}
    tensorboard = TensorBoardLogger(save_dir=folder, name="", version="", default_hp_metric=False, **purge)
    all_loggers = [metrics, tensorboard, *_extra_loggers(parts, folder)]
    trainer = _trainer(parts, machine, folder, callbacks, all_loggers)
    metrics.forget_after(segment.first_step)  # now that nothing is left that may refuse to be built
    return Run(folder, trainer, module, data, recorder, energy, reference, validation, quality, metrics, tensorboard)


def about_reference(parts: Parts, precision: str, ops: dict[str, str]) -> dict[str, Any]:
    """What decides the log-probabilities of a reference beside its weights and data: two models may have the same
    weights, and compute something else."""
    of_config = {group: parts.resolved.get(group) for group in ("model", "precision", "adapter")}
    return {"chosen": precision, "ops": ops, **of_config}


def _meters(
    parts: Parts, machine: Machine, folder: Path, meter: EnergyMeter
) -> tuple[ThroughputMonitor, EnergyMonitor]:
    phases, log_every = Phases(), parts.trainer.log_every
    throughput = ThroughputMonitor(
        mfu=build_mfu(parts, machine), log_every=log_every, warmup_steps=parts.metrics.warmup_steps, phases=phases
    )
    if machine.mesh.is_first:
        say_what_is_absent(machine.device, throughput.mfu.rates, meter)
    by_phase = EnergyByPhase(meter, parts.metrics.energy_window_seconds)
    journal = EnergyJournal(folder / ENERGY)
    return throughput, EnergyMonitor(by_phase, log_every=log_every, phases=phases, journal=journal)


def _checkpointer(
    parts: Parts, record: RunRecord, folder: Path, manifest: Manifest, phases: Phases, own: list[Callback], mesh: Mesh
) -> Checkpointer:
    about: dict[str, Any] = {
        "run": folder.name,
        "model": parts.resolved["model"],
        "manifest_hash": manifest.hash,
        "tokenizer_hash": manifest.tokenizer_hash,
        "config_hash": record.provenance.config_hash,
    }
    if parts.adapter is not None:
        base = mesh.from_first(lambda: about_base(parts.weights), "the weights below the adapter to be hashed")
        about |= {"adapter": parts.resolved["adapter"], "base": base}
    if isinstance(parts.task, NeedsTools) and parts.task.reward_models:
        hash_all = partial(about_reward_models, parts.task.reward_models)
        about["reward_models"] = mesh.from_first(hash_all, "the weights of reward models to be hashed")
    return Checkpointer(
        folder / CHECKPOINTS,
        every_steps=parts.callbacks.checkpoint_every,
        at_end=parts.callbacks.checkpoint_at_end,
        in_background=parts.callbacks.checkpoint_in_background,
        keep=parts.callbacks.checkpoint_keep,
        keep_every=parts.callbacks.checkpoint_keep_every,
        best=parts.callbacks.checkpoint_best,
        best_is=parts.callbacks.checkpoint_best_is,
        about=about,
        phases=phases,
        own=own,
    )


def _progress(
    parts: Parts, machine: Machine, metrics: MetricsLogger, throughput: ThroughputMonitor, energy: EnergyMonitor
) -> ProgressBar:
    peak, meter = throughput.mfu.measured_peak, energy.meter
    many = f"{machine.ranks.world_size} processes on " if machine.ranks.world_size > 1 else ""
    notes, adapter = [], parts.adapter_counts
    trained = "" if adapter is None else f", {count(adapter.trained)} trained"
    if throughput.mfu.rates.peak is None and peak is not None:
        notes.append(f"MFU: relative to {scaled(peak, 'FLOP/s')}, the rate of a matmul on this machine")
    if not meter.method:
        notes.append(f"J/token: not measured, {meter.reason}")
    return ProgressBar(
        metrics,
        phases=throughput.phases,
        model=f"{parts.model.name}: {count(parts.model.parameter_count())} parameters{trained}",
        place=f"{many}{device_of(machine.device).name}, {machine.precision}",
        notes=notes,
    )


def _trainer(
    parts: Parts,
    machine: Machine,
    folder: Path,
    callbacks: list[Callback],
    all_loggers: list[Logger],
) -> pl.Trainer:
    ranks, profiler = machine.ranks, None
    if parts.trainer.profile:
        profiler = PyTorchProfiler(dirpath=folder, filename="profile", export_to_chrome=True)
    return pl.Trainer(
        accelerator=lightning_accelerator(machine.device),
        devices=ranks.local_world_size,
        num_nodes=max(1, ranks.world_size // max(1, ranks.local_world_size)),
        strategy=build_strategy(parts.strategy, machine.device, machine.mesh.roles),
        plugins=[StartedRanks(ranks)],
        precision=lightning_precision(machine.precision, machine.device),
        # the module ends the run with its budget, which may be in tokens
        max_steps=-1,
        max_epochs=-1,
        accumulate_grad_batches=machine.accumulate,
        # `Validation` counts steps; Lightning would count micro-batches
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        # FSDP2 and compiled models do not take tensors made in inference mode
        inference_mode=False,
        logger=all_loggers,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        deterministic=parts.trainer.deterministic or None,
        profiler=profiler,
        default_root_dir=folder,
    )


def _extra_loggers(parts: Parts, folder: Path) -> list[Logger]:
    """The logger that was asked for by a word, ready to log, and the user's own."""
    extra, project = parts.logger.extra, parts.logger.project
    own = [] if parts.logger.own is None else [made_own(parts.logger.own, OWN_LOGGER)]
    if extra is None:
        return own
    logger: Any
    try:
        if extra == "wandb":
            logger = loggers.WandbLogger(project=project, name=folder.name, save_dir=folder, config=parts.resolved)
        else:
            logger = loggers.MLFlowLogger(experiment_name=project, run_name=folder.name, save_dir=f"{folder}/mlruns")
        _ = logger.experiment  # now, and not in the first step: it logs in here
    except ModuleNotFoundError as error:
        raise ConfigError(f"logger={extra}: its package is not installed ({error}); pip install {extra}") from error
    except Exception as error:  # of another library, which has its own kinds
        login = " log in (wandb login), or keep it on this disk (export WANDB_MODE=offline)," * (extra == "wandb")
        raise ConfigError(
            f"logger={extra} cannot begin: {str(error).strip() or type(error).__name__};{login} or leave it out: "
            "logger=default"
        ) from error
    return [logger, *own]
