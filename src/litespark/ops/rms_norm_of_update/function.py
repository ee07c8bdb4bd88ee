"""The residual addition of an update's RMSNorm, as a custom op that `torch.compile` and meta tensors pass through."""

from typing import Any

import torch
from torch import Tensor

from litespark.ops.custom_op import CustomOp
from litespark.ops.precision import autocasting, compute_dtype
from litespark.ops.rms_norm_of_update.kernels import rms_norm_of_update_backward, rms_norm_of_update_forward


def add_rms_norm_of_update(
    x: Tensor, update: Tensor, update_norm: tuple[Tensor, float], weight: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """`add_rms_norm` with an `update_norm`, of inputs that were checked."""
    dtype = torch.promote_types(x.dtype, update.dtype)
    y_dtype = compute_dtype(x) if autocasting(x) else dtype
    stream, y, *_ = _added(x, update, *update_norm, weight, eps, dtype, y_dtype)
    return stream, y if y.shape == stream.shape else stream


def _forward(
    x: Tensor,
    update: Tensor,
    update_weight: Tensor,
    update_eps: float,
    weight: Tensor | None,
    eps: float,
    stream_dtype: torch.dtype,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `rms_norm_of_update_forward`, with empty tensors for None."""
    stream, y, update_inverse_rms, inverse_rms = rms_norm_of_update_forward(
        x, update, update_weight, update_eps, weight, eps, stream_dtype, dtype
    )
    return stream, _or_empty(y, x), update_inverse_rms, _or_empty(inverse_rms, x)


def _or_empty(made: Tensor | None, like: Tensor) -> Tensor:
    return like.new_empty(0) if made is None else made


_added = CustomOp("litespark::rms_norm_of_update", _forward)


@_added.register_fake
def _(x: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, _, stream_dtype, dtype = rest[3:]
    rows = x.new_empty(x.shape[:-1], dtype=torch.float32)
    y = x.new_empty((0,) if weight is None and dtype == stream_dtype else x.shape, dtype=dtype)
    inverse_rms = x.new_empty(0) if weight is None else torch.empty_like(rows)
    return x.new_empty(x.shape, dtype=stream_dtype), y, rows, inverse_rms


def _backward(
    y_gradient: Tensor | None,
    stream_gradient: Tensor | None,
    stream: Tensor | None,
    weight: Tensor | None,
    inverse_rms: Tensor | None,
    update: Tensor,
    update_weight: Tensor,
    update_inverse_rms: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `rms_norm_of_update_backward`, with empty tensors for None."""
    gradient, update_gradient, weight_gradient, update_weight_gradient = rms_norm_of_update_backward(
        y_gradient, stream_gradient, stream, weight, inverse_rms, update, update_weight, update_inverse_rms, dtype
    )
    return _or_empty(gradient, update), update_gradient, _or_empty(weight_gradient, update), update_weight_gradient


_added_backward = CustomOp("litespark::rms_norm_of_update_backward", _backward)


@_added_backward.register_fake
def _(y_gradient: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight, _, update, update_weight, _, dtype = rest[2:]
    gradient = update.new_empty((0,) if y_gradient is None else update.shape, dtype=dtype)
    of_weight = update.new_empty(0) if weight is None else weight.new_empty(weight.shape)
    return gradient, update.new_empty(update.shape), of_weight, update_weight.new_empty(update_weight.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, update, update_weight, _, weight, *_ = inputs
    stream, y, update_inverse_rms, inverse_rms = output
    ctx.dtypes = x.dtype, stream.dtype
    ctx.mark_non_differentiable(update_inverse_rms, inverse_rms, *([] if y.shape == stream.shape else [y]))
    ctx.set_materialize_grads(False)
    of_norm = (None, None, None) if weight is None else (stream, weight, inverse_rms)
    ctx.save_for_backward(*of_norm, update, update_weight, update_inverse_rms)


def _differentiate(
    ctx: Any, stream_gradient: Tensor | None, y_gradient: Tensor | None, *_: None
) -> tuple[Tensor | None, ...]:
    stream, weight, inverse_rms, *of_update = ctx.saved_tensors
    x_dtype, stream_dtype = ctx.dtypes
    if y_gradient is None and stream_gradient is None:
        return (None,) * 8
    of_norm = (None, None, None) if y_gradient is None else (stream, weight, inverse_rms)
    gradient, update_gradient, weight_gradient, update_weight_gradient = _added_backward(
        y_gradient, stream_gradient, *of_norm, *of_update, stream_dtype
    )
    # without that of y, the gradient of x is that of the stream itself
    x_gradient = stream_gradient if y_gradient is None else gradient
    assert x_gradient is not None
    of_weight = None if of_norm[1] is None else weight_gradient
    return x_gradient.to(x_dtype), update_gradient, update_weight_gradient, None, of_weight, None, None, None


_added.register_autograd(_differentiate, setup_context=_keep)
