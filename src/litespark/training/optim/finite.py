"""Which weights and optimizer states are not finite, in one pass over them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def not_finite(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the parameters, and of their states, of which this rank holds a value that is not finite.

    The device is read once.
    """
    names, bounds = [], []
    for name, tensor in _tensors(model, optimizer):
        local = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()
        if local.is_floating_point() and local.numel():
            names.append(name)
            # both are NaN where a value is; no memory is taken, as isfinite would
            bounds.append(torch.stack(torch.aminmax(local)).float().to(next(model.parameters()).device))
    if not bounds:
        return []
    finite = torch.isfinite(torch.stack(bounds)).all(dim=1).tolist()
    return [name for name, fine in zip(names, finite, strict=True) if not fine]


def _tensors(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in model.named_parameters():
        yield name, parameter
        for state, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                yield f"{state} of {name}", value
