"""From which width on fp8 pays, and what its casts add to a step: from the times of a record, and only where meant."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litespark.benchmarks.ops.fp8 import WIDTHS
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

REASON = "a device of type cpu has no fp8 units"


def time(milliseconds):
    return TimeRecord(milliseconds, milliseconds, milliseconds, 5)


def width(size, **times):
    return WidthRecord(size, [YardstickRecord(name, time(each)) for name, each in times.items()])


def test_fp8_pays_from_where_it_is_faster_at_every_larger_width_too():
    widths = [width(size, bf16=10, delayed=each) for size, each in ((768, 9), (1024, 12), (2048, 9), (3072, 8))]
    assert least_paying(widths, "delayed") == 2048
    assert least_paying(list(reversed(widths)), "delayed") == 2048
    assert least_paying([*widths, width(4096, bf16=10, delayed=10)], "delayed") is None
    assert least_paying(widths, "tensorwise") is None
    assert least_paying([], "delayed") is None
    assert list(WIDTHS) == sorted(WIDTHS)


def record_of(cases=(), **more):
    return OpsRecord(provenance("H200"), "llama3b", 4, 4096, 1.0, ["fp8"], cases=list(cases), layers=28, **more)


def cases_of(norm=0.5, casts=0.1):
    def case(name, **times):
        return CaseRecord(
            "fp8",
            name,
            "",
            variants=[VariantRecord(each, False, True, time(ms), time(ms)) for each, ms in times.items()],
        )

    return [case(NORM, bf16=0.48, fused=norm), case(SWIGLU, bf16=0.9, fused=0.91), case(CASTS, delayed=casts),
            case(WEIGHTS, bf16=0.1, delayed=0.11)]  # fmt: skip


def casts_goal(record, device="cuda"):
    (found,) = [each for each in goals(record, device) if each.op == "fp8"]
    return found


@pytest.mark.parametrize(("norm", "casts", "value", "verdict"), [(0.5, 0.1, 4.48, "met"), (0.5, 0.2, 7.28, "not met"),
                                                                 (0.6, 0.1, 10.08, "not met")])  # fmt: skip
def test_the_goal_of_casts_adds_up_what_they_take_beyond_bf16(norm, casts, value, verdict):
    # 28 · (2 · (norm − 0.48) + 0.01 + casts + 0.01)
    goal = casts_goal(record_of(cases_of(norm, casts)))
    assert goal.value == pytest.approx(value)
    assert goal.verdict == verdict
    assert "SwiGLU +0.28 ms" in goal.reason


def test_the_goal_of_casts_is_not_measured_without_times_on_a_cpu_or_at_other_sizes():
    assert casts_goal(record_of(cases_of()), "cpu").verdict == "not measured"
    assert casts_goal(record_of(cases_of()[:2])).reason == "not measured yet"
    absent = [CaseRecord("fp8", NORM, "", variants=[VariantRecord("fused", reason=REASON)])]
    assert casts_goal(record_of(absent)).reason == REASON
    other = casts_goal(replace(record_of(cases_of()), rows=1))
    assert (other.value, other.verdict) == (None, "not measured")
    assert "llama3b with 4096 tokens, expected 16384" in other.reason
    assert casts_goal(replace(record_of(cases_of()), ops=["rope"])).reason == "it was not asked for"


def test_the_table_says_from_which_width_on_fp8_pays():
    widths = [width(768, bf16=10, delayed=12), width(2048, bf16=10, delayed=9)]
    pays = [PaysRecord("delayed", 2048), PaysRecord("tensorwise", None, "why")]
    made = tables(record_of(cases_of(), widths=widths, pays=pays))
    (table,) = [each for each in made if each.title.startswith("square linear layers, 16384 tokens")]
    assert table.header == ["width", "bf16", "delayed"]
    assert row(table, "2048") == ["10.000", "9.000"]
    assert "fp8 pays at 16384 tokens, delayed: from width 2048 on" in table.all_notes
    assert "fp8 pays at 16384 tokens, tensorwise: no width: why" in table.all_notes
    # beside bf16, not beside the reference
    (faster,) = [cells[4] for each in made for cells in each.cells if cells[0] == "fused" and cells[2] == "0.910"]
    assert faster == "0.99"
