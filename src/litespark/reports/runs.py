"""Finds run folders, loads them and puts several side by side as one table.

A run folder holds `run.json` (the record, which makes it a run folder), `metrics.jsonl` (one JSON object a row),
`config.yaml` and `samples.md`. All but the record may be missing: a run that died early has not written them.
"""

import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from litespark.metrics import names
from litespark.metrics.mfu import most_of_measured_peak, possible
from litespark.metrics.records.run import RunRecord
from litespark.reports.run_config import CONFIG_FILE, flatten, read_config

RECORD_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.md"


@dataclass(frozen=True)
class Run:
    """One run, as its folder tells it.

    `metrics` has one row a step, ascending, with the columns `step` (optimizer updates, int), `tokens` (input tokens so
    far, int), `time` (UTC) and one float column per metric key of `litespark.metrics.names` that was ever logged, NaN
    where it was not measured. `config` is empty and `samples` None where the run left no such file.
    """

    folder: Path
    record: RunRecord
    metrics: pd.DataFrame
    config: dict[str, Any]
    samples: str | None

    @property
    def name(self) -> str:
        return self.record.name

    def series(self, key: str) -> pd.Series:
        """The measured values of one metric key, indexed by tokens; empty when it was never measured."""
        if key not in self.metrics:
            return pd.Series([], index=pd.Index([], name="tokens", dtype="int64"), name=key, dtype="float64")
        return self.metrics.set_index("tokens")[key].dropna()


def load_run(folder: Path | str) -> Run:
    """Load one run folder.

    A last line of `metrics.jsonl` that a killed run left unfinished is ignored. Steps that were done again after a
    resume count once, as they were done last.

    Raises:
        ValueError: the folder is missing or not a run folder, or one of its files is corrupt; names file and line.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing"
        raise ValueError(f"{folder}: expected a run folder, found {found}; name a folder like logs/runs/NAME")
    if not (folder / RECORD_FILE).is_file():
        raise ValueError(
            f"{folder} is not a run folder: it holds no {RECORD_FILE}; name a folder that a training run wrote"
        )
    samples = folder / SAMPLES_FILE
    record = RunRecord.read(folder / RECORD_FILE)
    return Run(
        folder=folder,
        record=_without_impossible(record),
        metrics=_against_best_probe(_read_metrics(folder / METRICS_FILE), record),
        config=read_config(config) if (config := folder / CONFIG_FILE).is_file() else {},
        samples=samples.read_text(encoding="utf-8", errors="replace") if samples.is_file() else None,
    )


def _without_impossible(record: RunRecord) -> RunRecord:
    """The record without a share of the measured peak that cannot be true; older versions recorded it."""
    throughput = record.throughput
    most = most_of_measured_peak(record.environment.precision)
    share = possible(throughput.mfu_measured_peak, most)
    return replace(record, throughput=replace(throughput, mfu_measured_peak=share))


def _against_best_probe(metrics: pd.DataFrame, record: RunRecord) -> pd.DataFrame:
    """The rows with their shares of the measured peak by the best probe of the run; those above it have none."""
    if names.MFU_MEASURED_PEAK not in metrics:
        return metrics
    shares, best = metrics[names.MFU_MEASURED_PEAK], record.throughput.measured_peak_flops
    if names.MEASURED_PEAK_FLOPS in metrics and best is not None:
        shares = shares * metrics[names.MEASURED_PEAK_FLOPS].fillna(best) / best
    most = most_of_measured_peak(record.environment.precision)
    return metrics.assign(**{names.MFU_MEASURED_PEAK: shares.where(shares <= most)})


def find_runs(paths: Iterable[Path | str]) -> list[Path]:
    """The run folders at or anywhere below each path, in the order of the paths and then by name, each once.

    An earlier comparison among the paths is passed over, so that `logs/runs/*` works a second time.

    Raises:
        ValueError: a path does not exist or there is no run at or below it.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_file() and path.name.startswith("comparison"):
            continue
        if not path.is_dir():
            kind = "a file" if path.exists() else "nothing"
            raise ValueError(f"{path}: expected a run folder or a folder of runs, found {kind}")
        below = sorted(_run_folders(path), key=_natural)
        if not below:
            raise ValueError(
                f"{path}: no run at or below it (a run folder holds {RECORD_FILE}); "
                "train one first, or name a folder under logs"
            )
        for folder in below:
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def load_runs(paths: Iterable[Path | str]) -> list[Run]:
    """All runs at or below the paths, loaded. Raises ValueError as `find_runs` and `load_run` do."""
    return [load_run(folder) for folder in find_runs(paths)]


def labels(runs: Sequence[Run]) -> list[str]:
    """A name for each run that no other run has: its own name, with as much of its path as tells it from the others."""
    chosen = [run.name for run in runs]
    for index, run in enumerate(runs):
        twins = [other for other in runs if other.name == run.name and other is not run]
        if twins:
            parts = run.folder.resolve().parts
            depth = 1
            while depth < len(parts) and any(twin.folder.resolve().parts[-depth:] == parts[-depth:] for twin in twins):
                depth += 1
            path = "/".join(parts[-depth:])
            chosen[index] = path if run.name in path else f"{run.name} ({path})"
    return chosen


def loss_unit(runs: Sequence[Run]) -> str:
    """Of the losses of `runs`; several where they are of several tasks."""
    return ", ".join(sorted({run.record.loss_unit for run in runs}))


