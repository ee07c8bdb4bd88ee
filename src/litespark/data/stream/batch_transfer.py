"""A batch on its way from a loader worker: one tensor in place of one for each field.

Every tensor that a worker hands over is a shared-memory file of its own, whose descriptor the other side fetches over a
socket. With torch 2.14 that takes longer than reading the rows and marking their documents, so the tensors of a batch
travel as views of one.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any

import torch
from torch import Tensor

from litespark.data.batch import TokenBatch


@dataclass
class PackedBatch:
    """The bytes of all tensors of a batch, and where each is."""

    bytes: Tensor
    """(n,) uint8; tensors of eight bytes an element stand before those of four, so that each begins at a multiple."""
    places: list[tuple[str, torch.dtype, tuple[int, ...]]]
    """Field, dtype and shape, in order."""
    batch: TokenBatch
    """Everything else; its tensors are empty."""

    def pin_memory(self) -> PackedBatch:
        """The same in page-locked memory; torch's DataLoader calls this by name."""
        return replace(self, bytes=self.bytes.pin_memory())


def pack(batch: TokenBatch) -> PackedBatch:
    """Copy the tensors of a batch into one."""
    held = {field.name: getattr(batch, field.name) for field in fields(batch)}
    tensors = {name: value for name, value in held.items() if isinstance(value, Tensor)}
    ordered = dict(sorted(tensors.items(), key=lambda entry: -entry[1].element_size()))
    nothing: dict[str, Any] = dict.fromkeys(tensors, torch.empty(0, dtype=torch.uint8))
    return PackedBatch(
        torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in ordered.values()]),
        [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in ordered.items()],
        replace(batch, **nothing),
    )


def unpack(packed: PackedBatch) -> TokenBatch:
    """The batch that was packed; its tensors share the memory of the packed one."""
    found: dict[str, Any] = {}
    start = 0
    for name, dtype, shape in packed.places:
        size = prod(shape) * dtype.itemsize
        found[name] = packed.bytes[start : start + size].view(dtype).view(shape)
        start += size
    return replace(packed.batch, **found)
