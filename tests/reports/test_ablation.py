"""What an ablation's text and pictures say, of a whole one and of one with gaps."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from litespark.metrics.ablation_table import Combination, Repeat, from_record, table
from litespark.metrics.records.step import StepModel
from litespark.reports.ablation import cells, header, markdown, save_waterfall, text, waterfall
from tests.metrics.ablation_records import measured, record

BOTH = pytest.mark.parametrize("written", [text, markdown])


def row(said: str, start: str) -> str:
    """The line that begins with `start`, its cells apart by one space."""
    line = next(line for line in said.splitlines() if line.lstrip("-| ").startswith(start))
    return " ".join(line.replace("|", " ").split())


def bars(figure: Figure, panel: int = 0) -> list[tuple[float, float]]:
    """From where to where each bar goes."""
    found = [each for each in figure.axes[panel].containers if isinstance(each, BarContainer)]
    patches = [patch for container in found for patch in container]
    return [
        (round(patch.get_y(), 6), round(patch.get_y() + patch.get_height(), 6))
        for patch in sorted(patches, key=lambda each: each.get_x())
    ]


def words(figure: Figure) -> list[str]:
    return [each.get_text() for axes in figure.axes for each in axes.texts]


@BOTH
def test_each_switch_has_its_row(written):
    said = written(record())
    assert row(said, "baseline ") == (
        "baseline 150.0 (100.0 to 200.0) — — 1.95 % (1.30 % to 2.60 %) 150.0 mJ (100.0 mJ to 200.0 mJ) — 1,001 —"
    )
    assert row(said, "+ attention") == (
        "+ attention 225.0 (200.0 to 250.0) 1.625 (1.250 to 2.000) 43.8 % (37.5 % to 50.0 %) 2.92 % (2.60 % to 3.25 %) "
        "87.50 mJ (75.00 mJ to 100.0 mJ) 0.625 (0.500 to 0.750) 1,001 +2.0e-03 (+1.0e-03 to +3.0e-03)"
    )
    assert "+ recompute 650.0 (500.0 to 800.0) 2.000 50.0 %" in row(said, "+ recompute")


@BOTH
def test_the_whole_and_what_was_switched_are_said(written):
    said = written(record())
    assert "target over baseline: tokens/s × 4.500 (4.000 to 5.000); J/token × 0.375 (0.250 to 0.500)" in said
    assert "loss: ops.linear_cross_entropy reference → auto, ops.rms_norm reference → torch" in said
    assert "median of 2 rounds (lowest to highest), compared round by round" in said
    assert "2 rounds asked for, all there" in said


@BOTH
def test_what_is_absent_has_a_reason_and_no_number(written):
    made = record(energy=False, gpu=False, plus_attention=[])
    made.step.complete = False
    said = written(made)
    assert "J/token not measured" in said
    assert "J/token: no counter" in said
    assert "plus_attention: not run yet" in said
    assert "NOT all there: the same command continues" in said
    assert row(said, "+ attention").startswith("+ attention — — 43.8 %")
    assert "MFU C of matmul" in said
    assert not re.search(r"\b(None|nan|inf)\b", said)


def test_a_cut_model_is_said():
    made = record()
    made.step.model = StepModel("large", 10, 2, 60, 1300.0, 1480.0)
    assert "large, 2 of its 60 layers, NOT the whole model" in text(made)


def test_what_auto_came_to_is_said_of_both_ends():
    def detailed(detail: str) -> list:
        return [measured(number, 100.0, 1.0, 2.0, detail=f"{detail}; not triton: no GPU") for number in (0, 1)]

    said = text(record(baseline=detailed("ops: attention reference"), target=detailed("ops: attention sdpa")))
    assert "baseline ran ops: attention reference\n" in said
    assert "target ran ops: attention sdpa\n" in said


def test_columns_of_the_terminal_stand_under_their_names():
    lines = text(record()).splitlines()
    names, first = next(pair for pair in pairwise(lines) if pair[0].startswith("switched on"))
    assert names.index("tokens/s") == first.index("150.0")


def test_the_markdown_shows_the_picture_that_is_named():
    assert "![tokens/s from the baseline to the target](there.png)" in markdown(record(), "there.png")
    assert "![" not in markdown(record())


def test_every_row_has_every_column():
    found = from_record(record())
    assert {len(each) for each in cells(found)} == {len(header(found))}


def test_the_waterfall_goes_from_the_baseline_to_the_target():
    """Medians: 150, 225, 325 and 650 tokens/s."""
    figure = waterfall(from_record(record()))
    assert bars(figure) == [(0, 150), (150, 225), (225, 325), (325, 650), (0, 650)]
    assert [each for each in words(figure) if each.startswith("×")] == ["× 1.62", "× 1.43", "× 2"]
    ticks = [each.get_text() for each in figure.axes[-1].get_xticklabels()]
    assert ticks == ["baseline", "+ attention", "+ loss", "+ recompute", "target"]


def test_whiskers_go_from_the_lowest_repeat_to_the_highest_and_fit_the_picture():
    """Attention added 50 and 100 tokens/s to the baseline's 150."""
    axes = waterfall(from_record(record())).axes[0]
    found = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    spans = [tuple(line[:, 1]) for each in found for line in each.lines[2][0].get_segments()]
    assert spans[0] == pytest.approx((100, 200))
    assert (200, 250) in [pytest.approx(span) for span in spans]
    assert max(high for _, high in spans) < axes.get_ylim()[1]


