"""The process in which functions of rewards run: one that hangs can be ended, and one that crashes ends no training.

Requests and answers are lines of JSON over its standard input and output; what a function prints goes to the error
stream. `python -m litespark.tasks.grpo.worker` is that process, and imports no torch.
"""

import importlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import IO, Any

from litespark.parent import end_with_parent
from litespark.tasks.grpo.rewards import REWARDS, Group, Reward

_COMMAND = (sys.executable, "-m", "litespark.tasks.grpo.worker")


class FailedRewardError(Exception):
    """A function gave no rewards; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class RewardWorker:
    """Calls functions by name in a process of their own, which is started when it is needed, and anew where it ended.

    Args:
        seconds: how long a call may take; the start of the process, and the imports of a function, are not counted.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._known: set[str] = set()

    def __call__(self, name: str, group: Group) -> list[Any]:
        """What the function `name` returns for a group; FailedRewardError where it does not."""
        self.load(name)
        count = len(group.completions)
        request = {
            "call": name,
            "prompts": [group.prompt] * count,
            "completions": list(group.completions),
            "columns": [dict(group.columns)] * count,
        }
        return list(self._ask(request, self.seconds))

    def load(self, name: str) -> None:
        """Import the function; FailedRewardError where that fails."""
        if self._process is None or self._process.poll() is not None:
            self.close()
            pipe = subprocess.PIPE
            self._process = subprocess.Popen(_COMMAND, start_new_session=True, stdin=pipe, stdout=pipe, bufsize=0)
        if name not in self._known:
            self._ask({"load": name}, None)
            self._known.add(name)

    def close(self) -> None:
        """End the process."""
        process, self._process, self._known = self._process, None, set()
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with what a function started
            process.wait()
            for stream in (process.stdin, process.stdout):
                assert stream is not None
                stream.close()

    def _ask(self, request: dict[str, Any], seconds: float | None) -> Any:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            answer = _line(process.stdout, seconds)
        except BrokenPipeError:
            answer = b""
        if answer is None:
            self.close()
            raise FailedRewardError("hung", f"{request['call']} took longer than {seconds:g} s")
        if not answer:
            self.close()
            raise FailedRewardError("crashed", f"{next(iter(request.values()))} ended its process")
        said = json.loads(answer)
        if "raised" in said:
            raise FailedRewardError("raised", said["raised"])
        return said["answer"]


def _line(stream: IO[bytes], seconds: float | None) -> bytes | None:
    """The next line, nothing where the stream ends, None where it takes longer."""
    end = None if seconds is None else time.monotonic() + seconds
    held = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not held.endswith(b"\n"):
            left = None if end is None else max(0.0, end - time.monotonic())
            if not selector.select(left):
                return None
            read = os.read(stream.fileno(), 1 << 16)
            if not read:
                return b""
            held += read
    return bytes(held)


def reward_named(name: str) -> Reward:
    """One of `REWARDS`, or what a dotted name means, which the caller has allowed."""
    if name in REWARDS:
        return REWARDS[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        raise ValueError(f"there is no reward {name}")
    found: Reward = getattr(importlib.import_module(module), attribute)
    return found


def main() -> None:
    """Answer until the input ends."""
    end_with_parent()
    own = os.getpid()
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin.buffer:
        request = json.loads(line)
        try:
            if "load" in request:
                reward_named(request["load"])
                said: dict[str, Any] = {"answer": None}
            else:
                given = (request[of] for of in ("prompts", "completions", "columns"))
                said = {"answer": [_number(value) for value in reward_named(request["call"])(*given)]}
        except Exception as error:  # noqa: BLE001 (whatever it is, it is told)
            said = {"raised": f"{type(error).__name__}: {error}"}
        if os.getpid() != own:  # a function has forked and come back twice
            os._exit(0)
        answers.write(json.dumps(said).encode() + b"\n")


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


if __name__ == "__main__":
    main()
