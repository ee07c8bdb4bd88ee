"""A preparation in a process of its own that stalls somewhere, to be killed: `python interrupted.py JSON WHERE`.

With several pairs of JSON and WHERE each is prepared in a copy of one process, and killed there at once.

It changes the code under test when it is imported, so that spawned worker processes, which import it too, are changed
the same way. It says `stalled` where it waits, and the folder when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from litespark.data import storage
from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest
from litespark.data.prepare import work
from litespark.data.prepare.prepare import prepare
from litespark.data.prepare.work import DUPLICATES, FINGERPRINTS, Work
from litespark.data.select.config import SelectionConfig
from litespark.data.tokenizer import Tokenizer

REPOSITORY = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
WHERE = (
    *("tokenizer", "in fingerprints", "between fingerprints", "duplicates", "in a chunk", "before a marker"),
    *("between units", "before the manifest", "in the manifest", "cleaning up"),
)


def stall(*ignored: object) -> None:
    """Wait to be killed."""
    print("stalled", flush=True)
    time.sleep(120)


def around(owner: Any, name: str, when: Callable[..., bool], *, before: bool) -> None:
    """Stall before or after the calls of a function for which `when` of the arguments is true."""
    original = getattr(owner, name)

    def changed(*arguments: Any, **named: Any) -> Any:
        if before and when(*arguments):
            stall()
        result = original(*arguments, **named)
        if not before and when(*arguments):
            stall()
        return result

    setattr(owner, name, staticmethod(changed) if owner is Tokenizer else changed)


def syncs(file: str) -> Callable[[int], bool]:
    """Whether a descriptor is that of a file of this name, under its name while it is written."""
    return lambda descriptor: Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith(f".{file}.")


def remove_some_and_stall(folder: Path) -> None:
    """`shutil.rmtree` that comes to its first folder only."""
    shutil.rmtree(sorted(entry for entry in folder.iterdir() if entry.is_dir())[0])
    stall()


def change(where: str) -> None:
    """Make the code stall."""
    marked = {"in fingerprints": (FINGERPRINTS, 2, True), "between fingerprints": (FINGERPRINTS, 2, False)}
    marked["duplicates"] = (DUPLICATES, 1, True)
    if where in marked:
        stage, unit, before = marked[where]
        around(Work, "write_arrays", lambda self, of, number, arrays: (of, number) == (stage, unit), before=before)
    elif where == "tokenizer":
        around(Tokenizer, "train", lambda *arguments: True, before=False)
    elif where in ("in a chunk", "in the manifest"):
        file = "chunk-2-1.bin" if where == "in a chunk" else "manifest.json"
        around(storage.os, "fsync", syncs(file), before=True)
    elif where in ("before a marker", "between units"):
        around(Work, "write_result", lambda self, unit, result: unit == 2, before=where == "before a marker")
    elif where == "before the manifest":
        around(Manifest, "write", lambda *arguments: True, before=True)
    elif where == "cleaning up":
        work.shutil = type("Changed", (), {"rmtree": staticmethod(remove_some_and_stall)})  # type: ignore[assignment]
    else:
        assert where == "nowhere", where


def settings(described: str) -> PrepareConfig:
    """A config from JSON."""
    values = json.loads(described)
    return PrepareConfig(**{**values, "selection": SelectionConfig(**values.get("selection", {}))})


def kill_copy(described: str, where: str) -> None:
    """Prepare in a copy of this process that is killed where it would stall."""
    copy = os.fork()
    if copy == 0:
        globals()["stall"] = lambda *ignored: os.kill(os.getpid(), signal.SIGKILL)
        change(where)
        prepare(settings(described), progress=False)
        os._exit(1)
    assert os.waitpid(copy, 0)[1] == signal.SIGKILL, where


if __name__ == "__main__" and len(sys.argv) > 3:
    for place in range(1, len(sys.argv), 2):
        kill_copy(*sys.argv[place : place + 2])
    sys.exit()
if __name__ in ("__main__", "__mp_main__"):
    change(sys.argv[2])
if __name__ == "__main__":
    print(prepare(settings(sys.argv[1]), progress=False), flush=True)
