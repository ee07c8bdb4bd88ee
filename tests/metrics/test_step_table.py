"""Every column of the table of whole steps, every ratio and every verdict, against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from litespark.metrics.records.step import BASELINES, RatesRecord, StepRecord
from litespark.metrics.step_table import Interval, Ratio, failures, ratios, rows, trainer_goal
from tests.metrics.step_records import lost, ours, record, round_, standard, variant


def row(found: StepRecord, name: str = "litespark"):
    return next(each for each in rows(found) if each.name == name)


def test_the_records_made_by_hand_are_valid(tmp_path):
    found = record(standard(), ours())
    found.check()
    found.write(tmp_path / "record.json")
    assert rows(StepRecord.read(tmp_path / "record.json")) == rows(found)


def test_speed_is_counted_tokens_over_the_time_of_the_counted_steps():
    found = row(record(ours()))
    assert found.tokens_per_second == Interval(480.0, 320.0, 640.0, 2)
    assert found.rounds == 2


def test_step_times_are_those_of_all_rounds_together():
    found = row(record(ours()))
    assert found.step_ms_median == 20.0
    # of 10 10 10 20 20 20 20 40, at rank 6.65 from 0
    assert found.step_ms_p95 == pytest.approx(33.0)


def test_utilisation_in_both_conventions_and_with_recomputation():
    found = row(record(ours(hardware_flops_per_token=1700.0)))
    assert found.tflops == pytest.approx(480 * 1300 / 1e12)
    assert found.mfu_causal == pytest.approx(0.0624)
    assert found.mfu_full == pytest.approx(0.07104)
    assert found.hfu_causal == pytest.approx(0.0816)
    assert found.mfu_measured == pytest.approx(0.312)


def test_without_recomputation_hardware_does_what_the_model_asks():
    found = row(record(ours()))
    assert found.hfu_causal == found.mfu_causal


def test_documents_count_as_they_were_masked():
    """12 of 20 pairs: 1.5 keys on average, so 1180 FLOPs a token, 1540 with a second forward, 8.4 ms of floor."""
    masked = [round_(0, [20.0] * 4, 1.0, attention_pairs=48, recompute="full")]
    found = row(record(variant("litespark", *masked, hardware_flops_per_token=1700.0)))
    assert found.mfu_causal == pytest.approx(400 * 1180 / 1e7)
    assert found.hfu_causal == pytest.approx(400 * 1540 / 1e7)
    assert found.floor_ms == pytest.approx(8.4)
    assert found.mfu_full == pytest.approx(400 * 1480 / 1e7)


def test_energy_is_joules_of_the_counted_steps_over_their_tokens_and_seconds():
    found = row(record(ours()))
    assert found.joules_per_token == Interval(pytest.approx(0.08125), 0.0625, pytest.approx(0.1), 2)
    assert found.watts == pytest.approx(36.0)
    assert found.joules_reason is None


def test_memory_is_the_highest_of_the_rounds_and_the_loss_their_median():
    found = row(record(ours()))
    assert found.peak_memory_mib == 120.0
    assert found.loss == 2.0


def test_the_share_of_the_floor_is_of_the_median_step():
    found = row(record(ours()))
    assert found.floor_ms == 10.0
    assert found.share_of_floor == 0.5


def test_what_was_not_measured_is_absent_and_says_why():
    blind = variant("litespark", round_(0, [10.0] * 4), floor=[], hardware_flops_per_token=None)
    found = row(record(blind, rates=RatesRecord()))
    for name in ("mfu_causal", "mfu_full", "hfu_causal", "mfu_measured", "joules_per_token", "watts",
                 "peak_memory_mib", "floor_ms", "share_of_floor"):  # fmt: skip
        assert getattr(found, name) is None, name
    assert found.joules_reason == "no counter"
    assert found.tokens_per_second is not None


@pytest.mark.parametrize(
    "given, absent, out_of_memory",
    [
        (variant("liger", reason="Liger needs a GPU"), "Liger needs a GPU", False),
        (variant("liger"), "not run yet", False),
        (variant("liger", lost(0, "failed")), "failed: it broke", False),
        (
            variant("liger", lost(0, "out of memory"), lost(0, "out of memory", "full")),
            "out of memory, also with recompute full",
            True,
        ),
    ],
)
def test_a_variant_without_figures_says_why(given, absent, out_of_memory):
    found = row(record(given, ours()), "liger")
    assert found.absent == absent
    assert found.out_of_memory is out_of_memory
    assert found.tokens_per_second is None
    assert found.loss is None


def test_a_row_is_of_one_kind_of_recomputation_and_tells_what_did_not_fit():
    """The first round went without; the second did not fit, and the rounds from then on are the row."""
    changed = variant(
        "litespark",
        round_(0, [1.0] * 4),
        lost(1, "out of memory"),
        round_(1, [20.0] * 4, recompute="swiglu"),
        round_(2, [40.0] * 4, recompute="swiglu"),
    )
    found = row(record(changed))
    assert (found.recompute, found.out_of_memory_with, found.rounds) == ("swiglu", ("none",), 2)
    assert found.tokens_per_second == Interval(300.0, 200.0, 400.0, 2)


def test_ratios_are_taken_round_by_round_and_then_their_median():
    """3.2 and 1, so 2.1; the ratio of the two medians would be 1.85."""
    found = ratios(record(standard(), ours()), "litespark")["standard"]
    assert isinstance(found, Ratio)
    assert found.tokens_per_second == Interval(pytest.approx(2.1), pytest.approx(1.0), pytest.approx(3.2), 2)
    assert found.joules_per_token.median == pytest.approx(0.65625)
    assert found.joules_per_token.low == pytest.approx(0.3125)


def test_a_ratio_needs_a_round_that_both_have():
    late = variant("standard", round_(1, [25.0] * 4, 3.2), kind="huggingface")
    found = ratios(record(late, ours()), "litespark")["standard"]
    assert found.tokens_per_second == Interval(pytest.approx(1.0), pytest.approx(1.0), pytest.approx(1.0), 1)
    never = variant("standard", round_(5, [25.0] * 4, 3.2), kind="huggingface")
    assert "no round in which both" in ratios(record(never, ours()), "litespark")["standard"]


def test_all_four_baselines_are_there_and_absent_ones_say_why():
    slow = variant("sdpa", lost(0, "out of memory"), lost(0, "out of memory", "full"), kind="huggingface")
    without = variant("compiled_fp8", kind="huggingface", reason="no fp8 units")
    found = ratios(record(standard(), slow, without, ours()), "litespark")
    assert tuple(found) == BASELINES
    assert found["sdpa"] == "sdpa: out of memory, also with recompute full"
    assert found["compiled"] == "not part of this benchmark"
    assert found["compiled_fp8"] == "compiled_fp8: no fp8 units"


def test_energy_ratios_need_energy_on_both_sides():
    blind = variant("standard", round_(0, [40.0] * 4), kind="huggingface")
    found = ratios(record(blind, ours()), "litespark")["standard"]
    assert found.tokens_per_second.median == pytest.approx(3.2)
    assert found.joules_per_token is None
    assert found.joules_reason == "no counter"


def test_a_ratio_of_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="got 'ours', expected one of the record's: litespark"):
        ratios(record(ours()), "ours")


def with_loss(loss: float, name: str = "litespark"):
    found = ours(name)
    found.rounds = [dataclasses.replace(each, loss=loss) for each in found.rounds]
    return found


def test_a_row_that_trained_differently_is_said_and_gets_no_ratio():
    others = [standard(), ours("third")]
    near = record(*others, with_loss(2.0 * 1.009))
    assert row(near).doubts == ()
    assert isinstance(ratios(near, "litespark")["standard"], Ratio)
    far = record(*others, with_loss(2.0 * 1.011))
    assert row(far).loss_deviation == pytest.approx(0.011)
    assert row(far).doubts == ("trained differently: its loss is +1.10 % from the median of the variants",)
    assert "trained differently" in ratios(far, "litespark")["standard"]
    assert row(far, "standard").doubts == ()
    # also where it is the lower one, which looks like an advantage
    assert row(record(*others, with_loss(1.9))).doubts


def test_training_losses_are_compared_step_by_step_taken_together():
    """Five steps at 2.0; a step that went wrong on the way shows in them, where the end is as the others'."""

    def with_curve(*curve: float):
        found = ours()
        found.rounds = [dataclasses.replace(each, train_loss=list(curve)) for each in found.rounds]
        return found

    near = record(standard(), ours("third"), with_curve(2.0, 2.0, 2.0, 2.0, 2.09))
    assert row(near).train_loss_deviation == pytest.approx(0.009)
    assert row(near).doubts == ()
    far = record(standard(), ours("third"), with_curve(2.0, 2.0, 2.0, 2.0, 2.11))
    (doubt,) = row(far).doubts
    assert doubt.startswith("trained differently: the mean loss of its training steps is +1.10 % from the median")
    assert doubt in ratios(far, "litespark")["standard"]
    alone = record(standard(), with_curve(2.0, 2.0, 2.0, 2.0, 2.15))
    assert row(alone).doubts == ()
    assert ratios(alone, "litespark")["standard"] == "trained differently: training losses 2.0300 and 2.0000"
    # train.py knows its windows only
    without = record(standard(), ours("third"), with_curve())
    assert row(without).train_loss is None
    assert isinstance(ratios(without, "litespark")["standard"], Ratio)


