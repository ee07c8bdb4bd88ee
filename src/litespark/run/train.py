"""Runs a config: the only way from `train.py`, `litespark train` and the tests to a trained model and its report."""

import logging
import shutil
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NoReturn

import lightning.pytorch as pl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from litespark.callbacks.signals import Interrupted, stop_is_ctrl_c
from litespark.data.config import SyntheticConfig
from litespark.data.manifest import FILE as MANIFEST
from litespark.data.modules import build_data_module, prepared_folder
from litespark.data.storage import Storage
from litespark.data.stream.modules import PreparedDataModule, SequenceDataModule
from litespark.device import out_of_memory
from litespark.launch import Ranks
from litespark.metrics.meters import choose_meter
from litespark.ops.choice import FailedVerificationError
from litespark.run.adapter import with_base
from litespark.run.automatic import check_found_alike, is_automatic, with_found_run
from litespark.run.build import Run, build_run, check_vocabulary, token_budget
from litespark.run.config import ConfigError, Parts, overrides_given, parts_from
from litespark.run.continue_command import Started, how_to_continue
from litespark.run.finish import close, finish
from litespark.run.folder import RECORD, config_from
from litespark.run.measured_compile import with_measured_compile
from litespark.run.measured_precision import with_measured_precision
from litespark.run.model_folder import check_tokenizer
from litespark.run.new_run import check_name, make, new_record, new_segment, write_config
from litespark.run.preflight import Machine, find_data, preflight
from litespark.run.processes import join_processes, part_processes
from litespark.run.requeue import requeue
from litespark.run.resume import FinishedError, Resumed, reopen
from litespark.run.reward_models import check_reward_models
from litespark.run.run_data import PREPARATION, data_of_run, record_place
from litespark.run.run_lock import run_lock
from litespark.run.sweep import JOBS, telling
from litespark.tasks.task import Scores
from litespark.training.module import NonFiniteError

log = logging.getLogger(__name__)


class OutOfMemoryError(RuntimeError):
    """The device has too little memory for the run."""


# what a user can mend, or the machine refuses: shown as one short message, without a traceback
USER_ERRORS = (ValueError, OSError, NonFiniteError, OutOfMemoryError)


def train(config: DictConfig) -> Path:
    """Train as `config` says; returns the run's folder. Errors are `USER_ERRORS`, bugs, or Interrupted, once saved."""
    quieten()
    overrides, automatic = overrides_given(), is_automatic(config)
    parts = parts_from(with_found_run(config) if automatic else config)
    ranks = Ranks.from_environment(parts.strategy.name)
    machine = preflight(parts, ranks)
    pl.seed_everything(parts.seed, verbose=False)
    machine = join_processes(machine, parts.strategy)
    finished = False
    try:
        with ExitStack() as locks:
            if automatic:
                check_found_alike(parts.resume, parts.name, machine.mesh)
            hold = partial(_hold, locks)
            try:
                folder = _train(parts, machine, overrides, hold, again=automatic)
            except FinishedError as done:  # of all ranks
                if not automatic:
                    raise
                log.info("nothing is left to do: %s", done)
                folder = done.folder
        finished = True
        return folder
    finally:
        part_processes(ranks, finished=finished)


def _hold(locks: ExitStack, folder: Path) -> None:
    locks.enter_context(run_lock(folder))


