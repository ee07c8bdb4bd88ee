"""Checkpoints on disk: written beside their place, sealed with hashes, renamed; verified before they are read.

A checkpoint is a folder `checkpoints/step-00000100/` with the state in it and `checkpoint.json`, the seal: size and
SHA-256 of every file, the step and what the state belongs to. A folder without a valid seal does not count.
"""

import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from litespark.atomic import content_hash, flush_tree, put
from litespark.run.folder import CHECKPOINTS, SEAL

log = logging.getLogger(__name__)

SCHEMA: Final = "litespark.checkpoint/1"
STATE = "state.ckpt"
_PREFIX = "step-"
_UNFINISHED = ".unfinished-"


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint: the optimizer steps before it, what the writer stated about it, the hash of its state."""

    folder: Path
    step: int
    about: Mapping[str, Any]
    sha256: str = ""

    @property
    def state(self) -> Path:
        return self.folder / STATE


@dataclass(frozen=True)
class _File:
    size: int
    sha256: str


@dataclass(frozen=True)
class _Seal:
    step: int
    files: dict[str, _File]
    about: dict[str, Any]
    schema: Literal["litespark.checkpoint/1"]


_SEAL = TypeAdapter(_Seal)


class HashedFile:
    """A file that hashes what is written to it, so that it need not be read again for its seal."""

    def __init__(self, file: BufferedWriter) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.flush = file.flush

    def write(self, content: Any) -> int:
        self._sha256.update(content)
        return self._file.write(content)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def begin(root: Path, step: int, expected_bytes: int) -> Path:
    """An empty folder under `root` for the checkpoint of `step`; a CheckpointError where there is no room for it."""
    folder = root / f"{_UNFINISHED}{step:08d}"
    try:
        root.mkdir(exist_ok=True)  # in the folder of the run, which is not made again where somebody removed it
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir()
    except OSError as error:
        raise CheckpointError(f"cannot write checkpoints in {root} ({error}); expected one that can be") from error
    free = shutil.disk_usage(root).free
    if free < expected_bytes:
        folder.rmdir()
        raise CheckpointError(
            f"no room for a checkpoint in {root}: {free / 2**30:.2f} GiB are free and it needs about "
            f"{expected_bytes / 2**30:.2f} GiB. The earlier checkpoints are untouched; free some space and resume"
        )
    return folder


def seal(unfinished: Path, step: int, about: Mapping[str, Any], hashes: Mapping[str, str] | None = None) -> Path:
    """Hash (but for the `hashes` by name), flush and rename a checkpoint, which counts from the rename on."""
    files = {}
    for path in sorted(unfinished.iterdir()):
        sha256 = (hashes or {}).get(path.name) or content_hash(path)
        files[path.name] = {"size": path.stat().st_size, "sha256": sha256}
    content = {"schema": SCHEMA, "step": step, "files": files, "about": dict(about)}
    (unfinished / SEAL).write_text(json.dumps(content, indent=1))
    flush_tree(unfinished)
    final = unfinished.parent / f"{_PREFIX}{step:08d}"
    if final.exists():  # the same step, saved again after a resume
        shutil.rmtree(final)
    put(unfinished, final)
    return final


def read(folder: Path, *, hashes: bool = True) -> Checkpoint:
    """The checkpoint in `folder`, after its sizes and (by default) hashes were verified; else a CheckpointError."""
    path = folder / SEAL
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint of this project: it has no {SEAL} (a checkpoint that was never finished, or "
            "one of another program; weights of other programs come in with model=huggingface model.path=FOLDER)"
        )
    try:
        content = _SEAL.validate_json(path.read_bytes())
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise CheckpointError(
            f"{path} is damaged, or of another version than {SCHEMA} ({'.'.join(map(str, fault['loc'])) or 'JSON'}: "
            f"{fault['msg']}, got {fault['input']!r:.80}); use an earlier checkpoint"
        ) from error
    if STATE not in content.files:
        raise CheckpointError(f"{path} lists no {STATE}; this checkpoint is damaged, use an earlier one")
    for name, file in content.files.items():
        written = folder / name
        size = written.stat().st_size if written.is_file() else None
        if size != file.size:
            got = "is missing" if size is None else f"has {size} bytes"
            raise CheckpointError(
                f"{written} {got}, expected {file.size}; this checkpoint is damaged, use an earlier one"
            )
        if hashes and content_hash(written) != file.sha256:
            raise CheckpointError(
                f"{written} was changed since it was written (SHA-256 differs); use an earlier checkpoint"
            )
    return Checkpoint(folder, content.step, content.about, content.files[STATE].sha256)


def find(path: str | Path) -> Checkpoint:
    """The checkpoint that `path` means: one itself, or the newest valid one of a run folder.

    A CheckpointError where nothing valid is there, or something that is not read for safety.
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
            "model=huggingface model.path=FOLDER"
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
    with suppress(CheckpointError):
        find(path)
        return True
    return False


def is_run(path: Path) -> bool:
    """Whether `path` is meant as a run, a checkpoint, or a folder of runs."""
    named = path.name.startswith(_PREFIX) or (path / CHECKPOINTS).exists() or (path / SEAL).exists()
    return named or bool(runs_below(path))


def runs_below(path: Path) -> list[Path]:
    """The runs with checkpoints in a folder, or in those of it, newest first."""
    patterns = (f"*/{CHECKPOINTS}/{_PREFIX}*", f"*/*/{CHECKPOINTS}/{_PREFIX}*")
    runs = {checkpoint.parent.parent for pattern in patterns for checkpoint in path.glob(pattern)}
    return sorted(runs, key=lambda run: (run.stat().st_mtime, run.name), reverse=True)


def finished(root: Path) -> list[Path]:
    """The checkpoint folders under `root` that were renamed to their place, oldest first; not verified."""
    return sorted(p for p in root.glob(f"{_PREFIX}*") if p.is_dir())


def prune(root: Path, step: int, keep: int) -> None:
    """After the checkpoint of `step` was sealed, remove all but the newest `keep`, and what killed writers left.

    Checkpoints of later steps go first: a run that went back to an earlier step takes those steps again, and must not
    lose the new ones to the old.
    """
    newest = root / f"{_PREFIX}{step:08d}"
    later = [folder for folder in finished(root) if folder.name > newest.name]
    if later:
        names = ", ".join(folder.name for folder in later)
        log.warning("removing checkpoints of steps after %d, which this run takes again: %s", step, names)
    earlier = [folder for folder in finished(root) if folder not in later]
    for folder in (*later, *earlier[:-keep], *root.glob(f"{_UNFINISHED}*")):
        shutil.rmtree(folder)
