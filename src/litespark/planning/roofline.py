"""Roofline: a lower bound for the time of one training step, by kernel class, from the rates that a device reaches.

It is that of an ideal program: each product at the rate of a large one, every op between products one fused kernel in
the precision of the run. What autocast moves beyond that, and what recomputation runs again, is the gap that it shows.
Model: Williams et al., "Roofline", CACM 52(4), 2009.
"""

from typing import Literal

import torch

from litespark.metrics.records.step import RatesRecord
from litespark.models.llama.config import LlamaConfig
from litespark.ops.shapes import Place, StepShapes
from litespark.planning.op_costs import op_cost

KERNEL_CLASSES = ("gemm", "attention", "norm", "rope", "activation", "loss", "optimizer", "copies", "idle")

RooflinePrecision = Literal["bf16", "fp32", "fp8"]

# AdamW in fp32 reads weight, gradient and two moments and writes all but the gradient
_OPTIMIZER_BYTES = 16 + 12


def roofline(
    config: LlamaConfig,
    shapes: StepShapes,
    rates: RatesRecord,
    *,
    precision: RooflinePrecision,
    accumulate: int,
    mean_keys: float,
) -> dict[str, float]:
    """Milliseconds of one optimizer step in each of `KERNEL_CLASSES`; empty where a rate was not measured.

    gemm: 6 · (parameters of the blocks' matrices and of the head) per token, forward and backward; with precision
    "fp8" the blocks' at the rate of fp8 and the head's at that of bf16. attention: 12 · L · H · Dh · mean_keys per
    token at its own rate, or at that of products, which it cannot pass. norm, rope, activation: bytes of 2L
    add_rms_norm, one rms_norm, L rope and L swiglu. loss: logits read and their gradient written. copies: rows of the
    embedding read and written, and the same of their gradients; with "fp8" also every operand of the blocks' products
    written once in one byte by the op that makes it. optimizer: AdamW in fp32 and the narrow copy of the weights.

    `shapes` are those of one micro-batch, of which a step has `accumulate`; `mean_keys` a query sees on average.
    """
    block_rate = rates.fp8_matmul_flops if precision == "fp8" else rates.matmul_flops
    if rates.matmul_flops is None or rates.copy_bytes is None or block_rate is None:
        return {}

    itemsize = 4 if precision == "fp32" else 2
    place = Place(torch.device("cpu"), torch.float32 if precision == "fp32" else torch.bfloat16, shapes)
    tokens = shapes.tokens
    blocks = 6 * config.num_layers * config.block_matmul_parameters() * tokens
    head = 6 * config.vocab_size * config.hidden_size * tokens
    attention = config.attention_flops(mean_keys) * tokens
    copied = 4 * tokens * config.hidden_size * itemsize
    if precision == "fp8":
        copied += _fp8_operands(config, tokens)
    moved = {
        "norm": 2 * config.num_layers * _bytes("add_rms_norm", place) + _bytes("rms_norm", place),
        "rope": config.num_layers * _bytes("rope", place),
        "activation": config.num_layers * _bytes("swiglu", place),
        "loss": 2 * tokens * config.vocab_size * itemsize,
        "copies": copied,
    }
    seconds = {name: accumulate * size / rates.copy_bytes for name, size in moved.items()}
    seconds["gemm"] = accumulate * (blocks / block_rate + head / rates.matmul_flops)
    seconds["attention"] = accumulate * attention / (rates.attention_flops or rates.matmul_flops)
    narrow_copy = 0 if precision == "fp32" else itemsize
    seconds["optimizer"] = config.parameter_count() * (_OPTIMIZER_BYTES + narrow_copy) / rates.copy_bytes
    seconds["idle"] = 0.0
    return {name: 1e3 * seconds[name] for name in KERNEL_CLASSES}


def _bytes(op: str, place: Place) -> int:
    cost = op_cost(op, place)
    return (cost.forward_bytes or 0) + (cost.backward_bytes or 0)


def _fp8_operands(config: LlamaConfig, tokens: int) -> int:
    """Bytes of what the blocks' products multiply, each once in one byte: inputs, gradients of outputs, and weights.

    A device that takes one layout only (Hopper) needs more: transposed copies are not in the bound.
    """
    activations = sum(outputs + inputs for outputs, inputs in config.linear_shapes().values())
    return config.num_layers * (tokens * activations + config.block_matmul_parameters())
