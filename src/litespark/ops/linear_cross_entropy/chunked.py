"""The chunked losses as custom ops that `torch.compile` and meta tensors pass through: `chunks` has the arithmetic.

`rows` names the module that works on the rows of a chunk: `rows` in plain PyTorch, for any device, or `kernels`.
"""

import functools
from typing import Any

import torch
from torch import Tensor

from litespark.ops.custom_op import CustomOp
from litespark.ops.linear_cross_entropy import chunks
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses, check_linear_cross_entropy
from litespark.ops.linear_cross_entropy.rows import bytes_per_logit
from litespark.ops.precision import autocasting, compute_dtype
from litespark.ops.shapes import Place


def linear_cross_entropy_chunked(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "sum",
    z_loss: float = 0.0,
    softcap: float | None = None,
    rows: str = "rows",
    recompute: bool = False,
) -> Tensor | TokenLosses:
    """See `litespark.ops.linear_cross_entropy.reference`.

    With `recompute` the logits are made again in the backward pass, and no gradient is kept until then. Otherwise the
    gradients of "sum" and "mean" are made in the forward pass; those of "none" never are. A label that is neither
    `ignore_index` nor in 0..V-1 makes the loss infinite: an error would have to wait for the device.
    """
    check_linear_cross_entropy(hidden, weight, labels, reduction, z_loss, softcap)
    dtype = compute_dtype(hidden)
    if hidden.dtype != weight.dtype and not autocasting(hidden):
        raise ValueError(
            f"linear_cross_entropy: hidden is {hidden.dtype} and weight {weight.dtype}; expected the same dtype, or "
            "autocast"
        )
    if dtype not in (torch.float32, torch.bfloat16, torch.float16) and (rows, dtype) != ("rows", torch.float64):
        raise ValueError(
            f"linear_cross_entropy: got {dtype}, expected fp32, bf16 or fp16; for other dtypes choose "
            "ops.linear_cross_entropy=chunked"
        )
    tokens, flat = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    options = (rows, dtype, ignore_index, z_loss, softcap or 0.0)
    grad = torch.is_grad_enabled()
    needed = grad and hidden.requires_grad, grad and weight.requires_grad
    if reduction != "none" and not recompute and any(needed):
        total = _sum(tokens, weight, flat, *options, *needed)[0]
    else:
        loss, _, _, correct = _tokens(tokens, weight, flat, *options)
        if reduction == "none":
            return TokenLosses(loss.view(labels.shape), correct.view(labels.shape))
        total = loss.sum()
    return total if reduction == "sum" else total / (flat != ignore_index).sum().clamp(min=1)


linear_cross_entropy_chunked_recompute = functools.partial(linear_cross_entropy_chunked, recompute=True)


def structure(place: Place) -> set[str]:
    """The structural cases, see `litespark.ops.structure`."""
    return chunks.structure(place, bytes_per_logit(place.dtype))


# ---------------------------------------------------------------- the sum, whose gradients are made on the way forward


_sum = CustomOp("litespark::linear_cross_entropy_sum", chunks.loss_and_gradients)


@_sum.register_fake
def _(hidden: Tensor, weight: Tensor, labels: Tensor, rows: str, dtype: torch.dtype, *rest: Any) -> tuple[Tensor, ...]:
    needs_hidden, needs_weight = rest[-2:]
    wide = torch.promote_types(dtype, torch.float32)
    return (
        hidden.new_empty((), dtype=wide),
        hidden.new_empty(hidden.shape if needs_hidden else (0,), dtype=dtype),
        hidden.new_empty(weight.shape if needs_weight else (0,), dtype=wide),
    )


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.dtypes, ctx.needed = (inputs[0].dtype, inputs[1].dtype), inputs[-2:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


def _scale_gradients(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    wanted = (
        _scale(gradient, upstream, dtype) if needed and upstream is not None else None
        for gradient, dtype, needed in zip(ctx.saved_tensors, ctx.dtypes, ctx.needed, strict=True)
    )
    return *wanted, *[None] * 8


_sum.register_autograd(_scale_gradients, setup_context=_keep_gradients)


def _scaled(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """x · factor in fp32, returned in `dtype`: one pass, and `x` stays for a second backward."""
    return chunks.scale_into(torch.empty_like(x, dtype=dtype), x, factor)


_scale = CustomOp("litespark::linear_cross_entropy_scale", _scaled)


@_scale.register_fake
def _(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


# ---------------------------------------------------------------- each token, with logits that are made again


_tokens = CustomOp("litespark::linear_cross_entropy_tokens", chunks.token_losses)


@_tokens.register_fake
def _(hidden: Tensor, weight: Tensor, labels: Tensor, rows: str, dtype: torch.dtype, *rest: Any) -> tuple[Tensor, ...]:
    return (*chunks.empty_losses(hidden, dtype),)


_tokens_backward = CustomOp("litespark::linear_cross_entropy_tokens_backward", chunks.token_gradients)


@_tokens_backward.register_fake
def _(hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return tuple(
        x.new_empty(x.shape if needed else (0,)) for x, needed in zip((hidden, weight), rest[-2:], strict=True)
    )


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    hidden, weight, labels, *ctx.options = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(hidden, weight, labels, *output[1:3])


def _differentiate_tokens(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    if upstream is None:
        return (None,) * 8
    hidden, weight, labels, *statistics = ctx.saved_tensors
    needed = ctx.needs_input_grad[:2]
    gradients = _tokens_backward(hidden, weight, labels, upstream, *statistics, *ctx.options, *needed)
    return *(x if need else None for x, need in zip(gradients, needed, strict=True)), *[None] * 6


_tokens.register_autograd(_differentiate_tokens, setup_context=_keep_inputs)
