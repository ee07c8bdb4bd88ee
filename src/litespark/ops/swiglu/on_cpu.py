"""SwiGLU on a CPU: one pass forward and one backward; nothing but the gate and the values is kept."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops import on_cpu
from litespark.ops.swiglu import reference


def swiglu(gate_up: Tensor) -> Tensor:
    """See `litespark.ops.swiglu.reference.swiglu`; bf16 is computed in fp32."""
    return _SwiGLU.apply(gate_up) if on_cpu.takes(gate_up) else reference.swiglu(gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        product = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        on_cpu.run("swiglu", *_rows(product), gate_up, product.data_ptr())
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        upstream, gradient = upstream.contiguous(), torch.empty_like(gate_up)
        on_cpu.run("swiglu_backward", *_rows(upstream), gate_up, upstream.data_ptr(), gradient.data_ptr())
        return gradient


def _rows(product: Tensor) -> tuple[int, int]:
    width = product.shape[-1]
    return product.numel() // max(1, width), width
