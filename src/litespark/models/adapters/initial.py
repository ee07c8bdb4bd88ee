"""The initial values of a model with an adapter: those of the base by its own names, and those of A and B.

K inputs of a layer.
"""

import math

import torch
from torch import Tensor

from litespark.models.spec import ModelSpec


def base_name(name: str) -> str | None:
    """What a parameter was called before an adapter was put on; None: it is of the adapter."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def draw(spec: ModelSpec, name: str, values: Tensor, generator: torch.Generator) -> None:
    """As `ModelSpec.draw`, of a model with an adapter: A uniform within 1/sqrt(K) as PEFT draws it, B zero."""
    of_base = base_name(name)
    if of_base is not None:
        spec.draw(of_base, values, generator)
    elif ".lora_A." in name:
        values.uniform_(-1, 1, generator=generator).mul_(1 / math.sqrt(values.shape[1]))
    else:
        values.zero_()
