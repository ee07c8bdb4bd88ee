"""Text to a prepared folder: `train/` and `validation/` chunks, the tokenizer, and last the manifest.

The folder's name ends in a hash of everything that decides its content. It is filled where it lies, unit by unit, so
that a process that is killed loses the units under way and the same command continues. Until the manifest is there,
it is not taken for a data set.
"""

import errno
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from litespark.data import manifest as manifests
from litespark.data.chunks import token_dtype
from litespark.data.config import PrepareConfig, SourceConfig
from litespark.data.local_files import path_from
from litespark.data.manifest import Manifest
from litespark.data.prepare.finish import finish, require_few_bad_in
from litespark.data.prepare.plan import Plan, plan_preparation, start_key
from litespark.data.prepare.progress import Display
from litespark.data.prepare.same_text import find_prepared, find_started, note_start
from litespark.data.prepare.stages import Stages
from litespark.data.prepare.work import UNITS, WORK, Work
from litespark.data.storage import Storage, is_remote
from litespark.data.text.sources import list_source
from litespark.data.text.splits import TRAIN

_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP)
_USER_CAN_MEND = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


@dataclass(frozen=True)
class Lookup:
    """What a config names: a folder that is prepared, or the plan of one."""

    config: PrepareConfig
    place: Path | str | None = None
    plan: Plan | None = None
    key: str | None = None
    """By which the next start finds the folder without a plan."""


def look_up(config: PrepareConfig) -> Lookup:
    """Find the prepared folder of a config from a listing of its source, or else plan it; writes nothing.

    ValueError: an unusable source, tokenizer or selection.
    """
    if (prepared := already_prepared(config)) is not None:
        return Lookup(config, prepared)
    source = list_source(config)
    key = start_key(config, source)
    if key is not None and (folder := find_started(config, key)) is not None:
        return Lookup(config, _place(folder))
    return Lookup(config, None, plan_preparation(config, source), key)


def prepare(config: PrepareConfig, *, existing: Lookup | None = None, progress: bool = True) -> Path | str | None:
    """The prepared folder of a config, a path or an address; writes what is missing of it.

    None where other nodes (`data.nodes`) have to end first. `found` is what `look_up` gave for this config. ValueError:
    as `look_up`; an unusable root, too many bad documents, too little space, or a process that ended by itself: what
    was finished is kept for the next start.
    """
    existing = existing if existing is not None and existing.config == config else look_up(config)
    if existing.plan is None:
        return existing.place
    folder = _written(existing.plan, progress=progress)
    if folder is None:
        return None
    require_few_bad_in(Manifest.read(folder.address), config.max_bad_share)
    if existing.key is not None:
        note_start(folder, existing.key)
    return _place(folder)


def already_prepared(config: SourceConfig) -> Path | str | None:
    """The source, where it is a prepared folder; ValueError where it is one that was not finished."""
    if is_remote(config.source):
        return config.source.rstrip("/") if Storage(config.source).exists(manifests.FILE) else None
    path = path_from(config.source.removeprefix("file://"))
    if (path / manifests.FILE).is_file():
        return path
    unfinished = [path / WORK, path / "index.json", path / TRAIN / "index.json", *path.glob(f"{TRAIN}/*/index.json")]
    if any(folder.exists() for folder in unfinished):
        Manifest.read(path)  # chunks without a manifest: the error for them
    return None


def _place(folder: Storage) -> Path | str:
    return folder.address if folder.remote else folder.local


def _written(plan: Plan, *, progress: bool) -> Storage | None:
    """The folder of a plan, whole, or another one with the same text; None where other nodes are not done."""
    if not plan.storage.exists(manifests.FILE) and (same := find_prepared(plan)) is not None:
        return same
    lock = plan.name if plan.config.nodes == 1 else f"{plan.name}.node-{plan.config.node_rank}"
    with locked(Storage(plan.config.root), lock), mendable_faults_of_disk(str(plan.place)):
        if not plan.storage.exists(manifests.FILE) and not _build(plan, progress=progress):
            return None
        Work(plan.storage).remove()  # is there only where this process has finished, or one was killed while removing
    return plan.storage


def _build(plan: Plan, *, progress: bool) -> bool:
    root = Storage(plan.config.root)
    _require_space(plan, root)
    with _scratch(plan) as scratch, Display(f"Preparing {plan.name}", show=progress) as display:
        tokenizer = Stages(plan, scratch, display).run()
        if tokenizer is None:
            return False
        display.stage("finishing")
        with locked(root, f"{plan.name}.finish"):
            try:
                manifest = finish(plan, tokenizer)
            except (ValueError, OSError):
                # another node may have finished meanwhile and removed what this one was reading
                if not plan.storage.exists(manifests.FILE):
                    raise
                manifest = Manifest.read(plan.place)
        tokens = " and ".join(f"{counts.tokens:,} {split}" for split, counts in manifest.splits.items())
        display.say(f"{tokens} tokens")
    return True


@contextmanager
def locked(root: Storage, name: str) -> Iterator[None]:
    """Hold the lock file `.NAME.lock` below a root on this machine, and remove it.

    Nothing is locked below an address, or on a disk without locks: every process writes the same bytes there, file by
    file. ValueError: the root cannot be made or written.
    """
    if root.remote:
        yield
        return
    path = root.local / f".{name}.lock"
    lock = FileLock(path)
    try:
        root.local.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise ValueError(
                f"data.root={root.local} cannot be made a folder or written: {error}. Set data.root to another."
            ) from error
    try:
        yield
    finally:
        # `filelock` leaves it; a process that waits for it sees that it is gone, and makes it anew
        path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def mendable_faults_of_disk(place: str) -> Iterator[None]:
    """Turn a full disk, a quota or a missing permission into a ValueError that names the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _USER_CAN_MEND:
            raise
        raise ValueError(
            f"{place} cannot be written: {error}. Make room, or set data.root to another folder. What was finished is "
            "kept: the same command continues."
        ) from error


def _require_space(plan: Plan, root: Storage) -> None:
    """Raise ValueError where the disk has no room for the missing units, at about three bytes of text a token."""
    if root.remote:
        return
    done = Work(plan.storage).done(UNITS)
    text_bytes = sum(plan.units[number].text_bytes for number in plan.own_units if number not in done)
    needed = int(1.25 * text_bytes / 3 * token_dtype(plan.config.vocab_size).itemsize)
    free = shutil.disk_usage(root.local).free
    if free < needed:
        raise ValueError(
            f"{root.local} has {free / 1e9:.2f} GB free; preparing {plan.config.source} needs about "
            f"{needed / 1e9:.2f} GB. Make room, or set data.root to a folder on another disk."
        )


@contextmanager
def _scratch(plan: Plan) -> Iterator[Path]:
    """A folder on this machine for what is deleted in the end: in the prepared folder, unless that is remote."""
    if plan.storage.remote:
        with tempfile.TemporaryDirectory(prefix="litespark-prepare-") as made:
            yield Path(made)
        return
    folder = plan.storage.local / WORK / f"scratch-{plan.config.node_rank}"
    shutil.rmtree(folder, ignore_errors=True)  # the process that left it is dead: its lock was free
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # nothing was done that is worth keeping
            folder.parent.rmdir()
            folder.parent.parent.rmdir()
