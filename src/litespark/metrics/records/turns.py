"""Whose turn it is in a benchmark that trains every variant with every seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar


class Trained(Protocol):
    """A variant with the runs that it has."""

    def run(self, seed: int) -> object | None:
        """Its run with a seed, or None."""
        ...


V = TypeVar("V", bound=Trained)


def missing_runs(variants: Sequence[V], seeds: Sequence[int]) -> Iterator[tuple[V, int, int]]:
    """(variant, seed, position) of every run that is not there.

    Variants take turns and every second seed has them in reverse, so that a machine that slows down favours none.
    """
    for index, seed in enumerate(seeds):
        turns = variants if index % 2 == 0 else variants[::-1]
        for position, variant in enumerate(turns):
            if variant.run(seed) is None:
                yield variant, seed, position
