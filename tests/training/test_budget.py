"""The budget is given once, in tokens or in steps, and is whole steps."""

import pytest

from litespark.training.budget import BudgetConfig, TokenBudget


@pytest.mark.parametrize("tokens, steps", [(1, 1), (99, 1), (100, 1), (101, 2), (1000, 10), (1001, 11)])
def test_tokens_are_rounded_up_to_whole_steps(tokens, steps):
    budget = TokenBudget.plan(BudgetConfig(tokens=tokens), 100)
    assert (budget.steps, budget.tokens) == (steps, steps * 100)


def test_a_budget_of_steps_is_taken_as_it_is():
    budget = TokenBudget.plan(BudgetConfig(steps=7), 100)
    assert (budget.steps, budget.tokens) == (7, 700)


@pytest.mark.parametrize(
    "given, message",
    [
        ({}, "got neither budget.tokens nor budget.steps"),
        ({"tokens": 5, "steps": 5}, "got tokens and steps, expected one"),
        ({"tokens": 0}, "budget.tokens: got 0, expected a whole number of at least 1"),
        ({"steps": -1}, "budget.steps: got -1, expected a whole number of at least 1"),
    ],
)
def test_anything_else_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        BudgetConfig(**given)


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_has_to_be_a_number_of_bits(target):
    with pytest.raises(ValueError, match=r"budget\.target_bpb: got .*, expected a number above 0"):
        BudgetConfig(steps=1, target_bpb=target)


def test_a_target_leaves_the_budget_as_it_is():
    assert TokenBudget.plan(BudgetConfig(steps=7, target_bpb=1.5), 100).steps == 7
