"""The folder of a run: its name, its making, the config in it, and what may differ when a run is resumed."""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from litespark.callbacks import checkpoint_folder
from litespark.callbacks.checkpoint_folder import Checkpoint
from litespark.callbacks.run_record import RECORD
from litespark.config.groups import on_resume
from litespark.config.settings import BY_CONTENT, FIXED, NOT_COMPARED
from litespark.data.config import PrepareConfig
from litespark.data.contents import RUN_DATA, write_run_data
from litespark.data.manifest import Manifest
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.run_data import PLACE
from litespark.experiment.run_lock import LOCK
from litespark.experiment.variant import legible
from litespark.models.llama import fp8
from litespark.override_text import override
from litespark.reports.run_config import CONFIG_FILE as CONFIG
from litespark.reports.run_config import flatten, read_config

log = logging.getLogger(__name__)

TOKENIZER = "tokenizer"
# of a folder on the usual file systems, less what TensorBoard and we put behind a name
LONGEST_NAME = 200

# what a run writes before its first step
_BEFORE_TRAINING = {CONFIG, TOKENIZER, LOCK, PLACE, RUN_DATA, RECORD, "checkpoints", "hparams.yaml", "metrics.jsonl",
                    "energy.jsonl", "wandb", "mlruns"}  # fmt: skip


def check_name(parts: Parts) -> None:
    """Refuse a `name` that cannot be that of a new run; early, since preparing the data may take long.

    Raises:
        ConfigError: it is not a plain folder name, or there is a run of that name in which something was trained.
    """
    name, root = parts.name, parts.logs / "runs"
    if not name:
        return
    if Path(name).name != name or name.startswith(".") or len(os.fsencode(name)) > LONGEST_NAME:
        raise ConfigError(
            f"name: got {name!r}, expected a plain folder name of at most {LONGEST_NAME} bytes (below {root})"
        )
    if (root / name).exists() and not nothing_trained(root / name):
        raise _taken(root / name)


def nothing_trained(folder: Path) -> bool:
    """Whether a folder holds nothing but what a run writes before its first step is logged or saved."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    known = {name for name in names if name in _BEFORE_TRAINING or name.startswith("events.out.tfevents")}
    logged = folder / "metrics.jsonl"
    return (
        names == known
        and not checkpoint_folder.finished(folder / "checkpoints")
        and not (logged.is_file() and logged.stat().st_size)
    )


def _taken(folder: Path) -> ConfigError:
    if checkpoint_folder.finished(folder / "checkpoints"):
        remedy = f"or continue that run with {override('resume', folder)}"
    else:
        remedy = "or remove it; it has no checkpoint to continue from"
    return ConfigError(f"name={folder.name}: {folder} exists already; choose another name, {remedy}")


def folder_of(resume: str) -> Path:
    """The run folder of a run, its checkpoints or one of them."""
    path = Path(resume).absolute()
    if path.parent.name != "checkpoints" and path.is_symlink():  # such as one called `latest`
        path = path.resolve()
    if path.parent.name == "checkpoints" or (path / checkpoint_folder.SEAL).is_file():
        return path.parent.parent
    return path.parent if path.name == "checkpoints" else path


def make(
    parts: Parts,
    overrides: list[str],
    prepared: Path | None = None,
    manifest: Manifest | None = None,
    hold: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Make the folder of a new run below `logs/runs` and write the resolved config into it.

    It is called `name`, or else after the time and `overrides`: those that tell this run from others. The tokenizer of
    the data in `prepared` is copied into it and what its `manifest` states, so that the run can be used and its report
    be written without that data. A folder of that `name` in which nothing was trained is used again. `hold` locks the
    folder before anything is written.

    Raises:
        ConfigError: as `check_name`, or as `hold` does.
    """
    check_name(parts)
    root = parts.logs / "runs"
    name = parts.name or _default_name(overrides)
    folder = root / name
    number = 1
    while True:
        try:
            folder.mkdir(parents=True)
            break
        except FileExistsError:
            if parts.name:
                break
            number += 1
            folder = root / f"{name}-{number}"
    hold(folder)
    if not nothing_trained(folder):  # another process was faster
        raise _taken(folder)
    for path in folder.iterdir():
        if path.name != LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    (folder / CONFIG).write_text(yaml.safe_dump(parts.resolved, sort_keys=False))
    if manifest is not None:
        write_run_data(folder, manifest)
    if prepared is not None:
        (folder / TOKENIZER).mkdir()
        for file in sorted(prepared.glob("tokenizer*.json")):
            shutil.copyfile(file, folder / TOKENIZER / file.name)
    return folder


