"""`litespark bench parity` for a reader: the loss beside the speed, as a table and as curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from litespark.analysis.curves import DOTS_PER_INCH, curves
from litespark.analysis.quantities import ABSENT, joules, percent, plain, scaled
from litespark.analysis.tables import markdown_table
from litespark.analysis.text_blocks import aligned, bulleted
from litespark.metrics.parity_table import ParityRow, rows
from litespark.metrics.records.parity import ParityRecord
from litespark.metrics.step_round import Interval

HEADER = ("variant", "bits/byte", "difference", "largest of late ones", "within", "tokens/s", "time × first",
          "train energy", "energy × first")  # fmt: skip


def text(record: ParityRecord) -> str:
    """The table with columns for the terminal, and what a reader must know."""
    return "\n".join([_title(record), "", *aligned([HEADER, *_rows(record)], text_columns=None), "", *_notes(record)])


def markdown(record: ParityRecord) -> str:
    """The same for a report."""
    return "\n\n".join([_title(record), markdown_table(HEADER, _rows(record)), bulleted(_notes(record))])


def all_within(record: ParityRecord) -> bool:
    """Whether every variant learns as well as the first, with every seed."""
    return all(row.within for row in rows(record))


def picture(record: ParityRecord, path: Path) -> None:
    """Draw the curves into a file."""
    figure(record).savefig(path, dpi=DOTS_PER_INCH)


def figure(record: ParityRecord) -> Figure:
    """The curves of all runs."""
    return curves(record.variants, _title(record))


def difference_text(row: ParityRow) -> str:
    """The relative difference of a variant's bits per byte, with the range over seeds."""
    return _interval(row.difference, lambda value: f"{value:+.3%}")


def _rows(record: ParityRecord) -> list[tuple[str, ...]]:
    return [_cells(row, first=number == 0) for number, row in enumerate(rows(record))]


def _cells(row: ParityRow, *, first: bool) -> tuple[str, ...]:
    simulated = " (simulated)" if row.simulated else ""
    return (
        row.name,
        plain(row.bits_per_byte.median) if row.bits_per_byte else ABSENT,
        "-" if first else difference_text(row),
        "-" if first else _signed(row.worst_difference),
        "-" if first else {True: "yes", False: "NO", None: ABSENT}[row.within],
        f"{scaled(row.tokens_per_second.median)}{simulated}" if row.tokens_per_second else ABSENT,
        "-" if first else _interval(row.seconds_ratio, lambda value: f"{value:.3f}"),
        joules(row.joules.median) if row.joules else ABSENT,
        "-" if first else _interval(row.joules_ratio, lambda value: f"{value:.3f}"),
    )


def _signed(value: float | None) -> str:
    return ABSENT if value is None else f"{value:+.3%}"


def _interval(found: Interval | None, written: Callable[[float], str]) -> str:
    if found is None:
        return ABSENT
    around = "" if found.count == 1 else f" ({written(found.low)} to {written(found.high)})"
    return f"{written(found.median)}{around}"


def _title(record: ParityRecord) -> str:
    stream = record.stream
    device = ", ".join(each.name for each in record.provenance.environment.devices)
    state = "" if record.complete else ", NOT complete"
    return (
        f"Parity over {scaled(stream.budget_tokens)} equal tokens: {record.model.name} "
        f"({scaled(record.model.parameters)} parameters), {stream.name}, {stream.batch_rows} rows of "
        f"{stream.sequence_length} tokens a step, {device}{state}"
    )


def _notes(record: ParityRecord) -> list[str]:
    table = rows(record)
    notes = [
        f"difference: of validation bits per byte at the end, over {table[0].name} with the same seed, below 0 is "
        f"better; within: at most {percent(record.bound)} above with every seed ({', '.join(map(str, record.seeds))}). "
        "Late ones: validations in the second half. Time and energy are of training steps only.",
    ]
    notes += [f"{row.name}: {' '.join(row.settings) or 'the config as it is'}" for row in table]
    if simulated := [row.name for row in table if row.simulated]:
        notes.append(
            f"{', '.join(simulated)}: products are rounded as in fp8 and computed in a wider dtype: the loss is that "
            "of fp8, the time and the energy are not"
        )
    notes += [f"{row.name}: layers left their recipe or came back {row.moves} times" for row in table if row.moves]
    notes += [f"{row.name} FAILED: {row.error}" for row in table if row.error is not None]
    reasons = dict.fromkeys(row.joules_reason for row in table if row.joules_reason is not None)
    return notes + [f"no joules: {reason}" for reason in reasons]
