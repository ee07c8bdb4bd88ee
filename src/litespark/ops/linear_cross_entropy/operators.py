"""Head projection and cross-entropy over chunks as custom ops, for one way of working on the rows of a chunk.

Three ops for each way: `…_sum` makes the gradients of the summed loss in its forward pass; `…_tokens` returns the loss
of each token, and its backward, `…_tokens_backward`, makes the logits again. None waits for the device.

T tokens, D hidden size, V vocabulary.
"""

# no `from __future__ import annotations`: custom_op reads the annotations as objects

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from litespark.ops.linear_cross_entropy import chunks
from litespark.ops.linear_cross_entropy.reference import Reduction, TokenLosses, check_linear_cross_entropy
from litespark.ops.linear_cross_entropy.rows import RowFunctions, Settings
from litespark.ops.precision import autocasting, compute_dtype


class ChunkedOps:
    """The custom ops that one way of working on rows gives."""

    def __init__(self, name: str, rows: RowFunctions, dtypes: Sequence[torch.dtype]) -> None:
        """Args:
        name: of the way, for the names of the custom ops.
        rows: the way.
        dtypes: that it can compute in.
        """
        self.dtypes = dtypes
        self.sum = _register_sum(f"litespark::linear_cross_entropy_{name}_sum", rows)
        self.tokens = _register_tokens(f"litespark::linear_cross_entropy_{name}_tokens", rows)


def chunked_loss(ops: ChunkedOps, *, recompute: bool) -> Callable[..., Tensor | TokenLosses]:
    """A backend of the loss over `ops`: a function with the signature of the reference.

    With `recompute` the logits are made again in the backward pass, and no gradient is kept until then. Otherwise the
    gradients of "sum" and "mean" are made in the forward pass; those of "none" never are.
    """

    def linear_cross_entropy(
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        *,
        ignore_index: int = -100,
        reduction: Reduction = "sum",
        z_loss: float = 0.0,
        softcap: float | None = None,
    ) -> Tensor | TokenLosses:
        """See `litespark.ops.linear_cross_entropy.reference`.

        A label that is neither `ignore_index` nor in 0..V-1 makes the loss infinite: an error would have to wait for
        the device.

        Raises:
            ValueError: as there, or the dtypes of hidden and weight differ without autocast, or these ops cannot
                compute in theirs.
        """
        check_linear_cross_entropy(hidden, weight, labels, reduction, z_loss, softcap)
        dtype = compute_dtype(hidden)
        _check_dtypes(hidden, weight, dtype, ops.dtypes)
        tokens, flat = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
        options = (dtype, ignore_index, z_loss, softcap or 0.0)
        grad = torch.is_grad_enabled()
        needed = grad and hidden.requires_grad, grad and weight.requires_grad
        if reduction != "none" and not recompute and any(needed):
            total = ops.sum(tokens, weight, flat, *options, *needed)[0]
        else:
            loss, _, _, correct = ops.tokens(tokens, weight, flat, *options)
            if reduction == "none":
                return TokenLosses(loss.view(labels.shape), correct.view(labels.shape))
            total = loss.sum()
        return total if reduction == "sum" else total / (flat != ignore_index).sum().clamp(min=1)

    return linear_cross_entropy


def _check_dtypes(hidden: Tensor, weight: Tensor, dtype: torch.dtype, known: Sequence[torch.dtype]) -> None:
    if hidden.dtype != weight.dtype and not autocasting(hidden):
        raise ValueError(
            f"linear_cross_entropy: hidden is {hidden.dtype} and weight {weight.dtype}; expected the same "
            "dtype, or autocast"
        )
    if dtype not in known:
        raise ValueError(
            f"linear_cross_entropy: got {dtype}, expected fp32, bf16 or fp16; for other dtypes choose "
            "ops.linear_cross_entropy=chunked"
        )


