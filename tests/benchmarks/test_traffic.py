"""A step is counted the same everywhere, and what the shipped records hold is what the code does now."""

import shlex
from pathlib import Path

import pytest
import torch

from litespark.benchmarks.traffic.counting import WEIGHTS, TrafficMode
from litespark.benchmarks.traffic.inductor import scheduled
from litespark.benchmarks.traffic.session import OURS, count_ours
from litespark.benchmarks.traffic.steps import as_on_gpu
from litespark.metrics.records.traffic import Counts, TrafficPhase, TrafficRecord, TrafficVariant
from litespark.ops.launches import described
from litespark.ops.shapes import Place
from litespark.planning.op_costs import op_cost
from litespark.reports.traffic import Rates, bound, tables
from litespark.run.composing import compose_parts
from litespark.run.precision import step_shapes

triton = pytest.importorskip("triton")
tl = triton.language

RECORDS = sorted((Path(__file__).resolve().parents[2] / "results" / "counted").glob("*_bench-traffic_*.json"))
R3 = next(path for path in RECORDS if "llama3b_bf16" in path.stem)


def ours(record: TrafficRecord) -> TrafficVariant:
    return next(variant for variant in record.variants if variant.name == OURS)


def layer(variant: TrafficVariant, phase: TrafficPhase, kernel_class: str) -> Counts:
    return next(one.layer for one in variant.classes if (one.phase, one.kernel_class) == (phase, kernel_class))


def differences(recorded: TrafficVariant, now: TrafficVariant) -> list[str]:
    before = {(one.phase, one.kernel_class): one for one in recorded.classes}
    after = {(one.phase, one.kernel_class): one for one in now.classes}
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    lines = [f"{key}: recorded {before.get(key)}, counted {after.get(key)}" for key in keys]
    return lines + [f"kept: recorded {recorded.saved}, counted {now.saved}"] * (recorded.saved != now.saved)


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem.partition("_bench-traffic_")[2])
def test_a_step_of_a_shipped_config_moves_what_its_record_holds(path):
    record = TrafficRecord.read(path)
    changed = differences(ours(record), count_ours(compose_parts(record.provenance.overrides)))
    assert not changed, (
        "\n".join(changed) + f"\nif that is meant, renew the record: {shlex.join(record.provenance.command)} --publish"
    )


def test_what_a_record_does_not_hold_is_named():
    variant = ours(TrafficRecord.read(R3))
    grown = TrafficVariant(OURS, "", classes=variant.classes[1:], saved=variant.saved)
    (line,) = differences(grown, variant)
    assert "recorded None" in line
    assert not differences(variant, variant)


def test_a_layer_at_r3_moves_what_ideal_fused_ops_move():
    record = TrafficRecord.read(R3)
    shapes = step_shapes(compose_parts(record.provenance.overrides))
    place = Place(torch.device("cpu"), torch.bfloat16, shapes, True, None, torch.bfloat16)
    # our kernel copies the values beside rotating queries and keys, which an ideal one leaves where they are
    values_copied = 2 * 2 * shapes.tokens * shapes.num_kv_heads * shapes.head_dim
    for op, kernel_class, more in (("swiglu", "activation", 0), ("rope", "rope", values_copied)):
        cost = op_cost(op, place)
        moved = layer(ours(record), "first", kernel_class).moved
        assert moved == (cost.forward_bytes or 0) + (cost.backward_bytes or 0) + more
    norms = op_cost("add_rms_norm", place)
    ideal = 2 * ((norms.forward_bytes or 0) + (norms.backward_bytes or 0))
    # beside it a scale of each row and the partial gradients of the weight, and nothing else
    assert ideal < layer(ours(record), "first", "norm").moved < 1.01 * ideal


@triton.jit
def _leaves_one_out(x, unused, out):
    tl.store(out, tl.load(x))


