"""What a config must be for the benchmarks that start `train.py` themselves."""

from __future__ import annotations

from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.preflight import Ranks


def refuse_what_runs_cannot_have(parts: Parts) -> None:
    """Refuse a config whose runs could not be started, named and continued by a benchmark.

    Raises:
        ConfigError: several processes, or a name or a resume of the user's.
    """
    ranks = Ranks.from_environment()
    if ranks.world_size > 1 or parts.strategy.name != "single":
        raise ConfigError(
            f"got {ranks.world_size} processes and strategy={parts.strategy.name}, expected one process and "
            "strategy=single: runs are started without torchrun"
        )
    if parts.resume is not None or parts.name is not None:
        raise ConfigError(
            f"got resume={parts.resume} and name={parts.name}, expected neither: the benchmark names its runs and "
            "continues them by itself"
        )
