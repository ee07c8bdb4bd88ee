"""Verifies for a given config that a killed run continues exactly: trains undisturbed, trains and kills, compares.

Both runs have the same budget, since the learning rate depends on it. The second one is killed with SIGKILL after its
checkpoint at step N is sealed, and continued from that checkpoint. The two states after the last step have to agree
bit for bit. The runs are processes of their own, started as a user starts them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from litespark.ranges import Count, Processes, check_number
from litespark.run.checkout import QUIET
from litespark.run.folder import CHECKPOINTS
from litespark.training.checkpoint.folder import Checkpoint, find, finished, read
from litespark.training.checkpoint.state import read_state

_POLL_SECONDS = 0.01
_LINES_SHOWN = 15


class RunFailedError(ValueError):
    """A run of the check ended by itself with an error."""


@dataclass(frozen=True)
class Verdict:
    """What the comparison came to.

    Attributes:
        compared: how many values agreed or not, by part of the state.
        difference: the first value that differs, in words; None: all agree.
        steps: optimizer steps of both runs.
        resumed_from: step of the checkpoint that the killed run continued from.
        killed_after: the newest step that the killed run had saved by then; `steps` where it ended before the kill.
    """

    compared: Mapping[str, int]
    difference: str | None
    steps: int
    resumed_from: int
    killed_after: int

    def __str__(self) -> str:
        history = f"Killed after step {self.killed_after} was saved"
        if self.killed_after == self.steps:
            history = "Too short to be killed in time (what it saved at the end was put aside)"
        history += f", resumed from step {self.resumed_from} to {self.steps}."
        if self.difference is not None:
            return f"{history}\nNOT the same as the undisturbed run. First difference in {self.difference}"
        parts = ", ".join(f"{count} of {part}" for part, count in self.compared.items() if count)
        return f"{history}\nThe same bit for bit as the undisturbed run. Values compared: {parts}."


def verify_resume(
    script: Path,
    overrides: Sequence[str],
    *,
    steps: int,
    more: int,
    processes: int = 1,
    say: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Train `steps + more` steps undisturbed and with a kill in between, and compare what is left.

    Everything is written below a temporary folder (TMPDIR decides where) and removed at the end.

    Args:
        script: `train.py`.
        overrides: the config to check; budget, checkpoints and log folder are set here, whatever they say of them.
        steps: N, after which the killed run's checkpoint is written.
        more: M, how many the resumed run adds.
        processes: more than one start through torchrun, with `strategy=ddp` unless a strategy is given.
        say: is told what is done next.

    Raises:
        RunFailedError: a run ended with an error; its last lines are in the message.
        ValueError: a number below 1, or `resume` among the overrides.
    """
    for name, value, hint in (("--steps", steps, Count), ("--more", more, Count), ("--nproc", processes, Processes)):
        check_number(name, value, hint)
    for override in overrides:
        if override.startswith("resume="):
            raise ValueError(f"got {override}, expected the config of a new run; this check makes and resumes its own")
    with tempfile.TemporaryDirectory(prefix="litespark-verify-resume-") as temporary:
        logs = Path(temporary)
        start = _Starter(script, overrides, logs, steps + more, processes)
        say(f"1 of 3: {steps + more} steps undisturbed")
        start("undisturbed", "callbacks.checkpoint_every=null")
        say(f"2 of 3: the same again, killed after the checkpoint at step {steps}")
        checkpoints = logs / "runs" / "killed" / CHECKPOINTS
        sealed = checkpoints / f"step-{steps:08d}"
        start("killed", f"callbacks.checkpoint_every={steps}", kill_when=sealed.exists)
        killed_after = find(checkpoints).step
        say(f"3 of 3: continued from step {steps}")
        _put_aside_later(checkpoints, steps)
        start("killed", "callbacks.checkpoint_every=null", f"resume={sealed}")
        undisturbed = find(logs / "runs" / "undisturbed")
        resumed = find(checkpoints)
        compared, difference = compare(undisturbed, resumed)
        return Verdict(compared, difference, steps + more, steps, killed_after)


