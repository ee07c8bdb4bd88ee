"""A step of AdamW for many tensors at once (Loshchilov & Hutter, arXiv 1711.05101): its scalars, then the kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor

from litespark.ops.adamw.kernels import Tables, Update, adamw_update


@torch.no_grad()
def adamw_step(
    updates: Sequence[Update],
    steps: Sequence[Tensor],
    tables: Tables,
    *,
    lr: float | Tensor,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
) -> None:
    """Update weights, moments and copies in place; the host waits for nothing and gradients stay as they are.

    Args:
        updates: the tensors of each parameter, on one device.
        steps: of each a counter () fp32 there, which is raised.
        tables: kept by the caller from step to step.
        lr: a tensor () is read on the device.
        grad_scale, found_inf: () fp32 or None: gradients are divided by the one; where the other is 1 nothing changes.
    """
    if found_inf is None:
        torch._foreach_add_(list(steps), 1.0)
    else:  # a list, since one tensor would be read by the host as a number
        torch._foreach_add_(list(steps), [1.0 - found_inf] * len(steps))
    # powers of the decays in double precision, as PyTorch has them on CPUs
    taken = torch.stack(list(steps)).double()
    beta1, beta2 = betas
    step_sizes = lr / (1 - beta1**taken)
    kept = torch.zeros_like(taken) + (1 - lr * weight_decay)
    coefficients = torch.stack([-step_sizes, (1 - beta2**taken).sqrt(), kept], dim=1).float()
    adamw_update(updates, coefficients, grad_scale, found_inf, betas, eps, tables)
