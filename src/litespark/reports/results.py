"""The page of results: what was measured, device by device, from the records alone.

GPUs come first. Of each benchmark, model and precision the newest complete record is shown in full, and every other
one in a line of the history; nothing is chosen by hand. The same records always give the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from litespark.metrics.records.ablation import AblationRecord
from litespark.metrics.records.index import Entry, read_index
from litespark.metrics.records.profile import ProfileRecord
from litespark.metrics.records.training import TrainingRecord
from litespark.reports import ablation, data, fp8, op_speeds, profile, step, training
from litespark.reports.page import render
from litespark.reports.quantities import percent, plain, rate
from litespark.reports.step_rows import Row, rows
from litespark.reports.table import Column, Table, markdown, texts
from litespark.reports.tables import shared_by
from litespark.run.record import RunRecord

ON_CPU = "CPU: shows that the instrument works, not what the product is worth."
_TITLES = {
    "step": "Training step",
    "ablation": "What bought what",
    "profile": "Where the time goes",
    "training": "Quality, and what it takes",
    "ops": "Ops",
    "data": "Preparing and reading data",
    "run": "Runs",
}
_COMMIT_DIGITS = 7


def page(results: Path) -> str:
    """All records in a folder of results, as Markdown.

    Raises:
        ValueError: a record is refused; the message names each.
    """
    entries, refused = read_index(results)
    if refused:
        raise ValueError("\n".join(refused))
    devices = [
        {
            "folder": of_device[0].path.parent.name,
            "on_cpu": of_device[0].record.environment.on_cpu,
            "environment": max(of_device, key=_age).record.environment,
            "kinds": {
                _TITLES[of_kind[0].kind]: [
                    _Benchmark(same, results) for same in _grouped(of_kind, _measured)
                ]
                for of_kind in _grouped(of_device, lambda entry: (list(_TITLES).index(entry.kind),))
            },
        }
        for of_device in _grouped(entries, lambda entry: (entry.record.environment.on_cpu, entry.path.parent.name))
    ]  # fmt: skip
    all_on_cpu = all(entry.record.environment.on_cpu for entry in entries)
    return render("results", devices=devices, all_on_cpu=all_on_cpu, on_cpu=ON_CPU, origin=origin, plain=plain)


class _Benchmark:
    """Records of the same measurement: the newest complete one (without any the newest), and all, newest first."""

    def __init__(self, entries: Sequence[Entry], results: Path) -> None:
        self.entries = sorted(entries, key=_age, reverse=True)
        self.newest = max(self.entries, key=lambda entry: (entry.record.complete, *_age(entry)))
        self.results = results

    def link(self, entry: Entry, words: str | None = None) -> str:
        """A Markdown link to a record's file, relative to the folder of results."""
        words = words or f"{entry.what} {entry.model} {entry.precision}"
        return f"[{words}]({entry.path.relative_to(self.results).as_posix()})"

    @property
    def body(self) -> str:
        """The newest record."""
        return _BODIES[self.newest.kind](self.newest.record)

    @property
    def others(self) -> list[Entry]:
        """All but the newest."""
        return [entry for entry in self.entries if entry is not self.newest]

    @property
    def best(self) -> Table | None:
        """Of several records of steps the best row of each variant."""
        if self.newest.kind != "step" or not self.others:
            return None
        best: dict[str, tuple[Row, Entry]] = {}
        for entry in self.entries:
            for row in rows(entry.record).values():
                if _speed(row) and not row.doubts and (row.name not in best or _speed(row) > _speed(best[row.name][0])):
                    best[row.name] = row, entry
        cells = [
            (name, _speed(row), row.repeats.median("joules_per_token"), self.link(entry, origin(entry)))
            for name, (row, entry) in sorted(best.items())
        ]  # fmt: skip
        columns = [*texts("variant"), Column("tokens/s", rate), Column("J/token", plain, "not measured"),
                   *texts("record")]  # fmt: skip
        return Table(columns, cells)

    def in_a_line(self, entry: Entry) -> str:
        """A record of the history: its day, and of steps also its origin and speeds."""
        day = self.link(entry, entry.origin.time[:10])
        if entry.kind != "step":
            return day
        speeds = ", ".join(f"{row.name} {rate(_speed(row))}" for row in rows(entry.record).values() if _speed(row))
        return f"{day}, {origin(entry)}: tokens/s {speeds}"


