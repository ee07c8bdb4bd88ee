"""Tensors as a checkpoint has them: in pieces, each written by one rank that holds it, and read by all that need it.

Own, and not `torch.distributed.checkpoint`: its plans would need a second index (its own is a pickle), a second way for
ranks to agree, and copies of optimizer states by its names; cutting and finding pieces is what is left, and is here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from litespark.models.parallel_layers import Part
from litespark.models.placement import local_piece
from litespark.training.checkpoint.files import DTYPE_NAMES, DTYPES, CheckpointError, MappedFiles

Extent = tuple[int, ...]


class Held(NamedTuple):
    """What a rank holds of a tensor: the shape and dtype of the whole, and where its piece lies in that."""

    shape: Extent
    dtype: str
    offsets: Extent
    sizes: Extent

    @property
    def nbytes(self) -> int:
        return prod(self.sizes) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Chunk:
    """A piece of a tensor in a file."""

    file: str
    key: str
    offsets: Extent
    sizes: Extent


@dataclass(frozen=True)
class Stored:
    """Shape and dtype (as safetensors names it) of a tensor, and the pieces that make it up."""

    shape: Extent
    dtype: str
    chunks: tuple[Chunk, ...]


def held(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Held], dict[str, str]]:
    """What this rank holds of each tensor, and the tensors that are another one: name -> that of the other."""
    pieces, same, first = dict[str, Held](), dict[str, str](), dict[tuple[Any, ...], str]()
    for name, tensor in tensors.items():
        local, offsets = local_piece(tensor)
        pieces[name] = Held(tuple(tensor.shape), DTYPE_NAMES[tensor.dtype], offsets, tuple(local.shape))
        if local.numel():
            here = (local.device, local.data_ptr(), local.stride(), *pieces[name])
            if (other := first.setdefault(here, name)) != name:
                same[name] = other
    return pieces, same


def divide(
    by_rank: Sequence[Mapping[str, Held]], same: Mapping[str, str], writers: Sequence[int]
) -> tuple[dict[str, Stored], list[dict[str, str]]]:
    """Who writes which piece: the index of all tensors, and for each rank the names of its tensors by their keys.

    A piece that several `writers` hold is written by one of them, so that each writes about as much; the `same` tensor
    is written once.
    """
    keys: list[dict[str, str]] = [{} for _ in by_rank]
    filled = [0] * len(by_rank)
    wholes: dict[str, Held] = {}
    owners: dict[tuple[str, Extent], list[int]] = {}
    held_there: dict[tuple[str, Extent], Held] = {}
    for rank, pieces in enumerate(by_rank):
        for name, piece in pieces.items():
            wholes.setdefault(name, piece)
            if name not in same and rank in writers and (0 not in piece.sizes or 0 in piece.shape):
                owners.setdefault((name, piece.offsets), []).append(rank)
                held_there[name, piece.offsets] = piece
    chunks: dict[str, list[Chunk]] = {name: [] for name in wholes}
    # those with one owner first, then the large ones
    sizes = {at: piece.nbytes for at, piece in held_there.items()}
    for at in sorted(owners, key=lambda at: (len(owners[at]), -sizes[at])):
        (name, _), piece, rank = at, held_there[at], min(owners[at], key=filled.__getitem__)
        key = name if piece.sizes == piece.shape else f"{name}[{_slices(piece)}]"
        keys[rank][key] = name
        filled[rank] += sizes[at]
        chunks[name].append(Chunk(f"rank-{rank:05d}.safetensors", key, piece.offsets, piece.sizes))
    index = {
        name: Stored(whole.shape, whole.dtype, tuple(sorted(chunks[same.get(name, name)], key=lambda c: c.offsets)))
        for name, whole in wholes.items()
    }
    for name, stored in index.items():
        if sum(prod(chunk.sizes) for chunk in stored.chunks) != prod(stored.shape):
            raise CheckpointError(
                f"{name} is not whole on the ranks that see the folder of checkpoints; expected a folder that all "
                "ranks share (a network disk), or strategy=ddp"
            )
    return index, keys


def joined(index: Mapping[str, Stored], parts: Mapping[str, Part]) -> dict[str, Stored]:
    """The index in which tensors that are rows of another are pieces of that; the first of those without rows."""
    found = dict[str, Stored]()
    for name, stored in index.items():
        if (part := parts.get(name)) is None:
            found[name] = stored
        elif not stored.shape:
            found.setdefault(part.whole, stored)
        else:
            shape = (part.of_rows, *stored.shape[1:])
            before = found.get(part.whole, Stored(shape, stored.dtype, ()))
            chunks = (*before.chunks, *(_moved(chunk, part.first) for chunk in stored.chunks))
            found[part.whole] = Stored(shape, stored.dtype, tuple(sorted(chunks, key=lambda chunk: chunk.offsets)))
    return found


def _moved(chunk: Chunk, rows: int) -> Chunk:
    return replace(chunk, offsets=(chunk.offsets[0] + rows, *chunk.offsets[1:]))


def _slices(piece: Held) -> str:
    return ",".join(f"{begin}:{begin + size}" for begin, size in zip(piece.offsets, piece.sizes, strict=True))


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a checkpoint, of which nothing is read before it is asked for."""

    name: str
    stored: Stored
    files: MappedFiles

    @property
    def shape(self) -> torch.Size:
        return torch.Size(self.stored.shape)

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.stored.dtype]

    def rows(self, part: Part) -> "StoredTensor":
        """Some of its rows; all of it where it has none."""
        if not self.stored.shape:
            return self
        chunks = tuple(_moved(chunk, -part.first) for chunk in self.stored.chunks)
        return replace(self, stored=replace(self.stored, shape=(part.rows, *self.stored.shape[1:]), chunks=chunks))

    def whole(self) -> Tensor:
        """All of it on the CPU; mapped from its file where it lies there in one piece, for which it takes no memory."""
        if len(self.stored.chunks) == 1 and self.stored.chunks[0].sizes == self.stored.shape:
            return self._piece(self.stored.chunks[0])
        tensor = torch.empty(self.stored.shape, dtype=self.dtype, device="cpu")
        self.read_into(tensor)
        return tensor

    @torch.no_grad()
    def read_into(self, target: Tensor) -> None:
        """Fill what this rank holds of `target`, of the same shape and any dtype, device and placement."""
        local, offsets = local_piece(target)
        missing = local.numel()
        for chunk in self.stored.chunks if missing else ():
            begins = tuple(map(max, offsets, chunk.offsets))
            ends = [
                min(first + size, other + extent)
                for first, size, other, extent in zip(offsets, local.shape, chunk.offsets, chunk.sizes, strict=True)
            ]
            sizes = [end - begin for begin, end in zip(begins, ends, strict=True)]
            if all(size > 0 for size in sizes):
                source, into = self._piece(chunk), local
                for dim, (begin, size) in enumerate(zip(begins, sizes, strict=True)):
                    source = source.narrow(dim, begin - chunk.offsets[dim], size)
                    into = into.narrow(dim, begin - offsets[dim], size)
                into.copy_(source)
                missing -= into.numel()
        if missing:
            raise CheckpointError(
                f"{self.files.folder} lacks {missing} values of {self.name}; this checkpoint is damaged, use an "
                "earlier one"
            )

    def _piece(self, chunk: Chunk) -> Tensor:
        piece = self.files.tensor(chunk.file, chunk.key)
        if (tuple(piece.shape), piece.dtype) != (chunk.sizes, self.dtype):
            raise CheckpointError(
                f"{self.files.folder / chunk.file}: {chunk.key} is {tuple(piece.shape)} of {piece.dtype}, its seal has "
                f"{chunk.sizes} of {self.dtype}; this checkpoint is damaged, use an earlier one"
            )
        return piece
