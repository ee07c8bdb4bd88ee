"""One optimizer step in plain PyTorch: its micro-batches, then normalise, clip, guard, and the optimizer.

The loss of a micro-batch is a sum, and so are the gradients at the end of a step, over all its micro-batches. Division
by the divisor of the whole step, clipping, and skipping a step that is not finite are folded into the optimizer's step
(the fused AdamW kernel, or Muon's) through two scalars that it reads on the device (`grad_scale` and `found_inf`,
PyTorch's own interface for loss scaling). So no pass over the gradients is added for AdamW and the host waits for
nothing. A step is skipped by selection: multiplying by zero would keep a NaN.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from litespark.data.batch import TokenBatch
from litespark.device import device_of
from litespark.mesh import Mesh
from litespark.tasks.task import Observes, Task
from litespark.training.cuda_graph import StepGraphs
from litespark.training.schedule import set_learning_rate


@dataclass(frozen=True)
class StepGradients:
    """The result of an optimizer step; scalars on the device."""

    norm: Tensor
    """() fp32, global gradient norm after normalisation and before clipping."""
    skipped: Tensor
    """() fp32, 1 when the step was not finite and was skipped, else 0."""


class OptimizerStep:
    """Steps of one task, one after the other.

    `take` is the whole of a step. Another loop, such as Lightning's, calls `loss` for each micro-batch and `finish`
    between the last backward and the optimizer. DDP or FSDP2 averages the gradients over the ranks of `mesh`. From the
    first one made, the process keeps the memory that its tensors free (`Device.keep_freed_memory`). With `cuda_graph`
    steps of one model and optimizer, whose micro-batches are all of one shape, are replayed: see `StepGraphs`.

    Attributes:
        sums: (2 + 2K,) fp64 (fp32 where the device has no more): loss and divisor of the last step over all ranks, then
            sum and divisor of each of the K numbers that the task observes. Before the end of a step those so far of
            this rank, and no divisor of the loss. The memory is the same in every step.
    """

    def __init__(
        self,
        task: Task,
        *,
        grad_clip: float | None,
        device: torch.device,
        mesh: Mesh | None = None,
        cuda_graph: bool = False,
    ) -> None:
        self.task = task
        self.grad_clip = grad_clip
        self.mesh = mesh or Mesh()
        device_of(device).keep_freed_memory()
        size = 2 + 2 * len(task.observed) if isinstance(task, Observes) else 2
        self.sums = torch.zeros(size, dtype=device_of(device).sum_dtype, device=device)
        self._graphs = StepGraphs(device) if cuda_graph else None
        self._divisor: int | float = 0
        self._finished = False

    def take(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        batches: Iterable[TokenBatch],
        learning_rate: float,
        forward_context: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> StepGradients:
        """Take a whole step over micro-batches that are on the device; `forward_context` is around each forward."""
        for batch in batches:
            with forward_context():
                loss = self.loss(model, batch)
            loss.backward()
        result = self.finish(optimizer)
        set_learning_rate(optimizer, learning_rate)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return result

    def loss(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        """The summed loss () of one micro-batch, for backward; it is added to `sums`."""
        if self._finished:
            self.sums.zero_()
            self._divisor, self._finished = 0, False
        compute = partial(self._observed if isinstance(self.task, Observes) else self.task.loss, model)
        divisor = self.task.divisor(batch)
        loss = compute(batch) if self._graphs is None else self._graphs.loss(compute, model, batch)
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad:
            got = type(loss).__name__
            if isinstance(loss, Tensor):
                got = f"a tensor of shape {tuple(loss.shape)}" + ("" if loss.requires_grad else " without a gradient")
            raise ValueError(
                f"{type(self.task).__name__}.loss: got {got}, expected (), the sum over the micro-batch, with a "
                "gradient; return loss.sum()"
            )
        if not isinstance(divisor, int | float):
            raise ValueError(
                f"{type(self.task).__name__}.divisor: got {type(divisor).__name__}, expected an int or a float, a "
                "count of the batch that waits for no device; return batch.supervised_count or the like"
            )
        self.sums[0] += loss.detach()
        self._divisor += divisor
        return loss

    def _observed(self, model: nn.Module, batch: TokenBatch) -> Tensor:
        assert isinstance(self.task, Observes)
        loss, observed = self.task.observe(model, batch)
        self.sums[2:] += observed.flatten()
        return loss

    def finish(self, optimizer: Optimizer) -> StepGradients:
        """Normalise, clip and guard the gradients of all micro-batches since the last step; a collective."""
        # the one number of a step that the host knows: what comes before and after takes its scalars from tensors
        self.sums[1].fill_(self._divisor)
        self.mesh.sum_on_device(self.sums)
        self._finished = True
        loss, divisor, *_ = self.sums
        ranks, clip = self.mesh.roles.data, self.grad_clip
        make = partial(finish_gradients, optimizer, loss, divisor, ranks=ranks, grad_clip=clip)
        return make() if self._graphs is None else self._graphs.finish(optimizer, make)


def finish_gradients(
    optimizer: Optimizer, loss: Tensor, divisor: Tensor, *, ranks: int, grad_clip: float | None
) -> StepGradients:
    """Normalise, clip and guard the gradients of one optimizer step, before `optimizer.step`.

    They are sums over this rank's micro-batches, averaged over `ranks`; `loss` () and `divisor` () are sums over all of
    them. The optimizer then uses `grad · ranks / divisor · min(1, grad_clip / norm)`.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    # a sum of weights may be below 1; without any the gradients are 0, and stay so
    factor = ranks / divisor.clamp(min=1e-30)
    norm = torch.nn.utils.get_total_norm(gradients)
    norm = (norm.full_tensor() if isinstance(norm, DTensor) else norm) * factor
    finite = torch.isfinite(norm) & torch.isfinite(loss)
    if grad_clip is not None:
        factor = factor * (grad_clip / (norm + 1e-6)).clamp(max=1.0)
    # a NaN factor must not reach the kernel's arithmetic, even though its result is not taken
    factor = torch.where(finite, factor, torch.ones_like(factor)).float()
    skipped = (~finite).float()
    if all(group.get("fused") for group in optimizer.param_groups):
        for name, value in {"grad_scale": factor.reciprocal(), "found_inf": skipped}.items():
            if getattr(optimizer, name, None) is None:
                setattr(optimizer, name, torch.empty_like(value))
            getattr(optimizer, name).copy_(value)
    elif finite.item():  # the plain optimizers cannot skip on the device
        torch._foreach_mul_(gradients, factor)
    else:
        optimizer.zero_grad(set_to_none=True)
    return StepGradients(norm=norm.float(), skipped=skipped)
