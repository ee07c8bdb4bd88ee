"""Names of records, how one begins or goes on, turns, and words without the folders of a machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from litespark.benchmarks.session import begin, record_path, turns, without_folders
from litespark.metrics.records.base import RecordError
from tests.metrics.records.hand_made import CPU, provenance


def test_a_second_record_of_a_day_gets_a_number(tmp_path):
    def path(device: str) -> Path:
        origin = provenance(device, time="2026-01-02T03:04:05+00:00")
        return record_path(tmp_path, origin, "bench-step", "tiny", "bf16")

    first = path("NVIDIA H200")
    assert first == tmp_path / "nvidia-h200" / "2026-01-02_bench-step_tiny_bf16.json"
    first.parent.mkdir()
    first.write_text("")
    assert path("NVIDIA H200").name == "2026-01-02_bench-step_tiny_bf16_2.json"
    assert path(CPU).parent.name == f"a-cpu-{os.cpu_count()}-cores"


@dataclass
class Text:
    """A record that is one line."""

    text: str

    @property
    def complete(self) -> bool:
        return "complete" in self.text

    def continues(self, other: Text) -> bool:
        return self.text.split()[0] == other.text.split()[0]

    def write(self, path: Path) -> None:
        path.write_text(self.text)

    @classmethod
    def read(cls, path: Path) -> Text:
        if "foreign" in path.read_text():
            raise RecordError("not ours")
        return cls(path.read_text())


@pytest.mark.parametrize(
    "names, expected",
    [
        ({"bench-step_tiny_bf16": "here"}, "bench-step_tiny_bf16"),
        # the newest first, whatever its number
        ({"bench-step_tiny_bf16_9": "here", "bench-step_tiny_bf16_10": "here"}, "bench-step_tiny_bf16_9"),
        # complete, of another identity, or none of ours; of another benchmark, model or precision
        ({"bench-step_tiny_bf16": "here complete", "bench-step_tiny_bf16_2": "elsewhere"}, None),
        ({"bench-step_tiny_bf16": "foreign here"}, None),
        ({"bench-ops_tiny_bf16": "here", "bench-step_tiny_fp32": "here", "bench-step_tiny2_bf16": "here"}, None),
    ],
)
def test_an_unfinished_record_is_found_by_what_it_measures_and_written(tmp_path, names, expected):
    for age, (name, text) in enumerate(names.items()):
        path = tmp_path / f"2026-01-02_{name}.json"
        path.write_text(text)
        os.utime(path, (1e9 - age, 1e9 - age))
    new, said = Text("here new"), []
    wanted = tmp_path / "2026-01-03_bench-step_tiny_bf16.json"
    record, path = begin(new, wanted, done=lambda record: "2 rounds", say=said.append)
    assert path.stem == (wanted.stem if expected is None else f"2026-01-02_{expected}")
    assert (record is new) is (expected is None)
    assert path.read_text() == record.text
    assert said == ([] if expected is None else [f"{path}: continued, 2 rounds are there"])


def test_every_second_round_is_backwards():
    assert list(turns("ab", 3)) == [(0, 0, "a"), (0, 1, "b"), (1, 0, "b"), (1, 1, "a"), (2, 0, "a"), (2, 1, "b")]


def test_folders_of_the_machine_are_left_out_of_the_command():
    expected = {
        "model=tiny": "model=tiny",
        "paths.logs=/home/me/logs": "paths.logs=…/logs",
        "/opt/it/train.py": "…/train.py",
        "data.source=~/text/books.txt": "data.source=…/books.txt",
        "plain:data.source=/a/b ops=reference": "plain:data.source=…/b ops=reference",
        "optim.betas=[0.9,0.95]": "optim.betas=[0.9,0.95]",
        "a/b": "a/b",
    }
    assert without_folders(list(expected)) == list(expected.values())
