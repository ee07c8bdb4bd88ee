"""What a launch of a Triton kernel reads and writes, from its arguments and its source, without launching it.

A kernel reads an argument once where its source loads from it, and writes it once where its source stores to it: what a
program reads a second time, it finds in a cache.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

from torch import Tensor

# triton.language: what an access does to its first argument
_ACCESSES = {"load": "r", "store": "w", **dict.fromkeys(("atomic_max", "atomic_min", "atomic_add"), "rw")}


class Launch(NamedTuple):
    """One launch: the kernel's name, and the tensors that it reads and writes."""

    kernel: str
    reads: list[Tensor]
    writes: list[Tensor]


@contextmanager
def intercepted(run: Callable[..., None]) -> Iterator[None]:
    """Within it `run(kernel, *arguments, grid=…, warmup=…, **options)` takes the place of a launch of a Triton kernel,
    compiled or interpreted.
    """
    from triton.runtime.interpreter import InterpretedFunction
    from triton.runtime.jit import JITFunction

    def in_place(kernel: Any, *arguments: Any, **options: Any) -> None:
        run(kernel, *arguments, **options)

    with mock.patch.object(JITFunction, "run", in_place), mock.patch.object(InterpretedFunction, "run", in_place):
        yield


def described(kernel: Any, *arguments: Any, **options: Any) -> Launch:
    """What a launch of `kernel` with these arguments reads and writes.

    Raises:
        ValueError: its source neither loads from a tensor nor stores to it, as far as it is understood here.
    """
    does = accesses(kernel)
    names = inspect.signature(kernel.fn).parameters
    given = dict(zip(names, arguments, strict=False)) | {name: options[name] for name in names if name in options}
    tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
    if unknown := [name for name in tensors if not does.get(name)]:
        raise ValueError(
            f"{kernel.fn.__name__}: got the tensors {', '.join(unknown)}, expected a tl.load, tl.store or atomic "
            "operation on each, in it or in the kernels that it calls; leave out the argument that is not used, or "
            "teach litespark.ops.launches the access"
        )
    reads = [tensor for name, tensor in tensors.items() if "r" in does[name]]
    return Launch(kernel.fn.__name__, reads, [tensor for name, tensor in tensors.items() if "w" in does[name]])


@cache
def accesses(kernel: Any) -> dict[str, str]:
    """Parameter of a kernel -> "r", "w" or "rw", for all that it loads from or stores to.

    A pointer is followed through the names that are assigned from it, and into the kernels that it is given to.
    """
    (function,) = ast.parse(textwrap.dedent(inspect.getsource(kernel.fn))).body
    assert isinstance(function, ast.FunctionDef)
    reader = _Reader(kernel)
    reader.read(function.body, {argument.arg: {argument.arg} for argument in function.args.args})
    return reader.accesses


class _Reader:
    """Reads the statements of a kernel in their order; a state is name -> the parameters that it may point into."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.accesses: dict[str, str] = {}

    def read(self, statements: Sequence[ast.stmt], state: dict[str, set[str]]) -> None:
        for statement in statements:
            if isinstance(statement, ast.If):
                self._expressions(statement.test, state)
                other = dict(state)
                self.read(statement.body, state)
                self.read(statement.orelse, other)
                state |= {name: state.get(name, set()) | origins for name, origins in other.items()}
            elif isinstance(statement, ast.For | ast.While):
                for _ in range(2):  # a loop may use what it assigned the time before
                    self.read(statement.body, state)
            else:
                self._expressions(statement, state)
                if isinstance(statement, ast.Assign | ast.AugAssign):
                    self._assign(statement, state)

    def _assign(self, statement: ast.Assign | ast.AugAssign, state: dict[str, set[str]]) -> None:
        origins = _origins(statement.value, state)
        for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
            if isinstance(target, ast.Name):
                before = state.get(target.id, set()) if isinstance(statement, ast.AugAssign) else set()
                state[target.id] = before | origins

    def _expressions(self, node: ast.AST, state: dict[str, set[str]]) -> None:
        for call in ast.walk(node):
            if isinstance(call, ast.Call):
                for argument, access in self._accessed(call):
                    for parameter in _origins(argument, state):
                        self.accesses[parameter] = "".join(sorted({*self.accesses.get(parameter, ""), *access}))

    def _accessed(self, call: ast.Call) -> Iterator[tuple[ast.AST, str]]:
        """The arguments of a call that it accesses, and how."""
        if isinstance(call.func, ast.Attribute) and call.func.attr in _ACCESSES:
            yield call.args[0], _ACCESSES[call.func.attr]
        called: Any = self.kernel.fn.__globals__.get(call.func.id) if isinstance(call.func, ast.Name) else None
        if hasattr(called, "fn"):
            inner = accesses(called)
            names = list(inspect.signature(called.fn).parameters)
            given = [*zip(names, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
            yield from ((argument, inner[name]) for name, argument in given if name in inner)


def _origins(node: ast.AST, state: dict[str, set[str]]) -> set[str]:
    """The parameters that a value points into: it is computed from them, and not loaded or made by a call."""
    if isinstance(node, ast.Call):
        return set()
    if isinstance(node, ast.Name):
        return state.get(node.id, set())
    return set().union(*(_origins(child, state) for child in ast.iter_child_nodes(node)))
