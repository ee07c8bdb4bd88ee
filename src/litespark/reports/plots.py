"""Pictures of runs: loss, throughput, utilisation and energy over the tokens trained on.

Each function takes one run, which shows all its lines, or several, a colour a run; no pyplot, no global state. What was
not measured stands in words in the picture, never as zero.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from litespark.metrics import names
from litespark.reports.quantities import is_measured, rate, scaled, short
from litespark.reports.runs import Run, differing_keys, labels, loss_unit
from litespark.reports.tables import no_energy, no_peak
from litespark.run.folder import flatten

# Okabe and Ito's colours, told apart with every common kind of colour blindness, without the yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")
GREY = "#666666"
WIDTH_INCHES = 8.0
LONGEST_LABEL = 45
_SMOOTH_FROM_POINTS = 60
_MOST_LEGEND_ROWS = 12
_TOO_SHORT = "the run ended before the first log interval"
# from the one to quote to the one that is always there
UTILISATIONS = {
    names.MFU_CAUSAL: "MFU (C)",
    names.MFU_FULL: "MFU (F)",
    names.HFU_CAUSAL: "HFU (C)",
    names.MFU_MEASURED_PEAK: "MFU (C) of the measured matmul peak",
}
# what each picture draws
_DRAWN: dict[str, tuple[str, ...]] = {
    "loss": (names.TRAIN_LOSS, names.VALIDATION_LOSS),
    "throughput": (names.TOKENS_PER_SECOND, names.STEP_MS_MEDIAN),
    "mfu": tuple(UTILISATIONS),
    "energy": (names.JOULES_PER_TOKEN, names.TRAIN_JOULES, names.ALL_IN_JOULES),
}


class _Line(NamedTuple):
    run: Run
    label: str
    colour: str
    style: str

    def draw(self, axes: Axes, key: str, label: str | None = None, **look: object) -> None:
        series = self.run.series(key)
        look = {"color": self.colour, "linestyle": self.style, **look}
        axes.plot(series.index, series, label=label if label and len(series) else "_", **look)  # type: ignore[arg-type]


def plot_loss(runs: Sequence[Run]) -> Figure:
    """Train and validation loss over tokens, with the unigram entropy of the data as dashed line."""
    if not _logged(runs, "loss"):
        return message("Loss over tokens", f"no loss was logged: {_TOO_SHORT}")
    figure, (axes,) = _over_tokens("Loss over tokens", f"loss ({loss_unit(runs)})")
    alone = len(runs) == 1
    for line in _lines(runs):
        train = line.run.series(names.TRAIN_LOSS)
        if len(train) >= _SMOOTH_FROM_POINTS:
            line.draw(axes, names.TRAIN_LOSS, alpha=0.25, linewidth=0.8, linestyle="-")
            # centred, so that the line does not trail behind a falling loss
            smooth: pd.Series = train.rolling(len(train) // 20, center=True, min_periods=1).mean()
            label = "train, smoothed" if alone else line.label
            axes.plot(smooth.index, smooth, line.style, color=line.colour, label=label)
        else:
            line.draw(axes, names.TRAIN_LOSS, "train" if alone else line.label)
        look = {"color": COLOURS[1], "linestyle": "-"} if alone else {"linestyle": "none"}
        line.draw(axes, names.VALIDATION_LOSS, "validation" if alone else None, marker="o", markersize=5,
                  markeredgecolor="white", zorder=3, **look)  # fmt: skip
    entropies = {run.record.data.unigram_entropy for run in runs}
    for entropy in sorted(entropy for entropy in entropies if entropy is not None):
        axes.axhline(entropy, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(f"unigram entropy {short(entropy)}", (1, entropy), (-4, 4), ha="right", color=GREY, fontsize=9,
                      xycoords=("axes fraction", "data"), textcoords="offset points")  # fmt: skip
    return _finish(figure, runs, "" if alone else "dots: validation", from_zero=False)


def plot_throughput(runs: Sequence[Run]) -> Figure:
    if not _logged(runs, "throughput"):
        return message("Throughput over tokens", f"throughput was not measured: {_TOO_SHORT}")
    figure, (speed, step) = _over_tokens("Throughput over tokens", "tokens/s", "step time (ms)")
    alone = len(runs) == 1
    for line in _lines(runs):
        line.draw(speed, names.TOKENS_PER_SECOND, None if alone else line.label)
        line.draw(step, names.STEP_MS_MEDIAN, "median" if alone else None)
        if alone:
            line.draw(step, names.STEP_MS_P95, "95th percentile", color=COLOURS[1], linewidth=1)
            _average(speed, line.run.record.throughput.tokens_per_second, rate)
    speed.yaxis.set_major_formatter(ticks())
    return _finish(figure, runs)


def plot_mfu(runs: Sequence[Run]) -> Figure:
    """Utilisation over tokens: of one run every kind that was measured; of several one kind that all of them have."""
    title = "Model FLOPs utilisation over tokens"
    measured = [key for key in UTILISATIONS if any(len(run.series(key)) for run in runs)]
    if not measured:
        return message(title, "not measured: " + "\n".join(dict.fromkeys(no_peak(run.record) for run in runs)))
    figure, (axes,) = _over_tokens(title, "share of peak")
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    lines, note = _lines(runs), ""
    if len(runs) == 1:
        for key, colour in zip(measured, COLOURS, strict=False):
            lines[0].draw(axes, key, UTILISATIONS[key], color=colour)
        if names.MFU_CAUSAL not in measured:
            note = f"no MFU of a vendor's peak: {no_peak(runs[0].record)}"
    else:
        # one kind for all of them, or the lines could not be compared
        key = next((key for key in measured if all(len(run.series(key)) for run in runs)), measured[0])
        axes.set_ylabel(UTILISATIONS[key])
        for line in lines:
            line.draw(axes, key, line.label)
        if missing := [line.label for line in lines if not len(line.run.series(key))]:
            note = f"not measured in: {', '.join(missing)}"
    return _finish(figure, runs, note)


def plot_energy(runs: Sequence[Run]) -> Figure:
    unread = {
        name: no_energy(run.record)
        for name, run in zip(labels(runs), runs, strict=True)
        if not _logged([run], "energy")
    }
    if len(unread) == len(runs):
        return message("Energy over tokens", "energy was not measured: " + "\n".join(dict.fromkeys(unread.values())))
    alone = len(runs) == 1
    title = next(run.record.energy.label for run in runs if _logged([run], "energy"))
    figure, (per_token, total) = _over_tokens(
        f"{title[:1].upper()}{title[1:]} over tokens",
        *("energy per token", "energy so far" if alone else "all-in energy so far"),
    )
    for line in (line for line in _lines(runs) if _logged([line.run], "energy")):
        line.draw(per_token, names.JOULES_PER_TOKEN, None if alone else line.label)
        line.draw(total, names.ALL_IN_JOULES, "all-in" if alone else None)
        if alone:
            line.draw(total, names.TRAIN_JOULES, "training steps only", color=COLOURS[1])
            _average(per_token, line.run.record.energy.joules_per_token_train, lambda value: scaled(value, "J/token"))
    for axes in (per_token, total):
        axes.yaxis.set_major_formatter(ticks("J"))
    return _finish(figure, runs, "\n".join(f"no energy of {name}: {reason}" for name, reason in unread.items()))


PICTURES: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "loss": plot_loss,
    "throughput": plot_throughput,
    "mfu": plot_mfu,
    "energy": plot_energy,
}


def save_pictures(runs: Sequence[Run], folder: Path, prefix: str = "") -> dict[str, Path]:
    """Write every picture that has something to show, by its name; an older one without it is removed."""
    paths = {name: folder / f"{prefix}{name}.png" for name in PICTURES}
    for name, path in paths.items():
        if _logged(runs, name):
            save(PICTURES[name](runs), path)
        else:
            path.unlink(missing_ok=True)
    return {name: path for name, path in paths.items() if _logged(runs, name)}


def save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    return path


def new_figure(height: float, *y_labels: str, title: str = "") -> tuple[Figure, list[Axes]]:
    """A figure with a title at the left, and one panel a y label, one below the other over the same x."""
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    panels = list(figure.subplots(len(y_labels), 1, sharex=True, squeeze=False)[:, 0])
    for axes, y_label in zip(panels, y_labels, strict=True):
        axes.set_ylabel(y_label)
        axes.grid(visible=True, color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold")
    return figure, panels


def ticks(unit: str = "") -> FuncFormatter:
    """Tick labels with SI prefixes and without idle zeros: 0, 500 k, 1.25 M."""

    def text(value: float, _: object) -> str:
        number, _, prefix = scaled(value, unit, digits=3).partition(" ")
        number = number.rstrip("0").rstrip(".") if "." in number else number
        return f"{number} {prefix}".rstrip() if value else "0"

    return FuncFormatter(text)


def message(title: str, text: str) -> Figure:
    figure, (axes,) = new_figure(1.2, "", title=title)
    axes.set_axis_off()
    axes.text(0, 0.9, _wrapped(text, 90), transform=axes.transAxes, va="top", color=GREY)
    return figure


def _logged(runs: Sequence[Run], picture: str) -> bool:
    return any(len(run.series(key)) for run in runs for key in _DRAWN[picture])


def _over_tokens(title: str, *y_labels: str) -> tuple[Figure, list[Axes]]:
    figure, panels = new_figure(4.4 if len(y_labels) == 1 else 6.2, *y_labels, title=title)
    panels[-1].set_xlabel("tokens trained on")
    panels[-1].xaxis.set_major_formatter(ticks())
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    return figure, panels


def _lines(runs: Sequence[Run]) -> list[_Line]:
    return [
        _Line(run, label, COLOURS[index % len(COLOURS)], LINE_STYLES[(index // len(COLOURS)) % len(LINE_STYLES)])
        for index, (run, label) in enumerate(zip(runs, _describe(runs), strict=True))
    ]


def _describe(runs: Sequence[Run]) -> list[str]:
    """The label of each run: its name with the few settings that set it apart, or the ends of long names."""
    keys, configs, names_of_runs = differing_keys(runs), [flatten(run.config) for run in runs], labels(runs)
    settings = [", ".join(f"{key.rsplit('.', 1)[-1]}={config.get(key)}" for key in keys) for config in configs]
    if not keys or len(set(settings)) < len(runs) or max(map(len, settings)) > LONGEST_LABEL:
        # the names of a sweep's runs differ at their ends
        return [name if len(name) <= LONGEST_LABEL else f"…{name[1 - LONGEST_LABEL :]}" for name in names_of_runs]
    both = [f"{name} ({text})" for name, text in zip(names_of_runs, settings, strict=True)]
    return both if max(map(len, both)) <= LONGEST_LABEL else settings


def _average(axes: Axes, value: float | None, written: Callable[[float], str]) -> None:
    if is_measured(value) and any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
        axes.axhline(value, color=GREY, linestyle="--", linewidth=1, label=f"whole run: {written(value)}")


def _wrapped(text: str, width: int) -> str:
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def _finish(figure: Figure, runs: Sequence[Run], note: str = "", *, from_zero: bool = True) -> Figure:
    """Let axes begin at zero, so that heights compare as quantities do, show single points, add note and legends."""
    if note:
        figure.supxlabel(_wrapped(note, 110), fontsize=9, color=GREY, x=0.01, ha="left")
    figure.axes[0].set_xlim(left=0)
    for index, axes in enumerate(figure.axes):
        axes.autoscale_view(scalex=False)
        if from_zero and math.isfinite(axes.dataLim.y1):  # nothing is drawn where a run was too short for a quantity
            axes.set_ylim(0, 1.08 * axes.dataLim.y1)
        for line in axes.get_lines():
            if len(line.get_xdata()) == 1:  # type: ignore[arg-type]
                line.set_marker("o")
        handles, _ = axes.get_legend_handles_labels()
        if not handles or (len(runs) > 1 and index):
            continue
        if len(runs) > 4:  # at the side
            columns = -(-len(handles) // _MOST_LEGEND_ROWS)
            figure.set_figwidth(WIDTH_INCHES + 2.5 * columns)
            figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
        else:
            axes.legend(frameon=False, fontsize=9)
    return figure
