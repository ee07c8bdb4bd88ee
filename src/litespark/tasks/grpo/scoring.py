"""Rewards of groups of completions, weighed and added; a group of which one failed is left out and counted.

P prompts, G completions of each, K rewards.
"""

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from litespark.tasks.grpo.rewards import REWARDS, Group, OwnReward
from litespark.tasks.grpo.worker import FailedRewardError, RewardWorker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scores:
    """Rewards (P, G) fp64 and those they are the weighted sum of (P, G, K), NaN in groups that are left out; `left_out`
    counts these by reason."""

    rewards: Tensor
    each: Tensor
    left_out: Counter[str]


class Scorer:
    """Gives groups their rewards.

    Args:
        weights: of each reward, by name.
        seconds: how long a function may take for a group.
        own: rewards that are called in this process, without a limit of time, such as a reward model.
    """

    def __init__(
        self, weights: Mapping[str, float], *, seconds: float, own: Mapping[str, OwnReward] | None = None
    ) -> None:
        self.weights = weights
        self.own = own or {}
        self.worker = RewardWorker(seconds)
        self._told: set[tuple[str, str]] = set()

    def __call__(self, groups: Sequence[Group]) -> Scores:
        """All groups have as many completions."""
        rows, left_out = [], Counter[str]()
        for group in groups:
            try:
                rows.append([self._values(name, group) for name in self.weights])
            except FailedRewardError as error:
                left_out[error.reason] += 1
                rows.append([[math.nan] * len(group.completions)] * len(self.weights))
        each = torch.tensor(rows, dtype=torch.float64).transpose(1, 2)
        return Scores(each @ torch.tensor(list(self.weights.values()), dtype=torch.float64), each, left_out)

    def check(self) -> None:
        """A ValueError for a name that is no function's; nothing is called."""
        for name in self.weights:
            if name not in self.own:
                try:
                    self.worker.load(name)
                except FailedRewardError as error:
                    raise ValueError(
                        f"task.rewards: got {name}, expected {', '.join(REWARDS)} or the dotted name of a function of "
                        f"your own ({error}); correct it, or make its module importable with PYTHONPATH=FOLDER"
                    ) from error

    def close(self) -> None:
        self.worker.close()

    def _values(self, name: str, group: Group) -> list[float]:
        try:
            values = self._called(name, group)
            if len(values) != len(group.completions):
                raise FailedRewardError(
                    "wrong_length", f"{len(values)} rewards of {len(group.completions)} completions"
                )
            if bad := [value for value in values if value is None or not math.isfinite(value)]:
                raise FailedRewardError("not_finite", f"a reward of {bad[0]}")
        except FailedRewardError as error:
            if (name, error.reason) not in self._told:
                self._told.add((name, error.reason))
                log.warning(
                    "task.rewards.%s gave a group no reward (%s: %s); such groups are left out of the loss and counted "
                    "as train/left_out_%s",
                    *(name, error.reason, error, error.reason),
                )
            raise
        return values

    def _called(self, name: str, group: Group) -> list[float]:
        if name not in self.own:
            return self.worker(name, group)
        try:
            return list(self.own[name](group))
        except Exception as error:
            raise FailedRewardError("raised", f"{type(error).__name__}: {error}") from error
