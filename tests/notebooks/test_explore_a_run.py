"""The notebook runs from its first cell to its last on a run, on a run of a sweep, and on one that measured little."""

import os

import pytest

from tests.notebooks import executed
from tests.reports.synthetic_runs import strip, write_run


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes the notebook in the folder `tmp_path`, on the run given; returns its outputs."""
    return lambda chosen: executed.execute("01_explore_a_run", tmp_path, monkeypatch, LITESPARK_RUN=chosen)


def test_it_shows_a_run_and_the_sweep_beside_it(execute, tmp_path):
    folders = [write_run(tmp_path / "sweep" / str(index), seed=index, steps=40) for index in (1, 2)]
    text, pictures = execute(folders[0])
    for words in ("1: finished, 40 logged steps", "| validation loss | 2.6", "def read(self, size=-1):"):
        assert words in text
    assert "joules_per_token" in text
    assert pictures == 4 + 3


def test_without_a_choice_it_takes_the_newest_run(execute, tmp_path):
    for age, name in enumerate(("new", "old")):
        folder = write_run(tmp_path / "logs" / "runs" / name, steps=8)
        os.utime(folder / "run.json", (1_700_000_000 - age, 1_700_000_000 - age))
    assert "new: finished" in execute(None)[0]


def test_it_shows_a_run_that_measured_nothing(execute, tmp_path):
    text, pictures = execute(strip(write_run(tmp_path / "alone" / "dead", steps=8)))
    assert "dead: failed, 0 logged steps" in text
    assert "There is no other run beside this one" in text
    assert pictures == 4
