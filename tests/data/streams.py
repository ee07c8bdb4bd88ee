"""Prepared folders opened for reading, and what all ranks together are served."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from litespark.data.config import ReadingConfig
from litespark.data.stream import modules as streaming
from litespark.data.stream.modules import TokenDataModule
from litespark.mesh import Roles

S = 16


def module(place: Path | str, *, seed: int = 3, **changes: object) -> TokenDataModule:
    """Sequences of S+1 ids, two a batch, unless told otherwise."""
    reading: dict[str, object] = {"seq_len": S, "micro_batch_size": 2, **changes}
    return TokenDataModule(place, ReadingConfig(**reading), seed=seed)


def on_rank(monkeypatch: pytest.MonkeyPatch, rank: int, world: int) -> None:
    """Let data modules be made for a rank of several."""
    monkeypatch.setattr(streaming, "Mesh", lambda: SimpleNamespace(data_rank=rank, roles=Roles(replicate=world)))


def batches(data: TokenDataModule, count: int) -> list[Tensor]:
    """The inputs of the first `count` micro-batches."""
    return [batch.tokens for batch in islice(data.train_dataloader(), count)]


def global_stream(
    monkeypatch: pytest.MonkeyPatch,
    place: Path | str,
    world: int,
    count: int,
    *,
    start: int = 0,
    seed: int = 3,
    **changes: object,
) -> Tensor:
    """The sequences of the first `count` global micro-batches, gathered over the ranks."""
    ranks = []
    for rank in range(world):
        on_rank(monkeypatch, rank, world)
        data = module(place, seed=seed, **changes)
        data.start_at(start)
        ranks.append(batches(data, count))
    return torch.cat([tokens for together in zip(*ranks, strict=True) for tokens in together])
