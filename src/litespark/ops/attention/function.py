"""Causal attention through our Triton kernels, as custom ops that `torch.compile` and meta tensors pass through.

B batch, S queries, T keys, H query heads, K key/value heads, Dh head dim.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from litespark.ops.attention import launchers, reference
from litespark.ops.attention.configurations import MOST_HEAD_DIM
from litespark.ops.attention.documents import Documents, check_attention, refuse_branches
from litespark.ops.attention.sdpa import attention_sdpa
from litespark.ops.custom_op import CustomOp
from litespark.ops.precision import autocasting, compute_dtype

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def attention_triton(
    query: Tensor, key: Tensor, value: Tensor, documents: Documents | None = None, window: int | None = None,
    scale: float | None = None, softcap: float | None = None, *, number: int = 0,
) -> Tensor:  # fmt: skip
    """See `litespark.ops.attention.reference.attention`; fp32, bf16 or fp16, heads up to 256 wide.

    `number` is that of the configuration of the kernels, see `litespark.ops.attention.configurations`.

    FlashAttention-2 (Dao, arXiv:2307.08691): what is not visible is not read beyond the blocks at its border. Gradients
    are the same in every run. Keys from a cache (T > S) go to `attention_sdpa`, with a softcap to the reference.
    """
    check_attention(query, key, value, documents, window, scale, softcap)
    refuse_branches("triton", documents)
    if key.shape[1] != query.shape[1]:
        cached = attention_sdpa if softcap is None else reference.attention
        return cached(query, key, value, documents, window, scale, softcap)
    if autocasting(query):
        dtype = compute_dtype(query)
        query, key, value = (x if x.dtype == dtype else x.to(dtype) for x in (query, key, value))
    if query.dtype not in _DTYPES or key.dtype != query.dtype or value.dtype != query.dtype:
        raise ValueError(
            f"ops.attention=triton: query, key and value are {query.dtype}, {key.dtype} and {value.dtype}; expected "
            "the same of fp32, bf16 and fp16 for all: cast them, or choose ops.attention=reference"
        )
    if not 1 <= query.shape[3] <= MOST_HEAD_DIM:
        raise ValueError(
            f"ops.attention=triton: the head_dim is {query.shape[3]}; expected 1 to {MOST_HEAD_DIM}: choose "
            "ops.attention=sdpa for wider heads"
        )
    first_keys = last_queries = None
    if documents is not None:
        first_keys, last_queries = documents.first_keys(), documents.last_queries()
    limit = 0 if window is None or window >= key.shape[1] else window
    return _forward(query, key, value, first_keys, last_queries, limit, number, scale, softcap)[0]


attention_triton_2 = partial(attention_triton, number=1)


_forward = CustomOp("litespark::attention", launchers.forward)


@_forward.register_fake
def _(query: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = query.shape
    return query.new_empty(query.shape), query.new_empty(batch, heads, length, dtype=torch.float32)


_backward = CustomOp("litespark::attention_backward", launchers.backward)


@_backward.register_fake
def _(grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    query, key, value, first_keys, last_queries, *ctx.numbers = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, *output, first_keys, last_queries)


def _differentiate(ctx: Any, grad_output: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_backward(grad_output, *ctx.saved_tensors, *ctx.numbers), *(None,) * 6


_forward.register_autograd(_differentiate, setup_context=_save)


@register_flop_formula(torch.ops.litespark.attention)
def _forward_flops(query: tuple[int, ...], key: tuple[int, ...], *_: Any, **__: Any) -> int:
    """Two products over all pairs of query and key, as PyTorch counts its own attention, causal or not."""
    batch, length, heads, head_dim = query
    return 4 * batch * heads * length * key[1] * head_dim


@register_flop_formula(torch.ops.litespark.attention_backward)
def _backward_flops(_: tuple[int, ...], *shapes: Any, **__: Any) -> int:
    """Five products, of which one is made again."""
    return _forward_flops(*shapes) * 5 // 2
