"""Runs a config: the only way from `train.py`, `litespark train` and the tests to a trained model and its report."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from litespark.analysis.report import write_report
from litespark.callbacks.run_record import RECORD
from litespark.callbacks.signals import Interrupted
from litespark.data.manifest import Manifest
from litespark.data.streaming import TokenDataModule, build_data_module
from litespark.data.tokenizer import Tokenizer
from litespark.experiment import run_folder
from litespark.experiment.build import Run, build_meter, build_run, check_vocabulary, token_budget
from litespark.experiment.config import ConfigError, Parts, config_hash, parts_from
from litespark.experiment.preflight import Machine, Ranks, preflight
from litespark.metrics import names
from litespark.metrics.energy import EnergyMeter
from litespark.metrics.environment import collect_environment, git_state
from litespark.metrics.projection import project
from litespark.metrics.record import DataRecord, ModelRecord, ProjectionRecord, RunRecord, utc_now
from litespark.models.flops import causal_mean_keys, model_flops_per_token
from litespark.models.generate import generate
from litespark.training.module import NonFiniteError

log = logging.getLogger(__name__)


class OutOfMemoryError(RuntimeError):
    """The device has too little memory for the run."""


# what a user can mend: shown as one short message, without a traceback
USER_ERRORS = (ValueError, NonFiniteError, OutOfMemoryError)


def train(config: DictConfig) -> Path:
    """Train as `config` says; returns the run's folder.

    Raises:
        ValueError: the config, the data or a checkpoint is not usable; one short message.
        RuntimeError: training went wrong (`NonFiniteError`, `OutOfMemoryError`).
        Interrupted: asked to stop by a signal; the state is saved.
    """
    _quieten()
    overrides = _overrides()
    parts = parts_from(config)
    ranks = Ranks.from_environment()
    machine = preflight(parts, ranks)
    pl.seed_everything(parts.seed, verbose=False)
    _start_processes(parts, machine)
    finished = False
    try:
        folder = _train(parts, machine, overrides)
        finished = True
        return folder
    finally:
        # a sweep starts the next job in this process; after an error the other ranks may not be there to join
        if dist.is_initialized() and (finished or ranks.world_size == 1):
            dist.destroy_process_group()


def _train(parts: Parts, machine: Machine, overrides: list[str]) -> Path:
    checkpoint = None
    if parts.resume is not None:  # before the data, which may have to be prepared
        folder, checkpoint = run_folder.reopen(parts)
        if checkpoint.step >= token_budget(parts).steps:
            raise ConfigError(
                f"resume={parts.resume}: the run is at step {checkpoint.step} of {token_budget(parts).steps} and "
                "finished; raise budget.tokens (or budget.steps) to train on"
            )
    data = build_data_module(parts.data, seed=parts.seed)
    check_vocabulary(parts, data.manifest)
    meter = build_meter(machine)
    if checkpoint is not None:
        record = RunRecord.read(folder / RECORD)
    else:
        folder = _agree(machine, lambda: run_folder.make(parts, _telling(overrides)))
        record = _new_record(parts, machine, folder, data.manifest, meter, overrides)
    first_step = 0 if checkpoint is None else checkpoint.step
    try:
        run = build_run(parts, machine, folder, data, record, meter, first_step=first_step)
    except ValueError:
        if checkpoint is None and machine.ranks.rank == 0:
            shutil.rmtree(folder)  # nothing was run in it
        raise
    if machine.ranks.rank == 0:
        log.info("%s in %s", "resuming" if checkpoint else "run", folder)
    try:
        run.trainer.fit(
            run.module, run.data, ckpt_path=None if checkpoint is None else checkpoint.state, weights_only=True
        )
        _finish(parts, run)
    except Interrupted:
        _close(run, "interrupted")
        if machine.ranks.rank == 0:
            print(f"\nStopped after step {run.module.steps_taken}, saved. To continue:\n  "
                  f"{continue_command(overrides, folder)}", file=sys.stderr, flush=True)  # fmt: skip
        raise
    except torch.OutOfMemoryError as error:
        _close(run, "failed", str(error))
        raise OutOfMemoryError(
            f"out of memory with data.micro_batch_size={parts.data.micro_batch_size}, recompute={parts.recompute}: "
            f"{str(error).splitlines()[0]}. Halve data.micro_batch_size (trainer.batch_rows stays, so the result "
            "does too), or use recompute=full, or strategy=fsdp over more devices"
        ) from error
    except Exception as error:
        _close(run, "failed", f"{type(error).__name__}: {error}")
        raise
    return folder


def _finish(parts: Parts, run: Run) -> None:
    """What follows the last step: validation, a sample, the final figures, the report."""
    if parts.trainer.validate_every is None or run.module.steps_taken % parts.trainer.validate_every:
        validate(run)
    if parts.callbacks.sample_prompt is not None and isinstance(run.data, TokenDataModule):
        tokenizer = Tokenizer.load(run.data.folder)
        sample = _sample(parts, run, tokenizer)
        run.recorder.record.quality.sample = sample
        if run.trainer.is_global_zero:
            fenced = "\n".join(f"    {line}" for line in sample.splitlines())
            (run.folder / "samples.md").write_text(f"After step {run.module.steps_taken}:\n\n{fenced}\n")
    run.energy.sum_over_ranks()
    run.recorder.record.projection = _projection(parts, run)
    _close(run, "finished")
    if not run.trainer.is_global_zero:
        return
    _log_hyperparameters(parts, run)
    for logger in run.trainer.loggers:
        logger.finalize("success")
    log.info("%s", _closing_words(run, write_report(run.folder) if parts.callbacks.report else None))


def validate(run: Run) -> None:
    """One pass over the validation rows with the weights as they are, logged at the current step; a collective."""
    module, device = run.module, run.module.device
    assert module.model is not None
    module.model.eval()
    run.recorder.throughput.on_validation_start(run.trainer, module)
    with torch.no_grad(), run.trainer.precision_plugin.forward_context():
        module.on_validation_epoch_start()
        for index, batch in enumerate(run.data.val_dataloader()):
            module.validation_step(batch.to(device), index)
        module.on_validation_epoch_end()
    run.recorder.throughput.on_validation_end(run.trainer, module)
    module.model.train()


def continue_command(overrides: list[str], folder: Path) -> str:
    """The command line that resumes the run in `folder`."""
    kept = [override for override in overrides if not override.startswith(("resume=", "name="))]
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    processes = os.environ.get("LOCAL_WORLD_SIZE", "1")
    start = f"torchrun --nproc-per-node={processes} train.py" if world_size > 1 else "python train.py"
    return " ".join([start, *map(shlex.quote, kept), f"resume={shlex.quote(str(folder))}"])


def _sample(parts: Parts, run: Run, tokenizer: Tokenizer) -> str:
    """The prompt and how the model goes on; every rank generates the same, since sharded weights need all of them."""
    prompt = parts.callbacks.sample_prompt or ""
    ids = tokenizer.encode_batch([prompt])[0] or [tokenizer.eos_id]
    model = run.module.model
    assert model is not None
    room = model.config.max_sequence_length - len(ids)
    with torch.no_grad(), run.trainer.precision_plugin.forward_context():
        result = generate(
            model,
            torch.tensor([ids], device=run.module.device),
            min(parts.callbacks.sample_tokens, room),
            temperature=parts.callbacks.sample_temperature,
            top_p=0.95,
            eos_id=tokenizer.eos_id,
            seed=parts.seed,
        )
    return tokenizer.decode(result[0].tolist())


def _projection(parts: Parts, run: Run) -> ProjectionRecord:
    settings = parts.metrics.projection
    return project(
        settings.tokens or run.module.budget.tokens,
        tokens_per_second=run.recorder.throughput.summary().tokens_per_second,
        joules_per_token=run.energy.totals.joules_per_token_train,
        settings=settings.settings,
        currency=settings.currency,
    )


def _new_record(
    parts: Parts, machine: Machine, folder: Path, manifest: Manifest, meter: EnergyMeter, overrides: list[str]
) -> RunRecord:
    model, length = parts.model, parts.data.sequence_length
    commit, dirty = git_state(Path.cwd())
    splits = manifest.splits
    return RunRecord(
        name=folder.name,
        task=parts.task.name,
        started=utc_now(),
        command=["python", "train.py", *overrides],
        config_hash=config_hash(parts.resolved),
        seed=parts.seed,
        model=ModelRecord(
            name=model.name,
            parameters=model.parameter_count(),
            matmul_parameters=model.matmul_parameter_count(),
            flops_per_token_causal=model_flops_per_token(model, causal_mean_keys(length)),
            flops_per_token_full=model_flops_per_token(model, length),
            sequence_length=length,
        ),
        data=DataRecord(
            name=manifest.name,
            manifest_hash=manifest.hash,
            vocabulary=manifest.vocabulary,
            train_tokens=splits["train"].tokens,
            validation_tokens=splits["validation"].tokens,
            unigram_entropy=manifest.unigram_entropy,
            unigram_bits_per_byte=manifest.unigram_bits_per_byte(),
        ),
        environment=collect_environment(
            device_type=machine.device.type,
            device_indices=(machine.device.index or 0,),
            world_size=machine.ranks.world_size,
            precision=machine.precision,
            meter=meter,
        ),
        git_commit=commit,
        git_dirty=dirty,
    )


def _close(run: Run, status: Any, error: str | None = None) -> None:
    run.phases.enter("idle")
    run.recorder.update(status, error)
    run.metrics.finalize(status)
    run.energy.ledger.meter.close()


def _log_hyperparameters(parts: Parts, run: Run) -> None:
    """The HParams tab of TensorBoard: the settings that are swept, beside what the run came to."""
    record = run.recorder.record
    results: Mapping[str, float | None] = {
        "final/validation_loss": record.quality.validation_loss,
        "final/bits_per_byte": record.quality.bits_per_byte,
        "final/tokens_per_second": record.throughput.tokens_per_second,
        "final/mfu_causal": record.throughput.mfu_causal,
        "final/mfu_measured_peak": record.throughput.mfu_measured_peak,
        "final/joules_per_token": record.energy.joules_per_token_train,
    }
    groups = ("model", "ops", "precision", "recompute", "data", "optim", "schedule", "strategy", "budget", "trainer")
    run.tensorboard.log_hyperparams(
        {"seed": parts.seed, **{group: parts.resolved[group] for group in groups}},
        {name: value for name, value in results.items() if value is not None},
    )


def _closing_words(run: Run, report: Path | None) -> str:
    record, latest = run.recorder.record, run.metrics.latest
    loss, entropy = latest.get(names.VALIDATION_LOSS), record.data.unigram_entropy
    words = [f"validation loss {loss:.3f} nats/token (unigram entropy {entropy:.3f})" if loss is not None else ""]
    if record.quality.bits_per_byte is not None:
        words.append(f"{record.quality.bits_per_byte:.3f} bits/byte")
    if record.quality.sample:
        words.append("sample:\n" + "\n".join(f"    {line}" for line in record.quality.sample.splitlines()))
    words.append(f"report: {report}" if report else f"run: {run.folder}")
    return "\n".join(filter(None, words))


def _start_processes(parts: Parts, machine: Machine) -> None:
    """Join the process group before anything is agreed on; Lightning finds it and uses it."""
    if machine.device.type == "cuda":
        torch.cuda.set_device(machine.device)
    if machine.ranks.world_size > 1 and not dist.is_initialized():
        dist.init_process_group(
            "nccl" if machine.device.type == "cuda" else "gloo",
            timeout=timedelta(seconds=parts.strategy.timeout_seconds),
        )
    if machine.ranks.rank > 0:
        logging.getLogger().setLevel(logging.WARNING)


def _agree(machine: Machine, make: Any) -> Any:
    """What `make` returns on rank 0, on every rank; its error on rank 0 ends them all."""
    result: list[Any] = [None, None]
    if machine.ranks.rank == 0:
        try:
            result[0] = make()
        except ValueError as error:
            result[1] = error
    if machine.ranks.world_size > 1:
        dist.broadcast_object_list(result)
    if result[1] is not None:
        raise result[1]
    return result[0]


def _overrides() -> list[str]:
    """What the user said on the command line, as Hydra took it (of this job, in a sweep)."""
    return list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []


def _telling(overrides: list[str]) -> list[str]:
    """The overrides that tell this run from others: in a sweep only those that the sweep varies."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return overrides
    said = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    varied = {each.key_or_group for each in OverridesParser.create().parse_overrides(said) if each.is_sweep_override()}
    return [override for override in overrides if override.lstrip("+").split("=")[0] in varied] or overrides


def _quieten() -> None:
    """Advice of Lightning's that does not apply to us, each with its reason."""
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    # the data is read from mapped files or made up; workers do not help small models, and it is a setting
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", ".*This DataLoader will create.*")
    # metrics are logged by the callbacks, when a window closes
    warnings.filterwarnings("ignore", ".*`Trainer.fit` stopped.*")
    # Lightning 2.6.6 with newer PyTorch
    warnings.filterwarnings("ignore", ".*treespec, LeafSpec.*")
