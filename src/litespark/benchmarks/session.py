"""How a benchmark begins, finds what an earlier start left unfinished, and takes turns."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch

from litespark.launch import Ranks
from litespark.metrics.meters import choose_meter
from litespark.metrics.records.base import RecordError
from litespark.metrics.records.origin import Provenance, Record
from litespark.run import new_run
from litespark.run.config import ConfigError, Parts
from litespark.run.preflight import Machine, why_not_length
from litespark.run.variant import KEY
from litespark.training.parallel.precision import Precision

T = TypeVar("T")
R = TypeVar("R", bound=Record)
# of variants and switches, which become names of files and keys
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")


def check_measurable(parts: Parts) -> None:
    """Refuse what a benchmark does not measure: several processes, a run that goes on, too long sequences."""
    ranks = Ranks.from_environment()
    if ranks.world_size > 1 or parts.strategy.name != "single":
        raise ConfigError(
            f"got {ranks.world_size} processes and strategy={parts.strategy.name}, expected one process and "
            "strategy=single: a benchmark measures one device"
        )
    if parts.resume is not None:
        raise ConfigError(f"resume={parts.resume}: a benchmark starts from initial weights; leave it out")
    if (reason := why_not_length(parts)) is not None:
        raise ConfigError(reason)


def check_plain(overrides: Sequence[str]) -> None:
    """Refuse `variant=…`, which is stronger than the settings of a benchmark's variants and its own."""
    for word in overrides:
        if word.lstrip("+").startswith(f"{KEY}="):
            raise ConfigError(
                f"got the override {word}, expected plain ones: what it sets is stronger than the settings of the "
                "variants. Give these settings one by one"
            )


def provenance(
    parts: Parts, overrides: Sequence[str], command: Sequence[str], device: torch.device, precision: Precision
) -> Provenance:
    """What runs, and where, as of now; see `litespark.run.new_run.provenance`."""
    machine = Machine(device, precision, 1, Ranks.from_environment())
    meter = choose_meter(device)
    return new_run.provenance(parts, machine, meter, without_folders(command), without_folders(overrides))


def without_folders(words: Sequence[str]) -> list[str]:
    """The words with `…/NAME` for each absolute path: the folders of one machine mean nothing on another."""
    return [re.sub(r"(^|[=:,\[ ])~?/(?:[^/,\]\s]*/)*([^/,\]\s]*)", r"\1…/\2", word) for word in words]


def turns(items: Sequence[T], rounds: int) -> Iterator[tuple[int, int, T]]:
    """(round, position, item): every item once a round, in every second round backwards.

    A device that warms up or slows down meets all of them alike.
    """
    for number in range(rounds):
        for position, item in enumerate(items if number % 2 == 0 else reversed(items)):
            yield number, position, item


def begin(new: R, path: Path, *, done: Callable[[R], str], say: Callable[[str], None]) -> tuple[R, Path]:
    """The newest unfinished record of the same measurement and its file; otherwise `new` and `path`, of `record_path`.

    It is written, so that what cannot be is known before minutes are spent. Records beside `path` whose names differ in
    date and number are looked through; a file that is not such a record is left alone. `done` has words for what a
    record holds.
    """
    record = new
    what = re.sub(r"(_\d+)?$", "", path.stem.partition("_")[2], count=1)
    files = [file for file in path.parent.glob("*.json") if re.fullmatch(rf"[^_]*_{re.escape(what)}(_\d+)?", file.stem)]
    for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
        try:
            earlier = type(new).read(file)
        except RecordError:
            continue
        if not earlier.complete and earlier.continues(new):
            record, path = earlier, file
            say(f"{path}: continued, {done(record)} are there")
            break
    record.write(path)
    return record, path


def record_path(output: Path, origin: Provenance, what: str, model: str, precision: str) -> Path:
    """DEVICE/DATE_WHAT_MODEL_PRECISION.json in `output`; one more on the same day gets a number.

    DEVICE is the first one's name in lower case with hyphens, for a CPU with the number of its cores.
    """
    name = origin.environment.devices[0].name + (f" {os.cpu_count()} cores" if origin.environment.on_cpu else "")
    folder = output / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    stem, number = f"{origin.time[:10]}_{what}_{model}_{precision}", 1
    path = folder / f"{stem}.json"
    while path.exists():
        number += 1
        path = folder / f"{stem}_{number}.json"
    return path
