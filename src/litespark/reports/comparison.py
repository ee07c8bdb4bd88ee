"""Several runs side by side: their settings and figures, over seeds, and what may not be compared."""

from __future__ import annotations

import os
import statistics
from collections.abc import Hashable, Sequence
from pathlib import Path

from litespark.reports.prepared_data import NONE, kept_data, left_out_by_selection
from litespark.reports.quantities import ABSENT, count, plain
from litespark.reports.runs import FIGURES, Figure, Run, compare, differing_keys, labels
from litespark.reports.table import Column, Table, texts
from litespark.reports.tables import NATS, precision_of, shared_by
from litespark.run.folder import flatten

_OVER_SEEDS = [FIGURES[name] for name in ("validation_loss", "bits_per_byte", "tokens_per_second", "joules_per_token")]


def table(runs: Sequence[Run]) -> Table:
    """The runs side by side; settings in which they differ first."""
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


def data_and_machines(runs: Sequence[Run], output: Path) -> Table:
    """What each run read, on what it ran, and where its folder lies from `output`."""
    rows = []
    for name, run in zip(labels(runs), runs, strict=True):
        record, kept = run.record, kept_data(run)
        rows.append((
            name,
            f"{record.model.name}, {count(record.model.parameters)} parameters",
            f"{record.data.name} ({record.data.manifest_hash[:12]})",
            None if kept is None else left_out_by_selection(kept),
            record.data.unigram_entropy,
            record.environment.device_names or "none recorded",
            precision_of(record),
            os.path.relpath(run.folder, output),
        ))  # fmt: skip
    columns = [*texts("run", "model", "data"), Column("left out", absent=NONE, numbers=False),
               Column("unigram entropy", NATS, ABSENT), *texts("devices", "precision", "folder")]  # fmt: skip
    return Table(columns, rows)


def warnings(runs: Sequence[Run]) -> list[str]:
    """Where the figures of these runs may not be held against each other."""
    records = [run.record for run in runs]
    checks: dict[str, Sequence[Hashable]] = {
        "The runs read different data, so their losses do not compare.": [
            record.data.manifest_hash for record in records
        ],
        "The runs saw different numbers of tokens; compare losses at equal tokens in the picture.": [
            record.throughput.tokens for record in records
        ],
        "The runs used different devices; speed and energy compare machines as well as settings.": [
            record.environment.device_names for record in records
        ],
        "The runs used different precisions.": [precision_of(record) for record in records],
    }
    found = [text for text, values in checks.items() if len(set(values)) > 1]
    named = list(zip(labels(runs), records, strict=True))
    if shared := [name for name, record in named if shared_by(record)]:
        found.append(f"Other programs shared the machine (step times far apart) in: {', '.join(shared)}.")
    if unfinished := [name for name, record in named if not record.complete]:
        found.append(f"Not finished: {', '.join(unfinished)}.")
    return found