def compare(one: Checkpoint, other: Checkpoint) -> tuple[dict[str, int], str | None]:
    """How many values two checkpoints share by part, and the first one in which they differ (None: they agree).

    Weights, optimizer state, counters with random state, and the data position are compared bit for bit; measured
    times and joules are not, since they always differ.
    """
    first, second = _parts(read_state(one)), _parts(read_state(other))
    compared = {part: len(values) for part, values in first.items()}
    for part in first:
        for name in sorted(first[part].keys() | second[part].keys()):
            if name not in first[part] or name not in second[part]:
                where = "undisturbed" if name in first[part] else "resumed"
                return compared, f"{part}: {name} is only in the {where} run"
            if not _same(first[part][name], second[part][name]):
                return compared, f"{part}: {name}: {_described(first[part][name], second[part][name])}"
    return compared, None


def _parts(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a state that a resume has to preserve, each flat: dotted name -> tensor or plain value."""
    data = {key: value for key, value in state.items() if key.endswith("DataModule")}
    counters = {key: value for key, value in state["litespark"].items() if key not in ("random", "fp8", "validation")}
    return {
        "weights": dict(_leaves(state["state_dict"])),
        "optimizer state": dict(_leaves(state["optimizer_states"])),
        "counters": dict(_leaves({"global_step": state["global_step"], **counters})),
        "scales of fp8": dict(_leaves(state["litespark"].get("fp8", {}))),
        "moves of fp8": dict(_leaves(state.get("callbacks", {}).get("Fp8Monitor", {}))),
        "data position": dict(_leaves(data)),
        "random state": dict(_leaves(state["litespark"]["random"])),
    }


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = None
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    if items is None:
        yield path, value
        return
    for key, inner in items:
        yield from _leaves(inner, f"{path}.{key}" if path else str(key))


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dtype != other.dtype or one.shape != other.shape:
            return False
        # as bytes: NaN equals itself, and -0 is not 0
        return torch.equal(*(each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other)))
    return type(one) is type(other) and one == other


def _described(one: Any, other: Any) -> str:
    if isinstance(one, Tensor) and isinstance(other, Tensor) and one.shape == other.shape:
        differ = int((one != other).sum())
        largest = float((one.double() - other.double()).abs().max())
        return (
            f"{differ} of {one.numel()} values differ, by at most {largest:.3g} (largest {float(one.abs().max()):.3g})"
        )
    return f"undisturbed {one!s:.200}, resumed {other!s:.200}"


def _put_aside_later(checkpoints: Path, step: int) -> None:
    """Move away what the killed run had saved beyond `step`; the resume has to compute it again."""
    for folder in finished(checkpoints):
        if read(folder, hashes=False).step > step:
            folder.rename(checkpoints.parent / f"later-{folder.name}")


class _Starter:
    """Starts runs of one config and waits for them."""

    def __init__(self, script: Path, overrides: Sequence[str], logs: Path, steps: int, processes: int) -> None:
        self.logs = logs
        self.command = [sys.executable]
        if processes > 1:
            # the rendezvous of torchrun, on a port that is free
            self.command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        self.command += [str(script), *overrides]
        if processes > 1 and not any(override.startswith("strategy=") for override in overrides):
            self.command.append("strategy=ddp")
        # what follows the last step is not part of the question
        self.command += ["budget.tokens=null", f"budget.steps={steps}", "budget.schedule_end=null",
                         f"paths.logs={logs}", "callbacks.checkpoint_keep=1000000", *QUIET,
                         "callbacks.checkpoint_at_end=true"]  # fmt: skip

    def __call__(self, name: str, *more: str, kill_when: Callable[[], bool] | None = None) -> None:
        """Run to the end, or until `kill_when` says so.

        Raises:
            RunFailedError: it ended with an error.
        """
        resumes = any(override.startswith("resume=") for override in more)
        output = self.logs / "output.txt"
        with output.open("wb") as file:
            command = [*self.command, *more, *([] if resumes else [f"name={name}"])]
            with _process_tree(command, file) as process:
                while process.poll() is None:
                    if kill_when is not None and kill_when():
                        return
                    time.sleep(_POLL_SECONDS)
        if process.returncode != 0:
            tail = output.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
            raise RunFailedError(
                f"the {'resumed' if resumes else name} run ended with exit code {process.returncode}; its last lines:\n"
                + "\n".join(f"  {line}" for line in tail)
            )


@contextmanager
def _process_tree(command: Sequence[str], output: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a session of its own; it and everything below it are killed when the block is left."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                               start_new_session=True)  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            started = psutil.Process(process.pid)
            # torchrun gives each worker a session of its own, so the group alone would leave them running
            for running in (*started.children(recursive=True), started):
                with suppress(psutil.NoSuchProcess):  # it ended by itself just now
                    running.kill()
        process.wait()
