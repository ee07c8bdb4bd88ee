"""The table of to-loss says what was reached, over what, and what was not; the picture shows all curves."""

from litespark.analysis.to_loss_text import figure, markdown, picture, text
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.to_loss_records import NO_JOULES, TARGET, record, run, two_seeds


def line(table, name):
    return next(each for each in table.splitlines() if each.startswith(name))


def test_a_row_holds_the_medians_and_the_ratios_with_their_range():
    said = " ".join(line(text(two_seeds()), "ours ").split())
    assert said == (
        "ours 2 of 2 20.0 s 0.125 (0.100 to 0.150) 1.000 k 0.625 (0.500 to 0.750) 3.000 kJ 0.188 (0.150 to 0.225) 1.850"
    )


def test_the_title_and_the_notes_say_what_was_measured():
    said = text(two_seeds())
    assert "To 2 validation bits per byte: tiny (1.300 M parameters), text, 8 rows of 256 tokens a step" in said
    assert "Validation every 20,480 tokens" in said
    assert "budget of 100,000 tokens" in said
    assert "ours: ops=litespark optim=muon" in said
    assert "NOT" not in said


def test_what_was_not_reached_is_said_with_the_best_and_never_carried_on():
    found = two_seeds()
    found.variants[1].runs = [run(seed, (50_000, 500.0, 2.01), (100_000, 1000.0, 2.5)) for seed in (1, 2)]
    said = text(found)
    row = line(said, "ours ")
    assert row.count("not reached") == 3
    assert "0 of 2" in row
    assert "ours NOT reached, seed 1: best 2.0100 bits/byte within 100,000 tokens and 1,000.0 s" in said
    assert "1.000 M" not in row


def test_joules_that_are_absent_say_why_and_the_picture_shows_seconds():
    found = two_seeds(joules=None)
    assert "not measured" in line(text(found), "ours ")
    assert f"no joules: {NO_JOULES}" in text(found)
    assert "train time (s); joules were not measured" in [axes.get_xlabel() for axes in figure(found).axes]


def test_failures_stops_and_an_unfinished_record_are_told():
    found = two_seeds()
    found.variants[0].runs[0].processes = 3
    found.variants[1].runs = []
    found.variants[1].failures = [RunFailure(1, "ended with status 1: out of memory")]
    found.complete = False
    said = text(found)
    assert "NOT complete" in said
    assert "ours FAILED: ended with status 1: out of memory" in said
    assert "reference with seed 1 in 3 processes" in said
    assert "no run" in line(said, "ours ")


def test_the_report_has_the_same_cells():
    said = markdown(two_seeds())
    assert "| ours | 2 of 2 | 20.0 s | 0.125 (0.100 to 0.150) |" in said
    assert "- Validation" not in said
    assert "- A schedule spans" in said


def test_the_picture_has_a_line_a_run_and_the_target(tmp_path):
    drawn = figure(two_seeds())
    left, right = drawn.axes
    assert right.get_xlabel() == "train energy (J)"
    for axes in (left, right):
        curves = [each for each in axes.lines if len(set(each.get_ydata())) > 1 or len(each.get_ydata()) == 1]
        assert len(curves) == 4
        assert TARGET in [
            each.get_ydata()[0] for each in axes.lines if each.get_linestyle() == "--" and each.get_color() == "#666666"
        ]
    assert list(left.lines[0].get_xdata()) == [500, 1000]
    assert list(right.lines[0].get_xdata()) == [5000.0, 10_000.0]
    picture(two_seeds(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_a_record_without_runs_can_be_shown():
    found = record(*two_seeds().variants)
    for variant in found.variants:
        variant.runs = []
    found.complete = False
    assert "no run" in text(found)
    figure(found)
