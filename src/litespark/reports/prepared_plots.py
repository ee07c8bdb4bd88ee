"""The picture of a prepared data set: the lengths of its documents."""

from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, PercentFormatter

from litespark.data.contents import PreparedData
from litespark.reports.plots import COLOURS, LINE_STYLES, message, new_figure, save, ticks
from litespark.reports.prepared_data import NO_LENGTHS
from litespark.reports.table import one_line

TRAIN = "train"
MOST_LINES = 10
LONGEST_NAME = 40


def plot_lengths(data: PreparedData, split: str = TRAIN) -> Figure:
    """Share of the documents of each domain, or of the largest, by length; a point is the middle of a range."""
    title = f"Lengths of documents of {data.name}, {split}"
    rows = [(name, held) for name, held in data.domains_of(split).items() if held.documents and held.lengths]
    if not rows:
        return message(title, NO_LENGTHS)
    if len(rows) > MOST_LINES:
        title += f": the {MOST_LINES} largest of {len(rows)} domains"
        rows = sorted(rows, key=lambda row: -row[1].documents)[:MOST_LINES]
    of = "the documents" if len(rows) == 1 else "the domain's documents"
    figure, (axes,) = new_figure(4.4, f"share of {of}", title=title)
    filled = [[power for power, documents in enumerate(held.lengths) if documents] for _, held in rows]
    for index, ((name, held), powers) in enumerate(zip(rows, filled, strict=True)):
        span = range(powers[0], powers[-1] + 1)
        axes.plot(
            [2 ** (power + 0.5) for power in span],
            [held.lengths[power] / held.documents for power in span],
            LINE_STYLES[index // len(COLOURS)],
            marker=".",
            color=COLOURS[index % len(COLOURS)],
            label=one_line(name, LONGEST_NAME).replace("$", r"\$"),
        )
    axes.set_xscale("log")
    # all of the outer ranges and a little more, within which lies at least one round number
    first, last = min(powers[0] for powers in filled), max(powers[-1] for powers in filled)
    axes.set_xlim(2**first / 1.3, 2 ** (last + 1) * 1.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1,) if last - first > 12 else (1, 2, 5)))
    axes.xaxis.set_major_formatter(ticks())
    axes.minorticks_off()
    axes.set_xlabel("tokens of a document, EOS included")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylim(bottom=0)
    if len(rows) > 1:
        axes.legend(frameon=False, fontsize=9)
    return figure


def save_pictures(data: PreparedData, folder: Path) -> dict[str, Path]:
    """Write the pictures that have something to show as `folder/NAME.png`; returns the paths by what they show."""
    paths = {}
    if any(held.lengths for held in data.domains_of(TRAIN).values()):
        paths["lengths of documents"] = save(plot_lengths(data), folder / "data_lengths.png")
    return paths
