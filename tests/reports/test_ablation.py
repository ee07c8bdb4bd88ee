"""The columns of an ablation against cases worked by hand, what becomes of gaps, and its pictures."""

import pytest
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from litespark.metrics.step_round import Interval
from litespark.reports.ablation import Combination, ablation, from_record, of_record, waterfall
from tests.metrics.ablation_records import measured, record
from tests.metrics.step_records import lost
from tests.reports.rows import notes
from tests.reports.rows import row as cells


def same(interval: Interval | None, median: float, low: float, high: float) -> None:
    assert interval is not None
    assert (interval.median, interval.low, interval.high) == pytest.approx((median, low, high))


def test_each_switch_is_compared_round_by_round_with_the_row_before_and_the_target_without_it():
    found = from_record(record())
    assert [each.switch for each in found.rows] == [None, "attention", "loss", "recompute"]
    baseline, attention, loss, recompute = found.rows
    same(attention.gain, 1.625, 1.25, 2.0)  # 200/100 and 250/200, not 225/150
    same(attention.added, 75, 50, 100)
    same(attention.joules_ratio, 0.625, 0.5, 0.75)
    same(attention.loss_difference, 0.002, 0.001, 0.003)
    same(loss.loss_difference, 0.0, 0.0, 0.0)  # against the baseline, not against the row before
    same(found.gain, 4.5, 4.0, 5.0)
    same(found.joules_ratio, 0.375, 0.25, 0.5)
    assert baseline.gain is baseline.lost_without is baseline.loss_difference is None
    same(attention.lost_without, 0.4375, 0.375, 0.5)  # 250 of 500 and 500 of 800
    same(loss.lost_without, 0.2, 0.2, 0.2)
    same(recompute.lost_without, 0.5, 0.5, 0.5)  # the target without the last is the row before
    made = of_record(record())
    assert cells(made, "+ attention") == [
        "225.0 (200.0 to 250.0)", "1.625 (1.250 to 2.000)", "43.8 % (37.5 % to 50.0 %)", "2.92 % (2.60 % to 3.25 %)",
        "87.50 mJ (75.00 mJ to 100.0 mJ)", "0.625 (0.500 to 0.750)", "1,001", "+2.0e-03 (+1.0e-03 to +3.0e-03)",
    ]  # fmt: skip
    for part in (
        "target over baseline: tokens/s × 4.500 (4.000 to 5.000); J/token × 0.375 (0.250 to 0.500)",
        "loss: ops.linear_cross_entropy reference → auto, ops.rms_norm reference → torch",
        "median of 2 rounds (lowest to highest), compared round by round",
    ):
        assert part in notes(made), part


def test_what_is_absent_has_a_reason_and_no_number():
    made = of_record(record(energy=False, gpu=False, plus_attention=[]))
    assert "J/token: no counter" in notes(made)
    assert "plus_attention: not run yet" in notes(made)
    assert cells(made, "+ attention")[:3] == ["-", "-", "43.8 % (37.5 % to 50.0 %)"]
    assert "MFU C of matmul" in made.header
    _, attention, loss, recompute = from_record(record(plus_attention=[])).rows
    assert attention.gain is loss.gain is None
    same(recompute.gain, 2.0, 2.0, 2.0)


def test_only_rounds_that_both_have_are_compared():
    gain = from_record(record(plus_attention=[measured(1, 128.0, 2.4, 2.0)])).rows[1].gain
    assert (gain.median, gain.count) == (1.25, 1)
    assert from_record(record(plus_attention=[measured(2, 128.0, 2.4, 2.0)])).rows[1].gain is None