@triton.jit
def _in_place(x, out, COUNT: tl.constexpr):
    place = x + tl.arange(0, COUNT)
    value = tl.load(place)
    place = out + tl.arange(0, COUNT)
    tl.store(place, value)
    tl.atomic_add(x, 1.0)


def test_a_launch_reads_what_its_kernel_loads_and_writes_what_it_stores():
    x, out = torch.zeros(4), torch.zeros(4)
    launch = described(_in_place, x, out, COUNT=4)
    assert [id(tensor) for tensor in launch.reads] == [id(x)]
    assert [id(tensor) for tensor in launch.writes] == [id(x), id(out)]
    with pytest.raises(ValueError, match=r"_leaves_one_out: got the tensors unused"):
        described(_leaves_one_out, x, x, out)


def test_views_are_free_in_place_counts_twice_and_a_look_up_reads_what_it_takes():
    with as_on_gpu():
        table, ids = torch.zeros(100, 8), torch.zeros(5, dtype=torch.int64)
        mode = TrafficMode([], tokens=1, pairs=1)
        with mode.counting():
            rows = torch.nn.functional.embedding(ids, table)
            rows.t().unsqueeze(0).add_(1.0)
            torch.empty(1000)
    counts = sum(mode.phases[0].classes.values(), Counts())
    row_bytes = 5 * 8 * 4
    assert (counts.read, counts.written, counts.launches) == (row_bytes + 5 * 8 + row_bytes, 2 * row_bytes, 2)


def test_what_a_compiled_model_fuses_is_one_kernel():
    with as_on_gpu():
        model, x = torch.nn.Sequential(torch.nn.Linear(16, 32, bias=False), torch.nn.SiLU()), torch.zeros(8, 16)
        mode = TrafficMode(model.parameters(), tokens=1, pairs=1)
        with scheduled(model, mode.launch_fused) as forward, mode.counting():
            for _ in range(2):
                (forward(x) + 1.0).sum().backward()
    first, later = mode.phases[0].classes, mode.phases[1].classes
    weight_bytes, out_bytes, product = 32 * 16 * 4, 8 * 32 * 4, 2 * 8 * 16 * 32
    gemm = first["gemm"]
    # the input has no gradient
    assert (gemm.launches, gemm.flops) == (2, 2 * product)
    assert gemm.moved == 2 * (8 * 16 * 4 + weight_bytes + out_bytes)
    # forward it reads and writes as much; the kernel of its gradient reads two tensors
    assert (first["activation"].launches, first["activation"].moved) == (2, 5 * out_bytes)
    assert (first[WEIGHTS].launches, later[WEIGHTS].launches) == (0, 1)  # the sum with the gradient that is there
    assert later["gemm"] == gemm
    assert mode.phases[0].saved > out_bytes


def test_freed_memory_that_nobody_wrote_is_not_mistaken_for_new_one():
    with as_on_gpu():
        mode = TrafficMode([], tokens=1, pairs=1)
        with mode.counting():
            blank = [torch.empty(1) for _ in range(100)]
            blank.clear()
            mode.restart()
            constants = [torch.tensor(float(value)) for value in range(100)]
    counts = sum(mode.phases[0].classes.values(), Counts())
    assert counts.read == 4 * len(constants)


def test_the_bound_takes_the_longer_of_bytes_and_flops_and_the_gaps():
    record = TrafficRecord.read(R3)
    slow, fast = (bound(record, ours(record), Rates(bytes=rate)) for rate in (4.3e12, 1e30))
    products = sum(counts.flops for name, counts in record.by_class(ours(record)).items() if name == "gemm")
    assert slow > fast > 1e3 * products / Rates().gemm
    whole = sum(record.by_class(ours(record)).values(), Counts())
    gaps = bound(record, ours(record), Rates(gap=1e-6)) - slow
    assert gaps == pytest.approx(1e-3 * whole.launches)
    assert "bound (not measured)" in tables(record)[0].text()
