"""A fresh process for each measurement: what it is told, how it is started and ended, and what it answers.

The request and the answer are files. A process that ends without an answer is a round that failed, with the last line
that it wrote; nothing of one measurement can leak into the next.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path

from litespark.benchmarks.child_process import end_group, how_it_ended, termination_raises
from litespark.metrics.records.base import JsonFile, RecordError, record
from litespark.metrics.records.step import RoundRecord, VariantKind

PROGRAM = (sys.executable, "-m", "litespark.cli", "bench", "step")


@record
class Request(JsonFile):
    """What one process is to measure.

    Attributes:
        variant, kind, settings: of the variant; `settings` are its overrides.
        recompute: in place of the variant's own; None: its own.
        layers: of the model, in place of the config's; None: the config's.
        warmup_steps, steps: optimizer steps that are not counted, and those that are.
        loss_rows: held-out rows for the loss after all steps.
        round, position: of the process in the benchmark, from 0.
        output: file for the answer; empty: `launch` chooses one.
        overrides: all of the process, the settings included; `launch` fills them in.
        started: seconds since the epoch when the process was started; `launch` fills it in.
    """

    variant: str
    kind: VariantKind
    settings: list[str]
    recompute: str | None
    layers: int | None
    warmup_steps: int
    steps: int
    loss_rows: int
    round: int
    position: int
    output: str = ""
    overrides: list[str] = field(default_factory=list)
    started: float | None = None


def launch(
    request: Request, overrides: Sequence[str], folder: Path, *, timeout: float, program: Sequence[str] = PROGRAM
) -> RoundRecord:
    """Measure in a fresh process and wait for it.

    Args:
        request: what to measure.
        overrides: of the benchmark; the variant's settings come after them.
        folder: for the request, the answer and what the process prints; it is made.
        timeout: seconds after which the process is ended.
        program: the words before the overrides.

    Returns:
        What the process answered, or a round that failed with the reason.

    An interrupt or a termination of this process ends that one, and all that it started, first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"round-{request.round}-{request.position}-{request.variant}"
    answer = Path(request.output or folder / f"{stem}.json").absolute()
    answer.unlink(missing_ok=True)
    words = [*overrides, *request.settings]
    asked = folder / f"{stem}.request.json"
    replace(request, output=str(answer), overrides=words, started=time.time()).write(asked)
    printed = folder / f"{stem}.stderr"
    status = _run([*program, *words, "--process", str(asked)], folder / f"{stem}.stdout", printed, timeout)
    if status is None:
        return _failed(request, f"did not end within {timeout:g} s; give it longer, or fewer steps")
    try:
        if status == 0:
            return RoundRecord.read(answer)
    except (OSError, RecordError) as error:
        return _failed(request, f"ended without an answer: {error}")
    return _failed(request, how_it_ended(status, printed))


def _failed(request: Request, error: str) -> RoundRecord:
    return RoundRecord(request.round, request.position, "failed", request.recompute or "unknown", error=error)


def _run(command: list[str], stdout: Path, stderr: Path, timeout: float) -> int | None:
    """The status with which the command ended; None where it was ended for its time. Its children end with it."""
    with stdout.open("w") as out, stderr.open("w") as err, termination_raises():
        # a group of its own, so that its children can be ended with it
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            end_group(process)
            return None
        except BaseException:
            end_group(process)
            raise
        if status != 0:
            end_group(process)
        return status