@torch.library.custom_op("litespark::linear_cross_entropy_scale", mutates_args=())
def scale(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    """x · factor in fp32, returned in `dtype`: one pass, and `x` stays for a second backward."""
    return chunks.scale_into(torch.empty_like(x, dtype=dtype), x, factor)


@scale.register_fake
def _(x: Tensor, factor: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.empty_like(x, dtype=dtype)


def _register_sum(name: str, rows: RowFunctions) -> Callable[..., Any]:
    @torch.library.custom_op(name, mutates_args=())
    def loss_sum(
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        dtype: torch.dtype,
        ignore_index: int,
        z_loss: float,
        softcap: float,
        needs_hidden: bool,
        needs_weight: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        settings = Settings(ignore_index, z_loss, softcap)
        # autocast goes on inside of a custom op, and might round what is summed in fp32
        with torch.autocast(hidden.device.type, enabled=False):
            return chunks.losses_and_gradients(
                rows, hidden, weight, labels, dtype, settings, (needs_hidden, needs_weight)
            )

    @loss_sum.register_fake
    def _(hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype, *rest: Any) -> tuple[Tensor, ...]:
        needs_hidden, needs_weight = rest[-2:]
        wide = torch.promote_types(dtype, torch.float32)
        return (
            hidden.new_empty((), dtype=wide),
            hidden.new_empty(hidden.shape if needs_hidden else (0,), dtype=dtype),
            hidden.new_empty(weight.shape if needs_weight else (0,), dtype=wide),
        )

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.dtypes = inputs[0].dtype, inputs[1].dtype
        ctx.needed = inputs[-2:]
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[1:])

    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        wanted = (
            scale(gradient, upstream, dtype) if needed and upstream is not None else None
            for gradient, dtype, needed in zip(ctx.saved_tensors, ctx.dtypes, ctx.needed, strict=True)
        )
        return *wanted, *[None] * 7

    loss_sum.register_autograd(backward, setup_context=setup_context)
    return loss_sum


def _register_tokens(name: str, rows: RowFunctions) -> Callable[..., Any]:
    @torch.library.custom_op(name, mutates_args=())
    def losses(
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        dtype: torch.dtype,
        ignore_index: int,
        z_loss: float,
        softcap: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(hidden.device.type, enabled=False):
            return (*chunks.losses(rows, hidden, weight, labels, dtype, Settings(ignore_index, z_loss, softcap)),)

    @losses.register_fake
    def _(hidden: Tensor, weight: Tensor, labels: Tensor, dtype: torch.dtype, *rest: Any) -> tuple[Tensor, ...]:
        wide = torch.promote_types(dtype, torch.float32)
        loss, maximum, sum_exp = (hidden.new_empty(labels.shape, dtype=wide) for _ in range(3))
        return loss, maximum, sum_exp, hidden.new_empty(labels.shape, dtype=torch.bool)

    losses_backward = _register_tokens_backward(f"{name}_backward", rows)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        hidden, weight, labels, *ctx.options = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(hidden, weight, labels, *output[1:3])

    def backward(ctx: Any, upstream: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        if upstream is None:
            return (None,) * 7
        needed = ctx.needs_input_grad[:2]
        found = losses_backward(upstream, *ctx.saved_tensors, *ctx.options, *needed)
        return *(x if need else None for x, need in zip(found, needed, strict=True)), *[None] * 5

    losses.register_autograd(backward, setup_context=setup_context)
    return losses


def _register_tokens_backward(name: str, rows: RowFunctions) -> Callable[..., Any]:
    @torch.library.custom_op(name, mutates_args=())
    def losses_backward(
        upstream: Tensor,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        maximum: Tensor,
        sum_exp: Tensor,
        dtype: torch.dtype,
        ignore_index: int,
        z_loss: float,
        softcap: float,
        needs_hidden: bool,
        needs_weight: bool,
    ) -> tuple[Tensor, Tensor]:
        settings, needed = Settings(ignore_index, z_loss, softcap), (needs_hidden, needs_weight)
        with torch.autocast(hidden.device.type, enabled=False):
            return chunks.gradients(rows, upstream, hidden, weight, labels, maximum, sum_exp, dtype, settings, needed)

    @losses_backward.register_fake
    def _(upstream: Tensor, hidden: Tensor, weight: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = rest[-2:]
        return (
            hidden.new_empty(hidden.shape if needs_hidden else (0,)),
            weight.new_empty(weight.shape if needs_weight else (0,)),
        )

    return losses_backward
