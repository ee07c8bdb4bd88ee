"""Inside the fresh process: builds one variant, takes steps under the profiler, and adds up its time by class."""

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import field
from typing import Any

from torch.profiler import ProfilerActivity, profile

from litespark.benchmarks.profile.classes import CLASSES, class_of, launcher
from litespark.benchmarks.profile.scopes import annotated
from litespark.benchmarks.profile.trace import Busy, work_of
from litespark.benchmarks.step.process import out_of_memory_answered, prepare
from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.stepping import StepBatch, Training, step_batches, timed_steps
from litespark.device import Device, device_of
from litespark.metrics.records.base import JsonFile, part
from litespark.metrics.records.profile import IDLE, ClassRecord, KernelRecord
from litespark.metrics.records.step import RoundRecord
from litespark.run.composing import compose_parts
from litespark.run.config import Parts

_LONGEST_NAME = 200
_TOP = 5


@part
class Profile:
    """The result of a profiled process; fields of a `ProfileRecord`."""

    device_type: str
    tokens: int
    attention_pairs: int
    wall_milliseconds: float
    unprofiled_milliseconds: float
    classes: list[ClassRecord] = field(default_factory=list)


@part
class Answer(JsonFile):
    """The round of the process, and its profile where memory sufficed."""

    round: RoundRecord
    profile: Profile | None = None


def measure(values: dict[str, Any]) -> Any:
    """The `Answer` to a `Request`, both as plain values."""
    request = Request(**values)
    return json.loads(answered(compose_parts(request.overrides), request).check())


def answered(parts: Parts, request: Request) -> Answer:
    profiles: list[Profile] = []

    def take(parts: Parts, request: Request) -> RoundRecord:
        machine, data, training = prepare(parts, request)
        # as many again without the profiler, for what it costs
        batches = step_batches(parts, machine, data.train_dataloader(), request.warmup_steps + 2 * request.steps)
        trace, step_ms = profiled(training, batches, warmup=request.warmup_steps, device=device_of(machine.device))
        profiles.append(trace)
        return request.record("measured", training.recompute, step_ms=step_ms, detail=training.detail)

    return Answer(out_of_memory_answered(parts, request, take), *profiles)


def profiled(
    training: Training, batches: Sequence[StepBatch], *, warmup: int, device: Device
) -> tuple[Profile, list[float]]:
    """The time of a step by class, and milliseconds of each step of the half that is taken without the profiler."""
    rest = batches[warmup:]
    plain, watched = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    for batch in batches[:warmup]:
        training.step(batch)
    device.synchronise()
    _, step_ms = timed_steps(training, plain, device)
    with nullcontext() if is_compiled(training) else annotated(training.model):
        training.step(watched[0])  # the first under annotations may take other paths through caches
        wall, work = _traced(training, watched, device)
    tokens, pairs = sum(batch.tokens for batch in watched), sum(batch.attention_pairs for batch in watched)
    classes = by_class(wall, work, len(watched))
    median = statistics.median(step_ms)
    return Profile(device.type, tokens, pairs, wall / len(watched), median, classes), step_ms


def is_compiled(training: Training) -> bool:
    """Does `torch.compile` make the model's kernels? Then their names show the class, and annotations are not seen."""
    if getattr(training, "forward", training.model) is not training.model:
        return True
    return any("forward" in vars(unit) for unit in (training.model, *getattr(training.model, "blocks", ())))


def _traced(training: Training, batches: Sequence[StepBatch], device: Device) -> tuple[float, list[Busy]]:
    """Milliseconds of the steps, from one synchronisation to the next, and what the device did in them."""
    activities = [ProfilerActivity.CPU]
    if device.is_accelerator:
        activities.append(getattr(ProfilerActivity, device.type.upper()))
    with profile(activities=activities) as profiler:
        device.synchronise()
        began = time.perf_counter()
        for batch in batches:
            training.step(batch)
        device.synchronise()
        wall = 1e3 * (time.perf_counter() - began)
    return wall, work_of(profiler.events(), device.type)


def by_class(wall: float, work: Sequence[Busy], steps: int) -> list[ClassRecord]:
    """Milliseconds of a step by class, and as `idle` what they leave of `wall` / `steps`."""
    times: dict[tuple[str, str, str | None], list[float]] = defaultdict(list)
    for done in work:
        kernel_class = class_of(done.name, done.launched_by, done.forward)
        times[kernel_class, done.name[:_LONGEST_NAME], launcher(done.launched_by)].append(done.milliseconds)
    kernels: dict[str, list[KernelRecord]] = {kernel_class: [] for kernel_class in CLASSES}
    for (kernel_class, name, launched_by), calls in sorted(times.items(), key=lambda item: -sum(item[1])):
        kernels[kernel_class].append(KernelRecord(name, launched_by, sum(calls) / steps, len(calls)))
    classes = [
        ClassRecord(kernel_class, sum(kernel.milliseconds for kernel in members), kernels=members[:_TOP])
        for kernel_class, members in kernels.items()
    ]
    idle = wall / steps - sum(kernel_class.milliseconds for kernel_class in classes)
    return [*classes, ClassRecord(IDLE, max(0.0, idle))]
