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
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from litespark.ops.resources import Resources, amd_registers_and_stack, cuda_registers_and_stack
from litespark.ops.shapes import StepShapes

OLDEST_CUDA_CAPABILITY = (8, 0)
_INTERPRET = "TRITON_INTERPRET"
# the target that launches are recorded for; None: they are made
_recording: Target | None = None


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


def target_of(device: torch.device) -> Target:
    """The target whose launch configurations fit `device`; for a CPU (the interpreter) any does: sm_90.

    A device that is not in `TARGETS` gets that of its generation with the least shared memory.
    """
    return target_at_hand(device) if _recording is None else _recording


@functools.cache
def target_at_hand(device: torch.device) -> Target:
    """`target_of` outside of `recorded_launches`."""
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


def needs_fp8(target: Target) -> str | None:
    """Why kernels that make fp8 codes are not for `target`; None where they are. A `kernels.py` states it of its
    kernels as `not_for = needs_fp8`, see `litespark.ops.compilation`."""
    return target.without_fp8


def on_device_of(x: Tensor) -> AbstractContextManager[Any]:
    """Makes the device of `x` the current one: Triton launches there, whatever device its arguments are on."""
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()


# ---------------------------------------------------------------- compiling without a device

# what a launch is for, and the launch
Launches = Iterable[tuple[str, Callable[[], object]]]


@dataclass(frozen=True)
class Compilation:
    """One kernel with one launch configuration, as Triton compiles it for a launch on a target."""

    name: str  # the kernel and what it is launched for, "rms_norm_forward_kernel bf16 D4096"
    kernel: Any
    types: Mapping[str, str]  # argument -> Triton's type, "constexpr" for constants
    constants: Mapping[str, Any]
    attributes: Mapping[str, Any]  # argument -> what the compiler may assume of it, such as multiples of 16
    options: Mapping[str, int]  # warps, and stages where the launch states them

    def is_like(self, other: Compilation) -> bool:
        """Whether Triton compiles the same for both."""
        return replace(self, name=other.name) == other


def on_meta(*shape_and_dtype: Any) -> Tensor:
    """A tensor without memory, of the dtype that comes last, to be launched with where launches are recorded."""
    *shape, dtype = shape_and_dtype
    return torch.empty(shape, dtype=dtype, device="meta")


def triton_version() -> str:
    """The version of Triton that kernels are compiled with."""
    import triton

    return triton.__version__


def recorded_launches(launches: Launches, target: Target) -> list[Compilation]:
    """What Triton would compile for launches on `target`, each once; none is made, so tensors may be on meta.

    Raises:
        RuntimeError: the kernels of this process are interpreted, so that there is nothing to compile.
    """
    global _recording
    if interpreting():
        raise RuntimeError(f"kernels are interpreted in this process; compile without {_INTERPRET}")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import JITFunction, create_function_from_signature

    backend = make_backend(GPUTarget(target.backend, target.architecture, target.warp_size))
    found: list[Compilation] = []
    purpose = ""

    def record(kernel: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> None:
        bind = create_function_from_signature(kernel.signature, kernel.params, backend)
        bound, specialised, left = bind(*arguments, **options)
        arguments_of = dict(zip(bound, specialised, strict=True))
        # Triton has one type of truth values and two names for it
        types = {name: kind.replace("u1", "i1") for name, (kind, _) in arguments_of.items()}
        assumed = {
            name: backend.parse_attr(letters)
            for name, (kind, letters) in arguments_of.items()
            if kind != "constexpr" and letters
        }
        made = Compilation(
            f"{kernel.__name__} {purpose}".strip(),
            kernel,
            types,
            {name: bound[name] for name, kind in types.items() if kind == "constexpr"},
            {name: attributes for name, attributes in assumed.items() if attributes},
            {"num_warps": 4} | {name: left[name] for name in ("num_warps", "num_stages") if name in left},
        )
        if not any(made.is_like(earlier) for earlier in found):
            found.append(made)

    make_launch, JITFunction.run, _recording = JITFunction.run, record, target
    try:
        for purpose, launch in launches:  # noqa: B007 (read where it is recorded)
            launch()
    finally:
        JITFunction.run, _recording = make_launch, None
    return found


def compile_for(compilation: Compilation, target: Target) -> Resources:
    """Compile for a target that need not be in this machine; raises whatever Triton raises."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    places = {name: (index,) for index, name in enumerate(compilation.types)}
    attributes: dict[tuple[int, ...], Any] = {places[name]: kind for name, kind in compilation.attributes.items()}
    compiled = triton.compile(
        ASTSource(compilation.kernel, compilation.types, constexprs=compilation.constants, attrs=attributes),
        target=GPUTarget(target.backend, target.architecture, target.warp_size),
        options=dict(compilation.options),
    )
    if target.backend == "cuda":
        cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        registers, stack = cuda_registers_and_stack(compiled.asm["cubin"], cuobjdump)
    else:
        registers, stack = amd_registers_and_stack(compiled.asm["amdgcn"])
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return Resources(registers, stack, int(compiled.metadata.shared), int(columns))


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
