"""The budget is given once, in tokens or in steps, and is whole steps."""

import pytest

from litespark.training.budget import BudgetConfig, TokenBudget, steps_alone


@pytest.mark.parametrize("tokens, steps", [(1, 1), (100, 1), (101, 2), (1000, 10)])
def test_tokens_are_rounded_up_to_whole_steps(tokens, steps):
    budget = TokenBudget.plan(BudgetConfig(tokens=tokens), 100)
    assert (budget.planned_steps(), budget.planned_tokens()) == (steps, steps * 100)


@pytest.mark.parametrize("tokens_per_step, steps", [(50, 18), (100, 13), (200, 11), (1000, 9)])
def test_what_is_left_follows_from_the_tokens_that_are_left_whatever_the_steps_before_held(tokens_per_step, steps):
    budget = TokenBudget(tokens_per_step, tokens=1300)
    assert budget.planned_steps(800, 8) == steps
    assert not budget.finished(1299, 40)
    assert budget.finished(1300, 1)


def test_a_budget_of_steps_does_not_ask_for_tokens():
    budget = TokenBudget(400, steps=10)
    assert (budget.planned_steps(100, 8), budget.planned_tokens(100, 8)) == (10, 900)
    assert not budget.finished(10**9, 9)
    assert budget.finished(1, 10)
    assert budget.schedule_position(5, 8) == (8, 10)


@pytest.mark.parametrize("seen", [[100] * 13, [83, 61, 97, 100, 70, 90, 99, 1, 100, 100, 100, 100, 90, 80, 70, 100]])
def test_the_schedule_rises_to_its_end_with_the_last_step_however_full_the_steps_are(seen):
    budget, tokens, shares = TokenBudget(90, tokens=1242), 0, []
    for step, more in enumerate(seen, 1):
        tokens += more
        done, length = budget.schedule_position(tokens, step)
        shares.append(done / length)
        assert budget.finished(tokens, step) == (step == len(seen))
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert shares[-2] < 1


def test_no_budget_is_refused():
    with pytest.raises(ValueError, match=r"got neither budget\.tokens nor budget\.steps"):
        BudgetConfig()


def test_steps_alone_clear_every_other_setting_of_a_budget():
    full = BudgetConfig(tokens=10, schedule_end=7, target_bpb=1.5)
    given = dict(override.removeprefix("budget.").split("=") for override in steps_alone(3))
    assert given.keys() == vars(full).keys()
    assert {name: value for name, value in given.items() if value != "null"} == {"steps": "3"}
