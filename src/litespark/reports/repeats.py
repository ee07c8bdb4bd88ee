"""Repeats of a measurement (rounds of a benchmark, seeds of a training), compared repeat by repeat.

A ratio is taken within each repeat and then the median, so that a machine that was slow in one repeat does not count
for or against what ran in it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import truediv
from typing import Self

from litespark.metrics.step_round import Interval


@dataclass(frozen=True)
class Repeats:
    """The figures of one variant by the number of the repeat; None: not measured, as in what its methods return."""

    figures: Mapping[int, Mapping[str, float | None]] = field(default_factory=dict)

    def of(self, figure: str) -> Interval | None:
        return interval(repeat.get(figure) for repeat in self.figures.values())

    def median(self, figure: str) -> float | None:
        return median(repeat.get(figure) for repeat in self.figures.values())

    def over(self, other: Self, figure: str, compare: Callable[[float, float], float] = truediv) -> Interval | None:
        pairs = [(ours.get(figure), other.figures.get(repeat, {}).get(figure)) for repeat, ours in self.figures.items()]
        return interval(compare(ours, theirs) for ours, theirs in pairs if ours is not None and theirs is not None)


def interval(values: Iterable[float | None]) -> Interval | None:
    measured = [value for value in values if value is not None]
    return Interval.of(measured) if measured else None


def median(values: Iterable[float | None]) -> float | None:
    over = interval(values)
    return None if over is None else over.median
