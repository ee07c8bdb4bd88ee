"""The command that is printed after a stop starts what was started."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from litespark.launch import ALONE, Ranks
from litespark.run.continue_command import Started, continue_command, how_to_continue
from litespark.run.targets import ALLOWED_VARIABLE
from tests.run.composed import parts

FOLDER = Path("logs/runs/a")
TWO = Ranks(2, 0, 0, 1, "torchrun")
PYTHON = sys.executable


@pytest.fixture(autouse=True)
def on_the_path(monkeypatch):
    monkeypatch.setenv("PATH", str(Path(PYTHON).parent), prepend=":")


def started(*words: str, count: int = 1, parent: tuple[str, ...] = (), **environment: str) -> Started:
    """A process with this command line, of which the last `count` words are arguments."""
    return Started(words, words[len(words) - count :], parent, environment)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([PYTHON, "train.py"], "python train.py"),
        ([PYTHON, "-u", "-X", "dev", "/some where/train.py"], "python -u -X dev '/some where/train.py'"),
        ([PYTHON, "-m", "litespark.cli", "train"], "python -m litespark.cli train"),
        (["python3", "/venv/bin/litespark", "train"], "litespark train"),
        ([PYTHON, "-O", "/venv/bin/litespark", "train"], "python -O /venv/bin/litespark train"),
        ([PYTHON, "-m", "pytest", "tests"], "python train.py"),
    ],
)
def test_it_starts_the_program_that_was_started(words, expected):
    command = continue_command(["optim.lr=0.1", "++name=x"], FOLDER, ALONE, started(*words, "optim.lr=0.1"))
    assert command == f"{expected} optim.lr=0.1 resume=logs/runs/a"


def test_a_program_that_the_shell_does_not_find_is_named_by_its_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    command = shlex.split(continue_command([], FOLDER, ALONE, started(PYTHON, "train.py", count=0)))
    assert command[:2] == [PYTHON, "train.py"]
    command = shlex.split(continue_command([], FOLDER, TWO, started(PYTHON, "train.py", count=0)))
    assert command[0] == str(Path(PYTHON).with_name("torchrun"))


def test_a_class_of_the_users_own_is_found_again():
    environment = {ALLOWED_VARIABLE: "my_parts", "PYTHONPATH": "/my code"}
    command = continue_command([], FOLDER, ALONE, started(PYTHON, "train.py", count=0, **environment))
    assert shlex.split(command)[:2] == [f"{ALLOWED_VARIABLE}=my_parts", "PYTHONPATH=/my code"]


def test_it_keeps_what_was_set_of_hydra_itself():
    words = ("-cd", "my configs", "optim.lr=0.1", "hydra.job.env_set.A=b", "--config-name=other", "hydra.mode=RUN")
    command = continue_command(["optim.lr=0.1"], FOLDER, ALONE, started(PYTHON, "train.py", *words, count=len(words)))
    assert shlex.split(command)[2:] == [*words[:2], *words[3:5], "optim.lr=0.1", "resume=logs/runs/a"]


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ((PYTHON, "/venv/bin/torchrun"), ["torchrun"]),
        ((PYTHON, "-m", "torch.distributed.run"), ["python", "-m", "torch.distributed.run"]),
    ],
)
@pytest.mark.parametrize("program", [("train.py",), ("-m", "litespark.cli", "train")])
def test_torchrun_gets_the_options_that_it_was_given(launcher, expected, program):
    given = ("--nnodes=2", "--node-rank=0", "--nproc-per-node=1", "--max-restarts", "3", *program)
    said = ["seed=1", "name=x"]
    process = started(PYTHON, "-u", *program, *said, count=2, parent=(*launcher, *given, *said), GROUP_WORLD_SIZE="2")
    where, command = how_to_continue(said, FOLDER, TWO, process).splitlines()
    assert where == "To continue on each of the 2 machines, with its own --node-rank:"
    assert shlex.split(command) == [*expected, *given, "seed=1", "resume=logs/runs/a"]


def test_torchrun_whose_command_cannot_be_read_is_told_by_its_variables():
    command = continue_command([], FOLDER, TWO, started(PYTHON, "-u", "train.py", count=0))
    assert command == "torchrun --nproc-per-node=1 train.py resume=logs/runs/a"


def test_srun_and_mpirun_start_as_many_processes():
    nodes = {"SLURM_STEP_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "8"}
    started_by = {"srun --nodes=2 --ntasks=4 --cpus-per-task=8": nodes, "mpirun -n 4": {}}
    for expected, variables in started_by.items():
        ranks = Ranks(4, 0, 0, 2, expected.split()[0])
        command = continue_command([], FOLDER, ranks, started(PYTHON, "train.py", count=0, **variables))
        assert command == f"{expected} python train.py resume=logs/runs/a"


@pytest.mark.parametrize("name", ["plain", "lr=0.1,seed=2", "it's (a) {b} [c]", "back\\slash\\", "null"])
def test_the_folder_is_named_so_that_hydra_reads_it(name):
    words = shlex.split(continue_command(["resume=old"], Path("logs/runs") / name, ALONE, started(PYTHON, "train.py")))
    assert parts(words[2]).resume == f"logs/runs/{name}"
