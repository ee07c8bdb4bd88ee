"""What takes the steps of a variant: ours, and our model in a step as a bare PyTorch loop writes it."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from litespark.benchmarks.step.stepping import StepBatch
from litespark.data.batch import TokenBatch
from litespark.device import device_of
from litespark.models.compilation import uncompiled
from litespark.run.config import Parts
from litespark.run.preflight import Machine
from litespark.training.module import TrainingModule
from litespark.training.optim import build_optimizer
from litespark.training.parallel.precision import forward_context
from litespark.training.schedule import set_learning_rate
from litespark.training.step import OptimizerStep
from litespark.training.validation import validate


class LitesparkTraining:
    """Our step (`training.step`) without the Trainer."""

    def __init__(self, module: TrainingModule, parts: Parts, machine: Machine, detail: str) -> None:
        assert module.model is not None
        self.module, self.model = module, module.model
        self.optimizer = module.configure_optimizers()
        clip, graph = parts.optim.grad_clip, module.cuda_graph
        self.optimizer_step = OptimizerStep(module.task, grad_clip=clip, device=machine.device, cuda_graph=graph)
        self.parts, self.machine = parts, machine
        self.recompute: str = parts.recompute
        self.detail = detail

    def step(self, batch: StepBatch) -> Tensor:
        self.optimizer_step.take(self.model, self.optimizer, batch.batches, batch.learning_rate, self._context)
        return self.optimizer_step.sums[0].clone()

    def held_out_loss(self, batches: Iterable[TokenBatch]) -> float:
        device = self.machine.device
        metrics = self.module.metrics.to(device)
        with uncompiled(self.model):
            return validate(self.model, self.module.task, metrics, batches, device, self._context)["loss"]

    def _context(self) -> AbstractContextManager[object]:
        return forward_context(self.machine.precision, self.machine.device)


class TextbookTraining(ABC):
    """The step as textbooks and transformers' Trainer write it, deliberately its own text.

    It shares no line with `training.step`, so equal losses say something about both: the loss of a micro-batch is its
    sum divided by the supervised tokens of the whole step, under autocast; then clipping by norm, the optimizer, and
    the gradients set to None.
    """

    model: Any
    optimizer: torch.optim.Optimizer
    recompute: str
    detail: str

    def __init__(self, parts: Parts, machine: Machine) -> None:
        self.grad_clip = parts.optim.grad_clip
        self.device = machine.device
        self.precision = machine.precision

    @abstractmethod
    def loss(self, batch: TokenBatch, tokens: Tensor, *, compiled: bool) -> Tensor:
        """The sum of nats over a micro-batch divided by `tokens`, ()."""

    def step(self, batch: StepBatch) -> Tensor:
        # filled on the device: a copy from the host would wait for it
        tokens = torch.full((), batch.supervised, dtype=torch.float32, device=self.device)
        total = torch.zeros((), device=self.device)
        for part in batch.batches:
            with self._autocast():
                loss = self.loss(part, tokens, compiled=True)
            loss.backward()
            total += loss.detach()
        if self.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
        set_learning_rate(self.optimizer, batch.learning_rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return total * tokens

    def held_out_loss(self, batches: Iterable[TokenBatch]) -> float:
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        one = torch.ones((), device=self.device)
        tokens = 0
        self.model.eval()
        with torch.no_grad(), self._autocast():
            for batch in batches:
                total += self.loss(batch.to(self.device), one, compiled=False)
                tokens += batch.supervised_count
        self.model.train()
        return float(total) / tokens

    def _autocast(self) -> AbstractContextManager[object]:
        return device_of(self.device).autocast(torch.bfloat16 if self.precision == "bf16" else None)


class BareTraining(TextbookTraining):
    """Our model and optimizer in a textbook step: what our own step, and the Trainer around it, cost beyond it."""

    def __init__(self, module: TrainingModule, parts: Parts, machine: Machine, detail: str) -> None:
        super().__init__(parts, machine)
        self.model = module.model
        self.optimizer = build_optimizer(self.model, parts.optim)
        self.recompute = parts.recompute
        self.detail = detail

    def loss(self, batch: TokenBatch, tokens: Tensor, *, compiled: bool) -> Tensor:
        where = {"positions": batch.positions, "documents": batch.documents, "cu_seqlens": batch.cu_seqlens}
        total: Tensor = self.model(batch.tokens, batch.labels, **where)
        return total / tokens
