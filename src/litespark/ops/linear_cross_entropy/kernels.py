"""Triton kernels for the rows of a chunk of logits: losses and gradient in one launch. What they compute is
specified in `rows`.

One program a row. It runs over the row in blocks of ids and keeps in each lane of the block a running maximum, the sum
of exponentials under that maximum, and where the maximum was: one exponential per logit, and nothing is exchanged
between lanes before the end. A second run over the row writes the gradient. Bytes from memory per logit: one read and
one write, since the second read finds the row in the L2 cache as long as the rows in flight fit there (64 KB a row at
V 32000 in bf16).

N rows of a chunk, V token ids that the logits cover.
"""

from functools import partial

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.linear_cross_entropy import chunks
from litespark.ops.linear_cross_entropy.rows import Losses, Settings
from litespark.ops.precision import dtype_name
from litespark.ops.rounding.kernels import rounded
from litespark.ops.shapes import Place
from litespark.ops.structure import in_parts
from litespark.ops.triton_support import Launches, Target, on_device_of, on_meta

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
    logits, labels, loss, maximum_to, sum_exp_to, correct, stride, ignore_index, z_loss, softcap,
    SOFTCAP: tl.constexpr, GRADIENT: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
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
    logits, labels, maximum, sum_exp, upstream, first_id, stride, ignore_index, z_loss, softcap,
    SOFTCAP: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Replaces the logits of rows from `first_id` on by their gradient: one read, one write."""
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


# ---------------------------------------------------------------- launchers


def losses(logits: Tensor, labels: Tensor, settings: Settings, with_gradient: bool) -> Losses:
    """See `rows.losses`; with a gradient, only the loss is computed. Rows may lie any stride apart."""
    count, columns = logits.shape
    loss, maximum, sum_exp = (logits.new_empty(count, dtype=torch.float32) for _ in range(3))
    correct = logits.new_empty(count, dtype=torch.bool)
    block, num_warps = configuration(columns, logits.element_size())
    with on_device_of(logits):
        losses_kernel[(count,)](
            logits, labels.contiguous(), loss, maximum, sum_exp, correct, logits.stride(0), settings.ignore_index,
            settings.z_loss, settings.softcap,
            SOFTCAP=settings.softcap != 0, GRADIENT=with_gradient, COLUMNS=columns, BLOCK=block, num_warps=num_warps,
        )  # fmt: skip
    return Losses(loss, maximum, sum_exp, correct)


def gradient_(
    logits: Tensor, labels: Tensor, maximum: Tensor, sum_exp: Tensor, upstream: Tensor | None, settings: Settings
) -> None:
    """See `rows.gradient_`."""
    count, columns = logits.shape
    block, num_warps = configuration(columns, logits.element_size())
    with on_device_of(logits):
        gradient_kernel[(count,)](
            logits, labels.contiguous(), maximum, sum_exp, upstream,
            0,  # the id of the first column: the vocabulary is whole
            logits.stride(0), settings.ignore_index, settings.z_loss, settings.softcap,
            SOFTCAP=settings.softcap != 0, COLUMNS=columns, BLOCK=block, num_warps=num_warps,
        )  # fmt: skip


def configuration(columns: int, itemsize: int) -> tuple[int, int]:
    """BLOCK and num_warps for rows of so many logits; no target needs others, since no shared memory is asked for."""
    block = min(triton.next_power_of_2(columns), _MOST_BLOCK_BYTES // itemsize)
    return block, max(1, block * itemsize // (_THREAD_BYTES * 32))


def bytes_per_logit(dtype: torch.dtype) -> int:
    return dtype.itemsize


def structure(place: Place) -> set[str]:
    """The structural cases, see `litespark.ops.structure`."""
    columns, itemsize = place.shapes.vocab_size, place.dtype.itemsize
    block, _ = configuration(columns, itemsize)
    return chunks.structure(place, itemsize) | in_parts("block of ids", columns, block, most=3)


# ---------------------------------------------------------------- compiling without a device


def launches(target: Target) -> Launches:
    """Every kernel at the vocabularies of Llama 2 (llama3b's, first) and Llama 3, and at an odd one."""
    rows, labels = on_meta(4096, torch.float32), on_meta(4096, torch.int64)
    for columns, softcap in ((32000, 0.0), (32000, 2.0), (128256, 0.0), (50257, 0.0)):
        for dtype in (torch.bfloat16, torch.float32):
            # rows of logits begin at whole words, whatever their number is
            logits, settings = on_meta(4096, -(-columns // 64) * 64, dtype)[:, :columns], Settings(softcap=softcap)
            label = f"{dtype_name(dtype)} V{columns}{' softcap' if softcap else ''}"
            yield f"with gradient {label}", partial(losses, logits, labels, settings, True)
            yield label, partial(losses, logits, labels, settings, False)
            yield label, partial(gradient_, logits, labels, rows, rows, rows, settings)
