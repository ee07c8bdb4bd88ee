"""What a record of a benchmark says of its origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing

import torch

from litespark.launch import Ranks
from litespark.metrics.records.origin import Provenance
from litespark.run import new_record as record
from litespark.run.config import Parts
from litespark.run.instruments import build_meter
from litespark.run.preflight import Machine
from litespark.training.strategies import Precision


def provenance(
    parts: Parts, overrides: Sequence[str], command: Sequence[str], device: torch.device, precision: Precision
) -> Provenance:
    """What runs, and where, as of now; `overrides` and `command` as `litespark.run.new_record.provenance` has them.

    Args:
        device: where it runs; precision: of its products.
    """
    machine = Machine(device, precision, 1, Ranks.from_environment())
    with closing(build_meter(device)) as meter:
        return record.provenance(parts, machine, meter, without_folders(command), without_folders(overrides))


def without_folders(words: Sequence[str]) -> list[str]:
    """The words with `…/NAME` for each absolute path: the folders of one machine mean nothing on another."""
    return [re.sub(r"(^|[=:,\[ ])~?/(?:[^/,\]\s]*/)*([^/,\]\s]*)", r"\1…/\2", word) for word in words]