@pytest.mark.parametrize(
    ("rounds", "note"),
    [
        ([lost(0, "out of memory", each) for each in ("none", "full")], "out of memory, also with recompute full"),
        ([lost(0, "failed", error="ValueError: nothing")], "failed: ValueError: nothing"),
        ([measured(number, 80.0, 3.2, 2.5) for number in (0, 1)], "trained differently"),
        ([measured(number, 16.0, 3.2, 2.0) for number in (0, 1)], "impossible: "),  # the roofline is 10 ms a step
    ],
)
def test_what_cannot_be_compared_has_no_gain_and_says_why(rounds, note):
    _, attention, loss, recompute = from_record(record(plus_attention=rounds)).rows
    assert attention.gain is attention.joules_ratio is loss.gain is None
    assert any(note in each for each in attention.notes)
    assert recompute.gain is not None


def test_a_switch_with_which_the_same_backends_ran_is_marked():
    def detailed(attention: str, milliseconds: float) -> list:
        detail = f"ops: attention {attention}; not triton: no GPU"
        return [measured(number, milliseconds, 3.2, 2.0, detail=detail) for number in (0, 1)]

    made = record(baseline=detailed("reference", 160.0), plus_attention=detailed("reference", 150.0))
    assert [each.unchanged for each in from_record(made).rows] == [False, True, False, False]
    said = notes(of_record(made))
    assert "attention: the same backends ran with it and without it, so its figures are noise" in said
    assert "baseline ran ops: attention reference\n" in said
    assert cells(of_record(made), "+ attention (=)")
    assert any(word.endswith("\nsame backends") for word in words(waterfall(from_record(made))))
    others = record(baseline=detailed("reference", 160.0), plus_attention=detailed("sdpa", 150.0))
    assert from_record(others).rows[1].notes == ()


def bars(figure: Figure, panel: int = 0) -> list[tuple[float, float]]:
    """From where to where each bar goes."""
    patches = sorted(figure.axes[panel].patches, key=lambda patch: patch.get_x())
    return [(round(patch.get_y(), 6), round(patch.get_y() + patch.get_height(), 6)) for patch in patches]


def words(figure: Figure) -> list[str]:
    return [each.get_text() for axes in figure.axes for each in axes.texts]


def test_the_waterfall_goes_from_the_baseline_to_the_target():
    """Medians: 150, 225, 325 and 650 tokens/s; attention added 50 and 100 to the baseline's 150."""
    figure = waterfall(from_record(record()))
    assert bars(figure) == [(0, 150), (150, 225), (225, 325), (325, 650), (0, 650)]
    assert [each for each in words(figure) if each.startswith("×")] == ["× 1.62", "× 1.43", "× 2.00"]
    ticks = [each.get_text() for each in figure.axes[-1].get_xticklabels()]
    assert ticks == ["baseline", "+ attention", "+ loss", "+ recompute", "target"]
    assert [high for _, high in bars(figure, 1)] == [0.15, 0.0875, 0.0875, 0.05, 0.05]
    axes = figure.axes[0]
    errors = [each for each in axes.containers if isinstance(each, ErrorbarContainer)]
    spans = [tuple(line[:, 1]) for each in errors for line in each.lines[2][0].get_segments()]
    assert (100, 200) in [pytest.approx(span) for span in spans]
    assert (200, 250) in [pytest.approx(span) for span in spans]
    assert max(high for _, high in spans) < axes.get_ylim()[1]
    assert len(waterfall(from_record(record(energy=False))).axes) == 1


def test_what_was_not_measured_has_no_bar_but_words_and_a_loss_goes_down():
    figure = waterfall(from_record(record(plus_attention=[])))
    assert bars(figure) == [(0, 150), (325, 650), (0, 650)]
    assert words(figure).count("not compared") == 2
    nothing = waterfall(ablation({"a": ["ops.a"]}, {frozenset(): Combination("baseline")}, repeat="seed"))
    assert sorted(words(nothing)) == ["not compared", "not measured", "not measured"]
    slower = record(plus_attention=[measured(number, 640.0, 3.2, 2.0) for number in (0, 1)])
    assert (150, 50) in bars(waterfall(from_record(slower)))
