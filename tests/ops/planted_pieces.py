"""Pieces of blocks in fp8 that are wrong on purpose, one fault each; apart from it they are the reference pieces."""

from dataclasses import replace

import torch

from litespark.ops.fp8.formats import quantised
from litespark.ops.fp8.operands import Matrix, Operand
from litespark.ops.fp8.reference import Pieces


class Cast(Pieces):
    """Whose cast is changed by a function of (x, operand, quantisation), of those below."""

    def __init__(self, change):
        self.change = change

    def cast(self, x, quantisation):
        return self.change(x, super().cast(x, quantisation), quantisation)


def _rows(operand, change):
    return replace(operand, rows=None if operand.rows is None else change(operand.rows))


def _columns(operand, change):
    return replace(operand, columns=None if operand.columns is None else change(operand.columns))


def _codes(change):
    """Applied to codes as bytes."""

    def changed(matrix):
        if not matrix.in_fp8:
            return matrix
        codes = change(matrix.values.clone().view(torch.uint8))
        return Matrix(codes.contiguous().view(matrix.values.dtype), matrix.scale)

    return changed


def two_codes_further(x, operand, quantisation):
    def two_further(codes):
        codes[3, 5] = (codes[3, 5] & 0x7F) - 2 if codes[3, 5] & 0x7F > 2 else 2
        return codes

    return _rows(operand, _codes(two_further))


def columns_one_too_late(x, operand, quantisation):
    return _columns(operand, _codes(lambda codes: codes.roll(1, dims=0)))


def cut_off(x, operand, quantisation):
    """Without the rounding to nearest."""
    if quantisation.format is None or not quantisation.rows:
        return operand
    scale = operand.rows.scale
    towards_zero = x.float() * (1 - 2.0 ** -(quantisation.format.mantissa_bits + 2))
    return _rows(operand, lambda rows: Matrix(quantised(towards_zero, scale, quantisation.format), scale))


def last_row_unwritten(x, operand, quantisation):
    def unwritten(matrix):
        codes = torch.empty_like(matrix.values)
        codes[:-1] = matrix.values[:-1]
        return Matrix(codes, matrix.scale)

    return _rows(operand, unwritten)


def infinity_is_large(x, operand, quantisation):
    """Infinity and NaN become the largest value, so that a step goes on that should be skipped."""
    if quantisation.format is None:
        return operand
    largest = 0x7E if quantisation.format.mantissa_bits == 3 else 0x7B
    return _rows(operand, _codes(lambda codes: torch.where(codes & 0x7F > largest, largest, codes)))


def scale_twice(x, operand, quantisation):
    return _rows(operand, lambda rows: rows if rows.scale is None else Matrix(rows.values, rows.scale * 2))


def no_columns(x, operand, quantisation):
    return Operand(operand.rows, None) if quantisation.format is not None else operand


def not_noted(x, operand, quantisation):
    if quantisation.amax is not None:
        quantisation.amax.zero_()
    return operand


def nan_forgotten(x, operand, quantisation):
    """The largest value of what is not NaN."""
    if quantisation.amax is not None and bool(quantisation.amax.view(torch.float32).isnan()):
        quantisation.amax.fill_(0x3F800000)
    return operand


def not_counted(x, operand, quantisation):
    if quantisation.counts is not None:
        quantisation.counts[1] = 0
    return operand


class RoundedBefore(Pieces):
    """Casts the norm from bf16, where it should from fp32."""

    def add_rms_norm(self, x, update, weight, eps, quantisation, **dtypes):
        unnoted = replace(quantisation, amax=None, counts=None)
        stream, _, inverse_rms = super().add_rms_norm(x, update, weight, eps, unnoted, **dtypes)
        normed = (stream.float() * inverse_rms[:, None] * weight.float()).bfloat16()
        return stream, self.cast(normed, quantisation), inverse_rms


class UpdateForgotten(Pieces):
    def add_rms_norm(self, x, *inputs, **dtypes):
        _, operand, inverse_rms = super().add_rms_norm(x, *inputs, **dtypes)
        return x, operand, inverse_rms


class StreamInAnotherDtype(Pieces):
    def add_rms_norm(self, *inputs, stream_dtype, dtype):
        return super().add_rms_norm(*inputs, stream_dtype=torch.float16, dtype=dtype)


class StreamGradientForgotten(Pieces):
    """In the operand only."""

    def add_rms_norm_backward(self, norm_gradient, stream_gradient, *inputs, dtype):
        *saved, quantisation = inputs
        unnoted = replace(quantisation, amax=None, counts=None)
        right = super().add_rms_norm_backward(norm_gradient, stream_gradient, *saved, unnoted, dtype=dtype)
        _, operand, _ = super().add_rms_norm_backward(norm_gradient, None, *inputs, dtype=dtype)
        return right[0], operand, right[2]


class PartOfTheWeightGradient(Pieces):
    """Without the last row."""

    def add_rms_norm_backward(self, norm_gradient, stream_gradient, stream, weight, inverse_rms, *rest, dtype):
        inputs = norm_gradient, stream_gradient, stream, weight, inverse_rms, *rest
        gradient, operand, _ = super().add_rms_norm_backward(*inputs, dtype=dtype)
        part = norm_gradient[:-1].float() * stream[:-1].float() * inverse_rms[:-1, None]
        return gradient, operand, part.sum(dim=0).to(weight.dtype)


class GateForUp(Pieces):
    def swiglu(self, gate_up, quantisation, *, dtype):
        return super().swiglu(torch.cat(gate_up.chunk(2, dim=-1)[::-1], dim=-1), quantisation, dtype=dtype)


class GradientsSwapped(Pieces):
    def swiglu_backward(self, gate_up, product_gradient, quantisation, again):
        gradient, product = super().swiglu_backward(gate_up, product_gradient, quantisation, again)
        width = product_gradient.shape[1]
        return _columns(gradient, lambda columns: Matrix(columns.values.roll(width, dims=0), columns.scale)), product


class AnotherProductAgain(Pieces):
    """By the scale of the gradient."""

    def swiglu_backward(self, gate_up, product_gradient, quantisation, again):
        if again is not None and again.fused and quantisation.fused:
            again = replace(again, scale=quantisation.scale)
        return super().swiglu_backward(gate_up, product_gradient, quantisation, again)


class ProductAlways(Pieces):
    """Made again where nobody asked for it."""

    def swiglu_backward(self, gate_up, product_gradient, quantisation, again):
        return super().swiglu_backward(gate_up, product_gradient, quantisation, again or quantisation)
