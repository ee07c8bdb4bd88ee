"""A resume states a jump of the learning rate with both rates and its reason, and nothing where there is none."""

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
        (TokenBudget(10, tokens=200), 50, ("0.55 in step 5", "0.8145 in the next", "over budget.tokens=200")),
        (TokenBudget(10, tokens=80), 50, ("0.55 in step 5", "0.2318 in the next", "budget.schedule_end=100")),
        (TokenBudget(10, steps=20), 100, ("over budget.steps=20", "end rate of 0.1", "budget.schedule_end=10")),
        (TokenBudget(20, steps=20), 50, ("0.55 in step 5", "budget.schedule_end=8")),
    ],
)
def test_another_budget_says_what_it_does_and_what_keeps_the_schedule(new, tokens, parts):
    said = line(OLD, new, tokens, tokens // 10)
    assert all(part in said for part in parts), said
    assert "have changed" not in said
    kept = new.with_schedule_end(int(said.rpartition("budget.schedule_end=")[2].split()[0]))
    if new.tokens_per_step == OLD.tokens_per_step:
        assert line(OLD, kept, tokens, tokens // 10) is None


def test_an_end_rate_of_zero_is_called_what_it_is():
    schedule = WarmupStableDecaySchedule(warmup=0.0, decay=0.2, final=0.0)
    said = line(OLD, TokenBudget(10, tokens=200), 100, 10, schedule=schedule)
    assert "learning rate: 0 in step 10" in said
    assert "1 in the next one" in said
    assert "nothing is learned" in said


@pytest.mark.parametrize("change", [{"lr_now": 0.5}, {"now": WarmupStableDecaySchedule(0.0, 0.2, 0.1)}])
def test_other_settings_of_the_rate_are_named(change):
    said = line(OLD, OLD, 50, 5, **change)
    assert "0.55 in step 5" in said
    assert "optim.lr or the settings of schedule have changed" in said
    assert "budget" not in said
