"""Kill -9 in every phase, in one process and in several: the same command ends with the same bytes."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from litespark.data.config import PrepareConfig
from litespark.data.manifest import Manifest
from litespark.data.prepare.prepare import prepare
from litespark.data.select.config import SelectionConfig
from tests.data.corpus import config, documents, write_texts
from tests.data.prepare import interrupted
from tests.data.prepare.interrupted import ENVIRONMENT, REPOSITORY
from tests.data.prepare.reading import content


@pytest.fixture
def start() -> Iterator[Callable[[PrepareConfig, str], subprocess.Popen[str]]]:
    """Starts a preparation in a process of its own that stalls; none outlives the test."""
    started: list[subprocess.Popen[str]] = []

    def begin(settings: PrepareConfig, where: str) -> subprocess.Popen[str]:
        command = [sys.executable, interrupted.__file__, json.dumps(asdict(settings)), where]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=REPOSITORY
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def until_stalled(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stderr is not None
    said = process.stdout.readline()
    assert said == "stalled\n", said + process.stderr.read()


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text()
    return [int(child) for child in found.split()]


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def until_gone(processes: list[int]) -> None:
    deadline = time.monotonic() + 100
    while not all(map(gone, processes)):
        assert time.monotonic() < deadline, "a worker process outlives its parent"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 documents, some of them twice, in five units."""
    texts = documents(30)
    return write_texts(tmp_path_factory.mktemp("interrupted") / "text", [*texts, *texts[:5]])


def settings(source: Path, root: Path, processes: int = 1) -> PrepareConfig:
    selection = SelectionConfig(exact_duplicates=True)
    return config(source, root, unit_bytes=1500, processes=processes, selection=selection)


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> Path:
    return prepare(settings(source, source.parent / "undisturbed"), progress=False)


@pytest.fixture(scope="module")
def killed(source: Path) -> Path:
    """A folder for each place, in which a preparation was killed there."""
    root = source.parent / "killed"
    pairs = [(json.dumps(asdict(settings(source, root / where))), where) for where in interrupted.WHERE]
    command = [sys.executable, interrupted.__file__, *itertools.chain.from_iterable(pairs)]
    subprocess.run(command, env=ENVIRONMENT, cwd=REPOSITORY, timeout=300, check=True)
    return root


@pytest.mark.parametrize("where", interrupted.WHERE)
def test_killed_anywhere_the_same_command_ends_with_the_same_bytes(
    source, undisturbed, killed, tmp_path, where, capsys
):
    shutil.copytree(killed / where, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / undisturbed.name
    if where == "cleaning up":  # the last step: it is a data set already
        assert Manifest.read(folder)
    else:
        with pytest.raises(ValueError, match=r"no manifest\.json"):
            Manifest.read(folder)
        assert not list(folder.glob("*/*/index.json")) or "manifest" in where
    before = {path: path.stat().st_mtime_ns for path in folder.glob("train/*/chunk-[01]-*.bin")}
    assert prepare(settings(source, tmp_path)) == folder
    assert content(folder) == content(undisturbed)
    assert list(tmp_path.iterdir()) == [folder]
    if where == "between units":
        assert "3 of 5 units were found done" in capsys.readouterr().err
        assert {path: path.stat().st_mtime_ns for path in before} == before != {}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_workers_of_a_killed_preparation_end_at_once_and_the_same_command_does_the_rest(
    source, undisturbed, start, tmp_path, how
):
    process = start(settings(source, tmp_path, 2), "in a chunk")
    until_stalled(process)
    workers = children(process.pid)
    assert len(workers) >= 2
    process.send_signal(how)
    process.communicate(timeout=100)  # the stalled worker would sleep for two minutes
    assert process.returncode != 0
    until_gone(workers)
    folder = prepare(settings(source, tmp_path), progress=False)
    assert content(folder) == content(undisturbed)
    assert list(tmp_path.iterdir()) == [folder]


def test_two_preparations_at_once_end_with_one_folder(source, undisturbed, start, tmp_path):
    first = start(settings(source, tmp_path), "between units")
    until_stalled(first)
    second = start(settings(source, tmp_path), "nowhere")
    time.sleep(1.5)
    assert second.poll() is None, "the second did not wait"
    first.kill()
    first.wait()
    said, _ = second.communicate(timeout=240)
    folder = tmp_path / undisturbed.name
    assert said.strip() == str(folder)
    assert second.returncode == 0
    assert list(tmp_path.iterdir()) == [folder]
    assert content(folder) == content(undisturbed)


def test_a_worker_that_dies_is_an_error_and_what_is_done_is_kept(source, undisturbed, start, tmp_path):
    process = start(settings(source, tmp_path, 2), "between units")
    until_stalled(process)
    for worker in children(process.pid):
        if b"multiprocessing.spawn" in Path(f"/proc/{worker}/cmdline").read_bytes():
            os.kill(worker, signal.SIGKILL)
            break
    else:
        raise AssertionError("there is no worker")
    _, complaint = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "a process that prepared a unit ended by itself" in complaint
    assert "set data.processes below 2" in complaint
    folder = tmp_path / undisturbed.name
    assert not (folder / "manifest.json").exists()
    assert prepare(settings(source, tmp_path), progress=False) == folder
    assert content(folder) == content(undisturbed)
