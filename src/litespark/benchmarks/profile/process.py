"""Inside the fresh process: builds one variant, takes steps under the profiler, and adds up its time by class."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from litespark.benchmarks.profile.classes import CLASSES, class_of, launcher
from litespark.benchmarks.profile.scopes import annotated
from litespark.benchmarks.profile.trace import WINDOW, Busy, busy_intervals, shares
from litespark.benchmarks.step.process import answer, build, prepare
from litespark.benchmarks.step.request import Request
from litespark.benchmarks.step.stepping import StepBatch, StepClock, Training, step_batches
from litespark.device import device_of
from litespark.experiment.config import ConfigError, Parts
from litespark.metrics.records.base import JsonFile, part
from litespark.metrics.records.profile import IDLE, ClassRecord, KernelRecord
from litespark.metrics.records.step import RoundRecord

_LONGEST_NAME = 200
_TOP = 5


@part
class ProfileAnswer(JsonFile):
    """What a profiled process came to; see `ProfileRecord`."""

    device_type: str
    tokens: int
    attention_pairs: int
    wall_milliseconds: float
    unprofiled_milliseconds: float
    classes: list[ClassRecord] = field(default_factory=list)


def answer_path(output: Path) -> Path:
    """Where the answer lies beside the record of the round that `request.output` names."""
    return output.with_suffix(".profile.json")


def run_process(parts: Parts, request: Request) -> None:
    """Profile what `request` says and write the answer beside its `output`, and there what became of it.

    Raises:
        ConfigError: the variant cannot be profiled here, or what any run refuses.
    """
    if request.kind == "train.py":
        raise ConfigError(
            "--variant train.py: it is profiled by itself: train.py … trainer.profile=true; choose litespark for its "
            "step alone"
        )
    answer(parts, request, _profile)


def _profile(parts: Parts, request: Request) -> RoundRecord:
    machine, data = prepare(parts, request)
    training = build(parts, machine, data.manifest, request)
    # as many again without the profiler, for what it costs
    batches = step_batches(parts, machine, data.train_dataloader(), request.warmup_steps + 2 * request.steps)
    found, step_ms = profiled(training, batches, warmup=request.warmup_steps, device=machine.device)
    found.write(answer_path(Path(request.output)))
    return RoundRecord(
        request.round,
        request.position,
        "measured",
        training.recompute,
        step_ms=step_ms,
        detail=training.detail,
    )


def profiled(
    training: Training, batches: Sequence[StepBatch], *, warmup: int, device: torch.device
) -> tuple[ProfileAnswer, list[float]]:
    """Warm up, take half of the other steps without the profiler and half with it.

    Returns:
        The time of a step by class, and milliseconds of each step without the profiler.
    """
    rest = batches[warmup:]
    plain, watched = rest[: len(rest) // 2], rest[len(rest) // 2 :]
    clock = StepClock(device_of(device))
    for batch in batches[:warmup]:
        training.step(batch)
    clock.device.synchronise()
    clock.mark()
    for batch in plain:
        training.step(batch)
        clock.mark()
    clock.device.synchronise()
    step_ms = clock.milliseconds()
    model: Any = training.model  # type: ignore[attr-defined]
    with nullcontext() if is_compiled(training) else annotated(model):
        training.step(watched[0])  # the first under annotations may take other paths through caches
        events = _traced(training, watched, clock)
    wall, busy = busy_intervals(events, device.type)
    classes = by_class(wall, busy, len(watched))
    tokens, pairs = sum(each.tokens for each in watched), sum(each.attention_pairs for each in watched)
    plain_ms = statistics.median(step_ms)
    return ProfileAnswer(device.type, tokens, pairs, wall / len(watched), plain_ms, classes), step_ms


def is_compiled(training: Any) -> bool:
    """Does `torch.compile` make the model's kernels? Then they have names that tell, and annotations are not seen."""
    if getattr(training, "_forward", training.model) is not training.model:
        return True
    return any("forward" in vars(unit) for unit in (training.model, *getattr(training.model, "blocks", ())))


def _traced(training: Training, batches: Sequence[StepBatch], clock: StepClock) -> list[dict[str, Any]]:
    activities = [ProfilerActivity.CPU]
    if clock.device.is_accelerator:
        activities.append(getattr(ProfilerActivity, clock.device.type.upper()))
    with profile(activities=activities) as profiler:
        time.sleep(0.01)  # events at the very start may be dated before the window
        clock.device.synchronise()
        with record_function(WINDOW):
            for batch in batches:
                training.step(batch)
            clock.device.synchronise()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    return events


def by_class(wall: float, busy: Sequence[Busy], steps: int) -> list[ClassRecord]:
    """Milliseconds of a step by class, `idle` included, so that they add up to `wall` / `steps`.

    Args:
        wall: milliseconds of all steps together.
        busy: what ran in them.
        steps: how many there were.
    """
    milliseconds: dict[tuple[str, str, str | None], float] = defaultdict(float)
    calls: dict[tuple[str, str, str | None], set[int]] = defaultdict(set)
    for each, charged in zip(busy, shares(busy), strict=True):
        launched_by = launcher(each.launched_by)
        key = (class_of(each.name, each.launched_by, each.forward), each.name[:_LONGEST_NAME], launched_by)
        milliseconds[key] += charged / steps
        calls[key].add(each.call)
    found = []
    for kernel_class in CLASSES:
        kernels = [
            KernelRecord(key[1], key[2], milliseconds[key], len(calls[key]))
            for key in milliseconds
            if key[0] == kernel_class
        ]
        kernels.sort(key=lambda kernel: kernel.milliseconds, reverse=True)
        found.append(ClassRecord(kernel_class, sum(kernel.milliseconds for kernel in kernels), kernels=kernels[:_TOP]))
    idle = wall / steps - sum(each.milliseconds for each in found)
    return [*found, ClassRecord(IDLE, max(0.0, idle))]
