"""Proves a backend: forward and backward against the fp32 reference, on this device, at the run's own widths."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from litespark.ops import triton_support
from litespark.ops.backend import REFERENCE, load
from litespark.ops.cases import Case, cases, cut, small
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import Difference, Op, differences

# the activations of the reference; see `cut`
MEMORY_BYTES = 2**30
SHORTEST_ROW = 16


@dataclass(frozen=True)
class Proof:
    """What came of running one case of one backend beside the fp32 reference.

    Attributes:
        op, backend, case: what was run.
        sizes: at which sizes, in words.
        dtype: of the activations, "bf16".
        interpreted: through Triton's interpreter, which shows that the arithmetic is right and not that the compiled
            kernel is.
        seconds: how long it took.
        differences: of every output and gradient; empty where it raised.
        error: what it raised, or None.
    """

    op: str
    backend: str
    case: str
    sizes: str
    dtype: str
    interpreted: bool
    seconds: float
    differences: tuple[Difference, ...]
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Nothing was raised, and every tensor is within its bound."""
        return self.error is None and bool(self.differences) and all(each.passed for each in self.differences)

    def __str__(self) -> str:
        what = f"{self.op}={self.backend} ({self.case}, {self.dtype}, {self.sizes})"
        if self.error is not None:
            return f"{what}: FAILED, it raised {self.error}"
        worst = max(self.differences, key=lambda each: each.distance / each.bound if each.bound else float("inf"))
        verdict = "proven" if self.passed else "FAILED"
        return f"{what}: {verdict}, {worst.tensor} is {worst.distance:.1e} away, at most {worst.bound:.1e} is allowed"


def prove(
    op: str, backend: str, shapes: StepShapes, device: torch.device, dtype: torch.dtype, *, autocast: bool = False
) -> list[Proof]:
    """Run every case of `op` with `backend`; one proof each.

    Args:
        op, backend: names of `BACKENDS`.
        shapes: of the run. They are cut to what fits 1 GiB, and on a CPU to `small` sizes.
        device: where the run will compute.
        dtype: of the run's activations.
        autocast: the run computes in `dtype` under autocast, over fp32 weights and an fp32 residual stream.
    """
    # a query that sees only itself has gradients of exactly zero, from which nothing is a relative distance away
    shapes = replace(shapes, length=max(shapes.length, SHORTEST_ROW))
    sizes = small(shapes) if device.type == "cpu" else cut(op, shapes, MEMORY_BYTES)
    try:
        found = cases(op, sizes, device)
    except Exception as raised:  # noqa: BLE001 (too little memory: no proof on this rank, which the others hear of)
        return [Proof(op, backend, op, "no inputs", dtype_name(dtype), False, 0.0, (), said(raised))]
    return [_prove(case, backend, device, dtype, autocast) for case in found]


def _prove(case: Case, backend: str, device: torch.device, dtype: torch.dtype, autocast: bool) -> Proof:
    start = time.perf_counter()
    found: tuple[Difference, ...] = ()
    error = None
    try:
        function, reference = load(case.op, backend), load(case.op, REFERENCE)
        with _exact_products():
            found = tuple(
                differences(_as_run(case, function, dtype, autocast), _called(case, reference), case.inputs, dtype)
            )
    except Exception as raised:  # noqa: BLE001 (a kernel may raise anything, and whatever it raises it is not proven)
        error = said(raised)
    return Proof(
        op=case.op,
        backend=backend,
        case=case.name,
        sizes=case.sizes,
        dtype=dtype_name(dtype),
        interpreted=device.type == "cpu" and backend.startswith("triton") and triton_support.interpreting(),
        seconds=time.perf_counter() - start,
        differences=found,
        error=error,
    )


def said(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _called(case: Case, function: Callable[..., object]) -> Op:
    def run(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        return case.call(function, *tensors)

    return run


def _as_run(case: Case, function: Callable[..., object], dtype: torch.dtype, autocast: bool) -> Op:
    """The backend called as the training step calls it."""
    if not autocast or dtype == torch.float32:
        return _called(case, function)

    def run(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        wide = [
            tensor.float() if name in case.stay_fp32 else tensor
            for name, tensor in zip(case.inputs, tensors, strict=True)
        ]
        with torch.autocast(tensors[0].device.type, dtype):
            return case.call(function, *wide)

    return run


@contextmanager
def _exact_products() -> Iterator[None]:
    """fp32 matrix products in fp32, whatever the run allows itself: the reference must be one."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def dtype_name(dtype: torch.dtype) -> str:
    """ "fp32", "bf16" or "fp16"."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, str(dtype))
