"""A resume states a jump of the learning rate with both rates and its reason, and nothing where there is none."""

from dataclasses import replace

import pytest

from litespark.training.budget import TokenBudget
from litespark.training.resumed_rate import change_of_rate
from litespark.training.schedule import CosineSchedule, WarmupStableDecaySchedule

COSINE = CosineSchedule(warmup=0.0, final=0.1)
OLD = TokenBudget(10, tokens=100)


def line(old, new, tokens, steps, *, schedule=COSINE, now=None, lr=1.0, lr_now=None):
    def rate(budget, *position):
        return (lr_now or lr) * (now or schedule).factor(*budget.schedule_position(*position))

    before = lr * schedule.factor(*old.schedule_position(tokens, steps))
    return change_of_rate(rate, before, old, new, tokens, steps)


@pytest.mark.parametrize("tokens", [10, 50, 100])
def test_the_same_settings_are_not_spoken_of(tokens):
    assert line(OLD, OLD, tokens, tokens // 10) is None
    # another batch
    assert line(OLD, TokenBudget(20, tokens=100), tokens, tokens // 10) is None


@pytest.mark.parametrize(
    "new, tokens, parts",
    [
        (TokenBudget(10, tokens=200), 100, ("0.1 in step 10", "0.4796 in the next", "budget.schedule_end=100")),
        (TokenBudget(10, tokens=200), 50, ("0.55 in step 5", "0.8145 in the next", "over the new budget")),
        (TokenBudget(10, tokens=80), 50, ("0.55 in step 5", "0.2318 in the next", "budget.schedule_end=100")),
        (TokenBudget(10, steps=20), 100, ("end rate of 0.1", "budget.schedule_end=10")),
        (TokenBudget(20, steps=20), 50, ("0.55 in step 5", "budget.schedule_end=8")),
    ],
)
def test_another_budget_says_what_it_does_and_what_keeps_the_schedule(new, tokens, parts):
    said = line(OLD, new, tokens, tokens // 10)
    assert all(part in said for part in parts), said
    assert "have changed" not in said
    kept = replace(new, schedule_end=int(said.rpartition("budget.schedule_end=")[2]))
    if new.tokens_per_step == OLD.tokens_per_step:
        assert line(OLD, kept, tokens, tokens // 10) is None


@pytest.mark.parametrize("change", [{"lr_now": 0.5}, {"now": WarmupStableDecaySchedule(0.0, 0.2, 0.1)}])
def test_other_settings_of_the_rate_are_named(change):
    said = line(OLD, OLD, 50, 5, **change)
    assert "0.55 in step 5" in said
    assert "optim.lr or the settings of schedule have changed" in said
    assert "schedule_end" not in said
