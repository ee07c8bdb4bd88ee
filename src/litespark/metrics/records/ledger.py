"""Every kind of record under `results/`: which schema has which reader, and what all kinds have in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from litespark.metrics.records.ablation import AblationRecord
from litespark.metrics.records.data import DataRecord
from litespark.metrics.records.loop import LoopRecord
from litespark.metrics.records.ops import OpsRecord
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.run import EnvironmentRecord, RunRecord
from litespark.metrics.records.run_rules import check_figures
from litespark.metrics.records.sealing import SCHEMA_KEY, naming, read_values
from litespark.metrics.records.step import StepRecord
from litespark.metrics.records.strict_json import RecordError, wrong
from litespark.metrics.records.training import TrainingRecord


def _read_run(path: Path) -> RunRecord:
    record = RunRecord.read(path)
    with naming(path, "run"):
        check_figures(record)
    return record


# family of schemas (what stands before the slash) -> the reader of one file
READERS: dict[str, Callable[[Path], Any]] = {
    "litespark.run": _read_run,
    "litespark.bench.loop": LoopRecord.read,
    "litespark.bench.ops": OpsRecord.read,
    "litespark.bench.step": StepRecord.read,
    "litespark.bench.ablation": AblationRecord.read,
    "litespark.bench.profile": ProfileRecord.read,
    "litespark.bench.training": TrainingRecord.read,
    "litespark.bench.data": DataRecord.read,
}
_FILE_NAME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)_(?P<what>bench_ops|[a-z-]+)_(?P<model>.+)_(?P<precision>[a-z][^_]*)(_\d+)?"
)


def read_record(path: Path) -> Any:
    """The record in a file, whatever its kind.

    Raises:
        RecordError: no strict JSON, an unknown schema, changed after it was written, or contradicting itself; the
            message names the file.
        OSError: the file cannot be read.
    """
    with naming(path, "Litespark"):
        schema = str(read_values(path).get(SCHEMA_KEY))
        reader = READERS.get(family_of(schema))
        if reader is None:
            raise wrong(SCHEMA_KEY, schema, f"one of {', '.join(f'{family}/…' for family in READERS)}")
    return reader(path)


def family_of(schema: str) -> str:
    """A schema without its number: `litespark.run` of `litespark.run/3`."""
    return schema.rpartition("/")[0]


@dataclass(frozen=True)
class Entry:
    """One record of the ledger and what every kind says.

    Attributes:
        path: of its file; the folder is the device, see `record_path`.
        kind: the last word of its schema: run, loop, ops, step, …
        what: the second part of the file's name, such as `quickstart` or `bench-step`.
        model, precision: parts of the file's name as well.
        time: when it began, ISO 8601 in UTC.
        git_commit, git_dirty: of the code.
        complete: nothing of the measurement is missing.
        record: itself.
    """

    path: Path
    kind: str
    what: str
    model: str
    precision: str
    time: str
    git_commit: str | None
    git_dirty: bool | None
    environment: EnvironmentRecord
    complete: bool
    record: Any

    @property
    def on_cpu(self) -> bool:
        """Whether the first device is the processor."""
        return self.environment.devices[0].name == self.environment.cpu


def read_entry(path: Path) -> Entry:
    """A record with what it says of its origin.

    Raises:
        RecordError: as `read_record`; or the file's name is not DATE_WHAT_MODEL_PRECISION.json with the record's own
            day; or a measurement on a GPU is not of a clean commit, so that nobody can get it again.
    """
    record = read_record(path)
    name = _FILE_NAME.fullmatch(path.stem)
    if name is None:
        raise RecordError(f"{path}: got this name, expected DATE_WHAT_MODEL_PRECISION.json")
    kind = family_of(str(read_values(path)[SCHEMA_KEY])).rpartition(".")[2]
    origin = getattr(record, "provenance", record)
    time = str(getattr(origin, "started" if kind == "run" else "time"))
    if not time.startswith(name["date"]):
        raise RecordError(f"{path}: got the day {name['date']} in the name, expected that of the record, {time[:10]}")
    complete = record.status == "finished" if kind == "run" else getattr(record, "complete", True)
    entry = Entry(
        path=path,
        kind=kind,
        what=name["what"],
        model=name["model"],
        precision=name["precision"],
        time=time,
        git_commit=origin.git_commit,
        git_dirty=origin.git_dirty,
        environment=origin.environment,
        complete=complete,
        record=record,
    )
    if not entry.environment.devices:
        raise RecordError(f"{path}: environment.devices: got none, expected the device that was measured")
    if not entry.on_cpu and (entry.git_commit is None or entry.git_dirty is not False):
        raise RecordError(
            f"{path}: got git_commit {entry.git_commit}, git_dirty {entry.git_dirty}, expected a clean commit; "
            "commit what was measured and measure again"
        )
    return entry


def read_ledger(results: Path) -> tuple[list[Entry], list[str]]:
    """All records in the folders of a results folder, by path, and one line for each file that is refused."""
    entries, refused = [], []
    for path in sorted(results.glob("*/*.json")):
        try:
            entries.append(read_entry(path))
        except (ValueError, OSError) as error:
            refused.append(" ".join(str(error).split()))
    return entries, refused
