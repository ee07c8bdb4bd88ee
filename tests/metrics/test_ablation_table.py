"""The columns of an ablation against cases worked by hand, and what becomes of gaps, losses and memory."""

from __future__ import annotations

import pytest

from litespark.metrics.ablation_table import Combination, Repeat, Row, Table, from_record, table
from litespark.metrics.step_round import Interval
from tests.metrics.ablation_records import measured, record
from tests.metrics.step_records import lost


def row(found: Table, switch: str | None) -> Row:
    return next(each for each in found.rows if each.switch == switch)


def same(interval: Interval | None, median: float, low: float, high: float) -> None:
    assert interval is not None
    assert (interval.median, interval.low, interval.high) == pytest.approx((median, low, high))


def test_each_row_has_the_tokens_of_one_switch_more():
    found = from_record(record())
    assert [each.switch for each in found.rows] == [None, "attention", "loss", "recompute"]
    same(row(found, None).tokens_per_second, 150, 100, 200)
    same(row(found, "attention").tokens_per_second, 225, 200, 250)
    same(row(found, "recompute").tokens_per_second, 650, 500, 800)
    assert found.repeat == "round"


def test_the_gain_is_over_the_row_before_round_by_round():
    found = from_record(record())
    same(row(found, "attention").gain, 1.625, 1.25, 2.0)  # 200/100 and 250/200, not 225/150
    same(row(found, "attention").added, 75, 50, 100)
    same(row(found, "loss").gain, 1.425, 1.25, 1.6)
    same(row(found, "recompute").gain, 2.0, 2.0, 2.0)
    assert row(found, None).gain is row(found, None).added is None
    same(found.gain, 4.5, 4.0, 5.0)


def test_what_is_lost_without_a_switch_is_a_share_of_the_target():
    found = from_record(record())
    same(row(found, "attention").lost_without, 0.4375, 0.375, 0.5)  # 250 of 500 and 500 of 800
    same(row(found, "loss").lost_without, 0.2, 0.2, 0.2)
    same(row(found, "recompute").lost_without, 0.5, 0.5, 0.5)  # the target without the last is the row before
    assert row(found, None).lost_without is None


def test_energy_memory_and_loss_stand_beside_speed():
    found = from_record(record())
    same(row(found, None).joules_per_token, 0.15, 0.1, 0.2)
    same(row(found, "attention").joules_ratio, 0.625, 0.5, 0.75)
    same(found.joules_ratio, 0.375, 0.25, 0.5)
    assert found.joules_reason is None
    assert row(found, "loss").peak_memory_mib == 1001
    same(row(found, "attention").loss_difference, 0.002, 0.001, 0.003)
    same(row(found, "loss").loss_difference, 0.0, 0.0, 0.0)  # against the baseline, not against the row before
    same(row(found, "recompute").loss_difference, -0.001, -0.001, -0.001)
    assert row(found, None).loss_difference is None


def test_utilisation_is_of_the_peak_and_of_the_measured_rate():
    """1300 FLOPs a token; the peak is 1e7 FLOP/s, the measured rate 2e6."""
    found = from_record(record())
    same(row(found, None).mfu_causal, 150 * 1300 / 1e7, 100 * 1300 / 1e7, 200 * 1300 / 1e7)
    same(row(found, None).mfu_measured, 150 * 1300 / 2e6, 100 * 1300 / 2e6, 200 * 1300 / 2e6)
    assert row(from_record(record(gpu=False)), None).mfu_causal is None


def test_without_a_meter_there_is_a_reason_and_no_energy():
    found = from_record(record(energy=False))
    assert found.joules_reason == "no counter"
    assert found.joules_ratio is None
    assert all(each.joules_per_token is None and each.joules_ratio is None for each in found.rows)


def test_only_rounds_that_both_have_are_compared():
    found = from_record(record(plus_attention=[measured(1, 128.0, 2.4, 2.0)]))
    gain = row(found, "attention").gain
    same(gain, 1.25, 1.25, 1.25)
    assert gain is not None
    assert gain.count == 1
    assert from_record(record(plus_attention=[measured(2, 128.0, 2.4, 2.0)])).rows[1].gain is None


