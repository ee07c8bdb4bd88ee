"""Which checkpoints of a run stay: the newest, every so many steps, and the best by a metric of the validation."""

import json
import logging
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litespark.run.folder import SEAL
from litespark.training.checkpoint.folder import PREFIX, UNFINISHED, finished

log = logging.getLogger(__name__)

BEST = "best"  # beside the checkpoints, a link to the best of them
VALIDATION = "validation"  # in what a seal states: metrics of a validation in the step of the checkpoint


@dataclass(frozen=True)
class Keep:
    """`newest` checkpoints, those at multiples of `every` steps, and the one with the lowest or `highest` metric."""

    newest: int
    every: int | None = None
    metric: str | None = None
    highest: bool = False

    def best(self, folders: list[Path]) -> Path | None:
        """The best of them, of equal ones the earliest; None where none has the metric."""
        values = {folder: _stated(folder).get(self.metric) for folder in folders} if self.metric else {}
        measured = [(folder, value) for folder, value in values.items() if value is not None and math.isfinite(value)]
        return min(measured, key=lambda item: -item[1] if self.highest else item[1], default=(None,))[0]


def prune(root: Path, step: int, keep: Keep) -> None:
    """After the checkpoint of `step` was sealed, remove all but those to keep, and what killed writers left.

    Checkpoints of later steps go first: a run that went back to an earlier step takes those steps again, and must not
    lose the new ones to the old.
    """
    newest = root / f"{PREFIX}{step:08d}"
    later = [folder for folder in finished(root) if folder.name > newest.name]
    if later:
        names = ", ".join(folder.name for folder in later)
        log.warning("removing checkpoints of steps after %d, which this run takes again: %s", step, names)
    earlier = [folder for folder in finished(root) if folder not in later]
    kept = {*earlier[-keep.newest :]}
    kept |= {folder for folder in earlier if keep.every and int(folder.name.removeprefix(PREFIX)) % keep.every == 0}
    best = keep.best(earlier)
    _link(root / BEST, best)
    for folder in (*later, *(set(earlier) - kept - {best}), *root.glob(f"{UNFINISHED}*")):
        shutil.rmtree(folder)


def _link(link: Path, best: Path | None) -> None:
    if best is None or (link.is_symlink() and link.readlink() == Path(best.name)):
        return
    partial = link.with_name(f".{link.name}")
    partial.unlink(missing_ok=True)
    partial.symlink_to(best.name)
    partial.replace(link)
    log.info("the best checkpoint so far is %s", best.name)


def _stated(folder: Path) -> dict[str, Any]:
    """The validation that a seal states, on the line before all that is large."""
    try:
        with (folder / SEAL).open(encoding="utf-8") as lines:
            about = next(line for line in lines if line.startswith('"about": '))
        stated: dict[str, Any] = json.loads("{" + about.rstrip(",\n") + "}")["about"].get(VALIDATION, {})
    except (OSError, ValueError, StopIteration):  # it is read, and refused, by whoever wants it
        return {}
    return stated
