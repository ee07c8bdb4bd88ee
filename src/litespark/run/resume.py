"""A run that is resumed: its checkpoint, verified and read once, and what may differ from how it was started."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from litespark.config.groups import on_resume
from litespark.config.settings import BY_CONTENT, FIXED
from litespark.data.config import SourceConfig
from litespark.run.build import token_budget
from litespark.run.config import ConfigError, Parts, differences
from litespark.run.folder import CONFIG, RECORD, read_config, run_of
from litespark.run.preflight import Machine
from litespark.run.record import RunRecord
from litespark.training.checkpoint.folder import Checkpoint, find, read
from litespark.training.checkpoint.state import StateAtHand, read_state

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on: its folder, checkpoint, what that holds for Lightning to take, and its record so far."""

    folder: Path
    checkpoint: Checkpoint
    state: StateAtHand
    record: RunRecord


def reopen(parts: Parts, machine: Machine, hold: Callable[[Path], None]) -> Resumed:
    """What `resume` means; a collective. Every rank opens the state once.

    One rank finds the checkpoint and verifies it, and one on each other machine, whose disk may be another.
    """
    mesh = machine.mesh

    def found() -> Checkpoint:
        folder = run_of(str(parts.resume))
        if (folder / CONFIG).is_file():
            hold(folder)
        return to_continue(parts)

    checkpoint = mesh.from_first(found, "the checkpoint to be verified")
    mesh.from_machines(lambda: mesh.rank and read(checkpoint.folder), "the checkpoint to be verified")
    state = read_state(checkpoint)
    folder = run_of(checkpoint.folder)
    record = RunRecord.read(folder / RECORD)
    _check_left(parts, record, checkpoint)
    # Lightning would not ask for it, and it would keep the file mapped
    kept = {} if parts.strategy.shards else state
    return Resumed(folder, checkpoint, StateAtHand(kept), record)


def to_continue(parts: Parts) -> Checkpoint:
    """The checkpoint that `resume` means, after the config was compared with that of its run."""
    assert parts.resume is not None
    checkpoint = find(parts.resume)
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
    if "fsdp" in changes.get("strategy.name", ()):  # its optimizer states are named in another way
        was, now = changes["strategy.name"]
        raise ConfigError(
            f"resume={parts.resume}: got strategy.name={now}, expected {was} as the run was started with; a run "
            f"changes between single and ddp only, or between numbers of devices. Set strategy={was}"
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
    wanted = parts.budget.target_bpb
    reached = None if record.target is None else record.target.reached
    if reached and wanted is not None and reached.bits_per_byte <= wanted:
        raise ConfigError(
            f"resume={parts.resume}: the run is finished, it reached {reached.bits_per_byte:.4g} bits per byte at step "
            f"{reached.step}; lower budget.target_bpb={wanted} (or set it to null) to train on"
        )
    tokens = int(checkpoint.about["tokens"])
    if token_budget(parts).finished(tokens, checkpoint.step):
        key, spent = ("steps", checkpoint.step) if parts.budget.steps is not None else ("tokens", tokens)
        raise ConfigError(
            f"resume={parts.resume}: the run is finished; its checkpoint of step {checkpoint.step} has seen {tokens} "
            f"tokens, and budget.{key} is {getattr(parts.budget, key)}; raise budget.{key} to train on, for instance "
            f"budget.{key}={2 * spent}"
        )
