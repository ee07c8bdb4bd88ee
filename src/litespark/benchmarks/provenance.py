"""What a record of a benchmark says of its origin."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from litespark.experiment.config import Parts, config_hash
from litespark.experiment.instruments import build_meter
from litespark.metrics.environment import collect_environment, git_state
from litespark.metrics.records.bench import Provenance
from litespark.metrics.records.run import EnvironmentRecord, utc_now
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
    environment = environment_here(device, precision)
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


def environment_here(device: torch.device, precision: Precision) -> EnvironmentRecord:
    """Versions, devices and driver of this process."""
    with closing(build_meter(device)) as meter:
        return collect_environment(device, precision=precision, meter=meter)


def without_folders(words: Sequence[str]) -> list[str]:
    """The words with `…/NAME` for each absolute path: the folders of one machine mean nothing on another."""
    return [re.sub(r"(^|[=:,\[ ])~?/(?:[^/,\]\s]*/)*([^/,\]\s]*)", r"\1…/\2", word) for word in words]
