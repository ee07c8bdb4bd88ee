"""`litespark bench selection` for a reader: what selection gains and saves, and what it left out of each kind."""

from __future__ import annotations

from litespark.analysis.quantities import ABSENT, count, duration, percent, plain, scaled
from litespark.analysis.tables import markdown_table
from litespark.analysis.text_blocks import aligned, bulleted
from litespark.metrics.records.selection import SelectionRecord
from litespark.metrics.selection_table import KindRow, SelectionRow, kind_rows, rows
from litespark.metrics.step_round import Interval

HEADER = ("variant", "documents", "tokens", "epochs", "bits/byte", "difference", "tokens to equal", "energy to equal",
          "preparation")  # fmt: skip
KIND_HEADER = ("kind", "documents", "bytes", "left out", "of its bytes", "by")
_MOST_RULES = 3


def text(record: SelectionRecord) -> str:
    """The tables with columns for the terminal, and what a reader must know."""
    parts = [_title(record), "", *aligned([HEADER, *_rows(record)], text_columns=None)]
    for variant in record.variants[1:]:
        cells = [_kind_cells(row) for row in kind_rows(record, variant)]
        parts += ["", f"{variant.name}: dropped documents", "", *aligned([KIND_HEADER, *cells], text_columns=None)]
    return "\n".join([*parts, "", *_notes(record)])


def markdown(record: SelectionRecord) -> str:
    """The same for a report."""
    parts = [_title(record), markdown_table(HEADER, _rows(record))]
    for variant in record.variants[1:]:
        cells = [_kind_cells(row) for row in kind_rows(record, variant)]
        parts += [f"{variant.name}: dropped documents", markdown_table(KIND_HEADER, cells)]
    return "\n\n".join([*parts, bulleted(_notes(record))])


def _rows(record: SelectionRecord) -> list[tuple[str, ...]]:
    return [_cells(row, first=number == 0) for number, row in enumerate(rows(record))]


def _title(record: SelectionRecord) -> str:
    model = record.model
    device = ", ".join(each.name for each in record.provenance.environment.devices)
    state = "" if record.complete else ", NOT complete"
    return (
        f"Selection: {model.name} ({scaled(model.parameters)} parameters) on {scaled(model.budget_tokens)} tokens of "
        f"{record.corpus.source} with planted junk and copies, {record.precision}, {device}{state}"
    )


def _cells(row: SelectionRow, *, first: bool) -> tuple[str, ...]:
    bits = ABSENT if row.bits_per_byte is None else plain(row.bits_per_byte.median)
    return (
        row.name,
        count(row.train_documents),
        scaled(row.train_tokens),
        f"{row.epochs:.2f}",
        bits,
        "-" if first else _interval(row.difference, "+.4f"),
        "-" if first else _to_equal(row, row.tokens_ratio),
        "-" if first else _to_equal(row, row.joules_ratio),
        "found" if row.prepare_seconds is None else duration(row.prepare_seconds),
    )


def _to_equal(row: SelectionRow, ratio: Interval | None) -> str:
    if row.equal_reason is not None:
        return row.equal_reason
    # seeds that never got there have no ratio, and would be forgotten
    some = f", {row.equal} of {row.compared} runs" if row.equal < row.compared else ""
    return ABSENT if ratio is None else f"× {_interval(ratio, '.3f')}{some}"


def _interval(found: Interval | None, digits: str) -> str:
    if found is None:
        return ABSENT
    around = "" if found.count == 1 else f" ({found.low:{digits}} to {found.high:{digits}})"
    return f"{found.median:{digits}}{around}"


def _kind_cells(row: KindRow) -> tuple[str, ...]:
    rules = ", ".join(f"{rule} {documents:,}" for rule, documents in row.rules[:_MOST_RULES])
    more = ", …" if len(row.rules) > _MOST_RULES else ""
    return (
        row.kind,
        count(row.documents),
        scaled(row.bytes, "B"),
        percent(row.documents_share),
        percent(row.bytes_share),
        f"{rules}{more}" or "-",
    )


def _seeds(record: SelectionRecord) -> str:
    """The seeds that figures are of, by variant where some are missing."""
    if not any(True for _ in record.missing()):
        return f"seeds {', '.join(map(str, record.seeds))}"
    there = "; ".join(
        f"{each.name} {', '.join(str(seed) for seed in record.seeds if each.run(seed)) or 'none'}"
        for each in record.variants
    )
    return f"the seeds that are there, of {', '.join(map(str, record.seeds))} ({there})"


def _notes(record: SelectionRecord) -> list[str]:
    model, corpus, table = record.model, record.corpus, rows(record)
    every = model.validate_every * model.batch_rows * model.sequence_length
    notes = [
        f"bits/byte on {corpus.validation_documents:,} clean documents ({scaled(corpus.validation_bytes, 'B')}) that "
        f"are held out and never selected; medians over {_seeds(record)}; differences to {table[0].name} seed by seed, "
        "below 0 is better.",
        f"To equal: tokens and train energy until a validation is as good as {table[0].name} at its end, over what "
        f"that took; validation every {every:,} tokens: figures are that coarse. The schedule spans the whole budget, "
        "so the learning rate is higher there than at the end.",
        "One tokenizer, trained on everything, for all variants. Preparation is not in the energy.",
    ]
    notes += [f"{row.name}: {' '.join(row.settings)}" for row in table]
    missed = [
        f"{row.name}: {row.equal} of {row.compared} runs got as good" for row in table if row.equal < row.compared
    ]
    notes += missed + [f"{row.name} FAILED: {row.error}" for row in table if row.error is not None]
    reasons = dict.fromkeys(row.joules_reason for row in table if row.joules_reason is not None)
    return notes + [f"no joules: {reason}" for reason in reasons]
