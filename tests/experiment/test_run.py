"""How a run begins, ends and is continued: stops outside of the steps, the command that continues, what is recorded."""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from pathlib import Path

import pytest

from litespark.callbacks.signals import Interrupted
from litespark.experiment import build, run
from litespark.metrics.energy_journal import EnergyJournal
from litespark.metrics.environment import git_state
from litespark.metrics.meters import FakeMeter
from tests.experiment.composed import config, parts

ROOT = Path(__file__).parents[2]
SMALL = (
    "data=synthetic data.sequence_length=8 data.micro_batch_size=2 trainer.batch_rows=2 trainer.accelerator=cpu "
    "model.vocabulary=31 model.width=8 model.layers=1 model.heads=2 model.kv_heads=1 model.feed_forward=16 "
    "budget.tokens=null budget.steps=2 metrics.probe_seconds=0 callbacks.report=false callbacks.progress=false "
    "callbacks.sample_prompt=null name=small"
).split()


def stop(*arguments: object, **settings: object) -> None:
    raise KeyboardInterrupt


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "where", ["build_run", "initialise"], ids=["while it is built", "in the set-up of the Trainer"]
)
def test_a_stop_before_the_first_step_leaves_no_folder(tmp_path, monkeypatch, where):
    if where == "build_run":
        monkeypatch.setattr(run, "build_run", stop)
    else:
        monkeypatch.setattr("litespark.training.module.initialise", stop)
    with pytest.raises(KeyboardInterrupt):
        run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_stop_after_the_last_step_is_recorded_and_a_resume_finishes_the_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "small"
    with monkeypatch.context() as patch:
        patch.setattr("litespark.experiment.finish.validate", stop)
        with pytest.raises(Interrupted):
            run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert record(folder)["status"] == "interrupted"
    assert "Stopped after step 2, saved. To continue:" in capsys.readouterr().err
    run.train(config(*SMALL, f"paths.logs={tmp_path}", f"resume={folder}"))
    assert record(folder)["status"] == "finished"


def test_a_resume_that_fails_before_its_first_step_keeps_what_was_measured(tmp_path, monkeypatch):
    folder = run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    before = record(folder)

    def fail(*arguments: object) -> None:
        raise RuntimeError("no memory for the weights")

    monkeypatch.setattr("litespark.training.module.initialise", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run.train(config(*SMALL, f"paths.logs={tmp_path}", f"resume={folder}", "budget.steps=4"))
    after = record(folder)
    assert (after["status"], after["error"]) == ("failed", "RuntimeError: no memory for the weights")
    for section in ("throughput", "quality", "segments"):
        assert after[section] == before[section]


def test_the_commit_is_that_of_the_code_wherever_the_run_is_started(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert record(folder)["git_commit"] == git_state(ROOT)[0]


def test_what_follows_the_last_step_is_in_the_journal_for_a_resume_to_count(tmp_path, monkeypatch):
    ticks = itertools.count()
    meter = FakeMeter([50.0], lambda: float(next(ticks)))
    monkeypatch.setattr(build, "choose_meter", lambda *arguments, **settings: meter)
    folder = run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    noted = EnergyJournal(folder / "energy.jsonl").last()
    assert noted is not None
    assert noted.joules("evaluate") > 0
    assert noted.all_in_joules == record(folder)["energy"]["all_in_joules"]


@pytest.mark.parametrize(
    "name", ["plain", "lr=0.1,seed=2", "a b", 'quote "', "it's (a) {b} [c]", "back\\slash\\", "ünï"]
)
def test_the_command_that_continues_names_the_folder_so_that_hydra_reads_it(monkeypatch, name):
    monkeypatch.setattr(sys, "argv", ["/some where/train.py"])
    words = shlex.split(run.continue_command(["optim.lr=0.1", "name=x", "resume=old"], Path("logs/runs") / name))
    assert words[1] == "/some where/train.py"
    assert words[2] == "optim.lr=0.1"
    assert len(words) == 4
    assert parts(words[3]).resume == f"logs/runs/{name}"
