"""Pieces of fp8 that cast on their way stand before those that do not, for where nothing is timed: by counts."""

from pathlib import Path

import pytest

from litespark.benchmarks.traffic.session import OURS, count_ours
from litespark.metrics.records.traffic import TrafficRecord, TrafficVariant
from litespark.ops.backend import BACKENDS
from litespark.run.composing import compose_parts

pytest.importorskip("triton")

RESULTS = Path(__file__).resolve().parents[2] / "results"
R3 = next((RESULTS / "counted").glob("*_bench-traffic_llama3b_fp8.json"))
PRODUCTS = ("gemm", "gemm_fp8", "attention")


def moved(variant: TrafficVariant) -> int:
    """Bytes of a layer outside of products and attention, in the micro-batch that makes the gradients."""
    return sum(one.layer.moved for one in variant.classes if one.phase == "first" and one.kernel_class not in PRODUCTS)


def shares_of_the_rate() -> dict[str, float]:
    """Kernel and configuration -> the bound of the committed page, of what casts on its way at the widths of R3."""
    lines = (RESULTS / "kernels" / "sm_90").glob("*.md")
    table = [line.strip("| \n").split(" | ") for page in lines for line in page.read_text().splitlines()]
    header = next(row for row in table if row[0] == "kernel")
    rows = [dict(zip(header, row, strict=True)) for row in table if len(row) == len(header)]
    casting = ("swiglu_fp8_", "rms_norm_", "transpose_")
    return {
        f"{row['kernel']} {row['configuration']}": float(row["bound: share of memory's rate"].rstrip("%")) / 100
        for row in rows
        if row["kernel"].startswith(casting) and any(width in row["configuration"] for width in ("F8192", "D3072"))
    }


def test_pieces_that_cast_on_their_way_stand_first_since_they_take_less_by_bytes_and_by_instructions():
    record = TrafficRecord.read(R3)
    (fused,) = (variant for variant in record.variants if variant.name == OURS)
    assert "fp8 triton" in fused.about
    apart = count_ours(compose_parts([*record.provenance.overrides, "ops.fp8=triton_apart"]))
    first, second = moved(fused), moved(apart)
    shares = shares_of_the_rate()
    assert {"e4m3", "e5m2"} <= {word for name in shares for word in name.split()}
    # the fused ones at the rate that their instructions leave, the others at the whole rate
    assert first / min(shares.values()) < second, shares
    assert [*BACKENDS["fp8"]][:2] == ["triton", "triton_apart"]
