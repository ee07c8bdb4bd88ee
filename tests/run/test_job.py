"""How a job ends: one voice for several ranks, and no sweep of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra.errors import ConfigCompositionException

from litespark.run import job
from litespark.run.job import start
from litespark.run.targets import raised_in_own_code

TRAIN = hydra.main(version_base="1.3", config_path=str(Path(job.__file__).parents[3] / "configs"), config_name="train")(
    job.run_job
)
TORCHRUN = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture
def rank(monkeypatch, tmp_path):
    """Makes this process one rank of two; returns what it would hand to torchrun, and for how long it waited."""
    waited = []
    monkeypatch.setattr(job.time, "sleep", waited.append)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    path = tmp_path / "error.json"

    def become(number):
        ranks = {"RANK": str(number), "LOCAL_RANK": str(number), "TORCHELASTIC_ERROR_FILE": str(path)}
        for name, value in (TORCHRUN | ranks).items():
            monkeypatch.setenv(name, value)
        return path, waited

    return become


def complain():
    raise ConfigCompositionException("Could not override 'nope'.")


def test_what_hydra_refuses_is_handed_to_torchrun_which_shows_it_last(rank, capsys):
    path, waited = rank(0)
    with pytest.raises(SystemExit) as end:
        start(complain)
    assert end.value.code == 1
    assert capsys.readouterr().err == ""
    message = json.loads(path.read_text())["message"]
    assert message["message"] == message["extraInfo"]["py_callstack"] == "Could not override 'nope'."
    assert not waited


def test_another_rank_leaves_the_word_to_the_first_and_then_names_itself(rank):
    path, waited = rank(1)
    with pytest.raises(SystemExit):
        start(complain)
    assert waited == [15.0]  # in which torchrun ends it, where the first rank has the same error
    assert json.loads(path.read_text())["message"]["message"] == "rank 1: Could not override 'nope'."


def test_a_sweep_of_two_processes_is_refused_with_what_to_do(tmp_path):
    """Before torch is imported, so at once; in a process of its own, since Hydra can be started once in one."""
    error = tmp_path / "error.json"
    environment = {**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "TORCHELASTIC_ERROR_FILE": str(error)}
    root = Path(job.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "train.py", "--multirun", "sweep=ops_ablation", "strategy=ddp", f"paths.logs={tmp_path}"],
        cwd=root,
        env={"PYTHONPATH": str(root / "src"), "PATH": "/usr/bin:/bin"} | environment,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")
    message = json.loads(error.read_text())["message"]["message"]
    assert "got a sweep and 2 processes started by torchrun, expected one process" in message
    assert f"paths.logs={tmp_path} strategy=single" in message.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


WRONG_BELOW_HYDRA = {
    "hydra.job_logging.version=2": "Unsupported version",
    "hydra.run.dir={file}/x": "Not a directory",
    "-m seed=1,2 hydra.sweep.dir={file}/x": "Not a directory",
    "-m seed=1,2 paths.logs={file}": "set paths.logs",
    "--resolve": "--resolve flag can only",
    "--run --multirun": "Only one of",
    "--help optim=nope": "choose",
    "--info all nope=3": "nope: got 3, but there is no such setting",
}


@pytest.mark.parametrize("words", WRONG_BELOW_HYDRA)
def test_what_hydra_itself_cannot_do_is_one_message(words, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["train.py", *words.format(file=tmp_path / "file").split()])
    with pytest.raises(SystemExit) as end:
        start(TRAIN)
    said = capsys.readouterr().err
    assert end.value.code == 1
    assert WRONG_BELOW_HYDRA[words] in said
    assert "Traceback" not in said


def test_an_error_in_code_of_ones_own_keeps_its_lines(monkeypatch):
    monkeypatch.setenv("LITESPARK_ALLOWED_TARGETS", "mypkg.")
    module = {"__name__": "mypkg.mine"}
    exec("def fail(): raise ValueError('of mine')", module)
    with pytest.raises(ValueError, match="of mine") as own:
        module["fail"]()
    assert raised_in_own_code(own.value)
    monkeypatch.delenv("LITESPARK_ALLOWED_TARGETS")
    assert not raised_in_own_code(own.value)
