"""What tells the runs of a sweep from each other, and the table at its end."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from litespark.run import sweep
from litespark.run.sweep import Job, telling


@pytest.fixture
def multirun(monkeypatch):
    """As within a job of `train.py -m` with these words."""

    def of(*words: str, **params: str) -> None:
        given = SimpleNamespace(mode=RunMode.MULTIRUN, sweeper={"params": params})
        monkeypatch.setattr(sweep, "HydraConfig", SimpleNamespace(initialized=lambda: True, get=lambda: given))
        monkeypatch.setattr(sys, "argv", ["train.py", "-m", *words])

    return of


def test_a_run_of_a_sweep_keeps_its_experiment_in_its_name(multirun):
    multirun("schedule=wsd,cosine", "experiment=mine", "optim.lr=1e-3")
    assert telling(["schedule=wsd", "experiment=mine", "optim.lr=1e-3"]) == ["experiment=mine", "schedule=wsd"]
    multirun("experiment=one,two", "seed=1,2")
    assert telling(["experiment=two", "seed=1"]) == ["experiment=two", "seed=1"]
    multirun("experiment=mine", "sweep=file", variant="{label:a},{label:b}")
    assert telling(["experiment=mine", "variant={label:a}"]) == ["experiment=mine", "variant={label:a}"]


def test_jobs_that_failed_or_whose_record_is_damaged_have_a_row_too(multirun, tmp_path, monkeypatch):
    multirun("seed=1,2", "+optim.x=3,4")
    monkeypatch.setattr(sweep, "JOBS", [])
    assert sweep.table() is None
    sweep.JOBS.append(Job(telling(["seed=1", "+optim.x=3"]), error="ValueError: no\nsecond line"))
    sweep.JOBS.append(Job(telling(["seed=2", "+optim.x=3"]), folder=Path("gone")))
    (tmp_path / "run.json").write_text("{")
    sweep.JOBS.append(Job(["optim.x=4"], tmp_path))
    header, first, second, third = (sweep.table() or "").splitlines()[2:]
    assert header.split()[:2] == ["seed", "optim.x"]
    assert "failed: ValueError: no second line" in first
    assert "stopped" in second
    assert "damaged: " in third
