"""The arithmetic of the selection benchmark, against figures worked out by hand."""

from __future__ import annotations

import pytest

from litespark.metrics.records.training_runs import RunFailure
from litespark.metrics.selection_table import KindRow, as_good, kind_rows, rows
from litespark.metrics.step_round import Interval
from tests.metrics.selection_records import NO_JOULES, run, two_seeds


def test_differences_and_ratios_are_taken_seed_by_seed() -> None:
    everything, selected = rows(two_seeds())
    assert everything.difference == Interval(0.0, 0.0, 0.0, 2)
    assert (everything.epochs, selected.epochs) == (0.5, 1.0)
    assert selected.bits_per_byte == Interval(1.95, 1.9, 2.0, 2)
    assert selected.difference is not None
    assert (selected.difference.low, selected.difference.high) == pytest.approx((-0.5, -0.1))
    # seed 1 is as good after the first half, seed 2 at the end
    expected = Interval(0.75, 0.5, 1.0, 2)
    assert (selected.tokens_ratio, selected.seconds_ratio, selected.joules_ratio) == (expected,) * 3
    assert selected.equal == 2


def test_a_run_that_is_never_as_good_has_no_ratio() -> None:
    record = two_seeds()
    record.variants[1].runs[1] = run(2, 2.2, 2.1)
    selected = rows(record)[1]
    assert (selected.equal, selected.compared, selected.equal_reason) == (1, 2, None)
    assert selected.tokens_ratio == Interval(0.5, 0.5, 0.5, 1)
    assert as_good(run(1, 2.0, 1.9), 1.8) is None


def test_no_ratio_has_a_reason() -> None:
    record = two_seeds()
    record.variants[1].runs = [run(1, 2.9, 2.8)]
    selected = rows(record)[1]
    assert (selected.tokens_ratio, selected.joules_ratio, selected.equal_reason) == (None, None, "not reached")
    record.variants[0].runs = [run(2, 3.0, 2.5)]
    selected = rows(record)[1]
    assert (selected.compared, selected.difference) == (0, None)
    assert selected.equal_reason == "no run of all with the same seed"
    record.variants[1].runs = []
    assert rows(record)[1].equal_reason == "no run yet"


def test_energy_of_the_first_variant_that_is_missing_has_a_reason_too() -> None:
    record = two_seeds()
    record.variants[0].runs = two_seeds(joules=None).variants[0].runs
    selected = rows(record)[1]
    assert (selected.joules_ratio, selected.joules_reason) == (None, NO_JOULES)


def test_energy_that_was_not_measured_has_a_reason() -> None:
    selected = rows(two_seeds(joules=None))[1]
    assert (selected.joules_ratio, selected.joules_reason) == (None, NO_JOULES)
    assert selected.tokens_ratio is not None


def test_a_failure_counts_until_the_run_is_there() -> None:
    record = two_seeds()
    record.variants[1].failures = [RunFailure(1, "old"), RunFailure(2, "new")]
    assert rows(record)[1].error is None
    record.variants[1].runs.pop()
    assert rows(record)[1].error == "new"


def test_what_was_left_out_is_counted_by_kind_and_rule() -> None:
    record = two_seeds()
    assert kind_rows(record, record.variants[1]) == [
        KindRow("clean", 60, 1000, 4 / 60, 0.04, (("exact_duplicate", 4),)),
        KindRow("junk", 40, 1000, 0.9, 0.95, (("c4", 18), ("language", 18))),
    ]
