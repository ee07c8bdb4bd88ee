"""The text of a benchmark of whole steps says what the table cannot: what is absent, doubtful, or not the whole."""

from __future__ import annotations

import dataclasses

import pytest

from litespark.metrics.records.bench import DeviceState
from litespark.metrics.records.step import BASELINES, RatesRecord, StepModel
from litespark.reports.step_text import markdown, text
from tests.metrics.step_records import lost, ours, record, round_, standard, variant

BOTH = pytest.mark.parametrize("written", [text, markdown])


def line_of(said: str, start: str) -> str:
    return next(line for line in said.splitlines() if line.lstrip("-| ").startswith(start))


@BOTH
def test_a_row_has_its_figures(written):
    said = " ".join(line_of(written(record(standard(), ours())), "litespark ").replace("|", " ").split())
    assert said == (
        "litespark 480.0 (320.0 to 640.0) 20.00 33.00 624.0 kFLOP/s 6.24 % 7.10 % 6.24 % 31.2 % 81.25 mJ 36.0 120 "
        "10.00 50.0 % 2.0000 none 2/2"
    )


def test_columns_of_the_terminal_stand_under_their_names():
    lines = text(record(standard(), ours())).splitlines()
    (header,) = (line for line in lines if line.startswith("variant"))
    (row,) = (line for line in lines if line.startswith("litespark  "))
    assert header.index("MFU C") + len("MFU C") == row.index("6.24 %") + len("6.24 %")
    assert header.index("loss") + len("loss") == row.index("2.0000") + len("2.0000")


@BOTH
def test_ratios_are_given_over_all_baselines_together(written):
    said = written(record(standard(), ours()))
    for baseline in BASELINES:
        assert any(baseline in line and ("x (" in line or "no ratio" in line) for line in said.splitlines()), baseline
    assert "2.100 x (1.000 to 3.200, 2 rounds) tokens/s, 0.656 x" in said
    assert "no ratio: not part of this benchmark" in said


def test_baselines_are_not_held_against_baselines():
    assert "standard over" not in text(record(standard(), ours()))
    assert "liger over" in text(record(standard(), ours(), ours("liger", kind="huggingface")))


@BOTH
def test_ours_without_figures_still_has_its_four_lines(written):
    said = written(record(standard(), variant("litespark", lost(0, "failed"))))
    assert said.count("no ratio: litespark: failed: it broke") == 1
    assert said.count("no ratio") == 4


@BOTH
def test_one_round_is_one_round(written):
    asked = dataclasses.replace(record().protocol, rounds=1)
    bare = (variant("standard", round_(0, [40.0] * 4)), variant("litespark", round_(0, [20.0] * 4)))
    said = written(record(*bare, protocol=asked))
    assert "1 round asked for" in said
    assert "2.000 x (2.000 to 2.000, 1 round) tokens/s" in said


@BOTH
def test_a_model_that_was_cut_is_called_so(written):
    said = written(record(ours(), model=StepModel("llama30b", 10**9, 2, 60, 1300.0, 1480.0)))
    assert "2 of its 60 layers with embedding and head, NOT the whole model" in said
    assert "NOT the whole" not in written(record(ours()))


@BOTH
def test_doubts_are_written_out_and_marked_in_the_row(written):
    fast = variant("litespark", round_(0, [5.0] * 4, 1.0))
    said = written(record(standard(), fast))
    assert "litespark (!)" in said
    assert "(!) litespark: impossible: 2.00 times as fast as the floor" in said
    odd = [dataclasses.replace(each, loss=3.0) for each in ours().rounds]
    said = written(record(standard(), ours("third"), variant("litespark", *odd)))
    assert "(!) litespark: trained differently: its loss is +50.00 %" in said


@BOTH
def test_what_is_absent_has_a_reason(written):
    blind = variant("litespark", round_(0, [10.0] * 4), floor=[])
    said = written(
        record(
            blind,
            variant("liger", kind="huggingface", reason="Liger's kernels need a GPU"),
            variant("sdpa", lost(0, "out of memory"), lost(0, "out of memory", "full"), kind="huggingface"),
            rates=RatesRecord(),
            gpu=False,
        )
    )
    for reason in (
        "liger: Liger's kernels need a GPU",
        "sdpa: out of memory, also with recompute full",
        "set metrics.peak_flops",
        "J/token: no counter",
        "peak MiB: measured on GPUs only",
        "floor: not known for litespark: it is AdamW's alone, and needs the rates of the precision",
    ):
        assert reason in said, reason
    row = [cell for cell in line_of(said, "litespark ").replace("|", " ").split() if cell == "-"]
    assert len(row) == 9


@BOTH
def test_a_round_that_failed_is_named_beside_those_that_did_not(written):
    said = written(record(variant("litespark", round_(0, [20.0] * 4), lost(1, "failed", error="exploded"))))
    assert "litespark: failed: exploded" in said
    assert "1/2" in line_of(said, "litespark ")


@BOTH
def test_recomputation_that_memory_asked_for_is_said(written):
    said = written(record(variant("litespark", lost(0, "out of memory"), round_(0, [20.0] * 4, recompute="swiglu"))))
    assert "litespark: out of memory with recompute none, measured with swiglu" in said


@BOTH
def test_the_state_of_the_device_is_given(written):
    cool, hot = DeviceState(1980.0, 2619.0, 41.0, 700.0, []), DeviceState(1750.0, 2619.0, 66.0, 700.0, ["sw_power_cap"])
    said = written(record(variant("litespark", round_(0, [20.0] * 4, before=cool, after=hot))))
    assert "SM clock 1750 to 1980 MHz, temperature 41 to 66 °C, clocks held down by sw_power_cap" in said
    assert "driver 999.1, power limit 700.0 W" in said


@BOTH
def test_what_was_asked_and_what_is_there(written):
    assert "2 rounds asked for, all there" in written(record(ours()))
    assert "2 rounds asked for, NOT all there" in written(record(ours(), complete=False))
    assert "data.document_mask=false for all" in written(record(standard()))
    assert "data.document_mask" not in written(record(ours()))


@BOTH
@pytest.mark.parametrize("step_ms, verdict", [(20.0, "met"), (25.0, "NOT met")])
def test_the_goal_of_train_py_is_printed_with_its_verdict(written, step_ms, verdict):
    bare = variant("litespark", round_(0, [20.0] * 4))
    trainer = variant("train.py", round_(0, [step_ms] * 4), kind="train.py")
    said = written(record(bare, trainer))
    assert f"goal: train.py at 97.0 % of litespark's tokens/s on a GPU, {2000 / step_ms:.1f}"[:-1] in said.replace(
        "100 %", "100.0 %"
    )
    assert said.endswith(f"reached: {verdict}")
    assert written(record(bare)).endswith("not measured (train.py is not part of this benchmark)")


@BOTH
def test_a_record_without_a_single_process_is_still_written(written):
    assert "litespark: not run yet" in written(record(variant("litespark"), complete=False))
