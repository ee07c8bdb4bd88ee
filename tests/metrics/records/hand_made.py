"""Records made by hand, with figures that can be followed in the head, and what they all have in common."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from litespark.metrics.records.ops import CaseRecord, OpsRecord, TimeRecord, VariantRecord
from litespark.metrics.records.origin import DeviceRecord, EnvironmentRecord, Provenance
from litespark.metrics.records.profile import ClassRecord, KernelRecord, ProfileRecord
from litespark.ops.fp8.adaptive import Move
from litespark.run.record import DataRecord, ModelRecord, RunRecord, SegmentRecord
from litespark.run.record_fp8 import Fp8Record, Fp8SharesRecord
from tests.metrics import step_records

CPU = "a CPU"
NOON = "2026-01-31T12:00:00+00:00"
DOWN = "blocks.1.mlp.down"


def environment(device: str = CPU, *, precision: str = "fp32", **changes: Any) -> EnvironmentRecord:
    return EnvironmentRecord(
        "3.11", "2.11", "Linux", CPU, 1, precision, **{"devices": [DeviceRecord(device)]} | changes
    )


def provenance(device: str = CPU, **changes: Any) -> Provenance:
    values = {"time": NOON, "command": ["litespark"], "overrides": [], "git_commit": "c0ffee1234", "git_dirty": False,
              "source_hash": "5" * 16, "config_hash": "c" * 16, "environment": environment(device)}  # fmt: skip
    return Provenance(**values | changes)


def changed(value: Any, where: str, new: Any) -> Any:
    """A copy of a record or of a part whose value at a dotted place is another."""
    first, _, rest = where.partition(".")
    if isinstance(value, list):
        place = int(first)
        return [changed(each, rest, new) if at == place else each for at, each in enumerate(value)]
    return replace(value, **{first: changed(getattr(value, first), rest, new) if rest else new})


def make_record(**changes: Any) -> RunRecord:
    """The run as it stands before its first step."""
    origin = {name: changes.pop(name) for name in ("command", "git_commit", "environment") if name in changes}
    values = {
        "name": "first",
        "task": "pretrain",
        "seed": 1,
        "model": ModelRecord("tiny", 10, 8, 48.5, 50.0, 16),
        "data": DataRecord("text", "hash", 256, 1000, 100, 3.5),
        "segments": [SegmentRecord(NOON, 0)],
    }
    return RunRecord(provenance(**origin), **values | changes)


def fp8_record(**changes: Any) -> Fp8Record:
    """Two blocks of four layers, one of which moved to bf16."""
    values = {
        "recipe": "delayed",
        "gradients": "e5m2",
        "simulated": False,
        "backend": "triton",
        "kinds": ["qkv", "output", "gate_up", "down"],
        "layers": 2,
        "bf16_first": 0,
        "bf16_last": 0,
        "linears": 8,
        "in_fp8": 7,
        "fallback": "bf16",
        "overflow_bound": 0.001,
        "underflow_bound": 0.25,
        "readings": 5,
        "moves": [Move(30, DOWN, "delayed", "bf16", "overflow", 3, f"{DOWN}.input", 0.02, 0.001)],
        "shares": [Fp8SharesRecord(f"{DOWN}.input", 30, 0.02, 0.0, 0.03, 0.001)],
    }
    return Fp8Record(**(values | changes))


def ops_record() -> OpsRecord:
    """1000 bytes in 2 ms and 2000 in 4 are half of 1e6 bytes/s each."""
    reference = VariantRecord("reference", False, None, TimeRecord(2.0, 1.9, 2.1, 9), TimeRecord(6.0, 5.9, 6.1, 9))
    variants = [reference, VariantRecord("liger", True, reason="not installed")]
    case = CaseRecord("swiglu", "swiglu", "2 x 4", 1000, 2000, copy_bytes_per_second=1e6, variants=variants)
    return OpsRecord(provenance(), "tiny", 2, 4, 1.0, ["swiglu"], 1e6, [case])


def profile_record(**changes: Any) -> ProfileRecord:
    """10 ms a step: 6 of products with a roofline of 4, 2 of norms with one of 1.5, 1 of others and 1 of idleness."""
    step = step_records.record()
    values = {
        "model": step.model, "protocol": step.protocol, "variant": "litespark",
        "settings": [], "about": "ours", "recompute": "none", "detail": "ops: rms_norm triton", "device_type": "cuda",
        "rates": step.rates, "tokens": 32, "attention_pairs": 80, "wall_milliseconds": 10.0,
        "unprofiled_milliseconds": 9.5,
        "classes": [
            ClassRecord("norm", 2.0, 1.5, [KernelRecord("rms_norm_forward_kernel", None, 2.0, 8)]),
            ClassRecord("gemm", 6.0, 4.0, [KernelRecord("nvjet", "aten::mm", 5.0, 8)]),
            ClassRecord("other", 1.0, None, [KernelRecord("elementwise_kernel", "aten::relu", 1.0, 4)]),
            ClassRecord("idle", 1.0, 0.0),
        ],
    }  # fmt: skip
    return ProfileRecord(step.provenance, **(values | changes))
