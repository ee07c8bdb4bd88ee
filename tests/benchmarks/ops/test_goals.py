"""The goals of the fast ops, and from which width on fp8 pays: from the times of a record, and only where meant."""

from dataclasses import replace

import pytest

from litespark.benchmarks.ops.fp8_runs import CASTS, NORM, SWIGLU, WEIGHTS
from litespark.benchmarks.ops.goals import goals
from litespark.metrics.records.ops import (
    CaseRecord,
    OpsRecord,
    PaysRecord,
    TimeRecord,
    VariantRecord,
    WidthRecord,
    YardstickRecord,
    least_paying,
)
from litespark.reports.op_speeds import tables
from tests.metrics.records.hand_made import provenance
from tests.reports.rows import row


def time(milliseconds):
    return TimeRecord(milliseconds, milliseconds, milliseconds, 5)


def variant(name, both, rival=False, **figures):
    return VariantRecord(name, rival, True, time(both / 3), time(both), **figures)


def record_of(*cases, **more):
    ops = [case.op for case in cases]
    return OpsRecord(provenance("H200"), "llama3b", 4, 4096, 1.0, ops, cases=list(cases), layers=28, **more)


def swiglu(forward, backward, *variants):
    """A case in which a variant of 1 ms reaches these shares of the copy bandwidth."""
    work = round(forward * 1e9 / 3), round(backward * 2e9 / 3)
    return CaseRecord("swiglu", "swiglu", "8 tokens", *work, copy_bytes_per_second=1e12, variants=list(variants))


def goal_of(record, start):
    (found,) = [goal for goal in goals(record) if f"{goal.op} {goal.goal}".startswith(start)]
    return found


@pytest.mark.parametrize("backward, verdict", [(0.86, "met"), (0.5, "not met")])
def test_the_share_of_the_fastest_backend_counts_in_its_worse_half(backward, verdict):
    variants = variant("reference", 2.0), variant("liger", 0.5, rival=True), variant("triton", 1.0)
    goal = goal_of(record_of(swiglu(0.9, backward, *variants)), "swiglu")
    assert (goal.value, goal.verdict) == (pytest.approx(backward), verdict)
    assert "triton: 90% forward" in goal.reason


@pytest.mark.parametrize(
    ("op", "case", "yardstick", "both", "value", "verdict"),
    [
        ("linear_cross_entropy", "sum of losses", "three matrix products", 10.4, 1.04, "met"),
        ("linear_cross_entropy", "sum of losses", "three matrix products", 10.6, 1.06, "not met"),
        ("attention", "attention within documents", "sdpa over whole sequences", 5.0, 2.0, "met"),
        ("attention", "attention within documents", "sdpa over whole sequences", 8.0, 1.25, "not met"),
    ],
)
def test_the_loss_and_documents_are_held_against_their_yardsticks(op, case, yardstick, both, value, verdict):
    yardsticks = [YardstickRecord(yardstick, time(10.0))]
    record = record_of(CaseRecord(op, case, "", variants=[variant("triton", both)], yardsticks=yardsticks))
    goal = goal_of(record, "attention within documents" if op == "attention" else op)
    assert (goal.value, goal.verdict) == (pytest.approx(value), verdict)


@pytest.mark.parametrize(
    "taken, value, verdict", [("reference", 2.5, "not met"), ("sdpa", 1.0, "met"), (None, None, "not measured")]
)
def test_a_choice_of_auto_that_is_slower_than_pytorch_is_not_met(taken, value, verdict):
    variants = [variant("triton", 3.0), variant("sdpa", 4.0), variant("reference", 10.0)]
    record = record_of(CaseRecord("attention", "attention", "", variants=variants, auto=taken))
    goal = goal_of(record, "attention attention:")
    assert (goal.value, goal.verdict) == (value, verdict)


def test_what_was_not_measured_or_cannot_be_says_why():
    wrong = VariantRecord("triton", verified=False, reason="its verification failed")
    record = record_of(CaseRecord("rope", "rope", "", variants=[wrong]), swiglu(2.0, 0.9, variant("triton", 1.0)))
    assert goal_of(record, "rope").reason == "triton: its verification failed"
    assert goal_of(record, "rms_norm").reason == "it was not asked for"
    # more than memory can give
    goal = goal_of(record, "swiglu")
    assert (goal.value, goal.verdict) == (None, "not measured")
    assert "the measurement is wrong" in goal.reason
    on_cpu = replace(record_of(swiglu(0.9, 0.9, variant("reference", 1.0))), provenance=provenance())
    assert {(goal.value, goal.verdict) for goal in goals(on_cpu)} == {(None, "not measured")}
    assert "CPU says nothing" in goal_of(on_cpu, "swiglu").reason


