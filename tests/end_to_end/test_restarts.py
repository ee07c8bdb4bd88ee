"""One command line with `resume=auto` starts a run, and continues it after kill -9 until it is finished."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.end_to_end import runs
from tests.end_to_end.runs import ROOT, assert_bit_equal, command, environment, final_state, metrics, train

STEPS = 16
EVERY = 4
OVERRIDES = [*runs.TINY, "data.training_sequences=40", f"budget.steps={STEPS}", f"callbacks.checkpoint_every={EVERY}",
             "callbacks.checkpoint_keep=20"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("restarts")
    runs.write_text(folder / "text")
    return folder


def overrides(place: Path, *more: str) -> list[str]:
    return [*OVERRIDES, f"data.source={place}/text", f"paths.data={place}/data", f"paths.logs={place}/logs", *more]


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Path:
    train(*overrides(place, "name=undisturbed"))
    return place / "logs/runs/undisturbed"


def assert_same(folder: Path, reference: Path, reasons: list[str]) -> None:
    ended, expected = final_state(folder, STEPS), final_state(reference, STEPS)
    for part in ("state_dict", "optimizer_states", "TokenDataModule"):
        assert_bit_equal(ended[part], expected[part], part)
    assert ended["litespark"]["tokens_seen"] == expected["litespark"]["tokens_seen"]
    assert metrics(folder, "train/loss") == metrics(reference, "train/loss")
    record = json.loads((folder / "run.json").read_text())
    assert ([segment["reason"] for segment in record["segments"]], record["status"]) == (reasons, "finished")


def test_the_command_that_started_a_killed_run_goes_on_with_it_and_leaves_a_finished_one(place, undisturbed):
    folder = place / "logs/runs/auto"
    same = overrides(place, "name=auto", "resume=auto")
    runs.train_and_kill(folder, EVERY, *same)
    said = train(*same)
    assert f"resuming in {folder}" in said
    assert_same(folder, undisturbed, ["start", "resume"])
    before = (folder / "run.json").read_bytes()
    assert "nothing is left to do" in train(*same)
    assert (folder / "run.json").read_bytes() == before


def test_a_run_that_was_killed_before_it_saved_is_started_again(place, undisturbed):
    folder = place / "logs/runs/early"
    same = overrides(place, "name=early", "resume=auto", f"callbacks.checkpoint_every={STEPS}")
    with runs.started(runs.train_py, *same, output=Path(os.devnull), environment=environment()) as run:
        deadline = time.monotonic() + 120
        while not ((rows := folder / "metrics.jsonl").is_file() and rows.stat().st_size):
            assert run.exitcode is None
            assert time.monotonic() < deadline
            time.sleep(0.002)
        run.kill()
        run.join()
    assert not list((folder / "checkpoints").glob("step-*"))
    train(*same)
    assert_same(folder, undisturbed, ["start"])


def ranks_of(torchrun: subprocess.Popen) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(torchrun.pid).children()
        if "RANK" in child.environ() and "train.py" in " ".join(child.cmdline())
    ]


@pytest.mark.slow
def test_torchrun_restarts_a_run_whose_rank_was_killed_and_it_ends_finished(place, undisturbed):
    folder = place / "logs/runs/elastic"
    line = command(*overrides(place, "name=elastic", "resume=auto", "strategy=ddp"), processes=2)
    line.insert(line.index("--standalone"), "--max-restarts=1")
    output = place / "elastic.txt"
    with output.open("wb") as file:
        torchrun = subprocess.Popen(line, cwd=ROOT, env=environment(), stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 180
        while not (folder / f"checkpoints/step-{EVERY:08d}").is_dir():
            assert torchrun.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.002)
        (killed,) = [rank for rank in ranks_of(torchrun) if rank.environ()["RANK"] == "1"]
        os.kill(killed.pid, signal.SIGKILL)
        assert torchrun.wait(180) == 0, output.read_text()
    finally:
        torchrun.kill()
    assert_same(folder, undisturbed, ["start", "resume"])
