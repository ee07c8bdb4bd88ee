"""Muon for the matrices of the blocks beside AdamW for the rest, as one optimizer that skips and shards.

`torch.optim.Muon` cannot skip a step without asking the host, and takes query, key and value (gate and up) for one
matrix where they are stored as one. So the order of the step is written here, around PyTorch's own Newton-Schulz
iteration and adjustment of the rate, bit for bit what `torch.optim.Muon` makes of the separate matrices: the nearest
orthogonal matrix of [Q; K; V] is not those of Q, K and V, and a part with small gradients would get a small update.

Momentum and weights stay on the rank that has them. The direction is gathered whole, in bf16 (to which the iteration
rounds it anyway), one matrix at a time, and a rank orthogonalises the parts of which it has rows. So ranks repeat each
other's work: all of it under DDP, and under FSDP for every part whose rows they share.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer
from torch.optim._muon import DEFAULT_A, DEFAULT_B, DEFAULT_C, EPS, _adjust_lr, _zeropower_via_newtonschulz

from litespark.models.placement import local_piece
from litespark.models.spec import HasMatrices
from litespark.training.optim.finite import local_part

MOMENTUM = "momentum_buffer"


def block_matrices(model: nn.Module) -> dict[Tensor, tuple[int, ...]]:
    """The matrices of the layers of `model` that have any for Muon, and for each the rows of its parts."""
    of_modules = (module.matrices() for module in model.modules() if isinstance(module, HasMatrices))
    return dict(itertools.chain.from_iterable(matrices.items() for matrices in of_modules))


class MuonWithAdamW(Optimizer):
    """Takes a step of Muon with some parameters and one of AdamW with others.

    The `groups` of Muon have matrices, plain or sharded, with the `rows` of their
    parts. The groups and states of a fused `adamw` become part of this optimizer.
    """

    def __init__(self, groups: list[dict[str, Any]], adamw: AdamW) -> None:
        self._adamw = adamw
        self.grad_scale: Tensor | None = None
        self.found_inf: Tensor | None = None
        # fused: PyTorch's word for a step that reads grad_scale and found_inf on the device
        super().__init__([*({**group, "fused": True} for group in groups), *adamw.param_groups], defaults={})
        self._share()

    def _share(self) -> None:
        """Let AdamW work on the groups and states of this optimizer, which loading a state replaces."""
        self._adamw.param_groups = [group for group in self.param_groups if "rows" not in group]
        self._adamw.state = self.state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; `closure`, which makes the gradients, is called first and its result returned."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group["params"] if "rows" in group else ():
                if parameter.grad is not None:
                    self._step_matrix(parameter, parameter.grad, group)
        self._adamw.grad_scale, self._adamw.found_inf = self.grad_scale, self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()
        return result

    def _step_matrix(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if MOMENTUM not in state:
            state[MOMENTUM] = torch.zeros_like(parameter)
        weight, gradient, average = local_part(parameter), local_part(gradient), local_part(state[MOMENTUM])
        if self.grad_scale is not None:
            gradient = gradient / self.grad_scale
        momentum, lr = group["momentum"], group["lr"]
        new_average = average.lerp(gradient, 1 - momentum)
        direction = gradient.lerp(new_average, momentum) if group["nesterov"] else new_average
        new_weight = weight * (1 - lr * group["weight_decay"])

        # of the whole matrix: rows and columns of this rank, rows of a part
        (first, left), begin = local_piece(parameter)[1], 0
        columns = slice(left, left + weight.shape[1])
        for part in _whole(direction, parameter).split(group["rows"]):
            low, high = max(begin, first), min(begin + len(part), first + len(weight))
            if low < high:
                coefficients = DEFAULT_A, DEFAULT_B, DEFAULT_C
                orthogonal = _zeropower_via_newtonschulz(part, coefficients, group["newton_schulz_steps"], EPS)
                rate: Any = _adjust_lr(lr, group["adjust_lr"], part.shape)
                rows = orthogonal[low - begin : high - begin, columns].to(new_weight.dtype)
                # as PyTorch's `add(alpha=-rate)`, which takes a number of the host
                new_weight[low - first : high - first].addcmul_(rows, -rate.to(new_weight.dtype))
            begin += len(part)
        self._replace(average, new_average)
        self._replace(weight, new_weight)

    def _replace(self, old: Tensor, new: Tensor) -> None:
        """Write `new` over `old`, unless the step is skipped; selected, since 0 times what is not finite is not 0."""
        if self.found_inf is None:
            old.copy_(new)
        else:
            torch.where(self.found_inf > 0, old, new, out=old)


def _whole(direction: Tensor, parameter: Tensor) -> Tensor:
    """The direction (A, B) in bf16, with the rows of all ranks: memory of its own."""
    direction = direction.to(torch.bfloat16, copy=True)
    if not isinstance(parameter, DTensor):
        return direction
    shape, stride = parameter.shape, parameter.stride()
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(direction, mesh, placements, run_check=False, shape=shape, stride=stride).full_tensor()
