"""Several runs side by side: their settings and figures, and over seeds."""

import statistics
from collections.abc import Sequence

from litespark.reports.prepared_data import NONE
from litespark.reports.quantities import count, plain
from litespark.reports.runs import FIGURES, Figure, Run, compare, differing_keys
from litespark.reports.table import Column, Table, texts
from litespark.run.folder import flatten

_OVER_SEEDS = [FIGURES[name] for name in ("validation_loss", "bits_per_byte", "tokens_per_second", "joules_per_token")]


def table(runs: Sequence[Run]) -> Table:
    figures = [Column(figure.title, figure.written, NONE) for figure in FIGURES.values()]
    settings = [Column(key, absent=NONE, numbers=False) for key in differing_keys(runs)]
    columns = [*texts("run"), *settings, Column("tokens", count), *figures, *texts("status")]
    return Table(columns, compare(runs).astype(object).values.tolist())


def over_seeds(runs: Sequence[Run]) -> Table | None:
    """Mean and spread over the seeds of finished runs that differ in nothing else; None where there are none."""
    configs = {id(run): flatten(run.config) for run in runs if run.record.complete and run.config}
    finished = [run for run in runs if id(run) in configs]
    # what follows the seed, as that of the data does, is no setting of its own
    keys = [
        key for key in differing_keys(finished) if any(configs[id(run)].get(key) != run.record.seed for run in finished)
    ]
    groups: dict[tuple[str, ...], dict[int, Run]] = {}
    for run in finished:
        settings = (run.record.data.manifest_hash, *(str(configs[id(run)].get(key)) for key in keys))
        groups.setdefault(settings, {})[run.record.seed] = run  # of two runs of one seed the later one
    if all(len(group) < 2 for group in groups.values()):
        return None
    rows = [
        (*settings[1:], ", ".join(map(str, sorted(group))), *(_spread(group, figure) for figure in _OVER_SEEDS))
        for settings, group in groups.items()
    ]
    about = (
        "Mean ± sample standard deviation over the seeds of finished runs, and the lowest to the highest. Of two runs "
        "of one seed the later one counts."
    )
    columns = [*texts(*keys, "seeds"), *(Column(figure.title, absent=NONE) for figure in _OVER_SEEDS)]
    return Table(columns, rows, title=about)


def _spread(group: dict[int, Run], figure: Figure) -> str | None:
    written = figure.written
    values = [value for run in group.values() if (value := figure.of(run.record)) is not None]
    if len(values) < 2:
        return f"{written(values[0])} (n = 1)" if values else None
    deviation = statistics.stdev(values)
    text = plain(deviation, digits=2) if written is plain else written(deviation)
    span = f"{written(min(values))} to {written(max(values))}"
    return f"{written(statistics.fmean(values))} ± {text} ({span}, n = {len(values)})"
