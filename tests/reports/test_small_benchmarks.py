"""The tables of the benchmarks of data, profiles and ops: what was measured, and which goals were met."""

from __future__ import annotations

from dataclasses import replace

from litespark.metrics.records.data import ENCODE, OURS, MemoryRun
from litespark.metrics.records.profile import ClassRecord, KernelRecord
from litespark.metrics.records.step import RatesRecord
from litespark.reports import data, profile
from tests.metrics.data_records import STREAMS, data_record
from tests.metrics.records.hand_made import profile_record
from tests.reports.rows import notes, row


def test_rows_of_data_hold_the_medians_of_the_rounds():
    preparing, streaming, _ = data.tables(data_record())
    # 1000 tokens in 9 and 12 s, 5 MB in 10.5 s
    assert row(preparing, "bare tokenizer", "1") == ["97.22", "0.4762", "9.2 s", "100.0 MB"]
    assert row(preparing, "litgpt", "2") == ["75.75", "0.3750", "20.0 s", "100.0 MB"]
    assert row(streaming, "litespark", "2") == ["yes", "7.000 M", "200 ms"]
    assert row(streaming, "litespark", "in process", "no") == ["80.00 M", "10 ms"]
    assert "10 documents and 8 shards of .jsonl.zst, vocabulary 32,000, a CPU, 2 cores, 2 rounds" in notes(preparing)


def test_goals_of_data_have_their_range_and_verdict():
    assert data.goals(data_record()).cells == [
        ["share of the bare tokenizer on 1 core", "0.950 (0.900 to 1.00)", "at least 0.85", "met"],
        ["its share of processor time on 1 core", "0.949 (0.947 to 0.950)", "", ""],
        ["share of the bare tokenizer on 2 cores", "0.775 (0.750 to 0.800)", "at least 0.85", "NOT met"],
        ["its share of processor time on 2 cores", "0.818", "", ""],
        ["tokens/s over litgpt 0.5.13 with LitData 0.2.76", "2.22", "at least 1.5", "met"],
        ["peak memory with 1 and 4 times the text, 100.0 MB and 110.0 MB", "1.10", "ratio at most 1.15", "met"],
        ["tokens/s through 2 workers", "7.000 M", "at least 5.000 M", "met"],
        ["cost of shuffling in process", "25.0 %", "", ""],
    ]


def test_a_verdict_is_that_of_the_median_not_of_the_best_round():
    record = data_record(streams=[(*each[:3], each[3] // 2, each[4]) for each in STREAMS])
    record.memory[1] = MemoryRun(4, 24.0, 4040, 120_000_000)
    places = {(run.variant, run.cores, run.round): place for place, run in enumerate(record.preparation)}
    place = places[ENCODE, 2, 1]
    record.preparation[place] = replace(record.preparation[place], seconds=5.4)
    goals = data.goals(record)
    assert row(goals, "share of the bare tokenizer on 2 cores")[::2] == ["0.825 (0.750 to 0.900)", "NOT met"]
    assert row(goals, "tokens/s through 2 workers")[::2] == ["3.500 M", "NOT met"]
    assert row(goals, "peak memory with 1 and 4 times the text, 100.0 MB and 120.0 MB")[::2] == ["1.20", "NOT met"]
    place = next(place for place, run in enumerate(record.streaming) if (run.reader, run.workers) == (OURS, 2))
    record.streaming[place] = replace(record.streaming[place], tokens=40_000_000)
    assert row(data.goals(record), "tokens/s through 2 workers")[2] == "met"


def test_data_that_is_absent_says_why_and_is_never_a_number():
    record = replace(data_record(litgpt=False), memory=[], streaming=[])
    goals = data.goals(record)
    assert row(goals, "tokens/s over litgpt") == ["not measured", "at least 1.5", "not measured"]
    assert "litgpt: it is not installed" in notes(goals)
    assert row(goals, "peak memory")[::2] == ["not measured", "not measured"]
    assert row(goals, "tokens/s through 2 workers")[::2] == ["not measured", "not measured"]
    assert "2 rounds, NOT complete" in notes(data.tables(record)[0])


def test_kernel_classes_stand_beside_their_rooflines_with_most_to_win_first(tmp_path):
    made = profile.table(profile_record())
    assert [cells[0] for cells in made.cells] == ["gemm", "other", "idle", "norm", "step"]
    # 6 ms of 10, roofline 4; the longest kernel took 5 ms and ran twice in each of 4 steps
    assert row(made, "gemm") == ["6.00", "60.0 %", "4.00", "2.00", "5.00 2.00x nvjet by aten::mm"]
    assert row(made, "other")[:4] == ["1.00", "10.0 %", "-", "1.00"]
    assert row(made, "step") == ["10.0", "100 %", "5.50", "4.50", ""]
    assert "a step under the profiler takes 10.0 ms, without it 9.50 ms" in notes(made)
    assert "products 2.000 MFLOP/s, attention 3.000 MFLOP/s, copies 4.000 GB/s" in notes(made)
    assert "below its roofline" not in notes(made)
    profile.picture(profile_record(), tmp_path / "folder" / "profile.png")
    assert (tmp_path / "folder" / "profile.png").read_bytes().startswith(b"\x89PNG")


def test_a_profile_points_at_what_is_doubtful_or_unknown():
    classes = profile_record().classes
    below = [*classes[:1], ClassRecord("gemm", 6.0, 7.0), *classes[2:]]
    assert "below its roofline: gemm: the step reached more" in notes(profile.table(profile_record(classes=below)))
    bare = [ClassRecord(each.kernel_class, each.milliseconds) for each in classes]
    made = profile.table(profile_record(classes=bare, rates=RatesRecord(2e6, None, 4e9)))
    assert "attention that of products" in notes(made)
    assert row(made, "step")[2:4] == ["-", "-"]
    name = "void at::native::vectorized_elementwise_kernel<4, " + "x" * 100 + "MulFunctor<float>>"
    long = [ClassRecord("other", 10.0, None, [KernelRecord(name, None, 10.0, 4)]), ClassRecord("idle", 0.0, 0.0)]
    shown = row(profile.table(profile_record(classes=long)), "other")[-1]
    assert "void at::native::vectorized" in shown
    assert "MulFunctor<float>>" in shown
    assert name not in shown