def test_two_rows_alone_are_held_against_each_other():
    """Each is within the bound of the middle between them."""
    found = record(standard(), with_loss(2.0 * 1.015))
    assert row(found).doubts == ()
    assert ratios(found, "litespark")["standard"] == "trained differently: losses 2.0300 and 2.0000"


def test_a_row_faster_than_its_floor_is_impossible_and_gets_no_ratio():
    fast = variant("litespark", round_(0, [9.8] * 4, 1.0))
    assert row(record(standard(), fast)).doubts == ()  # within the tolerance of the rates
    fast = variant("litespark", round_(0, [9.0] * 4, 1.0))
    found = record(standard(), fast)
    (doubt,) = row(found).doubts
    assert doubt.startswith("impossible: 1.11 times as fast as the floor")
    assert "impossible" in ratios(found, "litespark")["standard"]


def trainer(step_ms: float):
    return variant("train.py", round_(0, [step_ms] * 4), round_(1, [step_ms] * 4), kind="train.py")


@pytest.mark.parametrize("step_ms, verdict", [(10.0, "met"), (10.3, "met"), (10.4, "NOT met")])
def test_train_py_has_to_keep_up_on_a_gpu(step_ms, verdict):
    bare = variant("litespark", round_(0, [10.0] * 4), round_(1, [10.0] * 4), floor=[])
    found = record(bare, trainer(step_ms))
    assert trainer_goal(found).verdict == verdict
    assert trainer_goal(found).ratio.median == pytest.approx(10 / step_ms)
    on_cpu = trainer_goal(record(bare, trainer(step_ms), gpu=False))
    assert (on_cpu.verdict, on_cpu.reason) == ("not measured", "the goal is one for GPUs")


