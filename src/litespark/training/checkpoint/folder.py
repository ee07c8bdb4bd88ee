"""Checkpoints on disk: written beside their place, sealed with hashes, renamed; verified before they are read.

A checkpoint is a folder `checkpoints/step-00000100/` with the state in it and `checkpoint.json`, the seal: size and
SHA-256 of every file, the step and what the state belongs to. A folder without a valid seal does not count.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litespark.atomic import content_hash
from litespark.run.folder import CHECKPOINTS, SEAL

log = logging.getLogger(__name__)

SCHEMA = "litespark.checkpoint/1"
STATE = "state.ckpt"
_PREFIX = "step-"
_UNFINISHED = ".unfinished-"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint.

    Attributes:
        folder: where it lies.
        step: optimizer steps taken before it was written.
        about: what the writer said of it (run name, tokens, configuration).
    """

    folder: Path
    step: int
    about: Mapping[str, Any]

    @property
    def state(self) -> Path:
        return self.folder / STATE


def begin(root: Path, step: int, expected_bytes: int) -> Path:
    """Make an empty folder under `root` for the checkpoint of `step`.

    Raises:
        CheckpointError: fewer than `expected_bytes` are free there, or nothing can be written there.
    """
    folder = root / f"{_UNFINISHED}{step:08d}"
    try:
        root.mkdir(exist_ok=True)  # in the folder of the run, which is not made again where somebody removed it
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise CheckpointError(
            f"cannot write checkpoints in {root} ({error}); expected a folder that can be written"
        ) from error
    free = shutil.disk_usage(root).free
    if free < expected_bytes:
        folder.rmdir()
        raise CheckpointError(
            f"no room for a checkpoint in {root}: {free / 2**30:.2f} GiB are free and it needs about "
            f"{expected_bytes / 2**30:.2f} GiB. The earlier checkpoints are untouched; free some space and resume"
        )
    return folder


def seal(unfinished: Path, step: int, about: Mapping[str, Any]) -> Path:
    """Hash, flush and rename a written checkpoint; it counts from the rename on. Returns its final folder."""
    files = {}
    for path in sorted(p for p in unfinished.rglob("*") if p.is_file()):
        files[str(path.relative_to(unfinished))] = {"size": path.stat().st_size, "sha256": content_hash(path)}
        _flush(path)
    content = {"schema": SCHEMA, "step": step, "files": files, "about": dict(about)}
    seal_path = unfinished / SEAL
    seal_path.write_text(json.dumps(content, indent=1))
    _flush(seal_path)
    _flush(unfinished)
    final = unfinished.parent / f"{_PREFIX}{step:08d}"
    if final.exists():  # the same step, saved again after a resume
        shutil.rmtree(final)
    unfinished.rename(final)
    _flush(final.parent)
    return final


