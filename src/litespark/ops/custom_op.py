"""Ops over launchers of ours: a custom op where PyTorch traces, a plain autograd function where it does not.

`torch.compile`, meta and fake tensors and dispatch modes (which count, or choose what is kept) need an op that they can
see. The dispatcher's way to it costs the host several times what an autograd function does, which the eager step would
pay in each layer. So one definition gives both, with the same launcher, the same things kept and the same gradients.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import Function, once_differentiable
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


class CustomOp:
    """What `torch.library.custom_op(name, run, mutates_args=())` makes, but eager calls go around the dispatcher.

    `run` takes positional arguments only. Without `register_autograd` the op is for backward passes; with it a second
    derivative is refused, as that of a custom op whose backward pass is one.
    """

    def __init__(self, name: str, run: Callable[..., Any]) -> None:
        self._custom_op = torch.library.custom_op(name, run, mutates_args=())
        self._name, self._run, self._eager = name, run, run
        self.register_fake = self._custom_op.register_fake

    def __call__(self, *inputs: Any) -> Any:
        return self._custom_op(*inputs) if traced(*inputs) else self._eager(*inputs)

    def register_autograd(self, differentiate: Callable[..., Any], *, setup_context: Callable[..., None]) -> None:
        """As `torch.library.register_autograd`, once for both forms."""
        run = self._run

        def forward(ctx: Any, *inputs: Any) -> Any:
            output = run(*inputs)
            setup_context(ctx, inputs, output)
            return output

        self._custom_op.register_autograd(differentiate, setup_context=setup_context)
        methods = {"forward": staticmethod(forward), "backward": staticmethod(differentiable_once(differentiate))}
        # by the name of the op, under which a profile finds it
        function: Any = type(self._name, (Function,), methods)
        self._eager = function.apply


def differentiable_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """As PyTorch's `once_differentiable`, at no cost to a backward pass of which no graph is made."""
    refuse_second = once_differentiable(backward)

    @functools.wraps(backward)
    def run(ctx: Any, *gradients: Any) -> Any:
        # gradients are on where a graph of the backward pass is asked for
        return (refuse_second if torch.is_grad_enabled() else backward)(ctx, *gradients)

    return run


def traced(*inputs: Any) -> bool:
    """Whether a call with `inputs` is seen by a compiler or a dispatch mode, or has tensors that are not plain ones."""
    return torch.compiler.is_compiling() or is_in_torch_dispatch_mode() or any(map(_is_traced, inputs))


def _is_traced(x: Any) -> bool:
    return isinstance(x, Tensor) and (type(x) not in (Tensor, nn.Parameter) or x.is_meta)
