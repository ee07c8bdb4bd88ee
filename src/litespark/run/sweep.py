"""The jobs of a sweep: what tells each from the others, and the table of them that is printed at the end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode

from litespark.reports.quantities import plain, rate, scaled
from litespark.reports.table import NONE, Column, Table, one_line, texts
from litespark.run.folder import RECORD
from litespark.run.record import RunRecord
from litespark.run.variant import legible

_LONGEST_ERROR = 60


@dataclass
class Job:
    """One job: what it varies, its run's folder once there is one, and what ended it."""

    telling: list[str]
    folder: Path | None = None
    error: str | None = None


@dataclass
class Sweep:
    """The jobs that this process has begun; Hydra's launcher runs them one after the other."""

    jobs: list[Job] = field(default_factory=list)

    def begin(self, overrides: Sequence[str]) -> None:
        """A job begins with these overrides."""
        self.jobs.append(Job(telling(overrides)))

    def in_folder(self, folder: Path) -> None:
        """The job's run lies there; no effect outside of a sweep."""
        if self.jobs:
            self.jobs[-1].folder = folder

    def failed(self, error: str) -> None:
        """The job ended so; no effect outside of a sweep."""
        if self.jobs:
            self.jobs[-1].error = error

    def table(self) -> str | None:
        """A row a job, aligned for a terminal; None outside of a sweep."""
        if not self.jobs:
            return None
        settings = [dict(map(_setting, job.telling)) for job in self.jobs]
        keys = list(dict.fromkeys(key for each in settings for key in each))
        columns = [*texts(*keys), Column("loss", plain), Column("bits/byte", plain), Column("tokens/s", rate),
                   Column("J/token", lambda joules: scaled(joules, "J")), *texts("status", "folder")]  # fmt: skip
        rows = [
            [*(each.get(key) for key in keys), *_figures(job)] for job, each in zip(self.jobs, settings, strict=True)
        ]
        return Table(columns, rows, f"Sweep of {len(rows)} jobs:").text()


SWEEP = Sweep()


def telling(overrides: Sequence[str]) -> list[str]:
    """The overrides that tell a run from others, the experiment first: in a sweep only those that the sweep varies."""
    ordered = sorted(overrides, key=lambda each: not each.startswith("experiment="))
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return ordered
    said = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    varied = {each.key_or_group for each in OverridesParser.create().parse_overrides(said) if each.is_sweep_override()}
    varied |= {str(key) for key in HydraConfig.get().sweeper.get("params") or {}}  # of a file of sweep/
    return [each for each in ordered if each.lstrip("+").split("=")[0] in {*varied, "experiment"}] or ordered


def _setting(override: str) -> tuple[str, str]:
    key, _, value = override.lstrip("+").partition("=")
    shown = legible(override)
    return key, one_line(value if shown == override else shown, 40)


def _figures(job: Job) -> Sequence[float | str | None]:
    """Loss, bits per byte, tokens/s, J/token, status and folder."""
    if job.folder is None or not (job.folder / RECORD).is_file():
        ended = "stopped" if job.error is None else f"failed: {one_line(job.error, _LONGEST_ERROR)}"
        return [None] * 4 + [ended, NONE]
    try:
        found = RunRecord.read(job.folder / RECORD)
    except ValueError as error:
        return [None] * 4 + [f"damaged: {one_line(str(error), _LONGEST_ERROR)}", NONE]
    status = found.status if job.error is None else f"failed: {one_line(job.error, _LONGEST_ERROR)}"
    return [
        found.quality.validation_loss,
        found.quality.bits_per_byte,
        found.throughput.tokens_per_second,
        found.energy.joules_per_token_train,
        status,
        min(os.path.relpath(job.folder), str(job.folder), key=len),
    ]
