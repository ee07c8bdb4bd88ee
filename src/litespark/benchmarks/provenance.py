"""What a record of a benchmark says of its origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch

from litespark.experiment.build import build_meter
from litespark.experiment.config import Parts, config_hash
from litespark.experiment.preflight import Machine
from litespark.launch import Ranks
from litespark.metrics.environment import collect_environment, git_state
from litespark.metrics.records.bench import Provenance
from litespark.metrics.records.run import utc_now
from litespark.ops.measuring import source_hash
from litespark.training.strategies import Precision


def provenance(
    parts: Parts, overrides: Sequence[str], command: Sequence[str], device: torch.device, precision: Precision
) -> Provenance:
    """What runs, and where, as of now.

    Args:
        parts: the composed config, of which the hash is taken.
        overrides: of the config, as the user gave them.
        command: the words that get the measurement again.
        device: where it runs; precision: of its products.
    """
    meter = build_meter(Machine(device, precision, 1, Ranks.from_environment()))
    environment = collect_environment(
        device_type=device.type, device_indices=[device.index or 0], precision=precision, meter=meter
    )
    meter.close()
    source = Path(__file__).resolve().parents[1]
    commit, dirty = git_state(source)
    return Provenance(
        time=utc_now(),
        command=without_folders(command),
        overrides=without_folders(overrides),
        git_commit=commit,
        git_dirty=dirty,
        source_hash=source_hash(source),
        config_hash=config_hash(parts.resolved),
        environment=environment,
    )


def without_folders(words: Sequence[str]) -> list[str]:
    """The words with `…/NAME` for each absolute path: the folders of one machine mean nothing on another."""
    return [re.sub(r"(^|[=:,\[ ])~?/(?:[^/,\]\s]*/)*([^/,\]\s]*)", r"\1…/\2", word) for word in words]
