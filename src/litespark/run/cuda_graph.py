"""What stands against `ops.cuda_graph=true`: whatever is not known to give the device the same work in every step."""

import torch

from litespark.device import device_of
from litespark.models.huggingface.spec import HuggingFaceConfig
from litespark.run.config import Parts
from litespark.run.precision import computes_with_ops
from litespark.tasks.pretrain import Pretrain
from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.parallel.precision import Precision


def why_no_graph(parts: Parts, device: torch.device, precision: Precision) -> list[str]:
    """Each reason, with what would mend it; attention is looked at where backends are chosen."""
    if not parts.ops.cuda_graph:
        return []
    if not device_of(device).has_graphs:
        return [_message(f"a device of type {device.type}", "an NVIDIA GPU", "ops.cuda_graph=false")]
    reasons = []
    if parts.strategy.name != "single":
        reasons.append(_message(f"strategy={parts.strategy.name}", "one device", "strategy=single"))
    if precision == "fp8":
        why = "bf16: in fp8 some steps count what casts lose and others do not, and layers may leave it"
        reasons.append(_message("precision=fp8", why, "precision=bf16"))
    if parts.ops.compile not in ("none", "auto"):
        reasons.append(_message(f"ops.compile={parts.ops.compile}", "one of the two", "ops.compile=none"))
    if parts.recompute == "full":
        why = "another: it keeps random states, which are not read while a graph is recorded"
        reasons.append(_message("recompute=full", why, "recompute=swiglu or none"))
    if not computes_with_ops(parts) or isinstance(parts.model, HuggingFaceConfig):
        reasons.append(_message(f"model={parts.model.name}", "a native one", "ops.cuda_graph=false"))
    # a class of the user's may take a number of the host in each step, which a graph would keep for ever
    if type(parts.task) is not Pretrain:
        reasons.append(_message(f"task={type(parts.task).__name__}", "Pretrain", "ops.cuda_graph=false"))
    if type(parts.optim) not in (AdamWConfig, MuonConfig):
        reasons.append(_message(f"optim={type(parts.optim).__name__}", "AdamW or Muon", "optim=adamw"))
    elif not getattr(parts.optim, "fused", True):
        why = "true: without it the host reads a number in each step"
        reasons.append(_message("optim.fused=false", why, "optim.fused=true"))
    return reasons


def _message(got: str, expected: str, remedy: str) -> str:
    return f"ops.cuda_graph=true: got {got}, expected {expected}; set {remedy}"
