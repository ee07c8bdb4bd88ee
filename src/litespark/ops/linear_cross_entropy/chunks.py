"""Head projection and cross-entropy over chunks of tokens, so that the logits are never in memory whole.

Of each chunk: logits = hidden · weightᵀ, a row function that replaces them by their gradient, and two products:
d hidden = d logits · weight and d weight += d logitsᵀ · hidden. Where the gradient of the summed loss is all that is
needed, that happens in the forward pass: 6·T·D·V operations, as many as without chunks, since a common factor is
multiplied into the results later. Otherwise the forward pass keeps the maximum and the sum of each token and the
backward pass makes the logits again: 8·T·D·V. Gradients in the forward pass: Hsu et al., "Liger Kernel",
arXiv:2410.10989; logits made again: Wijmans et al., "Cut Your Losses", arXiv:2411.09009. Nothing waits for the device.

T tokens, D hidden size, V vocabulary. `rows` names the module that works on the rows of a chunk: `rows` in plain
PyTorch, for any device, or `kernels`.
"""

import functools
import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from litespark.device import device_of
from litespark.ops.linear_cross_entropy.rows import Losses, Settings
from litespark.ops.on_cpu import transposed_product
from litespark.ops.precision import autocast_off
from litespark.ops.shapes import Place
from litespark.ops.structure import at_once, far, in_parts

# A chunk has as many tokens as this many bytes of logits allow, since every further chunk reads and writes d weight in
# fp32 once more, but never less than LEAST_ROWS, which keep a matrix product busy.
CHUNK_BYTES = 256 * 2**20
LEAST_ROWS = 1024
# tokens in a chunk are a multiple of this: whole tiles for the product over tokens
ROW_MULTIPLE = 128
# rows of the logits begin at multiples of this many bytes, whatever V is, so that they are read in wide words
_ROW_ALIGNMENT = 128


