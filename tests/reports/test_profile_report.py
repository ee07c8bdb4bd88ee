"""The table and the picture of a profile say what there is to win, and hide nothing."""

from litespark.metrics.records.profile import ClassRecord, KernelRecord
from litespark.metrics.records.step import RatesRecord
from litespark.reports.profile_report import picture, text
from tests.metrics.records.test_profile import profile_record


def _rows(record):
    lines = text(record).splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("class "))
    return [line.split() for line in lines[start + 1 : lines.index("", start)]]


def test_classes_stand_beside_their_floors_with_most_to_win_first():
    rows = _rows(profile_record())
    assert [row[0] for row in rows] == ["gemm", "other", "idle", "norm", "step"]
    # 6 ms of 10, floor 4; the longest kernel took 5 ms and ran twice in each of 4 steps
    assert rows[0] == ["gemm", "6.00", "60.0", "%", "4.00", "2.00", "5.00", "2.00x", "nvjet", "by", "aten::mm"]
    assert rows[1][:6] == ["other", "1.00", "10.0", "%", "-", "1.00"]
    assert rows[-1] == ["step", "10.0", "100", "%", "5.50", "4.50"]


def test_it_says_what_the_profiler_costs_and_what_the_floor_is_made_of():
    said = text(profile_record())
    assert "a step under the profiler takes 10.0 ms, without it 9.50 ms" in said
    assert "products 2.000 MFLOP/s, attention 3.000 MFLOP/s, copies 4.000 GB/s" in said
    assert "kernels of the GPU" in said
    assert "below its floor" not in said
    without = text(profile_record(rates=RatesRecord(2e6, None, 4e9)))
    assert "attention that of products" in without


def test_a_class_below_its_floor_is_pointed_at():
    classes = profile_record().classes
    classes[1] = ClassRecord("gemm", 6.0, 7.0)
    assert "below its floor: gemm: the step reached more than the rates" in text(profile_record(classes=classes))


def test_without_rates_there_are_no_floors():
    classes = [ClassRecord(each.kernel_class, each.milliseconds) for each in profile_record().classes]
    rows = _rows(profile_record(classes=classes))
    assert rows[0][:6] == ["gemm", "6.00", "60.0", "%", "-", "6.00"]
    assert "not measured" in " ".join(rows[-1])


def test_a_long_name_keeps_both_ends():
    name = "void at::native::vectorized_elementwise_kernel<4, " + "x" * 100 + "MulFunctor<float>>"
    classes = [ClassRecord("other", 10.0, None, [KernelRecord(name, None, 10.0, 4)]), ClassRecord("idle", 0.0, 0.0)]
    said = text(profile_record(classes=classes))
    assert "void at::native::vectorized" in said
    assert "MulFunctor<float>>" in said
    assert name not in said


def test_the_picture_is_drawn(tmp_path):
    path = tmp_path / "folder" / "profile.png"
    picture(profile_record(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