def read(folder: Path, *, hashes: bool = True) -> Checkpoint:
    """The checkpoint in `folder`, after its sizes and (by default) hashes were verified.

    Raises:
        CheckpointError: no seal, another schema, a missing, truncated or changed file; the message names it.
    """
    path = folder / SEAL
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint of this project: it has no {SEAL} (a checkpoint that was never finished, or "
            "one of another program; weights of other programs come in with initial_weights=HUGGING_FACE_FOLDER)"
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON ({error}); use an earlier checkpoint") from error
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        got = content.get("schema") if isinstance(content, dict) else type(content).__name__
        raise CheckpointError(f"{path}: got schema {got!r}, expected {SCHEMA!r}; use a checkpoint of this version")
    try:
        step, about = int(content["step"]), dict(content["about"])
        files = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in content["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointError(f"{path} is damaged ({error!r}); use an earlier checkpoint") from error
    if STATE not in files:
        raise CheckpointError(f"{path} lists no {STATE}; this checkpoint is damaged, use an earlier one")
    for name, (size, sha256) in files.items():
        _verify(folder / name, size, sha256 if hashes else None)
    return Checkpoint(folder, step, about)


def _verify(path: Path, expected_size: int, expected_hash: str | None) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; this checkpoint is damaged, use an earlier one")
    if (size := path.stat().st_size) != expected_size:
        raise CheckpointError(
            f"{path} has {size} bytes, expected {expected_size}; this checkpoint is damaged, use an earlier one"
        )
    if expected_hash is not None and content_hash(path) != expected_hash:
        raise CheckpointError(f"{path} was changed since it was written (SHA-256 differs); use an earlier checkpoint")


def find(path: str | Path) -> Checkpoint:
    """The checkpoint that `path` means: one itself, or the newest valid one of a run folder.

    Raises:
        CheckpointError: nothing there, nothing valid there, or something that is not read for safety.
    """
    if "://" in str(path):
        raise CheckpointError(f"got the address {path}, expected a local folder; copy the run folder here first")
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; expected a run folder (logs/runs/NAME) or a checkpoint in it")
    if path.is_file():
        raise CheckpointError(
            f"{path} is a file, expected a run folder or a checkpoint folder (step-…); single files are pickles that "
            "could run code, and are not read. Weights of other programs come in as a Hugging Face folder, "
            "initial_weights=FOLDER"
        )
    if (path / SEAL).exists() or path.name.startswith(_PREFIX):
        return read(path)
    root = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    newest = None
    for folder in reversed(finished(root)):
        try:
            return read(folder)
        except CheckpointError as error:
            newest = newest or error
            log.warning("passing over a checkpoint: %s", error)
    if newest is None and (runs := runs_below(path)):
        some = ", ".join(str(run.relative_to(path)) for run in runs[:5]) + (", …" if len(runs) > 5 else "")
        raise CheckpointError(
            f"{path} is no run, but a folder with {len(runs)} (newest first: {some}); name one of them, such as "
            f"{shlex.quote(str(runs[0]))}"
        )
    reason = f"; the newest: {newest}" if newest else ""
    remedy = "Start the run again" if newest or root != path else "Name the folder of a run, such as logs/runs/NAME"
    raise CheckpointError(
        f"no valid checkpoint in {root}, expected folders {_PREFIX}… that hold a {SEAL}{reason}. {remedy}"
    )


def can_resume(path: str | Path) -> bool:
    """Whether there is a valid checkpoint to continue from."""
    try:
        find(path)
    except CheckpointError:
        return False
    return True


def is_run(path: Path) -> bool:
    """Whether `path` is meant as a run, a checkpoint, or a folder of runs."""
    named = path.name.startswith(_PREFIX) or (path / CHECKPOINTS).exists() or (path / SEAL).exists()
    return named or bool(runs_below(path))


def runs_below(path: Path) -> list[Path]:
    """The runs with checkpoints in a folder, or in those of it, newest first."""
    found = {
        checkpoint.parent.parent
        for pattern in ("*", "*/*")
        for checkpoint in path.glob(f"{pattern}/{CHECKPOINTS}/{_PREFIX}*")
    }
    return sorted(found, key=lambda run: (run.stat().st_mtime, run.name), reverse=True)


def finished(root: Path) -> list[Path]:
    """The checkpoint folders under `root` that were renamed to their place, oldest first; not verified."""
    return sorted(p for p in root.glob(f"{_PREFIX}*") if p.is_dir())


def prune(root: Path, step: int, keep: int) -> None:
    """After the checkpoint of `step` was sealed, remove all but the newest `keep`, and what killed writers left.

    Checkpoints of later steps go first: a run that went back to an earlier step, because the later ones are damaged or
    because it was told to, takes those steps again, and must not lose the new ones to the old.
    """
    newest = root / f"{_PREFIX}{step:08d}"
    later = [folder for folder in finished(root) if folder.name > newest.name]
    if later:
        names = ", ".join(folder.name for folder in later)
        log.warning("removing checkpoints of steps after %d, which this run takes again: %s", step, names)
    earlier = [folder for folder in finished(root) if folder not in later]
    for folder in (*later, *earlier[:-keep], *root.glob(f"{_UNFINISHED}*")):
        shutil.rmtree(folder)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
