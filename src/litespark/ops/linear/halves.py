"""The two halves of a block around its attention, each one autograd function over our Triton launchers.

They do what norm, products, rotation and SwiGLU do one by one, with the same launches, the same things kept and the
same bits. Where nothing traces a step, what an op costs the host is mostly its node of autograd, the views around it
and the questions that it asks; here a block has two nodes and asks once. `function` has the same halves in fp8.

B batch, S sequence length, T = B·S tokens, D hidden size, H query heads, K key/value heads, Dh head dim.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from litespark.ops.custom_op import differentiable_once
from litespark.ops.linear.kept import KeptLinear, bias_gradient, bias_in, weight_gradient
from litespark.ops.precision import compute_dtype
from litespark.ops.rms_norm.kernels import rms_norm_backward, rms_norm_forward
from litespark.ops.rope.kernels import rope_qkv_backward, rope_qkv_forward
from litespark.ops.swiglu.kernels import swiglu_backward, swiglu_forward


def norm_qkv_rope(
    x: Tensor,
    update: Tensor | None,
    norm_weight: Tensor,
    eps: float,
    qkv: KeptLinear,
    cos: Tensor,
    sin: Tensor,
    num_kv_heads: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stream = x + update (B, S, D), and query (B, S, H, Dh), key and value (B, S, K, Dh) of its RMSNorm, rotated."""
    dtype = compute_dtype(x)
    weight, cast = qkv.operand(dtype)
    settings = eps, dtype, cast, qkv.accumulate, cos, sin, num_kv_heads
    return _NormQkvRope.apply(settings, x, update, norm_weight, weight, qkv.bias)


def projection_mlp(
    stream: Tensor,
    attended: Tensor,
    norm_weight: Tensor,
    eps: float,
    layers: list[KeptLinear],
    *,
    recompute: bool,
) -> tuple[Tensor, Tensor]:
    """Stream' = stream + attended (B, S, H, Dh) · outputᵀ, and the MLP of its RMSNorm (B, S, D), not yet added.

    `layers` are output, gate_up and down. `recompute`: make the product of gate and up once more in the backward pass
    instead of keeping it.
    """
    dtype = compute_dtype(stream)
    weights, casts = zip(*[layer.operand(dtype) for layer in layers], strict=True)
    settings = eps, dtype, casts, layers[0].accumulate, recompute
    biases = [layer.bias for layer in layers]
    return _ProjectionMLP.apply(settings, stream, attended, norm_weight, *weights, *biases)


class _NormQkvRope(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        settings: Any,
        x: Tensor,
        update: Tensor | None,
        norm_weight: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, ...]:
        eps, dtype, cast, accumulate, cos, sin, num_kv_heads = settings
        batch, length, _ = x.shape
        stream, normed, inverse_rms = _norm(x, update, norm_weight, eps, dtype)
        qkv = linear(normed, cast, bias_in(bias, dtype)).view(batch, length, -1, 2 * cos.shape[-1])
        ctx.dtypes = x.dtype, None if update is None else update.dtype
        ctx.weight, ctx.bias, ctx.accumulate, ctx.heads = weight, bias, accumulate, qkv.shape
        learn = ctx.needs_input_grad[4]
        ctx.save_for_backward(stream, norm_weight, inverse_rms, normed if learn else None, cast, cos, sin)
        return stream, *rope_qkv_forward(qkv, cos, sin, num_kv_heads)

    @staticmethod
    @differentiable_once
    def backward(
        ctx: Any, stream_gradient: Tensor, of_query: Tensor, of_key: Tensor, of_value: Tensor
    ) -> tuple[Tensor | None, ...]:
        stream, norm_weight, inverse_rms, normed, cast, cos, sin = ctx.saved_tensors
        of_qkv = rope_qkv_backward(of_query, of_key, of_value, cos, sin, ctx.heads, cast.dtype)
        of_qkv = of_qkv.view(-1, cast.shape[0])
        of_normed = torch.mm(of_qkv, cast)
        of_weight = _of_weight(ctx.weight, of_qkv, normed, ctx.accumulate)
        of_bias = bias_gradient(of_qkv, ctx.bias) if ctx.needs_input_grad[5] else None
        del of_qkv, normed, of_query, of_key, of_value
        saved = stream, norm_weight, inverse_rms
        of_x, of_update, of_norm = _norm_gradients(of_normed, stream_gradient, *saved, *ctx.dtypes)
        return None, of_x, of_update, of_norm, of_weight, of_bias


