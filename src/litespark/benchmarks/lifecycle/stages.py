"""The stages, what each begins with, and the figures of a finished one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from litespark.metrics.energy import ratio
from litespark.metrics.records.lifecycle import Stage
from litespark.override_text import hydra_text
from litespark.run.folder import RECORD
from litespark.run.metric_rows import read_metrics
from litespark.run.record import RunRecord


@dataclass(frozen=True)
class StageOf:
    """An experiment, the stage that it begins with, and what it is to improve of its held-out text."""

    name: str
    start: str | None
    measure: str
    better: Literal["lower", "higher"] = "lower"

    @property
    def experiment(self) -> str:
        return "quickstart" if self.start is None else f"quickstart_{self.name}"


STAGES = (
    StageOf("base", None, "bits_per_byte"),
    StageOf("sft", "base", "loss"),
    StageOf("dpo", "sft", "loss"),
    StageOf("reward", "sft", "accuracy", "higher"),
    StageOf("grpo", "dpo", "reward", "higher"),
)
REWARD = "reward"
"""The stage whose model is no language model; the last one learns from it."""


_WEIGHT = 0.1
"""Of what the reward model says, which is of several units, beside shares."""


def overrides_of(stage: StageOf, folders: dict[str, Path], overrides: Sequence[str]) -> tuple[str, ...]:
    """Of its run; `folders` are those of the stages before."""
    made = [f"experiment={stage.experiment}", "trainer.validate_at_start=true"]
    if stage.start is not None:
        made.append(f"run={hydra_text(str(folders[stage.start]))}")
    if stage.name == "grpo":
        made.append(f"task.reward_models.{REWARD}={hydra_text(str(folders[REWARD]))}")
        made.append(f"task.rewards.{REWARD}={_WEIGHT}")
    return (*made, *overrides)


def read_stage(stage: StageOf, folder: Path) -> Stage:
    """What a finished run measured; a ValueError where it lacks the validation before its first step."""
    saved, key = RunRecord.read(folder / RECORD), f"validation/{stage.measure}"
    of_step = {row["step"]: row[key] for row in read_metrics(folder) if row.get(key) is not None}
    steps, energy = saved.throughput.steps, saved.energy
    if missing := [step for step in (0, steps) if step not in of_step]:
        raise ValueError(
            f"{folder}: got no {key} at step {missing[0]}, expected one; remove the folder and start again"
        )
    learning = [energy.train_joules, energy.phases.rollout, energy.phases.reward]
    unread = None if energy.joules_per_token_train is not None else energy.reason or "the meter did not read it"
    return Stage(
        name=stage.name,
        start=stage.start,
        precision=saved.environment.precision,
        measure=stage.measure,
        before=of_step[0],
        after=of_step[steps],
        better=stage.better,
        steps=steps,
        tokens=saved.throughput.tokens,
        examples=saved.throughput.examples,
        example=saved.example,
        seconds=saved.throughput.train_seconds,
        tokens_per_second=saved.throughput.tokens_per_second,
        mfu_causal=saved.throughput.mfu_causal,
        mfu_measured_peak=saved.throughput.mfu_measured_peak,
        joules_per_token=energy.joules_per_token_train,
        joules_per_example=energy.joules_per_example,
        rollout_share=ratio(energy.phases.rollout, sum(joules or 0.0 for joules in learning)),
        joules_reason=unread,
    )
