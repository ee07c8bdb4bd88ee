"""A file of results is read by its schema, and refused by its name where it is not what it says."""

import json
import shutil
from pathlib import Path

import pytest

from litespark.metrics.records.ledger import READERS, read_entry, read_ledger, read_record
from litespark.metrics.records.run import SegmentRecord
from litespark.metrics.records.sealing import write_values
from litespark.metrics.records.strict_json import RecordError
from litespark.metrics.records.validated import Record
from tests.metrics.data_records import data_record
from tests.metrics.records.test_loop_and_ops import loop_record, ops_record
from tests.metrics.records.test_run import make_record
from tests.metrics.training_records import equal_tokens
from tests.reports.synthetic_records import (
    CPU,
    ablation_record,
    profile_record,
    results_folder,
    step_record,
)

RECORDS = [make_record(), loop_record(), ops_record(), step_record({"sdpa": 10.0}), ablation_record(), profile_record(),
           data_record(), equal_tokens()]  # fmt: skip


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_every_kind_is_read_by_its_schema_and_a_sealed_one_refused_with_a_changed_digit(tmp_path, record):
    path = tmp_path / "record.json"
    record.write(path)
    assert read_record(path) == record
    if isinstance(record, Record):
        return
    path.write_text(path.read_text().replace("2026-01-31T12", "2026-01-31T13"))
    with pytest.raises(RecordError, match="the file was changed after it was written"):
        read_record(path)


def test_every_reader_is_tried():
    assert len({type(record) for record in RECORDS}) == len(READERS)


@pytest.mark.parametrize("text", ["", "[]", '{"schema": NaN}', '{"seed": 1}', '{"schema": "litespark.bench.magic/1"}'])
def test_what_is_no_record_is_refused_by_the_name_of_its_file(tmp_path, text):
    (tmp_path / "strange.json").write_text(text)
    with pytest.raises(RecordError, match=r"strange\.json is not a valid Litespark record"):
        read_record(tmp_path / "strange.json")


def test_a_changed_digit_is_refused(tmp_path):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.5})).glob("*/*.json")
    path.write_text(path.read_text().replace("10.5", "10.4"))
    with pytest.raises(RecordError, match=r"bench-step_tiny_bf16\.json .*the file was changed after it was written"):
        read_record(path)


def test_a_new_seal_does_not_cover_a_record_that_contradicts_itself(tmp_path):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.5})).glob("*/*.json")
    values = json.loads(path.read_text())
    values["variants"][0]["rounds"][0]["step_ms"].pop()
    write_values(values, path)
    with pytest.raises(RecordError, match=r"variants\.sdpa\.rounds\[0\]\.step_ms: got 1 times, expected 2"):
        read_record(path)


@pytest.mark.parametrize(
    "section, name, value, complaint",
    [
        ("quality", "perplexity", 2.0, r"quality\.perplexity: got 2\.0, expected exp"),
        ("throughput", "tokens_per_second", 1e5, r"throughput\.tokens_per_second: got 100000\.0, expected about 1000"),
        ("throughput", "step_ms_p95", 9.0, r"throughput\.step_ms_median: got 10\.0, expected at most step_ms_p95 = 9"),
        ("throughput", "mfu_full", 0.1, r"throughput\.mfu_causal: got 0\.4, expected at most mfu_full = 0\.1"),
        ("throughput", "steps", 9, r"throughput\.steps: got 9, expected last_step = 10"),
        ("energy", "all_in_joules", 1.0, r"energy\.train_joules: got 3\.0, expected at most all_in_joules = 1"),
    ],
)
def test_a_run_whose_figures_do_not_follow_from_each_other_is_refused_under_a_right_seal(
    tmp_path, section, name, value, complaint
):
    record = make_record(segments=[SegmentRecord("2026-01-31T12:00:00+00:00", 0, last_step=10)], status="finished")
    record.quality.validation_loss, record.quality.perplexity = 0.0, 1.0
    vars(record.throughput).update(tokens=100, steps=10, train_seconds=0.1, tokens_per_second=1000.0,
                                   step_ms_median=10.0, step_ms_p95=11.0, mfu_causal=0.4, mfu_full=0.5)  # fmt: skip
    record.energy.train_joules, record.energy.all_in_joules = 3.0, 4.0
    record.write(tmp_path / "run.json")
    assert read_record(tmp_path / "run.json") == record
    setattr(getattr(record, section), name, value)
    record.write(tmp_path / "run.json")
    with pytest.raises(RecordError, match=rf"run\.json is not a valid run record: {complaint}"):
        read_record(tmp_path / "run.json")


def test_an_entry_says_what_every_kind_says(tmp_path):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0}, complete=False)).glob("*/*.json")
    entry = read_entry(path)
    assert (entry.kind, entry.what, entry.model, entry.precision) == ("step", "bench-step", "tiny", "bf16")
    assert (entry.git_commit, entry.git_dirty, entry.complete, entry.on_cpu) == ("c0ffee1234", False, False, False)


@pytest.mark.parametrize("dirty", [True, None])
def test_a_measurement_on_a_gpu_is_of_a_clean_commit(tmp_path, dirty):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0}, dirty=dirty)).glob("*/*.json")
    with pytest.raises(RecordError, match=f"git_dirty {dirty}, expected a clean commit"):
        read_entry(path)
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0}, dirty=dirty, device=CPU)).glob("a-cpu/*.json")
    assert read_entry(path).on_cpu


@pytest.mark.parametrize(
    "name, complaint",
    [
        ("2026-02-01_bench-step_tiny_bf16.json", "got the day 2026-02-01 in the name, expected .* 2026-01-31"),
        ("fast.json", "expected DATE_WHAT_MODEL_PRECISION"),
    ],
)
def test_the_name_of_the_file_is_that_of_the_record(tmp_path, name, complaint):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0})).glob("*/*.json")
    moved = path.rename(path.with_name(name))
    with pytest.raises(RecordError, match=complaint):
        read_entry(moved)


def test_a_second_record_of_a_day_and_a_model_with_an_underscore_are_told_apart(tmp_path):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0})).glob("*/*.json")
    moved = shutil.copy(path, path.with_name("2026-01-31_bench-step_my_tiny_bf16_2.json"))
    entry = read_entry(Path(moved))
    assert (entry.model, entry.precision) == ("my_tiny", "bf16")


def test_what_is_refused_is_one_line_each_and_the_others_are_read(tmp_path):
    results = results_folder(tmp_path, step_record({"sdpa": 10.0}), step_record({"sdpa": 9.0}, day="2026-02-01"))
    (results / "nvidia-h200" / "broken.json").write_text("{\n")
    entries, refused = read_ledger(results)
    assert [entry.time[:10] for entry in entries] == ["2026-01-31", "2026-02-01"]
    assert len(refused) == 1
    assert "broken.json" in refused[0]
    assert "\n" not in refused[0]
