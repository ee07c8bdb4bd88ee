"""`litespark bench loop`: both loops train alike, and the record holds what was measured."""

import dataclasses
import json
import math

import pytest

from litespark.benchmarks.loop import interleaved as loop
from litespark.benchmarks.loop.bare import BareLoop
from litespark.cli import main
from litespark.metrics.records.loop import LoopRecord, LossPair
from tests.cli.tiny_run import tiny


def record_of(tmp_path, *more: str) -> LoopRecord:
    output = tmp_path / "deep" / "record.json"
    arguments = ["bench", "loop", *tiny(tmp_path, trainer__log_every=4), *more, "--blocks", "2"]
    assert main([*arguments, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["schema"] == "litespark.bench.loop/3"
    return LoopRecord.read(output)


def test_the_two_loops_train_alike_and_every_step_is_in_the_record(tmp_path, capsys):
    record = record_of(tmp_path, "data.micro_batch_size=2", "trainer.global_batch_size=4")
    assert record.micro_batches_per_step == 2
    assert len(record.trainer_step_ms) == len(record.bare_step_ms) == 8
    assert len(record.ratios) == 2
    assert min(record.ratios) <= record.ratio <= max(record.ratios)
    assert record.early.steps == 7
    assert record.final.steps == 11
    for pair in (record.early, record.final):
        assert pair.trainer == pytest.approx(pair.bare, rel=1e-5)
    # both learned: a model that knows nothing has ln 300
    assert record.final.bare < record.early.bare < math.log(300)
    assert record.model.name == "tiny"
    assert record.environment.precision == "fp32"
    said = capsys.readouterr().out
    assert f"ratio {record.ratio:.3f}" in said
    assert not (tmp_path / "logs" / "runs" / "bench").exists()


def test_loops_that_train_differently_are_not_compared(tmp_path, monkeypatch, capsys):
    """Here by a learning rate that is a little higher in one of them, and more so with each step."""
    honest = BareLoop.take

    def careless(self, steps):
        self.config = dataclasses.replace(self.config, lr=self.config.lr * 1.01)
        honest(self, steps)

    monkeypatch.setattr(loop.BareLoop, "take", careless)
    assert main(["bench", "loop", *tiny(tmp_path, trainer__log_every=4), "--blocks", "1"]) == 1
    said = capsys.readouterr().out
    assert "DIFFER" in said
    assert "ratio" not in said


def test_a_loss_that_is_not_a_number_never_agrees():
    assert LossPair(1, 2.0, 2.0).within(0.0)
    assert not LossPair(1, math.nan, math.nan).within(1.0)
    assert not LossPair(1, 2.1, 2.0).within(0.01)


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["strategy=ddp"], "strategy=single"),
        (["resume=logs/runs/x"], "initial weights"),
        (["model.vocab_size=299"], "model.vocab_size"),
        (["precision=fp8", "precision.fp8.simulate=true"], "the bare loop renews no scales"),
    ],
)
def test_bad_arguments_are_refused(tmp_path, capsys, arguments, complaint):
    assert main(["bench", "loop", *tiny(tmp_path), *arguments]) == 1
    assert complaint in capsys.readouterr().err
