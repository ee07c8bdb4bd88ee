"""How AdamW's kernel is verified: beside PyTorch's fused AdamW on the CPU, with whose bits its own agree."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor
from torch.optim import AdamW

from litespark.ops.adamw.function import adamw_step
from litespark.ops.adamw.kernels import BLOCK, Tables, Update
from litespark.ops.tolerance import Difference, Trial, relative_distance

# a second block and one that is not full, which cannot be read in 16 bytes; a full one, and less than one
_SIZES = (2 * BLOCK + 5, BLOCK, 48)
# the last values of a tensor PyTorch computes one by one, in double precision
_BOUND = 1e-6
# one that is skipped among them
_FOUND_INF = (0.0, 1.0, 0.0)


def adamw_trials(device: torch.device) -> Iterator[Trial]:
    """Three steps of tensors of several sizes, one of which is skipped; gradients in fp32 and in bf16."""
    for dtype, name in ((torch.float32, "fp32"), (torch.bfloat16, "bf16")):
        sizes = f"{' + '.join(map(str, _SIZES))} parameters"
        yield Trial(f"gradients in {name}", sizes, partial(_compared, device, dtype))


def _compared(device: torch.device, gradient_dtype: torch.dtype) -> list[Difference]:
    generator = torch.Generator().manual_seed(0)
    settings = {"lr": 0.1, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    theirs = [torch.nn.Parameter(torch.randn(size, generator=generator)) for size in _SIZES]
    reference = AdamW(theirs, fused=True, **settings)  # type: ignore[arg-type]
    weights = [weight.detach().to(device, copy=True) for weight in theirs]
    averages, squares = [list(map(torch.zeros_like, weights)) for _ in range(2)]
    copies = [torch.empty_like(weight, dtype=torch.bfloat16) for weight in weights]
    steps, tables = [torch.zeros((), device=device) for _ in weights], Tables()
    differences = []
    for number, skipped in enumerate(_FOUND_INF):
        drawn = [(torch.randn(size, generator=generator) / 100).to(gradient_dtype) for size in _SIZES]
        scale, found_inf = torch.tensor(0.25 + number), torch.tensor(skipped)
        for weight, gradient in zip(theirs, drawn, strict=True):
            weight.grad = gradient.to(torch.float32, copy=True)
        reference.grad_scale, reference.found_inf = scale, found_inf  # type: ignore[attr-defined]
        reference.step()
        gradients = [gradient.to(device, copy=True) for gradient in drawn]
        updates = [Update(*tensors) for tensors in zip(weights, gradients, averages, squares, copies, strict=True)]
        on_device = {"grad_scale": scale.to(device), "found_inf": found_inf.to(device)}
        adamw_step(updates, steps, tables, **settings, **on_device)  # type: ignore[arg-type]
        differences += [_difference("gradient", *pair, 0.0) for pair in zip(gradients, drawn, strict=True)]
    for index, (weight, size) in enumerate(zip(theirs, _SIZES, strict=True)):
        state = reference.state[weight]
        differences += [
            _difference(f"weight {size}", weights[index], weight.detach(), _BOUND),
            _difference(f"copy {size}", copies[index], weights[index].bfloat16(), 0.0),
            _difference(f"first moment {size}", averages[index], state["exp_avg"], _BOUND),
            _difference(f"second moment {size}", squares[index], state["exp_avg_sq"], _BOUND),
            _difference(f"steps {size}", steps[index], state["step"], 0.0),
        ]
    return differences


def _difference(name: str, actual: Tensor, expected: Tensor, bound: float) -> Difference:
    return Difference(name, relative_distance(actual.cpu(), expected.cpu()), bound)
