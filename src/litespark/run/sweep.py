"""The jobs of a sweep: what distinguishes each, and the table that is printed at the end."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
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


JOBS: list[Job] = []
"""The jobs of a sweep that this process has begun; Hydra's launcher runs them one after the other."""


def table() -> str | None:
    """A row a job, aligned for a terminal; None outside of a sweep."""
    if not JOBS:
        return None
    settings = [dict(map(_setting, job.telling)) for job in JOBS]
    keys = list(dict.fromkeys(key for setting in settings for key in setting))
    columns = [
        *texts(*keys),
        Column("loss", plain),
        Column("bits/byte", plain),
        Column("tokens/s", rate),
        Column("J/token", lambda joules: scaled(joules, "J")),
        *texts("status", "folder"),
    ]
    rows = [[*(setting.get(key) for key in keys), *_figures(job)] for job, setting in zip(JOBS, settings, strict=True)]
    return Table(columns, rows, f"Sweep of {len(rows)} jobs:").text()


def telling(overrides: Sequence[str]) -> list[str]:
    """The overrides that distinguish a run, the experiment first: in a sweep only those that the sweep varies."""
    ordered = sorted(overrides, key=lambda setting: not setting.startswith("experiment="))
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return ordered
    said = [argument for argument in sys.argv[1:] if "=" in argument and not argument.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(said)
    varied = {override.key_or_group for override in parsed if override.is_sweep_override()}
    varied |= {str(key) for key in HydraConfig.get().sweeper.get("params") or {}}  # of a file of sweep/
    varied.add("experiment")
    return [override for override in ordered if override.lstrip("+").split("=")[0] in varied] or ordered


def _setting(override: str) -> tuple[str, str]:
    key = override.lstrip("+").partition("=")[0]
    return key, one_line(legible(override).removeprefix(override.partition("=")[0] + "="), 40)


def _figures(job: Job) -> Sequence[float | str | None]:
    """Loss, bits per byte, tokens/s, J/token, status and folder."""
    ended = "stopped" if job.error is None else f"failed: {one_line(job.error, _LONGEST_ERROR)}"
    if job.folder is None or not (job.folder / RECORD).is_file():
        return [None] * 4 + [ended, NONE]
    try:
        record = RunRecord.read(job.folder / RECORD)
    except ValueError as error:
        return [None] * 4 + [f"damaged: {one_line(str(error), _LONGEST_ERROR)}", NONE]
    figures = [
        record.quality.validation_loss,
        record.quality.bits_per_byte,
        record.throughput.tokens_per_second,
        record.energy.joules_per_token_train,
    ]
    folder = min(os.path.relpath(job.folder), str(job.folder), key=len)
    return [*figures, record.status if job.error is None else ended, folder]