def _train(
    parts: Parts, machine: Machine, overrides: list[str], hold: Callable[[Path], None], *, again: bool = False
) -> Path:
    """`hold` locks the folder of the run for this process, and so for all its ranks; see `make` for `again`."""
    started = Started.here()  # later its parent may be gone
    mesh, resumed = machine.mesh, None
    if parts.resume is not None:  # before the data, which may have to be prepared
        resumed = reopen(parts, machine, hold)
        mesh.from_first(partial(check_reward_models, parts, resumed.checkpoint), "reward models to be compared")
    else:
        # on one rank: another may be so far ahead that it has made the folder
        mesh.from_first(lambda: check_name(parts, again=again), "the name to be checked")
    if resumed is not None and parts.adapter is not None:
        parts = with_base(parts, resumed.checkpoint, mesh)
    data = _data(parts, machine, resumed, overrides)
    check_vocabulary(parts, data.manifest)
    prepared = data.folder if isinstance(data, PreparedDataModule) else None
    if prepared is not None:
        check_tokenizer(parts.weights, parts.allow_other_tokenizer, prepared)
    before, steps = None if resumed is None else resumed.record, token_budget(parts, data.manifest).planned_steps()
    machine = with_measured_precision(parts, machine, before)
    machine = with_measured_compile(parts, machine, steps, before)
    if resumed is None:
        folder = mesh.from_first(
            lambda: make(parts, telling(overrides), prepared, data.manifest, hold, again=again),
            "the run folder to be made",
        )
    else:
        folder = resumed.folder
    if JOBS:
        JOBS[-1].folder = folder
    run = _built(parts, machine, folder, data, overrides, resumed)
    try:
        _fit(run, resumed)
        with stop_is_ctrl_c():
            finish(parts, run)
    except (Interrupted, KeyboardInterrupt) as stop:
        if isinstance(stop, KeyboardInterrupt) and not (run.quality.reached or run.module.finished):
            if run.module.steps_taken:  # a callback ended the process
                close(run, "interrupted")
            else:
                _undo(folder, resumed, machine)
            raise
        _stopped(run, resumed, how_to_continue(overrides, folder, machine.ranks, started), stop, again=again)
    except Exception as error:
        _note_failure(run, error)
        if (full := out_of_memory(error)) is not None:
            raise _out_of_memory(parts, full) from error
        raise
    return folder


def _data(parts: Parts, machine: Machine, resumed: Resumed | None, overrides: list[str]) -> SequenceDataModule:
    """The data module of every rank. One process prepares the data, or one a machine where no disk is shared.

    The others wait without the time-out of collectives.
    """
    if isinstance(parts.data, SyntheticConfig):
        return build_data_module(parts.data, seed=parts.seed, mesh=machine.mesh)

    def find() -> Path | str:
        if resumed is not None:
            return data_of_run(parts, resumed.folder, resumed.checkpoint, _given(overrides))
        return prepared_folder(parts.data, machine.found or find_data(parts))

    mesh = machine.mesh
    place = mesh.from_first(find, "the data to be prepared")
    if mesh.world_size > 1:
        places = mesh.gather((Storage(place).exists(MANIFEST), mesh.local_rank))
        without = [rank for rank, (here, local_rank) in enumerate(places) if not here and local_rank == 0]
        mesh.from_ranks(without, find, "the data to be prepared")
    scores = isinstance(parts.task, Scores)  # which it reads there
    return build_data_module(parts.data, seed=parts.seed, mesh=mesh, place=place, last_ids=scores)


def _given(overrides: list[str]) -> frozenset[str]:
    """The keys below `data` that the user set; all that prepare it where there is no command line."""
    keys = [override.key_or_group for override in OverridesParser.create().parse_overrides(overrides)]
    if "data" in keys or not HydraConfig.initialized():
        return PREPARATION
    return frozenset(key.split(".")[1] for key in keys if key.startswith("data."))


def _built(
    parts: Parts,
    machine: Machine,
    folder: Path,
    data: SequenceDataModule,
    overrides: list[str],
    resumed: Resumed | None,
) -> Run:
    """The run ready to fit; a new one that cannot be built leaves nothing, but the record of a failed verification."""
    record = None
    try:
        mesh = machine.mesh
        meter = choose_meter(
            machine.device, local_rank=mesh.local_rank, lower=lambda mine: mesh.gather(mine)[: mesh.rank]
        )
        record = resumed.record if resumed else new_record(parts, machine, folder, data.manifest, meter, overrides)
        segment = new_segment(machine, resumed.checkpoint.step if resumed else 0, overrides)
        run = build_run(parts, machine, folder, data, record, segment, meter)
        if machine.mesh.is_first:
            _note_start(parts, run, resumed)
        return run
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, FailedVerificationError) and record is not None:
            if machine.mesh.is_first:
                record.stands_at("failed", f"{type(error).__name__}: {error}")
                record.write(folder / RECORD)  # it has no recorder yet
            raise
        _undo(folder, resumed, machine)
        if (full := out_of_memory(error)) is not None:
            raise _out_of_memory(parts, full) from error
        raise


