"""Backends that are wrong on purpose, for the tests of what has to notice."""

import torch

from litespark.ops.swiglu.reference import swiglu

right = swiglu


class _WrongGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gate_up):
        ctx.save_for_backward(gate_up)
        return swiglu(gate_up)

    @staticmethod
    def backward(ctx, gradient):
        (gate_up,) = ctx.saved_tensors
        with torch.enable_grad():
            leaf = gate_up.detach().requires_grad_()
            (found,) = torch.autograd.grad(swiglu(leaf), leaf, gradient)
        found[..., -1] *= 1.5
        return found


def wrong_gradient(gate_up):
    return _WrongGradient.apply(gate_up)


def hole(gate_up):
    """Leaves its last row unwritten."""
    result = torch.empty_like(gate_up[..., : gate_up.shape[-1] // 2])
    result[:-1] = swiglu(gate_up)[:-1]
    return result


def raising(gate_up):
    raise RuntimeError("no kernel image is available for execution on the device")


def why_not_here(device, dtype, shapes):
    return "it needs a device of another world"


def drawing(gate_up):
    """Right, but draws from the global generator."""
    torch.rand(1)
    return swiglu(gate_up)


def too_large(gate_up):
    """As where a device's memory is full: right at the sizes of a verification only."""
    if gate_up.shape[1] > 37:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate much")
    return swiglu(gate_up)
