"""Training as a bare PyTorch loop writes it: no Lightning, no callbacks, no logging, no guard.

Deliberately its own text: it shares the model, the batches and the optimizer's construction with the trainer and none
of the trainer's step, so equal losses say something about both.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from litespark.data.batch import TokenBatch
from litespark.training.budget import TokenBudget
from litespark.training.optim import OptimizerConfig, build_optimizer, set_learning_rate
from litespark.training.schedule import Schedule
from litespark.training.strategies import Precision


def summed_loss(model: nn.Module, batch: TokenBatch) -> Tensor:
    """The sum of nats over the supervised tokens of a micro-batch, () fp32."""
    loss = model(
        batch.tokens,
        batch.labels,
        positions=batch.positions,
        documents=batch.documents,
        cu_seqlens=batch.cu_seqlens,
    )
    assert isinstance(loss, Tensor)
    return loss


class BareLoop:
    """Trains a copy of `model` on `batches`.

    Args:
        model: where to start from; it is copied.
        batches: endless micro-batches.
        optimizer, schedule, budget: the settings of the run.
        accumulate: micro-batches in one step.
        device, precision: where and how to compute.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterator[TokenBatch],
        *,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        budget: TokenBudget,
        accumulate: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.model = copy.deepcopy(model)
        self.batches = batches
        self.config = optimizer
        self.schedule = schedule
        self.budget = budget
        self.accumulate = accumulate
        self.device = device
        self.precision = precision
        self.optimizer = build_optimizer(self.model, optimizer)
        self.tokens_seen = self.steps_taken = 0

    def autocast(self) -> torch.autocast:
        """bf16 compute where the run has it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")

    def take(self, steps: int) -> None:
        """Take so many optimizer steps."""
        for _ in range(steps):
            supervised = 0
            seen = 0
            for _ in range(self.accumulate):
                batch = next(self.batches).to(self.device, non_blocking=True)
                with self.autocast():
                    loss = summed_loss(self.model, batch)
                loss.backward()
                supervised += batch.supervised_count
                seen += batch.token_count
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            torch._foreach_div_(gradients, supervised)
            if self.config.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
            self.tokens_seen += seen
            self.steps_taken += 1
            position = self.budget.schedule_position(self.tokens_seen, self.steps_taken)
            set_learning_rate(self.optimizer, self.config.lr * self.schedule.factor(*position))
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
