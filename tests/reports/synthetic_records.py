"""Records of benchmarks with figures that can be computed by hand, and a folder of results made of them."""

from __future__ import annotations

from pathlib import Path

from litespark.metrics.records.step import Protocol, RatesRecord, RoundRecord, StepModel, StepRecord, VariantRecord
from tests.metrics.records.hand_made import environment, provenance

GPU = "NVIDIA H200"


def step_record(
    milliseconds: dict[str, float],
    *,
    device: str = GPU,
    day: str = "2026-01-31",
    dirty: bool | None = False,
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
        Protocol(4, 1, 9, 1, 2, 1, "synthetic", False, "bf16", 8),
        RatesRecord(matmul_flops=1e9),
        variants,
    )


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
