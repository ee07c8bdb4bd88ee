"""Triton kernels of causal attention, forward and backward; `litespark.ops.attention.launchers` launches them.

FlashAttention-2: Dao, arXiv:2307.08691; grouped heads: Ainslie et al., arXiv:2305.13245; sliding window: Beltagy et
al., arXiv:2004.05150. Softmax is taken in base 2: exp(x·scale) = exp2(x·scale·log2(e)), and `lse` is the base-2
logarithm of the sum of exponentials, so that no logarithm changes its base on the way. With a softcap (`inner` is not
None) the products become tanh(product · factor / softcap), and `scale` is softcap · log2(e): Gemma 2, arXiv:2408.00118.

What a query sees is one interval of keys: from `first`, the later of its document's first key and the window's, up to
itself. Blocks that no query of a program sees are not read; blocks that all of them see whole skip the mask.

Tensors are read through their strides (the last is 1). Offsets across sequences, positions and heads are 64-bit; within
a block they are 32-bit, which the launchers make sure of.

B batch, S sequence length, H query heads, K key/value heads, Dh head dim (HEAD_DIM, PADDED to a power of two).
"""

import itertools

import torch
import triton
import triton.language as tl

from litespark.ops.attention.configurations import Configuration, candidates, configured
from litespark.ops.precision import dtype_name
from litespark.ops.rounding.kernels import INTERPRETED, rounded
from litespark.ops.swiglu.kernels import quotient
from litespark.ops.triton_support import Launches, Target, on_meta


@triton.jit
def _product(a, b, accumulator):
    """`accumulator` + a · b; no TF32."""
    if INTERPRETED:  # which multiplies the bits of bf16 as if they were integers
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, accumulator, input_precision="ieee")


