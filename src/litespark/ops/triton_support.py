"""Everything that depends on Triton's version, device and mode, in one place: can it run here, and compiling without a
device.

Importing this module needs no Triton. Kernels run on CUDA and ROCm devices, and on CPU tensors through Triton's
interpreter, which must be switched on before the first kernel is defined.
"""

from __future__ import annotations

import ast
import functools
import importlib
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
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


# shared memory: CUDA C++ programming guide, "Technical Specifications per Compute Capability", maximum amount of shared
# memory per thread block; LDS: AMD Instinct MI300 (CDNA 3) instruction set architecture, "Local Data Share"
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
    return os.environ.get(_INTERPRET, "").lower() in ("1", "true", "yes", "on", "y")  # as Triton reads it


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

    Triton compiles a kernel anew for integers and addresses that are multiples of 16, which widens loads and lets them
    run ahead through shared memory. Arguments are taken to be such, as they are at usual widths, unless told
    otherwise; without it, shared memory would be underestimated.

    Attributes:
        name: kernel and configuration as they are printed, "rms_norm_forward bf16 D4096".
        kernel: the `triton.jit` function.
        signature: argument -> Triton's type ("*bf16", "i32", "i64", "fp32"); constants are left out.
        constants: argument -> value, of all `tl.constexpr` arguments that have no default, and of arguments that are
            None or 1 at the launch, which Triton makes constants.
        num_warps, num_stages: as at the launch.
        unaligned: arguments that are not multiples of 16 there.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    unaligned: Collection[str] = ()


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes.

    Attributes:
        registers: per thread; on AMD both kinds of vector registers together. None where it is not told.
        stack_bytes: local (AMD: scratch) memory per thread, where spilled registers go. None where it is not told.
        shared_bytes: per program.
        tensor_memory_columns: per program; 0 where a target has no tensor memory.
    """

    registers: int | None
    stack_bytes: int | None
    shared_bytes: int
    tensor_memory_columns: int = 0


def triton_version() -> str:
    """The version of Triton that kernels are compiled with."""
    import triton

    return triton.__version__


def compile_for(compilation: Compilation, target: Target) -> Resources:
    """Compile for a target that need not be in this machine.

    Raises:
        RuntimeError: the kernels of this process are interpreted, so that there is nothing to compile.
        ValueError: the compilation names an argument that the kernel does not have, or leaves one out.
        Exception: whatever Triton raises when the kernel does not compile.
    """
    if interpreting():
        raise RuntimeError(f"kernels are interpreted in this process; compile without {_INTERPRET}")
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, make_backend

    triton_target = GPUTarget(target.backend, target.architecture, target.warp_size)
    constants = _constants(compilation)
    signature = {
        name: "constexpr" if name in constants else compilation.signature[name] for name in compilation.kernel.arg_names
    }
    aligned = make_backend(triton_target).parse_attr
    attributes = {(i,): aligned(_DIVISIBLE + kind) for i, kind in _alignments(compilation, signature)}
    compiled = triton.compile(
        ASTSource(compilation.kernel, signature, constexprs=constants, attrs=attributes),
        target=triton_target,
        options={"num_warps": compilation.num_warps, "num_stages": compilation.num_stages},
    )
    if target.backend == "cuda":
        registers, stack = _cuda_resources(compiled.asm["cubin"])
    else:
        registers, stack = _amd_resources(compiled.asm["amdgcn"])
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return Resources(registers, stack, int(compiled.metadata.shared), int(columns))


# letters that Triton's backends read: a multiple of 16; a tensor below 2 GiB (it matters to AMD only)
_DIVISIBLE, _SMALL_TENSOR = "D", "S"


def _alignments(compilation: Compilation, signature: Mapping[str, str]) -> list[tuple[int, str]]:
    """(position, further letters) of each argument that Triton would specialise as a multiple of 16."""
    found = []
    for index, parameter in enumerate(compilation.kernel.params):
        kind = signature[parameter.name]
        never = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        if not re.match(r"\*|[iu]\d\d", kind) or never or parameter.name in compilation.unaligned:
            continue
        found.append((index, _SMALL_TENSOR if kind.startswith("*") else ""))
    return found


def _constants(compilation: Compilation) -> dict[str, Any]:
    """Those of the compilation and the defaults of the kernel."""
    parameters = {parameter.name: parameter for parameter in compilation.kernel.params}
    constants = {
        name: parameter.default
        for name, parameter in parameters.items()
        if parameter.is_constexpr and parameter.has_default
    }
    constants |= compilation.constants
    named = {*compilation.signature, *compilation.constants, *compilation.unaligned}
    missing = [name for name in parameters if name not in constants and name not in compilation.signature]
    if (unknown := named - set(parameters)) or missing:
        raise ValueError(
            f"{compilation.name}: arguments unknown to the kernel: {sorted(unknown) or 'none'}, left out: "
            f"{missing or 'none'}; it takes {', '.join(parameters)}"
        )
    return constants


def _cuda_resources(binary: bytes) -> tuple[int | None, int | None]:
    """Triton itself tells registers only after it has loaded a kernel onto a device; its package brings the tool."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    # a line for the kernel and one for each of its functions that is not inlined
    return _most(r"REG:(\d+)", text), _most(r"STACK:(\d+)", text)


def _amd_resources(assembly: str) -> tuple[int | None, int | None]:
    # .vgpr_count is the sum of both kinds of vector registers on a GPU that has them in one file: LLVM, "User Guide for
    # AMDGPU Backend"
    return _most(r"\.vgpr_count:\s*(\d+)", assembly), _most(r"\.private_segment_fixed_size:\s*(\d+)", assembly)


def _most(pattern: str, text: str) -> int | None:
    return max(map(int, re.findall(pattern, text)), default=None)


def kernels_of(module: ModuleType) -> dict[str, Any]:
    """name -> kernel, of those in `module` that a launcher launches: not what other kernels call."""
    from triton.runtime.jit import JITFunction

    found = {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, JITFunction) and value.__module__ == module.__name__
    }
    called = {
        node.func.id
        for kernel in found.values()
        for node in ast.walk(ast.parse(kernel.src))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return {name: kernel for name, kernel in found.items() if name not in called}
