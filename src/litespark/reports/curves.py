"""Curves of trained variants: validation bits per byte over tokens, and over joules or seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from litespark.metrics.records.training import TrainingRecord, Validation
from litespark.reports.plots import COLOURS, LINE_STYLES, ticks
from litespark.reports.training_text import title_of

DOTS_PER_INCH = 130


def picture(record: TrainingRecord, path: Path) -> None:
    """Draw the curves into a file."""
    figure(record).savefig(path, dpi=DOTS_PER_INCH)


def figure(record: TrainingRecord) -> Figure:
    """Bits per byte over tokens, and over train joules, or train seconds where joules were not measured.

    A line is one run, a colour a variant; the dashed line is the target.
    """
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    left, right = drawn.subplots(1, 2, sharey=True)
    points = [point for variant in record.variants for run in variant.runs for point in run.curve]
    _draw(left, record, "tokens", lambda point: point.tokens)
    if points and all(point.joules is not None for point in points):
        _draw(right, record, "train energy (J)", lambda point: point.joules or 0.0)
    else:
        _draw(right, record, "train time (s); joules were not measured", lambda point: point.seconds)
    left.set_ylabel("validation bits per byte")
    handles, labels = left.get_legend_handles_labels()
    right.legend(handles, labels, frameon=False)
    drawn.suptitle(title_of(record), fontsize=10)
    return drawn


def _draw(axes: Axes, record: TrainingRecord, label: str, over: Callable[[Validation], float]) -> None:
    for index, variant in enumerate(record.variants):
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
    if record.target_bits_per_byte is not None:
        axes.axhline(record.target_bits_per_byte, color="#666666", linestyle="--", linewidth=1)
    axes.set_xlabel(label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(ticks())
