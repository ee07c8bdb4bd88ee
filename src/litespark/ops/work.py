"""What an op has to move and to multiply at least.

Bytes are those of an ideal fused kernel: each input read once and each output written once, forward and backward. An op
that moves more (a copy, a mask, an fp32 intermediate) shows it as a smaller share of the copy bandwidth. Beside them
what the casts of a step in fp8 move, which is what fp8 costs.

T tokens (B·S), D width, L layers, H query heads, K key/value heads, Dh head width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from litespark.ops.fp8.settings import Fp8Config, Recipe
from litespark.ops.shapes import Place, StepShapes

MEMORY_BOUND = ("rms_norm", "add_rms_norm", "rope", "swiglu")

# of a value in bf16, of one in fp32, and of its codes in both layouts that products contract
_NARROW, _MASTER, _CODES = 2, 4, 2
# how often a tensor is read for its scales before it is cast
_READS_FOR_SCALES: dict[Recipe, int] = {"delayed": 0, "tensorwise": 1, "rowwise": 1}
# what norms and SwiGLU make, forward and backward; attention, rope and the next block hand the others over in bf16
_FUSED = ("qkv.input", "output.gradient", "gate_up.input", "gate_up.gradient", "down.input")


@dataclass(frozen=True)
class Work:
    """The least an op can do: bytes where memory bounds it, floating-point operations of its products where they do."""

    forward_bytes: int | None = None
    backward_bytes: int | None = None
    forward_flops: int | None = None
    backward_flops: int | None = None


def work(op: str, place: Place, attention_pairs: int | None = None) -> Work:
    """The work of `op` on one micro-batch.

    Args:
        op: name in `BACKENDS`.
        place: sizes, dtype, and whether the residual stream and the weights are fp32 beside it.
        attention_pairs: (query, key) pairs that are seen, summed over rows, for attention.
    """
    shapes, narrow = place.shapes, place.dtype.itemsize
    stream = 4 if place.autocast else narrow
    tokens = shapes.rows * shapes.length
    weight = stream * shapes.width
    if op == "rms_norm":
        values = tokens * shapes.width
        return Work(values * (stream + narrow) + weight, values * (narrow + 2 * stream) + 2 * weight)
    if op == "add_rms_norm":
        values = tokens * shapes.width
        # the gradients of the two summands are one tensor where their dtypes are one
        gradients = stream + (narrow if stream != narrow else 0)
        forward = values * (2 * stream + 2 * narrow) + weight
        return Work(forward, values * (narrow + 2 * stream + gradients) + 2 * weight)
    if op == "rope":
        rotated, heads = shapes.heads + shapes.kv_heads, shapes.heads + 2 * shapes.kv_heads
        tables = 4 * shapes.length * shapes.head_width
        # the value is not touched on the way there; on the way back three gradients become one tensor
        per_head = tokens * shapes.head_width * narrow
        return Work(2 * rotated * per_head + tables, 2 * heads * per_head + tables)
    if op == "swiglu":
        values = tokens * shapes.feed_forward * narrow
        return Work(3 * values, 5 * values)
    if op == "swiglu_linear":
        flops = 2 * tokens * shapes.feed_forward * shapes.width
        return Work(forward_flops=flops, backward_flops=2 * flops)
    if op == "linear_cross_entropy":
        flops = 2 * tokens * shapes.width * shapes.vocabulary
        return Work(forward_flops=flops, backward_flops=2 * flops)
    if op == "attention" and attention_pairs is not None:
        # two products forward; backward five, of which one makes the scores again (arXiv:2307.08691)
        flops = 4 * attention_pairs * shapes.heads * shapes.head_width
        return Work(forward_flops=flops, backward_flops=flops * 5 // 2)
    raise ValueError(f"got op {op!r}, expected one that is measured")


@dataclass(frozen=True)
class CastBytes:
    """What the casts of one kind of tensor move in an optimizer step, all layers together.

    Attributes:
        tensor: "gate_up.input", as in `litespark.ops.fp8.scaling` without the block.
        fused: the op that makes the tensor casts it on its way.
        moved: bytes read and written for the scales and the codes of both layouts.
        spared: bytes that training in bf16 moves in their place and fp8 does not.
    """

    tensor: str
    fused: bool
    moved: int
    spared: int

    @property
    def added(self) -> int:
        """Bytes that fp8 adds."""
        return self.moved - self.spared


def cast_bytes(
    shapes: StepShapes, layers: int, fp8: Fp8Config, *, accumulate: int = 1, fused: bool = True
) -> list[CastBytes]:
    """What each kind of cast moves in a step of bf16 activations over fp32 masters under autocast, without recompute.

    A cast by itself reads 2 bytes a value and writes 2, and reads 2 more where the scale is the tensor's own. A fused
    one writes 2 where bf16 writes 2 as well. Weights are cast once a step from fp32, which is what autocast does in
    each micro-batch.

    Args:
        shapes: of a micro-batch.
        layers: of the model.
        fp8: which of them are in fp8, and how. Only `delayed` knows its scales before the tensor is there.
        accumulate: micro-batches a step.
        fused: cast in the ops that make the tensors, where the recipe allows it; False: every cast by itself.
    """
    blocks = max(0, layers - fp8.bf16_first - fp8.bf16_last)
    tokens = shapes.rows * shapes.length * accumulate
    reads = _READS_FOR_SCALES[fp8.recipe]
    found = []
    for linear in fp8.linears:
        inputs, outputs = linear_sizes(shapes)[linear]
        for kind, width in (("input", inputs), ("gradient", outputs)):
            tensor, values = f"{linear}.{kind}", blocks * tokens * width
            if fused and reads == 0 and tensor in _FUSED:
                found.append(CastBytes(tensor, True, _CODES * values, _NARROW * values))
            else:
                found.append(CastBytes(tensor, False, ((1 + reads) * _NARROW + _CODES) * values, 0))
        weights = blocks * inputs * outputs
        moved = ((1 + reads) * _MASTER + _CODES) * weights
        found.append(CastBytes(f"{linear}.weight", False, moved, accumulate * (_MASTER + _NARROW) * weights))
    return found


def linear_sizes(shapes: StepShapes) -> dict[str, tuple[int, int]]:
    """Linear layer of a block -> features in, features out."""
    heads = shapes.heads * shapes.head_width
    return {
        "qkv": (shapes.width, heads + 2 * shapes.kv_heads * shapes.head_width),
        "output": (heads, shapes.width),
        "gate_up": (shapes.width, 2 * shapes.feed_forward),
        "down": (shapes.feed_forward, shapes.width),
    }


def pairs_within_rows(shapes: StepShapes) -> int:
    """(query, key) pairs of causal attention within whole rows."""
    return shapes.rows * shapes.length * (shapes.length + 1) // 2


def pairs_within_documents(index: Tensor) -> int:
    """(query, key) pairs of causal attention within the documents of (B, S) numbers, non-decreasing in a row."""
    total = 0
    for row in index.cpu():
        lengths = row.unique_consecutive(return_counts=True)[1]
        total += int((lengths * (lengths + 1) // 2).sum())
    return total
