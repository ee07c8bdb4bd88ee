"""The page of results, from the records alone: GPUs first, and of the same measurement the newest complete record."""

from collections.abc import Callable, Iterable
from itertools import groupby
from pathlib import Path
from typing import Any

from litespark.metrics.records.index import Entry, read_index
from litespark.metrics.records.training import TrainingRecord
from litespark.reports import (
    ablation,
    data,
    family_traffic,
    fp8,
    lifecycle,
    op_speeds,
    profile,
    step,
    tasks,
    traffic,
    training,
)
from litespark.reports.page import render
from litespark.reports.quantities import rate
from litespark.reports.step_rows import rows
from litespark.reports.table import markdown
from litespark.reports.tables import shared_by
from litespark.run.record import RunRecord


def page(results: Path) -> str:
    """All records in a folder of results, as Markdown; a ValueError names each that is refused."""
    entries, refused = read_index(results)
    if refused:
        raise ValueError("\n".join(refused))
    devices = [
        {
            "folder": of_device[0].path.parent.name,
            "on_cpu": of_device[0].record.environment.on_cpu,
            "counted": of_device[0].kind in COUNTED,
            "environment": max(of_device, key=_age).record.environment,
            "kinds": {
                _KINDS[of_kind[0].kind][0]: [_benchmark(same) for same in _grouped(of_kind, _measured)]
                for of_kind in _grouped(of_device, lambda entry: (list(_KINDS).index(entry.kind),))
            },
        }
        for of_device in _grouped(entries, lambda entry: (entry.record.environment.on_cpu, entry.path.parent.name))
    ]
    return render("results", devices=devices)


def _benchmark(entries: list[Entry]) -> dict[str, Any]:
    newest = max(entries, key=lambda entry: (entry.record.complete, *_age(entry)))
    others = sorted((entry for entry in entries if entry is not newest), key=_age, reverse=True)
    return {
        "newest": newest,
        "body": _KINDS[newest.kind][1](newest.record),
        "others": [(entry, _speeds(entry) if entry.kind == "step" else "") for entry in others],
    }


def _speeds(entry: Entry) -> str:
    speeds = {row.name: row.repeats.median("tokens_per_second") for row in rows(entry.record).values()}
    return ", ".join(f"{name} {rate(speed)}" for name, speed in speeds.items() if speed)


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], tuple[object, ...]]) -> list[list[Entry]]:
    return [list(group) for _, group in groupby(sorted(entries, key=key), key)]


def _measured(entry: Entry) -> tuple[str, ...]:
    return entry.what, entry.model, entry.precision, str(entry.record.asked())


def _age(entry: Entry) -> tuple[str, str]:
    return entry.origin.time, entry.path.name


def _run(record: RunRecord) -> str:
    sentence = fp8.in_a_sentence(record.fp8) if record.fp8 is not None else ""
    return render("run_in_results", record=record, shared=shared_by(record), fp8=sentence)


def _training(record: TrainingRecord) -> str:
    overrides = [f"`{word}`" for word in record.provenance.overrides if not word.startswith("paths.")]
    return f"Settings: {' '.join(overrides) or 'none'}.\n\n{markdown(training.tables(record))}"


COUNTED = ("traffic", "families")  # on no device
# kind of record -> the title of its section, and what is shown of one
_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "step": ("Training step", lambda record: markdown(step.tables(record))),
    "ablation": ("What bought what", lambda record: ablation.of_record(record).markdown()),
    "traffic": ("What a step moves", lambda record: markdown(traffic.tables(record))),
    "families": ("What a layer of each family moves", lambda record: family_traffic.table(record).markdown()),
    "profile": ("Where the time goes", lambda record: profile.table(record).markdown()),
    "training": ("Quality, and what it takes", _training),
    "tasks": ("Post-training beside TRL", lambda record: markdown(tasks.tables(record))),
    "lifecycle": ("The life of a model", lambda record: markdown(lifecycle.tables(record))),
    "ops": ("Ops", lambda record: markdown(op_speeds.tables(record))),
    "data": ("Preparing and reading data", lambda record: markdown(data.tables(record))),
    "run": ("Runs", _run),
}
