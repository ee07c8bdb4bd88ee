"""SwiGLU on a CPU: one pass forward and one backward; nothing but the gate and the values is kept."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops import on_cpu
from litespark.ops.swiglu import reference


def swiglu(gate_up: Tensor, activation: reference.Activation = "silu") -> Tensor:
    """See `litespark.ops.swiglu.reference.swiglu`; bf16 is computed in fp32."""
    if not on_cpu.takes(gate_up):
        return reference.swiglu(gate_up, activation)
    reference.check_activation(activation)
    return _SwiGLU.apply(gate_up, activation == "gelu_tanh")


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, gelu: bool) -> Tensor:
        gate_up = gate_up.contiguous()
        ctx.save_for_backward(gate_up)
        ctx.gelu = gelu
        product = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        on_cpu.run("swiglu", *_rows(product), gate_up, product.data_ptr(), gelu)
        return product

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        (gate_up,) = ctx.saved_tensors
        upstream, gradient = upstream.contiguous(), torch.empty_like(gate_up)
        on_cpu.run("swiglu_backward", *_rows(upstream), gate_up, upstream.data_ptr(), gradient.data_ptr(), ctx.gelu)
        return gradient, None


def _rows(product: Tensor) -> tuple[int, int]:
    width = product.shape[-1]
    return product.numel() // max(1, width), width
