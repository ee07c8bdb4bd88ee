"""The notebook runs from its first cell to its last on records with and without energy, and on those of results."""

from pathlib import Path

import pytest

from tests.metrics.ablation_records import record
from tests.notebooks import executed

ROOT = Path(__file__).resolve().parents[2]
COMMITTED = sorted(ROOT.glob("results/*/*_bench-ablation_*.json"))


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes the notebook in the folder `tmp_path`, on the record given; returns its outputs."""
    return lambda chosen: executed.execute("03_ablation", tmp_path, monkeypatch, LITESPARK_ABLATION=chosen)


def test_it_shows_table_waterfall_and_energy(execute, tmp_path):
    record().write(tmp_path / "record.json")
    text, pictures = execute(tmp_path / "record.json")
    assert "record.json: 3 switches, 2 rounds\n" in text
    assert "| + attention | 225.0 (200.0 to 250.0) | 1.625 (1.250 to 2.000) |" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["recompute", "50.0", "%"] in lines
    assert lines.index(["recompute", "50.0", "%"]) < lines.index(["loss", "20.0", "%"])
    assert ["baseline", "0.15", "J/token"] in lines
    assert pictures == 1


def test_it_takes_the_newest_record_and_says_what_was_not_measured(execute, tmp_path):
    folder = tmp_path / "results" / "a-processor"
    made = record(gpu=False, energy=False, plus_attention=[])
    made.variants[0].rounds.clear()
    made.write(folder / "2026-01-02_bench-ablation_small_fp32.json")
    text, _ = execute(None)
    assert "2026-01-02_bench-ablation_small_fp32.json: 3 switches" in text
    assert "NOT complete" in text
    assert "J/token was not measured: no counter" in text


def test_without_a_record_it_says_what_to_do(execute):
    with pytest.raises(ValueError, match=r"found no record of an ablation .*litespark bench ablation"):
        execute(None)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_it_runs_on_the_records_of_results(execute, path):
    assert execute(path)[1] == 1
