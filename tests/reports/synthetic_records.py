"""Records of benchmarks with figures that can be computed by hand, and a folder of results made of them."""

from pathlib import Path

from litespark.metrics.records.step import Protocol, RatesRecord, StepModel, StepRecord
from tests.metrics.records.hand_made import environment, provenance
from tests.metrics.step_records import record, round_, variant


def step_record(milliseconds: dict[str, float], *, device="NVIDIA H200", day="2026-01-31", dirty=False) -> StepRecord:
    """Every variant takes two steps of 1000 tokens and as many milliseconds as given, in one round, with 4 J."""
    variants = []
    for name, time in milliseconds.items():
        measured = round_(0, [time, time], 4.0, tokens=2000, attention_pairs=10_000, loss=5.0, train_loss=[])
        kind = "litespark" if name == "litespark" else "huggingface"
        variants.append(variant(name, measured, kind=kind, roofline=[]))
    where = environment(device, precision="bf16")
    return record(
        *variants,
        provenance=provenance(time=f"{day}T12:00:00+00:00", git_dirty=dirty, environment=where),
        model=StepModel("tiny", 10, 2, 2, 50.0, 60.0),
        rates=RatesRecord(matmul_flops=1e9),
        protocol=Protocol(4, 1, 9, 1, 2, 1, "synthetic", False, "bf16", 8),
    )


def results_folder(root: Path, *records: StepRecord) -> Path:
    """`root/results` with a page whose markers have nothing between them, and each record in its device's folder."""
    results = root / "results"
    results.mkdir(parents=True, exist_ok=True)
    (results / "README.md").write_text("# Records\n\nBy hand.\n\n<!-- from results: page --><!-- end -->\n")
    for made in records:
        device = made.provenance.environment.devices[0].name
        stem = f"{made.provenance.time[:10]}_bench-step_tiny_bf16"
        made.write(results / device.lower().replace(" ", "-") / f"{stem}.json")
    return results
