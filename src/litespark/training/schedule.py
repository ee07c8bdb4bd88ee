"""The learning rate of a step: a schedule's factor on the peak rate, driven by the share of the budget that is spent.

A schedule that counts tokens means the same under another batch size or number of devices, and does not ask the
Trainer for its number of steps, which loses the data position on a resume in Lightning 2.6.6.
"""

import math
from typing import Protocol

from torch import Tensor
from torch.optim import Optimizer

from litespark.config.settings import settings
from litespark.ranges import Share
from litespark.training.budget import TokenBudget

LEARNING_RATE_FACTOR = "lr_factor"
"""The key of a parameter group for its share of the peak rate; 1 where it is absent."""


class Schedule(Protocol):
    """A learning-rate schedule."""

    def factor(self, tokens: int, budget_tokens: int) -> float:
        """The factor on the peak learning rate for the step that ends at `tokens` of `budget_tokens` tokens."""
        ...


@settings("schedule")
class CosineSchedule:
    """Linear warm-up, then half a cosine down to `final` times the peak (Loshchilov & Hutter, arXiv 1608.03983)."""

    warmup: Share = 0.02
    """Fraction of the budget over which the rate rises linearly from 0."""
    final: Share = 0.1
    """Factor on the rate that is reached at the end of the budget."""

    def factor(self, tokens: int, budget_tokens: int) -> float:
        progress = min(tokens / budget_tokens, 1.0)
        if progress < self.warmup:
            return progress / self.warmup
        if self.warmup == 1.0:
            return 1.0
        decay = (progress - self.warmup) / (1.0 - self.warmup)
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * decay))


@settings("schedule")
class WarmupStableDecaySchedule:
    """Linear warm-up, a constant rate, then a decay by 1 − √x to `final` (Hägele et al., arXiv 2405.18392)."""

    warmup: Share = 0.02
    """Fraction of the budget over which the rate rises linearly from 0."""
    decay: Share = 0.2
    """Fraction of the budget, at its end, over which the rate falls."""
    final: Share = 0.0
    """Factor on the rate that is reached at the end of the budget."""

    def __post_init__(self) -> None:
        if self.warmup + self.decay > 1.0:
            raise ValueError(
                f"schedule: got warmup {self.warmup} + decay {self.decay}, expected at most 1 together; lower one"
            )

    def factor(self, tokens: int, budget_tokens: int) -> float:
        progress = min(tokens / budget_tokens, 1.0)
        if progress < self.warmup:
            return progress / self.warmup
        if progress == 1.0:  # exactly, which 1 − √x misses by rounding
            return self.final
        start = 1.0 - self.decay
        if progress <= start or self.decay == 0.0:
            return 1.0
        return self.final + (1.0 - self.final) * (1.0 - math.sqrt((progress - start) / self.decay))


def learning_rate(peak: float, schedule: Schedule, budget: TokenBudget, tokens: int, steps: int) -> float:
    """That of the step with which so many tokens are seen and steps taken of `budget`."""
    return peak * schedule.factor(*budget.schedule_position(tokens, steps))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Give every parameter group `rate`, or the share of it that the group has of the peak rate."""
    for group in optimizer.param_groups:
        of_group = rate * group.get(LEARNING_RATE_FACTOR, 1.0)
        if isinstance(group["lr"], Tensor):  # it stays where it is, for a CUDA graph that reads it
            group["lr"].fill_(of_group)
        else:
            group["lr"] = of_group
