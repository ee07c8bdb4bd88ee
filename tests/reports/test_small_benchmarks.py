"""The tables of the benchmarks of data and of profiles."""

import re
from dataclasses import replace

from litespark.metrics.records.profile import ClassRecord, KernelRecord
from litespark.metrics.records.step import RatesRecord
from litespark.reports import data, profile
from tests.metrics.data_records import data_record
from tests.metrics.records.hand_made import profile_record
from tests.reports.rows import notes, row


def test_rows_of_data_hold_the_medians_of_the_rounds():
    preparing, streaming = data.tables(data_record())
    # 1000 tokens in 9 and 12 s, 5 MB in 9 and 12 s
    assert row(preparing, "bare tokenizer", "1") == ["97.22", "0.4861", "-"]
    assert row(preparing, "litespark prepare", "2") == ["168.3", "0.8333", "0.775 (0.750 to 0.800)"]
    assert row(streaming, "litespark", "2") == ["yes", "7.000 M", "0.333", "200 ms"]
    assert row(streaming, "litespark", "in process", "no") == ["80.00 M", "-", "10 ms"]
    assert "10 documents, vocabulary 32,000, a CPU, 2 cores, 2 rounds" in notes(preparing)
    assert "2 rounds, NOT complete" in notes(data.tables(replace(data_record(), streaming=[]))[0])


def test_kernel_classes_stand_beside_their_rooflines_with_most_to_win_first():
    made = profile.table(profile_record())
    assert [cells[0] for cells in made.cells] == ["gemm", "other", "idle", "norm", "step"]
    # 6 ms of 10, roofline 4; the longest kernel took 5 ms and ran twice in each of 4 steps
    assert row(made, "gemm") == ["6.00", "60.0 %", "4.00", "2.00", "5.00 2.00x nvjet by aten::mm"]
    assert row(made, "other")[:4] == ["1.00", "10.0 %", "-", "1.00"]
    assert row(made, "step") == ["10.0", "100 %", "5.50", "4.50", ""]
    assert "products 2.000 MFLOP/s, attention 3.000 MFLOP/s, copies 4.000 GB/s" in notes(made)
    assert "below its roofline" not in notes(made)
    (axes,) = profile.figure(profile_record()).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gemm", "other", "idle", "norm"]
    assert axes.texts[0].get_text() == "6.00 (roofline 4.00)"


def test_a_profile_points_at_what_is_doubtful_or_unknown():
    classes = profile_record().classes
    below = [*classes[:1], ClassRecord("gemm", 6.0, 7.0), *classes[2:]]
    assert "below its roofline: gemm: the step reached more" in notes(profile.table(profile_record(classes=below)))
    bare = [ClassRecord(each.kernel_class, each.milliseconds) for each in classes]
    made = profile.table(profile_record(classes=bare, rates=RatesRecord(2e6, None, 4e9)))
    assert "attention that of products" in notes(made)
    assert row(made, "step")[2:4] == ["-", "-"]
    kernel = KernelRecord("void at::native::" + "x" * 100 + "MulFunctor<float>>", None, 10.0, 4)
    long = [ClassRecord("other", 10.0, None, [kernel]), ClassRecord("idle", 0.0, 0.0)]
    shown = row(profile.table(profile_record(classes=long)), "other")[-1]
    assert re.search(r"void at::native::x{5,20}…x{5,20}MulFunctor<float>>$", shown), shown
