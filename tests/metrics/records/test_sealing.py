"""A record is written whole or not at all, and a change by hand is seen."""

import json
from dataclasses import dataclass

import pytest

from litespark.metrics.records.sealing import read_sealed, seal_of, write_sealed, write_values
from litespark.metrics.records.strict_json import RecordError

SCHEMA = "litespark.test/1"


@dataclass
class Record:
    name: str
    figure: float | None
    count: int = 1


def written(path, record=None):
    write_sealed(record or Record("naïve ☃", 0.1 + 0.2), SCHEMA, path)
    return path


def test_a_written_record_reads_back_equal_in_a_folder_that_is_made(tmp_path):
    path = written(tmp_path / "deep" / "record.json")
    assert read_sealed(path, Record, SCHEMA) == Record("naïve ☃", 0.1 + 0.2)
    assert [each.name for each in path.parent.iterdir()] == ["record.json"]


def test_the_order_of_keys_and_the_layout_are_not_sealed(tmp_path):
    path = written(tmp_path / "record.json")
    values = json.loads(path.read_text())
    path.write_text(json.dumps(dict(reversed(values.items())), indent=4))
    assert read_sealed(path, Record, SCHEMA).figure == 0.1 + 0.2


@pytest.mark.parametrize("key, value", [("figure", 0.4), ("name", "other"), ("seal", "0" * 64), ("seal", None)])
def test_any_change_breaks_the_seal(tmp_path, key, value):
    path = written(tmp_path / "record.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(RecordError, match=r"record\.json is not a valid litespark\.test/1 record: seal: got"):
        read_sealed(path, Record, SCHEMA)


def test_a_seal_covers_the_schema():
    assert seal_of({"schema": "a", "x": 1}) != seal_of({"schema": "b", "x": 1})


def test_another_schema_is_refused_by_name(tmp_path):
    with pytest.raises(RecordError, match=r"schema: got 'litespark.test/1', expected 'litespark.test/2'"):
        read_sealed(written(tmp_path / "record.json"), Record, "litespark.test/2")


def test_a_field_that_is_missing_is_named_also_under_a_right_seal(tmp_path):
    write_values({"schema": SCHEMA, "name": "a", "figure": 1.0}, tmp_path / "record.json")
    with pytest.raises(RecordError, match="count: missing"):
        read_sealed(tmp_path / "record.json", Record, SCHEMA)


def test_a_write_that_fails_leaves_the_old_record_and_no_litter(tmp_path, monkeypatch):
    path = written(tmp_path / "record.json")
    before = path.read_text()

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        written(path, Record("other", None))
    with pytest.raises(RecordError, match=r"count: got 1.5"):
        written(path, Record("other", None, 1.5))
    assert path.read_text() == before
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]
