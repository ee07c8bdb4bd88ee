"""The dtypes that a precision means on a device, and what the Trainer puts around a forward pass."""

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from litespark.device import device_of

Precision = Literal["fp32", "bf16", "fp8"]
Residual = Literal["fp32", "bf16"]


def activation_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Of all activations that are not in fp8, with which they are fp32 on CPUs: it is simulated, and bf16 is slow."""
    bf16 = precision == "bf16" or (precision == "fp8" and device_of(device).is_accelerator)
    return torch.bfloat16 if bf16 else torch.float32


def residual_dtype(residual: Residual, precision: Precision, device: torch.device) -> torch.dtype:
    """Of the residual stream: a choice where the other activations are bf16."""
    narrow = residual == "bf16" and activation_dtype(precision, device) == torch.bfloat16
    return torch.bfloat16 if narrow else torch.float32


def lightning_precision(precision: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Lightning's name for `precision`; bf16-mixed is autocast."""
    return "bf16-mixed" if activation_dtype(precision, device) == torch.bfloat16 else "32-true"


def forward_context(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """What the Trainer puts around the forward pass: Lightning 2.6.6 autocasts without a cache, or not at all."""
    mixed = lightning_precision(precision, device) == "bf16-mixed"
    return device_of(device).autocast(torch.bfloat16, cached=False) if mixed else nullcontext()
