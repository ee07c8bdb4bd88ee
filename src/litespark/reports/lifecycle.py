"""The whole life of a model as one page: what each stage did to its own measure, what that took, and its models."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

from litespark.metrics.records.lifecycle import LifecycleRecord, Scores, Stage
from litespark.metrics.step_round import Interval
from litespark.reports.page import write
from litespark.reports.quantities import ABSENT, count, duration, percent, plain, rate, scaled
from litespark.reports.table import Absent, Column, Table, texts

_MEASURES = {
    "base": "bits per byte of sources",
    "sft": "nats per token of functions",
    "dpo": "DPO loss of pairs",
    "reward": "accuracy of pairs",
    "grpo": "reward of own completions",
}


def tables(record: LifecycleRecord) -> list[Table]:
    return [_stages(record), _costs(record), _models(record)]


def write_page(record: LifecycleRecord, path: Path) -> Path:
    """Beside the record in `path`: the tables, and samples side by side."""
    prompts = dict.fromkeys(sample.prompt for sample in record.samples)
    samples = {prompt: [one for one in record.samples if one.prompt == prompt] for prompt in prompts}
    return write(path.with_suffix(".md"), "lifecycle", record=record, tables=tables(record), samples=samples)


def _stages(record: LifecycleRecord) -> Table:
    columns = [
        *texts("stage", "begins with", "measure on held-out text"),
        Column("before", plain),
        Column("after", plain),
        Column("improved with"),
        Column("steps", count),
    ]
    rows = []
    for stages in _by_stage(record):
        first = stages[0]
        improved = f"{sum(stage.improved for stage in stages)} of {len(stages)} seeds"
        before, after = _over(stages, attrgetter("before")), _over(stages, attrgetter("after"))
        measure = f"{_MEASURES.get(first.name, first.measure)} ({first.better} is better)"
        rows.append((first.name, first.start or "drawn weights", measure, before, after, improved, first.steps))
    about = [
        f"{record.model}, {scaled(record.parameters)} parameters; every stage is a run of "
        "`train.py` with `trainer.validate_at_start=true`"
    ]
    return Table(columns, rows, title="What each stage changed", about=about)


def _costs(record: LifecycleRecord) -> Table:
    columns = [
        *texts("stage", "precision"),
        Column("tokens", scaled),
        *texts("learns from"),
        Column("training", duration),
        Column("tokens/s", rate),
        *(Column(name, percent, ABSENT) for name in ("MFU", "MFU of the measured peak")),
        *(Column(name, partial(scaled, unit="J"), ABSENT) for name in ("J/token", "J/example")),
        Column("rollouts' share of J", percent, ABSENT),
    ]
    rows = []
    for stages in _by_stage(record):
        first = stages[0]
        learns = "text" if first.examples is None else f"{count(first.examples)} {first.example}s"
        rows.append(
            (
                *(first.name, ", ".join(dict.fromkeys(stage.precision for stage in stages)), first.tokens, learns),
                _over(stages, attrgetter("seconds")),
                _over(stages, attrgetter("tokens_per_second")),
                _over(stages, attrgetter("mfu_causal")) or Absent("the peak of this device is not in the table"),
                _over(stages, attrgetter("mfu_measured_peak")),
                _over(stages, attrgetter("joules_per_token")) or Absent(first.joules_reason or ""),
                _over(stages, attrgetter("joules_per_example")),
                _over(stages, attrgetter("rollout_share")),
            )
        )
    notes = ["J/example: of a pair, completion or conversation, with the rollouts and rewards that it took"]
    return Table(columns, rows, title="What it took", notes=notes)


def _models(record: LifecycleRecord) -> Table:
    columns = [
        *texts("model after"),
        Column("bits/byte", plain),
        Column("nats/token of functions", plain),
        *(Column(name, percent) for name in ("preference accuracy", "parses", "signature kept")),
        Column("tokens a completion", partial(plain, digits=3)),
    ]
    figures = [field.name for field in fields(Scores)[1:]]
    by_model = [list(scores) for scores in zip(*(life.scores for life in record.lives), strict=True)]
    rows = [(scores[0].model, *(_over(scores, attrgetter(name)) for name in figures)) for scores in by_model]
    notes = [
        "preference accuracy: the chosen function of a held-out pair is likelier per token than the rejected one",
        f"parses, signature kept: of completions of {record.prompts} held-out prompts, four of each; the share that is "
        "Python, and the mean share of the asked signature that they begin with",
    ]
    return Table(columns, rows, title="Every model on the same held-out text", notes=notes)


def _by_stage(record: LifecycleRecord) -> list[list[Stage]]:
    """Of each stage its runs, a seed each."""
    return [list(stages) for stages in zip(*(life.stages for life in record.lives), strict=True)]


def _over(items: list[Any], figure: Callable[[Any], float | None]) -> Interval | None:
    values = [value for item in items if (value := figure(item)) is not None]
    return Interval.of(values) if values else None
