"""Curves of trained variants: validation bits per byte over tokens, and over joules or seconds."""

from __future__ import annotations

from matplotlib.figure import Figure

from litespark.metrics.records.training import TrainingRecord
from litespark.reports.plots import COLOURS, GREY, LINE_STYLES, ticks
from litespark.reports.training import title_of


def figure(record: TrainingRecord) -> Figure:
    """Bits per byte over tokens, and over train joules, or train seconds where joules were not measured.

    A line is one run, a colour a variant; the dashed line is the target.
    """
    drawn = Figure(figsize=(10, 4.2), layout="constrained")
    points = [point for variant in record.variants for run in variant.runs for point in run.curve]
    over = {"tokens": "tokens", "seconds": "train time (s); joules were not measured"}
    if points and all(point.joules is not None for point in points):
        over = {"tokens": "tokens", "joules": "train energy (J)"}
    panels = drawn.subplots(1, 2, sharey=True)
    for axes, (quantity, label) in zip(panels, over.items(), strict=True):
        for index, variant in enumerate(record.variants):
            look = {"color": COLOURS[index % len(COLOURS)], "linestyle": LINE_STYLES[index % len(LINE_STYLES)]}
            for number, run in enumerate(variant.runs):
                x = [getattr(point, quantity) for point in run.curve]
                y = [point.bits_per_byte for point in run.curve]
                axes.plot(x, y, marker=".", label="_" if number else variant.name, **look)
        if record.target_bits_per_byte is not None:
            axes.axhline(record.target_bits_per_byte, color=GREY, linestyle="--", linewidth=1)
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(ticks())
    panels[0].set_ylabel("validation bits per byte")
    panels[1].legend(*panels[0].get_legend_handles_labels(), frameon=False)
    drawn.suptitle(title_of(record), fontsize=10)
    return drawn
