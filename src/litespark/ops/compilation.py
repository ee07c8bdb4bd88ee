"""All kernels of all ops, compiled for targets that need not be in this machine.

A `kernels.py` lists in `launches(target)` calls of its launchers with tensors on meta, the most usual one of each
kernel first; what each would launch is recorded. Where kernels need what not every target has, the module has a
function `not_for(target)` that returns why they are not for it, or None.
"""

import ast
import contextlib
import importlib
import importlib.util
import io
import math
import pkgutil
import re
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from litespark.ops.instructions import Code, read
from litespark.ops.launches import intercepted
from litespark.ops.triton_support import INTERPRET, TARGETS, Launches, Target, interpreting, recording

# columns that one program may have: NVIDIA PTX ISA, "Tensor Memory"
TENSOR_MEMORY_COLUMNS = 512
# folders whose kernels are only called by kernels of ops
_SHARED = frozenset({"rounding"})
# of a launch, that the compiler is given
_OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")


@dataclass(frozen=True)
class Compilation:
    """One kernel with one launch configuration, as Triton compiles it for a launch on a target."""

    name: str  # the kernel and what it is launched for, "rms_norm_forward_kernel bf16 D4096"
    kernel: Any
    types: Mapping[str, str]  # argument -> Triton's type, "constexpr" for constants
    constants: Mapping[str, Any]
    attributes: Mapping[str, Any]  # argument -> what the compiler may assume of it, such as multiples of 16
    options: Mapping[str, int]  # warps, and where the launch states them stages, and whether a · b + c is rounded once
    # for one thread of this launch: of the smallest tensor that has at least half as many as the largest (of SwiGLU, a
    # value of the product); None where tensors are handed over by their addresses
    values: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Resources:
    """What a compiled kernel takes; None: it is not told."""

    registers: int | None  # per thread; on AMD both kinds of vector registers together
    stack_bytes: int | None  # local (AMD: scratch) memory per thread, where spilled registers go
    shared_bytes: int  # per program
    tensor_memory_columns: int = 0  # per program; 0 where a target has no tensor memory


@dataclass(frozen=True)
class Attempt:
    """What came of compiling one configuration for one target."""

    kernel: str  # name of the kernel's function
    name: str  # of the compilation
    target: str
    resources: Resources | None  # None where it did not compile
    error: str | None  # of the compiler where it did not compile
    seconds: float
    num_warps: int = 4  # of a program
    values: float | None = None  # see `Compilation`
    code: Code | None = None  # None where it did not compile, and for AMD's devices

    @property
    def instructions_a_value(self) -> float | None:
        """Of a kernel without loops; None elsewhere, since how often a loop goes round is in no text."""
        if self.code is None or self.code.loops or not self.values:
            return None
        return self.code.instructions / self.values

    def misfit(self) -> str | None:
        """Why it cannot be launched on its target; None where it can."""
        if self.resources is None:
            return f"{self.name} does not compile for {self.target}: {self.error}"
        for used, limit, what in (
            (self.resources.shared_bytes, TARGETS[self.target].shared_bytes, "bytes of shared memory"),
            (self.resources.tensor_memory_columns, TENSOR_MEMORY_COLUMNS, "columns of tensor memory"),
        ):
            if used > limit:
                return f"{self.name} takes {used} {what} on {self.target}, which has {limit}"
        return None


@dataclass(frozen=True)
class Compiled:
    """What came of compiling kernels."""

    command: str  # to reproduce it
    attempts: tuple[Attempt, ...]  # one for each configuration and target
    exclusions: tuple[str, ...] = ()  # why the kernels of an op are not for a target, one line each

    @property
    def misfits(self) -> list[str]:
        """Why configurations cannot be launched, one line each."""
        return [" ".join(misfit.split()) for made in self.attempts if (misfit := made.misfit())]


def ops_with_kernels() -> dict[str, str]:
    """op -> the name of the module of its kernels, without importing it."""
    package = importlib.import_module("litespark.ops")
    folders = {folder.name for folder in pkgutil.iter_modules(package.__path__) if folder.ispkg}
    modules = {op: f"{package.__name__}.{op}.kernels" for op in sorted(folders - _SHARED)}
    return {op: module for op, module in modules.items() if importlib.util.find_spec(module) is not None}


def not_for(module: str, target: Target) -> str | None:
    """Why the kernels of a module are not for a target; None where they are."""
    stated = getattr(importlib.import_module(module), "not_for", None)
    return None if stated is None else stated(target)


