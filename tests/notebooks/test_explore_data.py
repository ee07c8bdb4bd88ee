"""The notebook runs from its first cell to its last on several domains, with nothing dropped, and on a run's data."""

from __future__ import annotations

import os

import pytest

from litespark.data.contents import write_run_data
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import SplitCounts
from tests.data.prepared_manifest import domain, manifest, prepared
from tests.notebooks import executed


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes the notebook in the folder `tmp_path`, on the data given; returns its outputs."""
    return lambda chosen: executed.execute("02_explore_data", tmp_path, monkeypatch, LITESPARK_DATA=chosen)


def test_it_shows_domains_lengths_dropped_and_settings(execute, tmp_path):
    text, pictures = execute(prepared(tmp_path / "somewhere"))
    assert "| train | Wiki | 30 | 3,000 | 30.0 % |" in text
    assert "| train | Wiki | 100 | 64 to 127 |" in text
    assert "| train | selection/gopher_quality | (all) | 30 | 21.6 % |" in text
    assert "    unknown  train/a.jsonl:3  " in text
    assert "| train | selection/gopher_quality/short | 15 | 10.8 % |" in text
    assert ["Wiki", "0.032", "0.200000"] in [line.split() for line in text.splitlines()]  # 96 and 600 of 3,000 tokens
    assert "source                   corpus" in text
    assert pictures == 2


def test_without_a_choice_it_takes_what_was_prepared_last_also_with_nothing_dropped(execute, tmp_path):
    one = SplitCounts({"text": domain("text", [0, 0, 10], 60)})
    for age, name in enumerate(("new", "old")):
        splits = {"train": one, "validation": one}
        folder = prepared(tmp_path / "data/prepared" / name, name=name, splits=splits, dropped=DroppedDocuments())
        os.utime(folder / "manifest.json", (1_700_000_000 - age, 1_700_000_000 - age))
    text, _ = execute(None)
    assert "new from" in text
    assert "No documents were dropped." in text


def test_it_shows_what_a_run_keeps_of_its_data(execute, tmp_path):
    write_run_data(tmp_path / "run", manifest(name="kept"))
    assert "kept from" in execute(tmp_path / "run")[0]


def test_it_reads_an_address(execute, tmp_path):
    folder = prepared(tmp_path / "behind", name="remote")
    assert "remote from local://" in execute(f"local://{folder}")[0]


def test_without_prepared_data_it_says_what_to_do(execute):
    with pytest.raises(ValueError, match=r"found no prepared folder under .*litespark prepare"):
        execute(None)
