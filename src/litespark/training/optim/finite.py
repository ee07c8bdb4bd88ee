"""What this rank holds of weights and optimizer states, and which of them are not finite, in one pass over them."""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer


def local_part(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def not_finite(model: nn.Module, optimizer: Optimizer) -> list[str]:
    """Names of the parameters, and of their states, of which this rank holds a value that is not finite.

    The device is read once.
    """
    names, bounds = [], []
    for name, parameter in model.named_parameters():
        of_states = {f"{state} of {name}": value for state, value in optimizer.state.get(parameter, {}).items()}
        for name_of, tensor in {name: parameter, **of_states}.items():
            if not isinstance(tensor, Tensor):
                continue
            local = local_part(tensor).detach()
            if local.is_floating_point() and local.numel():
                names.append(name_of)
                # both are NaN where a value is; no memory is taken, as isfinite would
                bounds.append(torch.stack(torch.aminmax(local)).float().to(parameter.device))
    if not bounds:
        return []
    finite = torch.isfinite(torch.stack(bounds)).all(dim=1).tolist()
    return [name for name, fine in zip(names, finite, strict=True) if not fine]
