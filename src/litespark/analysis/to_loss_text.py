"""`litespark bench to-loss` for a reader: a table for the terminal and for reports, and the curves as a picture."""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

from litespark.analysis.curves import DOTS_PER_INCH, curves
from litespark.analysis.quantities import ABSENT, duration, joules, plain, scaled
from litespark.analysis.tables import markdown_table
from litespark.analysis.text_blocks import aligned, bulleted
from litespark.metrics.records.to_loss import ToLossRecord
from litespark.metrics.step_round import Interval
from litespark.metrics.to_loss_table import ToLossRow, rows

HEADER = ("variant", "reached", "train time", "× ref", "tokens", "× ref", "train energy", "× ref", "final bits/byte")
NOT_REACHED = "not reached"


def text(record: ToLossRecord) -> str:
    """The table with columns for the terminal, and what a reader must know."""
    cells = [HEADER, *(_cells(row) for row in rows(record))]
    return "\n".join([_title(record), "", *aligned(cells, text_columns=None), "", *_notes(record)])


def markdown(record: ToLossRecord) -> str:
    """The same for a report."""
    table = markdown_table(HEADER, [_cells(row) for row in rows(record)])
    return "\n\n".join([_title(record), table, bulleted(_notes(record))])


def picture(record: ToLossRecord, path: Path) -> None:
    """Draw the curves into a file."""
    figure(record).savefig(path, dpi=DOTS_PER_INCH)


def figure(record: ToLossRecord) -> Figure:
    """The curves of all runs; the dashed line is the target."""
    return curves(record.variants, _title(record), line=record.target_bits_per_byte)


def _title(record: ToLossRecord) -> str:
    stream = record.stream
    device = ", ".join(each.name for each in record.provenance.environment.devices)
    state = "" if record.complete else ", NOT complete"
    return (
        f"To {record.target_bits_per_byte:g} validation bits per byte: {record.model.name} "
        f"({scaled(record.model.parameters)} parameters), {stream.name}, {stream.batch_rows} rows of "
        f"{stream.sequence_length} tokens a step, {record.precision}, {device}{state}"
    )


def _cells(row: ToLossRow) -> tuple[str, ...]:
    counted = f"{row.reached} of {row.runs}" if row.runs else "no run"
    absent = NOT_REACHED if row.runs else ABSENT
    energy = joules(row.joules.median) if row.joules else (absent if not row.reached else ABSENT)
    return (
        row.name,
        counted,
        duration(row.seconds.median) if row.seconds else absent,
        _ratio(row.seconds_ratio),
        scaled(row.tokens.median) if row.tokens else absent,
        _ratio(row.tokens_ratio),
        energy,
        _ratio(row.joules_ratio),
        plain(row.final_bits_per_byte.median) if row.final_bits_per_byte else absent,
    )


def _ratio(found: Interval | None) -> str:
    if found is None:
        return "-"
    around = "" if found.count == 1 else f" ({found.low:.3f} to {found.high:.3f})"
    return f"{found.median:.3f}{around}"


def _notes(record: ToLossRecord) -> list[str]:
    stream, table = record.stream, rows(record)
    every = stream.validate_every * stream.batch_rows * stream.sequence_length
    seeds = ", ".join(map(str, record.seeds))
    notes = [
        f"× ref: over {table[0].name} with the same seed, below 1 is less; medians over seeds {seeds}. "
        f"Validation every {every:,} tokens: figures to the target are that coarse. Time and energy are of training "
        "steps only, the first ones with their compilation included.",
        f"A schedule spans the budget of {stream.budget_tokens:,} tokens, wherever the target ends it.",
    ]
    notes += [f"{row.name}: {' '.join(row.settings) or 'the config as it is'}" for row in table]
    notes += [f"{row.name} NOT reached, {missed}" for row in table for missed in row.missed]
    notes += [f"{row.name} FAILED: {row.error}" for row in table if row.error is not None]
    reasons = dict.fromkeys(row.joules_reason for row in table if row.joules_reason is not None)
    notes += [f"no joules: {reason}" for reason in reasons]
    stopped = [
        f"{variant.name} with seed {run.seed} in {run.processes}"
        for variant in record.variants
        for run in variant.runs
        if run.processes > 1
    ]
    if stopped:
        notes.append(f"stopped and continued, warm-up included each time: {', '.join(stopped)} processes")
    return notes
