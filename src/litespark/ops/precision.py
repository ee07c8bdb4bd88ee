"""Dtypes by name, and which one an op computes in under autocast, for custom ops, which autocast leaves alone."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from litespark.device import device_of


def autocasting(x: Tensor) -> bool:
    """Whether autocast is on where `x` is; never for meta tensors, of which PyTorch refuses to be asked."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def autocast_off(x: Tensor) -> AbstractContextManager[object]:
    """Within it what is computed where `x` is has the dtypes that the op chose."""
    return nullcontext() if x.is_meta else device_of(x.device).autocast(None)


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype that a matrix product of `x` would be computed in: autocast's where it is on, else that of `x`.

    fp64 stays fp64, as autocast leaves it.
    """
    if x.dtype != torch.float64 and autocasting(x):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def dtype_name(dtype: torch.dtype) -> str:
    """ "fp32", "bf16" or "fp16"."""
    return {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}.get(dtype, str(dtype))
