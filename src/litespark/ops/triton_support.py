"""Whether Triton can run here, and for which target kernels are launched; importing it needs no Triton."""

import functools
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from litespark.device import device_of
from litespark.ops.shapes import StepShapes

OLDEST_CUDA_CAPABILITY = (8, 0)
INTERPRET = "TRITON_INTERPRET"


@dataclass(frozen=True)
class Target:
    """A kind of device that kernels are compiled for."""

    name: str  # "sm_90"
    backend: str  # Triton's name, "cuda" or "hip"
    architecture: int | str  # Triton's, 90 or "gfx942"
    warp_size: int
    shared_bytes: int  # of shared memory (LDS) that one program may use at most
    without_fp8: str | None = None  # what it has instead of units for the fp8 formats that we train in


# NVIDIA PTX ISA, "cvt": e4m3x2 and e5m2x2 need sm_89; Micikevicius et al., arXiv:2209.05433 against AMD Instinct MI300
# instruction set architecture, "FP8 and BF8": a bias of one more, and no infinities
_BEFORE_ADA = "no fp8 units, which came with sm_89 (Ada)"
_OTHER_CODES = "units for fp8 formats (fnuz) with other codes than e4m3 and e5m2"
# shared memory: CUDA C++ programming guide, "Technical Specifications per Compute Capability", maximum amount of shared
# memory per thread block; LDS: AMD Instinct MI300 (CDNA 3) instruction set architecture, "Local Data Share"
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 163 * 1024, _BEFORE_ADA),
        Target("sm_86", "cuda", 86, 32, 99 * 1024, _BEFORE_ADA),
        Target("sm_89", "cuda", 89, 32, 99 * 1024),
        Target("sm_90", "cuda", 90, 32, 227 * 1024),
        Target("sm_100", "cuda", 100, 32, 227 * 1024),
        Target("sm_120", "cuda", 120, 32, 99 * 1024),
        Target("gfx942", "hip", "gfx942", 64, 64 * 1024, _OTHER_CODES),
    )
}
# the target that launches are recorded for; None: they are made
_recording: Target | None = None


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why Triton kernels cannot run there; None where they can."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton is not installed ({error})"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the kernels take fp32, bf16 and fp16, not {dtype}"
    there = device_of(device)
    if not there.is_accelerator:
        return (
            None if interpreting() else f"Triton has no kernels for CPUs (its interpreter, {INTERPRET}=1, is for tests)"
        )
    if not there.is_nvidia_or_amd:
        return f"Triton has no kernels for {device.type} devices"
    if there.capability is not None and there.capability < OLDEST_CUDA_CAPABILITY:
        return f"the kernels need compute capability {'.'.join(map(str, OLDEST_CUDA_CAPABILITY))}, this device has less"
    return None


def interpreting() -> bool:
    """Whether kernels that are defined from now on run in the interpreter, on CPU tensors."""
    return os.environ.get(INTERPRET, "").lower() in ("1", "true", "yes", "on", "y")  # as Triton reads it


def enable_interpreter() -> None:
    """Define kernels for the interpreter from now on; RuntimeError where Triton is imported already without it."""
    if "triton" in sys.modules and not interpreting():
        raise RuntimeError(f"Triton is imported already; set {INTERPRET}=1 before")
    os.environ[INTERPRET] = "1"


def target_of(device: torch.device) -> Target:
    """The target whose launch configurations fit `device`; for a CPU (the interpreter) any does.

    A device that is not in `TARGETS` gets that of its generation with the least shared memory.
    """
    return target_at_hand(device) if _recording is None else _recording


@functools.cache
def target_at_hand(device: torch.device) -> Target:
    """`target_of` outside of `recording`."""
    there = device_of(device)
    if not there.is_accelerator:
        return TARGETS["sm_90"]
    if there.capability is None:
        return TARGETS["gfx942"]
    major, minor = there.capability
    if f"sm_{major}{minor}" in TARGETS:
        return TARGETS[f"sm_{major}{minor}"]
    nvidia = [target for target in TARGETS.values() if target.backend == "cuda"]
    kin = [target for target in nvidia if int(target.architecture) // 10 == major]
    return min(kin or [TARGETS["sm_86"]], key=lambda target: target.shared_bytes)


@contextmanager
def recording(target: Target) -> Iterator[None]:
    """Within it launches are configured for `target`, whatever device is here."""
    global _recording
    _recording = target
    try:
        yield
    finally:
        _recording = None


def needs_fp8(target: Target) -> str | None:
    """Why kernels that make fp8 codes are not for `target`; a `kernels.py` states it as `not_for = needs_fp8`."""
    return target.without_fp8


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the device of `x` the current one: Triton launches there, whatever device its arguments are on."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


# what a launch is for, and the launch
Launches = Iterable[tuple[str, Callable[[], object]]]


def on_meta(*shape_and_dtype: Any) -> Tensor:
    """A tensor without memory, of the dtype that comes last, to be launched with where launches are recorded."""
    *shape, dtype = shape_and_dtype
    return torch.empty(shape, dtype=dtype, device="meta")
