"""The rows of `metrics.jsonl`, a JSON object a step, and their one reader."""

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat

from litespark.metrics import names
from litespark.metrics.records.base import parse
from litespark.metrics.records.origin import Time
from litespark.run.folder import METRICS


class _Row(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, FiniteFloat | None]

    step: Annotated[int, Field(ge=0, lt=2**63)]
    tokens: Annotated[int, Field(ge=0, lt=2**63, alias=names.PROGRESS_TOKENS)]
    time: Time | None = None


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged, in the order in which it did; nothing where it has no file.

    A killed run leaves half of a last line, which is left out. A ValueError names the file and the line of any other
    damage.
    """
    path = folder / METRICS
    rows: list[dict[str, Any]] = []
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            parse(_Row, line)
        except ValueError as error:
            if number == len(lines):  # no newline after it
                break
            raise ValueError(f"{path}, line {number}: {error}; remove the line, or restore the file") from error
        rows.append(json.loads(line))
    return rows
