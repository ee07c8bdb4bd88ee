"""Our steps of a task, as a run takes them: read, roll out, learn."""

import dataclasses
import itertools
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from litespark.benchmarks.tasks.watch import Watch
from litespark.data.stream.modules import SequenceDataModule
from litespark.mesh import Mesh
from litespark.ops.choice import described
from litespark.run.build import construct_module
from litespark.run.config import Parts
from litespark.run.preflight import Machine
from litespark.run.rollouts import running_task
from litespark.tasks.task import Compares, RollsOut
from litespark.training.parallel.precision import forward_context
from litespark.training.reference import compute_reference
from litespark.training.step import OptimizerStep


class _RolloutPhase:
    """In the place of a run's phases: only how long a rollout takes is noted."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def during(self, phase: str) -> AbstractContextManager[None]:
        return self.watch.rollout() if phase == "rollout" else nullcontext()


def take_steps(
    parts: Parts, machine: Machine, data: SequenceDataModule, watch: Watch, steps: int
) -> tuple[torch.optim.Optimizer, str]:
    """Take so many steps, noted by `watch`; returns the optimizer, and what was decided."""
    module, choices = construct_module(parts, machine, data.manifest)
    model, device = module.model, machine.device
    assert model is not None
    phase: Any = _RolloutPhase(watch)
    task = running_task(parts, machine, data, phase)
    if isinstance(task, RollsOut):
        # of an id that the model has not, so that every completion is as long as it may be
        tools: Any = task
        tools.tools = dataclasses.replace(tools.tools, ends=frozenset({parts.model.vocab_size}))
    optimizer = module.configure_optimizers()
    step = OptimizerStep(task, grad_clip=parts.optim.grad_clip, device=device)

    def context() -> AbstractContextManager[object]:
        return forward_context(machine.precision, device)

    reference = None
    if isinstance(task, Compares) and task.needs_reference:
        batches = itertools.islice(data.train_dataloader(), steps)
        reference = compute_reference(
            model, {"train": batches}, {}, device=device, mesh=Mesh(), forward_context=context
        ).to(device)
    watch.watch(model)
    watch.begin()
    for number, batch in enumerate(itertools.islice(data.train_dataloader(), steps)):
        given = batch.to(device)
        if isinstance(task, RollsOut):
            with context():
                given = task.rolled(model, given, number, 0)
        elif reference is not None:
            given = reference.added(given, "train")
        step.take(model, optimizer, [given], parts.optim.lr, context)
        watch.losses.append(step.sums[0] / step.sums[1])
        watch.end_step()
    return optimizer, described(choices, reasons=False)
