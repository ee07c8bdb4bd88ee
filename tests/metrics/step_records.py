"""Records of `litespark bench step` made by hand, with numbers that can be followed in the head.

S is 4, so a query of a whole causal sequence sees 2.5 keys on average; a token costs 1000 FLOPs and 120 for each key:
1300 causal, 1480 full; a second forward is 300 and 40 for each key: 1700. Two sequences make 8 tokens and 20 pairs a
step.
"""

from __future__ import annotations

from litespark.metrics.records.origin import DeviceRecord, EnvironmentRecord, Provenance
from litespark.metrics.records.step import (
    Protocol,
    RatesRecord,
    RooflinePart,
    RoundRecord,
    StepModel,
    StepRecord,
    VariantRecord,
)

STEPS = 4
ROOFLINE = (RooflinePart("gemm", 6.0), RooflinePart("attention", 4.0), RooflinePart("idle", 0.0))


def round_(number: int, step_ms: list[float], joules: float | None = None, **changes) -> RoundRecord:
    """A process that was measured."""
    values = {
        "round": number, "position": 0, "outcome": "measured", "recompute": "none", "step_ms": step_ms,
        "tokens": 8 * STEPS, "attention_pairs": 20 * STEPS, "joules": joules,
        "joules_reason": None if joules is not None else "no counter", "train_loss": [2.0] * 5, "loss": 2.0,
        "tokens_hash": "ab",
    }  # fmt: skip
    return RoundRecord(**(values | changes))


def lost(number: int, outcome: str, recompute: str = "none", error: str = "it broke") -> RoundRecord:
    """A process without figures."""
    return RoundRecord(number, 0, outcome, recompute, error=error)


def variant(name: str, *rounds: RoundRecord, kind: str = "litespark", **changes) -> VariantRecord:
    values = {"settings": [], "about": f"what {name} is", "roofline": list(ROOFLINE)}
    return VariantRecord(name, kind, **({"rounds": list(rounds)} | values | changes))


def ours(name: str = "litespark", **changes) -> VariantRecord:
    """640 and 320 tokens/s, 0.0625 and 0.1 J/token, 40 and 32 W."""
    first = round_(0, [10.0, 10.0, 20.0, 10.0], 2.0, peak_memory_mib=100.0)
    second = round_(1, [20.0, 40.0, 20.0, 20.0], 3.2, peak_memory_mib=120.0)
    return variant(name, first, second, **changes)


def standard(**changes) -> VariantRecord:
    """200 and 320 tokens/s, 0.2 and 0.1 J/token."""
    return variant("standard", round_(0, [40.0] * 4, 6.4), round_(1, [25.0] * 4, 3.2), kind="huggingface", **changes)


def record(*variants: VariantRecord, gpu: bool = True, **changes) -> StepRecord:
    device = DeviceRecord("NVIDIA Imaginary", "0" * 16, 700.0) if gpu else DeviceRecord("a processor")
    environment = EnvironmentRecord(
        python="3.11", torch="2.14.1", platform="Linux", cpu="a processor", world_size=1, precision="bf16",
        devices=[device], driver="999.1" if gpu else None,
    )  # fmt: skip
    rounds = max([2, *(each.round + 1 for variant in variants for each in variant.rounds)])
    values = {
        "provenance": Provenance(
            "2026-01-02T03:04:05+00:00", ["litespark", "bench", "step"], [], "c0ffee", False, "5" * 16, "c" * 16,
            environment,
        ),
        "model": StepModel("small", 1_500_000, 2, 2, 1300.0, 1480.0, 1700.0),
        "protocol": Protocol(2, 1, 4, 1, STEPS, rounds, "synthetic", False, "bf16", 8),
        "rates": RatesRecord(2e6, 3e6, 4e9, None, 1e7, "a datasheet"),
        "variants": list(variants),
    }  # fmt: skip
    return StepRecord(**(values | changes))
