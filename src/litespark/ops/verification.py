"""Verifies a backend: forward and backward against the fp32 reference, on this device, at the run's own widths."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from litespark.device import device_of
from litespark.ops import triton_support
from litespark.ops.backend import REFERENCE, load, structure
from litespark.ops.cases import Case, cases, cut, small
from litespark.ops.fp8.limits import without_units
from litespark.ops.fp8.verification import piece_trials, product_trials
from litespark.ops.precision import dtype_name
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.structure import rows_at_once
from litespark.ops.tolerance import Difference, Trial, differences

log = logging.getLogger(__name__)

# of the activations of the reference; see `cut`
_MEMORY_BYTES = 2**30
_SHORTEST_SEQUENCE = 16
_ROW_MULTIPLE = 16  # of rows that are taken at once


@dataclass(frozen=True)
class Verification:
    """What came of running one case of one backend beside the fp32 reference."""

    op: str
    backend: str
    case: str
    sizes: str  # in words
    dtype: str  # of the activations, "bf16"
    # through Triton's interpreter, which shows that the arithmetic is right and not that the compiled kernel is
    interpreted: bool
    seconds: float
    differences: tuple[Difference, ...]  # of every output and gradient; empty where it raised
    error: str | None = None  # what it raised, or None
    # structural cases that the backend has in the run, and not at the sizes that there was room for
    without: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Nothing was raised, and every tensor is within its bound."""
        return self.error is None and bool(self.differences) and all(tensor.passed for tensor in self.differences)

    def __str__(self) -> str:
        what = f"{self.op}={self.backend} ({self.case}, {self.dtype}, {self.sizes})"
        if self.error is not None:
            return f"{what}: FAILED, it raised {self.error}"
        worst = max(self.differences, key=_severity)
        verdict = "verified" if self.passed else "FAILED"
        without = f"; not covered: {', '.join(self.without)}" if self.without else ""
        how_far = f"{worst.tensor} is {worst.distance:.1e} away, at most {worst.bound:.1e} is allowed"
        return f"{what}: {verdict}, {how_far}{without}"


def failures(verifications: Sequence[Verification]) -> list[Verification]:
    return [verification for verification in verifications if not verification.passed]


def verify(op: str, backend: str, place: Place) -> list[Verification]:
    """Run every case of `op` with `backend` as a run at `place` does; one verification each.

    Shapes are those of `sizes_for`. Of fp8 everything is verified that the settings of `place` may ask for; where there
    are none, everything that any may ask for.
    """
    sizes = sizes_for(op, backend, place)
    if sizes.without:
        log.warning("ops.%s=%s is verified without what it has in this run: %s", op, backend, ", ".join(sizes.without))
    with rows_at_once(sizes.rows_at_once):
        verifications = _verifications(op, backend, _trials(op, backend, sizes.place), sizes.place)
    dealt = "" if sizes.rows_at_once is None else f", {sizes.rows_at_once} rows at once"
    return [replace(it, sizes=it.sizes + dealt, without=sizes.without) for it in verifications]


def why_wrong(op: str, backend: str, place: Place) -> str | None:
    """What `verify` finds wrong, in one line; None: all of it is right."""
    verifications = verify(op, backend, place)
    return "; ".join(map(str, failures(verifications))) or (None if verifications else "it was not verified")


def verify_products(place: Place) -> list[Verification]:
    """Products of the device's fp8 units beside those of the same codes in fp32; none where they are not used."""
    if without_units(place.device) is not None or (place.fp8 is not None and place.fp8.simulate):
        return []
    place = sizes_for("fp8", REFERENCE, place).place
    return _verifications("fp8", "units", product_trials(place.shapes, place.device, place.dtype, place.fp8), place)


def verify_adamw(device: torch.device) -> list[Verification]:
    """Triton's kernel of AdamW beside PyTorch's on the CPU."""
    from litespark.ops.adamw.verification import adamw_trials  # only where Triton is

    place = Place(device, torch.float32, StepShapes(1, 1, 1, 1, 1, 1, 1, 1))
    return _verifications("adamw", "triton", adamw_trials(device), place)


