"""The record of a whole life: the stages of a model one after another, and all of its models on the same text."""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from litespark.metrics.records.base import Count, CountFromZero, Measured, NotNegative, part, record
from litespark.metrics.records.origin import Record, check_joules


@part
class Stage:
    """A run of one stage; `start` is the stage whose model it began with.

    `before` and `after` are the `measure` of the stage on its held-out text, before the first step and after the last.
    Seconds are of training steps with their rollouts. `joules_per_example` are of steps, rollouts and rewards, for each
    `example` that was learnt from; `rollout_share` is the share of the rollouts in these.
    """

    name: str
    start: str | None
    precision: str
    measure: str
    before: float
    after: float
    better: Literal["lower", "higher"]
    steps: Count
    tokens: Count
    examples: CountFromZero | None
    example: str | None
    seconds: NotNegative
    tokens_per_second: Measured
    mfu_causal: Measured
    mfu_measured_peak: Measured
    joules_per_token: Measured
    joules_per_example: Measured
    rollout_share: Measured
    joules_reason: str | None

    @property
    def improved(self) -> bool:
        return self.after < self.before if self.better == "lower" else self.after > self.before


@part
class Scores:
    """What a model makes of held-out text: bits per byte of sources; nats per token of functions after their prompts;
    the share of pairs whose chosen function is likelier per token; the share of its own completions that parse; how
    much of the asked signature they begin with; their length in tokens."""

    model: str
    bits_per_byte: float
    nats_per_token: float
    preference_accuracy: float
    parses: float
    keeps_signature: float
    completion_length: float


@part
class Sample:
    """How a model goes on from a prompt, the likeliest token each time."""

    prompt: str
    model: str
    completion: str


@part
class Life:
    """All stages with one seed."""

    seed: CountFromZero
    stages: list[Stage]
    scores: list[Scores]


@record
class LifecycleRecord(Record):
    """Every seed; samples are of the first, `precision` is that of its first stage."""

    model: str
    parameters: Count
    precision: str
    prompts: Count
    lives: Annotated[list[Life], Field(min_length=1)]
    samples: list[Sample]
    schema: Literal["litespark.bench.lifecycle/1"] = field(default="litespark.bench.lifecycle/1", kw_only=True)

    def __post_init__(self) -> None:
        for life in self.lives:
            for stage in life.stages:
                check_joules(stage.joules_per_token, stage.joules_reason, f"{stage.name}, seed {life.seed}: ")

    def asked(self) -> tuple[object, ...]:
        return ([life.seed for life in self.lives], self.model, self.precision)
