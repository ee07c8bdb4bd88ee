"""`litespark bench profile` from start to end: rates and roofline here, the profiled steps in a fresh process."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from litespark.benchmarks.profile.process import Answer, Profile
from litespark.benchmarks.session import record_path
from litespark.benchmarks.step.begin import StepSettings, add_rates, decide, described
from litespark.benchmarks.step.request import Request, answer
from litespark.benchmarks.step.variants import parse
from litespark.child_process import call
from litespark.metrics.records.base import parse as parse_as
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.step import RoundRecord
from litespark.planning.flops import causal_mean_keys
from litespark.run.config import ConfigError

MEASURE = call("litespark.benchmarks.profile.process:measure")
_WARMUP = 3
_TIMEOUT = 900.0
# has Inductor name the kernels that it makes for a CPU; it reads this when it is imported
_NAMES = {"TORCHINDUCTOR_CPP_ENABLE_KERNEL_PROFILE": "1"}


def bench_profile(
    overrides: Sequence[str],
    *,
    variant: str,
    steps: int,
    layers: int | None,
    command: Sequence[str],
    output: Path,
    say: Callable[[str], None],
    launch: Callable[..., Any] = answer,
) -> tuple[ProfileRecord, Path]:
    """Profile one variant and write the record, DEVICE/DATE_bench-profile_MODEL_PRECISION-VARIANT.json in `output`.

    `steps` are taken under the profiler and as many before it; `layers` None: as many as the device can train.
    """
    chosen = parse(variant)
    if chosen.kind == "train.py":
        raise ConfigError(
            f"--variant: got {variant}, expected one whose steps alone are profiled; choose litespark, or let the run "
            "profile itself: train.py … trainer.profile=true"
        )
    settings = StepSettings(rounds=1, warmup_steps=_WARMUP, steps=steps, loss_sequences=1, layers=layers)
    decided = decide(overrides, [chosen], settings)
    step = described(decided, overrides, settings, command)
    if (reason := step.variants[0].reason) is not None:
        raise ConfigError(f"--variant {chosen.name}: it cannot be profiled here: {reason}")
    say("measuring what this device reaches")
    add_rates(step, decided)
    words = [*decided.overrides, *chosen.settings]
    request = Request(chosen.name, chosen.kind, words, None, decided.layers, _WARMUP, steps, settings.loss_sequences)
    say(f"profiling {steps} steps of {chosen.name} in a fresh process")
    profile, done = _profiled(request, launch)
    (measured,) = step.variants
    bounds = {part.kernel_class: part.milliseconds for part in measured.roofline}
    if "attention" in bounds:
        # of whole sequences; here are the pairs that the masks of these very steps allowed
        whole_sequences = causal_mean_keys(step.protocol.seq_len)
        bounds["attention"] *= profile.attention_pairs / profile.tokens / whole_sequences
    classes = [replace(part, roofline_milliseconds=bounds.get(part.kernel_class)) for part in profile.classes]
    record = ProfileRecord(
        step.provenance, model=step.model, protocol=step.protocol, variant=chosen.name,
        settings=list(chosen.settings), about=measured.about, recompute=done.recompute, detail=done.detail or "",
        rates=step.rates, **vars(profile) | {"classes": classes},
    )  # fmt: skip
    # the index of results takes what stands behind the last `_` for the precision
    precision = f"{step.protocol.precision}-{chosen.name.replace('_', '-')}"
    path = record_path(output, step.provenance, "bench-profile", step.model.name, precision)
    record.write(path)
    return record, path


def _profiled(request: Request, launch: Callable[..., Any]) -> tuple[Profile, RoundRecord]:
    """What the fresh process answers; a ConfigError where it has no profile."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            values = launch(request, Path(folder), timeout=_TIMEOUT, program=MEASURE, environment=_NAMES)
            answer: Answer = parse_as(Answer, values)
        except ValueError as error:
            raise ConfigError(f"--variant {request.variant}: got no profile of its process: {error}") from error
    done = answer.round
    if answer.profile is None:
        raise ConfigError(
            f"--variant {request.variant}: its process was {done.outcome}, expected a profile: {done.error}; try "
            "recompute=full, or --layers"
        )
    return answer.profile, done
