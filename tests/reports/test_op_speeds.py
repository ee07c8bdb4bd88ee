"""The tables of `bench ops`: figures, reasons, and from which width on fp8 pays."""

from litespark.benchmarks.ops.fp8_runs import CASTS, SWIGLU
from litespark.metrics.records.ops import (
    CaseRecord,
    FailureRecord,
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
    return OpsRecord(provenance("H200"), "llama3b", 4, 4096, 1.0, ops, cases=list(cases), **more)


def swiglu(forward, backward, *variants):
    """A case in which a variant of 1 ms reaches these shares of the copy bandwidth."""
    work = round(forward * 1e9 / 3), round(backward * 2e9 / 3)
    return CaseRecord("swiglu", "swiglu", "8 tokens", *work, copy_bytes_per_second=1e12, variants=list(variants))


def test_the_table_shows_figures_and_reasons():
    fast, plain = variant("triton", 1.0, peak_memory_mib=12.0), variant("reference", 2.0)
    absent = VariantRecord("liger", rival=True, reason="Liger is not installed")
    record = record_of(swiglu(0.9, 0.8, fast, plain, absent))
    record.failures = [FailureRecord("rope", "KeyError: 'rope'")]
    _, case, failed = tables(record)
    assert row(case, "triton")[1:] == ["1.000", "1.000-1.000", "2.00", "90.0 % 80.0 %", "12", ""]
    assert row(case, "reference")[3] == "1.00"
    assert row(case, "liger")[-1] == "Liger is not installed"
    assert failed.all_notes == ["rope FAILED: KeyError: 'rope'"]


def width(size, **times):
    return WidthRecord(size, [YardstickRecord(name, time(each)) for name, each in times.items()])


def casts():
    def case(name, **times):
        variants = [VariantRecord(each, False, True, time(ms), time(ms)) for each, ms in times.items()]
        return CaseRecord("fp8", name, "", variants=variants)

    return [case(SWIGLU, bf16=0.9, fused=0.91), case(CASTS, delayed=0.1)]


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
