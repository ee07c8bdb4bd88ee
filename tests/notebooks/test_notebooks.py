"""Each notebook runs from its first cell to its last, on records and data with much or little in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from litespark.data.contents import write_run_data
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import SplitCounts
from tests.data.prepared_manifest import domain, manifest, prepared
from tests.metrics.ablation_records import record
from tests.notebooks import executed
from tests.notebooks.executed import NOTEBOOKS, jupytext
from tests.reports.synthetic_runs import strip, write_run

COMMITTED = sorted(NOTEBOOKS.parent.glob("results/*/*_bench-ablation_*.json"))
RUN, DATA, ABLATION = "01_explore_a_run", "02_explore_data", "03_ablation"
CHOICES = {RUN: "LITESPARK_RUN", DATA: "LITESPARK_DATA", ABLATION: "LITESPARK_ABLATION"}


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes a notebook in the folder `tmp_path`, on what is given; returns its text and the number of pictures."""
    return lambda name, chosen: executed.execute(name, tmp_path, monkeypatch, **{CHOICES[name]: chosen})


def made_before(path: Path, days: int) -> None:
    os.utime(path, (1_700_000_000 - days, 1_700_000_000 - days))


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.py")), ids=lambda path: path.stem)
def test_it_is_paired_with_an_ipynb_file(path):
    notebook = jupytext.read(path)
    assert notebook.metadata["jupytext"]["formats"] == "ipynb,py:percent"
    assert {cell.cell_type for cell in notebook.cells} == {"markdown", "code"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (DATA, r"found no prepared folder under .*litespark prepare"),
        (ABLATION, r"found no record of an ablation .*litespark bench ablation"),
    ],
)
def test_with_nothing_to_show_it_says_what_to_do(execute, name, message):
    with pytest.raises(ValueError, match=message):
        execute(name, None)


def test_a_run_is_shown_with_the_sweep_beside_it(execute, tmp_path):
    folders = [write_run(tmp_path / "sweep" / str(index), seed=index, steps=40) for index in (1, 2)]
    text, pictures = execute(RUN, folders[0])
    for words in ("1: finished, 40 logged steps", "| validation loss | 2.6", "def read(self, size=-1):"):
        assert words in text
    assert "joules_per_token" in text
    assert pictures == 4 + 3


def test_without_a_choice_it_takes_the_newest_run(execute, tmp_path):
    for days, name in enumerate(("new", "old")):
        made_before(write_run(tmp_path / "logs" / "runs" / name, steps=8) / "run.json", days)
    assert "new: finished" in execute(RUN, None)[0]


def test_a_run_that_measured_nothing_is_shown(execute, tmp_path):
    text, pictures = execute(RUN, strip(write_run(tmp_path / "alone" / "dead", steps=8)))
    assert "dead: failed, 0 logged steps" in text
    assert "There is no other run beside this one" in text
    assert pictures == 4


def test_data_is_shown_with_domains_lengths_dropped_and_settings(execute, tmp_path):
    text, pictures = execute(DATA, prepared(tmp_path / "somewhere"))
    assert "| train | Wiki | 30 | 3,000 | 30.0 % |" in text
    assert "| train | Wiki | 100 | 64 to 127 |" in text
    assert "| train | selection/gopher_quality | (all) | 30 | 21.6 % |" in text
    assert "    unknown  train/a.jsonl:3  " in text
    assert "| train | selection/gopher_quality/short | 15 | 10.8 % |" in text
    assert ["Wiki", "0.032", "0.200000"] in [line.split() for line in text.splitlines()]  # 96 and 600 of 3,000 tokens
    assert "source                   corpus" in text
    assert pictures == 1


def test_without_a_choice_it_takes_what_was_prepared_last_also_with_nothing_dropped(execute, tmp_path):
    one = SplitCounts({"text": domain("text", [0, 0, 10], 60)})
    for days, name in enumerate(("new", "old")):
        splits = {"train": one, "validation": one}
        folder = prepared(tmp_path / "data/prepared" / name, name=name, splits=splits, dropped=DroppedDocuments())
        made_before(folder / "manifest.json", days)
    text, _ = execute(DATA, None)
    assert "new from" in text
    assert "No documents were dropped." in text


def test_data_may_be_what_a_run_keeps_of_it_and_may_be_remote(execute, tmp_path):
    write_run_data(tmp_path / "run", manifest(name="kept"))
    assert "kept from" in execute(DATA, tmp_path / "run")[0]
    folder = prepared(tmp_path / "behind", name="remote")
    assert "remote from local://" in execute(DATA, f"local://{folder}")[0]


def test_an_ablation_is_shown_as_table_waterfall_and_energy(execute, tmp_path):
    record().write(tmp_path / "record.json")
    text, pictures = execute(ABLATION, tmp_path / "record.json")
    assert "record.json: 3 switches, 2 rounds\n" in text
    assert "| + attention | 225.0 (200.0 to 250.0) | 1.625 (1.250 to 2.000) |" in text
    lines = [line.split() for line in text.splitlines()]
    assert lines.index(["recompute", "50.0", "%"]) < lines.index(["loss", "20.0", "%"])
    assert ["baseline", "0.15", "J/token"] in lines
    assert pictures == 1


def test_it_takes_the_newest_ablation_and_says_what_was_not_measured(execute, tmp_path):
    made = record(gpu=False, energy=False, plus_attention=[])
    made.variants[0].rounds.clear()
    made.write(tmp_path / "results" / "a-processor" / "2026-01-02_bench-ablation_small_fp32.json")
    text, _ = execute(ABLATION, None)
    assert "2026-01-02_bench-ablation_small_fp32.json: 3 switches" in text
    assert "NOT complete" in text
    assert "J/token was not measured: no counter" in text


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_an_ablation_of_the_results_is_shown(execute, path):
    assert execute(ABLATION, path)[1] == 1
