"""Names of records, finding an unfinished one, and words without the folders of a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litespark.benchmarks.provenance import without_folders
from litespark.benchmarks.record_path import continued, device_folder, record_path
from tests.metrics.records.hand_made import environment, provenance
from tests.metrics.step_records import ours, record, variant


def test_a_folder_is_named_after_the_device():
    assert device_folder(environment("NVIDIA H200")) == "nvidia-h200"
    assert device_folder(environment()) == f"a-cpu-{os.cpu_count()}-cores"


def test_a_second_record_of_a_day_gets_a_number(tmp_path):
    def path() -> Path:
        return record_path(tmp_path, provenance("NVIDIA H200"), "bench-step", "tiny", "bf16")

    first = path()
    assert first == tmp_path / "nvidia-h200" / "2026-01-31_bench-step_tiny_bf16.json"
    first.parent.mkdir()
    first.write_text("")
    assert path().name == "2026-01-31_bench-step_tiny_bf16_2.json"


UNFINISHED = record(variant("litespark"))


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], None),
        (["2026-01-02_bench-step_tiny_bf16.json"], "2026-01-02_bench-step_tiny_bf16.json"),
        # the newest first, whatever its number
        (
            ["2026-01-02_bench-step_tiny_bf16_9.json", "2026-01-02_bench-step_tiny_bf16_10.json"],
            "2026-01-02_bench-step_tiny_bf16_9.json",
        ),
        # of another benchmark, model or precision
        (["2026-01-02_bench_ops_tiny_bf16.json"], None),
        (["2026-01-02_bench-step_tiny_fp32.json"], None),
        (["2026-01-02_bench-step_tiny2_bf16.json"], None),
    ],
)
def test_an_unfinished_record_is_found_by_what_it_measures(tmp_path, names, expected):
    for age, name in enumerate(names):
        UNFINISHED.write(tmp_path / name)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    path = tmp_path / "2026-01-03_bench-step_tiny_bf16.json"
    new = record(variant("litespark"))
    found, at = continued(new, path)
    assert at == (path if expected is None else tmp_path / expected)
    assert (found is new) is (expected is None)


@pytest.mark.parametrize("there", [record(ours()), record(variant("sdpa")), None])
def test_what_is_finished_another_measurement_or_no_record_is_left_alone(tmp_path, there):
    other = tmp_path / "2026-01-02_bench-step_tiny_bf16.json"
    other.write_text("{}") if there is None else there.write(other)
    path = tmp_path / "2026-01-03_bench-step_tiny_bf16.json"
    assert continued(UNFINISHED, path) == (UNFINISHED, path)


@pytest.mark.parametrize(
    "word, expected",
    [
        ("model=tiny", "model=tiny"),
        ("paths.logs=/home/me/logs", "paths.logs=…/logs"),
        ("/opt/it/train.py", "…/train.py"),
        ("data.source=~/text/books.txt", "data.source=…/books.txt"),
        ("plain:data.source=/a/b ops=reference", "plain:data.source=…/b ops=reference"),
        ("optim.betas=[0.9,0.95]", "optim.betas=[0.9,0.95]"),
        ("a/b", "a/b"),
    ],
)
def test_folders_of_the_machine_are_left_out_of_the_command(word, expected):
    assert without_folders([word]) == [expected]
