"""AdamW's update in Triton: one kernel for many tensors, its launcher and launch configuration.

Weights and moments are fp32, gradients fp32 or bf16. The order of operations, and which of them are rounded together,
is that of PyTorch's fused AdamW on CPUs (ATen/native/cpu/FusedAdamKernel.cpp), so both give the same bits. PyTorch's
kernel for GPUs rounds elsewhere, and takes powers of the decays in fp32.
"""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.device import device_of
from litespark.ops.precision import dtype_name
from litespark.ops.rounding.kernels import INTERPRETED, rounded
from litespark.ops.triton_support import Launches, Target, on_device_of, on_meta

# values of one program: two 16-byte loads of each tensor a thread
BLOCK = 2048
_NUM_WARPS = 8
# with addresses and lengths of such multiples loads and stores are of 16 bytes
_ALIGNED = 16
# columns of the table of tensors
_COLUMNS = tl.constexpr(8)


@triton.jit
def _fma(a, b, c):
    """a · b + c of fp32, rounded once: Triton's interpreter would round the product too."""
    if INTERPRETED:
        factor = tl.cast(tl.cast(b, tl.float32), tl.float64)
        return (a.to(tl.float64) * factor + c.to(tl.float64)).to(tl.float32)
    return tl.fma(a, b, c)


