"""SwiGLU and GEGLU, alone and with the projection behind them, as custom ops that PyTorch's compiler and meta see."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import register_flop_formula

from litespark.ops.custom_op import CustomOp
from litespark.ops.precision import autocasting, compute_dtype
from litespark.ops.swiglu.kernels import swiglu_backward, swiglu_forward
from litespark.ops.swiglu.reference import Activation, check_activation


def swiglu(gate_up: Tensor, activation: Activation = "silu") -> Tensor:
    """See `litespark.ops.swiglu.reference.swiglu`; fp32, bf16 and fp16, computed in fp32.

    Under autocast the result is in the dtype of autocast.
    """
    _check("swiglu", gate_up, activation)
    return _swiglu(gate_up, compute_dtype(gate_up), activation == "gelu_tanh")


def swiglu_linear(gate_up: Tensor, weight: Tensor, activation: Activation = "silu") -> Tensor:
    """See `litespark.ops.swiglu.reference.swiglu_linear`: `gate_up` and `weight` are all that is kept.

    Under autocast the weight is cast anew in both passes, rather than its copy kept.
    """
    _check("swiglu_linear", gate_up, activation)
    dtype = compute_dtype(gate_up)
    if weight.ndim != 2 or weight.shape[1] * 2 != gate_up.shape[-1]:
        raise ValueError(
            f"swiglu_linear: got gate_up {tuple(gate_up.shape)} and weight {tuple(weight.shape)}; expected (..., 2F) "
            "and (D, F)"
        )
    if weight.dtype != dtype and not autocasting(gate_up):
        raise ValueError(
            f"swiglu_linear: got gate_up {gate_up.dtype} and weight {weight.dtype}, expected one dtype; cast one of "
            "them, or use autocast"
        )
    return _swiglu_linear(gate_up, weight, dtype, activation == "gelu_tanh")


def _check(op: str, gate_up: Tensor, activation: str) -> None:
    check_activation(activation)
    if gate_up.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"{op}: got {gate_up.dtype}, expected fp32, bf16 or fp16; for other dtypes choose ops.{op}=reference"
        )
    if gate_up.ndim == 0 or gate_up.shape[-1] % 2:
        raise ValueError(f"{op}: got gate_up {tuple(gate_up.shape)}; expected (..., 2F), gate and up of one width")


# ---------------------------------------------------------------- the product alone


_swiglu = CustomOp("litespark::swiglu", swiglu_forward)


@_swiglu.register_fake
def _(gate_up: Tensor, dtype: torch.dtype, gelu: bool = False) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2, dtype=dtype)


def _run_backward(gate_up: Tensor, product_gradient: Tensor, again: bool, gelu: bool) -> tuple[Tensor, Tensor]:
    """The gradient of `gate_up`; and `again` the product in the dtype of its gradient, else nothing."""
    gradient, product = swiglu_backward(gate_up, product_gradient, product_gradient.dtype if again else None, gelu)
    return gradient, gate_up.new_empty(0) if product is None else product


_backward = CustomOp("litespark::swiglu_backward", _run_backward)


@_backward.register_fake
def _(gate_up: Tensor, product_gradient: Tensor, again: bool, gelu: bool) -> tuple[Tensor, Tensor]:
    product = torch.empty_like(product_gradient, memory_format=torch.contiguous_format)
    return gate_up.new_empty(gate_up.shape), product if again else gate_up.new_empty(0)


def _keep_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate_up, _, ctx.gelu = inputs
    ctx.save_for_backward(gate_up)


def _differentiate_swiglu(ctx: Any, product_gradient: Tensor) -> tuple[Tensor, None, None]:
    return _backward(*ctx.saved_tensors, product_gradient, False, ctx.gelu)[0], None, None


_swiglu.register_autograd(_differentiate_swiglu, setup_context=_keep_swiglu)


# ---------------------------------------------------------------- the product and the projection behind it


def _run_linear(gate_up: Tensor, weight: Tensor, dtype: torch.dtype, gelu: bool) -> Tensor:
    return functional.linear(swiglu_forward(gate_up, dtype, gelu), weight.to(dtype))


_swiglu_linear = CustomOp("litespark::swiglu_linear", _run_linear)


@_swiglu_linear.register_fake
def _(gate_up: Tensor, weight: Tensor, dtype: torch.dtype, gelu: bool) -> Tensor:
    return gate_up.new_empty(*gate_up.shape[:-1], weight.shape[0], dtype=dtype)


@register_flop_formula(torch.ops.litespark.swiglu_linear)
def _multiplications(gate_up_shape: torch.Size, weight_shape: torch.Size, *args: Any, **kwargs: Any) -> int:
    """What PyTorch's FLOP counter would count if it saw the matrix product inside of the op."""
    return 2 * gate_up_shape[:-1].numel() * weight_shape.numel()


def _keep_swiglu_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate_up, weight, _, ctx.gelu = inputs
    ctx.save_for_backward(gate_up, weight)


def _differentiate_swiglu_linear(ctx: Any, output_gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
    gate_up, weight = ctx.saved_tensors
    frozen = not ctx.needs_input_grad[1]  # which needs no product
    gradient, product = _backward(gate_up, output_gradient @ weight.to(output_gradient.dtype), not frozen, ctx.gelu)
    if frozen:
        return gradient, None, None, None
    rows = math.prod(gate_up.shape[:-1])  # torch.Size.numel() would fix sizes that the compiler keeps open
    weight_gradient = output_gradient.reshape(rows, weight.shape[0]).T @ product.reshape(rows, weight.shape[1])
    return gradient, weight_gradient.to(weight.dtype), None, None


_swiglu_linear.register_autograd(_differentiate_swiglu_linear, setup_context=_keep_swiglu_linear)
