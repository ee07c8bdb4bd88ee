"""The halves of a block in fp8 as tests run them, and a simulation of fp8 that shares nothing with the code.

The simulation rounds by arithmetic in fp64 and leaves derivatives to autograd.
"""

import math

import torch
from torch import nn

from litespark.mesh import Mesh
from litespark.ops.backend import BACKENDS, load, why_not
from litespark.ops.fp8.settings import LINEARS
from litespark.ops.linear.function import norm_linear, projection_mlp
from litespark.ops.linear.state import BlockLinears, Fp8Linear, scaling_of
from litespark.ops.rms_norm.reference import add_rms_norm
from litespark.ops.swiglu.reference import swiglu

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# the kernels of the fused ones, put together in another way
APART = "triton_apart"
PIECES = [name for name in BACKENDS["fp8"] if name != APART and why_not("fp8", name, DEVICE, torch.float32) is None]
# largest value, mantissa bits and least exponent of a normal value
E4M3, E5M2 = (448.0, 3, -6), (57344.0, 2, -14)
GRADIENT = {"e4m3": E4M3, "e5m2": E5M2}
EPSILON = 1e-5
# T tokens, D, N, F: no two alike, and not whole tiles
T, D, N, F = 48, 32, 80, 64


# ---------------------------------------------------------------- the simulation


def _scale(amax, form):
    return 2.0 ** math.ceil(math.log2(amax / form[0])) if amax > 0 else 1.0


def _rounded(values, form, amax):
    """`values` in fp64 as fp8 holds them: a scale from `amax`, or from the values."""
    largest, bits, least = form
    scale = _scale(float(values.abs().max()) if amax is None else amax, form)
    inside = (values / scale).clamp(-largest, largest)
    exponent = (torch.frexp(inside)[1] - 1).clamp(min=least)
    quantum = 2.0 ** (exponent - bits).double()
    return torch.round(inside / quantum) * quantum * scale  # half to even


class _Simulated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, form, known):
        x, weight = _rounded(x, E4M3, known.get("input")), _rounded(weight, E4M3, known.get("weight"))
        ctx.save_for_backward(x, weight)
        ctx.settings = form, known.get("gradient")
        return x @ weight.T

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        gradient = _rounded(gradient, *ctx.settings)
        return gradient @ weight, gradient.T @ x, None, None


def simulated_linear(config, known=None):
    return lambda x, weight: _Simulated.apply(x, weight, GRADIENT[config.gradients], known or {})


# ---------------------------------------------------------------- what is compared


def random(*shape, seed=0, gain=1.0):
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (gain * torch.randn(shape, generator=generator)).to(DEVICE)


def coarse(*shape, seed=0):
    """Values whose products fp32 adds up without rounding, in whatever order: of one magnitude, and not too many."""
    generator = torch.Generator().manual_seed(seed)
    sign = torch.randint(2, shape, generator=generator) * 2 - 1
    return (sign * (0.25 + 0.7 * torch.rand(shape, generator=generator))).to(DEVICE)


SIZES = {"qkv": (N, D), "output": (D, N), "gate_up": (2 * F, D), "down": (D, F)}


def linear_of(config, weight=None, pieces="reference"):
    """A linear layer (N, D) by itself."""
    weight = nn.Parameter(random(N, D) if weight is None else weight)
    scaling = scaling_of(["linear"], config, DEVICE)
    return Fp8Linear("linear", weight, load("fp8", pieces), scaling, config)


def products_of(linear, x, gradient):
    """Its output, the gradient of `x` and that of its weight; without autograd."""
    inputs = linear.pieces.cast(x, linear.quantisation("input", x.numel()))
    weight = linear.weight_operand(x.dtype)
    incoming = linear.pieces.cast(gradient, linear.quantisation("gradient", gradient.numel()))
    pairs = (inputs.rows, weight.rows), (incoming.rows, weight.columns), (incoming.columns, inputs.columns)
    return [linear.product(*pair, x.dtype) for pair in pairs]


def linears_of(config, pieces="reference", without=()):
    """Four layers of a block, those of `without` in the dtype of activations."""
    names = [name for name in LINEARS if name not in without]
    scaling = scaling_of(names, config, DEVICE) if names else None
    linears = {}
    for name, shape in SIZES.items():
        weight = nn.Parameter(random(*shape, gain=shape[1] ** -0.5))
        linears[name] = Fp8Linear(name, weight, load("fp8", pieces), scaling if name in names else None, config)
    return BlockLinears(**linears)


def finish_step(linears):
    linears = [linears] if isinstance(linears, Fp8Linear) else linears
    next(each.scaling for each in linears if each.scaling is not None).finish_step(Mesh())
    for linear in linears:
        linear.renew_weight()


def _outputs_and_gradients(op, inputs, weights):
    """Of `op(*inputs)`, with respect to `inputs` and to the parameters `weights`."""
    leaves = {name: x.detach().clone().requires_grad_() for name, x in inputs.items()}
    for weight in weights.values():
        weight.grad = None
    results = op(*leaves.values())
    torch.autograd.backward(results, [random(*y.shape, seed=7).to(y.dtype) for y in results])
    found = {f"output {i}": y.detach() for i, y in enumerate(results)}
    return found | {f"gradient of {name}": x.grad for name, x in (leaves | weights).items() if x.grad is not None}


def norm_half(linears, dtype=torch.float32, linear=None):
    """Outputs and gradients of the half before attention; by the reference with `linear` where that is given."""
    inputs = {"x": random(2, T // 2, D), "update": random(2, T // 2, D, seed=1, gain=0.5).to(dtype)}
    inputs["norm weight"] = 1 + random(D, gain=0.1)
    weights = {"qkv": linears.qkv.weight}
    if linear is None:
        return _outputs_and_gradients(
            lambda x, update, norm: norm_linear(x, update, norm, EPSILON, linears.qkv), inputs, weights
        )

    def half(x, update, norm, weight):
        stream, normed = add_rms_norm(x, update, norm, EPSILON)
        return stream, linear(normed.flatten(0, 1), weight).unflatten(0, normed.shape[:2])

    return _outputs_and_gradients(half, _doubled(inputs | weights), {})


def mlp_half(linears, dtype=torch.float32, linear=None, recompute=False):
    """The same of the half behind it."""
    inputs = {"stream": random(2, T // 2, D), "attended": random(2, T // 2, N, seed=1).to(dtype)}
    inputs["norm weight"] = 1 + random(D, gain=0.1)
    weights = {name: getattr(linears, name).weight for name in LINEARS[1:]}
    if linear is None:
        return _outputs_and_gradients(
            lambda *each: projection_mlp(*each, EPSILON, linears, recompute=recompute), inputs, weights
        )

    def half(stream, attended, norm, output, gate_up, down):
        projected = linear(attended.flatten(0, 1), output).view(stream.shape)
        stream, normed = add_rms_norm(stream, projected, norm, EPSILON)
        return stream, linear(swiglu(linear(normed.flatten(0, 1), gate_up)), down).view(stream.shape)

    return _outputs_and_gradients(half, _doubled(inputs | weights), {})


def _doubled(inputs):
    return {name: x.detach().double() for name, x in inputs.items()}


HALVES = {"norm": norm_half, "mlp": mlp_half}
