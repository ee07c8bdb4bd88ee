"""Which dtype an op computes in under autocast, for custom ops that autocast itself does not know."""

import torch
from torch import Tensor


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product of `x` would be computed in: autocast's where it is on, else that of `x`.

    fp64 stays fp64, as autocast leaves it.
    """
    # PyTorch knows no autocast for meta tensors and raises when asked
    if x.device.type != "meta" and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype
