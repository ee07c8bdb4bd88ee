"""Processes that we start: waited for, ended with all that they started, and never left behind.

`python -m litespark.child_process MODULE:FUNCTION REQUEST ANSWER` calls a function with the content of one
JSON file and writes what it returns into the other; `… SCRIPT WORD …` runs a script as Python would.
"""

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import psutil

from litespark.atomic import write_whole
from litespark.light_torchmetrics import import_lightly
from litespark.parent import end_with_parent
from litespark.threads import decide_threads

PYTHON = (sys.executable, "-m", "litespark.child_process")
# 128 + SIGTERM, as shells count
_TERMINATED = 143
_POLL_SECONDS = 0.01
# what Hydra writes below a message of ours
_ADVICE = "Set the environment variable HYDRA_FULL_ERROR=1"


@dataclass(frozen=True)
class Ended:
    """How a process ended: by itself, stopped because it was to be, or with an error and its last line."""

    outcome: Literal["finished", "stopped", "failed"]
    error: str | None = None


class ChildError(ValueError):
    """A process did not answer."""


def run(
    command: Sequence[str],
    printed: Path,
    *,
    seconds: float | None = None,
    kill_when: Callable[[], bool] | None = None,
    grace: float = 0.0,
    environment: Mapping[str, str] | None = None,
) -> Ended:
    """Run a command to its end, in a group of its own, of which nothing is left then.

    An interrupt or a termination of this process stops it first.

    Args:
        printed: file for what it prints.
        seconds: after which it is stopped; None: never.
        kill_when: it is killed as soon as this holds, which is asked all the time; given without `seconds`.
        grace: seconds between SIGTERM, which the process alone gets, and the end of the whole group; 0: no SIGTERM.
        environment: laid over that of this process.
    """
    printed.parent.mkdir(parents=True, exist_ok=True)
    # unbuffered: the last line is the last that was printed
    variables = {**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})}
    stopped = False
    with printed.open("w") as output, _termination_raises():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
        try:
            while kill_when is not None and process.poll() is None and not stopped:
                time.sleep(_POLL_SECONDS)
                stopped = kill_when()
            if not stopped:
                process.wait(seconds)
        except subprocess.TimeoutExpired:
            stopped = True
            _ask_to_end(process, grace)
        except BaseException:
            _ask_to_end(process, grace)
            raise
        finally:
            status = _kill(process)
    if status == 0:
        return Ended("finished")
    return Ended("stopped") if stopped else Ended("failed", _how_it_ended(status, printed))


def ask(
    program: Sequence[str],
    request: object,
    folder: Path,
    *,
    seconds: float,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What `program REQUEST ANSWER` answers to plain values, such as `call("module:function")` for a program.

    Both files, and what it prints, are in `folder`.

    Raises:
        ChildError: it did not answer within so many seconds; the message holds the last line that it printed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, answer = folder / "request.json", folder / "answer.json"
    answer.unlink(missing_ok=True)
    asked.write_text(json.dumps(request), encoding="utf-8")
    ended = run([*program, str(asked), str(answer)], folder / "printed", seconds=seconds, environment=environment)
    if ended.outcome != "finished":
        raise ChildError(ended.error or f"did not end within {seconds:g} s; give it longer, or less to do")
    try:
        return json.loads(answer.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ChildError(f"ended without an answer: {error}") from error


def call(function: str) -> tuple[str, ...]:
    """The words that call `module:function` in a process of its own, with the content of a file."""
    return (*PYTHON, function)


def _ask_to_end(process: subprocess.Popen[bytes], grace: float) -> None:
    if grace > 0:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(grace)


def _kill(process: subprocess.Popen[bytes]) -> int:
    """Kill the group of a process and all below it, and return its status."""
    # torchrun gives each worker a session of its own, so the group alone would leave them running
    below = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    with suppress(ProcessLookupError):  # all have ended
        os.killpg(process.pid, signal.SIGKILL)
    for running in below:
        with suppress(psutil.NoSuchProcess):
            running.kill()
    return process.wait()


@contextmanager
def _termination_raises() -> Iterator[None]:
    """Within it a SIGTERM raises SystemExit, since the group of the child would not get the signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def raise_exit(number: int, frame: FrameType | None) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _how_it_ended(status: int, printed: Path) -> str:
    how = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    if status == -signal.SIGKILL:
        how += " (the host may be out of memory)"
    lines = [line.strip() for line in printed.read_text(errors="replace").splitlines()]
    lines = [line for line in lines if line and not line.startswith(_ADVICE)]
    return f"{how}: {lines[-1] if lines else 'it printed nothing'}"


def main(target: str, *words: str) -> None:
    """See the head of the module."""
    end_with_parent()  # one that goes on would hold the device
    decide_threads()  # before torch is imported
    import_lightly()
    module, colon, name = target.partition(":")
    if not colon:
        sys.argv = [target, *words]
        runpy.run_path(target, run_name="__main__")
        return
    asked, answer = map(Path, words)
    result = getattr(importlib.import_module(module), name)(json.loads(asked.read_text(encoding="utf-8")))
    write_whole(answer, json.dumps(result, allow_nan=False))


if __name__ == "__main__":
    main(*sys.argv[1:])
