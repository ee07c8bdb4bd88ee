"""What `litespark bench tasks` found: a row for each variant, and ours over TRL's round by round."""

import statistics
from dataclasses import dataclass, field

from litespark.metrics.records.tasks import TaskRound, TasksRecord, TaskVariant
from litespark.metrics.step_round import Interval
from litespark.reports.quantities import duration, percent, plain, rate, scaled
from litespark.reports.repeats import Repeats
from litespark.reports.step_rows import LOSS_BOUND
from litespark.reports.table import Absent, Column, Table, texts

GOAL = 1.3
"""Times TRL's tokens/s, of each task."""
_EXAMPLES = {"sft": "conversation", "dpo": "pair", "grpo": "prompt"}


@dataclass(frozen=True)
class Row:
    """One variant; `absent` is why it has no figures. Its `repeats` are `round_figures` by round."""

    variant: TaskVariant
    absent: str | None = None
    repeats: Repeats = field(default_factory=Repeats)
    joules_reason: str | None = None

    def of(self, figure: str) -> Interval | None:
        return self.repeats.of(figure)

    @property
    def tokens_per_second(self) -> Interval | None:
        return self.of("tokens_per_second")

    @property
    def places_per_example(self) -> Interval | None:
        return self.of("places_per_example")


@dataclass(frozen=True)
class Ratio:
    """One variant over another; above 1 is faster, or more of what is processed and held."""

    tokens_per_second: Interval
    places_per_example: Interval
    memory: Interval | None
    joules_per_token: Interval | None


def round_figures(process: TaskRound) -> dict[str, float | None]:
    """Of the counted steps of one process; a token is one of the examples, of GRPO one that was sampled."""
    seconds = sum(process.seconds)
    return {
        "tokens_per_second": process.tokens / seconds,
        "step": statistics.median(process.seconds),
        "rollout": sum(process.rollout_seconds) / seconds if process.rollout_seconds else None,
        "places_per_step": process.places / len(process.seconds),
        "places_per_example": process.places / process.examples,
        "memory": process.memory_bytes,
        "peak": process.peak_bytes,
        "optimizer": process.optimizer_bytes,
        "joules_per_token": None if process.joules is None else process.joules / process.tokens,
        "loss": statistics.fmean(process.losses),
    }


def rows(record: TasksRecord) -> dict[str, Row]:
    return {variant.name: _row(variant) for variant in record.variants}


def _row(variant: TaskVariant) -> Row:
    measured = variant.measured
    if not measured:
        failed = next((one.error for one in variant.rounds if one.error), None)
        return Row(variant, variant.reason or (f"failed: {failed}" if failed else "not run yet"))
    repeats = Repeats({process.round: round_figures(process) for process in measured})
    return Row(variant, None, repeats, next((one.joules_reason for one in measured if one.joules_reason), None))


def ratio(record: TasksRecord, name: str, other: str) -> Ratio | str:
    """One variant over another, round by round, or the reason why there is no ratio."""
    table = rows(record)
    if missing := [one for one in (name, other) if one not in table]:
        return f"{missing[0]} is not part of this benchmark"
    ours, theirs = table[name], table[other]
    for row in (ours, theirs):
        if row.absent is not None:
            return f"{row.variant.name}: {row.absent}"
    one, another = ours.repeats.median("loss"), theirs.repeats.median("loss")
    assert one is not None
    assert another is not None
    # an adapter learns otherwise, and the loss of GRPO is 0 where it was sampled from the same weights
    if ours.variant.task != "grpo" and not ours.variant.settings and abs(one - another) > LOSS_BOUND * abs(another):
        return f"trained differently: mean losses {one:.4f} and {another:.4f}"
    speed, places, memory, energy = (
        ours.repeats.over(theirs.repeats, figure)
        for figure in ("tokens_per_second", "places_per_example", "memory", "joules_per_token")
    )
    if speed is None or places is None:
        return f"{other}: no round in which both were measured"
    return Ratio(speed, places, memory, energy)


