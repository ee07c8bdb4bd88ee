"""Verifies a backend: forward and backward against the fp32 reference, on this device, at the run's own widths.

What is verified of fp8 is in `litespark.ops.fp8.verification`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from litespark.ops import triton_support
from litespark.ops.backend import REFERENCE, load
from litespark.ops.cases import Case, cases, cut, small
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.settings import Fp8Config
from litespark.ops.fp8.verification import piece_trials, product_trials
from litespark.ops.precision import dtype_name
from litespark.ops.shapes import StepShapes
from litespark.ops.tolerance import Difference, Op, Trial, differences

# what the fp8 units are called among the backends of fp8
PRODUCTS = "units"
# the activations of the reference; see `cut`
MEMORY_BYTES = 2**30
SHORTEST_ROW = 16


@dataclass(frozen=True)
class Verification:
    """What came of running one case of one backend beside the fp32 reference."""

    # op, backend, case: what was run
    op: str
    backend: str
    case: str
    sizes: str  # at which sizes, in words
    dtype: str  # of the activations, "bf16"
    # through Triton's interpreter, which shows that the arithmetic is right and not that the compiled kernel is
    interpreted: bool
    seconds: float  # how long it took
    differences: tuple[Difference, ...]  # of every output and gradient; empty where it raised
    error: str | None = None  # what it raised, or None

    @property
    def passed(self) -> bool:
        """Nothing was raised, and every tensor is within its bound."""
        return self.error is None and bool(self.differences) and all(each.passed for each in self.differences)

    def __str__(self) -> str:
        what = f"{self.op}={self.backend} ({self.case}, {self.dtype}, {self.sizes})"
        if self.error is not None:
            return f"{what}: FAILED, it raised {self.error}"
        worst = max(self.differences, key=_severity)
        verdict = "verified" if self.passed else "FAILED"
        return f"{what}: {verdict}, {worst.tensor} is {worst.distance:.1e} away, at most {worst.bound:.1e} is allowed"


def verify(
    op: str,
    backend: str,
    shapes: StepShapes,
    device: torch.device,
    dtype: torch.dtype,
    *,
    autocast: bool = False,
    fp8: Fp8Config | None = None,
) -> list[Verification]:
    """Run every case of `op` with `backend`; one verification each.

    Shapes of the run are cut to what fits 1 GiB, and on a CPU to `small` sizes. With `autocast` the run computes in
    `dtype` over fp32 weights and an fp32 residual stream. `fp8`: settings of the run; None: all that there are.
    """
    # a query that sees only itself has gradients of exactly zero, from which nothing is a relative distance away
    shapes = replace(shapes, length=max(shapes.length, SHORTEST_ROW))
    sizes = _cut(op, shapes, device)
    if op == "fp8":
        trials = _fp8_trials(backend, sizes, device, dtype, autocast, fp8)
    else:
        trials = _trials(op, backend, sizes, device, dtype, autocast)
    return _verifications(op, backend, trials, device, dtype)


def verify_products(
    shapes: StepShapes, device: torch.device, dtype: torch.dtype, fp8: Fp8Config | None = None
) -> list[Verification]:
    """Multiply on the fp8 units of `device` beside the same codes multiplied in fp32, for each format of gradients.

    None where the device has no such units, or the run simulates them. Arguments as those of `verify`.
    """
    if without_units(device) is not None or (fp8 is not None and fp8.simulate):
        return []
    return _verifications(
        "fp8", PRODUCTS, product_trials(_cut("fp8", shapes, device), device, dtype, fp8), device, dtype
    )


def _cut(op: str, shapes: StepShapes, device: torch.device) -> StepShapes:
    return small(shapes) if device.type == "cpu" else cut(op, shapes, MEMORY_BYTES)


def _trials(
    op: str, backend: str, sizes: StepShapes, device: torch.device, dtype: torch.dtype, autocast: bool
) -> Iterator[Trial]:
    for case in cases(op, sizes, device):
        yield Trial(case.name, case.sizes, partial(_compared, case, backend, dtype, autocast))


def _fp8_trials(
    backend: str,
    sizes: StepShapes,
    device: torch.device,
    dtype: torch.dtype,
    autocast: bool,
    config: Fp8Config | None,
) -> Iterator[Trial]:
    yield from piece_trials(load("fp8", backend), sizes, device, dtype, autocast=autocast, config=config)


def _verifications(
    op: str, backend: str, trials: Iterator[Trial], device: torch.device, dtype: torch.dtype
) -> list[Verification]:
    """One verification for each trial, and one of nothing where there was no memory to make its inputs."""
    interpreted = device.type == "cpu" and backend.startswith("triton") and triton_support.interpreting()
    found: list[Verification] = []

    def add(case: str, sizes: str, seconds: float, outcome: list[Difference] | Exception) -> None:
        compared, error = ((), said(outcome)) if isinstance(outcome, Exception) else (tuple(outcome), None)
        found.append(Verification(op, backend, case, sizes, dtype_name(dtype), interpreted, seconds, compared, error))

    try:
        for trial in trials:
            start = time.perf_counter()
            outcome = _outcome(trial)
            add(trial.name, trial.sizes, time.perf_counter() - start, outcome)
    except Exception as raised:  # noqa: BLE001 (no verification on this rank, which the others hear of)
        add(op, "no inputs", 0.0, raised)
    return found


def _outcome(trial: Trial) -> list[Difference] | Exception:
    try:
        with _exact_products():
            return trial.compare()
    except Exception as raised:  # noqa: BLE001 (a kernel may raise anything, and whatever it raises it is not verified)
        return raised


def _compared(case: Case, backend: str, dtype: torch.dtype, autocast: bool) -> list[Difference]:
    function, reference = load(case.op, backend), load(case.op, REFERENCE)
    return differences(_as_run(case, function, dtype, autocast), _called(case, reference), case.inputs, dtype)


def _severity(difference: Difference) -> tuple[bool, float]:
    ratio = difference.distance / difference.bound if difference.bound else difference.distance
    return not difference.passed, ratio


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
