"""The tables of the selection benchmark: figures with their spread, and words for what is not there."""

from __future__ import annotations

from pathlib import Path

from litespark.analysis.ledger import render
from litespark.analysis.selection_text import markdown, text
from litespark.metrics.records.training_runs import RunFailure
from tests.metrics.selection_records import NO_JOULES, run, two_seeds


def test_the_tables_say_what_selection_gained_and_left_out() -> None:
    said = text(two_seeds())
    lines = {line.split()[0]: " ".join(line.split()) for line in said.splitlines() if line}
    assert lines["all"] == "all 100 2.000 k 0.50 2.250 - - - 10.0 s"
    table = [" ".join(line.split()) for line in said.splitlines()]
    assert (
        "selected 60 1.000 k 1.00 1.950 -0.3000 (-0.5000 to -0.1000) × 0.750 (0.500 to 1.000) × 0.750 (0.500 to 1.000) "
        "30.0 s" in table
    )
    assert "junk 40 1.000 kB 90.0 % 95.0 % c4 18, language 18" in table
    assert "clean 60 1.000 kB 6.67 % 4.00 % exact_duplicate 4" in table
    assert "selected: data/selection=web" in said
    assert "on 7 clean documents (700.0 B)" in said


def test_what_is_missing_is_said() -> None:
    record = two_seeds(joules=None)
    record.variants[1].runs = [run(1, 2.9, 2.8)]
    record.variants[1].prepare_seconds = None
    record.variants[1].failures = [RunFailure(2, "killed")]
    record.complete = False
    said = text(record)
    assert "NOT complete" in said.splitlines()[0]
    row = next(" ".join(line.split()) for line in said.splitlines() if line.startswith("selected  "))
    assert row == "selected 60 1.000 k 1.00 2.800 +0.3000 not reached not reached found"
    assert "selected: 0 of 1 runs got as good" in said
    assert "selected FAILED: killed" in said
    assert "medians over the seeds that are there, of 1, 2 (all 1, 2; selected 1); differences" in said
    assert f"no joules: {NO_JOULES}" in said


def test_seeds_are_named_as_they_are() -> None:
    assert "; medians over seeds 1, 2; differences to all" in text(two_seeds())


def test_a_ratio_says_of_how_many_runs_it_is() -> None:
    record = two_seeds()
    record.variants[1].runs[1] = run(2, 2.2, 2.1)
    said = text(record)
    assert "× 0.500, 1 of 2 runs" in said
    assert "selected: 1 of 2 runs got as good" in said


def test_a_run_with_nothing_beside_it_is_not_called_worse(tmp_path: Path) -> None:
    record = two_seeds()
    record.variants[0].runs.clear()
    record.complete = False
    said = text(record)
    assert "not reached" not in said
    assert "no run of all with the same seed" in said
    assert "got as good" not in said
    record.write(tmp_path / "a-cpu" / "2026-01-31_bench-selection_tiny_fp32.json")
    assert "- selected: no run of all with the same seed" in render(tmp_path)


def test_markdown_has_the_same_cells() -> None:
    said = markdown(two_seeds())
    assert "| all | 100 | 2.000 k | 0.50 | 2.250 | - | - | - | 10.0 s |" in said
    assert "| junk | 40 | 1.000 kB | 90.0 % | 95.0 % | c4 18, language 18 |" in said
    assert "\n- One tokenizer" in said


def test_the_page_of_records_has_a_line(tmp_path: Path) -> None:
    two_seeds().write(tmp_path / "a-cpu" / "2026-01-31_bench-selection_tiny_fp32.json")
    said = render(tmp_path)
    assert "### What selection of documents is worth\n\n[bench-selection tiny fp32](a-cpu/2026-01-31_bench" in said
    assert "1.000 k tokens each; differences are to all." in said
    assert (
        "- selected: -0.3000 bits per byte [-0.5000 to -0.1000]; as good in 2 of 2 runs, tokens × 0.750 [0.500 to "
        "1.00], train energy × 0.750 [0.500 to 1.00]" in said
    )


def test_the_line_says_what_is_missing(tmp_path: Path) -> None:
    record = two_seeds(joules=None)
    record.write(tmp_path / "a-cpu" / "2026-01-31_bench-selection_tiny_fp32.json")
    assert f"train energy not measured ({NO_JOULES})" in render(tmp_path)
    record.variants[1].runs, record.variants[1].failures = [], [RunFailure(1, "killed")]
    record.complete = False
    record.write(tmp_path / "a-cpu" / "2026-01-31_bench-selection_tiny_fp32.json")
    assert "- selected: killed" in render(tmp_path)
