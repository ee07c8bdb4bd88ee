"""One Triton kernel that rotates query and key and copies value: from one qkv tensor to three, and gradients back.

B batch, S sequence length, H query heads, K key/value heads, Dh head dim (HEAD_DIM), Dr how many values of a head are
rotated, the first (2 · HALF).
"""

import itertools
from collections.abc import Sequence
from functools import cache, partial
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from litespark.ops.precision import dtype_name
from litespark.ops.rounding.kernels import rounded
from litespark.ops.shapes import Place
from litespark.ops.structure import far, in_parts
from litespark.ops.triton_support import Launches, Target, on_device_of, on_meta, target_of

# 64 threads a token, each with 8 values of either half of a head at a time (16 bytes in bf16): 24 + 8 + 8 heads of 128
# are five whole tiles
_THREADS = 64
_TILE = 512


@triton.jit
def _heads(
    source, destination, source_stride, destination_stride, cos, sin, ROTATE: tl.constexpr, HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr, HALF: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr,
    BLOCK_PASSED: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """The HEADS heads of one token from `source` to `destination`; without a source they become 0."""
    column = tl.arange(0, BLOCK_HALF)[None, :]
    for start in range(0, HEADS, BLOCK_HEADS):
        head = start + tl.arange(0, BLOCK_HEADS)[:, None]
        inside = (head < HEADS) & (column < HALF)
        # a head may be a whole sequence of tokens away from the next
        head = head.to(tl.int64)
        if INTERLEAVED:
            both = tl.arange(0, 2 * BLOCK_HALF)[None, :]
            inside = (head < HEADS) & (both < 2 * HALF)
            if source is None:
                pairs = tl.zeros((BLOCK_HEADS, 2 * BLOCK_HALF), tl.float32)
            else:
                pairs = tl.load(source + head * source_stride + both, mask=inside, other=0.0).to(tl.float32)
                if ROTATE:
                    x, y = tl.split(tl.reshape(pairs, (BLOCK_HEADS, BLOCK_HALF, 2)))
                    turned = tl.join(x * cos - y * sin, y * cos + x * sin)
                    pairs = tl.reshape(turned, (BLOCK_HEADS, 2 * BLOCK_HALF))
            place = destination + head * destination_stride + both
            tl.store(place, rounded(pairs, destination.dtype.element_ty), mask=inside)
        else:
            if source is None:
                first = tl.zeros((BLOCK_HEADS, BLOCK_HALF), tl.float32)
                second = first
            else:
                place = source + head * source_stride + column
                first = tl.load(place, mask=inside, other=0.0).to(tl.float32)
                second = tl.load(place + HALF, mask=inside, other=0.0).to(tl.float32)
                if ROTATE:
                    x, y = first, second
                    first = x * cos - y * sin
                    second = y * cos + x * sin
            place = destination + head * destination_stride + column
            tl.store(place, rounded(first, destination.dtype.element_ty), mask=inside)
            tl.store(place + HALF, rounded(second, destination.dtype.element_ty), mask=inside)
        if BLOCK_PASSED > 0:
            passed = 2 * HALF + tl.arange(0, BLOCK_PASSED)[None, :]
            inside = (head < HEADS) & (passed < HEAD_DIM)
            if source is None:
                values = tl.zeros((BLOCK_HEADS, BLOCK_PASSED), tl.float32)
            else:
                values = tl.load(source + head * source_stride + passed, mask=inside, other=0.0).to(tl.float32)
            place = destination + head * destination_stride + passed
            tl.store(place, rounded(values, destination.dtype.element_ty), mask=inside)


# a length of one token, or one that is no multiple of 16, is no reason to compile anew
@triton.jit(do_not_specialize=["length"])
def rope_kernel(
    query, key, value, query_to, key_to, value_to, cos, sin, length,
    query_sequence, query_token, query_head, key_sequence, key_token, key_head, value_sequence, value_token, value_head,
    query_to_sequence, query_to_token, query_to_head, key_to_sequence, key_to_token, key_to_head,
    value_to_sequence, value_to_token, value_to_head, table_sequence, table_token,
    QUERY_HEADS: tl.constexpr, KEY_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, HALF: tl.constexpr,
    INVERSE: tl.constexpr, BLOCK_HEADS: tl.constexpr, BLOCK_HALF: tl.constexpr, BLOCK_PASSED: tl.constexpr,
    INTERLEAVED: tl.constexpr,
):  # fmt: skip
    """One program a token. Of each tensor three strides, those of B, S and heads; neighbours in a head are neighbours.

    A source that is None stands for zeros. BLOCK_PASSED is 0 where all of a head is rotated.
    """
    token = tl.program_id(0)
    sequence = (token // length).to(tl.int64)
    position = (token % length).to(tl.int64)
    column = tl.arange(0, BLOCK_HALF)[None, :]
    table = sequence * table_sequence + position * table_token + column
    c = tl.load(cos + table, mask=column < HALF, other=0.0)
    s = tl.load(sin + table, mask=column < HALF, other=0.0)
    if INVERSE:
        s = -s
    if query is not None:
        query += sequence * query_sequence + position * query_token
    if key is not None:
        key += sequence * key_sequence + position * key_token
    if value is not None:
        value += sequence * value_sequence + position * value_token
    query_to += sequence * query_to_sequence + position * query_to_token
    key_to += sequence * key_to_sequence + position * key_to_token
    value_to += sequence * value_to_sequence + position * value_to_token
    _heads(
        query, query_to, query_head, query_to_head, c, s, True, QUERY_HEADS, HEAD_DIM, HALF, BLOCK_HEADS, BLOCK_HALF,
        BLOCK_PASSED, INTERLEAVED,
    )  # fmt: skip
    _heads(
        key, key_to, key_head, key_to_head, c, s, True, KEY_HEADS, HEAD_DIM, HALF, BLOCK_HEADS, BLOCK_HALF,
        BLOCK_PASSED, INTERLEAVED,
    )  # fmt: skip
    _heads(
        value, value_to, value_head, value_to_head, c, s, False, KEY_HEADS, HEAD_DIM, HALF, BLOCK_HEADS, BLOCK_HALF,
        BLOCK_PASSED, INTERLEAVED,
    )  # fmt: skip


# ---------------------------------------------------------------- launchers


def rope_qkv_forward(
    qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int, interleaved: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Three contiguous tensors, so that the memory of `qkv` (any strides) can be freed."""
    batch, length, heads, head_dim = qkv.shape
    sizes = (heads - 2 * num_kv_heads, num_kv_heads, num_kv_heads)
    query, key, value = [qkv.new_empty(batch, length, size, head_dim) for size in sizes]
    _launch(torch.split_with_sizes(_dense(qkv), sizes, 2), (query, key, value), cos, sin, False, interleaved)
    return query, key, value


def rope_qkv_backward(
    query: Tensor | None, key: Tensor | None, value: Tensor | None, cos: Tensor, sin: Tensor, shape: Sequence[int],
    dtype: torch.dtype, interleaved: bool = False,
) -> Tensor:  # fmt: skip
    """The gradient of `qkv` (`shape`, `dtype`) from those of the three, in one pass; None stands for zeros."""
    gradients = cos.new_empty(*shape, dtype=dtype)
    sources = [None if gradient is None else _dense(gradient) for gradient in (query, key, value)]
    num_kv_heads = next(
        x.shape[2] if i else (shape[2] - x.shape[2]) // 2 for i, x in enumerate(sources) if x is not None
    )
    sizes = (shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads)
    _launch(sources, torch.split_with_sizes(gradients, sizes, 2), cos, sin, True, interleaved)
    return gradients


def _dense(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _launch(
    sources: Sequence[Tensor | None], destinations: Sequence[Tensor], cos: Tensor, sin: Tensor, inverse: bool,
    interleaved: bool,
) -> None:  # fmt: skip
    query_to, key_to, _ = destinations
    batch, length, _, head_dim = query_to.shape
    if query_to.numel() + key_to.numel() == 0:
        return
    cos, sin = _dense(cos), _dense(sin)
    if sin.stride() != cos.stride():
        cos, sin = cos.contiguous(), sin.contiguous()
    rotated = 2 * cos.shape[2]
    blocks = configuration(query_to.shape[2], key_to.shape[2], head_dim, target_of(query_to.device), rotated)
    with on_device_of(query_to):
        rope_kernel[(batch * length,)](
            *sources, *destinations, cos, sin, length,
            *itertools.chain.from_iterable(map(_strides, (*sources, *destinations))),
            0 if cos.shape[0] == 1 else cos.stride(0), cos.stride(1),
            QUERY_HEADS=query_to.shape[2], KEY_HEADS=key_to.shape[2], HEAD_DIM=head_dim, HALF=rotated // 2,
            INVERSE=inverse, BLOCK_HEADS=blocks.heads, BLOCK_HALF=blocks.half, BLOCK_PASSED=blocks.passed,
            INTERLEAVED=interleaved, num_warps=blocks.num_warps,
        )  # fmt: skip


def _strides(x: Tensor | None) -> tuple[int, ...]:
    return (0, 0, 0) if x is None else x.stride()[:3]


class Blocks(NamedTuple):
    """What one program takes at a time; powers of two."""

    heads: int
    half: int  # values of either half of what is rotated
    passed: int  # values that are not rotated; 0: there are none
    num_warps: int


@cache
def configuration(
    query_heads: int, key_heads: int, head_dim: int, target: Target, rotated: int | None = None
) -> Blocks:
    """`rotated` is Dr, None: all of a head."""
    half = triton.next_power_of_2((head_dim if rotated is None else rotated) // 2)
    passed = 0 if rotated in (None, head_dim) else triton.next_power_of_2(head_dim - rotated)
    heads = min(max(_TILE // max(half, passed // 2), 1), triton.next_power_of_2(max(query_heads, key_heads)))
    return Blocks(heads, half, passed, max(_THREADS // target.warp_size, 1))


def structure(place: Place) -> set[str]:
    """The structural cases, see `litespark.ops.structure`."""
    shapes = place.shapes
    block = configuration(shapes.num_heads, shapes.num_kv_heads, shapes.head_dim, target_of(place.device)).heads
    sizes = {"query": shapes.num_heads, "key/value": shapes.num_kv_heads}
    cases = {case for kind, heads in sizes.items() for case in in_parts(f"block of {kind} heads", heads, block, most=3)}
    return cases | in_parts("sequence", shapes.sequences, 1) | far(shapes.tokens * shapes.num_heads * shapes.head_dim)


# ---------------------------------------------------------------- compiling without a device


def launches(target: Target) -> Launches:
    """Both directions, llama3b's heads first, then an 8 B model's, a 160 M model's, odd ones and wide ones; then heads
    rotated in part, as of Phi-4-mini and GPT-NeoX, queries by themselves, and pairs of neighbours, as of Command R7B
    and of GLM-4 9B."""
    sizes = ((24, 8, 128, 128), (32, 8, 128, 128), (12, 12, 64, 64), (9, 3, 96, 96), (8, 1, 256, 256),
             (24, 8, 128, 96), (64, 64, 96, 24), (16, 0, 128, 128))  # fmt: skip
    variants = [(*size, False) for size in sizes] + [(32, 8, 128, 128, True), (32, 2, 128, 64, True)]
    for heads, num_kv_heads, head_dim, rotated, interleaved in variants:
        table = on_meta(1, 4096, rotated // 2, torch.float32)
        for dtype in (torch.bfloat16, torch.float32):
            qkv = on_meta(4, 4096, heads + 2 * num_kv_heads, head_dim, dtype)
            query, key = on_meta(4, 4096, heads, head_dim, dtype), on_meta(4, 4096, num_kv_heads, head_dim, dtype)
            label = f"{dtype_name(dtype)} H{heads} K{num_kv_heads} Dh{head_dim}"
            label += ("" if rotated == head_dim else f" Dr{rotated}") + " pairs" * interleaved
            yield f"forward {label}", partial(rope_qkv_forward, qkv, table, table, num_kv_heads, interleaved)
            backward = partial(rope_qkv_backward, query, key, key, table, table, qkv.shape, dtype, interleaved)
            yield f"backward {label}", backward
