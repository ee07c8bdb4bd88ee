"""SwiGLU in plain PyTorch: the specification that faster backends are tested against.

With another activation of the gate it is GEGLU, as of Gemma.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

# of a gate
Activation = Literal["silu", "gelu_tanh"]
_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
}


def swiglu(gate_up: Tensor, activation: Activation = "silu") -> Tensor:
    """y = activation(gate) · up in the dtype of `gate_up` (..., 2F), gate first; bf16 and fp16 are computed in fp32.

    Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202. Both halves come in one tensor because one matrix
    product makes them, and so that a backward pass writes one gradient instead of joining two.

    `activation` "gelu_tanh" is GELU(x) = x Φ(x) with Φ(x) ≈ (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2: Hendrycks and
    Gimpel, arXiv:1606.08415.
    """
    check_activation(activation)
    gate, up = gate_up.to(torch.promote_types(gate_up.dtype, torch.float32)).chunk(2, dim=-1)
    return (_FUNCTIONS[activation](gate) * up).to(gate_up.dtype)


def swiglu_linear(gate_up: Tensor, weight: Tensor, activation: Activation = "silu") -> Tensor:
    """swiglu(gate_up) (..., F) · weight (D, F)ᵀ, without keeping the product activation(gate) · up for the backward.

    It is computed again there from `gate_up`, which is kept anyway. That saves F values a token for one more pass.
    """

    def product(gate_up: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(swiglu(gate_up, activation), weight)

    # stops once what the matrix product keeps is made again: the product itself runs only once
    return checkpoint(product, gate_up, weight, use_reentrant=False)


def check_activation(activation: str) -> None:
    """ValueError for one that is not known."""
    if activation not in _FUNCTIONS:
        raise ValueError(f"swiglu: got activation {activation!r}, expected one of {', '.join(_FUNCTIONS)}")
