"""RMSNorm, alone and with the residual addition, as a custom op that `torch.compile` and meta tensors pass through."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

from litespark.ops.custom_op import CustomOp
from litespark.ops.precision import compute_dtype
from litespark.ops.rms_norm.kernels import rms_norm_backward, rms_norm_forward
from litespark.ops.rms_norm.limits import WIDEST, WIDEST_OF_UPDATE
from litespark.ops.rms_norm_of_update.function import add_rms_norm_of_update


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `litespark.ops.rms_norm.reference.rms_norm`; fp32, bf16 and fp16, computed in fp32.

    Under autocast the result is in the dtype of autocast.
    """
    _check("rms_norm", x, x, weight)
    return _norm(x, None, weight, eps, x.dtype, compute_dtype(x))[1]


def rms_norm_and_stream(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`x` as it is, and `rms_norm` of it; in the backward pass their gradients are added where they are made.

    For what uses `x` once more beside its norm: autograd adds two gradients in a pass of its own.
    """
    if torch.compiler.is_compiling():
        return x, rms_norm(x, weight, eps)
    _check("rms_norm", x, x, weight)
    return _WithStream.apply(x, weight, eps, compute_dtype(x))


def add_rms_norm(
    x: Tensor, update: Tensor, weight: Tensor | None, eps: float, update_norm: tuple[Tensor, float] | None = None
) -> tuple[Tensor, Tensor]:
    """See `litespark.ops.rms_norm.reference.add_rms_norm`; dtypes as in `rms_norm`."""
    for each in (weight, None if update_norm is None else update_norm[0]):
        if each is not None:
            _check("add_rms_norm", x, update, each)
    if update_norm is not None and x.shape[-1] > WIDEST_OF_UPDATE:
        update, update_norm = rms_norm(update, *update_norm), None
    if update_norm is not None:
        return add_rms_norm_of_update(x, update, update_norm, weight, eps)
    if weight is None:
        stream = x + update
        return stream, stream
    dtype = torch.promote_types(x.dtype, update.dtype)
    if dtype not in (x.dtype, update.dtype):  # bf16 and fp16 meet in fp32
        x = x.to(dtype)
    wider = x if x.dtype == dtype else update
    stream, y, _ = _norm(x, update, weight, eps, dtype, compute_dtype(wider))
    return stream, y


def _check(op: str, x: Tensor, update: Tensor, weight: Tensor) -> None:
    known = (torch.float32, torch.bfloat16, torch.float16)
    if any(tensor.dtype not in known for tensor in (x, update, weight)):
        raise ValueError(
            f"{op}: got {x.dtype}, {update.dtype} and weight {weight.dtype}, expected fp32, bf16 or fp16; for other "
            f"dtypes choose ops.{op}=reference"
        )
    if x.ndim == 0 or update.shape != x.shape or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"{op}: got x {tuple(x.shape)}, update {tuple(update.shape)}, weight {tuple(weight.shape)}; expected "
            "(..., D), the same, and (D,)"
        )
    if x.shape[-1] > WIDEST:
        raise ValueError(
            f"{op}: got rows of {x.shape[-1]}, expected at most {WIDEST}; for wider ones choose ops.{op}=torch"
        )


def _forward(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, stream_dtype: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The stream, empty without an update; its norm; 1 / root mean square of each row."""
    stream, y, inverse_rms = rms_norm_forward(x, update, weight, eps, stream_dtype, dtype)
    return x.new_empty(0) if stream is None else stream, y, inverse_rms


_norm = CustomOp("litespark::rms_norm", _forward)


@_norm.register_fake
def _(x: Tensor, update: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    stream_dtype, dtype = rest[-2:]
    stream = x.new_empty(0) if update is None else x.new_empty(x.shape, dtype=stream_dtype)
    return stream, x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[:-1], dtype=torch.float32)


def _backward(
    y_gradient: Tensor,
    stream_gradient: Tensor | None,
    stream: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    other_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the stream in its dtype, the same in `other_dtype` (empty where that is equal), the weight's."""
    gradient, second, weight_gradient = rms_norm_backward(
        y_gradient, stream_gradient, stream, weight, inverse_rms, stream.dtype, other_dtype
    )
    return gradient, stream.new_empty(0) if second is None else second, weight_gradient


_norm_backward = CustomOp("litespark::rms_norm_backward", _backward)


@_norm_backward.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    stream, weight, _, other_dtype = arguments[2:]
    second = stream.new_empty((0,) if other_dtype == stream.dtype else stream.shape, dtype=other_dtype)
    return stream.new_empty(stream.shape), second, weight.new_empty(weight.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, update, weight, *_ = inputs
    stream, _, inverse_rms = output
    ctx.dtypes = x.dtype, None if update is None else update.dtype
    ctx.mark_non_differentiable(inverse_rms, *([stream] if update is None else []))
    # the stream of the last norm has no gradient: none is made, written and read
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x if update is None else stream, weight, inverse_rms)


def _differentiate(
    ctx: Any, stream_gradient: Tensor | None, y_gradient: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    stream, weight, inverse_rms = ctx.saved_tensors
    x_dtype, update_dtype = ctx.dtypes
    if y_gradient is None:
        passed = None if stream_gradient is None else (stream_gradient.to(x_dtype), stream_gradient.to(update_dtype))
        return *(passed or (None, None)), None, None, None, None
    other = x_dtype if x_dtype != stream.dtype else update_dtype or x_dtype
    gradient, second, weight_gradient = _norm_backward(y_gradient, stream_gradient, stream, weight, inverse_rms, other)
    # where both dtypes are equal both inputs get the same tensor, as from PyTorch's own addition: autograd neither
    # keeps a gradient that somebody else holds too, nor adds into it
    of_update = gradient if update_dtype == stream.dtype else second
    x_gradient = gradient if x_dtype == stream.dtype else second
    return x_gradient, None if update_dtype is None else of_update, weight_gradient, None, None, None


_norm.register_autograd(_differentiate, setup_context=_keep)


class _WithStream(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        _, y, inverse_rms = _norm(x, None, weight, eps, x.dtype, dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, weight, inverse_rms)
        return x, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, stream_gradient: Tensor | None, y_gradient: Tensor | None) -> tuple[Tensor | None, ...]:
        if y_gradient is None:
            return stream_gradient, None, None, None
        x, weight, inverse_rms = ctx.saved_tensors
        gradient, _, weight_gradient = _norm_backward(y_gradient, stream_gradient, x, weight, inverse_rms, x.dtype)
        return gradient, weight_gradient, None, None
