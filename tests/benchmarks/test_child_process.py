"""A process that is asked: what it gets, what is made of its answer, and that nothing of it stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from litespark.benchmarks.child_process import PYTHON, ChildError, Ended, ask, call, run

START = "import json, os, signal, subprocess, sys, time\nfrom pathlib import Path\n"
NEVER = 600.0


def script(folder: Path, body: str) -> list[str]:
    path = folder / "script.py"
    path.write_text(START + textwrap.dedent(body))
    return [sys.executable, str(path)]


def asked(folder: Path, body: str, request: object = None, **more: object) -> object:
    """What a script answers, which finds the words in sys.argv."""
    return ask(script(folder, body), request, folder / "work", **({"seconds": NEVER} | more))  # type: ignore[arg-type]


def until(true, seconds: float = 100.0) -> bool:
    end = time.monotonic() + seconds
    while not (found := true()) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(found)


def alive(pid: int) -> bool:
    """One that nobody waited for is listed as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    return until(lambda: not alive(pid))


@pytest.fixture
def time_is_up_when(monkeypatch):
    """Lets the time that a process has, `NEVER`, be over as soon as a file is there."""

    def over(file: Path) -> None:
        honest = subprocess.Popen.wait

        def wait(process, timeout=None):
            if timeout != NEVER:
                return honest(process, timeout)
            assert until(lambda: file.exists() and file.read_text().endswith("\n"))
            raise subprocess.TimeoutExpired("it", timeout)

        monkeypatch.setattr(subprocess.Popen, "wait", wait)

    return over


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
        asked(tmp_path, body)


def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path, time_is_up_when):
    pids = tmp_path / "pids"
    time_is_up_when(pids)
    body = f"""
        child = subprocess.Popen(['sleep', '60'])
        Path({str(pids)!r}).write_text(f'{{os.getpid()}} {{child.pid}}\\n')
        time.sleep(60)
    """
    with pytest.raises(ChildError, match="did not end within 600 s"):
        asked(tmp_path, body)
    assert all(gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize("stubborn", [False, True])
def test_a_run_that_is_stopped_saves_first_unless_that_takes_too_long(tmp_path, time_is_up_when, stubborn):
    started, saved = tmp_path / "started", tmp_path / "saved"
    time_is_up_when(started)
    body = f"""
        def save(*_):
            Path({str(saved)!r}).touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if {stubborn} else save)
        Path({str(started)!r}).write_text(f'{{os.getpid()}}\\n')
        time.sleep(60)
    """
    ended = run(script(tmp_path, body), tmp_path / "printed", seconds=NEVER, grace=0.2 if stubborn else 100.0)
    assert ended == Ended("stopped")
    assert saved.exists() is not stubborn
    assert gone(int(started.read_text()))


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupt_or_a_termination_stops_the_process_first(tmp_path, number, raised):
    pid, saved = tmp_path / "pid", tmp_path / "saved"
    body = f"""
        def save(*_):
            Path({str(saved)!r}).touch()
            sys.exit(75)
        signal.signal(signal.SIGTERM, save)
        Path({str(pid)!r}).write_text(f'{{os.getpid()}}\\n')
        time.sleep(60)
    """

    def interrupt_when_started():
        until(lambda: pid.exists() and pid.read_text().endswith("\n"))
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt_when_started)
    # Lightning leaves it ignored after a run that was interrupted
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    at_termination = signal.getsignal(signal.SIGTERM)
    thread.start()
    try:
        with pytest.raises(raised):
            run(script(tmp_path, body), tmp_path / "printed", grace=100.0)
    finally:
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert saved.exists()
    assert gone(int(pid.read_text()))
    assert signal.getsignal(signal.SIGTERM) is at_termination


def test_a_script_does_not_outlive_a_benchmark_that_is_killed(tmp_path):
    started = tmp_path / "started"
    inner = tmp_path / "inner.py"
    inner.write_text(f"{START}Path({str(started)!r}).write_text(f'{{os.getpid()}}\\n'); time.sleep(60)")
    command = [*PYTHON, str(inner)]
    benchmark = f"""
        from litespark.benchmarks.child_process import run
        run({command!r}, Path({str(tmp_path / "printed")!r}))
    """
    process = subprocess.Popen(script(tmp_path, benchmark), start_new_session=True)
    try:
        assert until(lambda: started.is_file() and started.read_text().endswith("\n"))
    finally:
        process.kill()
        process.wait()
    assert gone(int(started.read_text()))


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
