"""How a run begins, ends and is continued: stops outside of the steps, the command that continues, what is recorded."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

from litespark.callbacks.signals import Interrupted
from litespark.metrics.energy import EnergyJournal
from litespark.metrics.environment import git_state
from litespark.run import train as run
from litespark.run.record import RunRecord
from litespark.run.targets import ConfigError
from litespark.training.checkpoint import files
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.step import OptimizerStep
from tests.checkpoints import FILE, state_in
from tests.metrics.fake_meter import FakeMeter
from tests.metrics.records.hand_made import changed
from tests.run.composed import SMALL, config

ROOT = Path(__file__).parents[2]


def stop(*arguments: object, **settings: object) -> None:
    raise KeyboardInterrupt


def record(folder: Path) -> dict:
    return json.loads((folder / "run.json").read_text())


@pytest.mark.parametrize(
    "where",
    ["new_record", "build_run", "initialise"],
    ids=["while its record is made", "while it is built", "in the set-up of the Trainer"],
)
def test_a_stop_before_the_first_step_leaves_no_folder(tmp_path, monkeypatch, where):
    if where != "initialise":
        monkeypatch.setattr(run, where, stop)
    else:
        monkeypatch.setattr("litespark.training.model_builder.initialise", stop)
    with pytest.raises(KeyboardInterrupt):
        run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_stop_after_the_last_step_is_recorded_and_a_resume_finishes_the_run(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "runs" / "small"
    with monkeypatch.context() as patch:
        patch.setattr("litespark.callbacks.validation.Validation.validate", stop)
        with pytest.raises(Interrupted):
            run.train(config(*SMALL, f"paths.logs={tmp_path}"))
        assert "Stopped after step 2, saved. To continue:" in capsys.readouterr().err
        with pytest.raises(Interrupted):  # a resume that has no step left to save
            run.train(config(*SMALL, f"paths.logs={tmp_path}", f"resume={folder}"))
    assert record(folder)["status"] == "interrupted"
    assert "Stopped after step 2, saved. To continue:" in capsys.readouterr().err
    run.train(config(*SMALL, f"paths.logs={tmp_path}", f"resume={folder}"))
    assert record(folder)["status"] == "finished"


def test_a_stop_after_the_last_step_is_not_called_saved_where_it_is_not(tmp_path, monkeypatch):
    monkeypatch.setattr("litespark.callbacks.validation.Validation.validate", stop)
    with pytest.raises(KeyboardInterrupt, match=r"last step, 2, .*checkpoint_at_end=false"):
        run.train(config(*SMALL, f"paths.logs={tmp_path}", "callbacks.checkpoint_at_end=false"))
    assert record(tmp_path / "runs" / "small")["status"] == "interrupted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_any_signal_after_the_last_step_is_a_stop(tmp_path, monkeypatch, number):
    def signalled(*arguments: object) -> None:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)  # the echo of a launcher
        time.sleep(5)

    monkeypatch.setattr("litespark.callbacks.validation.Validation.validate", signalled)
    with pytest.raises(Interrupted):
        run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert record(tmp_path / "runs" / "small")["status"] == "interrupted"


@pytest.mark.parametrize(("number", "queued"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_only_the_signal_that_time_is_over_queues_a_job_again(tmp_path, monkeypatch, number, queued):
    step, asked = OptimizerStep.loss, []

    def signalled(*arguments: object) -> object:
        signal.raise_signal(number)
        return step(*arguments)

    monkeypatch.setattr(OptimizerStep, "loss", signalled)
    monkeypatch.setattr("litespark.run.train.requeue", lambda *, continues: asked.append(continues))
    with pytest.raises(Interrupted, match="stopped after step 1"):
        run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert asked == ([False] if queued else [])


def test_a_run_whose_folder_is_removed_ends_and_says_so(tmp_path, monkeypatch):
    folder, begin = tmp_path / "runs" / "small", checkpoint_folder.begin

    def removed(*arguments: object) -> Path:
        shutil.rmtree(folder)
        return begin(*arguments)

    monkeypatch.setattr(checkpoint_folder, "begin", removed)
    with pytest.raises(ConfigError, match="small is gone: it was removed or moved while this run wrote into it"):
        run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    assert not folder.exists()


def test_the_start_of_a_resume_names_the_processes_of_now_and_a_name_that_is_not_used(tmp_path, capsys, caplog):
    folder = tmp_path / "runs" / "small"
    run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    started = changed(RunRecord.read(folder / "run.json"), "provenance.environment.world_size", 2)
    started.write(folder / "run.json")
    capsys.readouterr()
    caplog.set_level("INFO")
    resumed = (f"resume={folder}", "name=other", "budget.steps=3", "callbacks.progress=true")
    run.train(config(*SMALL, f"paths.logs={tmp_path}", *resumed))
    said = "".join(capsys.readouterr())
    assert "3 steps (2 taken)" in said
    assert "2 processes" not in said
    assert "name=other is not used" in caplog.text


@pytest.mark.parametrize(
    "sequences, advice, error",
    [
        (9, r"no room. Set data\.micro_batch_size=3 \(.*\), or recompute=full", torch.OutOfMemoryError("no room")),
        (1, "ALLOC_FAILED. Set recompute=full", RuntimeError("CUBLAS_STATUS_ALLOC_FAILED")),
    ],
)
def test_out_of_memory_is_told_a_micro_batch_that_divides_the_step(tmp_path, monkeypatch, sequences, advice, error):
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("litespark.training.model_builder.initialise", fail)
    settings = (*SMALL, f"paths.logs={tmp_path}", f"data.micro_batch_size={sequences}", "trainer.global_batch_size=9")
    with pytest.raises(run.OutOfMemoryError, match=advice):
        run.train(config(*settings))


def test_a_resume_that_fails_before_its_first_step_keeps_what_was_measured(tmp_path, monkeypatch):
    folder = run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    before = record(folder)

    def fail(*arguments: object) -> None:
        raise RuntimeError("no memory for the weights")

    monkeypatch.setattr("litespark.training.model_builder.initialise", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        run.train(config(*SMALL, f"paths.logs={tmp_path}", f"resume={folder}", "budget.steps=4"))
    after = record(folder)
    assert (after["status"], after["error"]) == ("failed", "RuntimeError: no memory for the weights")
    for section in ("throughput", "quality", "segments"):
        assert after[section] == before[section]


def test_a_resume_verifies_its_checkpoint_once(tmp_path, monkeypatch):
    settings = (*SMALL, *FP8, f"paths.logs={tmp_path}")  # in fp8 its scales are compared as well
    folder = run.train(config(*settings))
    hashed, sha256 = [], files.content_hash
    monkeypatch.setattr(files, "content_hash", lambda path: (hashed.append(path.name), sha256(path))[1])
    run.train(config(*settings, f"resume={folder}", "budget.steps=3", "callbacks.checkpoint_at_end=false"))
    assert hashed == [FILE]


def test_what_follows_the_last_step_is_in_the_journal_and_the_commit_is_that_of_the_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ticks = itertools.count()
    meter = FakeMeter([50.0], lambda: float(next(ticks)))
    monkeypatch.setattr(run, "choose_meter", lambda *arguments, **settings: meter)
    folder = run.train(config(*SMALL, f"paths.logs={tmp_path}"))
    noted = EnergyJournal(folder / "energy.jsonl").last()
    assert noted is not None
    assert noted.joules("evaluate") > 0
    written = record(folder)
    assert noted.all_in_joules == written["energy"]["all_in_joules"]
    assert written["provenance"]["git_commit"] == git_state(ROOT)[0]


FP8 = ("precision=fp8", "precision.fp8.simulate=true", "precision.fp8.adaptive.sample_every=1", "trainer.log_every=1")


def test_a_run_in_fp8_is_recorded_as_one_and_resumes_with_its_scales(tmp_path):
    settings = (*SMALL, *FP8, f"paths.logs={tmp_path}", "callbacks.checkpoint_keep=9", "trainer.validate_every=1")
    folder = run.train(config(*settings))
    first = record(folder)
    assert first["status"] == "finished"
    assert first["provenance"]["environment"]["precision"] == "fp8"
    assert (first["fp8"]["recipe"], first["fp8"]["simulated"]) == ("delayed", True)
    assert {op["op"]: op["used"] for op in first["ops"]}["fp8"] == "reference"
    run.train(config(*settings, f"resume={folder}", "budget.steps=4"))
    assert record(folder)["fp8"]["readings"] == 4
    states = [state_in(folder / "checkpoints" / f"step-{step:08d}")["litespark"]["fp8"] for step in (2, 4)]
    assert [state["scaling"]["steps"] for state in states] == [2, 4]
    # what step 4 looks back on begins with what step 2 had noted
    assert torch.equal(states[1]["scaling"]["history"][2:4], states[0]["scaling"]["history"][:2])


@pytest.mark.parametrize("key, value", [("recipe", "tensorwise"), ("linears", "[down]")])
def test_other_settings_of_fp8_are_refused_to_a_resume_before_the_folder_is_touched(tmp_path, key, value):
    settings = (*SMALL, *FP8, f"paths.logs={tmp_path}")
    folder = run.train(config(*settings))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=rf"precision\.fp8\.{key}: was .*, is now"):
        run.train(config(*settings, f"resume={folder}", "budget.steps=4", f"precision.fp8.{key}={value}"))
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
