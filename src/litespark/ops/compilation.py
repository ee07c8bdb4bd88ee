"""All kernels of all ops, compiled for targets that need not be in this machine.

An op that has a `kernels.py` lists there, in `launches(target)`, calls of its launchers with tensors on meta; what each
would launch is recorded. The first of each kernel is the most usual one. A configuration fits when it compiles and
takes no more shared and tensor memory than the target has. Kernels that need what a target does not have say so: their
module has a function `not_for(target)` that returns why they are not for it, or None where they are.

Importing and the first kernel of a process take some seconds, any further kernel 0.1 to 0.6 s of one core on an AMD
EPYC, so that one process compiles many of them, for all targets down to the binary.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import pkgutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType

from litespark.ops.resources import Resources
from litespark.ops.triton_support import TARGETS, Compilation, Target, compile_for, kernels_of, recorded_launches

# columns that one program may have: NVIDIA PTX ISA, "Tensor Memory"
TENSOR_MEMORY_COLUMNS = 512
# folders whose kernels are only called by kernels of ops
_SHARED = frozenset({"rounding"})


@dataclass(frozen=True)
class Attempt:
    """What came of compiling one configuration for one target."""

    kernel: str  # name of the kernel's function
    name: str  # of the compilation
    target: str
    resources: Resources | None  # None where it did not compile
    error: str | None  # of the compiler where it did not compile
    seconds: float

    def misfit(self) -> str | None:
        """Why it cannot be launched on its target; None where it can."""
        if self.resources is None:
            return f"{self.name} does not compile for {self.target}: {self.error}"
        used, limit = self.resources.shared_bytes, TARGETS[self.target].shared_bytes
        if used > limit:
            return f"{self.name} takes {used} bytes of shared memory on {self.target}, which has {limit}"
        if self.resources.tensor_memory_columns > TENSOR_MEMORY_COLUMNS:
            return (
                f"{self.name} takes {self.resources.tensor_memory_columns} columns of tensor memory on {self.target}, "
                f"which has {TENSOR_MEMORY_COLUMNS}"
            )
        return None


def ops_with_kernels() -> dict[str, str]:
    """op -> the name of the module of its kernels, without importing it."""
    package = importlib.import_module("litespark.ops")
    folders = [found.name for found in pkgutil.iter_modules(package.__path__) if found.ispkg]
    modules = {op: f"{package.__name__}.{op}.kernels" for op in sorted(set(folders) - _SHARED)}
    return {op: module for op, module in modules.items() if importlib.util.find_spec(module) is not None}


def not_for(module: ModuleType, target: Target) -> str | None:
    """Why the kernels of a module are not for a target; None where they are."""
    stated: Callable[[Target], str | None] | None = getattr(module, "not_for", None)
    return None if stated is None else stated(target)


def compilations_of(module: ModuleType, target: Target, *, every: bool) -> list[Compilation]:
    """What a module of kernels launches on a target: all of it, or the first configuration of each kernel.

    Nothing where its kernels are not for the target.

    Raises:
        RuntimeError: the kernels of this process are interpreted.
        ValueError: a kernel of the module, or the whole module, is not launched.
    """
    if not_for(module, target) is not None:
        return []
    made = recorded_launches(module.launches(target), target)
    first = {compilation.kernel: compilation for compilation in reversed(made)}
    forgotten = [name for name, kernel in kernels_of(module).items() if kernel not in first]
    if forgotten or not made:
        raise ValueError(
            f"{module.__name__}.launches({target.name}): got no launch of {', '.join(forgotten) or 'any kernel'}, "
            "expected one of each kernel; add it there"
        )
    return made if every else [compilation for compilation in made if first[compilation.kernel] is compilation]


def attempt(compilation: Compilation, target: Target) -> Attempt:
    """Compile one configuration; what the compiler raises becomes part of the result."""
    kernel = compilation.kernel.__name__
    start = time.perf_counter()
    resources, error = None, None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # where ptxas fails, Triton prints the whole program
            resources = compile_for(compilation, target)
    except Exception as raised:  # noqa: BLE001 compilers raise what they like, and one kernel must not hide the others
        error = f"{type(raised).__name__}: {str(raised).strip()}"
    return Attempt(kernel, compilation.name, target.name, resources, error, time.perf_counter() - start)


def exclusions(ops: Mapping[str, str], targets: Collection[Target]) -> list[str]:
    """One line for each op and target that its kernels are not for; `ops` as `ops_with_kernels` gives them."""
    return [
        f"{op} is not for {target.name}: {reason}"
        for op, module in ops.items()
        for target in targets
        if (reason := not_for(importlib.import_module(module), target)) is not None
    ]


def chosen_compilations(
    modules: Collection[str], targets: Collection[Target], *, every: bool
) -> Iterator[tuple[Compilation, Target]]:
    """`compilations_of` for modules by name ("litespark.ops.rope.kernels"), and each of the targets."""
    for name in modules:
        module = importlib.import_module(name)
        for target in targets:
            for compilation in compilations_of(module, target, every=every):
                yield compilation, target
