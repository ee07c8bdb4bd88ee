"""Every figure, ratio and verdict of whole steps against numbers worked out by hand, and the tables of them."""

from dataclasses import replace

import pytest

from litespark.metrics.records.origin import DeviceState
from litespark.metrics.records.step import BASELINES, RatesRecord, StepModel, StepRecord
from litespark.metrics.step_round import Interval
from litespark.reports.step import succeeded, tables, trainer_goal
from litespark.reports.step_rows import Ratio, failures, ratios, rows
from tests.metrics.step_records import lost, ours, record, round_, standard, variant
from tests.reports.rows import notes, row


def of(found: StepRecord, name: str = "litespark"):
    return rows(found)[name]


def test_the_table_has_every_figure_of_a_row():
    """480 tokens/s of 640 and 320; 1300 FLOPs a token causal and 1480 full; peak 1e7, products 2e6 FLOP/s."""
    assert row(tables(record(standard(), ours()))[0], "litespark") == [
        "480.0 (320.0 to 640.0)", "20.00", "33.00", "624.0 kFLOP/s", "6.24 %", "7.10 %", "6.24 %", "31.2 %",
        "81.25 mJ", "36.0", "120", "2.0000", "10.00", "50.0 %", "none", "2/2",
    ]  # fmt: skip


def test_documents_count_as_they_were_masked():
    """12 of 20 pairs: 1.5 keys on average, so 1180 FLOPs a token, 1540 with a second forward, 8.4 ms of roofline."""
    masked = [round_(0, [20.0] * 4, 1.0, attention_pairs=48, recompute="full")]
    found = of(record(variant("litespark", *masked)))
    shares = [found.repeats.median(name) for name in ("mfu_causal", "hfu_causal", "mfu_full")]
    assert shares == pytest.approx([400 * 1180 / 1e7, 400 * 1540 / 1e7, 400 * 1480 / 1e7])
    assert found.roofline_ms == pytest.approx(8.4)


def test_one_round_that_passes_the_product_refutes_its_rate():
    found = record(variant("litespark", round_(0, [1.0] * 4), round_(1, [20.0] * 4), roofline=[]))
    (table, *_) = tables(found)
    assert row(table, "litespark")[7] == "-"
    assert "of matmul: training was faster than the matmul probe" in notes(table)


def test_what_is_absent_has_a_reason():
    blind = variant("litespark", round_(0, [10.0] * 4), roofline=[])
    liger = variant("liger", kind="huggingface", reason="Liger's kernels need a GPU")
    sdpa = variant("sdpa", lost(0, "out of memory"), lost(0, "out of memory", "full"), kind="huggingface")
    (table, *_) = tables(record(blind, liger, sdpa, variant("later"), rates=RatesRecord(), gpu=False))
    assert [cells[0] for cells in table.cells] == ["litespark"]
    assert row(table, "litespark").count("-") == 9
    for reason in (
        "liger: Liger's kernels need a GPU",
        "sdpa: out of memory, also with recompute full",
        "later: not run yet",
        "MFU C, MFU F, HFU C: no peak is known for this device; set metrics.peak_flops",
        "J/token: no counter",
        "peak MiB: measured on GPUs only",
        "roofline ms: it is AdamW's alone, and needs the rates of the precision",
    ):
        assert reason in notes(table), reason


def test_rounds_of_the_recomputation_that_fitted_count():
    found = record(variant("litespark", lost(0, "out of memory"), round_(0, [20.0] * 4, recompute="swiglu")))
    assert "litespark: out of memory with recompute none, measured with swiglu" in notes(tables(found)[0])
    changed = variant("litespark", round_(0, [20.0] * 4), round_(1, [10.0] * 4, recompute="full"))
    assert of(record(changed)).tokens_per_second == Interval(800.0, 800.0, 800.0, 1)


def test_the_protocol_and_the_device_are_told():
    cool, hot = DeviceState(1980.0, 2619.0, 41.0, 700.0, []), DeviceState(1750.0, 2619.0, 66.0, 700.0, ["sw_power_cap"])
    cut = StepModel("llama30b", 10**9, 2, 60, 1300.0, 1480.0)
    measured = variant("litespark", round_(0, [20.0] * 4, before=cool, after=hot))
    said = notes(tables(record(standard(), measured, model=cut))[0])
    for part in (
        "SM clock 1750 to 1980 MHz, temperature 41 to 66 °C, clocks held down by sw_power_cap",
        "driver 999.1, power limit 700.0 W",
        "2 of its 60 layers with embedding and head, NOT the whole model",
        "rounds asked for: 2, NOT all there",
        "data.document_mask=false for all",
    ):
        assert part in said, part
    whole = notes(tables(record(ours()))[0])
    assert "rounds asked for: 2, all there" in whole
    assert not any(word in whole for word in ("NOT", "data.document_mask"))


def test_a_ratio_is_taken_round_by_round():
    """3.2 and 1, so 2.1; the ratio of the two medians would be 1.85."""
    made = record(standard(), ours())
    found = ratios(made, "litespark")["standard"]
    assert isinstance(found, Ratio)
    assert found.tokens_per_second == Interval(pytest.approx(2.1), pytest.approx(1.0), pytest.approx(3.2), 2)
    shown = row(tables(made)[1], "litespark", "standard")
    assert shown[:3] == ["2.100 (1.000 to 3.200)", "0.656 (0.312 to 1.000)", "2"]
    assert [cells[1] for cells in tables(made)[1].cells] == list(BASELINES)


