"""Block sizes of the attention kernels for each target, and where they can run at all; imports no Triton.

Each configuration of a target is a backend of its own, by its number, so that `auto` times them all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from litespark.device import device_of
from litespark.ops import triton_support
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.triton_support import Target, target_of

MOST_HEAD_DIM = 256
MOST_ROWS = 128  # of any block


@dataclass(frozen=True)
class Launch:
    """How one kernel is launched: queries and keys of a block, warps of a program, stages of the loads' pipeline."""

    queries: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Configuration:
    """How the three kernels are launched."""

    forward: Launch
    query_gradient: Launch
    key_value_gradient: Launch


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None, number: int = 0) -> str | None:
    """Why the Triton attention cannot run there in the configuration of that number; None where it can."""
    if (reason := triton_support.why_not(device, dtype, shapes)) is not None:
        return reason
    if shapes is not None and shapes.head_dim > MOST_HEAD_DIM:
        return f"the kernels take head_dim up to {MOST_HEAD_DIM}, not {shapes.head_dim}"
    head_dims = (64, 128, MOST_HEAD_DIM) if shapes is None else (shapes.head_dim,)
    if all(number >= len(_configurations(device, head_dim, dtype)) for head_dim in head_dims):
        return f"the kernels have no configuration {number + 1} for this device, dtype and head_dim"
    return None


why_not_2 = partial(why_not, number=1)


def blocks(place: Place, number: int = 0) -> str:
    """The blocks of the configuration of that number, in words: queries x keys, of each of the three kernels."""
    chosen = configuration_for(place.device, place.shapes.head_dim, place.dtype, number)
    launches = chosen.forward, chosen.query_gradient, chosen.key_value_gradient
    return "blocks of " + ", ".join(f"{launch.queries} x {launch.keys}" for launch in launches)


blocks_2 = partial(blocks, number=1)


def configuration_for(device: torch.device, head_dim: int, dtype: torch.dtype, number: int) -> Configuration:
    """The one that `configured` set, otherwise that of `number` of `candidates`, or small blocks in the interpreter."""
    return _configurations(device, head_dim, dtype)[number] if _chosen is None else _chosen


@contextmanager
def configured(configuration: Configuration) -> Iterator[None]:
    """Within it every launch of this process, on whatever thread, is `configuration`: for measurements and tests."""
    global _chosen
    before, _chosen = _chosen, configuration
    try:
        yield
    finally:
        _chosen = before


def candidates(target: Target, head_dim: int, dtype: torch.dtype) -> tuple[Configuration, ...]:
    """What fits the shared memory and the registers of `target`; the first is taken where nothing was measured."""
    if dtype == torch.float32:
        return (_FP32[target.backend, padded_head_dim(head_dim) <= 64],)
    return _HALF[_FAMILIES.get(target.name, target.name)][max(64, padded_head_dim(head_dim))]


def _configurations(device: torch.device, head_dim: int, dtype: torch.dtype) -> tuple[Configuration, ...]:
    return candidates(target_of(device), head_dim, dtype) if device_of(device).is_accelerator else _INTERPRETED


def padded_head_dim(head_dim: int) -> int:
    """The head_dim as the kernels hold it: a power of two, at least 16, which is the least of a matrix product."""
    return max(16, 1 << (head_dim - 1).bit_length())


def kernel_constants(launch: Launch, group: int, head_dim: int, documents: bool, window: int) -> dict[str, int | bool]:
    """The compile-time arguments that the kernels share; `group` query heads read one key/value head."""
    return {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED": padded_head_dim(head_dim),
        "QUERIES": launch.queries,
        "KEYS": launch.keys,
        "DOCUMENTS": documents,
        "WINDOW": window > 0,
    }


def _of(*launches: tuple[int, int, int, int]) -> Configuration:
    return Configuration(*(Launch(*launch) for launch in launches))


_chosen: Configuration | None = None
_INTERPRETED = (_of((32, 32, 4, 1), (32, 32, 4, 1), (32, 32, 4, 1)),)
_FAMILIES = {"sm_86": "small", "sm_89": "small", "sm_120": "small"}
# family of targets -> padded head_dim -> candidates for bf16 and fp16; each launch is queries, keys, warps, stages.
# Chosen by what the compiler reports: nothing, or next to nothing, spilled from registers, and shared memory within
# the limit of the target. Which is fastest `auto` measures. Another number of them is another backend in
# `litespark.ops.backend`.
_HALF: dict[str, dict[int, tuple[Configuration, ...]]] = {
    "sm_80": {
        64: (_of((128, 64, 8, 3), (128, 64, 8, 3), (64, 128, 8, 2)),),
        128: (
            _of((64, 64, 4, 3), (64, 64, 4, 3), (64, 64, 8, 2)),
            _of((128, 32, 8, 3), (128, 32, 8, 3), (64, 64, 8, 3)),
        ),
        256: (_of((64, 32, 8, 2), (64, 32, 8, 2), (32, 32, 8, 2)),),
    },
    "small": {
        64: (_of((128, 64, 8, 2), (128, 64, 8, 2), (64, 128, 8, 2)),),
        128: (
            _of((64, 64, 4, 2), (128, 32, 8, 2), (64, 64, 8, 2)),
            _of((128, 32, 8, 2), (64, 32, 4, 2), (32, 64, 8, 2)),
        ),
        256: (_of((64, 32, 8, 2), (64, 16, 8, 2), (32, 32, 8, 2)),),
    },
    "sm_90": {
        64: (
            _of((128, 128, 8, 3), (128, 64, 8, 3), (64, 128, 8, 3)),
            _of((128, 64, 8, 3), (128, 128, 8, 3), (64, 64, 4, 3)),
        ),
        128: (
            _of((128, 128, 8, 2), (128, 64, 8, 3), (64, 128, 8, 2)),
            _of((128, 64, 8, 3), (64, 128, 8, 3), (32, 128, 8, 2)),
        ),
        256: (
            _of((128, 64, 8, 2), (64, 64, 8, 2), (32, 64, 8, 2)),
            _of((64, 64, 8, 2), (128, 32, 8, 2), (32, 32, 8, 2)),
        ),
    },
    "sm_100": {
        64: (_of((128, 64, 8, 3), (128, 64, 8, 3), (64, 128, 8, 2)),),
        128: (_of((128, 64, 8, 3), (128, 64, 8, 3), (32, 64, 8, 2)),),
        256: (_of((128, 32, 8, 2), (64, 32, 8, 2), (32, 32, 8, 2)),),
    },
    "gfx942": {
        64: (_of((128, 64, 4, 1), (128, 64, 4, 1), (64, 64, 4, 1)),),
        128: (
            _of((128, 64, 4, 1), (128, 32, 4, 1), (32, 64, 4, 1)),
            _of((128, 32, 4, 1), (64, 64, 4, 1), (64, 64, 4, 1)),
        ),
        256: (_of((64, 32, 4, 1), (64, 32, 4, 1), (16, 64, 4, 1)),),
    },
}
# Triton's backend, whether the padded head_dim is at most 64 -> configuration for fp32, whose exact products take
# neither tensor cores nor large blocks
_FP32 = {
    ("cuda", True): _of((32, 32, 8, 2), (32, 32, 8, 2), (32, 32, 8, 2)),
    ("cuda", False): _of((32, 16, 8, 2), (32, 16, 8, 2), (32, 16, 8, 2)),
    ("hip", True): _of((32, 16, 4, 1), (32, 16, 4, 1), (32, 16, 4, 1)),
    ("hip", False): _of((32, 16, 4, 1), (32, 16, 4, 1), (32, 16, 4, 1)),
}
