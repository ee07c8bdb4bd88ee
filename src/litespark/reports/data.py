"""`litespark bench data` for a reader: preparing beside the bare tokenizer, streaming beside LitData."""

from itertools import product

from litespark.metrics.records.data import ENCODE, LITDATA, OURS, PREPARE, DataRecord
from litespark.reports.quantities import duration, plain, rate, scaled, short
from litespark.reports.repeats import interval, median
from litespark.reports.table import Column, Table, texts

_NAMES = {ENCODE: "bare tokenizer", PREPARE: "litespark prepare"}


def tables(record: DataRecord) -> list[Table]:
    return [_preparation(record), _streaming(record)]


def _preparation(record: DataRecord) -> Table:
    rows = []
    for cores, (variant, name) in product(sorted({1, record.cores}), _NAMES.items()):
        if runs := record.prepared(variant, cores):
            speed = median(run.tokens / run.seconds for run in runs)
            size = median(record.text_bytes / 1e6 / run.seconds for run in runs)
            rows.append((name, cores, speed, size, interval(record.shares(cores) if variant == PREPARE else [])))
    state = "" if record.complete else ", NOT complete"
    about = (
        f"{record.source}: {scaled(record.text_bytes, 'B')} of text in {record.documents:,} documents, vocabulary "
        f"{record.vocab_size:,}, {record.environment.cpu}, {record.cores} cores, {record.rounds} rounds{state}"
    )
    note = (
        "medians of the rounds; a ratio is taken within a round. The bare tokenizer gets texts that are in memory; "
        "preparation reads, parses, counts and writes as well."
    )
    columns = [
        *texts("preparation"),
        Column("cores"),
        Column("tokens/s", rate),
        Column("MB/s", plain),
        Column("speed over the tokenizer's", short),
    ]
    return Table(columns, rows, about=[about], notes=[note])


def _streaming(record: DataRecord) -> Table:
    rows = []
    workers_of_runs = sorted({run.workers for run in record.streaming})
    for reader, workers, shuffle in product((OURS, LITDATA), workers_of_runs, (True, False)):
        if runs := record.streamed(reader, workers, shuffle=shuffle):
            ratios = record.stream_ratios(workers, shuffle=shuffle) if reader == OURS else []
            rows.append(
                (
                    reader,
                    str(workers) if workers else "in process",
                    "yes" if shuffle else "no",
                    median(run.tokens_per_second for run in runs),
                    interval(ratios),
                    median(run.first_batch_seconds for run in runs),
                )
            )
    pinned = ", copied to page-locked memory" if record.pinned else ""
    note = (
        f"streams: batches of {record.micro_batch_size} sequences of {record.seq_len} tokens{pinned}, documents "
        f"marked by litespark and not by LitData {record.litdata}, on the same chunks."
    )
    columns = [
        *texts("streaming", "workers", "shuffled"),
        Column("tokens/s", rate),
        Column("over LitData", short),
        Column("first batch", duration),
    ]
    return Table(columns, rows, notes=[note])
