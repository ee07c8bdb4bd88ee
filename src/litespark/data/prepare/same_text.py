"""Which text a prepared folder was made from, by content: the same bytes elsewhere, or touched, are not prepared again.

Beside the manifest lies `source-KEY.json`: KEY is a hash of the settings and of names and sizes, and the file has the
time and the SHA-256 of each source file as it was read. Only files whose time is another are read for comparing.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice

from litespark.atomic import content_hash
from litespark.data import manifest as manifests
from litespark.data.config import PrepareConfig
from litespark.data.prepare.plan import Plan
from litespark.data.storage import Storage
from litespark.data.text.files import SourceFile

log = logging.getLogger(__name__)

NOTE = "source-*.json"
START = "start-*.json"
"""Empty; its key is the `start_key` of settings and text that the folder was made from."""
_NAMED = 3


def hash_as_read(file: SourceFile) -> str | None:
    """SHA-256 of a file of this machine that was just read; None where it changed meanwhile, or is remote."""
    if file.remote:
        return None
    try:
        content = content_hash(file.path)
        unchanged = Storage(file.root).listed(file.name).version == file.version
    except (OSError, ValueError):
        return None
    return content if unchanged else None


def find_started(config: PrepareConfig, key: str) -> Storage | None:
    """The finished folder below `data.root` that a start with this key has found before, or None."""
    root = Storage(config.root)
    folders = (root.below(starts.name.rpartition("/")[0]) for starts in root.matching(f"*-*/{START.replace('*', key)}"))
    return next((folder for folder in folders if folder.exists(manifests.FILE)), None)


def note_start(folder: Storage, key: str) -> None:
    """Let the next start with this key find the folder at once."""
    name = START.replace("*", key)
    with suppress(ValueError, OSError):  # the folder may be read-only
        if not folder.exists(name):
            folder.write(name, b"{}")


def find_prepared(plan: Plan) -> Storage | None:
    """A finished folder below `data.root` that was made from the same text with the same settings, or None."""
    root = Storage(plan.config.root)
    for prepared in root.matching(f"{plan.config.name or '*'}-*/{_name(plan)}"):
        folder = root.below(prepared.name.rpartition("/")[0])
        if folder.exists(manifests.FILE) and different_files(plan, folder) == []:
            return folder
    return None


def different_files(plan: Plan, folder: Storage) -> list[str] | None:
    """Some of the files of a plan whose content is not what a prepared folder was made from.

    None where the settings, the names or the sizes are others, or the note is damaged: then nothing is read.
    """
    if not folder.exists(_name(plan)):
        return None
    note = folder.read(_name(plan))
    try:
        known: list[tuple[str, str | None]] = json.loads(note)["files"]
        pairs = zip(plan.files, known, strict=True)
        asked = [(file, content) for file, (version, content) in pairs if file.version != version]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("%s is damaged (%s) and not used", folder.where(_name(plan)), error)
        return None
    if asked:
        log.info("%d files have another time than when they were prepared; comparing their content", len(asked))
    others = (file.where for file, content in asked if content is None or hash_as_read(file) != content)
    different = list(islice(others, _NAMED))
    if asked and not different:
        with suppress(ValueError, OSError):  # only saves the comparing of the next time; the folder may be read-only
            write_source(folder, plan, [content for _, content in known])
    return different


def write_source(folder: Storage, plan: Plan, hashes: Sequence[str | None]) -> None:
    """Note beside the manifest what was read; `hashes` are of the files of all units, in their order."""
    files = [(file.version, content) for file, content in zip(plan.files, hashes, strict=True)]
    folder.write(_name(plan), json.dumps({"files": files}).encode())


def _name(plan: Plan) -> str:
    return NOTE.replace("*", plan.source_key)
