"""SwiGLU in plain PyTorch: the specification that faster backends are tested against."""

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint


def swiglu(gate_up: Tensor) -> Tensor:
    """y = silu(gate) · up in the dtype of `gate_up` (..., 2F), gate first; bf16 and fp16 are computed in fp32.

    Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202. Both halves come in one tensor because one matrix
    product makes them, and so that a backward pass writes one gradient instead of joining two.
    """
    gate, up = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32)).chunk(2, dim=-1)
    return (functional.silu(gate) * up).to(gate_up.dtype)


def swiglu_linear(gate_up: Tensor, weight: Tensor) -> Tensor:
    """swiglu(gate_up) (..., F) · weight (D, F)ᵀ, without keeping the product silu(gate) · up for the backward pass.

    It is computed again there from `gate_up`, which is kept anyway. That saves F values a token for one more pass.
    """

    def product(gate_up: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(swiglu(gate_up), weight)

    # stops once what the matrix product keeps is made again: the product itself runs only once
    return checkpoint(product, gate_up, weight, use_reentrant=False)
