"""Runs that torchrun or srun started: every command of the documents, signals, lost processes, errors told once."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from litespark.training.checkpoint.folder import find
from tests.end_to_end.runs import ROOT, command, environment
from tests.run.composed import parts

TINY = (
    "model.vocab_size=300 model.hidden_size=32 model.num_layers=1 model.num_heads=2 "
    "model.num_kv_heads=2 model.intermediate_size=64 "
    "model.max_seq_len=64 data=synthetic data.seq_len=32 data.micro_batch_size=8 trainer.global_batch_size=8 "
    "trainer.log_every=5 trainer.accelerator=cpu metrics.probe_seconds=0 callbacks.progress=false "
    "callbacks.report=false callbacks.sample_prompt=null budget.tokens=null"
).split()


def torchrun_commands():
    text = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))])
    return sorted(set(re.findall(r"torchrun (?:--\S+ )*?--nproc-per-node=\d+ train\.py[^`\n#]*", text)))


@pytest.mark.parametrize("line", torchrun_commands())
def test_every_command_of_the_documents_with_torchrun_makes_whole_steps(line, monkeypatch):
    words = shlex.split(line)
    processes = next(word.split("=")[1] for word in words if word.startswith("--nproc-per-node="))
    given = words[words.index("train.py") + 1 :]
    overrides = [word for word in given if not word.startswith("resume=") and word != "…"]
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, processes)
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")
    made = parts(*overrides)
    assert made.strategy.name != "single"
    assert made.trainer.accumulate(made.data.micro_batch_size, int(processes)) >= 1


class Started:
    """A run of two ranks that torchrun started, in its training."""

    def __init__(self, logs: Path, *more: str) -> None:
        self.folder, self.output = logs / "runs" / "run", logs / "output.txt"
        words = [*TINY, "strategy=ddp", "budget.steps=1000000", "name=run", f"paths.logs={logs}", f"paths.data={logs}"]
        with self.output.open("wb") as file:
            self.torchrun = subprocess.Popen(
                [*command(processes=2)[:-1], *more, "train.py", *words],
                cwd=ROOT,
                env=environment(),
                stdout=file,
                stderr=file,
            )
        deadline = time.monotonic() + 180
        metrics = self.folder / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert self.torchrun.poll() is None, self.output.read_text()
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)
        children = Path(f"/proc/{self.torchrun.pid}/task/{self.torchrun.pid}/children").read_text()
        self.ranks = [int(child) for child in children.split()]
        assert len(self.ranks) == 2

    def ended(self) -> int:
        """The exit code of torchrun, once its ranks are gone too."""
        code = self.torchrun.wait(120)
        deadline = time.monotonic() + 120
        while any(_runs(rank) for rank in self.ranks):
            assert time.monotonic() < deadline, self.output.read_text()
            time.sleep(0.1)
        return code

    def stopped_and_saved(self) -> bool:
        step = find(self.folder).step
        status = json.loads((self.folder / "run.json").read_text())["status"]
        return status == "interrupted" and f"Stopped after step {step}, saved." in self.output.read_text()

    def clear_away(self) -> None:
        for process in (self.torchrun.pid, *self.ranks):
            if _runs(process):
                os.kill(process, signal.SIGKILL)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def started(tmp_path):
    runs = []

    def start(*more):
        runs.append(Started(tmp_path, *more))
        return runs[-1]

    yield start
    for run in runs:
        run.clear_away()


def test_ranks_whose_torchrun_is_gone_save_and_end(started):
    """SIGUSR1 ends torchrun, which passes it on only if it is told to."""
    run = started()
    run.torchrun.send_signal(signal.SIGUSR1)
    assert run.ended() == -signal.SIGUSR1
    assert run.stopped_and_saved()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to", "options"),
    [
        *((number, "torchrun", ()) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)),
        (signal.SIGUSR1, "torchrun", ("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1",)),
        *((number, "one rank", ()) for number in (signal.SIGTERM, signal.SIGKILL)),
    ],
)
def test_what_torchrun_passes_on_or_one_rank_gets_ends_all(started, number, to, options):
    run = started(*options)
    os.kill(run.torchrun.pid if to == "torchrun" else run.ranks[1], number)
    assert run.ended() == 1
    assert number == signal.SIGKILL or run.stopped_and_saved()


def tasks(logs: Path, *words: str) -> list[tuple[int, str]]:
    """Exit code and output of two tasks of srun, as it would start them here."""
    step = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0", "SLURM_STEP_NODELIST": "localhost"}  # fmt: skip
    all_words = [*TINY, "budget.steps=4", f"paths.logs={logs}", f"paths.data={logs}", *words]
    started = []
    for number in ("0", "1"):
        task = environment() | step | {"SLURM_PROCID": number, "SLURM_LOCALID": number}
        line = [sys.executable, "train.py", *all_words]
        started.append(
            subprocess.Popen(line, cwd=ROOT, env=task, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    output = [each.communicate(timeout=180)[0] for each in started]
    return [(each.returncode, text) for each, text in zip(started, output, strict=True)]


@pytest.mark.slow
def test_tasks_of_srun_are_ranks_of_one_run(tmp_path):
    assert [code for code, _ in tasks(tmp_path, "strategy=ddp", "name=run")] == [0, 0]
    record = json.loads((tmp_path / "runs" / "run" / "run.json").read_text())
    assert (record["status"], record["provenance"]["environment"]["world_size"]) == ("finished", 2)


@pytest.mark.slow
def test_tasks_of_srun_with_one_device_each_are_runs_of_their_own(tmp_path):
    ended = tasks(tmp_path)  # without a name: the two must not take one folder
    assert [code for code, _ in ended] == [0, 0], ended
    folders = list((tmp_path / "runs").iterdir())
    assert len(folders) == 2
    for folder in folders:
        record = json.loads((folder / "run.json").read_text())
        assert (record["status"], record["provenance"]["environment"]["world_size"]) == ("finished", 1)
        assert find(folder).step == 4
