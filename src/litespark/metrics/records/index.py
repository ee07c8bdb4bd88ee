"""Every kind of record under `results/`, and what the file of each must be."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from litespark.metrics.records.ablation import AblationRecord
from litespark.metrics.records.base import RecordError, read_as
from litespark.metrics.records.data import DataRecord
from litespark.metrics.records.lifecycle import LifecycleRecord
from litespark.metrics.records.ops import OpsRecord
from litespark.metrics.records.origin import Provenance, Record
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.step import StepRecord
from litespark.metrics.records.tasks import TasksRecord
from litespark.metrics.records.traffic import FamiliesRecord, TrafficRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.run.record import RunRecord

AnyRecord = Annotated[
    RunRecord
    | OpsRecord
    | StepRecord
    | AblationRecord
    | ProfileRecord
    | TrafficRecord
    | FamiliesRecord
    | TrainingRecord
    | TasksRecord
    | LifecycleRecord
    | DataRecord,
    Field(discriminator="schema"),
]
_FILE_NAME = re.compile(r"(?P<date>\d{4}-\d\d-\d\d)_(?P<what>[a-z-]+)_(?P<model>.+)_(?P<precision>[a-z][^_]*)(_\d+)?")


def read_record(path: Path) -> Record:
    """The record in a file, whatever its kind; errors as of `read_as`."""
    return read_as(AnyRecord, path)


@dataclass(frozen=True)
class Entry:
    """One record of the index; `what` ("bench-step"), `model` and `precision` are parts of its file's name."""

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
    def origin(self) -> Provenance:
        return self.record.provenance


def read_entry(path: Path) -> Entry:
    """A record that may be published, as `read_record`.

    A RecordError also where figures of a run do not follow from each other, where the file's name is not
    DATE_WHAT_MODEL_PRECISION.json, or where a measurement on a GPU is not of a clean commit.
    """
    record = read_record(path)
    if isinstance(record, RunRecord) and (problems := list(record.contradictions())):
        raise RecordError(f"{path}: {'; '.join(problems)}")
    name = _FILE_NAME.fullmatch(path.stem)
    if name is None:
        raise RecordError(f"{path}: got this name, expected DATE_WHAT_MODEL_PRECISION.json")
    origin = record.provenance
    if not origin.time.startswith(name["date"]):
        raise RecordError(f"{path}: got the day {name['date']} in the name, expected the record's, {origin.time[:10]}")
    measured_on_gpu = not origin.environment.on_cpu and not isinstance(record, TrafficRecord | FamiliesRecord)
    if measured_on_gpu and (origin.git_commit is None or origin.git_dirty is not False):
        raise RecordError(
            f"{path}: got git_commit {origin.git_commit}, git_dirty {origin.git_dirty}, expected a clean commit; "
            "commit what was measured and measure again"
        )
    return Entry(path, name["what"], name["model"], name["precision"], record)


def read_index(results: Path) -> tuple[list[Entry], list[str]]:
    """All records in the folders of a results folder, by path, and one line for each file that is refused."""
    entries, refused = [], []
    for path in sorted(results.glob("*/*.json")):
        try:
            entries.append(read_entry(path))
        except (ValueError, OSError) as error:
            refused.append(" ".join(str(error).split()))
    return entries, refused
