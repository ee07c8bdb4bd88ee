"""What the time of an op is held against, beside other implementations of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from litespark.ops.shapes import Place


def matmuls(op: str, place: Place) -> Callable[[], object] | None:
    """The three products of an op that is a linear layer with something around it, by themselves."""
    shapes = place.shapes
    if op not in ("linear_cross_entropy", "swiglu_linear"):
        return None
    tokens = shapes.rows * shapes.length
    inputs = shapes.hidden_size if op == "linear_cross_entropy" else shapes.intermediate_size
    outputs = shapes.vocab_size if op == "linear_cross_entropy" else shapes.hidden_size
    generator = torch.Generator(place.device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, device=place.device, dtype=torch.float32).to(place.dtype)

    x, weight, gradient = random(tokens, inputs), random(outputs, inputs), random(tokens, outputs)
    return lambda: (x @ weight.T, gradient @ weight, gradient.T @ x)
