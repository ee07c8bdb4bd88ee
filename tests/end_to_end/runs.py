"""Runs `train.py` on a text and a model that take seconds.

A run of one process that nothing disturbs is made in this one, where torch is imported already; others in processes
where it is too (`tests.warm_processes`), and some are started as a user does.
"""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import torch

from litespark.cli import main
from tests.checkpoints import state_in
from tests.process_state import as_before
from tests.warm_processes import ROOT, run_ranks, started, train_py

TINY = (
    "model.vocab_size=300 model.hidden_size=32 model.num_layers=2 model.num_heads=2 "
    "model.num_kv_heads=1 model.intermediate_size=64 "
    "data.seq_len=32 data.micro_batch_size=4 data.validation_sequences=8 "
    "trainer.global_batch_size=8 trainer.log_every=1 "
    "precision=fp32 budget.tokens=null metrics.probe_seconds=0 callbacks.report=false callbacks.sample_tokens=4"
).split()


def write_text(folder: Path, documents: int = 60, words: int = 300) -> Path:
    """A folder of small text files of made-up words; the same for the same arguments."""
    source = random.Random(0)
    vocab_size = ["".join(source.choices("abcdefghij", k=source.randint(2, 6))) for _ in range(200)]
    folder.mkdir(parents=True)
    for number in range(documents):
        (folder / f"{number}.txt").write_text(" ".join(source.choices(vocab_size, k=words)))
    return folder


def command(*overrides: str, processes: int = 1) -> list[str]:
    """The command line of a run."""
    if processes == 1:
        return [sys.executable, "train.py", *overrides]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return [*launcher, "train.py", *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"}


def train(*overrides: str, expect: int = 0) -> str:
    """Run to the end and return what was printed; fails unless the exit code is the expected one."""
    printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with as_before(), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = main(["train", *overrides])
    said = printed.buffer.getvalue().decode()
    assert code == expect, f"exit code {code}, expected {expect}:\n{said}"
    return said


def train_apart(*overrides: str, processes: int = 1, timeout: float = 300, expect: int = 0) -> str:
    """The same in processes of their own."""
    done = subprocess.run(command(*overrides, processes=processes), cwd=ROOT, env=environment(), text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout, check=False)  # fmt: skip
    assert done.returncode == expect, f"exit code {done.returncode}:\n{done.stdout}"
    return done.stdout


def train_forked(*overrides: str, timeout: float = 300) -> str:
    """The same in a process that is forked from one which has imported what a run needs."""
    with tempfile.NamedTemporaryFile() as file:
        with started(train_py, *overrides, output=Path(file.name), environment=environment()) as run:
            run.join(timeout)
            said = Path(file.name).read_text()
            assert run.exitcode == 0, f"exit code {run.exitcode}:\n{said}"
    return said


def train_on_ranks(*overrides: str, processes: int = 2) -> None:
    """The same in several, without torchrun."""
    run_ranks(processes, train_py, *overrides)


def train_and_kill(folder: Path, after_step: int, *overrides: str, timeout: float = 300) -> None:
    """Start a run that writes into `folder`, and kill it with SIGKILL once a checkpoint is there."""
    with started(train_py, *overrides, output=Path(os.devnull), environment=environment()) as run:
        deadline = time.monotonic() + timeout
        while not (folder / "checkpoints" / f"step-{after_step:08d}").is_dir():
            assert run.exitcode is None, f"the run ended before step {after_step} with {run.exitcode}"
            assert time.monotonic() < deadline, "the run wrote no checkpoint in time"
            time.sleep(0.002)
        run.kill()
        run.join()
        assert run.exitcode == -signal.SIGKILL, "the run was over before it could be killed"


def train_ranks_and_kill(folder: Path, after_step: int, *overrides: str, processes: int, timeout: float = 300) -> None:
    """The same of processes that torchrun started."""
    torchrun = subprocess.Popen(
        command(*overrides, processes=processes),
        cwd=ROOT,
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + timeout
    while not (folder / "checkpoints" / f"step-{after_step:08d}").is_dir():
        assert torchrun.poll() is None, f"the run ended before step {after_step} with {torchrun.returncode}"
        assert time.monotonic() < deadline, "the run wrote no checkpoint in time"
        time.sleep(0.002)
    running = psutil.Process(torchrun.pid)
    for process in (*running.children(recursive=True), running):  # torchrun puts its workers into sessions of their own
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    assert torchrun.wait() == -signal.SIGKILL, "the run was over before it could be killed"


def final_state(folder: Path, step: int) -> dict:
    """What the checkpoint of `step` holds, without the timings of the machine."""
    state = state_in(folder / "checkpoints" / f"step-{step:08d}")
    return {key: state[key] for key in ("state_dict", "optimizer_states", "litespark", "TokenDataModule")}


def metrics(folder: Path, key: str) -> list[float]:
    """All values of a metric in a run's metrics.jsonl, by step."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row[key] for row in rows if key in row]


def assert_bit_equal(left: Any, right: Any, where: str = "state") -> None:
    """Fail at the first place where two nested states differ by as much as one bit."""
    if isinstance(left, torch.Tensor):
        assert torch.equal(left, right), f"{where} differs"
    elif isinstance(left, dict):
        assert left.keys() == right.keys(), f"{where}: keys differ"
        for key in left:
            assert_bit_equal(left[key], right[key], f"{where}/{key}")
    elif isinstance(left, list | tuple):  # a state dict gathered over ranks holds tuples where a plain one holds lists
        assert len(left) == len(right), f"{where}: lengths differ"
        for index, pair in enumerate(zip(left, right, strict=True)):
            assert_bit_equal(*pair, f"{where}[{index}]")
    else:
        assert left == right, f"{where}: {left!r} and {right!r}"