def test_the_goal_is_held_against_the_median_of_the_rounds():
    bare = variant("litespark", round_(0, [10.0] * 4), round_(1, [10.0] * 4), floor=[])
    uneven = variant("train.py", round_(0, [10.0] * 4), round_(1, [12.5] * 4), kind="train.py")
    found = trainer_goal(record(bare, uneven))  # 100 % and 80 %
    assert (found.ratio.median, found.ratio.high, found.verdict) == (pytest.approx(0.9), pytest.approx(1), "NOT met")


def test_the_goal_is_not_measured_where_one_of_the_two_has_no_figures():
    assert trainer_goal(record(ours())).reason == "train.py is not part of this benchmark"
    assert trainer_goal(record(trainer(10.0))).reason == "litespark is not part of this benchmark"
    dead = variant("train.py", lost(0, "failed"), kind="train.py")
    found = trainer_goal(record(ours(), dead))
    assert (found.verdict, found.reason) == ("not measured", "train.py: failed: it broke")


def test_only_rounds_that_were_not_made_up_for_have_failed():
    mended = variant("mended", lost(0, "failed"), round_(0, [10.0] * 4))
    too_large = variant("too_large", lost(0, "out of memory", "full"))
    broken = variant("broken", round_(0, [10.0] * 4), lost(1, "failed", error="it broke late"))
    cannot = variant("cannot", reason="no GPU")
    found = record(mended, too_large, broken, cannot)
    assert failures(found) == {"broken": "failed: it broke late"}
    assert row(found, "broken").failed == "failed: it broke late"
    assert row(found, "broken").tokens_per_second is not None
