"""The run record survives a round trip, is strict about what it reads, and is never half written."""

import json
import math

import pytest

from litespark.metrics import names
from litespark.metrics.records.run import (
    DataRecord,
    DeviceRecord,
    EnvironmentRecord,
    ModelRecord,
    RecordError,
    RunRecord,
    SegmentRecord,
    finite_or_none,
    utc_now,
)
from litespark.metrics.records.sealing import write_values
from tests.properties import given, settings, st


def make_record(**changes) -> RunRecord:
    values = {
        "name": "first",
        "task": "pretrain",
        "started": "2026-01-31T12:00:00+00:00",
        "command": ["train.py", "seed=1"],
        "config_hash": "abc",
        "seed": 1,
        "model": ModelRecord("tiny", 10, 8, 48.5, 50.0, 16),
        "data": DataRecord("text", "hash", 256, 1000, 100, 3.5),
        "environment": EnvironmentRecord(
            "3.11", "2.11", "Linux", "a CPU", 1, "32-true", devices=[DeviceRecord("cpu", None, None)]
        ),
        "segments": [SegmentRecord("2026-01-31T12:00:00+00:00", 0)],
    }
    return RunRecord(**(values | changes))


def test_a_written_record_reads_back_equal(tmp_path):
    record = make_record()
    record.energy.train_joules = 0.1 + 0.2
    record.quality.sample = "naïve ☃"
    record.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json") == record
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@settings(deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**60), st.text())
def test_any_finite_values_survive_the_json_form(number, count, text):
    record = make_record()
    record.energy.all_in_joules = number
    record.throughput.tokens = count
    record.quality.sample = text
    assert RunRecord.from_dict(json.loads(json.dumps(record.to_dict(), allow_nan=False))) == record


def test_a_value_that_was_not_measured_is_null_in_strict_json(tmp_path):
    record = make_record()
    record.energy.joules_per_token_train = math.nan
    record.quality.perplexity = math.inf
    record.write(tmp_path / "run.json")
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["energy"]["joules_per_token_train"] is None
    assert written["quality"]["perplexity"] is None


def test_a_required_number_that_is_not_finite_is_refused_and_the_old_file_stays(tmp_path):
    record = make_record()
    record.write(tmp_path / "run.json")
    before = (tmp_path / "run.json").read_text()
    record.throughput.train_seconds = math.nan
    with pytest.raises(RecordError, match=r"throughput\.train_seconds: got nan"):
        record.write(tmp_path / "run.json")
    assert (tmp_path / "run.json").read_text() == before


def test_a_write_that_fails_leaves_the_old_record_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    make_record().write(path)
    before = path.read_text()

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        make_record(status="finished").write(path)
    assert path.read_text() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.json"]


def change(values: dict, where: str, value) -> dict:
    *parents, last = where.split(".")
    target = values
    for parent in parents:
        target = target[int(parent)] if isinstance(target, list) else target[parent]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return values


def test_a_record_from_before_ops_were_recorded_is_read():
    values = make_record().to_dict()
    del values["ops"]
    found = RunRecord.from_dict({**values, "schema": "litespark.run/1"})
    assert found.ops == []
    assert found.schema == make_record().schema


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("schema", "litespark.run/9", r"schema: got 'litespark.run/9', expected 'litespark.run/5'"),
        ("seed", "1", r"seed: got '1', expected an integer"),
        ("seed", True, r"seed: got True, expected an integer"),
        ("seed", ..., r"seed: missing"),
        ("status", "done", r"status: got 'done', expected one of 'running'"),
        ("command", "train.py", r"command: got 'train.py', expected a list"),
        ("command", [1], r"command\[0\]: got 1, expected a text"),
        ("model.parameters", 1.5, r"model\.parameters: got 1.5"),
        ("model.size", 3, r"model\.size: unknown field"),
        ("model", None, r"model: got None, expected an object"),
        ("environment.devices.0.name", None, r"environment\.devices\[0\]\.name: got None"),
        ("energy.coverage", 1.5, r"energy\.coverage: got 1.5"),
        ("energy.phases.train", "3", r"energy\.phases\.train: got '3', expected a number"),
        ("throughput.train_seconds", True, r"throughput\.train_seconds: got True, expected a number"),
        ("energy.dropped_readings", -1, r"energy\.dropped_readings: got -1"),
        ("segments.0.started", "yesterday", r"segments\[0\]\.started: got 'yesterday'"),
        ("ended", "2026-01-31T12:00:00", r"ended: got .* with its time zone"),
    ],
)
def test_an_invalid_record_is_refused_by_the_name_of_its_field(tmp_path, where, value, message):
    path = tmp_path / "run.json"
    write_values(change(make_record().to_dict(), where, value), path)
    with pytest.raises(RecordError, match=message) as caught:
        RunRecord.read(path)
    assert str(path) in str(caught.value)


def test_a_run_record_from_before_seals_is_read_and_one_of_now_needs_its_seal(tmp_path):
    path = tmp_path / "run.json"
    values = make_record().to_dict()
    path.write_text(json.dumps({**values, "schema": "litespark.run/2"}))
    assert RunRecord.read(path) == make_record()
    path.write_text(json.dumps(values))
    with pytest.raises(
        RecordError, match=r"run\.json is not a valid run record: seal: got None, expected '[0-9a-f]{64}'"
    ):
        RunRecord.read(path)


def test_a_digit_that_was_changed_by_hand_breaks_the_seal(tmp_path):
    path = tmp_path / "run.json"
    make_record(seed=1234).write(path)
    path.write_text(path.read_text().replace('"seed": 1234', '"seed": 1235'))
    with pytest.raises(RecordError, match="the file was changed after it was written"):
        RunRecord.read(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"seed": NaN}', '"text"', "\udcff"])
def test_a_file_that_is_no_record_is_refused_with_its_path(tmp_path, text):
    path = tmp_path / "run.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RecordError, match=r"run\.json is not a valid run record"):
        RunRecord.read(path)


def test_every_metric_key_is_used_once_and_has_a_group():
    keys = [value for name, value in vars(names).items() if name.isupper()]
    assert len(keys) == len(set(keys)) > 20
    groups = {"progress", "train", "throughput", "memory", "energy", "fp8", "validation"}
    assert {key.split("/")[0] for key in keys} == groups


def test_the_clock_of_the_record_is_accepted_by_the_record():
    assert make_record(started=utc_now()).to_dict()["started"].endswith("+00:00")


def test_only_finite_numbers_are_kept():
    assert [finite_or_none(value) for value in (None, math.nan, math.inf, 0.0)] == [None, None, None, 0.0]
