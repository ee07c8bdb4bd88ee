"""The token budget: how long a run is, in tokens and in optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from litespark.config.settings import fields_of, settings
from litespark.ranges import Count, Positive


@settings("budget")
class BudgetConfig:
    """How long to train; exactly one of tokens and steps is given."""

    tokens: Annotated[Count | None, Field(examples=[1_200_000])] = None
    """Training tokens to see (padding is none); rounded up to whole optimizer steps."""
    steps: Annotated[Count | None, Field(examples=[100])] = None
    """Optimizer steps to take."""
    schedule_end: Count | None = None
    """Where the schedule ends, in tokens (steps, where the budget is in steps), to keep its last rate from there on;
    null: with the budget."""
    target_bpb: Positive | None = None
    """End before that at the first validation (`trainer.validate_every`) with so many bits per byte or fewer."""

    def __post_init__(self) -> None:
        given = [name for name in ("tokens", "steps") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"budget: got {' and '.join(given) or 'neither budget.tokens nor budget.steps'}, expected one of the "
                "two; set the other to null (budget.tokens=null budget.steps=100)"
            )


def steps_alone(steps: int) -> list[str]:
    """Overrides for so many steps, whatever else a config has of its budget."""
    return [f"budget.{name}={steps if name == 'steps' else 'null'}" for name in fields_of(BudgetConfig)]


@dataclass(frozen=True)
class TokenBudget:
    """How much of a run is left, from the tokens seen and the steps taken so far; one of `tokens` and `steps` is given.

    `tokens_per_step` are of all ranks and micro-batches; where sequences are padded, the mean, which makes it
    an estimate.
    """

    tokens_per_step: int
    tokens: int | None = None
    steps: int | None = None
    schedule_end: int | None = None

    @classmethod
    def plan(cls, config: BudgetConfig, tokens_per_step: int) -> TokenBudget:
        return cls(tokens_per_step, config.tokens, config.steps, config.schedule_end)

    def finished(self, tokens: int, steps: int) -> bool:
        return self.steps_left(tokens, steps) == 0

    def steps_left(self, tokens: int, steps: int) -> int:
        return self._steps_until(self._end, tokens, steps)

    def planned_steps(self, tokens: int = 0, steps: int = 0) -> int:
        return steps + self.steps_left(tokens, steps)

    def planned_tokens(self, tokens: int = 0, steps: int = 0) -> int:
        return tokens + self.steps_left(tokens, steps) * self.tokens_per_step

    def schedule_position(self, tokens: int, steps: int) -> tuple[int, int]:
        """How far the schedule is, and its length in whole steps; in the unit of the budget, tokens or steps."""
        end = self.schedule_length
        if self.steps is not None:
            return steps, end
        return tokens, tokens + self._steps_until(end, tokens, steps) * self.tokens_per_step

    @property
    def schedule_length(self) -> int:
        return self.schedule_end or self._end

    def schedule_end_for(self, other: TokenBudget, tokens: int, steps: int) -> int:
        """The `schedule_end` with which `other` continues the schedule of this budget."""
        end = self.schedule_length
        if (self.steps is None) == (other.steps is None):
            return end
        if other.steps is None:
            return tokens + self._steps_until(end, tokens, steps) * other.tokens_per_step
        return steps + max(0, -(-(end - tokens) // other.tokens_per_step))

    @property
    def _end(self) -> int:
        return self.tokens or self.steps or 0

    def _steps_until(self, end: int, tokens: int, steps: int) -> int:
        if self.steps is not None:
            return max(0, end - steps)
        return max(0, -(-(end - tokens) // self.tokens_per_step))