def compare(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run: its name, the config keys in which the runs differ, and what it reached.

    Losses are nats per supervised token, `bits_per_byte` bits, `mfu_*` fractions, `joules_per_token` train-only joules,
    `peak_memory_gib` GiB per device; None or NaN where something was not measured.

    Raises:
        ValueError: no runs are given.
    """
    if not runs:
        raise ValueError("got no runs to compare, expected at least one")
    keys = differing_keys(runs)
    configs = [flatten(run.config) for run in runs]
    rows = []
    for run, label, config in zip(runs, labels(runs), configs, strict=True):
        record = run.record
        rows.append(
            {
                "run": label,
                **{key: config.get(key) for key in keys},
                "tokens": record.throughput.tokens,
                "train_loss": record.quality.train_loss,
                "validation_loss": record.quality.validation_loss,
                "bits_per_byte": record.quality.bits_per_byte,
                "tokens_per_second": record.throughput.tokens_per_second,
                "mfu_causal": record.throughput.mfu_causal,
                "mfu_full": record.throughput.mfu_full,
                "mfu_measured_peak": record.throughput.mfu_measured_peak,
                "joules_per_token": record.energy.joules_per_token_train,
                "peak_memory_gib": record.throughput.peak_memory_gib,
                "status": record.status,
            }
        )
    table = pd.DataFrame(rows, dtype=object)  # pandas would turn seed 1 into 1.0 beside a run without one
    measured = [column for column in table.columns if column not in {"run", "tokens", "status", *keys}]
    return table.astype({"tokens": "int64", **dict.fromkeys(measured, "float64")})


def differing_keys(runs: Sequence[Run]) -> list[str]:
    """The dotted config keys whose values differ between the runs, without those that only say where a run is kept.

    Runs without a config are left out of the question.
    """
    runs = [run for run in runs if run.config]
    configs = [flatten(run.config) for run in runs]
    keys = dict.fromkeys(key for config in configs for key in config)
    chosen = []
    for key in keys:
        values = [config.get(key) for config in configs]
        differs = any(value != values[0] for value in values)
        says_where = key.split(".")[0] in {"hydra", "name", "paths", "resume"} or _names_its_run(values, runs)
        if differs and not says_where:
            chosen.append(key)
    return chosen


def _names_its_run(values: list[Any], runs: Sequence[Run]) -> bool:
    """Whether each value is its run's own name or lies in its own folder: so do names and paths, never settings."""
    return all(
        isinstance(value, str) and (value == run.name or (os.sep in value and run.folder.name in Path(value).parts))
        for value, run in zip(values, runs, strict=True)
    )


def _run_folders(path: Path) -> list[Path]:
    """Run folders at or below `path`; a run is not searched for runs inside it."""
    folders = []
    for folder, below, files in os.walk(path):
        if RECORD_FILE in files:
            folders.append(Path(folder))
            below.clear()
    return folders


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key under which run 2 comes before run 10."""
    pieces = re.split(r"(\d+)", str(path))
    return [(0, int(piece), "") if piece.isdigit() else (1, 0, piece) for piece in pieces]


def _read_metrics(path: Path) -> pd.DataFrame:
    """`metrics.jsonl` as one row a step; see `Run`."""
    by_step: dict[int, dict[str, Any]] = {}
    latest = -1
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = _parse_row(line)
        except ValueError as error:
            if number == len(lines):  # no newline after it: the run was killed while it wrote this line
                break
            raise ValueError(
                f"{path}, line {number}: {error}; remove the line, or restore the file that the run wrote"
            ) from error
        step = row["step"]
        if step < latest:  # resumed from an earlier checkpoint: what follows replaces the steps that were lost
            by_step = {kept: values for kept, values in by_step.items() if kept < step}
        latest = step
        by_step[step] = by_step.get(step, {}) | {key: value for key, value in row.items() if value is not None}
    table = pd.DataFrame([by_step[step] for step in sorted(by_step)])
    for column in ("step", "tokens", "time"):
        if column not in table:
            table[column] = None
    keys = sorted(set(table.columns) - {"step", "tokens", "time"})
    try:
        table["time"] = pd.to_datetime(table["time"], utc=True, format="ISO8601")
    except ValueError as error:  # a year that pandas has no room for
        raise ValueError(f"{path}: {error}; restore the file that the run wrote") from error
    types = {"step": "int64", "tokens": "int64", **dict.fromkeys(keys, "float64")}
    return table[["step", "tokens", "time", *keys]].astype(types)


def _parse_row(line: bytes) -> dict[str, Any]:
    """One line of metrics, its token count under `tokens`; a ValueError says what is wrong with it."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"got {constant}, which is not JSON")

    try:
        row = json.loads(line.decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:  # JSON and UTF-8 errors alike
        raise ValueError(f"not a JSON object ({error})") from error
    if not isinstance(row, dict):
        raise ValueError(f"got {type(row).__name__}, expected a JSON object")
    row.pop(names.PROGRESS_STEP, None)  # the step again
    row.setdefault("tokens", row.pop(names.PROGRESS_TOKENS, None))
    for key in ("step", "tokens"):
        if type(row.get(key)) is not int or not 0 <= row[key] < 2**63:
            raise ValueError(f"{key}: got {row.get(key)!r}, expected a whole number from 0 to {2**63 - 1}")
    for key, value in row.items():
        if key == "time":
            if not isinstance(value, str) or not _is_time(value):
                raise ValueError(f"time: got {value!r}, expected an ISO 8601 time")
        elif value is not None and not _is_number(value):
            raise ValueError(f"{key}: got {value!r}, expected a number or null")
    return row


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) < 2**63


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
