"""Pictures of a prepared data set: how its tokens lie over the domains, how long documents are, what was left out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from litespark.metrics.records.prepared import PreparedData, PreparedDomain
from litespark.reports.plots import COLOURS, DOTS_PER_INCH, LINE_STYLES, WIDTH_INCHES, message, ticks
from litespark.reports.prepared_data import nothing_left_out
from litespark.reports.quantities import count, percent

TRAIN = "train"
MOST_LINES = 10
LONGEST_NAME = 40
_HEIGHT_OF_ROW = 0.34
# where an axis of shares ends
_BOUNDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PICTURES = {"data_lengths": "lengths of documents", "data_left_out": "dropped documents, by domain and rule"}


def plot_domains(data: PreparedData, split: str = TRAIN) -> Figure:
    """Tokens of each domain of a split as bars, with their number; the largest on top."""
    rows = sorted(data.domains_of(split), key=lambda row: row.tokens)
    total = sum(row.tokens for row in rows)
    title = f"Tokens of {data.name} by domain, {split}"
    if not total:
        return message(title, f"there are no tokens in the split {split}")
    figure, axes = _bars(title, len(rows), f"share of the {count(total)} tokens")
    bars = axes.barh([_short(row.domain) for row in rows], [row.tokens / total for row in rows], color=COLOURS[0])
    axes.bar_label(bars, [count(row.tokens) for row in rows], padding=3, fontsize=9)
    axes.margins(x=0.12)
    return figure


def plot_lengths(data: PreparedData, split: str = TRAIN) -> Figure:
    """Share of the documents of each domain by length; a point is the middle of a range between powers of two.

    Where there are more than MOST_LINES domains, those with the fewest documents are one line.
    """
    title = f"Lengths of documents of {data.name}, {split}"
    rows = _few([row for row in data.domains_of(split) if row.documents and row.lengths])
    if not rows:
        return message(title, "the lengths of documents were not counted")
    figure = Figure(figsize=(WIDTH_INCHES, 4.4), layout="constrained")
    axes = figure.subplots()
    _style(axes, title)
    filled = [power for row in rows for power, documents in enumerate(row.lengths) if documents]
    for index, row in enumerate(rows):
        powers = [power for power, documents in enumerate(row.lengths) if documents]
        span = range(min(powers), max(powers) + 1)
        axes.plot(
            [2 ** (power + 0.5) for power in span],
            [row.lengths[power] / row.documents for power in span],
            LINE_STYLES[(index // len(COLOURS)) % len(LINE_STYLES)],
            marker=".",
            color=COLOURS[index % len(COLOURS)],
            label=_short(row.domain),
        )
    axes.set_xscale("log", base=2)
    # all of the outer ranges and a little more, within which lies at least one round number
    low, high = 2 ** min(filled) / 1.3, 2 ** (max(filled) + 1) * 1.3
    axes.set_xlim(low, high)
    axes.set_xticks(_round_numbers(low, high))
    axes.xaxis.set_major_formatter(ticks())
    axes.minorticks_off()
    axes.set_xlabel("tokens of a document, EOS included")
    axes.set_ylabel("share of the documents" if len(rows) == 1 else "share of the domain's documents")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes.set_ylim(bottom=0)
    if len(rows) > 1:
        axes.legend(frameon=False, fontsize=9)
    return figure


def plot_left_out(data: PreparedData, split: str = TRAIN) -> Figure:
    """Share of the documents and lines read of each domain that each rule left out, one bar a domain."""
    title = f"Dropped documents of {data.name}, {split}"
    rows = data.by_rule(split)
    if not rows:
        return message(title, nothing_left_out(data))
    # the domain that lost the largest share on top
    read = {domain: data.read_documents(split, domain) for domain in {row.domain for row in rows}}
    lost = {domain: sum(row.documents for row in rows if row.domain == domain) for domain in read}
    domains = sorted(read, key=lambda domain: (lost[domain] / max(1, read[domain]), domain))
    figure, axes = _bars(title, len(domains), "share of the domain's documents and lines that were read")
    begin = dict.fromkeys(domains, 0.0)
    for index, rule in enumerate(sorted({row.rule for row in rows})):
        shares = {row.domain: row.documents / max(1, read[row.domain]) for row in rows if row.rule == rule}
        axes.barh(
            [domains.index(domain) for domain in shares],
            list(shares.values()),
            left=[begin[domain] for domain in shares],
            color=COLOURS[index % len(COLOURS)],
            hatch=("", "///", "...", "xx")[(index // len(COLOURS)) % 4],
            edgecolor="white",
            label=rule,
        )
        for domain, share in shares.items():
            begin[domain] += share
    axes.set_yticks(range(len(domains)), [_short(domain) for domain in domains])
    # bars begin at zero and end well before a round share, so that a small one looks small
    most = max(begin.values())
    axes.set_xlim(0, next(bound for bound in _BOUNDS if bound >= min(1.2 * most, 1)))
    for place, domain in enumerate(domains):
        axes.annotate(percent(begin[domain]), (begin[domain], place), (4, 0), textcoords="offset points", va="center",
                      fontsize=9)  # fmt: skip
    figure.set_figwidth(WIDTH_INCHES + 3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def save_pictures(data: PreparedData, folder: Path) -> dict[str, Path]:
    """Write the pictures that have something to show as `folder/NAME.png`; returns the paths by what they show."""
    drawn = {}
    if any(row.lengths for row in data.domains_of(TRAIN)):
        drawn["data_lengths"] = plot_lengths(data)
    if data.left_out_of(TRAIN):
        drawn["data_left_out"] = plot_left_out(data)
    paths = {}
    for name, figure in drawn.items():
        paths[PICTURES[name]] = folder / f"{name}.png"
        figure.savefig(folder / f"{name}.png", dpi=DOTS_PER_INCH)
    return paths


def _round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between two positive numbers; of a span beyond a thousand the powers alone."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1,) if high > 1e4 * low else (1, 2, 5)
    return [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]


def _few(rows: Sequence[PreparedDomain]) -> list[PreparedDomain]:
    """The domains with the most documents, by name, and the sum of all others."""
    largest = sorted(rows, key=lambda row: (-row.documents, row.domain))
    if len(rows) <= MOST_LINES:
        return list(rows)
    kept, rest = largest[: MOST_LINES - 1], largest[MOST_LINES - 1 :]
    lengths = [0] * max(len(row.lengths) for row in rest)
    for row in rest:
        for power, documents in enumerate(row.lengths):
            lengths[power] += documents
    others = PreparedDomain(
        rest[0].split,
        f"{len(rest)} others",
        sum(row.documents for row in rest),
        sum(row.tokens for row in rest),
        sum(row.bytes for row in rest),
        sum(row.text_bytes for row in rest),
        lengths,
    )
    return [*sorted(kept, key=lambda row: row.domain), others]


def _bars(title: str, rows: int, label: str) -> tuple[Figure, Axes]:
    """Room for so many horizontal bars over a share."""
    figure = Figure(figsize=(WIDTH_INCHES, 1.4 + _HEIGHT_OF_ROW * rows), layout="constrained")
    axes = figure.subplots()
    _style(axes, title)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(label)
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure, axes


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    axes.grid(visible=True, color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _short(name: str) -> str:
    """A name that leaves room for the picture; matplotlib reads what stands between dollar signs as mathematics."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return shown.replace("$", r"\$")
