"""Rotary position embedding as custom ops that `torch.compile` and meta tensors pass through."""

from typing import Any

import torch
from torch import Tensor

from litespark.ops.custom_op import CustomOp
from litespark.ops.rope.kernels import rope_qkv_backward, rope_qkv_forward
from litespark.ops.rope.reference import check_rope


def rope_qkv_triton(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int, interleaved: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """See `reference.rope_qkv`; fp32, bf16 or fp16. The results are contiguous and share no memory with `qkv`."""
    check_rope(qkv, cos, sin, num_kv_heads)
    if qkv.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"rope: got {qkv.dtype}, expected fp32, bf16 or fp16; for others choose ops.rope=reference")
    if cos.dtype != torch.float32 or sin.dtype != torch.float32:
        raise ValueError(
            f"rope: cos is {cos.dtype} and sin {sin.dtype}; expected fp32, since lower precision confuses positions"
        )
    if cos.requires_grad or sin.requires_grad:
        raise ValueError("rope: cos or sin require gradients, which this backend has not; choose ops.rope=reference")
    return _rope_qkv(qkv, cos, sin, num_kv_heads, interleaved)


_rope_qkv = CustomOp("litespark::rope_qkv", rope_qkv_forward)


@_rope_qkv.register_fake
def _(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int, interleaved: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    batch, length, heads, head_dim = qkv.shape
    query = qkv.new_empty(batch, length, heads - 2 * num_kv_heads, head_dim)
    key, value = (qkv.new_empty(batch, length, num_kv_heads, head_dim) for _ in range(2))
    return query, key, value


_rope_qkv_backward = CustomOp("litespark::rope_qkv_backward", rope_qkv_backward)


@_rope_qkv_backward.register_fake
def _(query: Tensor | None, key: Tensor | None, value: Tensor | None, cos: Tensor, *rest: Any) -> Tensor:
    _, shape, dtype, *_ = rest
    return cos.new_empty(shape, dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    qkv, cos, sin, _, ctx.interleaved = inputs
    ctx.shape, ctx.dtype = qkv.shape, qkv.dtype
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(cos, sin)


def _differentiate(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    if all(gradient is None for gradient in gradients):
        return (None,) * 5
    gradient = _rope_qkv_backward(*gradients, *ctx.saved_tensors, ctx.shape, ctx.dtype, ctx.interleaved)
    return gradient, None, None, None, None


_rope_qkv.register_autograd(_differentiate, setup_context=_keep)
