"""The least time of one training step on a device, by kernel class: FLOPs and bytes over the rates that it reaches.

It is the floor of an ideal program, not of the one that runs: each product at the rate of a large product, and every
op between products one fused kernel that reads each input once and writes each output once, in the precision of the
run, the residual stream included. Autocast over fp32 weights keeps the stream in fp32 and so moves more; that is a gap
to be shown and not a floor, and so is whatever recomputation runs again. A product's own reading and writing is hidden
behind its multiplications.

Beside it what the casts of a step in fp8 move, which is what fp8 costs.

T tokens of a micro-batch (B·S), D hidden size, L layers, H query heads, K key/value heads, Dh head dim, F feed-forward
width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from litespark.models.llama.config import LlamaConfig
from litespark.ops.fp8.settings import Fp8Config, Recipe
from litespark.ops.shapes import Place, StepShapes
from litespark.ops.work import work

KERNEL_CLASSES = ("gemm", "attention", "norm", "rope", "activation", "loss", "optimizer", "copies", "idle")

FloorPrecision = Literal["bf16", "fp32", "fp8"]

_DTYPES = {2: torch.bfloat16, 4: torch.float32}
# AdamW in fp32 reads weight, gradient and two moments and writes all but the gradient
_OPTIMIZER_BYTES = 16 + 12
# of a value in bf16, of one in fp32, and of its codes in both layouts that products contract
_NARROW, _MASTER, _CODES = 2, 4, 2
# how often a tensor is read for its scales before it is cast
_READS_FOR_SCALES: dict[Recipe, int] = {"delayed": 0, "tensorwise": 1}
# what norms and SwiGLU make, forward and backward; attention, rope and the next block hand the others over in bf16
FUSED_CASTS = ("qkv.input", "output.gradient", "gate_up.input", "gate_up.gradient", "down.input")


@dataclass(frozen=True)
class Rates:
    """What a device reaches.

    Attributes:
        matmul_flops: FLOP/s of a large product in the precision of the run (in bf16 for one in fp8).
        copy_bytes: bytes/s of a large copy, read and written together.
        attention_flops: model FLOP/s of attention, forward and backward; None: not measured, and attention is held
            against `matmul_flops`, which it cannot pass.
        fp8_matmul_flops: FLOP/s of a large product in fp8, for a run in fp8.

    Raises:
        ValueError: a rate is not positive.
    """

    matmul_flops: float
    copy_bytes: float
    attention_flops: float | None = None
    fp8_matmul_flops: float | None = None

    def __post_init__(self) -> None:
        for name, rate in vars(self).items():
            if rate is not None and not 0 < rate < float("inf"):
                raise ValueError(f"{name}: got {rate}, expected a positive rate; measure it again")


def floor(
    config: LlamaConfig,
    shapes: StepShapes,
    *,
    accumulate: int,
    rates: Rates,
    itemsize: int,
    stream_itemsize: int | None = None,
    precision: FloorPrecision,
    mean_keys: float,
) -> dict[str, float]:
    """The least milliseconds of one optimizer step in each of `KERNEL_CLASSES`.

    gemm: 6 · (parameters of the blocks' matrices and of the head) per token, forward and backward; with precision
    "fp8" the blocks' at the rate of fp8 and the head's at that of bf16. attention: 12 · L · H · Dh · mean_keys per
    token, as in `litespark.models.flops`. norm, rope, activation: bytes of `litespark.ops.work`, of 2L add_rms_norm,
    one rms_norm, L rope and L swiglu. loss: logits read and their gradient written. copies: rows of the embedding read
    and written, and the same of their gradients; with "fp8" also every operand of the blocks' products written once in
    one byte by the op that makes it. optimizer: once a step, AdamW in fp32 and the narrow copy of the weights. idle: 0.

    Args:
        config: sizes; of the layers that run, where a model is cut.
        shapes: of one micro-batch.
        accumulate: micro-batches a step.
        rates: of the device.
        itemsize: bytes of an activation that products read: 2, or 4 with precision "fp32".
        stream_itemsize: bytes of the residual stream; None: `itemsize`, which is the floor. 4 beside an `itemsize` of 2
            tells what autocast's stream costs at least.
        precision: of the products.
        mean_keys: keys that a query sees on average.

    Raises:
        ValueError: a size, the precision or `mean_keys` is not as above, or there is no rate of fp8 for "fp8".
    """
    stream = itemsize if stream_itemsize is None else stream_itemsize
    _check(accumulate, rates, itemsize, stream, precision, mean_keys)
    place = Place(torch.device("cpu"), _DTYPES[itemsize], shapes, autocast=stream != itemsize)
    tokens = shapes.rows * shapes.length
    blocks = 6 * config.num_layers * config.block_matmul_parameters() * tokens
    head = 6 * config.vocab_size * config.hidden_size * tokens
    attention = 12 * config.num_layers * config.num_heads * config.head_dim * mean_keys * tokens
    block_rate = rates.fp8_matmul_flops if precision == "fp8" else rates.matmul_flops
    assert block_rate is not None

    copied = 4 * tokens * config.hidden_size * stream
    if precision == "fp8":
        copied += _fp8_operands(config, tokens)
    moved = {
        "norm": 2 * config.num_layers * _bytes("add_rms_norm", place) + _bytes("rms_norm", place),
        "rope": config.num_layers * _bytes("rope", place),
        "activation": config.num_layers * _bytes("swiglu", place),
        "loss": 2 * tokens * config.vocab_size * itemsize,
        "copies": copied,
    }
    seconds = {name: accumulate * each / rates.copy_bytes for name, each in moved.items()}
    seconds["gemm"] = accumulate * (blocks / block_rate + head / rates.matmul_flops)
    seconds["attention"] = accumulate * attention / (rates.attention_flops or rates.matmul_flops)
    narrow_copy = itemsize if itemsize < 4 else 0
    seconds["optimizer"] = config.parameter_count() * (_OPTIMIZER_BYTES + narrow_copy) / rates.copy_bytes
    seconds["idle"] = 0.0
    return {name: 1e3 * seconds[name] for name in KERNEL_CLASSES}


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
    config: LlamaConfig, shapes: StepShapes, fp8: Fp8Config, *, accumulate: int = 1, fused: bool = True
) -> list[CastBytes]:
    """What each kind of cast moves in a step of bf16 activations over fp32 masters under autocast, without recompute.

    A cast by itself reads 2 bytes a value and writes 2, and reads 2 more where the scale is the tensor's own. A fused
    one writes 2 where bf16 writes 2 as well. Weights are cast once a step from fp32, which is what autocast does in
    each micro-batch.

    Args:
        config: sizes; of the layers that run, where a model is cut.
        shapes: of one micro-batch.
        fp8: which of them are in fp8, and how. Only `delayed` knows its scales before the tensor is there.
        accumulate: micro-batches a step.
        fused: cast in the ops that make the tensors, where the recipe allows it; False: every cast by itself.
    """
    blocks = max(0, config.num_layers - fp8.bf16_first - fp8.bf16_last)
    tokens = shapes.rows * shapes.length * accumulate
    reads = _READS_FOR_SCALES[fp8.recipe]
    found = []
    for linear in fp8.linears:
        outputs, inputs = config.linear_shapes()[linear]
        for kind, width in (("input", inputs), ("gradient", outputs)):
            tensor, values = f"{linear}.{kind}", blocks * tokens * width
            if fused and reads == 0 and tensor in FUSED_CASTS:
                found.append(CastBytes(tensor, True, _CODES * values, _NARROW * values))
            else:
                found.append(CastBytes(tensor, False, ((1 + reads) * _NARROW + _CODES) * values, 0))
        weights = blocks * inputs * outputs
        moved = ((1 + reads) * _MASTER + _CODES) * weights
        found.append(CastBytes(f"{linear}.weight", False, moved, accumulate * (_MASTER + _NARROW) * weights))
    return found


def _bytes(op: str, place: Place) -> int:
    least = work(op, place)
    assert least.forward_bytes is not None
    assert least.backward_bytes is not None
    return least.forward_bytes + least.backward_bytes


def _fp8_operands(config: LlamaConfig, tokens: int) -> int:
    """Bytes of what the blocks' products multiply, each once in one byte: inputs, gradients of outputs, and weights.

    A device that takes one layout only (Hopper) needs more: transposed copies are not in the floor.
    """
    heads = config.num_heads * config.head_dim
    inputs = config.hidden_size + heads + config.hidden_size + config.intermediate_size
    qkv = (config.num_heads + 2 * config.num_kv_heads) * config.head_dim
    gradients = qkv + config.hidden_size + 2 * config.intermediate_size + config.hidden_size
    return config.num_layers * (tokens * (inputs + gradients) + config.block_matmul_parameters())


def _check(
    accumulate: int, rates: Rates, itemsize: int, stream: int, precision: FloorPrecision, mean_keys: float
) -> None:
    if precision not in get_args(FloorPrecision):
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(get_args(FloorPrecision))}")
    if itemsize != (4 if precision == "fp32" else 2):
        raise ValueError(f"itemsize: got {itemsize} with precision {precision}, expected 4 with fp32 and 2 otherwise")
    if stream not in (itemsize, 4):
        raise ValueError(f"stream_itemsize: got {stream}, expected the itemsize {itemsize}, or 4 as with autocast")
    if accumulate < 1:
        raise ValueError(f"accumulate: got {accumulate}, expected at least one micro-batch a step")
    if not mean_keys > 0:
        raise ValueError(f"mean_keys: got {mean_keys}, expected the mean number of keys a query sees, which is above 0")
    if precision == "fp8" and rates.fp8_matmul_flops is None:
        raise ValueError(
            "rates.fp8_matmul_flops: got None for a floor in fp8, expected the rate of a product in fp8; measure it on "
            "a device with fp8 units, or leave the floor out"
        )
