"""The ways to train that are held against each other, and what they may differ in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from litespark.benchmarks.training_runs.settings import refuse_what_runs_cannot_have
from litespark.data.config import SyntheticConfig
from litespark.experiment.config import ConfigError, Parts
from litespark.experiment.run_folder import differences

# how a model is trained, and how the rows are read; everything else is what is trained, on which rows, seen when
_FREE = ("ops", "precision", "recompute", "optim", "schedule")
_FREE_OF_DATA = ("data.micro_batch_size", "data.workers", "data.verify_hashes")


@dataclass(frozen=True)
class Variant:
    """A name and the overrides that make it from the benchmark's config."""

    name: str
    settings: tuple[str, ...]


def parse(words: str, defaults: Sequence[Variant]) -> Variant:
    """The variant that `NAME: OVERRIDE OVERRIDE …` means, or that of `defaults` which a name alone means.

    Raises:
        ValueError: neither; the message names what was given.
    """
    name, colon, settings = (part.strip() for part in words.partition(":"))
    known = {each.name: each for each in defaults}
    if not colon and name in known:
        return known[name]
    if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
        raise ValueError(
            f"--variant: got {words!r}, expected one of {', '.join(known)}, or a name of letters and digits with the "
            "overrides that make it: --variant 'muon: ops=litespark optim=muon'"
        )
    return Variant(name, tuple(settings.split()))


def check(parts: Parts, variants: Sequence[tuple[Variant, Parts]]) -> None:
    """Refuse a config of which nothing can be told, and variants that would not see the same stream.

    Args:
        parts: of the benchmark.
        variants: each with the config that its settings make.

    Raises:
        ConfigError: naming what to change.
    """
    names = [each.name for each, _ in variants]
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"--variant: got {', '.join(names) or 'none'}, expected at least one and each once")
    refuse_what_runs_cannot_have(parts)
    if isinstance(parts.data, SyntheticConfig):
        raise ConfigError("data=synthetic: nothing can be learned from it; expected text, as data=installed_packages")
    if parts.trainer.validate_every is None:
        raise ConfigError(
            "trainer.validate_every: got null, expected the steps between two validations, by which runs are "
            "compared; set trainer.validate_every=100"
        )
    for variant, theirs in variants:
        different = [key for key in differences(parts.resolved, theirs.resolved) if not _free(key)]
        if different:
            raise ConfigError(
                f"--variant {variant.name}: got settings that change {', '.join(different)}, expected the same model "
                "and stream for every variant; give them as overrides of the whole benchmark instead"
            )


def _free(key: str) -> bool:
    return key.split(".")[0] in _FREE or key in _FREE_OF_DATA
