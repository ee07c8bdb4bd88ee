"""Launches the attention kernels on tensors.

B batch, S sequence length, H query heads, K key/value heads, Dh head dim.
"""

import math

import torch
from torch import Tensor

from litespark.ops.attention.configurations import MOST_ROWS, configuration_for, kernel_constants
from litespark.ops.attention.kernels import (
    attention_forward_kernel,
    attention_key_value_gradient_kernel,
    attention_query_gradient_kernel,
)
from litespark.ops.triton_support import on_device_of


def forward(
    query: Tensor, key: Tensor, value: Tensor, first_keys: Tensor | None, last_queries: Tensor | None, window: int,
    number: int, scale: float | None = None, softcap: float | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Output (B, S, H, Dh) and the base-2 logarithm of each query's sum of exponentials (B, H, S) in fp32.

    `first_keys` as in `Documents`, None: all of a sequence is one document; `last_queries` is for the backward pass;
    `window` 0: a query sees all keys before it; `number` is that of the configuration; `scale` and `softcap` as in the
    reference.
    """
    batch, length, heads, head_dim = query.shape
    query, key, value = map(_readable, (query, key, value))
    output, lse = query.new_empty(*query.shape), query.new_empty(batch, heads, length, dtype=torch.float32)
    if output.numel() == 0:
        return output, lse
    launch = configuration_for(query.device, head_dim, query.dtype, number).forward
    with on_device_of(query):
        attention_forward_kernel[(_blocks(length, launch.queries) * heads * batch,)](
            query, key, value, output, lse,
            None if first_keys is None else first_keys.contiguous(),
            *_strides(query), *_strides(key), *_strides(value), length, heads, window,
            *_factors(head_dim, scale, softcap)[:2],
            **kernel_constants(launch, heads // key.shape[2], head_dim, first_keys is not None, window),
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return output, lse


def backward(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, lse: Tensor,
    first_keys: Tensor | None, last_queries: Tensor | None, window: int, number: int, scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of query, key and value, contiguous in their shapes and dtypes; arguments as for `forward`."""
    batch, length, heads, head_dim = query.shape
    num_kv_heads = key.shape[2]
    query, key, value, grad_output = map(_readable, (query, key, value, grad_output))
    grad_query, grad_key, grad_value = [x.new_empty(*x.shape) for x in (query, key, value)]
    if output.numel() == 0:
        return grad_query, grad_key, grad_value
    delta = torch.empty_like(lse)
    configuration = configuration_for(query.device, head_dim, query.dtype, number)
    numbers = (window, *_factors(head_dim, scale, softcap))
    strides = (*_strides(query), *_strides(key), *_strides(value), *_strides(grad_output))
    documents = first_keys is not None
    with on_device_of(query):
        launch = configuration.query_gradient
        attention_query_gradient_kernel[(_blocks(length, launch.queries) * heads * batch,)](
            query, key, value, output, grad_output, lse, delta, grad_query,
            None if first_keys is None else first_keys.contiguous(),
            *strides, length, heads, *numbers,
            **kernel_constants(launch, heads // num_kv_heads, head_dim, documents, window),
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
        launch = configuration.key_value_gradient
        attention_key_value_gradient_kernel[(_blocks(length, launch.keys) * num_kv_heads * batch,)](
            query, key, value, grad_output, lse, delta, grad_key, grad_value,
            None if last_queries is None else last_queries.contiguous(),
            *strides, length, num_kv_heads, *numbers,
            **kernel_constants(launch, heads // num_kv_heads, head_dim, documents, window),
            num_warps=launch.warps, num_stages=launch.stages,
        )  # fmt: skip
    return grad_query, grad_key, grad_value


def _readable(x: Tensor) -> Tensor:
    """`x`, or a copy where a block would not be addressed by 32 bits or the last dimension is not contiguous."""
    _, token, _, value = x.stride()
    return x if value == 1 and token * MOST_ROWS < 2**31 else x.contiguous()


def _strides(x: Tensor) -> tuple[int, ...]:
    return x.stride()[:3]


def _factors(head_dim: int, scale: float | None, softcap: float | None) -> tuple[float, float | None, float]:
    """`scale` and `inner` of the kernels, and the factor of the gradients of query and key."""
    divisor = math.sqrt(head_dim) if scale is None else 1 / scale
    if softcap is None:
        return math.log2(math.e) / divisor, None, 1 / divisor
    return math.log2(math.e) * softcap, 2 * math.log2(math.e) / (divisor * softcap), 1 / divisor


def _blocks(length: int, block: int) -> int:
    return -(-length // block)
