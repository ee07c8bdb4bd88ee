"""What `litespark bench step` has to reach on a GPU, and whether it did.

train.py itself is held against the benchmark's own loop over the same parts. Training in fp8 has goals for the model
of 3 B on one H200: they are held against the fastest of our variants in fp8 that trained like the others.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from litespark.metrics.records.step import StepRecord, VariantRecord
from litespark.metrics.step_round import Interval
from litespark.reports.step_rows import failures, on_gpu, ratio, ratios, rows

# of the benchmark's tokens/s that train.py has to reach
TRAINER_GOAL = 0.97
MODEL = "llama3b"
# input tokens of a micro-batch, in whole rows
TOKENS = 4 * 4096
DEVICE = "H200"
# tokens/s of ours in fp8 over those of the baseline
LEAST_RATIOS = {"compiled_fp8": 1.15, "compiled": 1.4}
LEAST_TOKENS_PER_SECOND = (40e3, 44e3)

Verdict = Literal["met", "NOT met", "not measured"]


class Goal(NamedTuple):
    """A goal, what was reached, the verdict, and why or of which variant."""

    goal: str
    threshold: float
    value: Interval | None
    verdict: Verdict
    reason: str


def succeeded(record: StepRecord) -> bool:
    """Whether every variant that could run did, and no goal was missed that can be judged here."""
    return not failures(record) and trainer_goal(record).verdict != "NOT met"


def goals(record: StepRecord) -> list[Goal]:
    """Every goal with its verdict; those of fp8 where a variant of ours is in fp8."""
    return [trainer_goal(record), *fp8_goals(record)]


def trainer_goal(record: StepRecord) -> Goal:
    """Whether train.py keeps up with the benchmark's own loop."""
    goal = f"train.py at {TRAINER_GOAL:.0%} of litespark's tokens/s on a GPU"
    names = [variant.name for variant in record.variants if variant.kind == "train.py"]
    missing = "train.py" if not names else "litespark" if record.variant("litespark") is None else None
    if missing is not None:
        return _judged(goal, TRAINER_GOAL, f"{missing} is not part of this benchmark")
    reached = ratio(record, names[0], "litespark")
    judged = _judged(goal, TRAINER_GOAL, reached if isinstance(reached, str) else reached.tokens_per_second)
    if isinstance(reached, str) or on_gpu(record.provenance.environment):
        return judged
    return judged._replace(verdict="not measured", reason="the goal is one for GPUs")


def fp8_goals(record: StepRecord) -> list[Goal]:
    """The goals of fp8; none where no variant of ours is in fp8."""
    table = rows(record)
    ours = [table[variant.name] for variant in record.variants if in_fp8(variant, record)]
    if not ours:
        return []
    speeds = {row.name: speed for row in ours if (speed := row.tokens_per_second) and not row.doubts}
    fastest = max(speeds, key=lambda name: speeds[name].median, default="")
    against = _elsewhere(record) or (None if speeds else f"{ours[0].name}: {ours[0].absent or ours[0].doubts[0]}")
    judged = []
    for baseline, least in LEAST_RATIOS.items():
        reached = against or ratios(record, fastest)[baseline]
        value = reached if isinstance(reached, str) else reached.tokens_per_second
        judged.append(_judged(f"ours in fp8 at least {least:g} times as fast as {baseline}", least, value, fastest))
    device = record.provenance.environment.devices[0].name
    against = against or (None if DEVICE in device else f"this device is {device}")
    for least in LEAST_TOKENS_PER_SECOND:
        goal = f"ours in fp8 at least {least:,.0f} tokens/s on one {DEVICE}"
        judged.append(_judged(goal, least, against or speeds[fastest], fastest))
    return judged


def in_fp8(variant: VariantRecord, record: StepRecord) -> bool:
    """Whether a variant of ours asks for fp8 in its settings, or all do; simulated or not."""
    if variant.kind != "litespark":
        return False
    asked = [word.partition("=")[2] for word in variant.settings if word.startswith(("precision=", "precision.name="))]
    return (asked or [record.protocol.precision])[-1] == "fp8"


def _elsewhere(record: StepRecord) -> str | None:
    """Why the goals of fp8 are not for this record; None where they are."""
    model, protocol = record.model, record.protocol
    tokens = protocol.micro_batch_size * protocol.seq_len
    if not on_gpu(record.provenance.environment):
        return "the goals are for GPUs"
    if (model.name, model.num_layers, tokens, protocol.document_mask) != (MODEL, model.layers_whole, TOKENS, False):
        return (
            f"got {model.num_layers} of {model.layers_whole} layers of {model.name} with {tokens} tokens a "
            f"micro-batch, expected all of {MODEL} with {TOKENS} in whole rows"
        )
    return None


def _judged(goal: str, threshold: float, value: Interval | str, name: str = "") -> Goal:
    """The verdict; a text is the reason why nothing was measured."""
    if isinstance(value, str):
        return Goal(goal, threshold, None, "not measured", value)
    return Goal(goal, threshold, value, "met" if value.median >= threshold else "NOT met", name)
