"""`litespark bench profile` from start to end: rates and floor here, the profiled steps in a fresh process."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from litespark.benchmarks.profile.process import ProfileAnswer, answer_path
from litespark.benchmarks.record_path import record_path
from litespark.benchmarks.step.begin import Compose, begin, shared_overrides
from litespark.benchmarks.step.request import Request, launch
from litespark.benchmarks.step.settings import StepSettings
from litespark.benchmarks.step.variants import Variant, parse
from litespark.experiment.config import ConfigError
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.step import RoundRecord, StepRecord
from litespark.models.flops import causal_mean_keys

WHAT = "bench-profile"
PROGRAM = (sys.executable, "-m", "litespark.cli", "bench", "profile")
_WARMUP = 3


class Launch(Protocol):
    """Runs one process; `litespark.benchmarks.step.request.launch` is the real one."""

    def __call__(
        self, request: Request, overrides: Sequence[str], folder: Path, *, timeout: float, program: Sequence[str]
    ) -> RoundRecord: ...


def bench_profile(
    compose: Compose,
    overrides: Sequence[str],
    *,
    variant: str,
    steps: int,
    layers: int | None,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    launch: Launch = launch,
    timeout: float = 900.0,
) -> tuple[ProfileRecord, Path]:
    """Profile one variant and write the record.

    Args:
        compose: makes a config of overrides.
        overrides: of the config, as the user gave them.
        variant: a word that `litespark.benchmarks.step.variants.parse` knows.
        steps: under the profiler; as many are taken without it before.
        layers: of the model; None: all, or as many as the device can train.
        command: the words that get it again.
        output: folder of records; the file is DEVICE/DATE_bench-profile_MODEL_PRECISION-VARIANT.json in it.
        say: is told what is being done.
        launch: runs the process.
        timeout: seconds after which it is ended.

    Raises:
        ValueError: the config or the variant cannot be profiled here, or its process failed.
        OSError: the record cannot be written.
    """
    chosen = parse(variant)
    if chosen.kind == "train.py":
        raise ConfigError(
            f"--variant: got {variant}, expected one whose steps alone are profiled; choose litespark, or let the run "
            "profile itself: train.py … trainer.profile=true"
        )
    settings = StepSettings(rounds=1, warmup_steps=_WARMUP, steps=steps, layers=layers, process_timeout=timeout)
    say("measuring the rates of this device")
    step = begin(compose, overrides, [chosen], settings, command)
    reason = step.variants[0].reason
    if reason is not None:
        raise ConfigError(f"--variant {chosen.name}: it cannot be profiled here: {reason}")
    request = Request(
        variant=chosen.name,
        kind=chosen.kind,
        settings=list(chosen.settings),
        recompute=None,
        layers=step.model.num_layers if step.model.num_layers < step.model.layers_whole else None,
        warmup_steps=_WARMUP,
        steps=steps,
        loss_rows=1,
        round=0,
        position=0,
    )
    say(f"profiling {steps} steps of {chosen.name} in a fresh process")
    with tempfile.TemporaryDirectory() as folder:
        request.output = str(Path(folder) / "round.json")
        shared = shared_overrides(overrides, [chosen.kind])
        done = launch(request, shared, Path(folder), timeout=timeout, program=PROGRAM)
        if done.outcome != "measured":
            raise ConfigError(
                f"--variant {chosen.name}: its process ended with {done.outcome!r}, expected a profile: {done.error}"
                + ("; try recompute=full, or --layers" if done.outcome == "out of memory" else "")
            )
        answer = ProfileAnswer.read(answer_path(Path(request.output)))
    record = _record(step, chosen, done, answer)
    # the ledger takes what stands behind the last `_` for the precision
    precision = f"{step.protocol.precision}-{chosen.name.replace('_', '-')}"
    path = record_path(output, step.provenance, WHAT, step.model.name, precision)
    record.write(path)
    return record, path


def _record(step: StepRecord, variant: Variant, done: RoundRecord, answer: ProfileAnswer) -> ProfileRecord:
    floors = {part.kernel_class: part.milliseconds for part in step.variants[0].floor}
    if "attention" in floors:
        # of whole rows; here are the pairs that the masks of these very steps allowed
        floors["attention"] *= answer.attention_pairs / answer.tokens / causal_mean_keys(step.protocol.seq_len)
    classes = [replace(each, floor_milliseconds=floors.get(each.kernel_class)) for each in answer.classes]
    return ProfileRecord(
        provenance=step.provenance,
        model=step.model,
        protocol=step.protocol,
        variant=variant.name,
        settings=list(variant.settings),
        about=step.variants[0].about,
        recompute=done.recompute,
        detail=done.detail or "",
        device_type=answer.device_type,
        rates=step.rates,
        tokens=answer.tokens,
        attention_pairs=answer.attention_pairs,
        wall_milliseconds=answer.wall_milliseconds,
        unprofiled_milliseconds=answer.unprofiled_milliseconds,
        classes=classes,
    )
