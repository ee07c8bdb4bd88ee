"""A process that is asked: what it gets, what is made of its answer, and that nothing of it stays behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from litespark.child_process import PYTHON, ChildError, Ended, ask, call, run

START = "import json, os, signal, subprocess, sys, time\nfrom pathlib import Path\n"
NEVER = 600.0


def script(folder: Path, body: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(START + textwrap.dedent(body))
    return [sys.executable, str(path)]


def until(true) -> bool:
    end = time.monotonic() + 100.0
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(found)


def written(file: Path) -> bool:
    """Whether a script has written its line."""
    return until(lambda: file.is_file() and file.read_text().endswith("\n"))


def gone(file: Path) -> bool:
    """Whether the processes that a file lists have ended; one that nobody waited for is listed as a zombie."""
    processes = [int(number) for number in file.read_text().split()]

    def ended(number: int) -> bool:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(number).status() == psutil.STATUS_ZOMBIE
        return True

    return until(lambda: all(map(ended, processes)))


def saving(folder: Path, at_termination: str = "save") -> list[str]:
    """A script that writes its number into `started` and sleeps; at SIGTERM it writes `saved` and ends."""
    body = f"""
        def save(*_):
            Path({str(folder / "saved")!r}).touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, {at_termination})
        Path({str(folder / "started")!r}).write_text(f'{{os.getpid()}}\\n')
        time.sleep(60)
    """
    return script(folder, body)


@pytest.fixture
def time_is_up(monkeypatch, tmp_path):
    """Lets the time that a process has, `NEVER`, be over as soon as it has written into `started`."""
    honest = subprocess.Popen.wait

    def wait(process, timeout=None):
        if timeout != NEVER:
            return honest(process, timeout)
        assert written(tmp_path / "started")
        raise subprocess.TimeoutExpired("it", timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", wait)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("sys.stderr.write('Traceback\\nValueError: too wide\\n\\n'); sys.exit(3)", "status 3: ValueError: too wide"),
        ("print('bad\\n\\nSet the environment variable HYDRA_FULL_ERROR=1 for more'); sys.exit(1)", "status 1: bad"),
        ("os.kill(os.getpid(), 9)", r"SIGKILL \(the host may be out of memory\): it printed nothing"),
        ("pass", "ended without an answer: .*No such file"),
        ("Path(sys.argv[2]).write_text('{\"round\": 1')", "ended without an answer"),
    ],
)
def test_a_process_without_an_answer_has_failed_with_its_last_words(tmp_path, body, error):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "answer.json").write_text('"of an earlier process"')
    with pytest.raises(ChildError, match=error):
        ask(script(tmp_path, body), None, tmp_path / "work", seconds=NEVER)


def with_children(folder: Path) -> list[str]:
    """A script that sleeps, and so do its children; one is in a session of its own, as torchrun's workers are."""
    body = f"""
        children = [subprocess.Popen(['sleep', '60'], start_new_session=apart) for apart in (False, True)]
        numbers = [os.getpid(), *(child.pid for child in children)]
        Path({str(folder / "started")!r}).write_text(' '.join(map(str, numbers)) + '\\n')
        time.sleep(60)
    """
    return script(folder, body)


def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path, time_is_up):
    with pytest.raises(ChildError, match="did not end within 600 s"):
        ask(with_children(tmp_path), None, tmp_path / "work", seconds=NEVER)
    assert gone(tmp_path / "started")


def test_a_process_is_killed_with_its_children_when_a_condition_holds(tmp_path):
    started = tmp_path / "started"
    ended = run(with_children(tmp_path), tmp_path / "printed", kill_when=lambda: started.is_file() and written(started))
    assert ended == Ended("stopped")
    assert gone(started)


def test_a_process_that_ends_before_the_condition_holds_has_ended_by_itself(tmp_path):
    for body, outcome in (("pass", "finished"), ("sys.exit(3)", "failed")):
        assert run(script(tmp_path, body), tmp_path / "printed", kill_when=lambda: False).outcome == outcome


@pytest.mark.parametrize(("at_termination", "grace"), [("save", 100.0), ("signal.SIG_IGN", 0.2)])
def test_a_run_that_is_stopped_saves_first_unless_that_takes_too_long(tmp_path, time_is_up, at_termination, grace):
    ended = run(saving(tmp_path, at_termination), tmp_path / "printed", seconds=NEVER, grace=grace)
    assert ended == Ended("stopped")
    assert (tmp_path / "saved").exists() is (at_termination == "save")
    assert gone(tmp_path / "started")


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupt_or_a_termination_stops_the_process_first(tmp_path, number, raised):
    thread = threading.Thread(target=lambda: (written(tmp_path / "started"), os.kill(os.getpid(), number)))
    # Lightning leaves it ignored after a run that was interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    at_termination = signal.getsignal(signal.SIGTERM)
    thread.start()
    try:
        with pytest.raises(raised):
            run(saving(tmp_path), tmp_path / "printed", grace=100.0)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists()
    assert gone(tmp_path / "started")
    assert signal.getsignal(signal.SIGTERM) is at_termination


def test_a_script_does_not_outlive_a_benchmark_that_is_killed(tmp_path):
    (tmp_path / "inner").mkdir()
    inner = saving(tmp_path / "inner", "signal.SIG_DFL")[-1]
    benchmark = f"""
        from litespark.child_process import run
        run({[*PYTHON, inner]!r}, Path({str(tmp_path / "printed")!r}))
    """
    process = subprocess.Popen(script(tmp_path, benchmark), start_new_session=True)
    try:
        assert written(tmp_path / "inner" / "started")
    finally:
        process.kill()
        process.wait()
    assert gone(tmp_path / "inner" / "started")


def test_a_function_or_a_script_is_run_with_its_words(tmp_path, monkeypatch):
    (tmp_path / "measuring.py").write_text("import os\ndef answer(asked):\n    return [asked, os.environ['MINE']]\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    request, mine = {"a": [1, None]}, {"MINE": "yes"}
    answer = ask(call("measuring:answer"), request, tmp_path / "work", seconds=NEVER, environment=mine)
    assert answer == [request, "yes"]
    words = tmp_path / "words.py"
    words.write_text(f"{START}assert __name__ == '__main__'\nprint(sys.argv)")
    assert run([*PYTHON, str(words), "a=1", "b=2"], tmp_path / "printed") == Ended("finished")
    assert json.loads((tmp_path / "printed").read_text().replace("'", '"')) == [str(words), "a=1", "b=2"]
