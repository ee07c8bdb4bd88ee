"""Records of `litespark bench data` with figures that are easy to work out by hand."""

from __future__ import annotations

from litespark.metrics.records.data import (
    ENCODE,
    LITDATA,
    LITGPT,
    OURS,
    PREPARE,
    CorpusRecord,
    DataRecord,
    MemoryRun,
    PreparationRun,
    Reader,
    StreamRun,
    Variant,
)
from tests.metrics.records.hand_made import provenance

# (variant, cores, seconds, seconds of processors) of each round, in the order in which they ran
PREPARATION: list[list[tuple[Variant, int, float, float]]] = [
    [(ENCODE, 1, 9.0, 9.0), (PREPARE, 1, 10.0, 9.5), (ENCODE, 2, 4.5, 9.0), (PREPARE, 2, 6.0, 11.0),
     (LITGPT, 2, 12.0, 20.0)],
    [(LITGPT, 2, 12.0, 20.0), (PREPARE, 2, 6.0, 11.0), (ENCODE, 2, 4.8, 9.0), (PREPARE, 1, 12.0, 10.0),
     (ENCODE, 1, 12.0, 9.5)],
]  # fmt: skip
# (reader, workers, shuffle, tokens a second, seconds to the first batch)
STREAMS: list[tuple[Reader, int, bool, int, float]] = [
    (OURS, 0, True, 60_000_000, 0.05),
    (OURS, 0, False, 80_000_000, 0.01),
    (OURS, 1, True, 6_000_000, 0.1),
    (OURS, 2, True, 7_000_000, 0.2),
    (LITDATA, 2, True, 21_000_000, 0.1),
]


def data_record(
    *, litgpt: bool = True, streams: list[tuple[Reader, int, bool, int, float]] | None = None
) -> DataRecord:
    """Two rounds on two cores: 1010 tokens and 10 documents, of which one, a tenth of the text, is held out."""
    tokens = {ENCODE: 1000, PREPARE: 1010, LITGPT: 909}
    preparation = [
        PreparationRun(variant, cores, number, position, seconds, used, tokens[variant], 100_000_000)
        for number, runs in enumerate(PREPARATION)
        for position, (variant, cores, seconds, used) in enumerate(runs)
        if litgpt or variant != LITGPT
    ]
    streaming = [
        StreamRun(reader, workers, shuffle, number, position, 2 * rate, 2.0, first)
        for number in range(2)
        for position, (reader, workers, shuffle, rate, first) in enumerate(STREAMS if streams is None else streams)
    ]
    return DataRecord(
        provenance(),
        corpus=CorpusRecord("installed_packages", 10, 5_000_000, 4_500_000, 8, 1_000_000, "hash"),
        vocab_size=32_000,
        tokenizer_hash="hash",
        cores=2,
        unit_bytes=1_250_000,
        chunk_tokens=1 << 25,
        rounds=2,
        seq_len=4096,
        micro_batch_size=4,
        pinned=False,
        litdata="0.2.76",
        litgpt="0.5.13 with LitData 0.2.76" if litgpt else None,
        litgpt_reason=None if litgpt else "it is not installed",
        preparation=preparation,
        memory=[MemoryRun(1, 6.0, 1010, 100_000_000), MemoryRun(4, 24.0, 4040, 110_000_000)],
        streaming=streaming,
    )
