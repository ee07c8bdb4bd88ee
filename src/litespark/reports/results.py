"""The page of results: what was measured, device by device, from the records alone.

GPUs come first. Of each benchmark, model and precision the newest complete record is shown in full, and every other
one in a line of the history; nothing is chosen by hand. The same records always give the same text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from litespark.reports.step_rows import rows
from litespark.reports.table import markdown
from litespark.reports.tables import shared_by
from litespark.run.record import RunRecord


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
                _KINDS[of_kind[0].kind][0]: [_benchmark(same) for same in _grouped(of_kind, _measured)]
                for of_kind in _grouped(of_device, lambda entry: (list(_KINDS).index(entry.kind),))
            },
        }
        for of_device in _grouped(entries, lambda entry: (entry.record.environment.on_cpu, entry.path.parent.name))
    ]
    return render("results", devices=devices)


def _benchmark(entries: list[Entry]) -> dict[str, Any]:
    """Records of the same measurement: the newest complete one (without any the newest), and the others."""
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


def _run(record: RunRecord) -> str:
    speed, energy, quality = record.throughput, record.energy, record.quality
    joules = energy.joules_per_token_train
    reason = f" ({energy.reason})" if joules is None and energy.reason else ""
    used = f"MFU (C) {percent(speed.mfu_causal)}"
    if speed.mfu_causal is None:
        used = f"MFU of the measured peak {percent(speed.mfu_measured_peak)}"
    shared = shared_by(record)
    sentences = [
        f"{record.status.capitalize()} after {rate(speed.tokens)} tokens: validation loss "
        f"{plain(quality.validation_loss)} {record.loss_unit}, {plain(quality.bits_per_byte)} bits per byte; "
        f"{rate(speed.tokens_per_second)} tokens/s, {used}; energy {plain(joules, 'J/token')}{reason}.",
        *([f"{shared}."] if shared else []),
        *([fp8.in_a_sentence(record.fp8)] if record.fp8 is not None else []),
    ]
    return " ".join(sentences)


def _training(record: TrainingRecord) -> str:
    overrides = [f"`{word}`" for word in record.provenance.overrides if not word.startswith("paths.")]
    return f"Settings: {' '.join(overrides) or 'none'}.\n\n{markdown(training.tables(record))}"


# kind of record -> the title of its section, and what is shown of one
_KINDS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "step": ("Training step", lambda record: markdown(step.tables(record))),
    "ablation": ("What bought what", lambda record: ablation.of_record(record).markdown()),
    "profile": ("Where the time goes", lambda record: profile.table(record).markdown()),
    "training": ("Quality, and what it takes", _training),
    "ops": ("Ops", lambda record: markdown(op_speeds.tables(record))),
    "data": ("Preparing and reading data", lambda record: markdown(data.tables(record))),
    "run": ("Runs", _run),
}