@triton.jit
def _tile(base, start, length, stride, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr,
          CHECKED: tl.constexpr):  # fmt: skip
    """(ROWS, PADDED) from row `start` on; zero beyond HEAD_DIM and, where CHECKED, beyond `length`."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, PADDED)
    pointers = base + tl.cast(start, tl.int64) * stride + (rows[:, None] * stride + columns[None, :])
    if CHECKED:
        if PADDED == HEAD_DIM:
            return tl.load(pointers, mask=rows[:, None] < length - start, other=0.0)
        return tl.load(pointers, mask=(rows[:, None] < length - start) & (columns[None, :] < HEAD_DIM), other=0.0)
    if PADDED == HEAD_DIM:
        return tl.load(pointers)
    return tl.load(pointers, mask=columns[None, :] < HEAD_DIM, other=0.0)


@triton.jit
def _store_tile(base, start, length, stride, tile, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr):
    """The opposite of `_tile`, CHECKED, in the dtype of `base`."""
    rows, columns = tl.arange(0, ROWS), tl.arange(0, PADDED)
    pointers = base + tl.cast(start, tl.int64) * stride + (rows[:, None] * stride + columns[None, :])
    inside = (rows[:, None] < length - start) & (columns[None, :] < HEAD_DIM)
    tl.store(pointers, rounded(tile, base.dtype.element_ty), mask=inside)


@triton.jit
def _first_visible(first_keys, positions, length, window, DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr):
    """The first key that the queries at `positions` see; `first_keys` points at the sequence."""
    first = positions * 0
    if DOCUMENTS:
        first = tl.load(first_keys + positions, mask=positions < length, other=0)
    if WINDOW:
        first = tl.maximum(first, positions - window + 1)
    return first


@triton.jit
def _last_visible(last_queries, positions, length, window, DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr):
    """The last query that sees the keys at `positions`; `last_queries` points at the sequence."""
    last = positions * 0 + (length - 1)
    if DOCUMENTS:
        last = tl.load(last_queries + positions, mask=positions < length, other=0)
    if WINDOW:
        last = tl.minimum(last, positions + window - 1)
    return last


@triton.jit
def _key_ranges(first_keys, start, length, window, QUERIES: tl.constexpr, KEYS: tl.constexpr,
                DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr):  # fmt: skip
    """Borders of the key blocks of one query block: some queries see [0, 1), all see [1, 2), some see [2, 3)."""
    stop = tl.minimum(start + QUERIES, length)
    diagonal = (start + 1) // KEYS * KEYS
    low = _first_visible(first_keys, start, length, window, DOCUMENTS, WINDOW) // KEYS * KEYS
    whole = _first_visible(first_keys, stop - 1, length, window, DOCUMENTS, WINDOW)
    whole = tl.minimum((whole + KEYS - 1) // KEYS * KEYS, diagonal)
    return low, whole, diagonal, stop


@triton.jit
def _query_ranges(last_queries, start, length, window, QUERIES: tl.constexpr, KEYS: tl.constexpr,
                  DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr):  # fmt: skip
    """Borders of the query blocks of one key block: some keys are seen in [0, 1), all in [1, 2), some in [2, 3)."""
    end = tl.minimum(start + KEYS, length)
    stop = _last_visible(last_queries, end - 1, length, window, DOCUMENTS, WINDOW) + 1
    stop = tl.minimum(stop, length)
    whole = _last_visible(last_queries, start, length, window, DOCUMENTS, WINDOW) + 1
    diagonal = tl.minimum((end - 1 + QUERIES - 1) // QUERIES * QUERIES, stop)
    whole = tl.maximum(tl.minimum(whole, length) // QUERIES * QUERIES, diagonal)
    return start // QUERIES * QUERIES, diagonal, whole, stop


@triton.jit
def _steps(borders, MASKED: tl.constexpr):
    """A range to walk, and what to add to its steps from where on: [1, 2) or, MASKED, [0, 1) and then [2, 3)."""
    skipped = borders[2] - borders[1]
    if MASKED:
        return _whole_number(borders[0]), _whole_number(borders[3] - skipped), borders[1], skipped
    return _whole_number(borders[1]), _whole_number(borders[2]), borders[2], 0


@triton.jit
def _whole_number(x):
    """`x` as the border of a range, which the interpreter of Triton 3.6 cannot make of it with NumPy from 2.4 on."""
    if INTERPRETED:
        return x.handle.data.item()
    return x


@triton.jit
def _capped(scores, inner):
    """tanh(scores · inner / (2 log2(e))); `scores` where `inner` is None. tanh y = 1 - 2 / (exp 2y + 1) holds where exp
    overflows."""
    if inner is not None:
        scores = 1.0 - quotient(2.0, 1.0 + tl.exp2(scores * inner))
    return scores


@triton.jit
def _attend(accumulator, total, highest, queries, positions, first, key, value, key_row, value_row, borders,
            length, scale, inner, KEYS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr,
            MASKED: tl.constexpr, BOUNDED: tl.constexpr):  # fmt: skip
    """The running softmax over the keys that all queries see or, MASKED, that some see. BOUNDED: queries have a
    `first` key beside the diagonal."""
    begin, stop, hole, skipped = _steps(borders, MASKED)
    for step in range(begin, stop, KEYS):
        start = step + tl.where(step >= hole, skipped, 0)
        keys = _tile(key, start, length, key_row, KEYS, HEAD_DIM, PADDED, MASKED)
        scores = _capped(_product(queries, tl.trans(keys), None), inner)
        if MASKED:
            places = start + tl.arange(0, KEYS)
            visible = places[None, :] <= positions[:, None]
            if BOUNDED:
                visible = visible & (places[None, :] >= first[:, None])
            scores = tl.where(visible, scores, float("-inf"))
        risen = tl.maximum(highest, tl.max(scores, 1) * scale)
        shift = risen
        if MASKED and BOUNDED:  # a query that has seen no key yet
            shift = tl.where(risen == float("-inf"), 0.0, risen)
        probabilities = tl.exp2(scores * scale - shift[:, None])
        decay = tl.exp2(highest - shift)
        total = total * decay + tl.sum(probabilities, 1)
        values = _tile(value, start, length, value_row, KEYS, HEAD_DIM, PADDED, MASKED)
        accumulator = accumulator * decay[:, None]
        accumulator = _product(rounded(probabilities, values.dtype), values, accumulator)
        highest = risen
    return accumulator, total, highest


# no address is wider read for what the number of heads is a multiple of
@triton.jit(do_not_specialize=["heads"])
def attention_forward_kernel(
    query, key, value, output, lse, first_keys,
    query_batch, query_row, query_head, key_batch, key_row, key_head, value_batch, value_row, value_head,
    length, heads, window, scale, inner,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """`output` (B, S, H, Dh) and `lse` (B, H, S). One program: one block of queries of one head, the longest first.

    Reads each query once and, for every block of queries, the keys and values that it sees; heads of a group run one
    after the other, so that their keys and values are in the cache. Writes output and lse once.
    """
    program, blocks = tl.program_id(0), (length + QUERIES - 1) // QUERIES
    start = (blocks - 1 - program % blocks) * QUERIES
    head, batch = program // blocks % heads, tl.cast(program // blocks // heads, tl.int64)
    kv_head = tl.cast(head // GROUP, tl.int64)
    query += batch * query_batch + tl.cast(head, tl.int64) * query_head
    key += batch * key_batch + kv_head * key_head
    value += batch * value_batch + kv_head * value_head
    if DOCUMENTS:
        first_keys += batch * length

    positions = start + tl.arange(0, QUERIES)
    first = _first_visible(first_keys, positions, length, window, DOCUMENTS, WINDOW)
    BOUNDED: tl.constexpr = DOCUMENTS or WINDOW
    borders = _key_ranges(first_keys, start, length, window, QUERIES, KEYS, DOCUMENTS, WINDOW)
    queries = _tile(query, start, length, query_row, QUERIES, HEAD_DIM, PADDED, True)
    accumulator = tl.zeros([QUERIES, PADDED], tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    highest = tl.full([QUERIES], float("-inf"), tl.float32)
    for masked in tl.static_range(2):
        accumulator, total, highest = _attend(
            accumulator, total, highest, queries, positions, first, key, value, key_row, value_row,
            borders, length, scale, inner, KEYS, HEAD_DIM, PADDED, masked == 0, BOUNDED,
        )  # fmt: skip
    total = tl.where(positions < length, total, 1.0)
    lse += (batch * heads + head) * length
    tl.store(lse + positions, highest + tl.log2(total), mask=positions < length)
    output += batch * length * heads * HEAD_DIM + head * HEAD_DIM
    _store_tile(output, start, length, heads * HEAD_DIM, accumulator / total[:, None], QUERIES, HEAD_DIM, PADDED)


@triton.jit
def _descend_keys(grad_queries, queries, grad_outputs, sums, deltas, positions, first, key, value, key_row, value_row,
                  borders, length, scale, inner, KEYS: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr,
                  MASKED: tl.constexpr, BOUNDED: tl.constexpr):  # fmt: skip
    """`grad_queries` with what the keys add to it; MASKED and BOUNDED as in `_attend`."""
    begin, stop, hole, skipped = _steps(borders, MASKED)
    for step in range(begin, stop, KEYS):
        start = step + tl.where(step >= hole, skipped, 0)
        keys = _tile(key, start, length, key_row, KEYS, HEAD_DIM, PADDED, MASKED)
        values = _tile(value, start, length, value_row, KEYS, HEAD_DIM, PADDED, MASKED)
        scores = _capped(_product(queries, tl.trans(keys), None), inner)
        probabilities = tl.exp2(scores * scale - sums[:, None])
        if MASKED:
            places = start + tl.arange(0, KEYS)
            visible = places[None, :] <= positions[:, None]
            if BOUNDED:
                visible = visible & (places[None, :] >= first[:, None])
            probabilities = tl.where(visible, probabilities, 0.0)
        if inner is not None:
            probabilities *= 1.0 - scores * scores
        grad_probabilities = _product(grad_outputs, tl.trans(values), None)
        grad_scores = probabilities * (grad_probabilities - deltas[:, None])
        grad_queries = _product(rounded(grad_scores, keys.dtype), keys, grad_queries)
    return grad_queries


@triton.jit(do_not_specialize=["heads"])
def attention_query_gradient_kernel(
    query, key, value, output, grad_output, lse, delta, grad_query, first_keys,
    query_batch, query_row, query_head, key_batch, key_row, key_head, value_batch, value_row, value_head,
    grad_batch, grad_row, grad_head,
    length, heads, window, scale, inner, factor,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """`grad_query` (B, S, H, Dh), and `delta` (B, H, S), the sum of output · its gradient, for the other kernel.

    Reads as the forward kernel does, and output and its gradient once more; nothing of size S·S is written.
    """
    program, blocks = tl.program_id(0), (length + QUERIES - 1) // QUERIES
    start = (blocks - 1 - program % blocks) * QUERIES
    head, batch = program // blocks % heads, tl.cast(program // blocks // heads, tl.int64)
    kv_head = tl.cast(head // GROUP, tl.int64)
    query += batch * query_batch + tl.cast(head, tl.int64) * query_head
    key += batch * key_batch + kv_head * key_head
    value += batch * value_batch + kv_head * value_head
    grad_output += batch * grad_batch + tl.cast(head, tl.int64) * grad_head
    if DOCUMENTS:
        first_keys += batch * length
    own = batch * length * heads * HEAD_DIM + head * HEAD_DIM

    positions = start + tl.arange(0, QUERIES)
    first = _first_visible(first_keys, positions, length, window, DOCUMENTS, WINDOW)
    BOUNDED: tl.constexpr = DOCUMENTS or WINDOW
    borders = _key_ranges(first_keys, start, length, window, QUERIES, KEYS, DOCUMENTS, WINDOW)
    grad_outputs = _tile(grad_output, start, length, grad_row, QUERIES, HEAD_DIM, PADDED, True)
    outputs = _tile(output + own, start, length, heads * HEAD_DIM, QUERIES, HEAD_DIM, PADDED, True)
    deltas = tl.sum(outputs.to(tl.float32) * grad_outputs.to(tl.float32), 1)
    rows = (batch * heads + head) * length + positions
    tl.store(delta + rows, deltas, mask=positions < length)
    sums = tl.load(lse + rows, mask=positions < length, other=0.0)
    queries = _tile(query, start, length, query_row, QUERIES, HEAD_DIM, PADDED, True)
    grad_queries = tl.zeros([QUERIES, PADDED], tl.float32)
    for masked in tl.static_range(2):
        grad_queries = _descend_keys(
            grad_queries, queries, grad_outputs, sums, deltas, positions, first, key, value, key_row, value_row,
            borders, length, scale, inner, KEYS, HEAD_DIM, PADDED, masked == 0, BOUNDED,
        )  # fmt: skip
    _store_tile(grad_query + own, start, length, heads * HEAD_DIM, grad_queries * factor, QUERIES, HEAD_DIM, PADDED)


@triton.jit
def _descend_queries(grad_keys, grad_values, keys, values, places, last, query, grad_output, lse, delta, query_row,
                     grad_row, borders, length, scale, inner, QUERIES: tl.constexpr, HEAD_DIM: tl.constexpr,
                     PADDED: tl.constexpr, MASKED: tl.constexpr):  # fmt: skip
    """`grad_keys` and `grad_values` with what the queries add that see all keys or, MASKED, some; products are
    (KEYS, QUERIES)."""
    begin, stop, hole, skipped = _steps(borders, MASKED)
    for step in range(begin, stop, QUERIES):
        start = step + tl.where(step >= hole, skipped, 0)
        positions = start + tl.arange(0, QUERIES)
        queries = _tile(query, start, length, query_row, QUERIES, HEAD_DIM, PADDED, MASKED)
        grad_outputs = _tile(grad_output, start, length, grad_row, QUERIES, HEAD_DIM, PADDED, MASKED)
        if MASKED:
            sums = tl.load(lse + positions, mask=positions < length, other=0.0)
            deltas = tl.load(delta + positions, mask=positions < length, other=0.0)
        else:
            sums, deltas = tl.load(lse + positions), tl.load(delta + positions)
        scores = _capped(_product(keys, tl.trans(queries), None), inner)
        probabilities = tl.exp2(scores * scale - sums[None, :])
        if MASKED:
            visible = (places[:, None] <= positions[None, :]) & (positions[None, :] <= last[:, None])
            probabilities = tl.where(visible, probabilities, 0.0)
        grad_values = _product(rounded(probabilities, values.dtype), grad_outputs, grad_values)
        if inner is not None:
            probabilities *= 1.0 - scores * scores
        grad_probabilities = _product(values, tl.trans(grad_outputs), None)
        grad_scores = probabilities * (grad_probabilities - deltas[None, :])
        grad_keys = _product(rounded(grad_scores, keys.dtype), queries, grad_keys)
    return grad_keys, grad_values


@triton.jit(do_not_specialize=["num_kv_heads"])
def attention_key_value_gradient_kernel(
    query, key, value, grad_output, lse, delta, grad_key, grad_value, last_queries,
    query_batch, query_row, query_head, key_batch, key_row, key_head, value_batch, value_row, value_head,
    grad_batch, grad_row, grad_head,
    length, num_kv_heads, window, scale, inner, factor,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr,
    DOCUMENTS: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """`grad_key` and `grad_value` (B, S, K, Dh). One program: one block of keys of one key/value head, for all query
    heads of its group in turn, so that nothing is added to by two programs.

    Reads keys and values once and, for every block of keys, the queries, gradients, lse and delta that see it.
    """
    program, blocks = tl.program_id(0), (length + KEYS - 1) // KEYS
    start = program % blocks * KEYS
    kv_head, batch = program // blocks % num_kv_heads, tl.cast(program // blocks // num_kv_heads, tl.int64)
    key += batch * key_batch + tl.cast(kv_head, tl.int64) * key_head
    value += batch * value_batch + tl.cast(kv_head, tl.int64) * value_head
    query += batch * query_batch
    grad_output += batch * grad_batch
    if DOCUMENTS:
        last_queries += batch * length

    places = start + tl.arange(0, KEYS)
    last = _last_visible(last_queries, places, length, window, DOCUMENTS, WINDOW)
    borders = _query_ranges(last_queries, start, length, window, QUERIES, KEYS, DOCUMENTS, WINDOW)
    keys = _tile(key, start, length, key_row, KEYS, HEAD_DIM, PADDED, True)
    values = _tile(value, start, length, value_row, KEYS, HEAD_DIM, PADDED, True)
    grad_keys = tl.zeros([KEYS, PADDED], tl.float32)
    grad_values = tl.zeros([KEYS, PADDED], tl.float32)
    for masked in tl.static_range(2):
        for member in range(GROUP):
            head = tl.cast(kv_head * GROUP + member, tl.int64)
            rows = (batch * num_kv_heads * GROUP + head) * length
            grad_keys, grad_values = _descend_queries(
                grad_keys, grad_values, keys, values, places, last, query + head * query_head,
                grad_output + head * grad_head, lse + rows, delta + rows, query_row, grad_row, borders, length, scale,
                inner, QUERIES // 2 if masked == 1 and QUERIES > 16 else QUERIES, HEAD_DIM, PADDED, masked == 1,
            )  # fmt: skip
    own = batch * length * num_kv_heads * HEAD_DIM + kv_head * HEAD_DIM
    _store_tile(grad_key + own, start, length, num_kv_heads * HEAD_DIM, grad_keys * factor, KEYS, HEAD_DIM, PADDED)
    _store_tile(grad_value + own, start, length, num_kv_heads * HEAD_DIM, grad_values, KEYS, HEAD_DIM, PADDED)


# ---------------------------------------------------------------- compiling without a device


def launches(target: Target) -> Launches:
    """Every kernel with every launch configuration of `target`; head dim 128 in bf16, grouped as in llama3b, first.

    With documents, except for the first: they take more registers, and the same shared memory, as whole sequences do.
    Then with a softcap, head dims 256 and 128 as those of Gemma 2.
    """
    yield from _launches(candidates(target, 128, torch.bfloat16)[0], 128, torch.bfloat16, False, "configuration 0")
    for dtype, head_dim in itertools.product((torch.bfloat16, torch.float32), (128, 64, 96, 256, 16)):
        for number, configuration in enumerate(candidates(target, head_dim, dtype)):
            yield from _launches(configuration, head_dim, dtype, True, f"documents configuration {number}")
    for dtype, head_dim in itertools.product((torch.bfloat16, torch.float32), (256, 128)):
        for number, configuration in enumerate(candidates(target, head_dim, dtype)):
            label = f"documents softcap configuration {number}"
            yield from _launches(configuration, head_dim, dtype, True, label, softcap=50.0)


def _launches(
    configuration: Configuration, head_dim: int, dtype: torch.dtype, documents: bool, label: str,
    softcap: float | None = None,
) -> Launches:  # fmt: skip
    from litespark.ops.attention import launchers  # which import this module

    query, key = on_meta(2, 4096, 24, head_dim, dtype), on_meta(2, 4096, 8, head_dim, dtype)
    lse, bounds = on_meta(2, 24, 4096, torch.float32), on_meta(2, 4096, torch.int32) if documents else None

    def launch() -> None:
        with configured(configuration):
            launchers.forward(query, key, key, bounds, bounds, 0, 0, None, softcap)
            launchers.backward(query, query, key, key, query, lse, bounds, bounds, 0, 0, None, softcap)

    yield f"{dtype_name(dtype)} Dh{head_dim} {label}", launch
