"""Verifies for a given config that a killed run continues exactly: trains undisturbed, trains and kills, compares.

Both have the same budget, since the learning rate depends on it, and are processes started as a user starts them. The
second is killed with SIGKILL after its checkpoint at step N is sealed; the states at the end agree bit for bit.
"""

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from litespark.child_process import run
from litespark.run.checkout import QUIET
from litespark.run.folder import CHECKPOINTS, flatten
from litespark.training.budget import steps_alone
from litespark.training.checkpoint.folder import Checkpoint, find, finished, read
from litespark.training.checkpoint.state import read_whole

_LINES_SHOWN = 15
# parts of our state that are compared under a name of their own; validation is of measured times
_APART = ("random", "fp8", "validation")


class RunFailedError(ValueError):
    """A run of the check ended by itself with an error."""


@dataclass(frozen=True)
class Verdict:
    """The result of the comparison: values `compared` by part, the first `difference` in words, and the steps of both
    runs, of the checkpoint `resumed_from`, and saved when it was killed (all, where it ended before)."""

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
    """Train `steps + more` steps undisturbed and with a kill after `steps` of them, and compare what is left.

    `script` is `train.py`. Budget, checkpoints and log folder are set here, whatever `overrides` say of them; all is
    written below a temporary folder (TMPDIR decides where), which is removed. Several `processes` start through
    torchrun, with `strategy=ddp` unless a strategy is given. `say` is told what is done next.

    A ValueError with `resume` among the overrides; a RunFailedError with the last lines of a run that ended with one.
    """
    for override in overrides:
        if override.startswith("resume="):
            raise ValueError(f"got {override}, expected the config of a new run; this check makes and resumes its own")
    with tempfile.TemporaryDirectory(prefix="litespark-verify-resume-") as temporary:
        runs = Path(temporary) / "runs"
        command = _command(script, overrides, Path(temporary), steps + more, processes)
        say(f"1 of 3: {steps + more} steps undisturbed")
        _run([*command, "callbacks.checkpoint_every=null", "name=undisturbed"], runs / "undisturbed.txt")
        say(f"2 of 3: the same again, killed after the checkpoint at step {steps}")
        checkpoints = runs / "killed" / CHECKPOINTS
        sealed = checkpoints / f"step-{steps:08d}"
        _run([*command, f"callbacks.checkpoint_every={steps}", "name=killed"], runs / "killed.txt", sealed.exists)
        killed_after = find(checkpoints).step
        say(f"3 of 3: continued from step {steps}")
        for folder in finished(checkpoints):  # what it saved beyond, the resume has to compute again
            if read(folder, hashes=False).step > steps:
                folder.rename(checkpoints.parent / f"later-{folder.name}")
        _run([*command, "callbacks.checkpoint_every=null", f"resume={sealed}"], runs / "resumed.txt")
        compared, difference = compare(find(runs / "undisturbed"), find(checkpoints))
        return Verdict(compared, difference, steps + more, steps, killed_after)


def compare(one: Checkpoint, other: Checkpoint) -> tuple[dict[str, int], str | None]:
    """How many values two checkpoints share by part, and the first one in which they differ (None: they agree).

    Measured times and joules are not compared, since they always differ.
    """
    first, second = _parts(read_whole(one)), _parts(read_whole(other))
    compared = {part: len(values) for part, values in first.items()}
    for part, values in first.items():
        for name in sorted(values.keys() | second[part].keys()):
            if name not in values or name not in second[part]:
                where = "undisturbed" if name in values else "resumed"
                return compared, f"{part}: {name} is only in the {where} run"
            if (difference := _difference(values[name], second[part][name])) is not None:
                return compared, f"{part}: {name}: {difference}"
    return compared, None


def _parts(state: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The parts of a state that a resume has to preserve, each flat: dotted name -> tensor or plain value."""
    ours = state["litespark"]
    parts = {
        "weights": state["state_dict"],
        "optimizer state": state["optimizer_states"],
        "counters": {"global_step": state["global_step"], **{key: ours[key] for key in ours if key not in _APART}},
        "scales of fp8": ours.get("fp8", {}),
        "moves of fp8": state.get("callbacks", {}).get("Fp8Monitor", {}),
        "data position": {key: value for key, value in state.items() if key.endswith("DataModule")},
        "random state": ours["random"],
    }
    return {name: flatten(part, into=(Mapping, list, tuple)) for name, part in parts.items()}


def _difference(one: Any, other: Any) -> str | None:
    """In what two values differ, bit for bit; None where they agree."""
    if isinstance(one, Tensor) and isinstance(other, Tensor) and (one.shape, one.dtype) == (other.shape, other.dtype):
        # as bytes: NaN equals itself, and -0 is not 0
        if torch.equal(*(state.contiguous().reshape(-1).view(torch.uint8) for state in (one, other))):
            return None
        largest = float((one.double() - other.double()).abs().max())
        return (
            f"{int((one != other).sum())} of {one.numel()} values differ, by at most {largest:.3g} "
            f"(largest {float(one.abs().max()):.3g})"
        )
    if not isinstance(one, Tensor) and type(one) is type(other) and one == other:
        return None
    return f"undisturbed {one!s:.200}, resumed {other!s:.200}"


def _command(script: Path, overrides: Sequence[str], logs: Path, steps: int, processes: int) -> list[str]:
    # the rendezvous of torchrun, on a port that is free
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    ddp = processes > 1 and not any(override.startswith("strategy=") for override in overrides)
    # what follows the last step is not part of the question
    return [sys.executable, *(torchrun if processes > 1 else []), str(script), *overrides,
            *(["strategy=ddp"] if ddp else []), *steps_alone(steps), f"paths.logs={logs}",
            "callbacks.checkpoint_keep=1000000", *QUIET, "callbacks.checkpoint_at_end=true"]  # fmt: skip


def _run(command: Sequence[str], printed: Path, kill_when: Callable[[], bool] | None = None) -> None:
    ended = run(command, printed, kill_when=kill_when)
    if ended.outcome == "failed":
        tail = printed.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
        raise RunFailedError("\n  ".join([f"the {printed.stem} run {ended.error}; its last lines:", *tail]))
