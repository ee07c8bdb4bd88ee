"""Roofline of single ops: the bytes that an ideal fused one moves, each input and output once, and its operations."""

from dataclasses import dataclass

import torch
from torch import Tensor

from litespark.ops.shapes import Place, StepShapes


@dataclass(frozen=True)
class OpCost:
    """Bytes where memory bounds an op, floating-point operations of its products where they do."""

    forward_bytes: int | None = None
    backward_bytes: int | None = None
    forward_flops: int | None = None
    backward_flops: int | None = None


def op_cost(op: str, place: Place, attention_pairs: int | None = None) -> OpCost:
    """The cost of `op` on one micro-batch; `attention_pairs` are the (query, key) pairs seen in all sequences."""
    shapes, narrow = place.shapes, place.dtype.itemsize
    stream = place.stream_dtype.itemsize
    tokens = shapes.tokens
    weight = stream * shapes.hidden_size
    if op == "rms_norm":
        values = tokens * shapes.hidden_size
        return OpCost(values * (stream + narrow) + weight, values * (narrow + 2 * stream) + 2 * weight)
    if op == "add_rms_norm":
        values = tokens * shapes.hidden_size
        # the gradients of the two summands are one tensor where their dtypes are one
        gradients = stream + (narrow if stream != narrow else 0)
        forward = values * (2 * stream + 2 * narrow) + weight
        return OpCost(forward, values * (narrow + 2 * stream + gradients) + 2 * weight)
    if op == "rope":
        rotated, heads = shapes.num_heads + shapes.num_kv_heads, shapes.num_heads + 2 * shapes.num_kv_heads
        tables = 4 * shapes.length * shapes.head_dim
        # the value is not touched on the way there; on the way back three gradients become one tensor
        per_head = tokens * shapes.head_dim * narrow
        return OpCost(2 * rotated * per_head + tables, 2 * heads * per_head + tables)
    if op == "swiglu":
        values = tokens * shapes.intermediate_size * narrow
        return OpCost(3 * values, 5 * values)
    if op in ("swiglu_linear", "linear_cross_entropy"):
        other = shapes.intermediate_size if op == "swiglu_linear" else shapes.vocab_size
        flops = 2 * tokens * shapes.hidden_size * other
        return OpCost(forward_flops=flops, backward_flops=2 * flops)
    if op == "attention" and attention_pairs is not None:
        # two products forward; backward five, of which one makes the scores again (arXiv:2307.08691)
        flops = 4 * attention_pairs * shapes.num_heads * shapes.head_dim
        return OpCost(forward_flops=flops, backward_flops=flops * 5 // 2)
    raise ValueError(f"got op {op!r}, expected one that is measured")


def pairs_within_sequences(shapes: StepShapes) -> int:
    """(query, key) pairs of causal attention within whole sequences."""
    return shapes.tokens * (shapes.length + 1) // 2


def pairs_within_documents(index: Tensor) -> int:
    """(query, key) pairs of causal attention within the documents of (B, S) numbers, non-decreasing in a sequence."""
    lengths = torch.cat([sequence.unique_consecutive(return_counts=True)[1] for sequence in index.cpu()])
    return int((lengths * (lengths + 1) // 2).sum())
