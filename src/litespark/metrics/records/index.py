"""Every kind of record under `results/`, and what the file of each must be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from litespark.metrics.records.ablation import AblationRecord
from litespark.metrics.records.base import RecordError, read_as
from litespark.metrics.records.data import DataRecord
from litespark.metrics.records.ops import OpsRecord
from litespark.metrics.records.origin import EnvironmentRecord, Provenance, Record
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.step import StepRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.run.record import RunRecord

AnyRecord = Annotated[
    RunRecord | OpsRecord | StepRecord | AblationRecord | ProfileRecord | TrainingRecord | DataRecord,
    Field(discriminator="schema"),
]
_FILE_NAME = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)_(?P<what>bench_ops|[a-z-]+)_(?P<model>.+)_(?P<precision>[a-z][^_]*)(_\d+)?"
)


def read_record(path: Path) -> Record:
    """The record in a file, whatever its kind.

    Raises:
        RecordError: it is none, or contradicts itself; the message names the file.
        OSError: the file cannot be read.
    """
    found: Record = read_as(AnyRecord, path)
    return found


@dataclass(frozen=True)
class Entry:
    """One record of the index.

    Attributes:
        path: of its file; the folder is the device, see `record_path`.
        what: the second part of the file's name, such as `quickstart` or `bench-step`.
        model, precision: parts of the file's name as well.
    """

    path: Path
    what: str
    model: str
    precision: str
    record: Any

    @property
    def kind(self) -> str:
        """The last word of its schema: run, ops, step, …"""
        return str(self.record.schema).rpartition("/")[0].rpartition(".")[2]

    @property
    def time(self) -> str:
        """When it began, ISO 8601 in UTC."""
        return self._origin.time

    @property
    def git_commit(self) -> str | None:
        """Of the code."""
        return self._origin.git_commit

    @property
    def git_dirty(self) -> bool | None:
        """Whether the code was changed."""
        return self._origin.git_dirty

    @property
    def environment(self) -> EnvironmentRecord:
        """Versions and devices."""
        return self._origin.environment

    @property
    def complete(self) -> bool:
        """Whether nothing of the measurement is missing."""
        return bool(self.record.complete)

    @property
    def _origin(self) -> Provenance:
        found: Provenance = self.record.provenance
        return found

    @property
    def on_cpu(self) -> bool:
        """Whether the first device is the processor."""
        return self.environment.on_cpu


def read_entry(path: Path) -> Entry:
    """A record that may be published.

    Raises:
        RecordError: as `read_record`; or a run's figures do not follow from each other; or the file's name is not
            DATE_WHAT_MODEL_PRECISION.json with the record's own day; or a measurement on a GPU is not of a clean
            commit, so that nobody can reproduce it.
    """
    record = read_record(path)
    if isinstance(record, RunRecord) and (problems := list(record.contradictions())):
        raise RecordError(f"{path}: {'; '.join(problems)}")
    name = _FILE_NAME.fullmatch(path.stem)
    if name is None:
        raise RecordError(f"{path}: got this name, expected DATE_WHAT_MODEL_PRECISION.json")
    entry = Entry(path, name["what"], name["model"], name["precision"], record)
    if not entry.time.startswith(name["date"]):
        raise RecordError(f"{path}: got the day {name['date']} in the name, expected the record's, {entry.time[:10]}")
    if not entry.environment.devices:
        raise RecordError(f"{path}: environment.devices: got none, expected the device that was measured")
    if not entry.on_cpu and (entry.git_commit is None or entry.git_dirty is not False):
        raise RecordError(
            f"{path}: got git_commit {entry.git_commit}, git_dirty {entry.git_dirty}, expected a clean commit; "
            "commit what was measured and measure again"
        )
    return entry


def read_index(results: Path) -> tuple[list[Entry], list[str]]:
    """All records in the folders of a results folder, by path, and one line for each file that is refused."""
    entries, refused = [], []
    for path in sorted(results.glob("*/*.json")):
        try:
            entries.append(read_entry(path))
        except (ValueError, OSError) as error:
            refused.append(" ".join(str(error).split()))
    return entries, refused