def test_in_place_of_a_ratio_stands_its_reason():
    without = variant("compiled_fp8", kind="huggingface", reason="no fp8 units")
    blind = variant("standard", round_(0, [40.0] * 4), kind="huggingface")
    found = ratios(record(blind, without, ours()), "litespark")
    assert found["compiled"] == "not part of this benchmark"
    assert found["compiled_fp8"] == "compiled_fp8: no fp8 units"
    assert (found["standard"].joules_per_token, found["standard"].joules_reason) == (None, "no counter")
    # ours without figures still has its four rows, and baselines are not held against baselines
    dead = tables(record(standard(), ours("liger", kind="huggingface"), variant("litespark", lost(0, "failed"))))[1]
    assert [cells[0] for cells in dead.cells] == ["liger"] * 4 + ["litespark"] * 4
    assert row(dead, "litespark", "standard")[-1] == "no ratio: litespark: failed: it broke"


def changed(**values):
    return ours(rounds=[replace(each, **values) for each in ours().rounds])


@pytest.mark.parametrize(
    ("figure", "near", "what"),
    [
        ("loss", (2.0 * 1.009, 2.0 * 1.011), "its loss"),
        ("train_loss", ([2.0] * 4 + [2.09], [2.0] * 4 + [2.11]), "the mean loss of its training steps"),
    ],
)
def test_a_row_that_trained_differently_is_marked_and_gets_no_ratio(figure, near, what):
    alike, far = (record(standard(), ours("third"), changed(**{figure: value})) for value in near)
    assert of(alike).doubts == ()
    assert isinstance(ratios(alike, "litespark")["standard"], Ratio)
    (doubt,) = of(far).doubts
    assert doubt.startswith(f"trained differently: {what} is +1.1")
    assert doubt in ratios(far, "litespark")["standard"]
    assert of(far, "standard").doubts == ()
    assert f"(!) litespark: {doubt}" in notes(tables(far)[0])


def test_losses_of_two_rows_alone_are_compared():
    found = record(standard(), changed(loss=2.0 * 1.015))  # each is within the bound of the middle between them
    assert of(found).doubts == ()
    assert ratios(found, "litespark")["standard"] == "trained differently: losses 2.0300 and 2.0000"
    without = record(standard(), ours("third"), changed(train_loss=[]))  # train.py has its windows only
    assert isinstance(ratios(without, "litespark")["standard"], Ratio)


def test_a_row_faster_than_its_roofline_is_impossible_and_gets_no_ratio():
    assert of(record(standard(), variant("litespark", round_(0, [9.8] * 4, 1.0)))).doubts == ()  # rates are measured
    found = record(standard(), variant("litespark", round_(0, [9.0] * 4, 1.0)))
    assert of(found).doubts[0].startswith("impossible: 1.11 times as fast as the roofline")
    assert "impossible" in ratios(found, "litespark")["standard"]


def test_only_rounds_that_were_not_made_up_for_have_failed():
    mended = variant("mended", lost(0, "failed"), round_(0, [10.0] * 4))
    too_large = variant("too_large", lost(0, "out of memory", "full"))
    broken = variant("broken", round_(0, [10.0] * 4), lost(1, "failed", error="it broke late"))
    found = record(mended, too_large, broken, variant("cannot", reason="no GPU"))
    assert failures(found) == {"broken": "failed: it broke late"}
    assert of(found, "broken").tokens_per_second is not None
    assert "broken: failed: it broke late" in notes(tables(found)[0])
    assert not succeeded(found)


def trainer(*step_ms: float):
    return variant("train.py", *(round_(n, [ms] * 4) for n, ms in enumerate(step_ms)), kind="train.py")


@pytest.mark.parametrize(("step_ms", "verdict"), [([10.3], "met"), ([10.4], "NOT met"), ([10.0, 12.5], "NOT met")])
def test_train_py_has_to_keep_up_on_a_gpu_by_the_median_of_the_rounds(step_ms, verdict):
    bare = variant("litespark", round_(0, [10.0] * 4), round_(1, [10.0] * 4), roofline=[])
    found = record(bare, trainer(*step_ms))
    assert trainer_goal(found).verdict == verdict
    assert succeeded(found) is (verdict == "met")
    assert tables(found)[-1].cells[0][2] == verdict
    on_cpu = record(bare, trainer(*step_ms), gpu=False)
    assert trainer_goal(on_cpu)[2:] == ("not measured", "the goal is one for GPUs")
    assert succeeded(on_cpu)


def test_the_goal_is_not_measured_where_one_of_the_two_has_no_figures():
    assert trainer_goal(record(ours())).reason == "train.py is not part of this benchmark"
    assert trainer_goal(record(trainer(10.0))).reason == "litespark is not part of this benchmark"
    dead = trainer_goal(record(ours(), variant("train.py", lost(0, "failed"), kind="train.py")))
    assert (dead.verdict, dead.reason) == ("not measured", "train.py: failed: it broke")
