"""The goals of the fast ops: met, not met, or not measured with the reason."""

import pytest

from litespark.benchmarks.ops.goals import goals
from litespark.metrics.records.ops import CaseRecord, OpsRecord, TimeRecord, VariantRecord, YardstickRecord
from litespark.reports.op_speeds import tables
from tests.metrics.records.hand_made import provenance
from tests.reports.rows import row


def time(milliseconds):
    return TimeRecord(milliseconds, milliseconds, milliseconds, 5)


def variant(name, both, rival=False, **figures):
    return VariantRecord(name, rival, True, time(both / 3), time(both), **figures)


def record_of(*cases):
    return OpsRecord(provenance("H200"), "llama3b", 4, 4096, 1.0, [case.op for case in cases], cases=list(cases))


def swiglu(forward, backward, *variants):
    """A case in which a variant of 1 ms reaches these shares of the copy bandwidth."""
    work = round(forward * 1e9 / 3), round(backward * 2e9 / 3)
    return CaseRecord("swiglu", "swiglu", "8 tokens", *work, copy_bytes_per_second=1e12, variants=list(variants))


def goal_of(record, start, device="cuda"):
    (found,) = [goal for goal in goals(record, device) if f"{goal.op} {goal.goal}".startswith(start)]
    return found


@pytest.mark.parametrize("backward, verdict", [(0.86, "met"), (0.5, "not met")])
def test_the_share_of_the_fastest_backend_counts_in_its_worse_half(backward, verdict):
    variants = variant("reference", 2.0), variant("liger", 0.5, rival=True), variant("triton", 1.0)
    goal = goal_of(record_of(swiglu(0.9, backward, *variants)), "swiglu")
    assert (goal.value, goal.verdict) == (pytest.approx(backward), verdict)
    assert "triton: 90% forward" in goal.reason


def test_a_share_that_memory_cannot_give_is_no_measurement():
    goal = goal_of(record_of(swiglu(2.0, 0.9, variant("triton", 1.0))), "swiglu")
    assert (goal.value, goal.verdict) == (None, "not measured")
    assert "the measurement is wrong" in goal.reason


@pytest.mark.parametrize("both, verdict", [(10.4, "met"), (10.6, "not met")])
def test_the_loss_is_held_against_its_matrix_products(both, verdict):
    case = CaseRecord(
        "linear_cross_entropy", "sum of losses", "", variants=[variant("triton", both)],
        yardsticks=[YardstickRecord("three matrix products", time(10.0))],
    )  # fmt: skip
    goal = goal_of(record_of(case), "linear_cross_entropy")
    assert goal.value == pytest.approx(both / 10)
    assert goal.verdict == verdict


@pytest.mark.parametrize("both, gain", [(2.0, "met"), (3.0, "not met")])
def test_attention_is_held_against_pytorch_and_against_whole_rows(both, gain):
    case = CaseRecord(
        "attention", "attention within documents", "", variants=[variant("triton", both), variant("varlen", 4.0)],
        yardsticks=[YardstickRecord("sdpa over whole rows", time(4.0))], auto="triton",
    )  # fmt: skip
    record = record_of(case)
    against = goal_of(record, "attention attention within documents: what")
    assert (against.value, against.verdict, against.reason) == (both / 4, "met", "triton over varlen")
    assert goal_of(record, "attention within documents").verdict == gain
    assert goal_of(record, "attention attention: ").reason == "not measured yet"


@pytest.mark.parametrize("taken, value", [("reference", 2.5), ("sdpa", 1.0), (None, None)])
def test_a_choice_of_auto_that_is_slower_than_pytorch_is_not_met(taken, value):
    variants = [variant("triton", 3.0), variant("sdpa", 4.0), variant("reference", 10.0)]
    goal = goal_of(
        record_of(CaseRecord("attention", "attention", "", variants=variants, auto=taken)), "attention attention:"
    )
    assert goal.value == value
    assert goal.verdict == {"reference": "not met", "sdpa": "met", None: "not measured"}[taken]


def test_what_was_not_measured_says_why():
    wrong = VariantRecord("triton", verified=False, reason="its verification failed")
    record = record_of(CaseRecord("rope", "rope", "", variants=[wrong]))
    goal = goal_of(record, "rope")
    assert (goal.value, goal.verdict, goal.reason) == (None, "not measured", "triton: its verification failed")
    assert goal_of(record, "rms_norm").reason == "it was not asked for"


def test_a_cpu_is_held_against_no_goal():
    goal = goal_of(record_of(swiglu(0.9, 0.9, variant("reference", 1.0))), "swiglu", device="cpu")
    assert (goal.value, goal.verdict) == (None, "not measured")
    assert "CPU says nothing" in goal.reason


def test_the_table_shows_figures_reasons_and_verdicts():
    fast, plain = variant("triton", 1.0, peak_memory_mib=12.0), variant("reference", 2.0)
    absent = VariantRecord("liger", rival=True, reason="Liger is not installed")
    record = record_of(swiglu(0.9, 0.8, fast, plain, absent))
    record.goals = goals(record, "cuda")
    _, case, judged = tables(record)
    assert row(case, "triton")[1:] == ["1.000", "1.000-1.000", "2.00", "90.0 % 80.0 %", "12", ""]
    assert row(case, "reference")[3] == "1.00"
    assert row(case, "liger")[-1] == "Liger is not installed"
    assert row(judged, "swiglu") == [
        "at least 85% of the copy bandwidth, forward and backward", "0.800", "not met",
        "triton: 90% forward, 80% backward",
    ]  # fmt: skip
