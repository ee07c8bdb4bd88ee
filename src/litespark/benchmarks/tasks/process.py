"""Inside the fresh process: takes the steps of one variant and answers with their figures."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch

from litespark.benchmarks.tasks import ours, trl
from litespark.benchmarks.tasks.examples import examples_hash, steps_of
from litespark.benchmarks.tasks.variants import VARIANTS
from litespark.benchmarks.tasks.watch import Watch
from litespark.data.modules import build_data_module
from litespark.device import device_of
from litespark.launch import Ranks
from litespark.metrics.records.tasks import TaskRound
from litespark.run.build import check_vocabulary
from litespark.run.composing import compose_parts
from litespark.run.measured_precision import with_measured_precision
from litespark.run.preflight import preflight
from litespark.run.train import quieten
from litespark.training.budget import BudgetConfig


@dataclass(frozen=True)
class Request:
    """What one process is to measure."""

    variant: str
    overrides: list[str]
    folder: str
    warmup_steps: int
    steps: int
    round: int
    position: int


def measure(values: dict[str, Any]) -> Any:
    """The `TaskRound` of a `Request`, both as plain values."""
    request = Request(**values)
    quieten()
    variant, steps = VARIANTS[request.variant], request.warmup_steps + request.steps
    parts = compose_parts(request.overrides)
    parts = dataclasses.replace(parts, budget=BudgetConfig(steps=steps))
    machine = with_measured_precision(parts, preflight(parts, Ranks.from_environment()))
    device_of(machine.device).use()
    torch.manual_seed(parts.seed)
    data = build_data_module(parts.data, seed=parts.seed)
    check_vocabulary(parts, data.manifest)
    examples = steps_of(data, steps)
    watch = Watch(machine.device, request.warmup_steps)
    if variant.trainer == "trl":
        taken = trl.take_steps(parts, machine, request.folder, examples, watch, padded=variant.padded)
    else:
        taken = ours.take_steps(parts, machine, data, watch, steps)
    optimizer, detail = taken
    counted = examples[request.warmup_steps :]
    prompts, tokens = sum(len(step.all) for step in counted), sum(step.inputs for step in counted)
    completions = 0
    if parts.task.name == "grpo":
        settings: Any = parts.task
        completions = prompts * settings.num_generations
        tokens = completions * settings.max_new_tokens
    answer = TaskRound(
        request.round,
        request.position,
        "measured",
        examples=prompts,
        tokens=tokens,
        completions=completions,
        examples_hash=examples_hash(examples),
        detail=f"{detail}; threads {torch.get_num_threads()}",
        **watch.figures(optimizer),
    )
    return dataclasses.asdict(answer)