@dataclass(frozen=True)
class Sizes:
    """At which sizes an op is verified."""

    place: Place
    rows_at_once: int | None  # that it takes, see `litespark.ops.structure`; None: as many as in a run
    without: tuple[str, ...]  # structural cases of the run that it does not come to


def sizes_for(op: str, backend: str, place: Place) -> Sizes:
    """What fits 1 GiB, and on a CPU `small` sizes; where a run deals its rows to more parts, three parts at least."""
    # a query that sees only itself has gradients of exactly zero, from which nothing is a relative distance away
    place = replace(place, shapes=replace(place.shapes, length=max(place.shapes.length, _SHORTEST_SEQUENCE)))
    on_cpu = not device_of(place.device).is_accelerator
    there = replace(place, shapes=small(op, place.shapes) if on_cpu else cut(op, place.shapes, _MEMORY_BYTES))
    wanted = structure(op, backend, place)
    without = wanted - structure(op, backend, there)
    rows = -(-(there.shapes.tokens // 3 + 1) // _ROW_MULTIPLE) * _ROW_MULTIPLE
    with rows_at_once(rows):
        fewer = wanted - structure(op, backend, there)
    helps = len(fewer) < len(without)
    return Sizes(there, rows if helps else None, tuple(sorted(fewer if helps else without)))


def _trials(op: str, backend: str, place: Place) -> Iterator[Trial]:
    if op == "fp8":
        yield from piece_trials(load(op, backend), place)
    else:
        for case in cases(op, place.shapes, place.device):
            yield Trial(case.name, case.sizes, partial(_compared, case, backend, place))


def _verifications(op: str, backend: str, trials: Iterator[Trial], place: Place) -> list[Verification]:
    """One for each trial, and a failed one where there was no memory to make its inputs."""
    on_cpu = not device_of(place.device).is_accelerator
    interpreted = on_cpu and backend.startswith("triton") and triton_support.interpreting()
    done: list[Verification] = []

    def add(case: str, sizes: str, seconds: float, compared: Sequence[Difference], error: str | None) -> None:
        dtype = dtype_name(place.dtype)
        done.append(Verification(op, backend, case, sizes, dtype, interpreted, seconds, tuple(compared), error))

    try:
        for trial in trials:
            start, compared, error = time.perf_counter(), [], None
            try:
                with _exact_products():
                    compared = trial.compare()
            except Exception as raised:  # noqa: BLE001 (a kernel may raise anything, and is not verified then)
                error = said(raised)
            add(trial.name, trial.sizes, time.perf_counter() - start, compared, error)
    except Exception as raised:  # noqa: BLE001 (no verification on this rank; the others are told)
        add(op, "no inputs", 0.0, (), said(raised))
    return done


def _compared(case: Case, backend: str, place: Place) -> list[Difference]:
    function, reference = load(case.op, backend), load(case.op, REFERENCE)

    def as_the_step_calls_it(*tensors: Tensor) -> Tensor | tuple[Tensor, ...]:
        if not place.autocast or place.dtype == torch.float32:
            return case.call(function, *tensors)
        given = zip(case.inputs, tensors, strict=True)
        wide = (x.to(case.dtype_of(name, place)) if name in case.not_autocast else x for name, x in given)
        with device_of(place.device).autocast(place.dtype):
            return case.call(function, *wide)

    return differences(as_the_step_calls_it, partial(case.call, reference), case.inputs, place.dtype)


def _severity(difference: Difference) -> tuple[bool, float]:
    ratio = difference.distance / difference.bound if difference.bound else difference.distance
    return not difference.passed, ratio


def said(error: Exception) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def _exact_products() -> Iterator[None]:
    """fp32 matrix products in fp32, whatever the run allows itself: the reference must be one."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
