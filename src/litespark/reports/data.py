"""`litespark bench data` for a reader: preparing, streaming, and what was asked of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
)
from litespark.reports.quantities import ABSENT, duration, percent, plain, rate, scaled
from litespark.reports.repeats import interval, median
from litespark.reports.table import Absent, Column, Table, texts

_NAMES = {ENCODE: "bare tokenizer", PREPARE: "litespark prepare", LITGPT: "litgpt"}


def tables(record: DataRecord) -> list[Table]:
    """Preparing, streaming, and the goals."""
    return [_preparation(record), _streaming(record), goals(record)]


def goals(record: DataRecord) -> Table:
    """A row for each goal, and for what stands beside one."""
    rows: list[tuple[object, ...]] = []
    for cores in sorted({1, record.cores}):
        on = f"on {cores} {'core' if cores == 1 else 'cores'}"
        rows.append(_judged(f"share of the bare tokenizer {on}", record.shares(cores), SHARE_GOAL))
        rows.append((f"its share of processor time {on}", _middle(record.shares(cores, of_cpu=True), _digits), "", ""))
    over = f"tokens/s over litgpt {record.litgpt or ''}".rstrip()
    if record.litgpt is None:
        rows.append((over, Absent(f"litgpt: {record.litgpt_reason}"), f"at least {LITGPT_GOAL}", ABSENT))
    else:
        rows.append(_judged(over, record.litgpt_ratios(), LITGPT_GOAL))
    ratio = record.memory_ratio()
    factors = " and ".join(str(run.factor) for run in record.memory)
    peaks = " and ".join(scaled(float(run.peak_bytes), "B") for run in record.memory)
    memory = f"peak memory with {factors} times the text, {peaks}" if record.memory else "peak memory"
    verdict = ABSENT if ratio is None else "met" if ratio <= FLAT else "NOT met"
    rows.append((memory, None if ratio is None else _digits(ratio), f"ratio at most {FLAT}", verdict))
    through = [run.tokens_per_second for run in record.streamed(OURS, 2)]
    rows.append(_judged("tokens/s through 2 workers", through, STREAM_GOAL, rate))
    rows.append(("cost of shuffling in process", _middle(record.shuffle_costs(), percent), "", ""))
    columns = [*texts("what"), Column("measured", absent=ABSENT), *texts("goal", "verdict")]
    return Table(columns, rows)


def _judged(
    what: str, ratios: Sequence[float], goal: float, written: Callable[[float], str] | None = None
) -> tuple[object, ...]:
    """By the median of the rounds."""
    middle = median(ratios)
    verdict = ABSENT if middle is None else "met" if middle >= goal else "NOT met"
    return what, _middle(ratios, written or _digits), f"at least {written(goal) if written else goal}", verdict


def _middle(values: Sequence[float], written: Callable[[float], str]) -> str | None:
    middle = interval(values)
    return None if middle is None else Column("", written).cell(middle)


def _digits(value: float) -> str:
    return plain(value, digits=3)


def _preparation(record: DataRecord) -> Table:
    """A row for each variant and number of cores: medians of the rounds; the peak is the largest of them."""
    rows = []
    for cores in sorted({1, record.cores}):
        for variant in (ENCODE, PREPARE, LITGPT):
            if runs := record.prepared(variant, cores):
                seconds = median(run.seconds for run in runs)
                assert seconds is not None
                size = record.corpus.training_bytes if variant == LITGPT else record.corpus.text_bytes
                rows.append((
                    _NAMES[variant], cores, median(run.tokens / run.seconds for run in runs), size / 1e6 / seconds,
                    median(run.cpu_seconds for run in runs), float(max(run.peak_bytes for run in runs)),
                ))  # fmt: skip
    corpus, state = record.corpus, "" if record.complete else ", NOT complete"
    about = (
        f"{corpus.source}: {scaled(float(corpus.text_bytes), 'B')} of text in {corpus.documents:,} documents and "
        f"{corpus.shards} shards of .jsonl.zst, vocabulary {record.vocab_size:,}, {record.provenance.environment.cpu}, "
        f"{record.cores} cores, {record.rounds} rounds{state}"
    )
    note = (
        "medians of the rounds; a ratio is taken within a round. The bare tokenizer gets texts that are in memory; "
        "preparation reads, parses, counts and writes as well."
    )
    columns = [*texts("preparation"), Column("cores"), Column("tokens/s", rate), Column("MB/s", plain),
               Column("processor time", duration), Column("peak memory", lambda size: scaled(size, "B"))]  # fmt: skip
    return Table(columns, rows, about=[about], notes=[note])


def _streaming(record: DataRecord) -> Table:
    """A row for each reader, number of workers and order: medians of the rounds."""
    rows = []
    for reader in (OURS, OURS_DOMAINS, LITDATA):
        for workers in sorted({run.workers for run in record.streaming}):
            for shuffle in (True, False):
                if runs := record.streamed(reader, workers, shuffle=shuffle):
                    rows.append((
                        reader, str(workers) if workers else "in process", "yes" if shuffle else "no",
                        median(run.tokens_per_second for run in runs),
                        median(run.first_batch_seconds for run in runs),
                    ))  # fmt: skip
    pinned = ", copied to page-locked memory" if record.pinned else ""
    note = (
        f"streams: batches of {record.micro_batch_size} rows of {record.seq_len} tokens{pinned}, documents "
        f"marked by litespark and not by LitData {record.litdata}, on the same chunks."
    )
    columns = [*texts("streaming", "workers", "shuffled"), Column("tokens/s", rate), Column("first batch", duration)]
    return Table(columns, rows, notes=[note])
