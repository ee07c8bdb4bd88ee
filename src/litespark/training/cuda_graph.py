"""A step as CUDA graphs: what the host gave the device once is done again with one call for each part of a step.

The parts are a micro-batch forward, the same backward, what normalises and clips the gradients, and the optimizer with
the casts behind it. Between them the host still copies a batch, fills in the divisor and the rate, and logs. Results
are those of a step without graphs, bit for bit. docs/ops.md says what it costs.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import Function
from torch.optim import Optimizer

from litespark.data.batch import TokenBatch
from litespark.device import device_of
from litespark.ops.linear.kept import KeptLinear
from litespark.ops.precision import autocast_off

T = TypeVar("T")
Loss = Callable[[TokenBatch], Tensor]


@dataclass(frozen=True)
class _MicroBatch:
    """A recorded micro-batch; what its calls read and write stays where it is."""

    forward: Callable[[], None]
    backward: Callable[[], None]
    loss: Tensor  # (), written by `forward`
    upstream: Tensor  # (), the gradient of the loss, read by `backward`


class StepGraphs:
    """The graphs of the steps of one model and optimizer, recorded when all that they read has its final place.

    The first step is taken as without graphs and makes states, casts and tables. At the beginning of the second a
    micro-batch is recorded, which gives the gradients their places; at the end of the third the optimizer.
    """

    def __init__(self, device: torch.device) -> None:
        self._graphs = device_of(device).graphs()
        self._anchor = torch.zeros((), device=device, requires_grad=True)
        self._steps, self._begun = 0, False  # that have ended, and whether another has begun
        self._accumulates = False
        self._micro_batches: dict[bool, _MicroBatch] = {}  # the first of its step, which makes gradients, and others
        self._gradients: dict[nn.Parameter, Tensor] = {}
        self._casts: list[KeptLinear] = []
        self._finish: tuple[Any, Callable[[], None]] | None = None

    def loss(self, compute: Loss, model: nn.Module, batch: TokenBatch) -> Tensor:
        """`compute(batch)`, the loss of a micro-batch, for backward; a ValueError where its shape is another."""
        first, self._begun = not self._begun, True
        if self._steps == 0:
            self._accumulates |= not first
            return compute(batch)
        if not self._micro_batches:
            self._record(compute, model, batch)
        given, places = _tensors(batch), _tensors(self._inputs)
        if (got := _shapes(given)) != (expected := _shapes(places)):
            raise ValueError(
                f"ops.cuda_graph=true: got a batch of {got}, expected {expected} in every step; set "
                "ops.cuda_graph=false"
            )
        for name, place in places.items():
            place.copy_(given[name])
        if first:
            for layer in self._casts:
                layer.follow()  # as without graphs each forward does
        loss: Tensor = _Replayed.apply(self._anchor, self._micro_batches[first], self._gradients)
        return loss

    def _record(self, compute: Loss, model: nn.Module, batch: TokenBatch) -> None:
        places: dict[str, Any] = {name: tensor.clone() for name, tensor in _tensors(batch).items()}
        self._inputs = inputs = replace(batch, **places, cu_seqlens=None)
        self._casts = [module for module in model.modules() if isinstance(module, KeptLinear)]
        gc.collect()  # what hangs in cycles would keep memory beside that of the graphs

        def twice() -> None:  # without gradients, and with them
            for _ in range(2):
                loss = compute(inputs)
                _backward(loss, torch.ones_like(loss))

        model.zero_grad()
        self._graphs.rehearse(twice)
        model.zero_grad()
        for first in (True, False) if self._accumulates else (True,):
            loss, forward = self._recorded(partial(compute, inputs))
            upstream = torch.ones_like(loss)
            _, backward = self._recorded(partial(_backward, loss, upstream))
            self._micro_batches[first] = _MicroBatch(forward, backward, loss.detach(), upstream)
        self._gradients = {it: it.grad for it in model.parameters() if it.grad is not None}
        model.zero_grad()

    def finish(self, optimizer: Optimizer, make: Callable[[], T]) -> T:
        """`make()`, which finishes the gradients of a step; what it returns is overwritten in the next one."""
        self._steps, self._begun = self._steps + 1, False
        if self._steps < 3:
            return make()
        if self._finish is None:
            self._finish = self._recorded(make)
            self._take_over(optimizer)
        result, replay = self._finish
        replay()
        return result

    def _take_over(self, optimizer: Optimizer) -> None:
        """Let `optimizer.step` be recorded, hooks and all, the next time that it is called."""
        plain: Callable[[], Any] = optimizer.step
        recorded: list[Callable[[], None]] = []

        def step(closure: Callable[[], Any] | None = None) -> Any:
            result = None
            if closure is not None:
                with torch.enable_grad():
                    result = closure()
            if not recorded:
                for group in optimizer.param_groups:
                    group["capturable"] = True  # PyTorch's optimizers ask for it
                recorded.append(self._recorded(plain)[1])
            recorded[0]()
            return result

        optimizer.step = step  # type: ignore[method-assign]

    def _recorded(self, work: Callable[[], T]) -> tuple[T, Callable[[], None]]:
        try:
            return self._graphs.record(work)
        except RuntimeError as error:
            raise ValueError(
                f"ops.cuda_graph=true: got a step that cannot be recorded ({error}), expected one in which the host "
                "waits for nothing; set ops.cuda_graph=false"
            ) from error


class _Replayed(Function):
    """The loss of a recorded micro-batch, whose backward pass gives the parameters their gradients."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, recorded: _MicroBatch, gradients: dict[nn.Parameter, Tensor]) -> Tensor:
        ctx.recorded, ctx.gradients = recorded, gradients
        recorded.forward()
        return recorded.loss.clone()

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, ...]:
        ctx.recorded.upstream.copy_(upstream)
        for parameter, gradient in ctx.gradients.items():
            parameter.grad = gradient  # who frees gradients takes them off only
        ctx.recorded.backward()
        return None, None, None


def _backward(loss: Tensor, upstream: Tensor) -> None:
    with autocast_off(loss):  # a forward pass may be under it, its backward pass is not
        loss.backward(upstream)


def _tensors(batch: TokenBatch) -> dict[str, Tensor]:
    """Those that every batch of a run has in one shape; attention that reads `cu_seqlens` is refused beforehand."""
    return {name: it for name, it in vars(batch).items() if isinstance(it, Tensor) and name != "cu_seqlens"}


def _shapes(tensors: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
