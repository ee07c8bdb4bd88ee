"""What the backends are measured against: `torch.compile` of the reference, and the kernels of Liger and torchao."""

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from litespark.benchmarks.step.huggingface import convert_to_fp8
from litespark.device import device_of
from litespark.ops.backend import REFERENCE, load
from litespark.ops.cases import Case
from litespark.ops.precision import dtype_name
from litespark.ops.shapes import Place
from litespark.ops.tolerance import FP32_BOUND, LOW_PRECISION_BOUND, differences

COMPILED = "torch.compile"
LIGER = "liger"
TORCHAO = "torchao tensorwise"


def compiled_reference(op: str, device: torch.device) -> Callable[..., Any] | str:
    """The reference, compiled by PyTorch; or why it is not measured there."""
    if not device_of(device).is_accelerator:
        return "compiling for a CPU takes longer than measuring all the rest"
    return torch.compile(load(op, REFERENCE), dynamic=False)


def liger(op: str, device: torch.device) -> Callable[..., Any] | str:
    """Liger's function of an op with the signature of its reference; or why it is not measured."""
    if op not in _LIGER:
        return "Liger has no kernel for it"
    try:
        functional = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError as error:
        return f"Liger is not installed ({error}); pip install liger-kernel"
    if not device_of(device).is_accelerator:
        return "Liger's kernels need a GPU"
    return lambda *arguments, **options: _LIGER[op](functional, *arguments, **options)


def torchao_linear(
    inputs: int, outputs: int, device: torch.device
) -> tuple[nn.Parameter, Callable[[Tensor], Tensor]] | str:
    """The weight, an fp32 master, and the call of a linear layer; or why it is not measured.

    It casts its weight in every forward pass, and everything in passes that PyTorch's compiler fuses.
    """
    if not device_of(device).is_accelerator:
        return "torchao's float8 products need a GPU"
    model = nn.Module()
    model.layers = nn.ModuleList([nn.Linear(inputs, outputs, bias=False, device=device)])
    try:
        convert_to_fp8(model)
    except ImportError as error:
        return f"torchao is not installed ({error}); pip install torchao"
    layer = model.layers[0]
    assert isinstance(layer.weight, nn.Parameter)
    return layer.weight, torch.compile(layer, dynamic=False)


def difference_from_reference(function: Callable[..., Any], case: Case, place: Place) -> str | None:
    """What is wrong with a rival's results; None where they agree with the reference.

    Ours may be twice as far away as the reference is in low precision; of others only the looser bound is asked.
    """
    bound = FP32_BOUND if place.dtype == torch.float32 else LOW_PRECISION_BOUND
    ours, theirs = partial(case.call, load(case.op, REFERENCE)), partial(case.call, function)
    far = [
        f"{difference.tensor} is {difference.distance:.1e} away, at most {bound:.1e} is allowed"
        for difference in differences(theirs, ours, case.inputs, place.dtype)
        if not difference.distance <= bound
    ]
    return f"in {dtype_name(place.dtype)} {'; '.join(far)}" if far else None


# `functional` is liger_kernel.transformers.functional; nothing is written over its inputs, as in ours


def _rms_norm(functional: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.liger_rms_norm(x, weight, eps, in_place=False)


def _add_rms_norm(functional: Any, x: Tensor, update: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    normed, stream = functional.liger_fused_add_rms_norm(x, update, weight, eps, in_place=False)
    return stream, normed


def _rope(functional: Any, qkv: Tensor, cos: Tensor, sin: Tensor, num_kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = qkv.split([qkv.shape[2] - 2 * num_kv_heads, num_kv_heads, num_kv_heads], dim=2)
    # it takes heads before positions, and each table twice over
    query, key = functional.liger_rope(
        query.transpose(1, 2), key.transpose(1, 2), torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)
    )
    return query.transpose(1, 2), key.transpose(1, 2), value


def _swiglu(functional: Any, gate_up: Tensor) -> Tensor:
    fused = importlib.import_module("liger_kernel.ops.swiglu").LigerFusedGateUpSiLUMulFunction
    # its gradient has two dimensions whatever its input has
    return fused.apply(gate_up.flatten(0, -2), False).unflatten(0, gate_up.shape[:-1])


def _linear_cross_entropy(
    functional: Any, hidden: Tensor, weight: Tensor, labels: Tensor, *, ignore_index: int = -100
) -> Tensor:
    return functional.liger_fused_linear_cross_entropy(
        hidden.flatten(0, 1), weight, labels.flatten(), ignore_index=ignore_index, reduction="sum"
    )


_LIGER: dict[str, Callable[..., Any]] = {
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rope": _rope,
    "swiglu": _swiglu,
    "linear_cross_entropy": _linear_cross_entropy,
}
