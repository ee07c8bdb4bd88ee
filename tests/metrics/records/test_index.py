"""A file of results is a record that may be published: by its name, its figures and its commit."""

from dataclasses import replace

import pytest

from litespark.metrics.records.base import RecordError
from litespark.metrics.records.index import read_entry, read_index
from tests.metrics.records.hand_made import CPU, make_record
from tests.reports.synthetic_records import results_folder, step_record


def test_a_run_whose_figures_do_not_follow_from_each_other_is_not_published(tmp_path):
    path = tmp_path / "2026-01-31_quickstart_tiny_fp32.json"
    record = make_record()
    record.energy = replace(record.energy, reason="no counter")
    record.write(path)
    assert read_entry(path).record == record
    record.throughput = replace(record.throughput, step_ms_median=10.0, step_ms_p95=9.0)
    record.write(path)
    with pytest.raises(RecordError, match=r"quickstart.*throughput\.step_ms_median: got 10\.0"):
        read_entry(path)


def test_an_entry_says_what_every_kind_says(tmp_path):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0})).glob("*/*.json")
    entry = read_entry(path)
    assert (entry.kind, entry.what, entry.model, entry.precision) == ("step", "bench-step", "tiny", "bf16")
    # a second one of a day, of a model with an underscore
    entry = read_entry(path.rename(path.with_name("2026-01-31_bench-step_my_tiny_bf16_2.json")))
    assert (entry.model, entry.precision) == ("my_tiny", "bf16")
    assert (entry.origin.git_commit, entry.record.complete) == ("c0ffee1234", True)


@pytest.mark.parametrize("dirty", [True, None])
def test_a_measurement_on_a_gpu_is_of_a_clean_commit(tmp_path, dirty):
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0}, dirty=dirty)).glob("*/*.json")
    with pytest.raises(RecordError, match=f"git_dirty {dirty}, expected a clean commit"):
        read_entry(path)
    (path,) = results_folder(tmp_path, step_record({"sdpa": 10.0}, dirty=dirty, device=CPU)).glob("a-cpu/*.json")
    assert read_entry(path).record.environment.on_cpu


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


def test_what_is_refused_is_one_line_each_and_the_others_are_read(tmp_path):
    results = results_folder(tmp_path, step_record({"sdpa": 10.0}), step_record({"sdpa": 9.0}, day="2026-02-01"))
    (results / "nvidia-h200" / "broken.json").write_text("{\n")
    entries, refused = read_index(results)
    assert [entry.origin.time[:10] for entry in entries] == ["2026-01-31", "2026-02-01"]
    assert len(refused) == 1
    assert "broken.json" in refused[0]
    assert "\n" not in refused[0]
