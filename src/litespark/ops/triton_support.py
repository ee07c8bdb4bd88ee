"""Everything that depends on Triton's version, device and mode, in one place: can it run here, and compiling without a
device.

Importing this module needs no Triton. Kernels run on CUDA and ROCm devices, and on CPU tensors through Triton's
interpreter, which must be switched on before the first kernel is defined.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litespark.ops.shapes import StepShapes

OLDEST_CUDA_CAPABILITY = (8, 0)
_INTERPRET = "TRITON_INTERPRET"


@dataclass(frozen=True)
class Target:
    """A kind of device that kernels are compiled for.

    Attributes:
        name: as it is printed, "sm_90".
        backend: Triton's name, "cuda" or "hip".
        architecture: Triton's number or name, 90 or "gfx942".
        warp_size: threads in a warp.
        shared_bytes: shared memory (LDS) that one program may use at most.
    """

    name: str
    backend: str
    architecture: int | str
    warp_size: int
    shared_bytes: int


# shared memory per block: CUDA C++ programming guide, "Technical Specifications per Compute Capability";
# LDS: AMD CDNA 3 instruction set architecture guide
TARGETS = {
    target.name: target
    for target in (
        Target("sm_80", "cuda", 80, 32, 163 * 1024),
        Target("sm_86", "cuda", 86, 32, 99 * 1024),
        Target("sm_89", "cuda", 89, 32, 99 * 1024),
        Target("sm_90", "cuda", 90, 32, 227 * 1024),
        Target("sm_100", "cuda", 100, 32, 227 * 1024),
        Target("sm_120", "cuda", 120, 32, 99 * 1024),
        Target("gfx942", "hip", "gfx942", 64, 64 * 1024),
    )
}


def why_not(device: torch.device, dtype: torch.dtype, shapes: StepShapes | None = None) -> str | None:
    """Why Triton kernels cannot run there; None where they can."""
    try:
        importlib.import_module("triton")
    except ImportError as error:
        return f"Triton is not installed ({error})"
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the kernels take fp32, bf16 and fp16, not {dtype}"
    if device.type == "cpu":
        if interpreting():
            return None
        return f"Triton has no kernels for CPUs (its interpreter, {_INTERPRET}=1, is for tests)"
    if device.type != "cuda":
        return f"Triton has no kernels for {device.type} devices"
    if torch.version.hip is None and torch.cuda.get_device_capability(device) < OLDEST_CUDA_CAPABILITY:
        oldest = ".".join(map(str, OLDEST_CUDA_CAPABILITY))
        return f"the kernels need compute capability {oldest}, this device has less"
    return None


def interpreting() -> bool:
    """Whether kernels that are defined from now on run in the interpreter, on CPU tensors."""
    return os.environ.get(_INTERPRET, "0") not in ("", "0")


def enable_interpreter() -> None:
    """Define kernels for the interpreter from now on.

    Raises:
        RuntimeError: Triton is imported already, with its interpreter off; this is a bug of the caller.
    """
    import sys

    if "triton" in sys.modules and not interpreting():
        raise RuntimeError(f"Triton is imported already; set {_INTERPRET}=1 before")
    os.environ[_INTERPRET] = "1"


@functools.cache
def target_of(device: torch.device) -> Target:
    """The target whose launch configurations fit `device`; for a CPU (the interpreter) any does: sm_90.

    A device that is not in `TARGETS` gets that of its generation with the least shared memory.
    """
    if device.type == "cpu":
        return TARGETS["sm_90"]
    if torch.version.hip is not None:
        return TARGETS["gfx942"]
    major, minor = torch.cuda.get_device_capability(device)
    exact = TARGETS.get(f"sm_{major}{minor}")
    if exact is not None:
        return exact
    kin = [
        target for target in TARGETS.values() if target.backend == "cuda" and int(target.architecture) // 10 == major
    ]
    return min(kin or [TARGETS["sm_86"]], key=lambda target: target.shared_bytes)


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the device of `x` the current one: Triton launches there, whatever device its arguments are on."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


# ---------------------------------------------------------------- compiling without a device


@dataclass(frozen=True)
class Compilation:
    """One kernel with one launch configuration, as it would be launched on a target.

    Attributes:
        name: kernel and configuration as they are printed, "rms_norm_forward bf16 D4096".
        kernel: the `triton.jit` function.
        signature: argument -> Triton's type ("*bf16", "i32", "i64", "fp32"); constants are left out.
        constants: argument -> value, of all `tl.constexpr` arguments.
        num_warps, num_stages: as at the launch.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        registers: per thread; None where it is not told.
        stack_bytes: local memory per thread, where spilled registers go.
        shared_bytes: per program.
    """

    registers: int | None
    stack_bytes: int | None
    shared_bytes: int


def compile_for(compilation: Compilation, target: Target) -> Resources:
    """Compile for a target that need not be in this machine.

    Raises:
        RuntimeError: the kernels of this process are interpreted, so that there is nothing to compile.
        Exception: whatever Triton raises when the kernel does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if interpreting():
        raise RuntimeError(f"kernels are interpreted in this process; compile without {_INTERPRET}")
    names = compilation.kernel.arg_names
    signature = {name: compilation.signature.get(name, "constexpr") for name in names}
    # memory that PyTorch allocates is aligned, which decides how wide loads are
    aligned: dict[tuple[int, ...], Any] = {
        (index,): [["tt.divisibility", 16]] for index, name in enumerate(names) if signature[name].startswith("*")
    }
    source = ASTSource(compilation.kernel, signature, constexprs=dict(compilation.constants), attrs=aligned)
    compiled = triton.compile(
        source,
        target=GPUTarget(target.backend, target.architecture, target.warp_size),
        options={"num_warps": compilation.num_warps, "num_stages": compilation.num_stages},
    )
    if target.backend == "cuda":
        registers, stack = _cuda_resources(compiled.asm["cubin"])
    else:
        registers, stack = _amd_resources(compiled.asm["amdgcn"])
    return Resources(registers, stack, int(compiled.metadata.shared))


def _cuda_resources(binary: bytes) -> tuple[int | None, int | None]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = re.search(r"REG:(\d+)", text), re.search(r"STACK:(\d+)", text)
    return (int(registers[1]) if registers else None), (int(stack[1]) if stack else None)


def _amd_resources(assembly: str) -> tuple[int | None, int | None]:
    registers = re.search(r"\.vgpr_count:\s*(\d+)", assembly)
    stack = re.search(r"\.private_segment_fixed_size:\s*(\d+)", assembly)
    return (int(registers[1]) if registers else None), (int(stack[1]) if stack else None)