def test_the_table_shows_figures_reasons_and_verdicts():
    fast, plain = variant("triton", 1.0, peak_memory_mib=12.0), variant("reference", 2.0)
    absent = VariantRecord("liger", rival=True, reason="Liger is not installed")
    record = record_of(swiglu(0.9, 0.8, fast, plain, absent))
    record.goals = goals(record)
    _, case, judged = tables(record)
    assert row(case, "triton")[1:] == ["1.000", "1.000-1.000", "2.00", "90.0 % 80.0 %", "12", ""]
    assert row(case, "reference")[3] == "1.00"
    assert row(case, "liger")[-1] == "Liger is not installed"
    assert row(judged, "swiglu") == [
        "at least 85% of the copy bandwidth, forward and backward",
        "0.800",
        "not met",
        "triton: 90% forward, 80% backward",
    ]


# ---------------------------------------------------------------- fp8


def width(size, **times):
    return WidthRecord(size, [YardstickRecord(name, time(each)) for name, each in times.items()])


def casts(norm=0.5, casts=0.1):
    def case(name, **times):
        variants = [VariantRecord(each, False, True, time(ms), time(ms)) for each, ms in times.items()]
        return CaseRecord("fp8", name, "", variants=variants)

    return [
        case(NORM, bf16=0.48, fused=norm),
        case(SWIGLU, bf16=0.9, fused=0.91),
        case(CASTS, delayed=casts),
        case(WEIGHTS, bf16=0.1, delayed=0.11),
    ]


@pytest.mark.parametrize(
    ("norm", "by_themselves", "value", "verdict"),
    [(0.5, 0.1, 4.48, "met"), (0.5, 0.2, 7.28, "not met"), (0.6, 0.1, 10.08, "not met")],
)
def test_the_goal_of_casts_adds_up_what_they_take_beyond_bf16(norm, by_themselves, value, verdict):
    # 28 · (2 · (norm − 0.48) + 0.01 + casts + 0.01)
    goal = goal_of(record_of(*casts(norm, by_themselves)), "fp8")
    assert (goal.value, goal.verdict) == (pytest.approx(value), verdict)
    assert "SwiGLU +0.28 ms" in goal.reason


def test_the_goal_of_casts_is_not_measured_without_times_or_at_other_sizes():
    absent = CaseRecord("fp8", NORM, "", variants=[VariantRecord("fused", reason="there are no units")])
    assert goal_of(record_of(absent), "fp8").reason == "there are no units"
    other = goal_of(replace(record_of(*casts()), sequences=1), "fp8")
    assert (other.value, other.verdict) == (None, "not measured")
    assert "llama3b with 4096 tokens, expected 16384" in other.reason


def test_the_table_says_from_which_width_on_fp8_pays():
    widths = [width(size, bf16=10, delayed=each) for size, each in ((768, 9), (1024, 12), (2048, 9))]
    assert least_paying(widths, "delayed") == least_paying(list(reversed(widths)), "delayed") == 2048
    assert least_paying([*widths, width(4096, bf16=10, delayed=10)], "delayed") is None
    assert least_paying(widths, "tensorwise") is None
    pays = [PaysRecord("delayed", 2048), PaysRecord("tensorwise", None, "why")]
    made = tables(record_of(*casts(), widths=widths, pays=pays))
    (table,) = [each for each in made if each.title.startswith("square linear layers, 16384 tokens")]
    assert table.header == ["width", "bf16", "delayed"]
    assert row(table, "2048") == ["10.000", "9.000"]
    assert "fp8 pays at 16384 tokens, delayed: from width 2048 on" in table.all_notes
    assert "fp8 pays at 16384 tokens, tensorwise: no width: why" in table.all_notes
    # beside bf16, not beside the reference
    (faster,) = [cells[4] for each in made for cells in each.cells if cells[0] == "fused" and cells[2] == "0.910"]
    assert faster == "0.99"
