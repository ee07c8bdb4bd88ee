"""The two halves of a block around its attention, and a linear layer alone, with products in fp8.

Each half is one autograd function, so that what an op hands to a product, forward and backward, is cast by the op
itself and never written in a wider dtype. Every linear layer may be in fp8 by a recipe of its own or in the dtype of
activations, which comes from outside: autocast is switched off inside.

T tokens, D hidden size, N size of queries, keys and values together, F intermediate size.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from litespark.ops.fp8.operands import Matrix, Quantisation
from litespark.ops.linear.state import BlockLinears, Fp8Linear
from litespark.ops.precision import autocast_off, compute_dtype

# a gradient that no product needs
_NO_PRODUCT = Quantisation(None, rows=False, columns=False)


def norm_linear(
    x: Tensor, update: Tensor | None, norm_weight: Tensor, eps: float, linear: Fp8Linear
) -> tuple[Tensor, Tensor]:
    """Stream = x + update (..., D), and RMSNorm(stream) · weightᵀ (..., N).

    The second in the dtype of `x`, under autocast in that of autocast.
    """
    shape = x.shape
    flat = x.reshape(-1, shape[-1])
    added = None if update is None else update.reshape(flat.shape)
    settings = eps, linear, compute_dtype(x), torch.is_grad_enabled()
    stream, y = _NormLinear.apply(settings, flat, added, norm_weight, *linear.weights)
    return stream.view(shape), y.unflatten(0, shape[:-1])


def projection_mlp(
    stream: Tensor, attended: Tensor, norm_weight: Tensor, eps: float, linears: BlockLinears, *, recompute: bool
) -> tuple[Tensor, Tensor]:
    """Stream' = stream + attended · outputᵀ, and the MLP of its RMSNorm (..., D), which is not yet added.

    The update in the dtype of `stream`, under autocast in that of autocast. `recompute`: make the product of gate and
    up once more in the backward pass instead of keeping it. Of `linears`, qkv is not used.
    """
    shape = stream.shape
    flat, attended = stream.reshape(-1, shape[-1]), attended.reshape(-1, attended.shape[-1])
    weights = [part for linear in linears[1:] for part in linear.weights]
    settings = eps, linears, compute_dtype(stream), torch.is_grad_enabled(), recompute
    stream, update = _ProjectionMLP.apply(settings, flat, attended, norm_weight, *weights)
    return stream.view(shape), update.view(shape)


def cast_linear(x: Tensor, layer: Fp8Linear) -> Tensor:
    """x (..., K) · weightᵀ (..., N) in the dtype of `x`, under autocast in that of autocast.

    It casts its input and its gradient itself, in passes of their own.
    """
    settings = layer, compute_dtype(x), torch.is_grad_enabled()
    return _Linear.apply(settings, x.reshape(-1, x.shape[-1]), *layer.weights).unflatten(0, x.shape[:-1])


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Any, x: Tensor, *_: Tensor) -> Tensor:
        linear: Fp8Linear
        linear, dtype, learning = settings
        ctx.linear, ctx.dtype, ctx.x_dtype = linear, dtype, x.dtype
        kept = learning and any(ctx.needs_input_grad[2:])
        with autocast_off(x):
            wanted = linear.quantisation("input", x.numel(), columns=kept, note=learning)
            inputs = linear.pieces.cast(x, wanted)
            weights = linear.weight_operand(dtype)
            y = linear.product(inputs.rows, weights.rows, dtype, fast=True)
        ctx.save_for_backward(*_parts(inputs.columns if kept else None), *_parts(weights.columns))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, y_gradient: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weights = _matrices([*ctx.saved_tensors])
        linear: Fp8Linear = ctx.linear
        with autocast_off(y_gradient):
            wanted = linear.quantisation("gradient", y_gradient.numel(), columns=inputs is not None)
            incoming = linear.pieces.cast(y_gradient, wanted)
            needed = ctx.needs_input_grad[1]
            x_gradient = linear.product(incoming.rows, weights, ctx.dtype).to(ctx.x_dtype) if needed else None
            weight_gradient = _weight_gradient(linear, incoming.columns, inputs)
        return None, x_gradient, *linear.apart(weight_gradient)


class _NormLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: Any, x: Tensor, update: Tensor | None, norm_weight: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor]:
        linear: Fp8Linear
        eps, linear, dtype, learning = settings
        ctx.linear, ctx.dtype = linear, dtype
        ctx.x_dtype, ctx.update_dtype = x.dtype, None if update is None else update.dtype
        kept = learning and any(ctx.needs_input_grad[4:])
        stream_dtype = x.dtype if update is None else torch.promote_types(x.dtype, update.dtype)
        with autocast_off(x):
            wanted = linear.quantisation("input", x.numel(), columns=kept, note=learning)
            stream, normed, inverse_rms = linear.pieces.add_rms_norm(
                x, update, norm_weight, eps, wanted, stream_dtype=stream_dtype, dtype=dtype
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
        with autocast_off(stream):
            wanted = linear.quantisation("gradient", y_gradient.numel(), columns=normed is not None)
            incoming = linear.pieces.cast(y_gradient, wanted)
            normed_gradient = linear.product(incoming.rows, weights, ctx.dtype)
            weight_gradient = _weight_gradient(linear, incoming.columns, normed)
            saved, dtype = (stream, norm_weight, inverse_rms), ctx.update_dtype or stream.dtype
            gradient, of_update, norm_weight_gradient = linear.pieces.add_rms_norm_backward(
                normed_gradient, stream_gradient, *saved, _NO_PRODUCT, dtype=dtype
            )
        update_gradient = of_update.rows.values if ctx.update_dtype is not None and of_update.rows else None
        return None, gradient.to(ctx.x_dtype), update_gradient, norm_weight_gradient, *linear.apart(weight_gradient)


class _ProjectionMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: Any, stream: Tensor, attended: Tensor, norm_weight: Tensor, *_: Tensor
    ) -> tuple[Tensor, Tensor]:
        linears: BlockLinears
        eps, linears, dtype, learning, recompute = settings
        ctx.linears, ctx.dtype, ctx.recompute, ctx.stream_dtype = linears, dtype, recompute, stream.dtype
        output, gate_up, down = linears[1:]
        pieces = output.pieces
        keep_output, keep_gate_up, keep_down = (learning and needed for needed in _needed(ctx, linears))
        keep_product = keep_down and not recompute
        with autocast_off(stream):
            wanted = output.quantisation("input", attended.numel(), columns=keep_output, note=learning)
            attention = pieces.cast(attended.to(dtype), wanted)
            weights = [linear.weight_operand(dtype) for linear in (output, gate_up, down)]
            projected = output.product(attention.rows, weights[0].rows, dtype, fast=True)
            wanted = gate_up.quantisation("input", stream.numel(), columns=keep_gate_up, note=learning)
            stream_dtype = torch.promote_types(stream.dtype, dtype)
            stream, normed, inverse_rms = pieces.add_rms_norm(
                stream, projected, norm_weight, eps, wanted, stream_dtype=stream_dtype, dtype=dtype
            )
            gates = gate_up.product(normed.rows, weights[1].rows, dtype, fast=True)
            wanted = down.quantisation("input", gates.numel() // 2, columns=keep_product, note=learning)
            activated = pieces.swiglu(gates, wanted, dtype=dtype)
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
        output, gate_up, down = ctx.linears[1:]
        pieces, dtype = output.pieces, ctx.dtype
        learn_output, learn_gate_up, learn_down = _needed(ctx, ctx.linears)
        with autocast_off(stream):
            wanted = down.quantisation("gradient", update_gradient.numel(), columns=learn_down)
            of_update = pieces.cast(update_gradient, wanted)
            of_product = down.product(of_update.rows, down_weight, dtype)
            wanted = gate_up.quantisation("gradient", gates.numel(), columns=learn_gate_up)
            # to the codes that it had, and not noted again
            wanted_again = (
                down.quantisation("input", 0, rows=False, note=False) if ctx.recompute and learn_down else None
            )
            of_gates, again = pieces.swiglu_backward(gates, of_product, wanted, wanted_again)
            down_gradient = _weight_gradient(down, of_update.columns, activated if again is None else again.columns)
            # the largest of the pass are let go as soon as they are multiplied: it needs most memory of all
            del of_update, of_product, again
            of_normed = gate_up.product(of_gates.rows, gate_up_weight, dtype)
            gate_up_gradient = _weight_gradient(gate_up, of_gates.columns, normed)
            del of_gates
            wanted = output.quantisation("gradient", stream.numel(), columns=learn_output)
            gradient, of_projected, norm_weight_gradient = pieces.add_rms_norm_backward(
                of_normed, stream_gradient, stream, norm_weight, inverse_rms, wanted, dtype=dtype
            )
            of_attended = output.product(of_projected.rows, output_weight, dtype)
            output_gradient = _weight_gradient(output, of_projected.columns, attention)
        gradients = zip(ctx.linears[1:], (output_gradient, gate_up_gradient, down_gradient), strict=True)
        weight_gradients = [part for linear, of_weight in gradients for part in linear.apart(of_weight)]
        return None, gradient.to(ctx.stream_dtype), of_attended, norm_weight_gradient, *weight_gradients


def _needed(ctx: Any, linears: BlockLinears) -> list[bool]:
    """Whether output, gate_up and down are trained."""
    flags = list(ctx.needs_input_grad[4:])
    of_layers = [[flags.pop(0) for _ in linear.weights] for linear in linears[1:]]
    return list(map(any, of_layers))


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
