"""The notebook runs from its first cell to its last on a run, on a run of a sweep, and on one that measured little."""

import os

import pytest

from tests.notebooks import executed
from tests.notebooks.executed import pictures, shown
from tests.reports.synthetic_runs import strip, write_run


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Executes the notebook in the folder `tmp_path`, on the run given; returns its outputs."""
    return lambda chosen, **how: executed.execute(
        "01_explore_a_run", tmp_path, monkeypatch, **how, LITESPARK_RUN=chosen
    )


def test_it_shows_a_run_and_the_sweep_beside_it(execute, tmp_path):
    folders = [write_run(tmp_path / "sweep" / str(index), seed=index, steps=40) for index in (1, 2)]
    outputs = execute(folders[0], kernel=True)
    assert "1: finished, 40 logged steps" in shown(outputs)
    assert "| validation loss | 2.6" in shown(outputs)
    assert "def read(self, size=-1):" in shown(outputs)
    assert "joules_per_token" in shown(outputs)
    assert pictures(outputs) == 4 + 3


def test_without_a_choice_it_takes_the_newest_run(execute, tmp_path):
    for age, name in enumerate(("new", "old")):
        folder = write_run(tmp_path / "logs" / "runs" / name, steps=8)
        os.utime(folder / "run.json", (1_700_000_000 - age, 1_700_000_000 - age))
    assert "new: finished" in shown(execute(None))


def test_it_shows_a_run_that_measured_nothing(execute, tmp_path):
    outputs = execute(strip(write_run(tmp_path / "alone" / "dead", steps=8)))
    assert "dead: failed, 0 logged steps" in shown(outputs)
    assert "There is no other run beside this one" in shown(outputs)
    assert pictures(outputs) == 4
