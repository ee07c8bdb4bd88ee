"""`run.json` is true at every moment, and null where nothing was measured."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from litespark.callbacks.phases import Phases
from litespark.callbacks.run_record import RunRecorder
from litespark.metrics.meters import NullMeter
from litespark.run.record import DataRecord, ModelRecord, ProjectionRecord, RunRecord, SegmentRecord, TargetRecord
from litespark.training.module import NonFiniteError
from litespark.training.optim import AdamWConfig
from tests.callbacks.fake_time import TimedTask, metered
from tests.metrics.records.hand_made import fp8_record, make_record
from tests.training.small_runs import LENGTH, Planted, batches, small_run, training_module

STARTED = "2026-01-31T12:00:00+00:00"


def recorded_run(folder, clock, *, steps=4, meter=None, task=None, record=None, fp8=None, **settings):
    record = record or make_record(
        segments=[],
        model=ModelRecord("small", 10, 8, 48.5, 50.0, LENGTH),
        data=DataRecord("text", "hash", 31, 1000, 100, 3.5),
    )
    phases = Phases()
    energy = metered(folder, clock, phases, meter=meter, minimum=2.0)
    optimizer = AdamWConfig(nonfinite_limit=3)
    module = training_module(steps=steps, sequences=2, task=task or TimedTask(clock, [1.0]), optimizer=optimizer)
    run = clock.drive(small_run(folder, module, phases=phases, callbacks=[energy], **settings))
    section = SimpleNamespace(record=fp8)
    recorder = RunRecorder(
        folder, record, SegmentRecord(STARTED, 0), throughput=run.throughput,
        energy=energy, metrics=run.metrics, quality=SimpleNamespace(target=TargetRecord(1.5)),
        fp8=section, seconds_between_writes=0.0,
    )  # fmt: skip
    run.trainer.callbacks.append(recorder)
    return run, recorder


class Watch(Planted):
    """Reads the record as each micro-batch begins."""

    def __init__(self, folder, clock, at=lambda micro_batch: False):
        super().__init__(at)
        self.folder, self.clock, self.seen_records = folder, clock, []

    def loss(self, model, batch):
        self.seen_records.append(json.loads((self.folder / "run.json").read_text()))
        self.clock.now += 1
        return super().loss(model, batch)


def test_the_record_follows_the_run_and_says_how_it_ended(tmp_path, clock):
    watch = Watch(tmp_path, clock)
    run, recorder = recorded_run(tmp_path, clock, task=watch, validate_every=4, peak=1e6)
    run.trainer.fit(run.module, batches(2))
    assert [record["status"] for record in watch.seen_records] == ["running"] * 4
    assert [record["throughput"]["steps"] for record in watch.seen_records] == [0, 1, 2, 3]
    assert all(record["ended"] is None for record in watch.seen_records)
    first = watch.seen_records[0]
    for section, figure in (
        ("throughput", "tokens_per_second"),
        ("throughput", "step_ms_median"),
        ("quality", "train_loss"),
    ):
        assert first[section][figure] is None

    recorder.update("finished")
    record = RunRecord.read(tmp_path / "run.json")
    assert (record.status, record.error) == ("finished", None)
    assert record.ended is not None
    assert record.segments == [
        replace(record.segments[0], first_step=0, last_step=4, reason="start", ended=record.ended)
    ]
    tokens = 4 * 2 * LENGTH
    assert (record.throughput.tokens, record.throughput.steps) == (tokens, 4)
    assert record.throughput.tokens_per_second == pytest.approx(tokens / 4)
    energy, quality, latest = record.energy, record.quality, run.metrics.latest
    assert (energy.train_joules, energy.phases.train, energy.average_power_watts) == pytest.approx((400, 400, 100))
    assert energy.joules_per_token_train == pytest.approx(400 / tokens)
    assert (quality.train_loss, quality.validation_loss) == (latest["train/loss"], latest["validation/loss"])
    assert quality.skipped_steps == 0
    assert (record.throughput.peak_flops, record.throughput.peak_source) == (1e6, "test")
    assert record.throughput.mfu_causal == pytest.approx(latest["throughput/mfu_causal"])


def test_what_was_not_measured_is_null_and_never_zero(tmp_path, clock):
    run, recorder = recorded_run(tmp_path, clock, meter=NullMeter("no counter here", "CPU energy"))
    run.trainer.fit(run.module, batches(2))
    recorder.update("finished")
    record = json.loads((tmp_path / "run.json").read_text())
    energy = record["energy"]
    assert (energy["method"], energy["reason"], energy["label"]) == (None, "no counter here", "CPU energy")
    assert set(energy["phases"].values()) == {None}
    absent = {
        "energy": "train_joules all_in_joules joules_per_token_train joules_per_token_all_in average_power_watts "
        "tokens_per_second_per_watt",
        "throughput": "mfu_causal mfu_full hfu_causal mfu_measured_peak peak_flops peak_source measured_peak_flops "
        "peak_memory_gib",
        "quality": "validation_loss perplexity bits_per_byte token_accuracy sample",
    }
    for section, keys in absent.items():
        assert {key: record[section][key] for key in keys.split()} == dict.fromkeys(keys.split())


def test_a_run_that_stops_for_bad_steps_says_how_many_it_skipped(tmp_path, clock):
    run, recorder = recorded_run(
        tmp_path, clock, steps=20, task=Watch(tmp_path, clock, lambda micro_batch: micro_batch >= 2)
    )
    with pytest.raises(NonFiniteError) as error:
        run.trainer.fit(run.module, batches(2))
    recorder.update("failed", str(error.value))
    record = RunRecord.read(tmp_path / "run.json")
    assert record.quality.skipped_steps == 3
    assert record.throughput.steps == 5
    assert "not finite" in record.error


def test_a_resume_adds_a_segment_to_a_run_that_ended_otherwise(tmp_path, clock):
    run, recorder = recorded_run(tmp_path, clock)
    recorder.update("failed", "RuntimeError: no room")  # before its first step
    assert RunRecord.read(tmp_path / "run.json").segments == []
    run.trainer.fit(run.module, batches(2))
    recorder.update("failed", "OSError: the disk is gone")
    stopped = RunRecord.read(tmp_path / "run.json")
    assert (stopped.status, stopped.error) == ("failed", "OSError: the disk is gone")
    assert stopped.segments[-1].ended == stopped.ended
    again, recorder = recorded_run(tmp_path, clock, record=RunRecord.read(tmp_path / "run.json"))
    again.trainer.fit(again.module, batches(2))
    recorder.update("finished")
    record = RunRecord.read(tmp_path / "run.json")
    assert [segment.reason for segment in record.segments] == ["start", "resume"]
    assert (record.started, record.status, record.error) == (STARTED, "finished", None)


def test_the_record_takes_the_parts_of_other_callbacks_and_what_follows_the_last_step(tmp_path, clock):
    before = make_record(fp8=fp8_record(), segments=[])
    run, recorder = recorded_run(tmp_path, clock, record=before)
    recorder.attach(run.module)  # a resume without a step left, whose monitor of fp8 has nothing
    recorder.record.take_end("once upon", ProjectionRecord(1000))
    recorder.record.take_end(None, ProjectionRecord(2000))
    recorder.update("finished")
    record = RunRecord.read(tmp_path / "run.json")
    assert (record.target.bits_per_byte, record.quality.sample) == (1.5, "once upon")
    assert record.projection.target_tokens == 2000
    assert record.fp8 == fp8_record()
    recorder.fp8.record = fp8_record(readings=7)
    recorder.update("finished")
    assert RunRecord.read(tmp_path / "run.json").fp8.readings == 7
