"""Runs that differ in nothing but their seed: mean and spread over the seeds, a row for each set of settings."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from litespark.metrics.records.run import RunRecord
from litespark.reports.quantities import ABSENT, plain, rate, scaled
from litespark.reports.run_config import flatten
from litespark.reports.runs import Run, differing_keys
from litespark.reports.tables import markdown_table

TITLE = "## Over seeds"

_FIGURES: dict[str, tuple[Callable[[RunRecord], float | None], Callable[[float | None], str]]] = {
    "validation loss": (lambda record: record.quality.validation_loss, plain),
    "bits per byte": (lambda record: record.quality.bits_per_byte, plain),
    "tokens/s": (lambda record: record.throughput.tokens_per_second, rate),
    "energy/token": (lambda record: record.energy.joules_per_token_train, lambda value: scaled(value, "J")),
}


def seeds_section(runs: Sequence[Run]) -> list[str]:
    """The table with its heading; empty where no two finished runs differ in their seed alone."""
    finished = [run for run in runs if run.record.status == "finished" and run.config]
    # what follows the seed, as that of the data does, is no setting of its own
    keys = [
        key
        for key in differing_keys(finished)
        if any(flatten(run.config).get(key) != run.record.seed for run in finished)
    ]
    groups: dict[tuple[str, ...], dict[int, Run]] = {}
    for run in finished:
        config = flatten(run.config)
        settings = (run.record.data.manifest_hash, *(str(config.get(key)) for key in keys))
        groups.setdefault(settings, {})[run.record.seed] = run  # of two runs of one seed the later one
    if all(len(group) < 2 for group in groups.values()):
        return []
    rows = [
        (*settings[1:], ", ".join(map(str, sorted(group))), *(_spread(group, *each) for each in _FIGURES.values()))
        for settings, group in groups.items()
    ]
    about = (
        "Mean ± sample standard deviation over the seeds of finished runs, and the lowest to the highest. Of two runs "
        "of one seed the later one counts."
    )
    return [TITLE, about, markdown_table((*keys, "seeds", *_FIGURES), rows)]


def _spread(
    group: dict[int, Run], figure: Callable[[RunRecord], float | None], text: Callable[[float | None], str]
) -> str:
    values = [value for run in group.values() if (value := figure(run.record)) is not None]
    if not values:
        return "—"
    mean = text(statistics.fmean(values))
    if len(values) < 2 or mean == ABSENT:
        return f"{mean} (n = {len(values)})"
    deviation = plain(statistics.stdev(values), digits=2) if text is plain else text(statistics.stdev(values))
    return f"{mean} ± {deviation} ({text(min(values))} to {text(max(values))}, n = {len(values)})"
