"""A process that is asked to measure: what it gets, what is made of its answer, and that nothing of it stays behind.

The process is a small script in place of the command line, which starts in milliseconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from litespark.benchmarks.step.request import Request, launch
from litespark.metrics.records.base import RecordError
from litespark.metrics.records.origin import DeviceState
from litespark.metrics.records.step import RoundRecord

REQUEST = Request("mine", "litespark", ["a=2"], None, None, 2, 3, 4, round=1, position=5)
ANSWER = RoundRecord(
    1, 5, "measured", "none", step_ms=[1.5, 2.5, 3.0], tokens=96, attention_pairs=1600, joules_reason="none here",
    train_loss=[5.0, 4.5], loss=4.25, before=DeviceState(sm_clock_mhz=1980.0, throttle_reasons=["SwPowerCap"]),
)  # fmt: skip
START = "import json, os, subprocess, sys, time\nasked = json.load(open(sys.argv[-1]))\n"


def _launch(folder: Path, script: str, timeout: float = 200.0, request: Request = REQUEST) -> RoundRecord:
    path = folder / "process.py"
    path.write_text(START + script)
    return launch(request, ["a=1", "b=1"], folder / "work", timeout=timeout, program=[sys.executable, str(path)])


def _alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def _gone(pid: int) -> bool:
    end = time.monotonic() + 100
    while _alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not _alive(pid)


def test_a_process_gets_the_request_with_its_overrides_and_its_answer_is_returned(tmp_path):
    ANSWER.write(tmp_path / "answer")
    answer = _launch(
        tmp_path,
        f"json.dump({{'words': sys.argv[1:], 'asked': asked}}, open({str(tmp_path / 'seen')!r}, 'w'))\n"
        f"os.replace({str(tmp_path / 'answer')!r}, asked['output'])\n",
    )
    assert answer == ANSWER
    seen = json.loads((tmp_path / "seen").read_text())
    # the variant's settings come last, so that they win
    assert seen["words"][:-1] == ["a=1", "b=1", "a=2", "--process"]
    assert seen["asked"]["overrides"] == ["a=1", "b=1", "a=2"]
    assert 0 <= time.time() - seen["asked"]["started"] < 60
    assert {name: seen["asked"][name] for name in ("variant", "steps", "position")} == {
        "variant": "mine", "steps": 3, "position": 5
    }  # fmt: skip


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("sys.stderr.write('Traceback\\nValueError: too wide\\n\\n'); sys.exit(3)", "status 3: ValueError: too wide"),
        ("os.kill(os.getpid(), 9)", r"SIGKILL \(the host may be out of memory\): it printed nothing"),
        ("os.kill(os.getpid(), 11)", "SIGSEGV"),
        ("pass", "ended without an answer: .*No such file"),
        ("open(asked['output'], 'w').write('{\"round\": 1')", "ended without an answer: .*not a valid RoundRecord"),
        ("open(asked['output'], 'w').write('{}')", "round: missing"),
    ],
)
def test_a_process_without_an_answer_has_failed_with_its_last_words(tmp_path, script, error):
    answer = _launch(tmp_path, script)
    assert (answer.outcome, answer.round, answer.position) == ("failed", 1, 5)
    assert answer.error is not None
    assert re.search(error, answer.error), answer.error


def test_an_answer_of_an_earlier_process_is_not_taken(tmp_path):
    old = tmp_path / "old.json"
    ANSWER.write(old)
    assert _launch(tmp_path, "pass", request=replace(REQUEST, output=str(old))).outcome == "failed"


def test_a_process_that_takes_too_long_ends_with_its_children(tmp_path):
    pids = tmp_path / "pids"
    answer = _launch(
        tmp_path,
        "child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(60)\n",
        timeout=1.0,
    )
    assert answer.outcome == "failed"
    assert answer.error == "did not end within 1 s; give it longer, or fewer steps"
    assert all(_gone(int(pid)) for pid in pids.read_text().split())


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_an_interrupt_or_a_termination_ends_the_process_first(tmp_path, number, raised):
    pid = tmp_path / "pid"

    def interrupt_when_started():
        end = time.monotonic() + 100
        while not (pid.exists() and pid.read_text().endswith("\n")) and time.monotonic() < end:
            time.sleep(0.01)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt_when_started)
    thread.start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(raised):
        _launch(tmp_path, f"print(os.getpid(), file=open({str(pid)!r}, 'w'), flush=True)\ntime.sleep(60)\n")
    thread.join()
    assert _gone(int(pid.read_text()))
    assert signal.getsignal(signal.SIGTERM) is before


def test_requests_and_answers_come_back_as_they_were_written(tmp_path):
    REQUEST.write(tmp_path / "request")
    assert asdict(Request.read(tmp_path / "request")) == asdict(REQUEST)
    ANSWER.write(tmp_path / "answer")
    assert RoundRecord.read(tmp_path / "answer") == ANSWER


def test_a_request_with_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "request"
    REQUEST.write(path)
    path.write_text(path.read_text().replace('"layers"', '"layer"'))
    with pytest.raises(RecordError, match="layers: missing"):
        Request.read(path)
