"""A preparation in a process of its own that stalls somewhere, to be killed: `python interrupted.py JSON WHERE`.

With several pairs each is prepared in a copy of one process, and killed there at once. Spawned workers import this too,
so that their code is changed in the same way. It says `stalled` where it waits, and the folder when it ends.
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


def stall(*ignored: object) -> None:
    """Wait to be killed."""
    print("stalled", flush=True)
    time.sleep(120)


def around(owner: Any, name: str, when: Callable[..., bool], before: bool) -> None:
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


CALLS: dict[str, tuple[Any, str, Callable[..., bool], bool]] = {
    "tokenizer": (Tokenizer, "train", lambda *_: True, False),
    "in fingerprints": (Work, "write_arrays", lambda _, *unit: unit[:2] == (FINGERPRINTS, 2), True),
    "between fingerprints": (Work, "write_arrays", lambda _, *unit: unit[:2] == (FINGERPRINTS, 2), False),
    "duplicates": (Work, "write_arrays", lambda _, *unit: unit[:2] == (DUPLICATES, 1), True),
    "in a chunk": (storage.os, "fsync", syncs("chunk-2-1.bin"), True),
    "before a marker": (Work, "write_result", lambda _, unit, result: unit == 2, True),
    "between units": (Work, "write_result", lambda _, unit, result: unit == 2, False),
    "before the manifest": (Manifest, "write", lambda *_: True, True),
    "in the manifest": (storage.os, "fsync", syncs("manifest.json"), True),
}
"""By place: the function that is changed, for which arguments, and whether to stall before it."""
WHERE = (*CALLS, "cleaning up")


def change(where: str) -> None:
    """Make the code stall."""
    if where == "cleaning up":
        work.shutil = type("Changed", (), {"rmtree": staticmethod(remove_some_and_stall)})  # type: ignore[assignment]
    elif where != "nowhere":
        around(*CALLS[where])


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
