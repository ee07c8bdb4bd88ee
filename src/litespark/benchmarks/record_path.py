"""Where the record of a benchmark lies, and how an unfinished one is found again.

The file is DEVICE/DATE_WHAT_MODEL_PRECISION.json in the folder of results; one more on the same day gets a number.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TypeVar

from litespark.metrics.records.base import RecordError
from litespark.metrics.records.origin import EnvironmentRecord, Provenance, Record

R = TypeVar("R", bound=Record)


def device_folder(environment: EnvironmentRecord) -> str:
    """The first device's name in lower case with hyphens; a CPU with the number of its cores."""
    name = environment.devices[0].name
    if environment.on_cpu:
        name += f" {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def record_path(output: Path, origin: Provenance, what: str, model: str, precision: str) -> Path:
    """A file that is not there yet.

    Args:
        output: the folder of results.
        origin: its first device names the folder, and its day the file.
        what: the benchmark, such as `bench-step`.
        model: name of the model; precision: of its products.
    """
    folder = output / device_folder(origin.environment)
    stem, number = f"{origin.time[:10]}_{what}_{model}_{precision}", 1
    path = folder / f"{stem}.json"
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.json"
    return path


def continued(record: R, path: Path) -> tuple[R, Path]:
    """The newest unfinished record of the same measurement and its file; otherwise `record` itself and `path`.

    Args:
        record: what a new measurement begins with.
        path: of `record_path`; records beside it whose names differ in date and number are looked through, and those
            that cannot be read are left alone.
    """
    what = re.sub(r"(_\d+)?$", "", path.stem.partition("_")[2], count=1)
    found = [each for each in path.parent.glob("*.json") if re.fullmatch(rf"[^_]*_{re.escape(what)}(_\d+)?", each.stem)]
    for each in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            earlier = type(record).read(each)
        except RecordError:
            continue
        if not earlier.complete and earlier.continues(record):
            return earlier, each
    return record, path
