"""SwiGLU on a CPU: two passes forward and three backward, which write the halves of one gradient in place."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from litespark.ops.swiglu import reference


def swiglu(gate_up: Tensor) -> Tensor:
    """See `litespark.ops.swiglu.reference.swiglu`; bf16 is rounded once more, between the two passes."""
    if torch.compiler.is_compiling():
        return reference.swiglu(gate_up)  # the compiler fuses it
    return _SwiGLU.apply(gate_up)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = functional.silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> Tensor:
        gate_up, activated = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        gradient = torch.empty_like(gate_up)
        of_gate, of_up = gradient.chunk(2, dim=-1)
        torch.mul(activated, upstream, out=of_up)
        torch.ops.aten.silu_backward.grad_input(upstream * up, gate, grad_input=of_gate)
        return gradient
