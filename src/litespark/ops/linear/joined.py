"""Linear layers with one input as one step of autograd: what they make lies side by side, and nothing is added up.

T tokens, K inputs, N outputs of a layer.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.function import Function, once_differentiable
from torch.nn import functional
from torch.nn.modules.module import _has_any_global_hook

from litespark.ops.linear.kept import weight_gradient
from litespark.ops.precision import compute_dtype


def joined(x: Tensor, layers: Sequence[nn.Module]) -> Tensor:
    """What each of `layers` makes of `x` (..., K), side by side: (..., sum of N).

    Where each is a plain `nn.Linear`, every product writes its own columns of the result, and in the backward pass adds
    its part of the gradient of `x` to that of the others by itself. Others are called, and their results copied.
    """
    dtype, as_called = compute_dtype(x), not plain(layers)
    # autocast would write the gradient of the weight in its own dtype first
    if len(layers) == 1 and (as_called or dtype == layers[0].weight.dtype):
        return layers[0](x)
    if as_called:
        return torch.cat([layer(x) for layer in layers], dim=-1)
    return _Joined.apply(x, dtype, True, *_parameters(layers))


def apart(x: Tensor, layers: Sequence[nn.Module]) -> tuple[Tensor, ...]:
    """As `joined`, each result for itself."""
    if not plain(layers):
        return tuple(layer(x) for layer in layers)
    return _Joined.apply(x, compute_dtype(x), False, *_parameters(layers))


def plain(layers: Sequence[nn.Module]) -> bool:
    """Whether calling each would do nothing but multiply; a compiler joins them by itself."""
    return not torch.compiler.is_compiling() and all(
        type(layer) is nn.Linear and is_plain(layer.weight) and not hooked(layer) for layer in layers
    )


def is_plain(weight: Tensor) -> bool:
    """Whether products write and read it as it is: it is not sharded, quantised or otherwise of its own kind."""
    return type(weight) in (nn.Parameter, FakeTensor)  # one without memory is what runs are counted with


def hooked(module: nn.Module) -> bool:
    """Whether something waits to be called beside the forward of the module's class, also a hook of all modules."""
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    ) or ("forward" in vars(module) or _has_any_global_hook())


def _parameters(layers: Sequence[Any]) -> list[Tensor | None]:
    return [part for layer in layers for part in (layer.weight, layer.bias)]


class _Joined(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dtype: torch.dtype, together: bool, *parameters: Tensor | None) -> Any:
        rows = x.reshape(-1, x.shape[-1]).to(dtype)
        weights: list[Any] = [None if part is None else part.to(dtype) for part in parameters[::2]]
        biases = [None if part is None else part.to(dtype) for part in parameters[1::2]]
        widths = [weight.shape[0] for weight in weights]
        if together:
            whole = rows.new_empty(rows.shape[0], sum(widths))
            parts = whole.split(widths, dim=1)
            for part, weight, bias in zip(parts, weights, biases, strict=True):
                if bias is None:
                    torch.mm(rows, weight.T, out=part)
                else:
                    torch.addmm(bias, rows, weight.T, out=part)
            results = [whole]
        else:
            results = [functional.linear(rows, *both) for both in zip(weights, biases, strict=True)]
        ctx.save_for_backward(rows, *weights)
        ctx.together, ctx.widths, ctx.shape, ctx.dtype = together, widths, x.shape, x.dtype
        ctx.dtypes = [None if part is None else part.dtype for part in parameters]
        results = [result.view(*x.shape[:-1], -1) for result in results]
        return results[0] if together else tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        rows, *weights = ctx.saved_tensors
        flat = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        parts = flat[0].split(ctx.widths, dim=1) if ctx.together else flat
        x_gradient = None
        if ctx.needs_input_grad[0]:
            whole = parts[0] @ weights[0]
            for part, weight in zip(parts[1:], weights[1:], strict=True):
                whole.addmm_(part, weight)
            x_gradient = whole.view(ctx.shape).to(ctx.dtype)
        needed = iter(ctx.needs_input_grad[3:])
        of_parameters: list[Tensor | None] = []
        dtypes = iter(ctx.dtypes)
        for part in parts:
            of_weight, of_bias = next(dtypes), next(dtypes)
            of_parameters.append(weight_gradient(part, rows, of_weight, None) if next(needed) else None)
            of_parameters.append(part.sum(0, dtype=of_bias) if next(needed) else None)
        return x_gradient, None, None, *of_parameters
