"""In what a run computes: decides `precision` by what a device has, and says what stands against fp8 there.

On a CPU `auto` is measured: `litespark.run.measured_precision`.
"""

import torch

from litespark.device import ACCELERATORS, device_of
from litespark.models.spec import TakesFp8
from litespark.ops.backend import AUTO, BACKENDS, REFERENCE
from litespark.ops.backend import why_not as why_not_backend
from litespark.ops.fp8.limits import without_units
from litespark.ops.linear.state import why_not as why_not_sizes
from litespark.ops.shapes import StepShapes
from litespark.run.config import Parts
from litespark.run.targets import ConfigError
from litespark.training.parallel.precision import Precision

# below these the casts cost more than the products gain; a rule of thumb, which `litespark bench ops` tries on a device
PAYING_WIDTH = 3072
PAYING_TOKENS = 8192


def decided(parts: Parts, device: torch.device, problems: list[str]) -> tuple[Precision, str]:
    """In what a run of `parts` computes on `device`, and by `auto` why; what does not go is added to `problems`.

    Where `auto` is measured it is fp32 here, without a reason.
    """
    asked = parts.precision
    if asked == "auto":
        return _fastest(parts, device)
    if asked != "fp32" and (reason := _why_no_bf16(device)) is not None:
        problems.append(f"precision={asked}: {reason}; use precision=fp32")
        return "fp32", ""
    if asked == "fp8":
        problems += _against_fp8(parts, device)
        return "fp8", ""
    return ("bf16" if asked == "bf16" else "fp32"), ""


def is_measured(parts: Parts, device: torch.device) -> bool:
    """Whether `auto` is measured: some CPUs multiply bf16 twice as fast as fp32, and others far more slowly."""
    return parts.precision == "auto" and not device_of(device).is_accelerator


def _fastest(parts: Parts, device: torch.device) -> tuple[Precision, str]:
    if is_measured(parts, device):
        return "fp32", ""
    if device_of(device).multiplies_fp32_fastest:
        return "fp32", f"the {device.type.upper()} multiplies fp32 fastest"
    if (reason := _why_no_bf16(device)) is not None:
        return "fp32", reason
    if parts.fp8.simulate:
        return "bf16", "fp8 would only be simulated (precision.fp8.simulate=true)"
    if (reason := without_units(device)) is not None:
        return "bf16", reason
    if not isinstance(parts.model, TakesFp8):
        return "bf16", f"model={parts.model.name} has no layers for fp8"
    shapes = parts.model.linear_shapes()
    width = min(min(shapes[name]) for name in parts.fp8.linears)
    tokens = parts.data.micro_batch_size * parts.data.seq_len
    if width < PAYING_WIDTH or tokens < PAYING_TOKENS:
        return "bf16", (
            f"fp8 pays for products from {PAYING_WIDTH} wide over {PAYING_TOKENS} tokens of a micro-batch on, and here "
            f"the narrowest is {width} wide, over {tokens}; precision=fp8 takes it all the same"
        )
    if against := _against_fp8(parts, device):
        return "bf16", "; ".join(against)
    if (reason := _unfused(parts, device)) is not None:
        return "bf16", f"casts would be passes of their own: {reason}"
    return "fp8", f"{device_of(device).name} has fp8 units, and the products are large enough"


def _unfused(parts: Parts, device: torch.device) -> str | None:
    """Why producers cannot cast on their way, without which fp8 is not faster; None where they can."""
    if parts.fp8.recipe != "delayed":
        return f"precision.fp8.recipe={parts.fp8.recipe} takes scales from the tensors themselves"
    if parts.ops.fp8 == REFERENCE:
        return f"ops.fp8={REFERENCE}"
    fused = next(name for name in BACKENDS["fp8"] if name != REFERENCE) if parts.ops.fp8 == AUTO else parts.ops.fp8
    return why_not_backend("fp8", fused, device, torch.bfloat16, step_shapes(parts))


def _why_no_bf16(device: torch.device) -> str | None:
    there = device_of(device)
    return None if there.has_bf16 else f"{there.name} has no bf16 units (on NVIDIA devices they came with Ampere)"


def _against_fp8(parts: Parts, device: torch.device) -> list[str]:
    """Everything that stands against fp8, each with what would mend it."""
    if not isinstance(parts.model, TakesFp8):
        return [
            f"precision=fp8: got model={parts.model.name}, expected one with layers for fp8, as the "
            "native Llama has them (TakesFp8 of models/spec.py); set precision=bf16"
        ]
    reasons = []
    if not parts.fp8.simulate:
        reasons += _against_units(parts, device)
    if parts.strategy.shards:
        reasons.append(
            f"precision=fp8: got strategy={parts.strategy.name}, expected single or ddp; set strategy=ddp, or "
            "precision=bf16"
        )
    if parts.ops.compile not in ("none", "auto"):
        reasons.append(
            f"precision=fp8: got ops.compile={parts.ops.compile}, expected none: torch.compile cannot look into "
            "its fused kernels; set ops.compile=none, or precision=bf16"
        )
    if biased := [name for name in ("attention_bias", "mlp_bias") if getattr(parts.model, name, False)]:
        reasons.append(
            f"precision=fp8: got model.{biased[0]}=true, expected a model without biases, whose gradients the fused "
            "casts do not add up; set precision=bf16"
        )
    first, last, layers = parts.fp8.bf16_first, parts.fp8.bf16_last, parts.model.num_layers
    if first + last >= layers:
        reasons.append(
            f"precision.fp8: got bf16_first={first} and bf16_last={last}, expected less together than the {layers} "
            "layers of the model, or nothing is in fp8; lower one of them, or set precision=bf16"
        )
    return reasons


def waits_for_accelerator(parts: Parts, device: torch.device) -> bool:
    """Whether the device is only what takes the place of one that is not here, which is a problem of its own."""
    return parts.trainer.accelerator in ACCELERATORS and not device_of(device).is_accelerator


def _against_units(parts: Parts, device: torch.device) -> list[str]:
    """What stands against products on fp8 units: that there are none, or sizes that they do not take."""
    simulate = "precision.fp8.simulate=true, which rounds as fp8 does and is slow: for looking at losses"
    if not waits_for_accelerator(parts, device) and (reason := without_units(device)) is not None:
        wide = "bf16" if device_of(device).is_accelerator else "fp32"
        return [f"precision=fp8: {reason}; set precision={wide}, or {simulate}"]
    if (reason := why_not_sizes(step_shapes(parts))) is not None:
        return [f"precision=fp8: {reason}; change these sizes, set precision=bf16, or {simulate}"]
    return []


def step_shapes(parts: Parts) -> StepShapes:
    """The sizes that the ops of a run meet in a micro-batch; a ConfigError where the model computes without them."""
    data = parts.data
    shapes = parts.model.step_shapes(data.micro_batch_size, data.seq_len, documents=data.document_mask)
    if shapes is None:
        raise ConfigError(
            f"model: got {parts.model.name}, expected one that computes with the ops of litespark; choose another "
            "model, for instance model=tiny"
        )
    return shapes


def computes_with_ops(parts: Parts) -> bool:
    return parts.model.step_shapes(1, 1, documents=False) is not None
