"""Schedules are factors of tokens: known values at known points, and never beyond the peak."""

import math

import pytest

from litespark.training.schedule import CosineSchedule, WarmupStableDecaySchedule


@pytest.mark.parametrize(
    "tokens, factor",
    [
        (0, 0.0),
        (5, 0.5),  # half of the warm-up
        (10, 1.0),
        (40, 0.1 + 0.9 * 0.75),  # a third of the way down: (1 + cos 60°) / 2
        (55, 0.55),  # half of the way
        (70, 0.1 + 0.9 * 0.25),
        (100, 0.1),
        (130, 0.1),  # beyond the budget
    ],
)
def test_cosine(tokens, factor):
    assert CosineSchedule(warmup=0.1, final=0.1).factor(tokens, 100) == pytest.approx(factor)


@pytest.mark.parametrize(
    "tokens, factor",
    [
        (0, 0.0),
        (5, 0.25),
        (20, 1.0),
        (59, 1.0),
        (60, 1.0),
        (70, 0.2 + 0.8 * 0.5),  # a quarter of the decay: 1 - sqrt(1/4)
        (78, 0.2 + 0.8 * (1 - math.sqrt(0.45))),
        (100, 0.2),
        (101, 0.2),
    ],
)
def test_warm_up_stable_decay(tokens, factor):
    schedule = WarmupStableDecaySchedule(warmup=0.2, decay=0.4, final=0.2)
    assert schedule.factor(tokens, 100) == pytest.approx(factor)


@pytest.mark.parametrize(
    "schedule",
    [
        *(CosineSchedule(warmup=warmup) for warmup in (0.0, 1.0)),
        *(WarmupStableDecaySchedule(warmup, decay) for warmup, decay in ((0.0, 1.0), (0.5, 0.5), (0.02, 0.0))),
    ],
)
def test_extreme_fractions_stay_within_zero_and_one(schedule):
    values = [schedule.factor(tokens, 200) for tokens in range(0, 210)]
    assert all(0.0 <= value <= 1.0 for value in values)
    assert max(values) == pytest.approx(1.0)