def compilations(
    modules: Collection[str], targets: Collection[Target], *, every: bool
) -> Iterator[tuple[Compilation, Target]]:
    """What modules of kernels launch on the targets that they are for: all, or the first configuration of each kernel.

    Raises:
        ValueError: a kernel of a module is not launched.
    """
    for name in modules:
        module = importlib.import_module(name)
        for target in targets:
            if not_for(name, target) is not None:
                continue
            made = recorded_launches(module.launches(target), target)
            first = {compilation.kernel: compilation for compilation in reversed(made)}
            forgotten = [kernel.__name__ for kernel in _launched_kernels(module) if kernel not in first]
            if forgotten:
                raise ValueError(
                    f"{name}.launches({target.name}): got no launch of {', '.join(forgotten)}, expected one of each "
                    "kernel; add it there"
                )
            for compilation in made:
                if every or first[compilation.kernel] is compilation:
                    yield compilation, target


def _launched_kernels(module: ModuleType) -> list[Any]:
    """Kernels of a module that a launcher launches: not what other kernels call."""
    from triton.runtime.jit import JITFunction

    own = (value for value in vars(module).values() if isinstance(value, JITFunction))
    kernels = [kernel for kernel in own if kernel.__module__ == module.__name__]
    called = {
        node.func.id
        for kernel in kernels
        for node in ast.walk(ast.parse(kernel.src))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    return [kernel for kernel in kernels if kernel.__name__ not in called]


def recorded_launches(launches: Launches, target: Target) -> list[Compilation]:
    """What Triton would compile for launches on `target`, each once; RuntimeError where kernels are interpreted."""
    if interpreting():
        raise RuntimeError(f"kernels are interpreted in this process; compile without {INTERPRET}")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.jit import create_function_from_signature

    backend = make_backend(GPUTarget(target.backend, target.architecture, target.warp_size))
    recorded: list[Compilation] = []
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
            {"num_warps": 4} | {name: left[name] for name in _OPTIONS if name in left},
        )
        made = replace(made, values=_values(bound.values(), grid, made.options["num_warps"] * target.warp_size))
        if not any(replace(made, name=earlier.name) == earlier for earlier in recorded):
            recorded.append(made)

    with recording(target), intercepted(record):
        for purpose, launch in launches:  # noqa: B007 (read where it is recorded)
            launch()
    return recorded


def _values(arguments: Iterable[Any], grid: tuple[int, ...], threads: int) -> float | None:
    sizes = [argument.numel() for argument in arguments if isinstance(argument, torch.Tensor)]
    if not sizes:
        return None
    values = min(size for size in sizes if 2 * size >= max(sizes)) / (math.prod(grid) * threads)
    return values if values >= 1 else None


def attempt(compilation: Compilation, target: Target) -> Attempt:
    """Compile one configuration; what the compiler raises becomes part of the result."""
    start, resources, code, error = time.perf_counter(), None, None, None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where ptxas fails, Triton prints the whole program
            resources, code = _compiled(compilation, target)
    except Exception as raised:  # noqa: BLE001 compilers raise what they like, and one kernel must not hide the others
        error = f"{type(raised).__name__}: {str(raised).strip()}"
    seconds = time.perf_counter() - start
    return Attempt(
        compilation.kernel.__name__, compilation.name, target.name, resources, error, seconds,
        compilation.options["num_warps"], compilation.values, code,
    )  # fmt: skip


def _compiled(compilation: Compilation, target: Target) -> tuple[Resources, Code | None]:
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
    asm = compiled.asm
    code = None
    if target.backend == "cuda":
        needs = _printed("cuobjdump", "--dump-resource-usage", asm["cubin"])
        # a line for the kernel and one for each of its functions that is not inlined
        registers, stack = _most(r"REG:(\d+)", needs), _most(r"STACK:(\d+)", needs)
        code = read(_printed("nvdisasm", "-c", asm["cubin"]))
    else:
        registers, stack = _amd_needs(asm["amdgcn"])
    columns = getattr(compiled.metadata, "tmem_size", None) or 0
    return Resources(registers, stack, int(compiled.metadata.shared), int(columns)), code


def _printed(tool: str, option: str, binary: bytes) -> str:
    """What one of NVIDIA's tools, which Triton's package brings, prints of a cubin: Triton itself tells registers only
    of a kernel that it has loaded onto a device."""
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / tool
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        return subprocess.run([str(program), option, file.name], capture_output=True, text=True, check=True).stdout


def _amd_needs(assembly: str) -> tuple[int | None, int | None]:
    """The same from the metadata of assembly: LLVM, "User Guide for AMDGPU Backend", code object metadata.

    `.vgpr_count` is the sum of both kinds of vector registers on GPUs such as gfx942 that have them in one file.
    """
    return _most(r"\.vgpr_count:\s*(\d+)", assembly), _most(r"\.private_segment_fixed_size:\s*(\d+)", assembly)


def _most(pattern: str, text: str) -> int | None:
    return max(map(int, re.findall(pattern, text)), default=None)