def test_a_combination_that_is_missing_leaves_gaps_with_a_reason():
    found = from_record(record(plus_attention=[]))
    assert row(found, "attention").tokens_per_second is None
    assert row(found, "attention").gain is row(found, "loss").gain is None
    assert row(found, "attention").notes == ("plus_attention: not run yet",)
    same(row(found, "recompute").gain, 2.0, 2.0, 2.0)


def test_a_failure_is_said():
    found = from_record(record(without_loss=[lost(0, "failed", error="ValueError: nothing")]))
    assert row(found, "loss").lost_without is None
    assert row(found, "loss").notes == ("without_loss: failed: ValueError: nothing",)


def test_memory_that_did_not_suffice_is_said_beside_what_was_measured_instead():
    rounds = [lost(0, "out of memory", "none"), *(measured(n, 128.0, 3.2, 2.0, recompute="swiglu") for n in (0, 1))]
    found = from_record(record(plus_attention=rounds))
    (note,) = row(found, "attention").notes
    assert note == ("plus_attention: out of memory with recompute none, measured with swiglu: not the switch alone")
    never = from_record(record(plus_attention=[lost(0, "out of memory", each) for each in ("none", "swiglu", "full")]))
    assert row(never, "attention").notes == ("plus_attention: out of memory, also with recompute full",)
    assert row(never, "attention").gain is None


def test_combinations_that_trained_differently_are_not_compared():
    found = from_record(record(plus_attention=[measured(number, 80.0, 3.2, 2.5) for number in (0, 1)]))
    attention = row(found, "attention")
    assert attention.gain is attention.added is attention.joules_ratio is row(found, "loss").gain is None
    same(attention.loss_difference, 0.5, 0.5, 0.5)
    assert any("trained differently" in note for note in attention.notes)
    assert row(found, "recompute").gain is not None


def test_a_figure_that_cannot_be_is_not_compared():
    """The floor is 10 ms a step."""
    found = from_record(record(plus_attention=[measured(number, 16.0, 3.2, 2.0) for number in (0, 1)]))
    assert row(found, "attention").gain is row(found, "loss").gain is None
    assert any("impossible" in note for note in row(found, "attention").notes)


def test_a_switch_with_which_the_same_backends_ran_says_so():
    def detailed(attention: str, milliseconds: float) -> list:
        detail = f"ops: attention {attention}; not triton: no GPU"
        return [measured(number, milliseconds, 3.2, 2.0, detail=detail) for number in (0, 1)]

    same_ones = from_record(record(baseline=detailed("reference", 160.0), plus_attention=detailed("reference", 150.0)))
    assert (
        "attention: the same backends ran with it and without it, so its figures are noise"
        in row(same_ones, "attention").notes
    )
    assert row(same_ones, "attention").unchanged
    assert not row(same_ones, "loss").unchanged
    others = from_record(record(baseline=detailed("reference", 160.0), plus_attention=detailed("sdpa", 150.0)))
    assert row(others, "attention").notes == ()


def test_runs_of_a_sweep_that_trained_differently_are_not_compared_either():
    def of(name: str, speed: float, loss: float | None) -> Combination:
        return Combination(name, (Repeat(1, tokens_per_second=speed, loss=loss),))

    both = frozenset({"a"})
    alike = table(["a"], {frozenset(): of("baseline", 10, 2.0), both: of("target", 20, 2.01)}, repeat="seed")
    same(alike.gain, 2, 2, 2)
    unlike = table(["a"], {frozenset(): of("baseline", 10, 2.0), both: of("target", 20, 2.03)}, repeat="seed")
    assert unlike.gain is None
    assert unlike.rows[1].notes == ("target and baseline trained differently: losses 2.0300 and 2.0000; not compared",)
    unknown = table(["a"], {frozenset(): of("baseline", 10, None), both: of("target", 20, None)}, repeat="seed")
    same(unknown.gain, 2, 2, 2)
    assert unknown.joules_reason == "not measured"
    missing = table(["a"], {frozenset(): of("baseline", 10, None)}, repeat="seed")
    assert missing.rows[1].notes == ("target: not measured",)
