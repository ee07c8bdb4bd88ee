"""RMSNorm, alone and with the residual addition, as custom ops over the Triton kernels of this folder.

Custom ops, so that `torch.compile` and meta tensors pass through. D is the width of a row. A second derivative raises
PyTorch's error that no formula was registered for the backward op.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from litespark.ops.precision import compute_dtype
from litespark.ops.rms_norm.kernels import rms_norm_backward, rms_norm_forward
from litespark.ops.rms_norm.limits import WIDEST


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `litespark.ops.rms_norm.reference.rms_norm`; fp32, bf16 and fp16, computed in fp32.

    Dimensions before the last may have any strides that a (R, D) view allows, else it is copied. Under autocast the
    result is in the dtype of autocast.

    Raises:
        ValueError: a dtype or shape that the kernels do not take.
    """
    _check("rms_norm", x, x, weight)
    return _rms_norm(x, weight, eps, compute_dtype(x))[0]


def add_rms_norm(x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See `litespark.ops.rms_norm.reference.add_rms_norm`; strides, dtypes and errors as in `rms_norm`."""
    _check("add_rms_norm", x, update, weight)
    dtype = torch.promote_types(x.dtype, update.dtype)
    if dtype not in (x.dtype, update.dtype):  # bf16 and fp16 meet in fp32
        x = x.to(dtype)
    wider = x if x.dtype == dtype else update
    stream, y, _ = _add_rms_norm(x, update, weight, eps, dtype, compute_dtype(wider))
    return stream, y


def _check(op: str, x: Tensor, update: Tensor, weight: Tensor) -> None:
    known = (torch.float32, torch.bfloat16, torch.float16)
    if any(each.dtype not in known for each in (x, update, weight)):
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
            f"{op}: got rows of {x.shape[-1]}, expected at most {WIDEST}, which fit into registers; for wider ones "
            f"choose ops.{op}=torch"
        )


# ---------------------------------------------------------------- without an addition


@torch.library.custom_op("litespark::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    _, y, inverse_rms = rms_norm_forward(x, None, weight, eps, x.dtype, dtype)
    return y, inverse_rms


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=dtype), x.new_empty(x.shape[:-1], dtype=torch.float32)


@torch.library.custom_op("litespark::rms_norm_backward", mutates_args=())
def _rms_norm_backward(y_gradient: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor) -> tuple[Tensor, Tensor]:
    gradient, _, weight_gradient = rms_norm_backward(y_gradient, None, x, weight, inverse_rms, x.dtype, x.dtype)
    return gradient, weight_gradient


@_rms_norm_backward.register_fake
def _(y_gradient: Tensor, x: Tensor, weight: Tensor, inverse_rms: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _keep_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, _ = inputs
    _, inverse_rms = output
    ctx.mark_non_differentiable(inverse_rms)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, inverse_rms)


def _differentiate_rms_norm(ctx: Any, y_gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
    if y_gradient is None:
        return None, None, None, None
    return *_rms_norm_backward(y_gradient, *ctx.saved_tensors), None, None


_rms_norm.register_autograd(_differentiate_rms_norm, setup_context=_keep_rms_norm)


# ---------------------------------------------------------------- with an addition


@torch.library.custom_op("litespark::add_rms_norm", mutates_args=())
def _add_rms_norm(
    x: Tensor, update: Tensor, weight: Tensor, eps: float, stream_dtype: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    stream, y, inverse_rms = rms_norm_forward(x, update, weight, eps, stream_dtype, dtype)
    assert stream is not None  # there was an update
    return stream, y, inverse_rms


@_add_rms_norm.register_fake
def _(
    x: Tensor, update: Tensor, weight: Tensor, eps: float, stream_dtype: torch.dtype, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    inverse_rms = x.new_empty(x.shape[:-1], dtype=torch.float32)
    return x.new_empty(x.shape, dtype=stream_dtype), x.new_empty(x.shape, dtype=dtype), inverse_rms


@torch.library.custom_op("litespark::add_rms_norm_backward", mutates_args=())
def _add_rms_norm_backward(
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


@_add_rms_norm_backward.register_fake
def _(
    y_gradient: Tensor,
    stream_gradient: Tensor | None,
    stream: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    other_dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    second_shape = (0,) if other_dtype == stream.dtype else stream.shape
    gradient = stream.new_empty(stream.shape)
    return gradient, stream.new_empty(second_shape, dtype=other_dtype), weight.new_empty(weight.shape)


def _keep_add_rms_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    x, update, weight, _, _, _ = inputs
    stream, _, inverse_rms = output
    ctx.dtypes = x.dtype, update.dtype
    ctx.mark_non_differentiable(inverse_rms)
    # the stream of the last norm has no gradient: none is made, written and read
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(stream, weight, inverse_rms)


def _differentiate_add_rms_norm(
    ctx: Any, stream_gradient: Tensor | None, y_gradient: Tensor | None, _: None
) -> tuple[Tensor | None, ...]:
    stream, weight, inverse_rms = ctx.saved_tensors
    x_dtype, update_dtype = ctx.dtypes
    if y_gradient is None:
        if stream_gradient is None:
            return None, None, None, None, None, None
        return stream_gradient.to(x_dtype), stream_gradient.to(update_dtype), None, None, None, None
    other = update_dtype if x_dtype == stream.dtype else x_dtype
    gradient, second, weight_gradient = _add_rms_norm_backward(
        y_gradient, stream_gradient, stream, weight, inverse_rms, other
    )
    # where both dtypes are equal both inputs get the same tensor, as from PyTorch's own addition: autograd neither
    # keeps a gradient that somebody else holds too, nor adds into it
    x_gradient = gradient if x_dtype == stream.dtype else second
    update_gradient = gradient if update_dtype == stream.dtype else second
    return x_gradient, update_gradient, weight_gradient, None, None, None


_add_rms_norm.register_autograd(_differentiate_add_rms_norm, setup_context=_keep_add_rms_norm)
