"""The token budget: how long a run is, in tokens and in optimizer steps."""

from __future__ import annotations

from dataclasses import dataclass

from litespark.ranges import Count, Positive, check_ranges


@dataclass(frozen=True)
class BudgetConfig:
    """How long to train; exactly one of tokens and steps is given.

    Attributes:
        tokens: training tokens to see; rounded up to whole optimizer steps.
        steps: optimizer steps to take.
        target_bpb: end before that at the first validation with so many bits per byte or fewer; None: never.
    """

    tokens: Count | None = None
    steps: Count | None = None
    target_bpb: Positive | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("tokens", "steps") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"budget: got {' and '.join(given) or 'neither budget.tokens nor budget.steps'}, expected one of the "
                "two; set the other to null (budget.tokens=null budget.steps=100)"
            )
        check_ranges(self, "budget")


@dataclass(frozen=True)
class TokenBudget:
    """The length of a run: `steps` optimizer steps of `tokens_per_step` tokens over all ranks and micro-batches."""

    steps: int
    tokens_per_step: int

    @property
    def tokens(self) -> int:
        return self.steps * self.tokens_per_step

    @classmethod
    def plan(cls, config: BudgetConfig, tokens_per_step: int) -> TokenBudget:
        """The budget that `config` asks for, with whole steps of `tokens_per_step` tokens."""
        if config.steps is not None:
            return cls(config.steps, tokens_per_step)
        assert config.tokens is not None
        return cls(-(-config.tokens // tokens_per_step), tokens_per_step)