def write_config(folder: Path, parts: Parts, step: int) -> None:
    """Write the resolved config that a run continues with from `step`, beside the one that it was started with."""
    (folder / f"config-from-step-{step:08d}.yaml").write_text(yaml.safe_dump(parts.resolved, sort_keys=False))


def reopen(parts: Parts) -> tuple[Path, Checkpoint]:
    """The folder and checkpoint that `resume` means, after the config was compared with the run's own.

    Raises:
        ValueError: no valid checkpoint, or model, data, task or seed differ from the run's.
    """
    assert parts.resume is not None
    checkpoint = checkpoint_folder.find(parts.resume)
    folder = folder_of(str(checkpoint.folder))
    saved_path = folder / CONFIG
    if not saved_path.is_file():
        raise ConfigError(f"resume={parts.resume}: {folder} has no {CONFIG}; expected the folder of a run")
    started = read_config(saved_path)
    changes = differences(started, parts.resolved)
    if (
        isinstance(parts.data, PrepareConfig) and "data.kind" not in changes
    ):  # what is prepared is compared by its content, see `run_data`
        changes = {key: pair for key, pair in changes.items() if on_resume(key) is not BY_CONTENT}
    refused = {key: pair for key, pair in changes.items() if on_resume(key) in (FIXED, BY_CONTENT)}
    if refused:
        raise ConfigError(
            f"resume={parts.resume}: the config differs from the one that the run was started with:\n"
            + "\n".join(f"  {key}: was {was!r}, is now {now!r}" for key, (was, now) in refused.items())
            + "\nA resume continues the same model and optimizer on the same data: give the same overrides again (they "
            f"are in {folder / 'run.json'} under command), or start a new run"
        )
    if "fsdp" in changes.get("strategy.name", ()):  # its optimizer states are named in another way
        was, now = changes["strategy.name"]
        raise ConfigError(
            f"resume={parts.resume}: got strategy.name={now}, expected {was} as the run was started with; a run "
            f"changes between single and ddp only, or between numbers of devices. Set strategy={was}"
        )
    moved_in = differences({"model": checkpoint.about.get("model")}, {"model": asdict(parts.model)})
    if moved_in:
        raise ConfigError(
            f"resume={parts.resume}: {checkpoint.folder} is the checkpoint of another model than this run's "
            f"{folder / CONFIG}: "
            + ", ".join(f"{key} is {was!r}, expected {now!r}" for key, (was, now) in moved_in.items())
            + ". Remove it, and an earlier checkpoint of this run is found"
        )
    _check_state(parts.resume, checkpoint)
    for key, (was, now) in changes.items():
        rank_zero_only(log.warning)("resuming with %s=%r, the run was started with %r", key, now, was)
    return folder, checkpoint


def check_fp8(parts: Parts, checkpoint: Checkpoint) -> None:
    """Compare the settings of a run in fp8 with the scales in `checkpoint`, before anything in the folder is touched.

    Raises:
        ConfigError: scales of other settings; those of none are made anew.
    """
    state = torch.load(checkpoint.state, map_location="cpu", mmap=True, weights_only=True)
    saved = state["litespark"].get("fp8")
    if saved is None:
        return
    try:
        fp8.check_state(saved, parts.llama.num_layers, parts.fp8)
    except ValueError as error:
        raise ConfigError(f"resume={parts.resume}: {error}") from error


def _check_state(resume: str, checkpoint: Checkpoint) -> None:
    """Read the state as the Trainer will (mapped, so nothing is copied), before anything in the folder is touched.

    Raises:
        ConfigError: it holds more than tensors and plain values; `weights_only` refuses that and runs none of it.
    """
    try:
        torch.load(checkpoint.state, map_location="cpu", mmap=True, weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise ConfigError(
            f"resume={resume}: {checkpoint.state} holds something else than tensors and plain values, which is all "
            "that Litespark writes; nothing in it was run. Use a checkpoint that Litespark wrote, or start from "
            "weights with initial_weights=HUGGING_FACE_FOLDER"
        ) from error


def differences(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys (dotted) in which two configs differ, with both values; names and folders are not compared."""
    old, new = flatten(saved), flatten(current)
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and on_resume(key) is not NOT_COMPARED
    }


def _default_name(overrides: list[str]) -> str:
    """Time and overrides, in characters that need no quotes in a shell or in Hydra's resume=…"""
    unsaid = ("resume=", "name=", "paths.", "hydra.", "data.source=")
    said = "_".join(legible(each) for each in overrides if not each.startswith(unsaid))
    short = re.sub(r"[^A-Za-z0-9._+-]+", "-", said)[:100].strip("-_")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return f"{stamp}_{short}" if short else stamp
