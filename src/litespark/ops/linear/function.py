"""The two halves of a block around its attention, with products in fp8.

Each half is one autograd function, so that what an op hands to a product, forward and backward, is cast by the op
itself and never written in a wider dtype. Every linear layer may be in fp8 by a recipe of its own or in the dtype of
activations: the operands know.

T tokens, D width of the model, N width of queries, keys and values, F width of the product in the MLP. Autocast is
switched off inside; the dtype that activations have comes from outside.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops.fp8.operands import Matrix
from litespark.ops.fp8.quantisation import Quantisation
from litespark.ops.linear.state import BlockLinears, Fp8Linear
from litespark.ops.precision import compute_dtype

# a gradient that no product wants
_NO_PRODUCT = Quantisation(None, rows=False, columns=False)


def norm_linear(
    x: Tensor, update: Tensor | None, norm_weight: Tensor, eps: float, linear: Fp8Linear
) -> tuple[Tensor, Tensor]:
    """Stream = x + update, and RMSNorm(stream) · weightᵀ: from the stream (..., D) to queries, keys and values (...,
    N).

    The second in the dtype of `x`, under autocast in that of autocast.
    """
    shape = x.shape
    flat = x.reshape(-1, shape[-1])
    added = None if update is None else update.reshape(flat.shape)
    settings = eps, linear, compute_dtype(x), torch.is_grad_enabled()
    stream, y = _NormLinear.apply(flat, added, norm_weight, linear.weight, *settings)
    return stream.view(shape), y.unflatten(0, shape[:-1])


def projection_mlp(
    stream: Tensor, attended: Tensor, norm_weight: Tensor, eps: float, linears: BlockLinears, *, recompute: bool
) -> tuple[Tensor, Tensor]:
    """Stream' = stream + attended · outputᵀ, and the MLP of its RMSNorm (..., D), which is not yet added.

    The update in the dtype of `stream`, under autocast in that of autocast. `recompute`: make the product of gate and
    up once more in the backward pass instead of keeping it. Of `linears`, qkv is not used.
    """
    shape = stream.shape
    flat = stream.reshape(-1, shape[-1])
    weights = linears.output.weight, linears.gate_up.weight, linears.down.weight
    settings = eps, linears, compute_dtype(stream), torch.is_grad_enabled(), recompute
    attended = attended.reshape(-1, attended.shape[-1])
    stream, update = _ProjectionMLP.apply(flat, attended, norm_weight, *weights, *settings)
    return stream.view(shape), update.view(shape)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        update: Tensor | None,
        norm_weight: Tensor,
        weight: Tensor,
        eps: float,
        linear: Fp8Linear,
        dtype: torch.dtype,
        learning: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.linear, ctx.dtype = linear, dtype
        ctx.x_dtype, ctx.update_dtype = x.dtype, None if update is None else update.dtype
        kept = learning and ctx.needs_input_grad[3]
        with _autocast_off(x):
            stream, normed, inverse_rms = linear.pieces.add_rms_norm(
                x,
                update,
                norm_weight,
                eps,
                linear.input_quantisation(x.numel(), columns=kept, note=learning),
                stream_dtype=x.dtype if update is None else torch.promote_types(x.dtype, update.dtype),
                dtype=dtype,
            )
            weights = linear.weight_operand(dtype)
            y = linear.product(normed.rows, weights.rows, dtype, fast=True)
        columns = normed.columns if kept else None
        ctx.save_for_backward(stream, norm_weight, inverse_rms, *_parts(columns), *_parts(weights.columns))
        return stream, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, stream_gradient: Tensor, y_gradient: Tensor) -> tuple[Tensor | None, ...]:
        stream, norm_weight, inverse_rms, *parts = ctx.saved_tensors
        normed, weights = _matrices(parts)
        linear: Fp8Linear = ctx.linear
        with _autocast_off(stream):
            incoming = linear.pieces.cast(
                y_gradient, linear.gradient_quantisation(y_gradient.numel(), columns=normed is not None)
            )
            normed_gradient = linear.product(incoming.rows, weights, ctx.dtype)
            weight_gradient = _weight_gradient(linear, incoming.columns, normed)
            gradient, of_update, norm_weight_gradient = linear.pieces.add_rms_norm_backward(
                normed_gradient,
                stream_gradient,
                stream,
                norm_weight,
                inverse_rms,
                _NO_PRODUCT,
                dtype=ctx.update_dtype or stream.dtype,
            )
        update_gradient = of_update.rows.values if ctx.update_dtype is not None and of_update.rows else None
        return gradient.to(ctx.x_dtype), update_gradient, norm_weight_gradient, weight_gradient, *[None] * 4


class _ProjectionMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        stream: Tensor,
        attended: Tensor,
        norm_weight: Tensor,
        output_weight: Tensor,
        gate_up_weight: Tensor,
        down_weight: Tensor,
        eps: float,
        linears: BlockLinears,
        dtype: torch.dtype,
        learning: bool,
        recompute: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.linears, ctx.dtype, ctx.recompute, ctx.stream_dtype = linears, dtype, recompute, stream.dtype
        _, output, gate_up, down = linears
        pieces = output.pieces
        keep_output, keep_gate_up, keep_down = (learning and each for each in ctx.needs_input_grad[3:6])
        with _autocast_off(stream):
            attention = pieces.cast(
                attended.to(dtype), output.input_quantisation(attended.numel(), columns=keep_output, note=learning)
            )
            weights = [linear.weight_operand(dtype) for linear in (output, gate_up, down)]
            projected = output.product(attention.rows, weights[0].rows, dtype, fast=True)
            stream, normed, inverse_rms = pieces.add_rms_norm(
                stream,
                projected,
                norm_weight,
                eps,
                gate_up.input_quantisation(stream.numel(), columns=keep_gate_up, note=learning),
                stream_dtype=torch.promote_types(stream.dtype, dtype),
                dtype=dtype,
            )
            gates = gate_up.product(normed.rows, weights[1].rows, dtype, fast=True)
            keep_product = keep_down and not recompute
            activated = pieces.swiglu(
                gates, down.input_quantisation(gates.numel() // 2, columns=keep_product, note=learning), dtype=dtype
            )
            update = down.product(activated.rows, weights[2].rows, dtype, fast=True)
        kept = (
            attention.columns if keep_output else None,
            normed.columns if keep_gate_up else None,
            activated.columns if keep_product else None,
            *(operand.columns for operand in weights),
        )
        parts = [part for matrix in kept for part in _parts(matrix)]
        ctx.save_for_backward(stream, norm_weight, inverse_rms, gates, *parts)
        return stream, update

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, stream_gradient: Tensor, update_gradient: Tensor) -> tuple[Tensor | None, ...]:
        stream, norm_weight, inverse_rms, gates, *parts = ctx.saved_tensors
        attention, normed, activated, output_weight, gate_up_weight, down_weight = _matrices(parts)
        _, output, gate_up, down = ctx.linears
        pieces, dtype = output.pieces, ctx.dtype
        learn_output, learn_gate_up, learn_down = ctx.needs_input_grad[3:6]
        with _autocast_off(stream):
            of_update = pieces.cast(
                update_gradient, down.gradient_quantisation(update_gradient.numel(), columns=learn_down)
            )
            of_product = down.product(of_update.rows, down_weight, dtype)
            of_gates, again = pieces.swiglu_backward(
                gates,
                of_product,
                gate_up.gradient_quantisation(gates.numel(), columns=learn_gate_up),
                down.input_again() if ctx.recompute and learn_down else None,
            )
            down_gradient = _weight_gradient(down, of_update.columns, activated if again is None else again.columns)
            # the largest of the pass are let go as soon as they are multiplied: it needs most memory of all
            del of_update, of_product, again
            of_normed = gate_up.product(of_gates.rows, gate_up_weight, dtype)
            gate_up_gradient = _weight_gradient(gate_up, of_gates.columns, normed)
            del of_gates
            gradient, of_projected, norm_weight_gradient = pieces.add_rms_norm_backward(
                of_normed,
                stream_gradient,
                stream,
                norm_weight,
                inverse_rms,
                output.gradient_quantisation(stream.numel(), columns=learn_output),
                dtype=dtype,
            )
            of_attended = output.product(of_projected.rows, output_weight, dtype)
            output_gradient = _weight_gradient(output, of_projected.columns, attention)
        weight_gradients = output_gradient, gate_up_gradient, down_gradient
        return gradient.to(ctx.stream_dtype), of_attended, norm_weight_gradient, *weight_gradients, *[None] * 5


def _weight_gradient(linear: Fp8Linear, gradient: Matrix | None, inputs: Matrix | None) -> Tensor | None:
    """In the dtype of the master, without a rounding in between; None for a frozen weight, whose input was not kept."""
    return None if inputs is None else linear.product(gradient, inputs, linear.weight.dtype)


def _parts(matrix: Matrix | None) -> tuple[Tensor | None, Tensor | None]:
    """What autograd keeps of a matrix: it takes tensors only."""
    return (None, None) if matrix is None else (matrix.values, matrix.scale)


def _matrices(parts: list[Tensor | None]) -> list[Matrix | None]:
    """The matrices that `_parts` took apart."""
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [None if values is None else Matrix(values, scale) for values, scale in pairs]


def _autocast_off(x: Tensor) -> torch.autocast:
    return torch.autocast(x.device.type, enabled=False)
