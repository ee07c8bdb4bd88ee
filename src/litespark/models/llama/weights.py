"""The first weights of a Llama."""

import math

import torch
from torch import Tensor


def draw(name: str, values: Tensor, init_std: float, num_layers: int, generator: torch.Generator) -> None:
    """Fill `values` of the parameter `name`: normal matrices, ones for the weights of norms.

    The two matrices that write into the residual stream (attention.output and mlp.down) have their deviation divided by
    sqrt(2L), so that the stream does not grow with depth (Radford et al., GPT-2, 2019).
    """
    if values.ndim == 1:
        values.fill_(1.0)
        return
    into_stream = name.endswith(("attention.output.weight", "mlp.down.weight"))
    values.normal_(0.0, init_std / (math.sqrt(2 * num_layers) if into_stream else 1.0), generator=generator)
