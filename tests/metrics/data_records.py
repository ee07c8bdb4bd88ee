"""Records of `litespark bench data` with figures that are easy to work out by hand."""

from __future__ import annotations

from litespark.metrics.records.data import (
    ENCODE,
    LITDATA,
    OURS,
    PREPARE,
    DataRecord,
    PreparationRun,
    Reader,
    StreamRun,
    Variant,
)
from tests.metrics.records.hand_made import provenance

# (variant, cores, seconds) of each round, in the order in which they ran
PREPARATION: list[list[tuple[Variant, int, float]]] = [
    [(ENCODE, 1, 9.0), (PREPARE, 1, 10.0), (ENCODE, 2, 4.5), (PREPARE, 2, 6.0)],
    [(PREPARE, 2, 6.0), (ENCODE, 2, 4.8), (PREPARE, 1, 12.0), (ENCODE, 1, 12.0)],
]
# (reader, workers, shuffle, tokens a second, seconds to the first batch)
STREAMS: list[tuple[Reader, int, bool, int, float]] = [
    (OURS, 0, True, 60_000_000, 0.05),
    (OURS, 0, False, 80_000_000, 0.01),
    (OURS, 1, True, 6_000_000, 0.1),
    (OURS, 2, True, 7_000_000, 0.2),
    (LITDATA, 0, True, 90_000_000, 0.1),
    (LITDATA, 1, True, 12_000_000, 0.1),
    (LITDATA, 2, True, 21_000_000, 0.1),
]


def data_record() -> DataRecord:
    """Two rounds on two cores: 1010 tokens and 10 documents."""
    tokens = {ENCODE: 1000, PREPARE: 1010}
    preparation = [
        PreparationRun(variant, cores, number, seconds, tokens[variant])
        for number, runs in enumerate(PREPARATION)
        for variant, cores, seconds in runs
    ]
    streaming = [
        StreamRun(reader, workers, shuffle, number, 2 * rate, 2.0, first)
        for number in range(2)
        for reader, workers, shuffle, rate, first in STREAMS
    ]
    return DataRecord(
        provenance(),
        source="installed_packages",
        documents=10,
        text_bytes=5_000_000,
        vocab_size=32_000,
        cores=2,
        rounds=2,
        seq_len=4096,
        micro_batch_size=4,
        pinned=False,
        litdata="0.2.76",
        preparation=preparation,
        streaming=streaming,
    )
