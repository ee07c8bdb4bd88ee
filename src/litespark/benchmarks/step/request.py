"""What a fresh process is to measure, and its start: nothing of one measurement can leak into the next."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from litespark.benchmarks.child_process import ask, call
from litespark.metrics.records.base import parse
from litespark.metrics.records.step import RoundRecord, VariantKind

MEASURE = call("litespark.benchmarks.step.process:measure")


@dataclass(frozen=True)
class Request:
    """What one process is to measure.

    Attributes:
        variant, kind, settings: of the variant; `settings` are its overrides.
        recompute: in place of the variant's own; None: its own.
        layers: of the model, in place of the config's; None: the config's.
        warmup_steps, steps: optimizer steps that are not counted, and those that are.
        loss_rows: held-out rows for the loss after all steps.
        round, position: of the process in the benchmark, from 0.
        overrides: all of the process, the settings included.
        folder: for what it writes.
        started: seconds since the epoch when the process was started.
    """

    variant: str
    kind: VariantKind
    settings: list[str]
    recompute: str | None
    layers: int | None
    warmup_steps: int
    steps: int
    loss_rows: int
    round: int = 0
    position: int = 0
    overrides: list[str] = field(default_factory=list)
    folder: str = ""
    started: float | None = None


def answer(
    request: Request,
    overrides: Sequence[str],
    folder: Path,
    *,
    timeout: float,
    program: Sequence[str] = MEASURE,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What a fresh process answers, as plain values.

    Args:
        request: what to measure; its last three fields are filled in here.
        overrides: of the benchmark; the variant's settings come after them.
        folder: for files; it is made.
        timeout: seconds after which the process is ended.
        program: that is asked; environment: laid over that of this process.

    Raises:
        ChildError: it did not answer.
    """
    mine = folder.absolute() / f"round-{request.round}-{request.position}-{request.variant}"
    words = [*overrides, *request.settings]
    asked = replace(request, overrides=words, folder=str(mine), started=time.time())
    return ask(program, asdict(asked), mine, seconds=timeout, environment=environment)


def launch(
    request: Request, overrides: Sequence[str], folder: Path, *, timeout: float, program: Sequence[str] = MEASURE
) -> RoundRecord:
    """The round that a fresh process answers with, or a round that failed with the reason; see `answer`."""
    try:
        values = answer(request, overrides, folder, timeout=timeout, program=program)
        found: RoundRecord = parse(RoundRecord, json.dumps(values))
    except ValueError as error:  # no answer, or one that is no round
        return RoundRecord(
            round=request.round,
            position=request.position,
            outcome="failed",
            recompute=request.recompute or "unknown",
            error=str(error),
        )
    return found