def rows_in_chunk(tokens: int, vocab_size: int, bytes_per_logit: int) -> int:
    """Tokens in each chunk but the last: the fewest chunks that the rules above allow, of about equal size.

    Fewer within `litespark.ops.structure.rows_at_once`.
    """
    most = max(CHUNK_BYTES // (vocab_size * bytes_per_logit), LEAST_ROWS)
    most = max(most // ROW_MULTIPLE, 1) * ROW_MULTIPLE
    chunks = max(-(-tokens // most), 1)
    return at_once(max(-(-tokens // (chunks * ROW_MULTIPLE)), 1) * ROW_MULTIPLE)


def structure(place: Place, bytes_per_logit: int) -> set[str]:
    """The structural cases of a loss in chunks, see `litespark.ops.structure`."""
    shapes = place.shapes
    rows = rows_in_chunk(shapes.tokens, shapes.vocab_size, bytes_per_logit)
    return in_parts("chunk", shapes.tokens, rows, most=3) | far(shapes.tokens * shapes.hidden_size)


def _without_autocast(function: Callable[..., Any]) -> Callable[..., Any]:
    """Autocast goes on inside of a custom op, and might round what is summed in fp32."""

    @functools.wraps(function)
    def run(hidden: Tensor, *rest: Any) -> Any:
        with autocast_off(hidden):
            return function(hidden, *rest)

    return run


@_without_autocast
def loss_and_gradients(
    hidden: Tensor, weight: Tensor, labels: Tensor, rows: str, dtype: torch.dtype, ignore_index: int, z_loss: float,
    softcap: float, needs_hidden: bool, needs_weight: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The sum of all losses, d hidden in `dtype` and d weight in fp32 (fp64 for fp64); (0,) where not needed."""
    settings, row_losses = Settings(ignore_index, z_loss, softcap), _of(rows).losses
    weight = weight.to(dtype)
    loss = empty_losses(hidden, dtype).loss
    hidden_gradient = hidden.new_empty(hidden.shape if needs_hidden else (0,), dtype=dtype)
    weight_gradient = _empty_weight_gradient(weight, needs_weight, hidden.shape[0])
    for part, h, logits in _logits(rows, hidden, weight):
        loss[part] = row_losses(logits, labels[part], settings, True).loss
        if needs_hidden:
            torch.mm(logits, weight, out=hidden_gradient[part])
        if needs_weight:
            _accumulate(weight_gradient, logits, h, first=part.start == 0)
    return loss.sum(), hidden_gradient, weight_gradient


@_without_autocast
def token_losses(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    rows: str,
    dtype: torch.dtype,
    ignore_index: int,
    z_loss: float,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`Losses` of all tokens: of hidden (T, D), weight (V, D), labels (T,), products in `dtype`."""
    losses, settings = empty_losses(hidden, dtype), Settings(ignore_index, z_loss, softcap)
    for part, _, logits in _logits(rows, hidden, weight.to(dtype)):
        for whole, of_part in zip(losses, _of(rows).losses(logits, labels[part], settings, False), strict=True):
            whole[part] = of_part
    return (*losses,)


@_without_autocast
def token_gradients(
    hidden: Tensor, weight: Tensor, labels: Tensor, upstream: Tensor, maximum: Tensor, sum_exp: Tensor, rows: str,
    dtype: torch.dtype, ignore_index: int, z_loss: float, softcap: float, needs_hidden: bool, needs_weight: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """d hidden and d weight in the dtypes of hidden and weight, from logits that are made again; (0,) where not needed.

    `upstream` (T,) is the gradient of each token's loss; `maximum` and `sum_exp` are those of `token_losses`.
    """
    settings, row_gradient_ = Settings(ignore_index, z_loss, softcap), _of(rows).gradient_
    # what is common to all tokens is multiplied in last, in fp32: 1/T or a gradient scaler's factor would leave fp16
    common = upstream.abs().amax() if upstream.numel() else upstream.new_ones(())
    upstream = upstream / common.clamp(min=torch.finfo(upstream.dtype).tiny)
    cast = weight.to(dtype)
    hidden_gradient = hidden.new_empty(hidden.shape if needs_hidden else (0,))
    weight_gradient = _empty_weight_gradient(cast, needs_weight, hidden.shape[0])
    for part, h, logits in _logits(rows, hidden, cast):
        row_gradient_(logits, labels[part], maximum[part], sum_exp[part], upstream[part], settings)
        if needs_hidden:
            scale_into(hidden_gradient[part], torch.mm(logits, cast), common)
        if needs_weight:
            _accumulate(weight_gradient, logits, h, first=part.start == 0)
    return hidden_gradient, scale_into(torch.empty_like(weight_gradient, dtype=weight.dtype), weight_gradient, common)


def _of(rows: str) -> Any:
    """The module with `losses`, `gradient_` and `bytes_per_logit`."""
    return importlib.import_module(f"litespark.ops.linear_cross_entropy.{rows}")


def scale_into(out: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """out = x · factor in the factor's dtype: a tensor without dimensions would be rounded to that of `x` first."""
    return torch.mul(x, factor.reshape(1), out=out)


def _logits(rows: str, hidden: Tensor, weight: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Of each chunk: which tokens, their hidden states (N, D) and their logits (N, V), in the dtype of `weight`.

    All chunks use the same memory for their logits.
    """
    tokens, vocab_size = hidden.shape[0], weight.shape[0]
    size = rows_in_chunk(tokens, vocab_size, _of(rows).bytes_per_logit(weight.dtype))
    unit = _ROW_ALIGNMENT // weight.element_size()
    buffer = weight.new_empty(min(size, tokens), -(-vocab_size // unit) * unit)
    # oneDNN's bf16 products on CPUs with AMX (PyTorch 2.14) read a column beyond an odd width, and 0 · NaN is NaN
    buffer[:, vocab_size:] = 0
    for start in range(0, tokens, size):
        part = slice(start, min(start + size, tokens))
        h = hidden[part].to(weight.dtype)
        logits = buffer[: h.shape[0], :vocab_size]
        torch.mm(h, weight.t(), out=logits)
        yield part, h, logits


def empty_losses(hidden: Tensor, dtype: torch.dtype) -> Losses:
    tokens, wide = hidden.shape[0], torch.promote_types(dtype, torch.float32)
    loss, maximum, sum_exp = (hidden.new_empty(tokens, dtype=wide) for _ in range(3))
    return Losses(loss, maximum, sum_exp, hidden.new_empty(tokens, dtype=torch.bool))


def _empty_weight_gradient(weight: Tensor, needed: bool, tokens: int) -> Tensor:
    """To be filled by the first chunk, if there is one."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    shape = weight.shape if needed else (0,)
    return weight.new_empty(shape, dtype=wide) if tokens else weight.new_zeros(shape, dtype=wide)


def _accumulate(total: Tensor, a: Tensor, b: Tensor, first: bool) -> None:
    """total += aᵀ · b, or total = aᵀ · b the first time, which need not be read."""
    beta, there = 0 if first else 1, device_of(a.device)
    if total.dtype == a.dtype or (a.dtype == torch.float16 and not there.is_accelerator):
        # a CPU's products of fp16 are slow, and rounded on the way
        torch.addmm(total, a.t().to(total.dtype), b.to(total.dtype), beta=beta, out=total)
    elif there.is_nvidia:
        # bf16 in, fp32 out
        torch.ops.aten.addmm.dtype_out(total, a.t(), b, total.dtype, beta=beta, out=total)
    elif first:  # each chunk's product is rounded once where PyTorch has no such product
        total.copy_(transposed_product(a, b, total.dtype))
    else:
        total.add_(transposed_product(a, b, a.dtype))
