"""Triton kernels for the rows of a chunk of logits: losses and gradient in one launch, and the parts of a sharded
vocabulary. What they compute is specified in `rows`.

One program a row. It runs over the row in blocks of ids and keeps in each lane of the block a running maximum, the sum
of exponentials under that maximum, and where the maximum was: one exponential per logit, and nothing is exchanged
between lanes before the end. A second run over the row writes the gradient. Bytes from memory per logit: one read and
one write, since the second read finds the row in the L2 cache as long as the rows in flight fit there (64 KB a row at
V 32000 in bf16).

N rows of a chunk, V token ids that the logits cover.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.linear_cross_entropy.rows import Losses, RowFunctions, Settings, Statistics
from litespark.ops.rounding.kernels import rounded
from litespark.ops.triton_support import Compilation, Target, on_device_of

# below every logit but -inf; finite, so that the difference of two maxima is never NaN
LOWEST = tl.constexpr(-3.4028234663852886e38)


# of the logits in a block, and of those that one thread takes: two wide loads. 512 threads a row leave two rows on each
# multiprocessor at the registers these kernels take, so that all rows in flight fit into the L2 cache.
_MOST_BLOCK_BYTES = 16384
_THREAD_BYTES = 32


@triton.jit
def _capped(x, softcap, SOFTCAP: tl.constexpr):
    """softcap · tanh(x / softcap) and its slope, in fp32. tanh y = 1 - 2 / (exp 2y + 1) holds where exp overflows."""
    slope = tl.full(x.shape, 1.0, tl.float32)
    if SOFTCAP:
        tanh = 1.0 - 2.0 / (tl.exp(x * (2.0 / softcap)) + 1.0)
        x = softcap * tanh
        slope = 1.0 - tanh * tanh
    return x, slope


@triton.jit
def _scan(
    row, counts, softcap, SOFTCAP: tl.constexpr, BEST: tl.constexpr, HINT: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Maximum, Σ exp(logit - maximum) and, with BEST, the first column of the maximum of one row.

    A row that does not count is not read: 0, 1 and any column.
    """
    lane = tl.arange(0, BLOCK)
    maximum = tl.full((BLOCK,), LOWEST, tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    best = tl.zeros((BLOCK,), tl.int32)
    if counts:
        for start in range(0, COLUMNS, BLOCK):
            inside = start + lane < COLUMNS
            x = tl.load(row + start + lane, mask=inside, other=0.0, eviction_policy=HINT).to(tl.float32)
            x, _ = _capped(x, softcap, SOFTCAP)
            x = tl.where(inside, x, float("-inf"))
            higher = x > maximum
            # of exp(x - new maximum) and exp(old maximum - new maximum) one is always 1
            smaller = tl.exp(-tl.abs(x - maximum))
            total = tl.where(higher, total * smaller + 1.0, total + smaller)
            maximum = tl.where(higher, x, maximum)
            if BEST:
                best = tl.where(higher, start, best)
    row_maximum = tl.max(maximum, axis=0)
    row_total = tl.sum(total * tl.exp(maximum - row_maximum), axis=0)
    row_best = 0
    if BEST:
        row_best = tl.min(tl.where(maximum == row_maximum, best + lane, COLUMNS - 1), axis=0)
    return tl.where(counts, row_maximum, 0.0), tl.where(counts, row_total, 1.0), row_best


@triton.jit
def _label_logit(row, column, softcap, SOFTCAP: tl.constexpr, COLUMNS: tl.constexpr):
    """The logit at `column`, -inf where that is no column; then nothing is read."""
    inside = (column >= 0) & (column < COLUMNS)
    x = tl.load(row + column, mask=inside, other=0.0).to(tl.float32)
    if SOFTCAP:
        x = softcap * (1.0 - 2.0 / (tl.exp(x * (2.0 / softcap)) + 1.0))
    return tl.where(inside, x, float("-inf"))


@triton.jit
def _write_gradient(
    row, column_of_label, counts, maximum, sum_exp, z_loss, upstream, softcap, SOFTCAP: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """upstream · (p · (1 + 2 · z_loss · logsumexp) - [column is the label]) · slope of the cap, over the row's logits.

    A row that does not count is not read and becomes 0.
    """
    lane = tl.arange(0, BLOCK)
    factor = upstream * (1.0 + 2.0 * z_loss * (maximum + tl.log(sum_exp))) / sum_exp
    for start in range(0, COLUMNS, BLOCK):
        column = start + lane
        inside = column < COLUMNS
        x = tl.load(row + column, mask=inside & counts, other=0.0, eviction_policy="evict_first").to(tl.float32)
        x, slope = _capped(x, softcap, SOFTCAP)
        gradient = tl.exp(x - maximum) * factor - tl.where(column == column_of_label, upstream, 0.0)
        gradient = tl.where(counts, gradient * slope, 0.0)
        tl.store(row + column, rounded(gradient, row.dtype.element_ty), mask=inside)


@triton.jit
def losses_kernel(
    logits,
    labels,
    loss,
    maximum_to,
    sum_exp_to,
    correct,
    stride,
    ignore_index,
    z_loss,
    softcap,
    SOFTCAP: tl.constexpr,
    GRADIENT: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Losses of whole rows. With GRADIENT their gradient replaces the logits, which are read twice (the second time
    from cache) and written once, and only the loss is told. Rows whose label is ignored are not read."""
    program = tl.program_id(0).to(tl.int64)
    row = logits + program * stride
    label = tl.load(labels + program)
    counts = label != ignore_index
    HINT: tl.constexpr = "evict_last" if GRADIENT else "evict_first"
    column = tl.where(counts, label, -1)
    # every thread reads it before the reductions of the scan, and so before any thread writes a gradient over it
    label_logit = _label_logit(row, column, softcap, SOFTCAP, COLUMNS)
    maximum, total, best = _scan(row, counts, softcap, SOFTCAP, not GRADIENT, HINT, COLUMNS, BLOCK)
    logsumexp = maximum + tl.log(total)
    row_loss = maximum - label_logit + tl.log(total) + z_loss * logsumexp * logsumexp
    tl.store(loss + program, tl.where(counts, row_loss, 0.0))
    if not GRADIENT:
        tl.store(maximum_to + program, maximum)
        tl.store(sum_exp_to + program, total)
        tl.store(correct + program, counts & (best == label))
    else:
        _write_gradient(row, column, counts, maximum, total, z_loss, 1.0, softcap, SOFTCAP, COLUMNS, BLOCK)


@triton.jit
def gradient_kernel(
    logits,
    labels,
    maximum,
    sum_exp,
    upstream,
    first_id,
    stride,
    ignore_index,
    z_loss,
    softcap,
    SOFTCAP: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Replaces the logits of whole rows, or of a shard's part of them, by their gradient: one read, one write."""
    program = tl.program_id(0).to(tl.int64)
    row = logits + program * stride
    label = tl.load(labels + program)
    counts = label != ignore_index
    row_maximum, row_total = tl.load(maximum + program), tl.load(sum_exp + program)
    factor = 1.0
    if upstream is not None:
        factor = tl.load(upstream + program)
    column = label - first_id
    _write_gradient(row, column, counts, row_maximum, row_total, z_loss, factor, softcap, SOFTCAP, COLUMNS, BLOCK)


@triton.jit
def statistics_kernel(
    logits,
    labels,
    maximum,
    sum_exp,
    label_logit,
    best,
    first_id,
    stride,
    ignore_index,
    softcap,
    SOFTCAP: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """A shard's part of the statistics of each row: one read. Rows whose label is ignored are not read."""
    program = tl.program_id(0).to(tl.int64)
    row = logits + program * stride
    label = tl.load(labels + program)
    counts = label != ignore_index
    row_maximum, row_total, row_best = _scan(row, counts, softcap, SOFTCAP, True, "evict_first", COLUMNS, BLOCK)
    column = tl.where(counts, label - first_id, -1)
    tl.store(label_logit + program, _label_logit(row, column, softcap, SOFTCAP, COLUMNS))
    tl.store(maximum + program, row_maximum)
    tl.store(sum_exp + program, row_total)
    tl.store(best + program, row_best + first_id)


# ---------------------------------------------------------------- launchers


def losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    """See `RowFunctions`; with a gradient, only the loss is computed. Rows may lie any stride apart."""
    count, columns = logits.shape
    loss, maximum, sum_exp = (logits.new_empty(count, dtype=torch.float32) for _ in range(3))
    correct = logits.new_empty(count, dtype=torch.bool)
    block, num_warps = configuration(columns, logits.element_size())
    with on_device_of(logits):
        losses_kernel[(count,)](
            logits,
            labels.contiguous(),
            loss,
            maximum,
            sum_exp,
            correct,
            logits.stride(0),
            settings.ignore_index,
            settings.z_loss,
            settings.softcap,
            SOFTCAP=settings.softcap != 0,
            GRADIENT=with_gradient,
            COLUMNS=columns,
            BLOCK=block,
            num_warps=num_warps,
        )
    return Losses(loss, maximum, sum_exp, correct)


def gradient_(
    logits: Tensor,
    labels: Tensor,
    maximum: Tensor,
    sum_exp: Tensor,
    upstream: Tensor | None,
    settings: Settings,
    first_id: int = 0,
) -> None:
    """See `rows.gradient_`."""
    count, columns = logits.shape
    block, num_warps = configuration(columns, logits.element_size())
    with on_device_of(logits):
        gradient_kernel[(count,)](
            logits,
            labels.contiguous(),
            maximum,
            sum_exp,
            upstream,
            first_id,
            logits.stride(0),
            settings.ignore_index,
            settings.z_loss,
            settings.softcap,
            SOFTCAP=settings.softcap != 0,
            COLUMNS=columns,
            BLOCK=block,
            num_warps=num_warps,
        )


def statistics(logits: Tensor, labels: Tensor, settings: Settings, first_id: int = 0) -> Statistics:
    """See `rows.statistics`."""
    count, columns = logits.shape
    maximum, sum_exp, label_logit = (logits.new_empty(count, dtype=torch.float32) for _ in range(3))
    best = logits.new_empty(count, dtype=torch.int64)
    block, num_warps = configuration(columns, logits.element_size())
    with on_device_of(logits):
        statistics_kernel[(count,)](
            logits,
            labels.contiguous(),
            maximum,
            sum_exp,
            label_logit,
            best,
            first_id,
            logits.stride(0),
            settings.ignore_index,
            settings.softcap,
            SOFTCAP=settings.softcap != 0,
            COLUMNS=columns,
            BLOCK=block,
            num_warps=num_warps,
        )
    return Statistics(maximum, sum_exp, label_logit, best)


def configuration(columns: int, itemsize: int) -> tuple[int, int]:
    """BLOCK and num_warps for rows of so many logits; no target needs others, since no shared memory is asked for."""
    block = min(triton.next_power_of_2(columns), _MOST_BLOCK_BYTES // itemsize)
    return block, max(1, block * itemsize // (_THREAD_BYTES * 32))


ROWS = RowFunctions(losses, gradient_, lambda dtype: dtype.itemsize)


# ---------------------------------------------------------------- compiling without a device


def compilations(target: Target) -> list[Compilation]:
    """Every kernel at the vocabularies of Llama 2 (R3's, first) and Llama 3, and at an odd one."""
    found = []
    for columns, softcap in ((32000, False), (32000, True), (128256, False), (50257, False)):
        for dtype in ("bf16", "fp32"):
            found += _compilations(columns, dtype, softcap)
    return found


def _compilations(columns: int, dtype: str, softcap: bool) -> list[Compilation]:
    block, num_warps = configuration(columns, {"bf16": 2, "fp32": 4}[dtype])
    types = dict.fromkeys(
        ("loss", "maximum_to", "sum_exp_to", "upstream", "maximum", "sum_exp", "label_logit"), "*fp32"
    )
    types |= {"logits": f"*{dtype}", "labels": "*i64", "correct": "*i1", "best": "*i64", "first_id": "i32"}
    types |= {"stride": "i32", "ignore_index": "i32", "z_loss": "fp32", "softcap": "fp32"}
    constants = {"SOFTCAP": softcap, "COLUMNS": columns, "BLOCK": block}
    variants: tuple[tuple[str, Any, dict[str, Any]], ...] = (
        ("losses and gradient", losses_kernel, {"GRADIENT": True}),
        ("losses", losses_kernel, {"GRADIENT": False}),
        ("gradient", gradient_kernel, {}),
        ("statistics", statistics_kernel, {}),
    )
    return [
        Compilation(
            f"linear_cross_entropy {name} {dtype} V{columns}{' softcap' if softcap else ''}",
            kernel,
            {name: types[name] for name in kernel.arg_names if name in types and name not in own},
            constants | own,
            num_warps=num_warps,
            unaligned=("ignore_index",),
        )
        for name, kernel, own in variants
    ]
