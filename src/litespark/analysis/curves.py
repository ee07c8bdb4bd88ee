"""Curves of runs that a benchmark trained: validation bits per byte over tokens, and over joules or seconds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litespark.analysis.plots import COLOURS, LINE_STYLES, ticks
from litespark.metrics.records.training_runs import CurvePoint

DOTS_PER_INCH = 130


class Run(Protocol):
    """A run with its validations."""

    @property
    def curve(self) -> list[CurvePoint]: ...


class Variant(Protocol):
    """A variant with its runs."""

    @property
    def name(self) -> str: ...

    @property
    def runs(self) -> Sequence[Run]: ...


def curves(variants: Sequence[Variant], title: str, line: float | None = None) -> Figure:
    """Bits per byte over tokens, and over train joules, or train seconds where joules were not measured.

    A line is one run, a colour a variant.

    Args:
        variants: with at least one run among them.
        title: of the picture.
        line: bits per byte at which a dashed line is drawn; None: there is none.
    """
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    points = [point for variant in variants for run in variant.runs for point in run.curve]
    measured = bool(points) and all(point.joules is not None for point in points)
    _draw(left, variants, line, "tokens", lambda point: point.tokens)
    if measured:
        _draw(right, variants, line, "train energy (J)", lambda point: point.joules or 0.0)
    else:
        _draw(right, variants, line, "train time (s); joules were not measured", lambda point: point.seconds)
    left.set_ylabel("validation bits per byte")
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, frameon=False)
    drawn.suptitle(title, fontsize=10)
    return drawn


def _draw(
    axes: Axes, variants: Sequence[Variant], line: float | None, label: str, over: Callable[[CurvePoint], float]
) -> None:
    for index, variant in enumerate(variants):
        colour, style = COLOURS[index % len(COLOURS)], LINE_STYLES[index % len(LINE_STYLES)]
        for number, run in enumerate(variant.runs):
            axes.plot(
                [over(point) for point in run.curve],
                [point.bits_per_byte for point in run.curve],
                style,
                marker=".",
                color=colour,
                label=variant.name if number == 0 else "_",
            )
    if line is not None:
        axes.axhline(line, color="#666666", linestyle="--", linewidth=1)
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(ticks())
