"""`litespark bench data` for a reader: two tables, and what was asked of them."""

from __future__ import annotations

from collections.abc import Sequence

from litespark.metrics.records.data import (
    ENCODE,
    FLAT,
    LITDATA,
    LITGPT,
    LITGPT_GOAL,
    OURS,
    OURS_DOMAINS,
    PREPARE,
    SHARE_GOAL,
    STREAM_GOAL,
    DataRecord,
    median,
)
from litespark.reports.quantities import ABSENT, duration, percent, plain, rate, scaled
from litespark.reports.tables import markdown_table
from litespark.reports.text_blocks import aligned, bulleted

PREPARATION = ("preparation", "cores", "tokens/s", "MB/s", "processor time", "peak memory")
STREAMING = ("streaming", "workers", "shuffled", "tokens/s", "first batch")
_NAMES = {ENCODE: "bare tokenizer", PREPARE: "litespark prepare", LITGPT: "litgpt"}


def text(record: DataRecord) -> str:
    """The tables with columns for the terminal, and what a reader must know."""
    parts = [_title(record), _table(PREPARATION, preparation_cells(record))]
    parts += [_table(STREAMING, streaming_cells(record)), "\n".join([*goals(record), *_notes(record)])]
    return "\n\n".join(parts)


def markdown(record: DataRecord) -> str:
    """The same for a report."""
    parts = [_title(record), markdown_table(PREPARATION, preparation_cells(record))]
    parts.append(markdown_table(STREAMING, streaming_cells(record)))
    return "\n\n".join([*parts, bulleted([*goals(record), *_notes(record)])])


def preparation_cells(record: DataRecord) -> list[tuple[str, ...]]:
    """One row a variant and number of cores: medians of the rounds; the peak is the largest of them."""
    found: list[tuple[str, ...]] = []
    for cores in sorted({1, record.cores}):
        for variant in (ENCODE, PREPARE, LITGPT):
            if runs := record.prepared(variant, cores):
                seconds = median([run.seconds for run in runs])
                assert seconds is not None
                size = record.corpus.training_bytes if variant == LITGPT else record.corpus.text_bytes
                found.append(
                    (
                        _NAMES[variant],
                        str(cores),
                        rate(median([run.tokens / run.seconds for run in runs])),
                        plain(size / 1e6 / seconds),
                        duration(median([run.cpu_seconds for run in runs])),
                        scaled(float(max(run.peak_bytes for run in runs)), "B"),
                    )
                )
    return found


def streaming_cells(record: DataRecord) -> list[tuple[str, ...]]:
    """One row a reader, number of workers and order: medians of the rounds."""
    found: list[tuple[str, ...]] = []
    for reader in (OURS, OURS_DOMAINS, LITDATA):
        for workers in sorted({run.workers for run in record.streaming}):
            for shuffle in (True, False):
                if runs := record.streamed(reader, workers, shuffle=shuffle):
                    found.append(
                        (
                            reader,
                            str(workers) if workers else "in process",
                            "yes" if shuffle else "no",
                            rate(median([run.tokens_per_second for run in runs])),
                            duration(median([run.first_batch_seconds for run in runs])),
                        )
                    )
    return found


def goals(record: DataRecord) -> list[str]:
    """A line a goal, with the range over the rounds."""
    lines = [
        f"share of the bare tokenizer on {cores} {'core' if cores == 1 else 'cores'}: "
        + _against(record.shares(cores), SHARE_GOAL)
        + f"; of processor time {_middle(record.shares(cores, of_cpu=True))}"
        for cores in sorted({1, record.cores})
    ]
    if record.litgpt is not None:
        lines.append(f"over litgpt {record.litgpt}: " + _against(record.litgpt_ratios(), LITGPT_GOAL))
    else:
        lines.append(f"over litgpt: {ABSENT} ({record.litgpt_reason})")
    ratio = record.memory_ratio()
    if ratio is None:
        lines.append(f"memory: {ABSENT}")
    else:
        peaks = " and ".join(scaled(float(run.peak_bytes), "B") for run in record.memory)
        lines.append(
            f"peak memory of a process with {' and '.join(f'{run.factor}' for run in record.memory)} times the text: "
            f"{peaks}, ratio {plain(ratio, digits=3)}; goal at most {FLAT}: {'met' if ratio <= FLAT else 'NOT met'}"
        )
    through = [run.tokens_per_second for run in record.streamed(OURS, 2)]
    speed = median(through)
    verdict = ABSENT if speed is None else ("met" if speed >= STREAM_GOAL else "NOT met")
    lines.append(
        f"tokens/s through 2 workers: {rate(speed)}; goal at least {scaled(STREAM_GOAL)}: {verdict}"
        + (f" ({rate(min(through))} to {rate(max(through))})" if len(through) > 1 else "")
    )
    costs = record.shuffle_costs()
    lines.append(f"cost of shuffling in process: {percent(median(costs))} of the rate")
    return lines


def _against(ratios: Sequence[float], goal: float) -> str:
    middle = median(list(ratios))
    if middle is None:
        return ABSENT
    return f"{_middle(ratios)}; goal at least {goal}: {'met' if middle >= goal else 'NOT met'}"


def _middle(ratios: Sequence[float]) -> str:
    middle = median(list(ratios))
    around = f" ({plain(min(ratios), digits=3)} to {plain(max(ratios), digits=3)})" if len(ratios) > 1 else ""
    return plain(middle, digits=3) + around


def _title(record: DataRecord) -> str:
    corpus = record.corpus
    state = "" if record.complete else ", NOT complete"
    return (
        f"{corpus.source}: {scaled(float(corpus.text_bytes), 'B')} of text in {corpus.documents:,} documents and "
        f"{corpus.shards} shards of .jsonl.zst, vocabulary {record.vocab_size:,}, {record.provenance.environment.cpu}, "
        f"{record.cores} cores, {record.rounds} rounds{state}"
    )


def _notes(record: DataRecord) -> list[str]:
    pinned = ", copied to page-locked memory" if record.pinned else ""
    return [
        "medians of the rounds; a ratio is taken within a round. The bare tokenizer gets texts that are in memory; "
        "preparation reads, parses, counts and writes as well.",
        f"streams: batches of {record.micro_batch_size} rows of {record.seq_len} tokens{pinned}, documents "
        f"marked by litespark and not by LitData {record.litdata}, on the same chunks.",
    ]


def _table(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    return "\n".join(aligned([header, *cells], text_columns=None))
