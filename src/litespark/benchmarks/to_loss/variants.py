"""The ways to train that are held against each other, and what they may differ in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from litespark.data.config import SyntheticConfig
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.preflight import Ranks

# how the rows are read, not which
_FREE_OF_DATA = ("micro_batch_size", "workers", "verify_hashes")
_THE_SAME_FOR_ALL = ("model", "task", "seed", "initial_weights", "strategy", "budget", "trainer", "logs")


@dataclass(frozen=True)
class Variant:
    """A name and the overrides that make it from the benchmark's config."""

    name: str
    settings: tuple[str, ...]


# the first is the reference
DEFAULT = (
    Variant("reference", ("ops=reference", "optim=adamw", "schedule=cosine")),
    Variant("litespark", ("ops=litespark", "optim=adamw", "schedule=cosine")),
    Variant("muon", ("ops=litespark", "optim=muon", "schedule=wsd")),
)


def parse(words: str) -> Variant:
    """The variant that `NAME: OVERRIDE OVERRIDE …` means, or the default one that a name alone means.

    Raises:
        ValueError: neither; the message names what was given.
    """
    name, colon, settings = (part.strip() for part in words.partition(":"))
    known = {each.name: each for each in DEFAULT}
    if not colon and name in known:
        return known[name]
    if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise ValueError(
            f"--variant: got {words!r}, expected one of {', '.join(known)}, or a name of letters and digits with the "
            "overrides that make it: --variant 'muon: ops=litespark optim=muon'"
        )
    return Variant(name, tuple(settings.split()))


def check(parts: Parts, variants: Sequence[tuple[Variant, Parts]]) -> None:
    """Refuse a config that cannot be trained to a target, and variants that would not see the same stream.

    Args:
        parts: of the benchmark, with its target.
        variants: each with the config that its settings make.

    Raises:
        ConfigError: naming what to change.
    """
    names = [each.name for each, _ in variants]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--variant: got {', '.join(names) or 'none'}, expected at least one and each once")
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
    if isinstance(parts.data, SyntheticConfig):
        raise ConfigError("data=synthetic: nothing can be learned from it; expected text, as data=installed_packages")
    if parts.trainer.validate_every is None:
        raise ConfigError(
            "trainer.validate_every: got null, expected the steps between two validations, which alone can tell that "
            "the target is reached; set trainer.validate_every=100"
        )
    for variant, theirs in variants:
        if different := _differences(parts, theirs):
            raise ConfigError(
                f"--variant {variant.name}: got settings that change {', '.join(different)}, expected the same model "
                "and stream for every variant; give them as overrides of the whole benchmark instead"
            )


def _differences(parts: Parts, theirs: Parts) -> list[str]:
    different = [name for name in _THE_SAME_FOR_ALL if getattr(theirs, name) != getattr(parts, name)]
    if type(theirs.data) is not type(parts.data):
        return [*different, "data"]
    ours, other = _stream(parts.data), _stream(theirs.data)
    return different + [f"data.{name}" for name in ours if ours[name] != other[name]]


def _stream(data: Any) -> dict[str, Any]:
    return {name: value for name, value in asdict(data).items() if name not in _FREE_OF_DATA}
