"""Finds run folders, loads them (of a run that died early all but `run.json` may be missing), and compares several."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from litespark.metrics import names
from litespark.metrics.mfu import most_of_measured_peak
from litespark.reports.quantities import percent, plain, rate, scaled
from litespark.run.folder import CONFIG, RECORD, flatten, read_config
from litespark.run.metric_rows import read_metrics
from litespark.run.record import RunRecord


class Figure(NamedTuple):
    place: str
    title: str
    written: Callable[[float], str] = plain

    def of(self, record: RunRecord) -> float | None:
        value: float | None = attrgetter(self.place)(record)
        return value


# by the name in a data frame: nats per supervised token, bits, fractions, train-only joules, GiB
FIGURES = {
    "train_loss": Figure("quality.train_loss", "train loss"),
    "validation_loss": Figure("quality.validation_loss", "validation loss"),
    "bits_per_byte": Figure("quality.bits_per_byte", "bits per byte"),
    "tokens_per_second": Figure("throughput.tokens_per_second", "tokens/s", rate),
    "mfu_causal": Figure("throughput.mfu_causal", "MFU (C)", percent),
    "mfu_full": Figure("throughput.mfu_full", "MFU (F)", percent),
    "mfu_measured_peak": Figure("throughput.mfu_measured_peak", "MFU (C) of measured peak", percent),
    "joules_per_token": Figure("energy.joules_per_token_train", "energy/token", partial(scaled, unit="J")),
    "peak_memory_gib": Figure("throughput.peak_memory_gib", "peak memory", partial(plain, unit="GiB")),
}


@dataclass(frozen=True)
class Run:
    """One run, as its folder has it.

    `metrics` has one row a step: `step` (optimizer updates), `tokens` (input tokens so far), `time` (UTC), and of each
    metric key that was ever logged a float column, NaN where it was not measured.
    """

    folder: Path
    record: RunRecord
    metrics: pd.DataFrame
    config: dict[str, Any]

    @property
    def name(self) -> str:
        return self.record.name

    def series(self, key: str) -> pd.Series:
        return self.metrics.set_index("tokens").reindex(columns=[key])[key].astype("float64").dropna()


def load_run(folder: Path | str) -> Run:
    """Load one run folder; a ValueError names the file and line that is corrupt.

    Steps that were done again after a resume count once, as they were done last.
    """
    folder = Path(folder)
    if not (folder / RECORD).is_file():
        raise ValueError(f"{folder}: got no {RECORD} in it, expected a run folder; name one like logs/runs/NAME")
    config, record = folder / CONFIG, RunRecord.read(folder / RECORD)
    metrics = _against_best_probe(_by_step(read_metrics(folder)), record)
    return Run(folder, record, metrics, read_config(config) if config.is_file() else {})


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """The run folders at or anywhere below each path, in the order of the paths and then by name, each once.

    An earlier comparison among the paths is passed over, so that `logs/runs/*` works a second time.
    """
    folders: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_file() and path.name.startswith("comparison"):
            continue
        candidates = {record.parent for record in path.rglob(RECORD)}
        # a copy that lies in the folder of a run is none of its own
        below = sorted((folder for folder in candidates if candidates.isdisjoint(folder.parents)), key=_natural)
        if not below:
            raise ValueError(f"{path}: got no run at or below it, expected a {RECORD}; name a folder under logs")
        for folder in below:
            folders.setdefault(folder.resolve(), folder)
    return list(folders.values())


def load_runs(paths: Iterable[Path | str]) -> list[Run]:
    return [load_run(folder) for folder in find_runs(paths)]


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run that no other run has: its own name, with as much of its path as distinguishes it."""
    chosen = []
    for run in runs:
        folders = [other.folder.resolve() for other in runs if other.name == run.name]
        path = run.folder.resolve().relative_to(os.path.commonpath(folders)).as_posix()
        chosen.append(run.name if len(folders) == 1 else path if run.name in path else f"{run.name} ({path})")
    return chosen


def loss_unit(runs: Sequence[Run]) -> str:
    return ", ".join(sorted({run.record.loss_unit for run in runs}))


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: its name, the config keys in which the runs differ, and what it reached (`FIGURES`) or None."""
    keys = differing_keys(runs)
    rows = [
        {"run": label, **{key: flatten(run.config).get(key) for key in keys}, "tokens": run.record.throughput.tokens}
        | {name: figure.of(run.record) for name, figure in FIGURES.items()}
        | {"status": run.record.status}
        for run, label in zip(runs, labels(runs), strict=True)
    ]
    frame = pd.DataFrame(rows, dtype=object)  # pandas would turn seed 1 into 1.0 beside a run without one
    return frame.astype({"tokens": "int64", **dict.fromkeys(FIGURES, "float64")})


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The dotted config keys whose values differ between the runs that have a config, without names and folders."""
    from litespark.config.groups import compared  # late: it imports Lightning, and one run alone needs none

    configs = [compared(run.config) for run in runs if run.config]
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if any(config.get(key) != configs[0].get(key) for config in configs)]


def _natural(path: Path) -> list[int | str]:
    """A sort key under which run 2 comes before run 10: texts and numbers in turns."""
    return [int(piece) if piece.isdecimal() else piece for piece in re.split(r"(\d+)", str(path))]


def _by_step(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    by_step: dict[int, dict[str, Any]] = {}
    for row in rows:
        step, measured = row["step"], {name: value for name, value in row.items() if value is not None}
        if step < next(reversed(by_step), 0):  # resumed from an earlier checkpoint: what follows replaces the rest
            by_step = {earlier: values for earlier, values in by_step.items() if earlier < step}
        by_step[step] = by_step.get(step, {}) | measured
    frame = pd.DataFrame(list(by_step.values())).rename(columns={names.PROGRESS_TOKENS: "tokens"})
    keys = sorted(set(frame.columns) - {"step", "tokens", "time", names.PROGRESS_STEP})
    frame = frame.reindex(columns=["step", "tokens", "time", *keys])
    frame["time"] = pd.to_datetime(frame["time"], format="ISO8601", utc=True)
    return frame.astype({"step": "int64", "tokens": "int64", **dict.fromkeys(keys, "float64")})


def _against_best_probe(metrics: pd.DataFrame, record: RunRecord) -> pd.DataFrame:
    """The rows with their shares of the measured peak by the best probe of the run; those above it have none."""
    if names.MFU_MEASURED_PEAK not in metrics:
        return metrics
    shares, best = metrics[names.MFU_MEASURED_PEAK], record.throughput.measured_peak_flops
    if names.MEASURED_PEAK_FLOPS in metrics and best is not None:
        shares = shares * metrics[names.MEASURED_PEAK_FLOPS].fillna(best) / best
    most = most_of_measured_peak(record.environment.precision)
    return metrics.assign(**{names.MFU_MEASURED_PEAK: shares.where(shares <= most)})