class _ProjectionMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: Any, x: Tensor, attended: Tensor, norm_weight: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        eps, dtype, casts, accumulate, recompute = settings
        output, gate_up, down = casts
        ctx.x_dtype, ctx.shape, ctx.accumulate = x.dtype, attended.shape, accumulate
        ctx.weights, ctx.biases = parameters[:3], parameters[3:]
        of_output, of_gate_up, of_down = (bias_in(bias, dtype) for bias in ctx.biases)
        attended = attended.flatten(2)
        update = linear(attended, output, of_output)
        stream, normed, inverse_rms = _norm(x, update, norm_weight, eps, dtype)
        gates = linear(normed, gate_up, of_gate_up)
        activated = swiglu_forward(gates, dtype)
        update = linear(activated, down, of_down)
        learn_output, learn_gate_up, learn_down = ctx.needs_input_grad[4:7]
        kept = (
            attended if learn_output else None,
            normed if learn_gate_up else None,
            activated if learn_down and not recompute else None,
        )
        ctx.again = learn_down and recompute
        ctx.save_for_backward(stream, norm_weight, inverse_rms, gates, *kept, *casts)
        return stream, update

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, stream_gradient: Tensor, update_gradient: Tensor) -> tuple[Tensor | None, ...]:
        stream, norm_weight, inverse_rms, gates, attended, normed, activated, output, gate_up, down = ctx.saved_tensors
        dtype = output.dtype
        learn_output, learn_gate_up, learn_down = ctx.needs_input_grad[7:]
        update_gradient = update_gradient.reshape(-1, stream.shape[-1])
        of_activated = torch.mm(update_gradient, down)
        of_gates, again = swiglu_backward(gates.view(-1, gates.shape[-1]), of_activated, dtype if ctx.again else None)
        activated = again if activated is None else activated
        of_down = _of_weight(ctx.weights[2], update_gradient, activated, ctx.accumulate)
        of_down_bias = bias_gradient(update_gradient, ctx.biases[2]) if learn_down else None
        # the largest of the pass are let go as soon as they are multiplied
        del gates, of_activated, again, activated
        of_normed = torch.mm(of_gates, gate_up)
        of_gate_up = _of_weight(ctx.weights[1], of_gates, normed, ctx.accumulate)
        of_gate_up_bias = bias_gradient(of_gates, ctx.biases[1]) if learn_gate_up else None
        del of_gates, normed
        saved = stream, norm_weight, inverse_rms
        of_x, of_projected, of_norm = _norm_gradients(of_normed, stream_gradient, *saved, ctx.x_dtype, dtype)
        assert of_projected is not None
        of_projected = of_projected.view(-1, stream.shape[-1])
        of_attended = torch.mm(of_projected, output).view(ctx.shape)
        of_output = _of_weight(ctx.weights[0], of_projected, attended, ctx.accumulate)
        of_output_bias = bias_gradient(of_projected, ctx.biases[0]) if learn_output else None
        of_biases = of_output_bias, of_gate_up_bias, of_down_bias
        return None, of_x, of_attended, of_norm, of_output, of_gate_up, of_down, *of_biases


def _norm(
    x: Tensor, update: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The stream, its norm, and what the norm keeps of each row. None is a view, of which FSDP2 would warn."""
    stream_dtype = x.dtype if update is None else torch.promote_types(x.dtype, update.dtype)
    stream, normed, inverse_rms = rms_norm_forward(x, update, weight, eps, stream_dtype, dtype)
    return x if stream is None else stream, normed, inverse_rms


def _norm_gradients(
    of_normed: Tensor,
    stream_gradient: Tensor,
    stream: Tensor,
    weight: Tensor,
    inverse_rms: Tensor,
    x_dtype: torch.dtype,
    update_dtype: torch.dtype | None,
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The gradients of x and of the update in their dtypes, one tensor where these are equal; the weight's."""
    other = x_dtype if x_dtype != stream.dtype else update_dtype or x_dtype
    gradient, second, of_weight = rms_norm_backward(
        of_normed, stream_gradient, stream, weight, inverse_rms, stream.dtype, other
    )
    rounded = gradient if second is None else second
    of_update = None if update_dtype is None else gradient if update_dtype == stream.dtype else rounded
    return gradient if x_dtype == stream.dtype else rounded, of_update, of_weight


def _of_weight(weight: Tensor, gradient: Tensor, inputs: Tensor | None, accumulate: bool) -> Tensor | None:
    """None for a frozen weight, whose input was not kept, and for one that the product was added into."""
    if inputs is None:
        return None
    total = weight.grad if accumulate and inputs.dtype != weight.dtype else None
    return weight_gradient(gradient, inputs.reshape(-1, inputs.shape[-1]), weight.dtype, total)
