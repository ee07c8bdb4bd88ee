"""What a reader sees of parity: the loss beside the speed, and what is not a speed."""

from litespark.analysis.ledger_lines import LINES
from litespark.analysis.parity_text import all_within, figure, markdown, picture, text
from litespark.metrics.records.ledger import read_entry
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.parity_records import fp8_state, two_seeds


def test_loss_speed_and_energy_stand_in_one_row():
    for said in (text(two_seeds()), markdown(two_seeds())):
        (row,) = [line for line in said.splitlines() if line.lstrip("| ").startswith("fp8 ")]
        for part in ("+0.100% (-0.200% to +0.400%)", "+1.000%", "yes", "20", "0.500", "0.600"):
            assert part in row, part


def test_what_is_above_the_bound_says_so():
    found = two_seeds()
    assert all_within(found)
    found.bound = 0.003
    assert " NO " in text(found)
    assert not all_within(found)


def test_a_simulation_is_not_the_speed_of_fp8():
    found = two_seeds()
    for run in found.variants[1].runs:
        run.fp8 = fp8_state(simulated=True)
    said = text(found)
    assert "(simulated)" in said
    assert "the time and the energy are not" in said
    assert "simulated" not in text(two_seeds())


def test_failures_are_shown():
    found = two_seeds()
    found.variants[1].runs.pop()
    found.variants[1].failures.append(RunFailure(2, "out of memory"))
    found.complete = False
    assert "fp8 FAILED: out of memory" in text(found)
    assert "NOT complete" in text(found)


def test_the_curves_are_drawn(tmp_path):
    left, right = figure(two_seeds()).axes
    assert [line.get_label() for line in left.lines] == ["bf16", "_", "fp8", "_"]
    assert list(left.lines[2].get_ydata()) == [8.0, 3.0, 2.02, 1.004]
    assert "energy" in right.get_xlabel()
    picture(two_seeds(), tmp_path / "parity.png")
    assert (tmp_path / "parity.png").stat().st_size > 10_000


def test_the_ledger_has_a_line_for_each_variant(tmp_path):
    path = tmp_path / "cpu" / "2026-01-31_bench-parity_tiny_bf16.json"
    found = two_seeds()
    found.provenance.overrides = ["optim.lr=1e-3", "paths.data=/somewhere"]
    found.write(path)
    said = LINES["parity"](read_entry(path))
    assert "at most 0.500 % more are allowed. Settings: `optim.lr=1e-3`." in said
    assert "fp8: 1.001 bits/byte (+0.100% (-0.200% to +0.400%), within the bound), 20.00 tokens/s" in said
