"""Parity is told seed by seed against the first variant, and by the worst seed."""

import pytest

from litespark.metrics.parity_table import late_differences, rows
from litespark.metrics.records.parity import ParityVariant
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.parity_records import fp8_state, record, run, two_seeds


def test_differences_are_taken_seed_by_seed_and_the_worst_decides():
    first, ours = rows(two_seeds())
    assert (first.difference.median, first.within) == (0.0, True)
    assert (ours.difference.low, ours.difference.high) == pytest.approx((-0.002, 0.004))
    assert ours.difference.median == pytest.approx(0.001)
    assert ours.within
    tighter = two_seeds()
    tighter.bound = 0.003  # the median would be within it
    assert rows(tighter)[1].within is False


def test_losing_is_bounded_and_gaining_is_not():
    found = record(ParityVariant("bf16", [], [run(1, 2.0)]), ParityVariant("fp8", [], [run(1, 1.0)]), seeds=(1,))
    assert rows(found)[1].within is True


def test_time_and_energy_are_ratios_of_the_same_seed():
    ours = rows(two_seeds())[1]
    assert ours.seconds_ratio.median == pytest.approx(0.5)
    assert ours.joules_ratio.median == pytest.approx(0.6)
    assert ours.tokens_per_second.median == pytest.approx(20.0)


def test_only_the_second_half_counts_as_late():
    found = two_seeds()
    ours, theirs = found.variants[1].runs[0], found.variants[0].runs[0]
    # of the four validations the one at a quarter of the tokens is left out, where ours is twice theirs
    assert late_differences(ours, theirs) == pytest.approx([0.0, 0.01, 0.004])
    assert rows(found)[1].worst_difference == pytest.approx(0.01)


def test_what_is_not_there_is_not_compared():
    found = record(
        ParityVariant("bf16", [], [run(1, 2.0)]),
        ParityVariant("fp8", [], [], [RunFailure(1, "out of memory"), RunFailure(2, "killed")]),
        ParityVariant("other seed", [], [run(2, 2.0, fp8=fp8_state(simulated=True))]),
    )
    _, missing, other = rows(found)
    assert (missing.difference, missing.within, missing.error) == (None, None, "killed")
    assert (other.runs, other.compared, other.within, other.simulated) == (1, 0, None, True)
    assert other.joules is None
    assert other.joules_reason == "no counter here"
