"""Records of benchmarks with figures that can be computed by hand, and a folder of results made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from litespark.metrics.records.ablation import AblationRecord, KeyRecord, SwitchRecord, planned, settings_of
from litespark.metrics.records.profile import ClassRecord, ProfileRecord
from litespark.metrics.records.step import Protocol, RatesRecord, RoundRecord, StepModel, StepRecord, VariantRecord
from tests.metrics.records.hand_made import environment, provenance

GPU = "NVIDIA H200"


def step_record(
    milliseconds: dict[str, float],
    *,
    device: str = GPU,
    day: str = "2026-01-31",
    dirty: bool | None = False,
    complete: bool = True,
    joules: float | None = 4.0,
) -> StepRecord:
    """Every variant takes two steps of 1000 tokens and as many milliseconds as given, in one round."""
    origin = provenance(
        time=f"{day}T12:00:00+00:00", git_dirty=dirty, environment=environment(device, precision="bf16")
    )
    variants = []
    for position, (name, time) in enumerate(milliseconds.items()):
        measured = RoundRecord(
            0, position, "measured", "none", step_ms=[time, time], tokens=2000, attention_pairs=2000 * 5,
            joules=joules, joules_reason=None if joules is not None else "no counter", loss=5.0,
        )  # fmt: skip
        kind = "litespark" if name == "litespark" else "huggingface"
        variants.append(VariantRecord(name, kind, [], f"about {name}", rounds=[measured]))
    return StepRecord(
        origin,
        StepModel("tiny", 10, 2, 2, 50.0, 60.0),
        Protocol(4, 1, 9, 1, 2, 1 if complete else 2, "synthetic", False, "bf16", 8),
        RatesRecord(matmul_flops=1e9),
        variants,
    )


def ablation_record() -> AblationRecord:
    """Two switches: the first makes 2 of 1, the second 5 of 2."""
    steps = step_record({"baseline": 10.0, "plus_norm": 5.0, "target": 2.0, "without_norm": 4.0})
    switches = [SwitchRecord(name, [KeyRecord(f"ops.{name}", "reference", "fast")]) for name in ("norm", "rope")]
    on_in = {each.name: each.on for each in planned(["norm", "rope"])}
    variants = [
        replace(each, settings=list(settings_of(switches, on_in[each.name])), kind="litespark")
        for each in steps.variants
    ]
    return AblationRecord(steps.provenance, steps.model, steps.protocol, steps.rates, variants, baseline=[], target=[],
                          switches=switches)  # fmt: skip


def profile_record() -> ProfileRecord:
    """Products take 8 ms of at least 6, and the device rests for 2."""
    steps = step_record({"litespark": 10.0})
    classes = [ClassRecord("gemm", 8.0, 6.0), ClassRecord("idle", 2.0, 0.0)]
    return ProfileRecord(steps.provenance, steps.model, steps.protocol, "litespark", [], "ours", "none", "", "cuda",
                         steps.rates, 1000, 5000, 10.0, 9.5, classes)  # fmt: skip


def results_folder(root: Path, *records: StepRecord) -> Path:
    """`root/results` with a page whose markers have nothing between them, and each record in its device's folder."""
    results = root / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "README.md").write_text("# Records\n\nBy hand.\n\n<!-- from results: page --><!-- end -->\n")
    for record in records:
        device = record.provenance.environment.devices[0].name
        stem = f"{record.provenance.time[:10]}_bench-step_tiny_bf16"
        record.write(results / device.lower().replace(" ", "-") / f"{stem}.json")
    return results