@triton.jit
def _pointer(table, column: tl.constexpr, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(table + column).to(tl.pointer_type(dtype))
    return tl.multiple_of(pointer, 16) if ALIGNED else pointer


@triton.jit
def adamw_kernel(
    table, owners, coefficients, grad_scale, found_inf, weight_of_gradient, decay_of_square, weight_of_square, eps,
    FROM_GRADIENT: tl.constexpr, GRADIENT: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One block of one tensor, with g = gradient / grad_scale:

        average += (g − average) · (1 − β1)
        square = β2 · square + (1 − β2) · g²
        weight = (1 − lr · decay) · weight − step size · average / (√square / √(1 − β2^t) + ε)

    Nothing is read or written where `found_inf`. Reads 16 bytes a value and writes 12, and 2 for a copy in bf16; with a
    gradient in bf16 it reads 14.

    Args:
        table: (N, 8) int64, of each tensor the addresses of weight, gradient, average, square and copy (0: none), its
            number of values, its first program, and its row of `coefficients`.
        owners: (programs,) int32, the tensor of each program.
        coefficients: see `adamw_update`.
        FROM_GRADIENT: 1 − β1 is half or more: the average is taken from the gradient's side, where less is lost.
    """
    if found_inf is not None:  # noqa: SIM102 (known when it is compiled, and the value is not)
        if tl.load(found_inf) > 0:
            return
    row = table + tl.load(owners + tl.program_id(0)) * _COLUMNS
    count, first, coefficients = tl.load(row + 5), tl.load(row + 6), coefficients + 3 * tl.load(row + 7)
    if ALIGNED:
        count = tl.multiple_of(count, 16)
    place = (tl.program_id(0) - first) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    weights = _pointer(row, 0, tl.float32, ALIGNED) + place
    averages = _pointer(row, 2, tl.float32, ALIGNED) + place
    squares = _pointer(row, 3, tl.float32, ALIGNED) + place
    weight = tl.load(weights, mask=inside, other=0.0)
    gradient = tl.load(_pointer(row, 1, GRADIENT, ALIGNED) + place, mask=inside, other=0.0).to(tl.float32)
    average = tl.load(averages, mask=inside, other=0.0)
    square = tl.load(squares, mask=inside, other=0.0)

    minus_step_size = tl.load(coefficients)
    root_of_correction = tl.load(coefficients + 1)
    kept = tl.load(coefficients + 2)
    if grad_scale is not None:
        gradient = tl.div_rn(gradient, tl.load(grad_scale))
    if FROM_GRADIENT:
        average = _fma(gradient - average, weight_of_gradient - 1.0, gradient)
    else:
        average = _fma(gradient - average, weight_of_gradient, average)
    square = _fma(weight_of_square * gradient, gradient, square * decay_of_square)
    denominator = tl.div_rn(tl.sqrt_rn(square), root_of_correction) + eps
    weight = weight * kept + tl.div_rn(minus_step_size * average, denominator)

    tl.store(weights, weight, mask=inside)
    tl.store(averages, average, mask=inside)
    tl.store(squares, square, mask=inside)
    copy = tl.load(row + 4)
    if copy != 0:
        copies = _pointer(row, 4, tl.bfloat16, ALIGNED) + place
        tl.store(copies, rounded(weight, tl.bfloat16), mask=inside)


class Update(NamedTuple):
    """One parameter, or this rank's part of it: tensors of one size whose values lie in the same order."""

    weight: Tensor  # fp32, as both moments
    gradient: Tensor  # fp32 or bf16
    exp_avg: Tensor
    exp_avg_sq: Tensor
    copy: Tensor | None  # bf16, of the weight


class Tables:
    """Where the tensors of each launch lie, on their device; sent there again only where something has moved."""

    def __init__(self) -> None:
        self._addresses: dict[object, tuple[list[tuple[int, ...]], Tensor, Tensor]] = {}
        self._owners: dict[tuple[int, ...], Tensor] = {}

    def addresses(self, launch: object, rows: list[tuple[int, ...]], device: torch.device) -> Tensor:
        """(N, 8) int64 as the kernel takes it."""
        kept = self._addresses.get(launch)
        if kept is None or kept[0] != rows:
            # the host's copy is kept: a CUDA graph reads it in each replay
            sent = torch.tensor(rows, dtype=torch.int64, pin_memory=device_of(device).is_nvidia_or_amd)
            kept = self._addresses[launch] = rows, sent, sent.to(device, non_blocking=True)
        return kept[2]

    def owners(self, programs: tuple[int, ...], device: torch.device) -> Tensor:
        """(sum of `programs`,) int32: the tensor of each program, where tensors have so many."""
        if programs not in self._owners:
            tensors = torch.arange(len(programs), dtype=torch.int32)
            self._owners[programs] = tensors.repeat_interleave(torch.tensor(programs)).to(device)
        return self._owners[programs]


def adamw_update(
    updates: Sequence[Update],
    coefficients: Tensor,
    grad_scale: Tensor | None,
    found_inf: Tensor | None,
    betas: tuple[float, float],
    eps: float,
    tables: Tables,
) -> None:
    """Update weights, moments and copies in place.

    One launch for all tensors alike: in the dtype of their gradients, and in whether they can be read in 16 bytes.

    Args:
        updates: on one device.
        coefficients: (N, 3) fp32, a row for each of `updates`: −lr / (1 − β1^t), √(1 − β2^t), 1 − lr · decay.
        grad_scale, found_inf: () fp32, or None; where `found_inf` is not 0 nothing changes.
        tables: kept for the next call.
    """
    alike: dict[tuple[torch.dtype, bool], list[tuple[int, Update]]] = {}
    for index, update in enumerate(updates):
        numbers = (update.weight.numel(), *(tensor.data_ptr() for tensor in update if tensor is not None))
        aligned = not any(number % _ALIGNED for number in numbers)
        if update.weight.numel():
            alike.setdefault((update.gradient.dtype, aligned), []).append((index, update))
    for (dtype, aligned), chosen in alike.items():
        programs = tuple(triton.cdiv(update.weight.numel(), BLOCK) for _, update in chosen)
        firsts = itertools.accumulate(programs, initial=0)
        rows = [
            (*(0 if x is None else x.data_ptr() for x in update), update.weight.numel(), first, index)
            for (index, update), first in zip(chosen, firsts, strict=False)
        ]
        device = coefficients.device
        with on_device_of(coefficients):
            adamw_kernel[(sum(programs),)](
                tables.addresses((dtype, aligned, chosen[0][0]), rows, device), tables.owners(programs, device),
                coefficients, grad_scale, found_inf, 1 - betas[0], betas[1], 1 - betas[1], eps,
                FROM_GRADIENT=1 - betas[0] >= 0.5, GRADIENT=tl.bfloat16 if dtype == torch.bfloat16 else tl.float32,
                ALIGNED=aligned, BLOCK=BLOCK, num_warps=_NUM_WARPS, enable_fp_fusion=False,
            )  # fmt: skip


# ---------------------------------------------------------------- compiling without a device


def launches(target: Target) -> Launches:
    """A matrix with its copy, gradients in fp32 and bf16; then what cannot be read in 16 bytes."""
    scalar = on_meta(torch.float32)
    for size, dtype in ((4096, torch.float32), (4096, torch.bfloat16), (4095, torch.float32)):
        weight = on_meta(size, torch.float32)
        update = Update(weight, on_meta(size, dtype), weight, weight, on_meta(size, torch.bfloat16))
        coefficients, betas = on_meta(1, 3, torch.float32), (0.9, 0.95)
        label = f"gradients {dtype_name(dtype)}" + ("" if size % _ALIGNED == 0 else ", not aligned")
        yield label, partial(adamw_update, [update], coefficients, scalar, scalar, betas, 1e-8, Tables())
