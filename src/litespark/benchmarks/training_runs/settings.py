"""What a config must be for the benchmarks that start `train.py` themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.variant import KEY
from litespark.launch import Ranks
from litespark.ranges import Minutes, Seed, check_ranges


@dataclass(frozen=True)
class RunSettings:
    """How the runs are taken.

    Attributes:
        seeds: one run of every variant for each.
        minutes: after which the run that is under way is stopped and saved; None: never.
    """

    seeds: tuple[Seed, ...] = (1,)
    minutes: Minutes | None = None

    def __post_init__(self) -> None:
        check_ranges(self, options=True)
        check_seeds(self.seeds)


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Refuse none, or one twice.

    Raises:
        ValueError: names the seeds.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"--seeds: got {list(seeds)}, expected whole numbers, each once; set --seeds 1,2,3")


def seeds_of(words: str) -> tuple[int, ...]:
    """The seeds that `1,2` means.

    Raises:
        ValueError: it is no list of whole numbers.
    """
    try:
        return tuple(int(word) for word in words.split(","))
    except ValueError as error:
        raise ConfigError(f"--seeds: got {words!r}, expected whole numbers with commas between: 1,2,3") from error


def refuse_a_variant(overrides: Sequence[str]) -> None:
    """Refuse what would win over the settings of the variants and the benchmark's own.

    Raises:
        ConfigError: `variant` is among the overrides.
    """
    for word in overrides:
        if word.lstrip("+").startswith(f"{KEY}="):
            raise ConfigError(
                f"got the override {word}, expected plain ones: what it sets is stronger than the settings of the "
                "variants and the benchmark's own. Give these settings one by one"
            )


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