def _note_start(parts: Parts, run: Run, resumed: Resumed | None) -> None:
    """Note where the data lies and what a resume goes on with."""
    if isinstance(run.data, PreparedDataModule):
        record_place(run.folder, run.data.place)
    if resumed is None:
        log.info("run in %s", run.folder)
        return
    unused = "" if parts.name in (None, run.folder.name) else f"; name={parts.name} is not used, the folder stays"
    log.info("resuming in %s%s", run.folder, unused)
    write_config(run.folder / config_from(resumed.checkpoint.step), parts)


def _fit(run: Run, resumed: Resumed | None) -> None:
    """Take the steps. Ctrl-C before the first and after the last of them is a KeyboardInterrupt."""
    state = None if resumed is None else resumed.checkpoint.folder
    try:
        run.trainer.fit(run.module, run.data, ckpt_path=state, weights_only=True)
    except SystemExit as end:  # what Lightning 2.6.6 makes of a KeyboardInterrupt
        raise KeyboardInterrupt from end


def _stopped(run: Run, resumed: Resumed | None, command: str, stop: BaseException, *, again: bool) -> NoReturn:
    """End a run that was told to stop and is saved; `command` continues it, and with `again` so does the same job."""
    close(run, "interrupted")
    step = run.module.steps_taken
    # a resume without a step left has not saved anything itself
    if step not in (run.quality.checkpointer.saved_step, resumed and resumed.checkpoint.step):
        raise KeyboardInterrupt(
            f"Stopped after the last step, {step}, which callbacks.checkpoint_at_end=false does not save."
        ) from stop
    if run.module.mesh.is_first:
        print(f"\nStopped after step {step}, saved. {command}", file=sys.stderr, flush=True)
        if isinstance(stop, Interrupted) and stop.time_over:
            requeue(continues=again)
    raise Interrupted(step) from stop


def _note_failure(run: Run, error: Exception) -> None:
    """Write what ended the run into its record; a ConfigError where its folder is gone."""
    if not run.folder.is_dir():
        raise ConfigError(
            f"{run.folder} is gone: it was removed or moved while this run wrote into it. Start the run again, or "
            "continue it where it was moved: resume=FOLDER"
        ) from error
    try:
        close(run, "failed", f"{type(error).__name__}: {error}" if out_of_memory(error) is None else str(error))
    except OSError as lost:  # of a full disk, which may be the same and must not hide it
        log.error("the record of the run is not complete: %s", lost)


def _out_of_memory(parts: Parts, full: str) -> OutOfMemoryError:
    sequences = parts.data.micro_batch_size
    # a divisor of what divides trainer.global_batch_size divides it too
    fewer = next((size for size in range(sequences // 2, 0, -1) if sequences % size == 0), None)
    kept = "trainer.global_batch_size stays, so the result does too"
    smaller = "" if fewer is None else f"data.micro_batch_size={fewer} ({kept}), or "
    return OutOfMemoryError(
        f"out of memory with data.micro_batch_size={sequences}, recompute={parts.recompute}: "
        f"{full}. Set {smaller}recompute=full, or strategy=fsdp over more devices"
    )


def _undo(folder: Path, resumed: Resumed | None, machine: Machine) -> None:
    """Remove the folder of a new run in which nothing was run."""
    if resumed is None and machine.mesh.is_first:
        shutil.rmtree(folder, ignore_errors=True)  # what made it fail may hinder this too


def quieten() -> None:
    """Silence advice of Lightning's that does not apply to us."""
    for logger in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(logger).setLevel(logging.WARNING)
    # on the gradient norm under tensor parallelism, one number that is summed in two steps
    logging.getLogger("torch.distributed.tensor._redistribute").setLevel(logging.ERROR)
    for message in (
        # the data is read from mapped files or made up; workers do not help small models, and it is a setting
        "does not have many workers",
        "This DataLoader will create",
        # a run that goes on without fp8 says so itself
        "callbacks used to create the checkpoint need to be provided.*Fp8Monitor",
        # the callbacks validate and log
        "have no `validation_step`",
        "`Trainer.fit` stopped",
        # Lightning 2.6.6 with newer PyTorch
        "treespec, LeafSpec",
        # a part of a DTensor always is one, and no layer writes into it
        "FSDP2-wrapped module.*returned a view tensor",
    ):
        warnings.filterwarnings("ignore", f"(?s).*{message}")
