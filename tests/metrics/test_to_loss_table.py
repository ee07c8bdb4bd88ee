"""The arithmetic of to-loss, against figures worked out by hand."""

import pytest

from litespark.metrics.records.to_loss import ToLossVariant
from litespark.metrics.records.training_runs import RunFailure
from litespark.metrics.step_round import Interval
from litespark.metrics.to_loss_table import rows
from tests.metrics.to_loss_records import NO_JOULES, record, run, two_seeds


def about(*figures):
    """An interval equal to these but for rounding."""
    return Interval(*(pytest.approx(figure) for figure in figures))


def test_figures_are_medians_over_seeds_and_ratios_are_taken_seed_by_seed():
    reference, ours = rows(two_seeds())
    assert (reference.reached, reference.runs, ours.reached, ours.runs) == (2, 2, 2, 2)
    assert reference.tokens == Interval(1500, 1000, 2000, 2)
    assert reference.seconds == Interval(150, 100, 200, 2)
    assert reference.tokens_ratio == reference.seconds_ratio == reference.joules_ratio == Interval(1, 1, 1, 2)
    assert ours.tokens == Interval(1000, 500, 1500, 2)
    # 500/1000 and 1500/2000; the ratio of the medians would be 0.667
    assert ours.tokens_ratio == Interval(0.625, 0.5, 0.75, 2)
    # 10/100 and 30/200
    assert ours.seconds_ratio == about(0.125, 0.1, 0.15, 2)
    # 150 W against 100 W
    assert ours.joules == Interval(3000, 1500, 4500, 2)
    assert ours.joules_ratio == about(0.1875, 0.15, 0.225, 2)
    assert ours.best_bits_per_byte == 1.8
    assert ours.final_bits_per_byte == about(1.85, 1.8, 1.9, 2)


def test_a_run_that_did_not_get_there_has_no_figure_and_no_ratio():
    found = two_seeds()
    found.variants[1].runs[1] = run(2, (1000, 20.0, 2.05), (100_000, 3000.0, 2.2))
    _, ours = rows(found)
    assert (ours.reached, ours.runs) == (1, 2)
    assert ours.tokens == Interval(500, 500, 500, 1)
    assert ours.tokens_ratio == Interval(0.5, 0.5, 0.5, 1)
    assert ours.missed == ("seed 2: best 2.0500 bits/byte within 100,000 tokens and 3,000.0 s",)
    assert ours.best_bits_per_byte == 1.8


def test_without_the_reference_there_is_no_ratio():
    found = two_seeds()
    found.variants[0].runs[0] = run(1, (100_000, 9.0, 2.5))
    del found.variants[0].runs[1]
    reference, ours = rows(found)
    assert reference.tokens is None
    assert (ours.tokens_ratio, ours.seconds_ratio, ours.joules_ratio) == (None, None, None)
    assert ours.tokens == Interval(1000, 500, 1500, 2)


def test_joules_that_were_not_measured_are_absent_with_their_reason():
    _, ours = rows(two_seeds(joules=None))
    assert (ours.joules, ours.joules_ratio, ours.joules_reason) == (None, None, NO_JOULES)
    assert ours.seconds is not None


def test_the_last_failure_is_told_until_the_run_is_there():
    empty = ToLossVariant("ours", [], [], [RunFailure(1, "first"), RunFailure(1, "second")])
    (row,) = rows(record(empty, seeds=(1,)))
    assert (row.error, row.runs, row.tokens, row.best_bits_per_byte) == ("second", 0, None, None)
    empty.runs.append(run(1, (100, 1.0, 1.0)))
    assert rows(record(empty, seeds=(1,)))[0].error is None
