"""Every kind of record reads back as it was written, and with a wrong number in its file is refused by its field."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from litespark.metrics.records.base import RecordError, parse
from litespark.metrics.records.index import AnyRecord, read_record
from litespark.metrics.records.traffic import FamiliesRecord, FamilyTraffic, TrafficRecord
from litespark.metrics.records.training import RunFailure
from litespark.run.record import RunRecord, SegmentRecord, TargetRecord
from tests.metrics import (
    ablation_records,
    data_records,
    lifecycle_records,
    step_records,
    tasks_records,
    training_records,
)
from tests.metrics.records.hand_made import NOON, fp8_record, make_record, ops_record, profile_record
from tests.properties import given, settings, st

COUNTED = Path(__file__).resolve().parents[3] / "results" / "counted"
MADE = {
    "run": lambda: make_record(fp8=fp8_record(), target=TargetRecord(1.0)),
    "ops": ops_record,
    "step": lambda: step_records.record(step_records.standard(), step_records.ours()),
    "ablation": ablation_records.record,
    "profile": profile_record,
    "traffic": lambda: _traffic(),
    "families": lambda: FamiliesRecord(_traffic().provenance, 4, 4096, "bf16", [_family()]),
    "data": data_records.data_record,
    "equal": training_records.equal_tokens,
    "target": training_records.to_target,
    "corpus": training_records.selecting,
    "tasks": tasks_records.tasks_record,
    "lifecycle": lifecycle_records.lifecycle_record,
}


def _traffic() -> TrafficRecord:
    return TrafficRecord.read(sorted(COUNTED.glob("*_bench-traffic_tiny_*.json"))[-1])


def _family() -> FamilyTraffic:
    return FamilyTraffic("tiny", "Tiny", _traffic().variants)


def plant(values: Any, where: str, value: Any) -> None:
    """Give one place of plain values another value; `...` takes it out."""
    *parents, last = [int(word) if word.lstrip("-").isdigit() else word for word in where.split(".")]
    for parent in parents:
        values = values[parent]
    if value is ...:
        del values[last]
    else:
        values[last] = value


@pytest.mark.parametrize("kind", MADE)
def test_a_written_record_reads_back_equal_by_its_schema(tmp_path, kind):
    record = MADE[kind]()
    record.write(tmp_path / "deep" / "record.json")
    assert read_record(tmp_path / "deep" / "record.json") == record
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["record.json"]


def test_every_kind_is_tried():
    assert {type(made()) for made in MADE.values()} == set(get_args(get_args(AnyRecord)[0]))


FAULTS = [
    # what any record is checked for
    ("run", "schema", "litespark.run/1", "does not match any of the expected tags"),
    ("run", "seed", True, "seed: got True"),
    ("run", "seed", ..., "seed: missing"),
    ("run", "model.parameters", 1.5, r"model\.parameters: got 1\.5"),
    ("run", "model.size", 3, r"model\.size: got 3: Unexpected"),
    ("run", "status", "done", "status: got 'done'"),
    ("run", "provenance.time", "yesterday", r"provenance\.time: .*yesterday"),
    ("run", "ended", "2026-01-31T12:00:00", "ended: got .* with its zone"),
    ("run", "throughput.tokens", -1, r"throughput\.tokens: got -1"),
    ("run", "energy.coverage", 1.5, r"energy\.coverage: got 1\.5"),
    ("run", "energy.phases.train", "3", r"energy\.phases\.train: got '3'"),
    ("ops", "cases.0.variants.0.forward.median_ms", 0.0, r"median_ms: got 0\.0"),
    # step
    ("step", "variants.1.rounds.0.tokens", 64, r"litespark\.rounds\[0\]\.tokens: got 64 and 80 pairs, expected \(32"),
    ("step", "variants.1.rounds.1.attention_pairs", 79, r"got 32 and 79 pairs, expected \(32, 80\)"),
    ("step", "variants.1.rounds.1.tokens_hash", "0123", "tokens_hash: got 0123, expected ab"),
    ("step", "variants.0.rounds.0.loss", None, "and loss None, expected all of them"),
    ("step", "variants.0.rounds.0.joules", None, "either joules or a reason"),
    ("step", "variants.0.rounds.0.joules_reason", "lost", "either joules or a reason"),
    # traffic
    ("traffic", "variants.0.classes.0.layer.read", 1.5, r"layer\.read: got 1\.5"),
    ("traffic", "variants.0.classes.0.phase", "last", "phase: got 'last'"),
    # data
    ("data", "preparation.1.tokens", 1009, r"got \[999, 1000\] tokens without EOS"),
    # variants × seeds
    ("equal", "stream.budget_tokens", 300, "got 400, expected the 300 of the budget"),
    ("equal", "variants.1.runs.0.curve.3", ..., "seed 1: tokens: got 300, expected the 400 of the budget"),
    ("equal", "variants.1.runs.0.curve.3.tokens", 395, "tokens: got 395, expected 400 as before"),
    ("equal", "variants.1.runs.0.curve.0.seconds", 99.0, "expected steps, tokens and seconds to grow"),
    ("equal", "variants.1.runs.0.curve.3.joules", None, "joules: expected either joules or a reason"),
    ("equal", "variants.1.runs.0.all_in_joules", 10.0, r"joules: got 240\.0, expected at most all_in_joules = 10"),
    ("target", "target_bits_per_byte", 2.45, r"2\.4 before the end, expected the run to end"),
    ("target", "target_bits_per_byte", 1.0, "got 1000, expected the 100000 of the budget"),
    ("corpus", "variants.1.prepared.validation_hash", "other", r"variants\.validation_hash: expected the same"),
    # tasks
    ("tasks", "variants.1.rounds.0.tokens", 999, r"dpo_trl\.rounds\[0\]\.tokens: got 999, expected 1000"),
    ("tasks", "variants.2.rounds.1.examples_hash", "other", "examples_hash: got other, expected of sft"),
    ("tasks", "variants.0.rounds.0.places", 999, "places: got 999 for 1000 tokens"),
    ("tasks", "variants.0.rounds.0.seconds.1", ..., "seconds: got 1 steps, expected 2"),
    ("tasks", "variants.0.rounds.0.joules_reason", None, "either joules or a reason"),
]


@pytest.mark.parametrize(("kind", "where", "value", "message"), FAULTS, ids=[f"{each[0]}.{each[1]}" for each in FAULTS])
def test_a_planted_fault_is_refused_by_its_field(tmp_path, kind, where, value, message):
    path = tmp_path / "record.json"
    MADE[kind]().write(path)
    values = json.loads(path.read_text())
    plant(values, where, value)
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match=rf"record\.json is not a valid record: .*{message}"):
        read_record(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "[" * 9999, '{"schema": NaN}', '{"seed": 1}', "\udcff"])
def test_what_is_no_record_is_refused_by_the_name_of_its_file(tmp_path, text):
    path = tmp_path / "strange.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    for read in (read_record, RunRecord.read):
        with pytest.raises(RecordError, match=r"strange\.json is not a valid"):
            read(path)


def with_sections(record: RunRecord, **changes: Any) -> RunRecord:
    for section, values in changes.items():
        setattr(record, section, dataclasses.replace(getattr(record, section), **values))
    return record


def test_what_was_set_later_is_checked_before_it_is_written(tmp_path):
    record, path = training_records.equal_tokens(), tmp_path / "record.json"
    record.variants[1].failures.append(RunFailure(seed=2, error="out of memory"))
    record.write(path)
    before = path.read_text()
    record.variants[1].runs[0].curve.pop()
    for write in (record.check, lambda: record.write(path)):
        with pytest.raises(RecordError, match="expected the 400 of the budget"):
            write()
    assert path.read_text() == before


def test_what_is_not_finite_was_not_measured(tmp_path):
    record = with_sections(make_record(), energy={"joules_per_token_train": math.nan}, quality={"perplexity": math.inf})
    record.write(tmp_path / "run.json")
    assert RunRecord.read(tmp_path / "run.json").energy.joules_per_token_train is None
    with pytest.raises(ValueError, match="train_seconds"):
        with_sections(make_record(), throughput={"train_seconds": math.nan})


@settings(deadline=None, derandomize=True)
@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**60), st.text())
def test_any_finite_values_survive_the_text_of_the_file(number, count, text):
    changes = {"energy": {"all_in_joules": number}, "throughput": {"tokens": count}, "quality": {"sample": text}}
    record = with_sections(make_record(), **changes)
    assert parse(RunRecord, record.check()) == record


CONTRADICTIONS = [
    ("throughput", {"tokens_per_second": 1e5}, r"tokens_per_second: got 100000\.0, expected about 1000"),
    ("throughput", {"step_ms_p95": 9.0}, r"step_ms_median: got 10\.0, expected at most step_ms_p95 = 9"),
    ("throughput", {"mfu_full": 0.1}, r"mfu_causal: got 0\.4, expected at most mfu_full = 0\.1"),
    ("throughput", {"steps": 9}, r"throughput\.steps: got 9, expected last_step = 10"),
    ("energy", {"all_in_joules": 1.0}, r"energy\.train_joules: got 3\.0, expected at most all_in_joules = 1"),
    ("energy", {"train_joules": None}, "got neither joules nor a reason"),
]


@pytest.mark.parametrize(("section", "changes", "complaint"), CONTRADICTIONS)
def test_figures_of_a_run_follow_from_each_other(tmp_path: Path, section, changes, complaint):
    """Such a run is written and read, and is not published; see `read_entry`."""
    sound = {"tokens": 100, "steps": 10, "train_seconds": 0.1, "tokens_per_second": 1000.0, "step_ms_median": 10.0,
             "step_ms_p95": 11.0, "mfu_causal": 0.4, "mfu_full": 0.5}  # fmt: skip
    record = with_sections(
        make_record(segments=[SegmentRecord(NOON, 0, last_step=10)], status="finished"),
        throughput=sound,
        energy={"train_joules": 3.0, "all_in_joules": 4.0},
    )
    assert list(record.contradictions()) == []
    with_sections(record, **{section: changes}).write(tmp_path / "run.json")
    (found,) = RunRecord.read(tmp_path / "run.json").contradictions()
    assert re.search(complaint, found)
