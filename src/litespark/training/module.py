"""The LightningModule: `training.step` under Lightning's Trainer, with the budget, the counters and the checkpoint."""

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from litespark.data.batch import TokenBatch
from litespark.data.examples.batch import ExampleBatch
from litespark.mesh import Mesh
from litespark.metrics import names
from litespark.models.adapters.lora import adapted_layers
from litespark.tasks.task import Observes, RollsOut, Task
from litespark.training import fp8
from litespark.training.adapter import check_adapter, without_base
from litespark.training.budget import TokenBudget
from litespark.training.model_builder import ModelBuilder
from litespark.training.optim import OptimizerConfig, build_optimizer, not_finite
from litespark.training.random_state import random_state, restore_random_state
from litespark.training.reference import Reference
from litespark.training.resumed_rate import change_of_rate
from litespark.training.schedule import Schedule, learning_rate, set_learning_rate
from litespark.training.step import OptimizerStep
from litespark.training.validation import validate

log = logging.getLogger(__name__)


class NonFiniteError(RuntimeError):
    """Too many steps in a row had a loss or gradient that was not finite."""


class TrainingModule(pl.LightningModule):
    """Trains a model for a token budget.

    Attributes:
        tokens_seen, steps_taken: input tokens (padding not counted) over all ranks in finished steps, and their number;
            skipped steps are among them.
        skipped_steps: as of the last window.
        examples_seen: conversations, pairs or completions that were learnt from, over all ranks.
        last_step: host counts of the last step over all ranks: tokens, supervised tokens and attention pairs.
        stop_requested: set by anybody on this rank to end the run after the step; `stop_agreed`: on some rank it was.
        validation: metrics of the last validation; `validated_at` are the steps taken when it was made.
        reference: what a reference model makes of the examples, for a task that needs one; set before the first step.
        reference_model: the policy before the first step, for a task that rolls out and compares with it.
    """

    def __init__(
        self,
        *,
        builder: ModelBuilder,
        task: Task,
        metrics: Metric,
        optimizer: OptimizerConfig,
        schedule: Schedule,
        budget: TokenBudget,
        mesh: Mesh | None = None,
        cuda_graph: bool = False,
    ) -> None:
        super().__init__()
        self.model: nn.Module | None = None
        self.reference_model: nn.Module | None = None
        self.builder = builder
        self.task = task
        self.optimizer_config = optimizer
        self._rate = partial(learning_rate, optimizer.lr, schedule)
        self.budget = budget
        self.mesh = mesh or Mesh()
        # checkpoints of an adapter hold nothing of its base
        self.strict_loading = builder.adapter is None
        self.cuda_graph = cuda_graph
        self.metrics = metrics
        self.tokens_seen = 0
        self.steps_taken = 0
        self.learning_rate: float | None = None
        self.skipped_steps = 0
        self.last_step = (0, 0, 0)
        self.stop_requested = False
        self.stop_agreed = False
        self.validation: dict[str, float] = {}
        self.validated_at: int | None = None
        self.reference: Reference | None = None
        self._host_counts = [0, 0, 0, 0]
        self._micro_batches = 0  # of this step, rolled out so far
        self.examples_seen = 0
        self._longest_row = 0
        self._restored_random: dict[str, Any] | None = None

    @property
    def finished(self) -> bool:
        """Whether the budget is spent; the same on all ranks."""
        return self.budget.finished(self.tokens_seen, self.steps_taken)

    @property
    def planned_steps(self) -> int:
        """At the end of the run; as `planned_tokens`, an estimate where sequences are padded."""
        return self.budget.planned_steps(self.tokens_seen, self.steps_taken)

    @property
    def planned_tokens(self) -> int:
        return self.budget.planned_tokens(self.tokens_seen, self.steps_taken)

    @property
    def rolls_out(self) -> bool:
        """Whether the task learns from what the model samples."""
        return isinstance(self.task, RollsOut)

    def configure_model(self) -> None:
        """Build the model on the device of this rank, once; Lightning calls it before the first step."""
        if self.model is None:
            self.construct(self.trainer.strategy.root_device)

    def construct(self, device: torch.device) -> None:
        self.model = self.builder.build(device, self.device_mesh)
        if isinstance(self.task, RollsOut) and self.task.keeps_reference and not adapted_layers(self.model):
            # sharded as the policy is, and saved beside it: a resume finds the weights that it began with
            builder = replace(self.builder, fp8=None, recompute="none")
            self.reference_model = builder.build(device, self.device_mesh).requires_grad_(False)

    def configure_optimizers(self) -> Optimizer:
        assert self.model is not None
        optimizer = build_optimizer(self.model, self.optimizer_config)
        if (state := fp8.state_of(self.model)) is not None:
            # skipped steps too; a hook, since fused optimizers leave no trace on the weights that they change
            optimizer.register_step_post_hook(lambda *_: state.finish_step(self.mesh))
        return optimizer

    def on_fit_start(self) -> None:
        clip, mesh = self.optimizer_config.grad_clip, self.mesh
        self.step = OptimizerStep(self.task, grad_clip=clip, device=self.device, mesh=mesh, cuda_graph=self.cuda_graph)
        # since the last window: loss and divisor of the steps that were taken
        self._window_sums = torch.zeros_like(self.step.sums)
        # skipped steps: in all, in a row now, longest row
        self._skips = torch.zeros(3, dtype=torch.float32, device=self.device)
        self._skips[0] = self.skipped_steps
        self._norm = torch.zeros((), dtype=torch.float32, device=self.device)

    def on_train_start(self) -> None:
        # only now: making the iterator of a DataLoader draws from the generator
        if self._restored_random is not None:
            restore_random_state(self._restored_random, self.device)
            self._restored_random = None

    def training_step(self, batch: TokenBatch, batch_idx: int) -> Tensor:
        """The summed loss of one micro-batch, scaled against Lightning's division by micro-batches."""
        assert self.model is not None
        if self.reference is not None:
            batch = self.reference.added(batch, "train")
        examples = batch.example_count if isinstance(batch, ExampleBatch) else 0
        if isinstance(self.task, RollsOut):
            batch = self.task.rolled(self.model, batch, self.steps_taken, self._micro_batches, self.reference_model)
            self._micro_batches += 1
            examples = self.task.take_sampled()
        loss = self.step.loss(self.model, batch)
        counts = batch.token_count, batch.supervised_count, batch.attention_pairs, examples
        self._host_counts = [before + count for before, count in zip(self._host_counts, counts, strict=True)]
        return loss * self.trainer.accumulate_grad_batches

    def configure_gradient_clipping(self, optimizer: Optimizer, *_: Any, **__: Any) -> None:
        """Called between the last backward of a step and the optimizer: normalise, clip, guard, and set the rate."""
        result = self.step.finish(optimizer)
        taken = result.skipped == 0
        self._window_sums += torch.where(taken, self.step.sums, 0.0)
        self._norm.copy_(result.norm)
        in_a_row = (self._skips[1] + 1) * result.skipped
        longest = torch.maximum(self._skips[2], in_a_row)
        self._skips.copy_(torch.stack([self._skips[0] + result.skipped, in_a_row, longest]))
        sums, self.stop_agreed = self.mesh.sum_of_data(self._host_counts, self.stop_requested)
        tokens, supervised, pairs, examples = sums
        self.examples_seen += examples
        self._host_counts, self._micro_batches = [0, 0, 0, 0], 0
        self.last_step = (tokens, supervised, pairs)
        self.learning_rate = self._rate(self.budget, self.tokens_seen + tokens, self.steps_taken + 1)
        set_learning_rate(optimizer, self.learning_rate)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """Take the step, count what it saw on all ranks, and end the run with the budget."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.tokens_seen += self.last_step[0]
        self.steps_taken += 1
        if self.finished:
            self.trainer.should_stop = True

    def read_window(self) -> dict[str, float | None]:
        """The metrics of the steps since the last call; reads the device once, so call it only where you log."""
        window = [self._window_sums, self._skips, self._norm.reshape(1)]
        values = torch.cat([of.to(self._window_sums.dtype) for of in window]).tolist()
        (loss, divisor, *observed), (skipped, _, longest, norm) = values[:-4], values[-4:]
        self._window_sums.zero_()
        self._skips[2] = self._skips[1]
        self.skipped_steps, self._longest_row = int(skipped), int(longest)
        return {
            names.TRAIN_LOSS: loss / divisor if divisor else None,
            names.LEARNING_RATE: self.learning_rate,
            names.GRADIENT_NORM: norm if math.isfinite(norm) else None,
            names.SKIPPED_STEPS: skipped,
            **self._observed(observed),
        }

    def _observed(self, sums: list[float]) -> dict[str, float | None]:
        of_task = self.task.observed if isinstance(self.task, Observes) else ()
        means = zip(of_task, sums[::2], sums[1::2], strict=True)
        return {names.of_train(name): total / count if count else None for name, total, count in means}

    def check_finite(self) -> None:
        """Raise the NonFiniteError where `nonfinite_limit` steps in a row of the last window were skipped."""
        if self._longest_row >= self.optimizer_config.nonfinite_limit:
            self.require_finite_weights()  # else they are the reason, and nothing to go on with
            raise NonFiniteError(
                f"the loss or the gradient was not finite in {self._longest_row} steps in a row, up to step "
                f"{self.steps_taken} (optim.nonfinite_limit is {self.optimizer_config.nonfinite_limit}); those steps "
                "were skipped and the weights are as before them. Lower optim.lr, look at the data of these steps, or "
                "raise the limit"
            )

    def require_finite_weights(self) -> None:
        """Raise the NonFiniteError on every rank where one holds weights or optimizer states that are not finite."""
        assert self.model is not None
        (optimizer,) = self.trainer.optimizers
        by_rank = self.mesh.gather(not_finite(self.model, optimizer))
        bad = list(dict.fromkeys(name for names_ in by_rank for name in names_))
        if bad:
            more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise NonFiniteError(
                f"after step {self.steps_taken} weights or optimizer states are not finite ({bad[0]}{more}), so no "
                "checkpoint is saved of this step; the earlier ones are untouched. Resume with a lower learning rate, "
                f"for instance optim.lr={self.optimizer_config.lr / 10:g}"
            )

    def validate(self, batches: Iterable[TokenBatch]) -> None:
        """Measure the weights as they are on the validation batches of this rank; a collective."""
        assert self.model is not None
        self.zero_grad()  # their memory is free until the next backward
        context = self.trainer.precision_plugin.forward_context
        if (reference := self.reference) is not None:
            batches = (reference.added(batch.to(self.device), "validation") for batch in batches)
        values = validate(self.model, self.task, self.metrics, batches, self.device, context)
        self.validation = {f"validation/{name}": value for name, value in values.items()}
        self.validated_at = self.steps_taken

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counters, the scales of fp8 and the random state of every rank; a collective."""
        assert self.model is not None
        if self.builder.adapter is not None:
            checkpoint["state_dict"] = without_base(checkpoint["state_dict"])
        checkpoint["litespark"] = {
            "tokens_seen": self.tokens_seen,
            "steps_taken": self.steps_taken,
            "examples_seen": self.examples_seen,
            "skipped_steps": int(self._skips[0].item()),
            "learning_rate": self.learning_rate,
            "budget": asdict(self.budget),
            "validated_at": self.validated_at,
            "validation": self.validation,
            "random": self.mesh.gather(random_state(self.device)),
        }
        if isinstance(self.task, RollsOut):
            checkpoint["litespark"]["rollouts"] = self.mesh.gather(self.task.state_dict(self.steps_taken))
        if (state := fp8.state_of(self.model)) is not None:
            checkpoint["litespark"]["fp8"] = fp8.saved(state, self.mesh)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        state = checkpoint["litespark"]
        assert self.model is not None
        if self.builder.adapter is not None:
            check_adapter(self.state_dict(), checkpoint["state_dict"])
        fp8.restore(fp8.state_of(self.model), state.get("fp8"), first_rank=self.mesh.is_first)
        self.tokens_seen = state["tokens_seen"]
        self.steps_taken = state["steps_taken"]
        self.examples_seen = state.get("examples_seen", 0)
        self.skipped_steps = state["skipped_steps"]
        self.validated_at = state.get("validated_at")
        self.validation = state.get("validation", {})
        self.trainer.should_stop = self.finished
        self.learning_rate = state.get("learning_rate")
        if self.learning_rate is not None and not self.finished and self.mesh.is_first:
            old = TokenBudget(**state["budget"])
            line = change_of_rate(self._rate, self.learning_rate, old, self.budget, self.tokens_seen, self.steps_taken)
            if line is not None:
                log.warning("%s", line)
        if "loops" in checkpoint:  # as Lightning takes one without
            _count_whole_steps(checkpoint, self.steps_taken, self.trainer.accumulate_grad_batches)
        if isinstance(self.task, RollsOut):
            self._load_rollout(self.task, state.get("rollouts", []))
        if len(state["random"]) == self.mesh.world_size:
            self._restored_random = state["random"][self.mesh.rank]

    def _load_rollout(self, task: RollsOut, by_rank: list[dict[str, Any]]) -> None:
        """Give a task the rollout that its next step learns from, of as many ranks and micro-batches as made it."""
        ranks, micro_batches = self.mesh.world_size, self.trainer.accumulate_grad_batches
        held = {len(of_rank) for of_rank in by_rank}
        if not any(held):
            return
        if (len(by_rank), held) != (ranks, {micro_batches}):
            raise ValueError(
                f"the checkpoint is between two steps of one rollout, of {len(by_rank)} processes and {max(held)} "
                f"micro-batches each; got {ranks} processes and {micro_batches} micro-batches. Resume with as many, or "
                "from a checkpoint at a multiple of task.num_iterations"
            )
        task.load_state_dict(by_rank[self.mesh.rank], self.device)


def _count_whole_steps(checkpoint: dict[str, Any], steps: int, accumulate: int) -> None:
    """Set Lightning's counters of micro-batches to those of `steps` whole steps of `accumulate` micro-batches.

    A resume may change that number, and Lightning takes a step at each multiple of it.
    """
    loops = checkpoint["loops"]["fit_loop"]
    for counts in (loops["epoch_loop.batch_progress"][which] for which in ("total", "current")):
        counts.update(dict.fromkeys(("ready", "started", "processed", "completed"), steps * accumulate))
    loops["epoch_loop.state_dict"]["_batches_that_stepped"] = steps