def compared(record: TasksRecord) -> list[tuple[str, str]]:
    """Ours over each of TRL's for the same task, and an adapter over all of the model."""
    found = []
    for variant in record.variants:
        if variant.trainer == "litespark":
            for other in record.variants:
                beside_trl = other.trainer == "trl" and not variant.settings
                whole = other.trainer == "litespark" and variant.settings and not other.settings
                if other.task == variant.task and (beside_trl or whole):
                    found.append((variant.name, other.name))
    return found


def tables(record: TasksRecord) -> list[Table]:
    return [_variants(record), ratio_table(record)]


def failures(record: TasksRecord) -> dict[str, str]:
    """The error of each variant that could run and has no figures."""
    return {
        name: row.absent for name, row in rows(record).items() if row.absent is not None and row.variant.reason is None
    }


def _variants(record: TasksRecord) -> Table:
    figures: list[tuple[str, Column]] = [
        ("tokens_per_second", Column("tokens/s", rate)),
        ("step", Column("step", duration)),
        ("rollout", Column("of it rollout", percent)),
        ("places_per_step", Column("places a step", lambda value: f"{value:,.0f}")),
        ("places_per_example", Column("places an example", plain)),
        ("memory", Column("memory of steps", lambda value: scaled(value, "B", 3))),
        ("peak", Column("peak", lambda value: scaled(value, "B", 3))),
        ("optimizer", Column("optimizer state", lambda value: scaled(value, "B", 3))),
        ("joules_per_token", Column("J/token", lambda value: scaled(value, "J"))),
    ]
    cells: list[tuple[object, ...]] = []
    table = rows(record)
    for name, row in table.items():
        if row.absent is None:
            values: list[object] = [row.of(figure) for figure, _ in figures]
            if values[-1] is None:
                values[-1] = Absent(row.joules_reason or "not measured")
            cells.append((name, *values, f"{len(row.repeats.figures)}/{record.rounds}"))
    columns = [*texts("variant"), *(column for _, column in figures), Column("rounds")]
    there = "all there" if record.complete else "NOT all there: the same command continues"
    about = [
        f"{record.model}, {scaled(record.parameters)} parameters, Hugging Face weights; {record.micro_batch_size} "
        f"sequences of {record.seq_len} places a step, {record.precision}, threads {record.threads}, "
        f"{record.environment.device_names}, torch {record.environment.torch}",
        f"TRL {record.trl or 'not installed'}, transformers {record.transformers or 'not installed'}; the same "
        "examples in each step",
        f"a fresh process for each variant and round, every second round reversed; {record.warmup_steps} steps of "
        f"warm-up, {record.steps} counted; rounds asked for: {record.rounds}, {there}",
    ]
    notes = [f"{name}: {row.absent or row.variant.about}" for name, row in table.items()]
    notes.append(
        "tokens/s: of the examples, without padding (GRPO: sampled ones), over all that a step takes, reading too; "
        "median of the rounds (lowest to highest). Places: what forward passes with gradients compute, padding too; an "
        "example is a conversation, a pair or a prompt. Memory of steps: the most held beyond what was before the first"
    )
    return Table(columns, cells, about=about, notes=notes)


def ratio_table(record: TasksRecord) -> Table:
    cells: list[tuple[object, ...]] = []
    for name, other in compared(record):
        found = ratio(record, name, other)
        if isinstance(found, str):
            cells.append((name, other, None, None, None, None, f"no ratio: {found}"))
            continue
        verdict = ""
        if record.variant(other) and record.variant(other).trainer == "trl":  # type: ignore[union-attr]
            verdict = "met" if found.tokens_per_second.median >= GOAL else "NOT met"
        energy = found.joules_per_token or Absent("not measured")
        cells.append((name, other, found.tokens_per_second, found.places_per_example, found.memory, energy, verdict))
    columns = [
        *texts("variant", "over"),
        *(Column(f"× {what}", "{:.2f}".format) for what in ("tokens/s", "places an example", "memory", "J/token")),
        *texts(f"goal {GOAL:g} × tokens/s"),
    ]
    return Table(columns, cells)
