"""The files of tensors in a checkpoint: safetensors, hashed as they are written, verified once and mapped when read."""

import hashlib
import itertools
import json
import os
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from litespark.atomic import content_hash

DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Final = {dtype: name for name, dtype in DTYPES.items()}


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged or of another kind."""


@dataclass(frozen=True)
class Written:
    """A file as its writer left it."""

    size: int
    sha256: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> Written:
    """Write tensors (A, …) of any device as safetensors, and flush them to the disk.

    Those on the CPU are written from where they are, those of a device come over one at a time.
    """
    # wide ones first: each lies at a multiple of its width then, as mapped views need it
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header, end = dict[str, Any](), 0
    for name in names:
        tensor, begin = tensors[name], end
        end += tensor.nbytes
        header[name] = {"dtype": DTYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    sha256 = hashlib.sha256()
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
        for part in itertools.chain((struct.pack("<Q", len(head)), head), (_bytes(tensors[name]) for name in names)):
            hashed = beside.submit(sha256.update, part)
            file.write(part)
            hashed.result()
        file.flush()
        os.fsync(file.fileno())
    return Written(8 + len(head) + end, sha256.hexdigest())


def _bytes(tensor: Tensor) -> bytes:
    content: Any = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return content  # its buffer, which is the tensor's where that was on the CPU already


def verify_size(path: Path, stated: Written) -> os.stat_result:
    """Raise the CheckpointError where a file is missing or of another size."""
    status = path.stat() if path.is_file() else None
    if status is None or status.st_size != stated.size:
        got = "is missing" if status is None else f"has {status.st_size} bytes"
        raise CheckpointError(f"{path} {got}, expected {stated.size}; this checkpoint is damaged, use an earlier one")
    return status


def verify_file(path: Path, stated: Written) -> None:
    """Raise the CheckpointError where a file is not as it was written; one that did not change is hashed once."""
    status = verify_size(path, stated)
    if _hash_of(path.absolute(), status.st_size, status.st_mtime_ns) != stated.sha256:
        raise CheckpointError(f"{path} was changed since it was written (SHA-256 differs); use an earlier checkpoint")


@lru_cache(maxsize=65_536)
def _hash_of(path: Path, size: int, modified: int) -> str:
    """The hash of a file as it was then; `size` and `modified` are for the cache alone."""
    return content_hash(path)


class MappedFiles:
    """The tensors in the files of a checkpoint, mapped: only what is used is read, after its file was verified."""

    def __init__(self, folder: Path, files: Mapping[str, Written]) -> None:
        self.folder = folder
        self._files = files
        self._open = cache(self._opened)

    def tensor(self, file: str, key: str) -> Tensor:
        """A CheckpointError where the file is damaged, or has no such tensor."""
        try:
            tensor: Tensor = self._open(file).get_tensor(key)
        except SafetensorError as error:
            raise self._refused(file, error) from error
        return tensor

    def verify(self, file: str) -> None:
        """Raise the CheckpointError where a file is not as it was written, or no safetensors."""
        self._open(file)

    def _opened(self, file: str) -> Any:
        verify_file(self.folder / file, self._files[file])
        try:
            return safe_open(self.folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise self._refused(file, error) from error

    def _refused(self, file: str, error: Exception) -> CheckpointError:
        return CheckpointError(
            f"{self.folder / file} is not read ({error}): expected safetensors as its seal has them, and nothing else "
            "is opened; use an earlier checkpoint"
        )
