"""The arithmetic of variants × seeds, against figures worked out by hand."""

import pytest

from litespark.metrics.records.training import RunFailure
from litespark.metrics.step_round import Interval
from litespark.metrics.training_table import late_differences, rows
from tests.metrics.training_records import (
    NO_JOULES,
    equal_tokens,
    every_hundred,
    fp8_state,
    record,
    run,
    selecting,
    to_target,
    variant,
)


def about(*figures):
    """An interval equal to these but for rounding."""
    return Interval(*(pytest.approx(figure) for figure in figures))


def test_losses_over_equal_tokens_differ_seed_by_seed_and_the_worst_decides():
    first, ours = rows(equal_tokens())
    assert (first.difference.median, first.within) == (0.0, True)
    assert ours.difference == about(0.001, -0.002, 0.004, 2)
    assert ours.within
    tighter = equal_tokens()
    tighter.bound = 0.003  # the median would be within it
    assert rows(tighter)[1].within is False


def test_losing_is_bounded_and_gaining_is_not():
    one, other = (variant(name, run(1, (100, 10.0, bits))) for name, bits in (("bf16", 2.0), ("better", 1.0)))
    assert rows(record(one, other, seeds=(1,), budget=100, bound=0.005))[1].within


def test_rates_are_of_whole_runs_and_only_the_second_half_is_late():
    found = equal_tokens()
    ours = rows(found)[1]
    assert (ours.tokens_per_second.value.median, ours.tokens_per_second.ratio.median) == (20.0, 2.0)
    assert (ours.joules_per_token.value.median, ours.joules_per_token.ratio.median) == pytest.approx((0.6, 0.6))
    # of the four validations the one at a quarter of the tokens is left out, where ours is twice theirs
    assert late_differences(found.variants[1].runs[0], found.variants[0].runs[0]) == pytest.approx([0.0, 0.01, 0.004])
    assert ours.late_difference == pytest.approx(0.01)


def test_the_cost_to_a_target_is_a_median_over_seeds_and_its_ratio_is_taken_seed_by_seed():
    reference, ours = rows(to_target())
    assert (reference.reached, reference.judged, ours.reached, ours.judged) == (2, 2, 2, 2)
    assert reference.tokens.value == Interval(1500, 1000, 2000, 2)
    assert reference.tokens.ratio == reference.seconds.ratio == reference.joules.ratio == Interval(1, 1, 1, 2)
    assert ours.tokens.value == Interval(1000, 500, 1500, 2)
    # 500/1000 and 1500/2000; the ratio of the medians would be 0.667
    assert ours.tokens.ratio == Interval(0.625, 0.5, 0.75, 2)
    assert ours.seconds.ratio == about(0.125, 0.1, 0.15, 2)
    assert (ours.joules.value, ours.joules.ratio) == (Interval(3000, 1500, 4500, 2), about(0.1875, 0.15, 0.225, 2))
    assert (ours.difference, ours.within) == (None, None)


def test_the_cost_of_equal_quality_is_up_to_the_first_validation_as_good_as_the_end_of_the_first_variant():
    everything, selected = rows(selecting())
    assert everything.tokens.value == Interval(1000, 1000, 1000, 2)
    # seed 1 is as good after the first half, seed 2 at the end
    assert selected.tokens.ratio == selected.seconds.ratio == selected.joules.ratio == Interval(0.75, 0.5, 1.0, 2)
    assert (selected.reached, selected.judged, selected.missed) == (2, 2, ())


@pytest.mark.parametrize("made", [to_target, selecting])
def test_a_run_that_did_not_get_there_has_no_cost_and_no_ratio(made):
    found = made()
    found.variants[1].runs[1] = run(
        2, (found.stream.budget_tokens // 2, 20.0, 2.4), (found.stream.budget_tokens, 30, 2.2)
    )
    ours = rows(found)[1]
    assert (ours.reached, ours.judged) == (1, 2)
    assert ours.tokens.value == Interval(500, 500, 500, 1)
    assert ours.tokens.ratio == Interval(0.5, 0.5, 0.5, 1)
    if made is to_target:
        assert ours.missed == ("seed 2: best 2.2000 bits/byte within 100,000 tokens and 30.0 s",)


def test_without_the_first_variant_there_is_no_ratio():
    found = to_target()
    found.variants[0].runs = [run(1, (100_000, 9.0, 2.5))]
    reference, ours = rows(found)
    assert (reference.tokens.value, reference.reached) == (None, 0)
    assert (ours.tokens.ratio, ours.seconds.ratio, ours.joules.ratio) == (None, None, None)
    assert ours.tokens.value == Interval(1000, 500, 1500, 2)
    found = equal_tokens()
    found.variants[0].runs = []
    ours = rows(found)[1]
    assert (ours.compared, ours.judged, ours.reached, ours.difference, ours.within) == (0, 0, 0, None, None)


def test_joules_that_were_not_measured_have_a_reason_also_those_of_the_first_variant():
    assert rows(to_target(watts=None))[1].joules_reason == NO_JOULES
    found = to_target()
    found.variants[0].runs = to_target(watts=None).variants[0].runs
    ours = rows(found)[1]
    assert (ours.joules.ratio, ours.joules_reason) == (None, NO_JOULES)
    assert ours.joules.value is not None


def test_the_last_failure_counts_until_the_run_is_there():
    failures = [RunFailure(seed=1, error="first"), RunFailure(seed=1, error="second")]
    empty = variant("ours", failures=failures)
    (row,) = rows(record(empty, seeds=(1,), budget=100))
    assert (row.error, row.runs, row.bits_per_byte, row.joules_reason) == ("second", 0, None, None)
    empty.runs.append(every_hundred(1, 2.0, seconds=1.0, fp8=fp8_state(simulated=True)))
    (row,) = rows(record(empty, seeds=(1,), budget=100))
    assert (row.error, row.simulated) == (None, True)
