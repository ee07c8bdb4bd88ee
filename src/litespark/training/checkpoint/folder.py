"""Checkpoints on disk: written beside their place, sealed with hashes, renamed; verified before they are read.

A checkpoint is a folder `checkpoints/step-00000100/` with a file of tensors of each rank that wrote, and
`checkpoint.json`, the seal: size and SHA-256 of every file, where the pieces of each tensor lie, all that is no tensor,
the step and what the state belongs to, and a hash of the seal itself. A folder without a valid seal does not count.
"""

import hashlib
import json
import logging
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from litespark.atomic import flush_tree, put
from litespark.run.folder import CHECKPOINTS, SEAL
from litespark.training.checkpoint.files import CheckpointError as CheckpointError
from litespark.training.checkpoint.files import MappedFiles, Written, verify_size
from litespark.training.checkpoint.pieces import Stored

log = logging.getLogger(__name__)

SCHEMA: Final = "litespark.checkpoint/2"
PREFIX = "step-"
UNFINISHED = ".unfinished-"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose seal is valid: the optimizer steps before it, what the writer stated about it, the files and
    tensors in it, what is no tensor, and the hash of it all."""

    folder: Path
    step: int
    about: Mapping[str, Any]
    files: Mapping[str, Written]
    tensors: Mapping[str, Stored]
    state: Mapping[str, Any]
    sha256: str

    def verify(self, rank: int = 0, ranks: int = 1) -> None:
        """Raise the CheckpointError where a file is not as it was written; of several `ranks`, each has its share."""
        files = MappedFiles(self.folder, self.files)
        for name in sorted(self.files)[rank::ranks]:
            files.verify(name)


@dataclass(frozen=True)
class _Seal:
    schema: Literal["litespark.checkpoint/2"]
    step: int
    about: dict[str, Any]
    files: dict[str, Written]
    tensors: dict[str, Stored]
    state: dict[str, Any]
    sha256: str


_SEAL = TypeAdapter(_Seal)


def begin(root: Path, step: int, expected_bytes: int) -> Path:
    """An empty folder under `root` for the checkpoint of `step`; a CheckpointError where there is no room for it."""
    folder = root / f"{UNFINISHED}{step:08d}"
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


def seal(unfinished: Path, step: int, content: Mapping[str, Any]) -> Path:
    """Flush and rename a checkpoint of these `about`, `files`, `tensors` and `state`; it counts from the rename on."""
    # what is small first: `keep` reads the line of it alone
    fields = to_jsonable_python({"schema": SCHEMA, "step": step, "about": {}, "files": {}, **content})
    lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items())
    (unfinished / SEAL).write_bytes(_with_hash(("{\n" + ",\n".join(lines)).encode()))
    flush_tree(unfinished)
    final = unfinished.parent / f"{PREFIX}{step:08d}"
    if final.exists():  # the same step, saved again after a resume
        shutil.rmtree(final)
    put(unfinished, final)
    return final


def _with_hash(body: bytes) -> bytes:
    return body + b',\n"sha256": "' + hashlib.sha256(body).hexdigest().encode() + b'"\n}\n'


def read(folder: Path, *, hashes: bool = True) -> Checkpoint:
    """The checkpoint in `folder`, after its seal, its sizes and (by default) its hashes were verified; else a
    CheckpointError."""
    path = folder / SEAL
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is not a checkpoint of this project: it has no {SEAL} (a checkpoint that was never finished, or "
            "one of another program; weights of other programs come in with model=huggingface model.path=FOLDER)"
        )
    written = path.read_bytes()
    try:
        content = _SEAL.validate_json(written)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        fault = next((fault for fault in faults if fault["loc"] == ("schema",)), faults[0])
        raise CheckpointError(
            f"{path} is damaged, or of another version than {SCHEMA} ({'.'.join(map(str, fault['loc'])) or 'JSON'}: "
            f"{fault['msg']}, got {fault['input']!r:.80}); use an earlier checkpoint, or the version that wrote it"
        ) from error
    body, mark, _ = written.rpartition(b',\n"sha256": "')
    if not mark or _with_hash(body) != written:
        raise CheckpointError(f"{path} was changed since it was written (SHA-256 differs); use an earlier checkpoint")
    checkpoint = Checkpoint(
        folder, content.step, content.about, content.files, content.tensors, content.state, content.sha256
    )
    for name, file in content.files.items():
        verify_size(folder / name, file)
    if hashes:
        checkpoint.verify()
    return checkpoint


def find(
    path: str | Path, *, hashes: bool = True, damaged: Mapping[Path, CheckpointError] = MappingProxyType({})
) -> Checkpoint:
    """The checkpoint that `path` means: one itself, or the newest valid one of a run folder.

    Without `hashes` its files are not read, and those that were found `damaged` do not count. A CheckpointError where
    nothing valid is there, or something that is not read for safety.
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
    if (path / SEAL).exists() or path.name.startswith(PREFIX):
        return _undamaged(path, hashes, damaged)
    root = path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path
    newest = None
    for folder in reversed(finished(root)):
        try:
            return _undamaged(folder, hashes, damaged)
        except CheckpointError as error:
            newest = newest or error
            if folder not in damaged:
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
        f"no valid checkpoint in {root}, expected folders {PREFIX}… that hold a {SEAL}{reason}. {remedy}"
    )


def _undamaged(folder: Path, hashes: bool, damaged: Mapping[Path, CheckpointError]) -> Checkpoint:
    if folder in damaged:
        raise damaged[folder]
    return read(folder, hashes=hashes)


def can_resume(path: str | Path) -> bool:
    with suppress(CheckpointError):
        find(path)
        return True
    return False


def is_run(path: Path) -> bool:
    """Whether `path` is meant as a run, a checkpoint, or a folder of runs."""
    named = path.name.startswith(PREFIX) or (path / CHECKPOINTS).exists() or (path / SEAL).exists()
    return named or bool(runs_below(path))


def runs_below(path: Path) -> list[Path]:
    """The runs with checkpoints in a folder, or in those of it, newest first."""
    patterns = (f"*/{CHECKPOINTS}/{PREFIX}*", f"*/*/{CHECKPOINTS}/{PREFIX}*")
    runs = {checkpoint.parent.parent for pattern in patterns for checkpoint in path.glob(pattern)}
    return sorted(runs, key=lambda run: (run.stat().st_mtime, run.name), reverse=True)


def finished(root: Path) -> list[Path]:
    """The checkpoint folders under `root` that were renamed to their place, oldest first; not verified."""
    return sorted(p for p in root.glob(f"{PREFIX}*") if p.is_dir())