def origin(entry: Entry) -> str:
    """Day, commit, and what a reader must know before the figures."""
    commit = "no commit" if entry.origin.git_commit is None else f"commit {entry.origin.git_commit[:_COMMIT_DIGITS]}"
    changed = " with changes" if entry.origin.git_dirty else ""
    return f"{entry.origin.time[:10]}, {commit}{changed}" + ("" if entry.record.complete else ", NOT complete")


def _grouped(entries: Iterable[Entry], key: Callable[[Entry], tuple[object, ...]]) -> list[list[Entry]]:
    return [list(group) for _, group in groupby(sorted(entries, key=key), key)]


def _measured(entry: Entry) -> tuple[object, ...]:
    """What makes two records measurements of the same thing."""
    record, compared = entry.record, ""
    shape: tuple[object, ...] = ()
    if (protocol := getattr(record, "protocol", None)) is not None:
        shape = (protocol.micro_batch_size, protocol.accumulate, protocol.seq_len, protocol.document_mask,
                 record.model.num_layers, protocol.data)  # fmt: skip
    # the switches of an ablation, the variant of a profile, what is trained how far
    if isinstance(record, AblationRecord):
        compared = ", ".join(record.names)
    elif isinstance(record, ProfileRecord):
        compared = record.variant
    elif isinstance(record, TrainingRecord):
        names = ", ".join(variant.name for variant in record.variants)
        compared = f"{names} {record.stream.budget_tokens} {record.target_bits_per_byte}"
    return (entry.what, entry.model, entry.precision, *map(str, shape), compared)


def _age(entry: Entry) -> tuple[str, str]:
    return entry.origin.time, entry.path.name


def _speed(row: Row) -> float:
    return row.tokens_per_second.median if row.tokens_per_second else 0.0


def _run(record: RunRecord) -> str:
    speed, energy, quality = record.throughput, record.energy, record.quality
    joules = energy.joules_per_token_train
    reason = f" ({energy.reason})" if joules is None and energy.reason else ""
    used = f"MFU (C) {percent(speed.mfu_causal)}"
    if speed.mfu_causal is None:
        used = f"MFU of the measured peak {percent(speed.mfu_measured_peak)}"
    sentences = [
        f"{record.status.capitalize()} after {rate(speed.tokens)} tokens: validation loss "
        f"{plain(quality.validation_loss)} {record.loss_unit}, {plain(quality.bits_per_byte)} bits per byte; "
        f"{rate(speed.tokens_per_second)} tokens/s, {used}; energy {plain(joules, 'J/token')}{reason}."
    ]
    if shared := shared_by(record):
        sentences.append(f"{shared}.")
    if record.fp8 is not None:
        sentences.append(fp8.in_a_sentence(record.fp8))
    return " ".join(sentences)


def _training(record: TrainingRecord) -> str:
    overrides = [f"`{word}`" for word in record.provenance.overrides if not word.startswith("paths.")]
    return f"Settings: {' '.join(overrides) or 'none'}.\n\n{markdown(training.tables(record))}"


_BODIES: dict[str, Callable[[Any], str]] = {
    "run": _run,
    "training": _training,
    "ops": lambda record: markdown(op_speeds.tables(record)),
    "profile": lambda record: profile.table(record).markdown(),
    "step": lambda record: markdown(step.tables(record)),
    "ablation": lambda record: ablation.of_record(record).markdown(),
    "data": lambda record: markdown(data.tables(record)),
}
