"""The record of `litespark bench tasks`: every process that trained a task, step by step."""

from collections.abc import Iterator
from dataclasses import field
from typing import Literal, Self

from pydantic import model_validator

from litespark.metrics.records.base import Count, CountFromZero, MeasuredPositive, NotNegative, Positive, part, record
from litespark.metrics.records.origin import Record, check_joules
from litespark.metrics.records.step import Outcome

TaskName = Literal["sft", "dpo", "grpo"]
Trainer = Literal["litespark", "trl"]


@part
class TaskRound:
    """One fresh process of one variant; counts are of all counted steps together.

    Attributes:
        seconds: of each counted step, from the end of the one before it: reading, rollout and optimizer included.
        rollout_seconds: of these, in which completions were sampled; empty where none are.
        examples: conversations, pairs, or prompts. tokens: inputs that they hold, whatever is computed twice or padded;
            of GRPO those of the completions.
        places: (row, column) pairs that forward passes with gradients computed, padding among them.
        completions: of GRPO. losses: of all steps, warm-up included. examples_hash: of their ids.
        peak_bytes: the most that was held in the steps; memory_bytes: of it, beyond what was held before the first. On
            a CPU resident memory, else what tensors hold.
        optimizer_bytes: of its state.
    """

    round: CountFromZero
    position: CountFromZero
    outcome: Outcome
    error: str | None = None
    seconds: list[Positive] = field(default_factory=list)
    rollout_seconds: list[NotNegative] = field(default_factory=list)
    examples: CountFromZero = 0
    tokens: CountFromZero = 0
    places: CountFromZero = 0
    completions: CountFromZero = 0
    losses: list[float] = field(default_factory=list)
    examples_hash: str | None = None
    memory_bytes: CountFromZero | None = None
    peak_bytes: CountFromZero | None = None
    optimizer_bytes: CountFromZero = 0
    joules: MeasuredPositive = None
    joules_method: str | None = None
    joules_reason: str | None = None
    detail: str | None = None


@part
class TaskVariant:
    """One variant and its processes; `reason` is why it cannot run here at all."""

    name: str
    task: TaskName
    trainer: Trainer
    settings: list[str]
    about: str
    reason: str | None = None
    rounds: list[TaskRound] = field(default_factory=list)

    @property
    def measured(self) -> list[TaskRound]:
        return [process for process in self.rounds if process.outcome == "measured"]


@record
class TasksRecord(Record):
    """Steps of post-training tasks, ours and TRL's, on one device.

    Attributes:
        micro_batch_size: packed sequences of `seq_len` places, or prompts, of a step of ours; TRL gets the same
            examples in each step.
        threads: of PyTorch. `trl` and `transformers` are versions; None where they are not installed.
    """

    model: str
    parameters: Count
    seq_len: Count
    micro_batch_size: Count
    warmup_steps: Count
    steps: Count
    rounds: Count
    precision: str
    threads: Count
    trl: str | None
    transformers: str | None
    variants: list[TaskVariant] = field(default_factory=list)
    schema: Literal["litespark.bench.tasks/1"] = field(default="litespark.bench.tasks/1", kw_only=True)

    @property
    def complete(self) -> bool:
        wanted = set(range(self.rounds))
        return all(one.reason is not None or {it.round for it in one.measured} >= wanted for one in self.variants)

    def variant(self, name: str) -> TaskVariant | None:
        return next((one for one in self.variants if one.name == name), None)

    def asked(self) -> tuple[object, ...]:
        sizes = self.seq_len, self.micro_batch_size, self.warmup_steps, self.steps, self.rounds, self.precision
        return self.model, sizes, self.threads, [(one.name, one.settings, one.reason) for one in self.variants]

    @model_validator(mode="after")
    def _compares_like_with_like(self) -> Self:
        first: dict[TaskName, TaskRound] = {}
        for variant in self.variants:
            for process in variant.measured:
                where = f"variants.{variant.name}.rounds[{process.round}]."
                same = first.setdefault(variant.task, process)
                if (problem := next(self._problems(process, same), None)) is not None:
                    raise ValueError(where + problem)
                check_joules(process.joules, process.joules_reason, where)
        return self

    def _problems(self, process: TaskRound, same: TaskRound) -> Iterator[str]:
        if len(process.seconds) != self.steps:
            yield f"seconds: got {len(process.seconds)} steps, expected {self.steps}"
        if process.rollout_seconds and len(process.rollout_seconds) != self.steps:
            yield f"rollout_seconds: got {len(process.rollout_seconds)} steps, expected {self.steps}"
        if not process.tokens or process.places < process.tokens:
            yield f"places: got {process.places} for {process.tokens} tokens, expected as many at least"
        for name in ("examples", "tokens", "completions", "examples_hash"):
            got, expected = getattr(process, name), getattr(same, name)
            if got != expected:
                yield f"{name}: got {got}, expected {expected}: all variants of a task take the same examples"
