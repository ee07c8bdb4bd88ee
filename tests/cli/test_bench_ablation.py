"""`litespark bench ablation` hands its words on, and prints and writes what came out."""

from __future__ import annotations

from typing import Any

import pytest

from litespark.benchmarks import ablation
from litespark.cli import main
from litespark.metrics.records.ablation import AblationRecord
from tests.metrics.ablation_records import record
from tests.metrics.step_records import lost


@pytest.fixture
def asked(monkeypatch, tmp_path) -> dict[str, Any]:
    """What the command asks for; it is answered with the record under `answer`."""
    given: dict[str, Any] = {"answer": record()}

    def bench_ablation(overrides: list[str], **named: Any) -> tuple[AblationRecord, Any]:
        given.update(named, overrides=overrides)
        path = tmp_path / "results" / "there" / "record.json"
        given["answer"].write(path)
        return given["answer"], path

    monkeypatch.setattr(ablation, "bench_ablation", bench_ablation)
    return given


def run(*words: str) -> int:
    return main(["bench", "ablation", "data=synthetic", "trainer.accelerator=cpu", *words])


def test_by_default_everything_plain_is_held_against_everything_fast(asked, capsys, tmp_path):
    assert run() == 0
    assert asked["baseline"] == ["ops=reference", "recompute=full", "optim.fused=false"]
    assert asked["target"] == ["ops=litespark", "recompute=none", "optim.fused=true"]
    assert (asked["settings"].rounds, asked["settings"].warmup_steps, asked["settings"].steps) == (2, 2, 5)
    said = capsys.readouterr().out
    assert "target over baseline: tokens/s × 4.500" in said
    written = sorted(path.name for path in (tmp_path / "results" / "there").iterdir())
    assert written == ["record.json", "record.png"]


def test_its_words_are_handed_on_and_kept_for_the_record(asked):
    words = ["--baseline", "ops=reference", "--target", "ops=litespark ops.compile=block", "--rounds", "4"]
    words += [
        "--switch",
        "norm=ops.rms_norm,ops.add_rms_norm",
        "--order",
        "norm,rope",
        "--minutes",
        "3",
        "--steps",
        "7",
    ]
    assert run(*words, "--output", "elsewhere") == 0
    assert asked["target"] == ["ops=litespark", "ops.compile=block"]
    assert asked["grouped"] == ["norm=ops.rms_norm,ops.add_rms_norm"]
    assert asked["order"] == ["norm", "rope"]
    assert (asked["settings"].rounds, asked["settings"].steps, asked["settings"].minutes) == (4, 7, 3.0)
    command = asked["command"]
    assert command[:3] == ["litespark", "bench", "ablation"]
    assert "elsewhere" not in command
    asked.clear()
    asked["answer"] = record()
    assert main(command[1:]) == 0, "the command of the record is one"
    assert asked["command"] == command


def test_a_combination_that_failed_is_an_exit_code_and_an_unfinished_record_says_so(asked, capsys):
    asked["answer"].variants[0].rounds.clear()
    assert run() == 0
    assert "not all rounds are there: the same command continues" in capsys.readouterr().out
    asked["answer"] = record(plus_loss=[lost(0, "failed")])
    assert run() == 1


def test_another_training_is_refused_in_one_line(capsys):
    assert run("--target", "ops=litespark optim.lr=1") == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "differ in what is trained (optim.lr: 0.003 and 1)" in said[0]
