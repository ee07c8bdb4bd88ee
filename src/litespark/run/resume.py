"""A run that is resumed: its checkpoint, verified and read once, and what may differ from how it was started."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from litespark.config.groups import on_resume
from litespark.config.settings import BY_CONTENT, FIXED
from litespark.data.config import SourceConfig
from litespark.run.build import token_budget
from litespark.run.config import ConfigError, Parts, differences
from litespark.run.folder import CONFIG, RECORD, read_config, run_of
from litespark.run.preflight import Machine
from litespark.run.record import RunRecord
from litespark.training.checkpoint.folder import Checkpoint, CheckpointError, find

log = logging.getLogger(__name__)


class FinishedError(ConfigError):
    """The run to be resumed has nothing left to train."""

    def __init__(self, message: str, folder: Path) -> None:
        super().__init__(message)
        self.folder = folder


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: its folder, checkpoint, and its record so far."""

    folder: Path
    checkpoint: Checkpoint
    record: RunRecord


def reopen(parts: Parts, machine: Machine, hold: Callable[[Path], None]) -> Resumed:
    """What `resume` means; a collective. Each rank verifies its share of the files, and what it reads of the others."""
    mesh = machine.mesh

    def found() -> Checkpoint:
        folder = run_of(str(parts.resume))
        if (folder / CONFIG).is_file() and not damaged:
            hold(folder)
        return to_continue(parts, damaged)

    damaged: dict[Path, CheckpointError] = {}
    while True:
        checkpoint = mesh.from_first(found, "the checkpoint to be found")
        verify = partial(checkpoint.verify, mesh.rank, mesh.world_size)
        try:
            mesh.from_all(verify, "the checkpoint to be verified")
            break
        except CheckpointError as error:
            damaged[checkpoint.folder] = error
            if mesh.is_first:
                log.warning("passing over a checkpoint: %s", error)
    folder = run_of(checkpoint.folder)
    record = RunRecord.read(folder / RECORD)
    _check_left(parts, record, checkpoint)
    return Resumed(folder, checkpoint, record)


def to_continue(parts: Parts, damaged: Mapping[Path, CheckpointError] | None = None) -> Checkpoint:
    """The checkpoint that `resume` means, after the config was compared with that of its run. Its files are not read,
    and those that were found `damaged` do not count."""
    assert parts.resume is not None
    checkpoint = find(parts.resume, hashes=False, damaged=damaged or {})
    folder = run_of(checkpoint.folder)
    if not (folder / CONFIG).is_file():
        raise ConfigError(f"resume={parts.resume}: {folder} has no {CONFIG}; expected the folder of a run")
    changes = differences(read_config(folder / CONFIG), parts.resolved)
    if isinstance(parts.data, SourceConfig) and "data.kind" not in changes:  # `run_data` compares its content
        changes = {key: pair for key, pair in changes.items() if on_resume(key) is not BY_CONTENT}
    if not {"fp8", "auto"}.issuperset(changes.get("precision.name", [parts.precision])):  # one of the two is not in fp8
        changes = {key: pair for key, pair in changes.items() if not key.startswith("precision.fp8.")}
    refused = {key: pair for key, pair in changes.items() if on_resume(key) in (FIXED, BY_CONTENT)}
    if refused:
        raise ConfigError(
            f"resume={parts.resume}: the config differs from the one that the run was started with:\n"
            + "\n".join(f"  {key}: was {was!r}, is now {now!r}" for key, (was, now) in refused.items())
            + "\nA resume continues the same model and optimizer on the same data: give the same overrides again (they "
            f"are in {folder / RECORD} under command), or start a new run"
        )
    if moved_in := differences({"model": checkpoint.about.get("model")}, {"model": parts.resolved["model"]}):
        raise ConfigError(
            f"resume={parts.resume}: {checkpoint.folder} is the checkpoint of another model than this run's "
            f"{folder / CONFIG}: "
            + ", ".join(f"{key} is {was!r}, expected {now!r}" for key, (was, now) in moved_in.items())
            + ". Remove it, and an earlier checkpoint of this run is found"
        )
    for key, (was, now) in changes.items():
        log.warning("resuming with %s=%r, the run was started with %r", key, now, was)
    return checkpoint


def _check_left(parts: Parts, record: RunRecord, checkpoint: Checkpoint) -> None:
    """Refuse to train a run on that is finished, unless it is given more to do."""
    if record.status != "finished":
        return
    folder, wanted = run_of(checkpoint.folder), parts.budget.target_bpb
    reached = None if record.target is None else record.target.reached
    if reached and wanted is not None and reached.bits_per_byte <= wanted:
        raise FinishedError(
            f"resume={parts.resume}: the run is finished, it reached {reached.bits_per_byte:.4g} bits per byte at step "
            f"{reached.step}; lower budget.target_bpb={wanted} (or set it to null) to train on",
            folder,
        )
    tokens = int(checkpoint.about["tokens"])
    if token_budget(parts).finished(tokens, checkpoint.step):
        key, spent = ("steps", checkpoint.step) if parts.budget.steps is not None else ("tokens", tokens)
        raise FinishedError(
            f"resume={parts.resume}: the run is finished; its checkpoint of step {checkpoint.step} has seen {tokens} "
            f"tokens, and budget.{key} is {getattr(parts.budget, key)}; raise budget.{key} to train on, for instance "
            f"budget.{key}={2 * spent}",
            folder,
        )
