"""What a fresh process is to measure, and its start: nothing of one measurement can leak into the next."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from litespark.child_process import ask, call
from litespark.metrics.records.base import parse
from litespark.metrics.records.step import Outcome, RoundRecord, VariantKind
from litespark.models.spec import Recompute

MEASURE = call("litespark.benchmarks.step.process:measure")


@dataclass(frozen=True)
class Request:
    """What one process is to measure; `overrides` are of the benchmark and after them of the variant.

    Attributes:
        recompute, layers: in place of the variant's own and of the config's; None: these.
        loss_sequences: held-out sequences for the loss after all steps.
        folder: for what it writes; started: seconds since the epoch when it was; both are filled in by `answer`.
    """

    variant: str
    kind: VariantKind
    overrides: list[str]
    recompute: Recompute | None
    layers: int | None
    warmup_steps: int
    steps: int
    loss_sequences: int
    round: int = 0
    position: int = 0
    folder: str = ""
    started: float = 0.0

    def record(self, outcome: Outcome, recompute: str, **figures: Any) -> RoundRecord:
        return RoundRecord(self.round, self.position, outcome, recompute, **figures)


def answer(
    request: Request,
    folder: Path,
    *,
    timeout: float,
    program: Sequence[str] = MEASURE,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """What a fresh process answers, as plain values; see `ask`."""
    mine = folder.absolute() / f"round-{request.round}-{request.position}-{request.variant}"
    asked = replace(request, folder=str(mine), started=time.time())
    return ask(program, asdict(asked), mine, seconds=timeout, environment=environment)


def launch(request: Request, folder: Path, *, timeout: float) -> RoundRecord:
    """The round that a fresh process answers with, or a round that failed with the reason; see `answer`."""
    try:
        record: RoundRecord = parse(RoundRecord, answer(request, folder, timeout=timeout))
    except ValueError as error:  # no answer, or one that is no round
        return request.record("failed", request.recompute or "unknown", error=str(error))
    return record
