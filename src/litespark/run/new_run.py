"""The folder of a new run: its name, and what is written into it before anything is trained."""

from __future__ import annotations

import itertools
import os
import re
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import yaml

from litespark.data.contents import write_run_data
from litespark.data.manifest import Manifest
from litespark.override_text import override
from litespark.run import folder as run_folder
from litespark.run.config import ConfigError, Parts
from litespark.run.variant import legible
from litespark.training.checkpoint.folder import finished

# of a folder on the usual file systems, less what TensorBoard and we put behind a name
LONGEST_NAME = 200


def check_name(parts: Parts) -> None:
    """Refuse a `name` that cannot be that of a new run; early, since preparing the data may take long."""
    name, root = parts.name, parts.logs / "runs"
    if not name:
        return
    if Path(name).name != name or name.startswith(".") or len(os.fsencode(name)) > LONGEST_NAME:
        raise ConfigError(
            f"name: got {name!r}, expected a plain folder name of at most {LONGEST_NAME} bytes (below {root})"
        )
    if (root / name).exists():
        _check_untrained(root / name)


def _check_untrained(folder: Path) -> None:
    if run_folder.nothing_trained(folder):
        return
    remedy = "or remove it; it has no checkpoint to continue from"
    if finished(folder / run_folder.CHECKPOINTS):
        remedy = f"or continue that run with {override('resume', folder)}"
    raise ConfigError(f"name={folder.name}: {folder} exists already; choose another name, {remedy}")


def make(
    parts: Parts,
    overrides: list[str],
    prepared: Path | None = None,
    manifest: Manifest | None = None,
    hold: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Make the folder of a new run below `logs/runs` and write the resolved config into it.

    It is called `name`, or else after the time and `overrides`, those that tell this run from others. A folder of that
    `name` in which nothing was trained is used again. What it needs of the data to be used and reported is copied.
    `hold` locks the folder before anything is written.
    """
    check_name(parts)
    name = parts.name or _default_name(overrides)
    folder = parts.logs / "runs" / name
    for number in itertools.count(2):
        try:
            folder.mkdir(parents=True, exist_ok=bool(parts.name))
            break
        except FileExistsError:
            folder = folder.with_name(f"{name}-{number}")
    hold(folder)
    _check_untrained(folder)  # another process may have been faster
    for path in folder.iterdir():
        if path.name != run_folder.LOCK:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_config(folder / run_folder.CONFIG, parts)
    if manifest is not None:
        write_run_data(folder, manifest)
    if prepared is not None:
        (folder / run_folder.TOKENIZER).mkdir()
        for file in sorted(prepared.glob("tokenizer*.json")):
            shutil.copyfile(file, folder / run_folder.TOKENIZER / file.name)
    return folder


def write_config(path: Path, parts: Parts) -> None:
    """Write the resolved config of a run."""
    path.write_text(yaml.safe_dump(parts.resolved, sort_keys=False))


def _default_name(overrides: list[str]) -> str:
    # in characters that need no quotes in a shell or in Hydra's resume=…
    unsaid = ("resume=", "name=", "paths.", "hydra.", "data.source=")
    said = "_".join(legible(word) for word in overrides if not word.startswith(unsaid))
    short = re.sub(r"[^A-Za-z0-9._+-]+", "-", said)[:100].strip("-_")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    return f"{stamp}_{short}" if short else stamp
