"""The tables of trained variants: what was reached, over what, and words for what is not there; the curves."""

from __future__ import annotations

import pytest

from litespark.metrics.records.ledger import read_entry
from litespark.metrics.records.training import RunFailure
from litespark.reports.curves import figure, picture
from litespark.reports.ledger import render
from litespark.reports.record_values import value_at
from litespark.reports.training_text import all_within, markdown, text
from tests.metrics.training_records import NO_JOULES, TARGET, equal_tokens, fp8_state, run, selecting, to_target


def line(table: str, name: str) -> str:
    return " ".join(next(each for each in table.splitlines() if each.startswith(f"{name}  ")).split())


def test_a_row_over_equal_tokens_has_loss_speed_and_energy() -> None:
    found = equal_tokens()
    assert line(text(found), "bf16") == "bf16 1.000 - - - 10.00 1.000 2 of 2 400.0 40.0 s 400.0 J"
    assert line(text(found), "fp8") == (
        "fp8 1.001 +0.100%, -0.200% to +0.400% +1.000% yes 20.00 (× 2.000, 2.000 to 2.000) "
        "0.6000 (× 0.600, 0.600 to 0.600) 1 of 2 400.0 (× 1.000) 20.0 s (× 0.500) 240.0 J (× 0.600)"
    )
    assert all_within(found)
    found.bound = 0.003
    assert " NO " in line(text(found), "fp8")
    assert not all_within(found)
    assert all_within(selecting())


def test_a_row_to_a_target_has_what_that_took() -> None:
    assert line(text(to_target()), "ours") == (
        "ours 1.850 50.00 (× 5.000, 5.000 to 5.000) 3.000 (× 0.300, 0.300 to 0.300) 2 of 2 "
        "1.000 k (× 0.625, 0.500 to 0.750) 20.0 s (× 0.125, 0.100 to 0.150) 3.000 kJ (× 0.188, 0.150 to 0.225)"
    )


def test_a_corpus_has_tables_of_what_is_left_and_what_was_dropped() -> None:
    said = [" ".join(each.split()) for each in text(selecting()).splitlines()]
    assert "selected 60 1.000 k 1.00 10.0 s" in said
    assert "selected: dropped documents" in said
    # 18 + 18 of 40 documents, and 300 + 600 + 50 of 1000 bytes
    assert "junk 40 1.000 kB 90.0 % 95.0 % c4 18, language 18" in said
    assert "clean 60 1.000 kB 6.67 % 4.00 % exact_duplicate 4" in said
    assert any("on 7 clean documents (700.0 B)" in each for each in said)


def test_title_and_notes_tell_what_was_trained_and_how_finely_it_is_told() -> None:
    said = text(to_target())
    for part in ("To 2 bits per byte: tiny (1.300 M parameters), text, 1 sequences of 10 tokens", "every 100 tokens",
                 "budget of 100,000 tokens", "ours: ops=litespark optim=muon", "Medians over seeds 1, 2"):  # fmt: skip
        assert part in said, part
    assert "NOT" not in said


def test_what_was_not_reached_has_its_best_and_no_cost() -> None:
    found = to_target()
    found.variants[1].runs = [run(seed, (50_000, 500.0, 2.01), (100_000, 1000.0, 2.5)) for seed in (1, 2)]
    said = text(found)
    assert line(said, "ours").endswith("0 of 2 not reached not reached not reached")
    assert "ours NOT reached, seed 1: best 2.0100 bits/byte within 100,000 tokens and 1,000.0 s" in said


def test_what_is_missing_is_told() -> None:
    found = to_target(watts=None)
    found.variants[0].runs[0].processes = 3
    found.variants[1].runs = []
    found.variants[1].failures = [RunFailure(seed=1, error="out of memory")]
    said = text(found)
    for part in ("NOT complete", "no run", f"no joules: {NO_JOULES}", "ours FAILED: out of memory",
                 "of 1, 2 (reference 1, 2; ours none)", "reference with seed 1 in 3 processes"):  # fmt: skip
        assert part in said, part
    alone = selecting()
    alone.variants[0].runs.clear()
    assert line(text(alone), "selected").endswith("- - - -"), "nothing beside it is not worse"


def test_a_simulation_is_not_the_speed_of_fp8() -> None:
    found = equal_tokens()
    found.variants[1].runs[0].fp8 = fp8_state(simulated=True)
    assert line(text(found), "fp8").count(" simulated") == 4, "rate, J/token, time and energy; not tokens"
    assert "the time and the energy are not" in text(found)
    assert "simulated" not in text(equal_tokens())


@pytest.mark.parametrize("made", [equal_tokens, to_target, selecting])
def test_the_page_of_records_has_the_same_cells(made, tmp_path) -> None:
    made().write(tmp_path / "a-cpu" / "2026-01-31_bench-parity_tiny_fp32.json")
    said = render(tmp_path)
    assert markdown(made()) in said
    assert "[bench-parity tiny fp32](a-cpu/2026-01-31_bench-parity_tiny_fp32.json), 2026-01-31, commit c0ffee1" in said
    assert "Settings: `optim.lr=1e-3`." in said
    cells = [" ".join(each.strip("|").replace("|", " ").split()) for each in said.splitlines()]
    name = made().variants[1].name
    assert line(text(made()), name) in cells


def test_documents_can_quote_its_figures(tmp_path) -> None:
    path = tmp_path / "a-cpu" / "2026-01-31_bench-to-loss_tiny_fp32.json"
    to_target().write(path)
    entry = read_entry(path)
    assert value_at(entry, "variants.ours.runs.1.curve.0.bits_per_byte") == 2.1
    assert value_at(entry, "rows.ours.tokens.ratio") == 0.625
    with pytest.raises(
        ValueError, match=r"no 'variants\.ours\.speed': at 'speed' there is name, settings, prepared, runs"
    ):
        value_at(entry, "variants.ours.speed")


def test_the_picture_has_a_line_a_run_and_the_target(tmp_path) -> None:
    left, right = figure(to_target()).axes
    assert right.get_xlabel() == "train energy (J)"
    assert [each.get_label() for each in left.lines[:4]] == ["reference", "_", "ours", "_"]
    assert list(left.lines[0].get_xdata()) == [500, 1000]
    assert list(right.lines[0].get_xdata()) == [5000.0, 10_000.0]
    assert left.lines[4].get_ydata()[0] == TARGET
    assert "joules were not measured" in figure(to_target(watts=None)).axes[1].get_xlabel()
    picture(equal_tokens(), tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000
    empty = equal_tokens()
    for variant in empty.variants:
        variant.runs = []
    figure(empty)
