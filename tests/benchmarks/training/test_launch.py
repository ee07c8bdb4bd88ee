"""Runs are started, stopped, continued and ended; a small script stands in for train.py."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from litespark.benchmarks.training import launch as module
from litespark.benchmarks.training.launch import Ended, Training, tidy, train
from tests.metrics.records.hand_made import make_record
from tests.metrics.training_records import to_target


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a run of a script; it finds its folder and words in `folder` and `words`."""
    monkeypatch.setattr(module, "can_resume", lambda folder: (folder / "saved").exists())

    def make(body, seconds=None):
        head = f"""
            import os, signal, sys, time
            from pathlib import Path
            folder, words = Path({str(tmp_path / "logs" / "runs" / "run")!r}), sys.argv[1:]
            folder.mkdir(parents=True, exist_ok=True)
        """
        script = tmp_path / "train.py"
        script.write_text(textwrap.dedent(head) + textwrap.dedent(body))
        return Training(script, ("seed=1",), tmp_path / "logs", "run", seconds)

    return make


def test_a_run_is_started_with_its_name_and_folder(fake, tmp_path):
    assert train(fake("(folder / 'words').write_text(' '.join(words))")) == Ended("finished")
    words = (tmp_path / "logs" / "runs" / "run" / "words").read_text()
    assert words == f"seed=1 paths.logs={tmp_path / 'logs'} name=run"


def test_a_folder_is_given_in_the_quotes_that_hydra_needs(fake, tmp_path):
    training = fake("(folder / 'words').write_text('\\n'.join(words)); (folder / 'saved').touch()")
    logs = tmp_path / "logs (a, b)"
    training = replace(training, logs=logs)
    train(training)
    said = tmp_path / "logs" / "runs" / "run" / "words"
    assert said.read_text().splitlines()[1:] == [f'paths.logs="{logs}"', "name=run"]
    (training.folder / "saved").mkdir(parents=True)
    train(training)
    words = said.read_text().splitlines()
    assert words[-1] == f'resume="{training.folder}"'
    values = [each.value() for each in OverridesParser.create().parse_overrides(words)]
    assert values == [1, str(logs), str(training.folder)]


@pytest.mark.parametrize(
    "below", ["", "\n\nSet the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace."]
)
def test_a_run_that_fails_says_its_last_words(fake, below):
    assert train(fake(f"print({'ValueError: too wide' + below!r}); sys.exit(3)")) == Ended(
        "failed", "ended with status 3: ValueError: too wide"
    )


def test_a_run_is_stopped_in_time_saved_and_continued(fake, tmp_path):
    body = """
        if any(word.startswith("resume=") for word in words):
            (folder / "words").write_text(" ".join(words))
            sys.exit(0)
        def save(*_):
            (folder / "saved").touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        time.sleep(60)
    """
    began = time.monotonic()
    assert train(fake(body, seconds=2.0)) == Ended("stopped")
    assert time.monotonic() - began < 20
    assert train(fake(body)) == Ended("finished")
    folder = tmp_path / "logs" / "runs" / "run"
    assert (folder / "words").read_text().endswith(f"resume={folder}")


def test_what_cannot_be_continued_begins_anew(fake, tmp_path):
    folder = tmp_path / "logs" / "runs" / "run"
    folder.mkdir(parents=True)
    (folder / "half").touch()
    train(fake("(folder / 'words').write_text(' '.join(words))"))
    assert sorted(path.name for path in folder.iterdir()) == ["words"]


def test_a_run_that_does_not_save_in_time_is_ended(fake, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_TO_SAVE", 0.5)
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    began = time.monotonic()
    assert train(fake(body, seconds=2.0)) == Ended("stopped")
    assert time.monotonic() - began < 20


def test_an_interrupt_lets_the_run_save_first(fake, tmp_path):
    body = f"""
        def save(*_):
            (folder / "saved").touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        os.kill({os.getpid()}, signal.SIGINT)
        time.sleep(60)
    """
    # Lightning leaves it ignored after a run that was interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            train(fake(body))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "logs" / "runs" / "run" / "saved").exists()


def test_a_run_does_not_outlive_a_benchmark_that_is_killed(fake, tmp_path):
    training = fake("(folder / 'started').write_text(str(os.getpid())); time.sleep(60)")
    started = training.folder / "started"
    benchmark = textwrap.dedent(f"""
        from pathlib import Path
        from litespark.benchmarks.training.launch import Training, train
        train(Training(Path({str(training.script)!r}), (), Path({str(training.logs)!r}), "run"))
    """)
    process = subprocess.Popen([sys.executable, "-c", benchmark], start_new_session=True)
    try:
        assert until(lambda: started.is_file() and started.read_text(), 60)
        process.kill()
        process.wait()
        assert until(lambda: not is_running(int(started.read_text())), 10)
    finally:
        process.kill()
        process.wait()


def until(true, seconds):
    """Wait for something at most so long; whether it came."""
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.1)
    return bool(found)


def is_running(number):
    """Whether there is such a process that has not ended; one that nobody waited for is listed as a zombie."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_finished_run_is_not_started_again(fake, tmp_path):
    folder = tmp_path / "logs" / "runs" / "run"
    folder.mkdir(parents=True)
    make_record(status="finished").write(folder / "run.json")
    assert train(fake("sys.exit(3)")) == Ended("finished")
    make_record(status="running").write(folder / "run.json")
    assert train(fake("sys.exit(3)")).outcome == "failed"


def test_only_the_state_of_a_run_is_removed(tmp_path):
    (tmp_path / "checkpoints" / "step-1").mkdir(parents=True)
    (tmp_path / "run.json").touch()
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    tidy(tmp_path)


def test_the_seed_comes_after_what_the_benchmark_was_given_and_other_code_is_another_run(tmp_path):
    origin = to_target().provenance

    def run(of):
        return Training.of(of, "muon", 2, ["optim=adamw", "seed=5", "optim=muon"], script=tmp_path, logs=tmp_path)

    training = run(origin)
    assert training.overrides[:4] == ("optim=adamw", "seed=5", "optim=muon", "seed=2")
    assert "callbacks.checkpoint_at_end=false" in training.overrides
    assert training.name.startswith("muon-2-")
    assert run(replace(origin, source_hash="other")).name != training.name == run(origin).name
