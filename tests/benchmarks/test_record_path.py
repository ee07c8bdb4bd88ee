"""Names of records, finding an unfinished one, and words without the folders of a machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litespark.benchmarks.provenance import without_folders
from litespark.benchmarks.record_path import continued, device_folder, record_path
from litespark.metrics.records.run import DeviceRecord, EnvironmentRecord


def environment(device: str, cpu: str = "AMD EPYC 9V74") -> EnvironmentRecord:
    return EnvironmentRecord("3.11", "2.14", "Linux", cpu, 1, "bf16", devices=[DeviceRecord(device)])


def test_a_folder_is_named_after_the_device():
    assert device_folder(environment("NVIDIA H200")) == "nvidia-h200"
    assert device_folder(environment("AMD EPYC 9V74")) == f"amd-epyc-9v74-{os.cpu_count()}-cores"


def test_a_second_record_of_a_day_gets_a_number(tmp_path):
    def path() -> Path:
        return record_path(tmp_path, environment("NVIDIA H200"), "bench-step", "tiny", "bf16", "2026-01-02T03:04:05")

    first = path()
    assert first == tmp_path / "nvidia-h200" / "2026-01-02_bench-step_tiny_bf16.json"
    first.parent.mkdir()
    first.write_text("")
    assert path().name == "2026-01-02_bench-step_tiny_bf16_2.json"


def found(folder: Path, names: list[str], wanted: str = "2026-01-03_bench-step_tiny_bf16.json") -> str:
    for age, name in enumerate(names):
        (folder / name).write_text(name)
        os.utime(folder / name, (1e9 - age, 1e9 - age))

    def read(path: Path) -> str:
        if "foreign" in path.read_text():
            raise ValueError("not ours")
        return path.read_text()

    return continued("new", folder / wanted, read=read, unfinished=lambda text: "finished" not in text)[0]


@pytest.mark.parametrize(
    "names, expected",
    [
        ([], "new"),
        (["2026-01-02_bench-step_tiny_bf16.json"], "2026-01-02_bench-step_tiny_bf16.json"),
        # the newest first, whatever its number
        (
            ["2026-01-02_bench-step_tiny_bf16_9.json", "2026-01-02_bench-step_tiny_bf16_10.json"],
            "2026-01-02_bench-step_tiny_bf16_9.json",
        ),
        # of another benchmark, model or precision
        (["2026-01-02_bench_ops_tiny_bf16.json"], "new"),
        (["2026-01-02_bench-step_tiny_fp32.json"], "new"),
        (["2026-01-02_bench-step_tiny2_bf16.json"], "new"),
    ],
)
def test_an_unfinished_record_is_found_by_what_it_measures(tmp_path, names, expected):
    assert found(tmp_path, names) == expected


def test_files_that_are_not_ours_are_left_alone(tmp_path):
    def read(path: Path) -> str:
        raise ValueError("of an older schema")

    (tmp_path / "2026-01-02_bench-step_tiny_bf16.json").write_text("")
    path = tmp_path / "2026-01-03_bench-step_tiny_bf16.json"
    assert continued("new", path, read=read, unfinished=lambda text: True) == ("new", path)


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
