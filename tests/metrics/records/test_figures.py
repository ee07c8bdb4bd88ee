"""Figures that records compute from what they hold, by hand; and what they were asked to measure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litespark.metrics import names
from litespark.metrics.records.ablation import changes_speed_only, default_name, planned
from litespark.metrics.records.data import OURS
from litespark.metrics.records.ops import CaseRecord, OpFigures, TimeRecord, VariantRecord
from tests.metrics import ablation_records
from tests.metrics.data_records import data_record
from tests.metrics.records.hand_made import ops_record, profile_record, provenance
from tests.metrics.step_records import lost, ours, record, round_, variant
from tests.metrics.training_records import equal_tokens
from tests.metrics.training_records import record as trained
from tests.metrics.training_records import variant as to_train


def test_every_metric_key_is_used_once_and_has_a_group():
    keys = [value for name, value in vars(names).items() if name.isupper()]
    assert len(keys) == len(set(keys)) > 20
    groups = {"progress", "train", "throughput", "memory", "energy", "fp8", "validation"}
    assert {key.split("/")[0] for key in keys} == groups


def test_shares_and_rates_of_an_op_follow_from_its_times():
    case = ops_record().cases[0]
    assert case.figures(case.variants[0]) == OpFigures(pytest.approx(0.5), pytest.approx(0.5))
    assert case.figures(case.variants[1]) == OpFigures()
    attention = CaseRecord("attention", "attention", "", None, None, 10**9, 3 * 10**9)
    times = TimeRecord(1.0, 1.0, 1.0, 5), TimeRecord(4.0, 4.0, 4.0, 5)
    found = attention.figures(VariantRecord("sdpa", False, True, *times))
    assert (found.tflops, found.tflops_forward, found.tflops_backward) == pytest.approx((1.0, 1.0, 1.0))
    noise = attention.figures(VariantRecord("sdpa", False, True, times[0], times[0]))
    assert (noise.tflops_forward, noise.tflops_backward) == (pytest.approx(1.0), None)


def test_a_class_with_most_to_win_comes_first():
    gaps = [(each.kernel_class, each.gap) for each in profile_record().by_gap()]
    assert gaps == [("gemm", 2.0), ("other", 1.0), ("idle", 1.0), ("norm", 0.5)]


def test_preparation_and_streaming_are_compared_within_a_round():
    found = data_record()
    assert found.shares(1) == [0.9, 1.0]
    assert found.shares(2) == pytest.approx([0.75, 0.8])
    assert found.stream_ratios(2) == pytest.approx([1 / 3, 1 / 3])
    assert [run.tokens_per_second for run in found.streamed(OURS, 2)] == [7e6, 7e6]
    empty = replace(found, preparation=[], streaming=[])
    assert empty.shares(1) == empty.stream_ratios(0) == []


# ---------------------------------------------------------------- what is complete, and what may be continued


@pytest.mark.parametrize(
    ("found", "complete"),
    [
        (data_record(), True),
        (replace(data_record(), rounds=3), False),
        (replace(data_record(), streaming=data_record().streaming[:-1]), False),
        (replace(data_record(), preparation=data_record().preparation[:-1]), False),
        (ops_record(), True),
        (replace(ops_record(), ops=["swiglu", "rope"]), False),
        (equal_tokens(), True),
        (record(ours()), True),
        (record(variant("litespark", round_(0, [40.0] * 4), lost(1, "failed"))), False),
        (record(variant("litespark", round_(0, [40.0] * 4), lost(1, "out of memory"))), False),
        # even full recomputation does not fit: nothing is left to run
        (record(variant("litespark", lost(0, "out of memory"), lost(0, "out of memory", "full"))), True),
        (record(variant("standard", kind="huggingface", reason="no transformers")), True),
        (ablation_records.record(), True),
    ],
)
def test_a_record_is_complete_with_everything_that_was_asked_for(found, complete):
    found.check()
    assert found.complete is complete


@pytest.mark.parametrize("made", [ops_record, equal_tokens, ablation_records.record])
def test_a_record_continues_one_of_the_same_code_config_machine_and_question(made):
    found = made()
    assert found.continues(made())
    assert found.continues(replace(made(), provenance=replace(found.provenance, time="2026-02-01T00:00:00+00:00")))
    for change in ({"source_hash": "6"}, {"config_hash": "d"}, {"environment": provenance("NVIDIA H200").environment}):
        assert not found.continues(replace(made(), provenance=replace(found.provenance, **change)))


def test_another_question_is_not_continued():
    assert not record(ours()).continues(record(ours("other")))
    assert not ops_record().continues(replace(ops_record(), seconds=2.0))
    assert not equal_tokens().continues(replace(equal_tokens(), bound=0.1))
    made = ablation_records.record()
    switches = [replace(made.switches[0], name="x"), *made.switches[1:]]
    variants = [replace(each, name=each.name.replace("attention", "x")) for each in made.variants]
    assert not made.continues(replace(made, switches=switches, variants=variants))


def test_variants_take_turns_and_every_second_seed_is_reversed():
    found = trained(to_train("one"), to_train("two"), seeds=(1, 2, 3), budget=100)
    turns = [(each.name, seed, position) for each, seed, position in found.missing()]
    assert turns == [("one", 1, 0), ("two", 1, 1), ("two", 2, 0), ("one", 2, 1), ("one", 3, 0), ("two", 3, 1)]


# ---------------------------------------------------------------- ablation


def test_every_switch_is_added_once_and_left_out_once():
    combinations = {each.name: "".join(sorted(each.on)) for each in planned(["a", "b", "c"])}
    expected = {"baseline": "", "plus_a": "a", "plus_b": "ab", "target": "abc", "without_a": "bc", "without_b": "ac"}
    assert list(combinations.items()) == list(expected.items())
    assert [each.name for each in planned(["a"])] == ["baseline", "target"]
    assert ablation_records.record().combination(frozenset({"attention", "recompute"})).name == "without_loss"


def test_how_a_training_is_computed_may_be_switched_and_what_is_trained_may_not():
    speed = "ops.attention ops.compile recompute.mode precision.name optim.fused".split()
    other = "optim.lr optim._target_ model.hidden_size data.seed seed budget.steps strategy.name"
    assert [changes_speed_only(key) for key in speed] == [True] * len(speed)
    assert [key for key in other.split() if changes_speed_only(key)] == []
    keys = ("ops.rope", "recompute.mode", "optim.fused")
    assert [default_name(key) for key in keys] == ["rope", "recompute", "fused"]
