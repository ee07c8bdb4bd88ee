"""`litespark bench step` as a user starts it: real processes at tiny sizes, refusals, and what its exit code says."""

from __future__ import annotations

import subprocess

import pytest

from litespark.benchmarks.step import begin, session
from litespark.benchmarks.step.variants import HUGGINGFACE
from litespark.cli import main
from litespark.cli.configs import repository
from litespark.metrics.records.step import RatesRecord, StepRecord
from litespark.reports import marks
from tests.cli.tiny_run import tiny
from tests.metrics.step_records import lost, ours, record, round_, standard, variant


def test_two_variants_in_processes_of_their_own(tmp_path, monkeypatch, capsys):
    """Real processes: the table, the ratios and a record that can be read; the two have trained alike."""
    rates = RatesRecord(matmul_flops=1e11, attention_flops=1e10, copy_bytes=1e10)
    monkeypatch.setattr(begin, "measured_rates", lambda *given, **named: rates)
    arguments = [*tiny(tmp_path, trainer__accelerator="cpu"), "precision=fp32"]
    variants = ["--variant", "standard", "--variant", "litespark"]
    status = main(["bench", "step", *arguments, *variants, "--rounds", "1", "--steps", "2", "--warmup", "1",
                   "--output", str(tmp_path / "results")])  # fmt: skip
    said = capsys.readouterr()
    assert status == 0, said.err
    (path,) = (tmp_path / "results").glob("*/*_bench-step_tiny_fp32.json")
    found = StepRecord.read(path)
    assert found.complete
    assert [len(each.measured) for each in found.variants] == [1, 1]
    one, other = (each.measured[0].loss for each in found.variants)
    assert one == pytest.approx(other, rel=1e-3)
    assert found.protocol.data == "text.txt"
    assert found.protocol.document_mask is False
    assert str(tmp_path) not in path.read_text()
    assert "× tokens/s" in said.out
    assert f"record: {path}" in said.out


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """The command with a record that is given instead of measured; returns what it was asked for."""

    def give(found: StepRecord) -> dict[str, object]:
        asked: dict[str, object] = {}

        def instead(overrides, variants, settings, **named):
            asked.update(named, overrides=overrides, variants=[each.name for each in variants], settings=settings)
            return found, tmp_path / "record.json"

        monkeypatch.setattr(session, "bench_step", instead)
        return asked

    return give


def bench(*words: str) -> int:
    return main(["bench", "step", "model=tiny", "data=synthetic", "trainer.accelerator=cpu", *words])


def test_all_variants_that_a_cpu_can_have_are_measured_unless_some_are_named(measured, capsys):
    asked = measured(record(standard(), ours()))
    assert bench() == 0
    assert asked["variants"] == [*HUGGINGFACE, "litespark"]
    assert (asked["settings"].rounds, asked["settings"].minutes) == (2, 9.0)
    assert bench("--variant", "sdpa", "--variant", "mine:ops=reference optim.lr=0.1", "--layers", "2") == 0
    assert asked["variants"] == ["sdpa", "mine"]
    assert asked["settings"].layers == 2
    assert asked["command"] == [
        "litespark", "bench", "step", "model=tiny", "data=synthetic", "trainer.accelerator=cpu", "--variant", "sdpa",
        "--variant", "mine:ops=reference optim.lr=0.1", "--layers", "2",
    ]  # fmt: skip


def test_a_variant_that_failed_makes_the_command_fail(measured, capsys):
    measured(record(standard(), variant("litespark", lost(0, "failed", error="exploded"))))
    assert bench() == 1
    assert "exploded" in capsys.readouterr().out


def test_out_of_memory_is_a_result_and_no_failure(measured):
    measured(record(standard(), variant("litespark", lost(0, "out of memory", "full"))))
    assert bench() == 0


@pytest.mark.parametrize("step_ms, status, verdict", [(20.0, 0, "met"), (25.0, 1, "NOT met")])
def test_a_train_py_that_is_too_slow_makes_the_command_fail(measured, capsys, step_ms, status, verdict):
    trainer = variant("train.py", round_(0, [step_ms] * 4), kind="train.py")
    measured(record(variant("litespark", round_(0, [20.0] * 4)), trainer))
    assert bench() == status
    assert f"  {verdict}\n" in capsys.readouterr().out


def test_what_is_missing_can_be_continued(measured, capsys):
    measured(record(standard(), variant("litespark")))
    assert bench() == 0
    assert "the same command continues" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["--variant", "fastest"], "--variant: got 'fastest', expected one of standard"),
        (["--layers", "99"], "--layers: got 99, expected at most the model's 4"),
        (["data.seq_len=100000"], "expected at most model.max_seq_len"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_measured(tmp_path, capsys, words, complaint):
    assert bench(*words, "--output", str(tmp_path)) == 1
    said = capsys.readouterr().err
    assert complaint in said
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


def test_records_go_below_logs_and_into_results_only_when_published(measured, monkeypatch, capsys):
    asked = measured(record(standard(), ours()))
    renewed = []
    monkeypatch.setattr(marks, "write_documents", lambda root: renewed.append(root) or [])
    assert bench() == 0
    assert asked["output"] == repository() / "logs" / "bench"
    assert renewed == []
    assert bench("--publish") == 0
    assert asked["output"] == repository() / "results"
    assert renewed == [repository()]
    assert "--publish" not in asked["command"]
    assert bench("--publish", "--output", "elsewhere") == 2


@pytest.mark.parametrize("goal", ["bench", "bench-gpu-step", "bench-gpu-profile", "bench-gpu-parity"])
def test_make_publishes_when_it_is_asked_to(goal):
    def commands(*words: str) -> str:
        command = ["make", "-n", goal, "PYTHON=python3", *words]
        return subprocess.run(command, cwd=repository(), capture_output=True, text=True, check=True, timeout=60).stdout

    benches = commands().count("cli bench ")
    assert "--publish" not in commands()
    assert "cli results" not in commands()
    assert commands("PUBLISH=1").count("--publish") == benches
