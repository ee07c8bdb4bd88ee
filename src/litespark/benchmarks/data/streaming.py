"""What one process measures of reading: the product's loader, and LitData's own dataset on the same chunks.

Nothing is done with a batch. The time begins after a few batches, when loader workers have filled their queues, and
whole batches are counted until it is up.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from litespark.benchmarks.data.preparation import config_of, use_cores
from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest
from litespark.data.stream.modules import build_data_module
from litespark.metrics.records.data import LITDATA, OURS_DOMAINS

_SEED = 1
_WARMUP_BATCHES = 16


def stream(request: dict[str, Any]) -> list[dict[str, Any]]:
    """The cases one after the other: tokens, seconds, and seconds to the first batch of each.

    Args:
        request: `config` that was prepared, of one domain; `domains`: the same text in several; `cases`: reader,
            workers and shuffle of each, as in `StreamRun`; `seconds` to count for, about; `cores`.
    """
    use_cores(request["cores"])
    one_domain, domains = config_of(request["config"]), config_of(request["domains"])
    return [
        _case(domains if case["reader"] == OURS_DOMAINS else one_domain, seconds=request["seconds"], **case)
        for case in request["cases"]
    ]


def _case(config: PrepareConfig, *, reader: str, workers: int, shuffle: bool, seconds: float) -> dict[str, Any]:
    config = replace(config, workers=workers, shuffle=shuffle)
    if reader == LITDATA:
        return _timed(_litdata_epochs(config), seconds)
    return _timed(_epochs_of_ours(config), seconds)


def _epochs_of_ours(config: PrepareConfig) -> Iterator[Iterator[int]]:
    """Tokens of each batch of the endless stream, documents marked."""

    def tokens() -> Iterator[int]:
        for batch in build_data_module(config, seed=_SEED).train_dataloader():
            assert batch.cu_seqlens is not None, "the documents are not marked"
            yield batch.token_count

    yield tokens()


def _litdata_epochs(config: PrepareConfig) -> Iterator[Iterator[int]]:
    """Tokens of each batch of LitData's dataset over the first domain's chunks, epoch after epoch."""
    from litdata import StreamingDataLoader, StreamingDataset, TokensLoader

    folder = Path(config.source)
    domain = next(iter(Manifest.read(folder).splits["train"].domains.values()))
    dataset = StreamingDataset(
        str(folder / "train" / domain.folder),
        item_loader=TokensLoader(block_size=config.seq_len + 1),
        shuffle=config.shuffle,
        drop_last=False,
        seed=_SEED,
    )
    loader = StreamingDataLoader(dataset, batch_size=config.micro_batch_size, num_workers=config.workers)

    def tokens() -> Iterator[int]:
        for batch in loader:
            assert isinstance(batch, torch.Tensor)
            yield batch.shape[0] * (batch.shape[1] - 1)

    while True:
        yield tokens()


def _timed(epochs: Iterator[Iterator[int]], seconds: float) -> dict[str, Any]:
    """Tokens and seconds within epochs, without the first batches of each, until there are so many seconds."""
    began = time.perf_counter()
    first: float | None = None
    counted, spent = 0, 0.0
    for batches in epochs:
        start = None
        for number, tokens in enumerate(batches):
            now = time.perf_counter()
            if first is None:
                first = now - began
            if number == _WARMUP_BATCHES:
                start = now
            elif start is not None:
                counted += tokens
                if spent + now - start >= seconds:
                    break
        if start is None:
            raise ValueError(f"an epoch has {_WARMUP_BATCHES} batches or fewer; give more --megabytes")
        spent += now - start
        if spent >= seconds:
            break
    assert first is not None
    return {"tokens": counted, "seconds": spent, "first_batch_seconds": first}
