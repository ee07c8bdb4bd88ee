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
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from litespark.ops.resources import Resources, amd_registers_and_stack, cuda_registers_and_stack
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
        without_fp8: what it has instead of units for the fp8 formats that we train in; None: it has them.
    """

    name: str
    backend: str
    architecture: int | str
    warp_size: int
    shared_bytes: int
    without_fp8: str | None = None


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


def needs_fp8(target: Target) -> str | None:
    """Why kernels that make fp8 codes are not for `target`; None where they are. A `kernels.py` states it of its
    kernels as `not_for = needs_fp8`, see `litespark.ops.compilation`."""
    return target.without_fp8


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
        num_warps: as at the launch.
        num_stages: as at the launch; None where that leaves it to Triton, whose default is the target's.
        unaligned: arguments that are not multiples of 16 there.
    """

    name: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int | None = None
    unaligned: Collection[str] = ()


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
    from triton.compiler import ASTSource

    made = specialisation(compilation, target)
    positions = {name: index for index, name in enumerate(made.types)}
    attributes: dict[tuple[int, ...], Any] = {(positions[name],): kind for name, kind in made.attributes.items()}
    compiled = triton.compile(
        ASTSource(compilation.kernel, made.types, constexprs=made.constants, attrs=attributes),
        target=GPUTarget(target.backend, target.architecture, target.warp_size),
        options=made.options,
    )
    if target.backend == "cuda":
        cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        registers, stack = cuda_registers_and_stack(compiled.asm["cubin"], cuobjdump)
    else:
        registers, stack = amd_registers_and_stack(compiled.asm["amdgcn"])
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return Resources(registers, stack, int(compiled.metadata.shared), int(columns))


@dataclass(frozen=True)
class Specialisation:
    """What Triton compiles a kernel for: the same for a launch and for the compilation that stands for it.

    Attributes:
        types: argument -> Triton's type, "constexpr" for constants.
        constants: argument -> value.
        attributes: argument -> what the compiler may assume of it; those without are left out.
        options: warps, and stages where they are stated.
    """

    types: dict[str, str]
    constants: dict[str, Any]
    attributes: dict[str, list[list[Any]]]
    options: dict[str, int]


def specialisation(compilation: Compilation, target: Target) -> Specialisation:
    """As Triton would make it at the launch that `compilation` stands for.

    Raises:
        ValueError: the compilation names an argument that the kernel does not have, or leaves one out.
    """
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    # its letters: D is a multiple of 16, S a tensor below 2 GiB (of interest to AMD only)
    parse = make_backend(GPUTarget(target.backend, target.architecture, target.warp_size)).parse_attr
    constants = _constants(compilation)
    types, attributes = {}, {}
    for parameter in compilation.kernel.params:
        name = parameter.name
        kind = types[name] = "constexpr" if name in constants else compilation.signature[name]
        never = parameter.do_not_specialize or parameter.do_not_specialize_on_alignment
        aligned = re.match(r"\*|[iu]\d\d", kind) and not never and name not in compilation.unaligned
        letters = ("D" if aligned else "") + ("S" if kind.startswith("*") else "")
        if assumed := parse(letters):
            attributes[name] = assumed
    stages = {} if compilation.num_stages is None else {"num_stages": compilation.num_stages}
    return Specialisation(types, constants, attributes, {"num_warps": compilation.num_warps, **stages})


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