def test_joules_have_a_panel_where_they_were_read():
    with_energy = waterfall(from_record(record()))
    assert [high for _, high in bars(with_energy, 1)] == [0.15, 0.0875, 0.0875, 0.05, 0.05]
    assert len(waterfall(from_record(record(energy=False))).axes) == 1


def test_a_loss_of_speed_goes_down_in_another_colour():
    slower = record(plus_attention=[measured(number, 640.0, 3.2, 2.0) for number in (0, 1)])
    axes = waterfall(from_record(slower)).axes[0]
    patches = sorted((p for each in axes.containers if isinstance(each, BarContainer) for p in each),
                     key=lambda each: each.get_x())  # fmt: skip
    assert patches[1].get_height() == -100
    assert patches[1].get_facecolor() != patches[2].get_facecolor()


def test_what_was_not_measured_has_no_bar_and_says_so():
    figure = waterfall(from_record(record(plus_attention=[])))
    assert bars(figure) == [(0, 150), (325, 650), (0, 650)]
    assert words(figure).count("not compared") == 2
    nothing = waterfall(table(["a"], {frozenset(): Combination("baseline")}, repeat="seed"))
    assert words(nothing) == ["not measured", "not compared", "not measured"]


def test_a_picture_is_written(tmp_path):
    one = {frozenset(): 10.0, frozenset({"a"}): 20.0}
    combinations = {on: Combination("x", (Repeat(1, tokens_per_second=speed),)) for on, speed in one.items()}
    path = save_waterfall(table(["a"], combinations, repeat="seed"), tmp_path / "new" / "picture.png", title="tiny")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert len(path.read_bytes()) > 5000


def test_a_switch_that_changed_nothing_is_marked():
    one = {frozenset(): 10.0, frozenset({"a"}): 20.0}
    combinations = {on: Combination("x", (Repeat(1, tokens_per_second=speed),)) for on, speed in one.items()}
    found = table(["a"], combinations, repeat="seed", unchanged=["a"])
    assert cells(found)[1][0] == "+ a (=)"
    assert "× 2\nsame backends" in words(waterfall(found))
    (switch,) = (patch for patch in waterfall(found).axes[0].patches if patch.get_y() == 10)
    assert switch.get_facecolor()[:3] == pytest.approx((187 / 255,) * 3)
