"""The record of bench data survives a round trip, computes its ratios, and is refused where it contradicts itself."""

import json
from dataclasses import replace

import pytest

from litespark.metrics.records.data import OURS, PREPARE, SCHEMA, DataRecord
from litespark.metrics.records.ledger import read_entry
from litespark.metrics.records.strict_json import RecordError
from tests.metrics.data_records import STREAMS, data_record


def test_a_written_record_reads_back_equal_also_through_the_ledger(tmp_path):
    path = tmp_path / "2026-01-31_bench-data_installed-packages_uint16.json"
    data_record().write(path)
    assert DataRecord.read(path) == data_record()
    assert json.loads(path.read_text())["schema"] == SCHEMA
    entry = read_entry(path)
    assert (entry.kind, entry.model, entry.precision) == ("data", "installed-packages", "uint16")
    assert entry.complete
    assert entry.on_cpu


def test_ratios_are_taken_within_a_round():
    record = data_record()
    assert record.shares(1) == [0.9, 1.0]
    assert record.shares(2) == pytest.approx([0.75, 0.8])
    assert record.shares(1, of_cpu=True) == [pytest.approx(9 / 9.5), 0.95]
    # 1010 tokens in 6 s over 909 in 12 s
    assert record.litgpt_ratios() == [pytest.approx(2 * 1010 / 909)] * 2
    assert record.memory_ratio() == pytest.approx(1.1)
    assert record.shuffle_costs() == [0.25, 0.25]
    assert [run.tokens_per_second for run in record.streamed(OURS, 2)] == [7e6, 7e6]


def test_a_change_by_hand_is_refused(tmp_path):
    path = tmp_path / "record.json"
    data_record().write(path)
    path.write_text(path.read_text().replace('"seconds": 10.0', '"seconds": 1.0'))
    with pytest.raises(RecordError, match=r"record\.json.*seal"):
        DataRecord.read(path)


def changed_run(place: int, **values: object) -> DataRecord:
    record = data_record()
    record.preparation[place] = replace(record.preparation[place], **values)
    return record


def without(variant: str) -> DataRecord:
    record = data_record()
    record.preparation = [run for run in record.preparation if run.variant != variant]
    return record


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (changed_run(1, tokens=1009), r"got \[999, 1000\] tokens without EOS"),
        (changed_run(0, tokens=1001), r"got \[1000, 1001\] tokens without EOS"),
        (changed_run(4, tokens=700), "got 700 tokens by litgpt, expected about 909"),
        (changed_run(0, seconds=0.0), "got 1000 tokens in 0.0 s"),
        (changed_run(0, position=1), "two runs at one place of one round"),
        (without(PREPARE), "complete: got true, expected false without prepare on"),
        (without("litgpt"), "without litgpt on 2 cores"),
        (replace(data_record(), memory=[]), "without memory of two corpora"),
        (data_record(streams=STREAMS[:3]), "without litespark with 2 workers"),
        (replace(data_record(), rounds=3), "in every round"),
        (replace(data_record(), rounds=0, complete=False), "rounds, cores: got"),
        (replace(data_record(), litgpt_reason="absent"), "litgpt: got '0.5.13"),
        (replace(data_record(litgpt=False), litgpt_reason=None), "litgpt: got None"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(record, message):
    data_record().check()
    with pytest.raises(RecordError, match=message):
        record.check()


def test_a_record_without_litgpt_or_with_nothing_yet_is_sound():
    data_record(litgpt=False).check()
    empty = replace(data_record(), preparation=[], memory=[], streaming=[], complete=False)
    empty.check()
    assert empty.shares(1) == empty.litgpt_ratios() == empty.shuffle_costs() == []
    assert empty.memory_ratio() is None
