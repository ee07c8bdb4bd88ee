"""What tasks log beside their loss: sums and what divides them, on the device."""

import torch
from torch import Tensor


def observed(*values: Tensor) -> Tensor:
    """Values, (n,) each with an n of its own -> (K, 2) fp32: the sum of each and its n; NaN and infinity count."""
    sums = torch.stack([value.detach().sum(dtype=torch.float32) for value in values])
    counts = torch.tensor([value.numel() for value in values], dtype=torch.float32)
    return torch.stack([sums, counts.to(sums.device, non_blocking=True)], dim=1)


def means_of(values: Tensor, chosen: Tensor) -> Tensor:
    """(1, 2) fp32: the sum of those of `values` (n,) that are `chosen` (n,) bool, and their number."""
    return torch.stack([torch.where(chosen, values, 0).sum(), chosen.sum()]).float()[None]
