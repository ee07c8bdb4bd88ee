"""Pictures of runs: loss, throughput, utilisation and energy over the tokens trained on.

Each function takes one run or several and returns a matplotlib `Figure`. One run shows all its lines; several are drawn
over one another, a colour a run. No pyplot and no global state, so nothing here needs a display or disturbs a notebook.
What was not measured is said in words in the picture, never drawn as zero.
"""

import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from litespark.metrics import names
from litespark.reports.quantities import is_measured, plain, rate, scaled
from litespark.reports.reasons import no_energy, no_peak
from litespark.reports.run_config import flatten
from litespark.reports.runs import Run, differing_keys, labels, loss_unit

# Okabe and Ito's colours, told apart with every common kind of colour blindness, without the yellow
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")
GREY = "#666666"
WIDTH_INCHES = 8.0
DOTS_PER_INCH = 130
SMOOTH_FROM_POINTS = 60
MOST_LEGEND_ROWS = 12
LONGEST_LABEL = 45
TOO_SHORT = "the run ended before the first log interval"
# from the one to quote to the one that is always there
UTILISATIONS = {
    names.MFU_CAUSAL: "MFU (C)",
    names.MFU_FULL: "MFU (F)",
    names.HFU_CAUSAL: "HFU (C)",
    names.MFU_MEASURED_PEAK: "MFU (C) of the measured matmul peak",
}


def plot_loss(runs: Sequence[Run]) -> Figure:
    """Train and validation loss over tokens, with the unigram entropy of the data as dashed line."""
    if not any(len(run.series(key)) for run in runs for key in (names.TRAIN_LOSS, names.VALIDATION_LOSS)):
        return message("Loss over tokens", f"no loss was logged: {TOO_SHORT}")
    figure, (axes,) = _figure("Loss over tokens", [f"loss ({loss_unit(runs)})"])
    for run, label, colour, style in _styled(runs):
        train, validation = run.series(names.TRAIN_LOSS), run.series(names.VALIDATION_LOSS)
        alone = len(runs) == 1
        if len(train) >= SMOOTH_FROM_POINTS:
            axes.plot(train.index, train, color=colour, alpha=0.25, linewidth=0.8)
            # centred, so that the line does not trail behind a falling loss
            smooth = train.rolling(len(train) // 20, center=True, min_periods=1).mean()
            axes.plot(train.index, smooth, style, color=colour, label="train, smoothed" if alone else label)
        elif len(train):
            axes.plot(train.index, train, style, color=colour, label="train" if alone else label)
        axes.plot(
            validation.index,
            validation,
            "o" if not alone else "o-",
            color=COLOURS[1] if alone else colour,
            markersize=5,
            markeredgecolor="white",
            label=_label_if(alone and len(validation), "validation"),
            zorder=3,
        )
    entropies = sorted({entropy for run in runs if (entropy := run.record.data.unigram_entropy) is not None})
    for entropy in entropies:
        axes.axhline(entropy, color=GREY, linestyle="--", linewidth=1)
        axes.annotate(
            f"unigram entropy {plain(entropy, digits=3)}",
            (1, entropy),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=GREY,
            fontsize=9,
        )
    _note(figure, "dots: validation" if len(runs) > 1 else "")
    return _finish(figure, runs)


def plot_throughput(runs: Sequence[Run]) -> Figure:
    """Tokens per second, and the step time (median; for a single run also the 95th percentile), over tokens."""
    if not any(len(run.series(key)) for run in runs for key in (names.TOKENS_PER_SECOND, names.STEP_MS_MEDIAN)):
        return message("Throughput over tokens", f"throughput was not measured: {TOO_SHORT}")
    figure, (speed, step) = _figure("Throughput over tokens", ["tokens/s", "step time (ms)"])
    for run, label, colour, style in _styled(runs):
        tokens_per_second = run.series(names.TOKENS_PER_SECOND)
        median, p95 = run.series(names.STEP_MS_MEDIAN), run.series(names.STEP_MS_P95)
        alone = len(runs) == 1
        speed.plot(
            tokens_per_second.index,
            tokens_per_second,
            style,
            color=colour,
            label=_label_if(not alone and len(tokens_per_second), label),
        )
        step.plot(median.index, median, style, color=colour, label=_label_if(alone and len(median), "median"))
        average = run.record.throughput.tokens_per_second
        if alone and is_measured(average) and len(tokens_per_second):
            speed.axhline(average, color=GREY, linestyle="--", linewidth=1, label=f"whole run: {rate(average)}")
        if alone and len(p95):
            step.plot(p95.index, p95, color=COLOURS[1], linewidth=1, label="95th percentile")
    speed.yaxis.set_major_formatter(ticks())
    _from_zero(speed)
    _from_zero(step)
    return _finish(figure, runs)


def plot_mfu(runs: Sequence[Run]) -> Figure:
    """Utilisation over tokens: of one run every kind that was measured; of several one kind that all of them have."""
    title = "Model FLOPs utilisation over tokens"
    measured = [key for key in UTILISATIONS if any(len(run.series(key)) for run in runs)]
    if not measured:
        return message(title, "not measured: " + "\n".join(dict.fromkeys(no_peak(run) for run in runs)))
    figure, (axes,) = _figure(title, ["share of peak"])
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    if len(runs) == 1:
        for key, colour in zip(measured, COLOURS, strict=False):
            series = runs[0].series(key)
            axes.plot(series.index, series, color=colour, label=UTILISATIONS[key])
        if names.MFU_CAUSAL not in measured:
            _note(figure, f"no MFU of a vendor's peak: {no_peak(runs[0])}")
    else:
        # one kind for all of them, or the lines could not be compared
        common = [key for key in measured if all(len(run.series(key)) for run in runs)]
        key = (common or measured)[0]
        axes.set_ylabel(UTILISATIONS[key])
        for run, label, colour, style in _styled(runs):
            series = run.series(key)
            axes.plot(series.index, series, style, color=colour, label=_label_if(len(series), label))
        missing = [label for run, label, *_ in _styled(runs) if not len(run.series(key))]
        _note(figure, f"not measured in: {', '.join(missing)}" if missing else "")
    _from_zero(axes)
    return _finish(figure, runs)


def plot_energy(runs: Sequence[Run]) -> Figure:
    """Joules per token and cumulative joules over tokens; in words why, where no energy was read."""
    without = {label: run for run, label in zip(runs, labels(runs), strict=True) if not _has_energy(run)}
    if len(without) == len(runs):
        reasons = dict.fromkeys(no_energy(run) for run in runs)
        return message("Energy over tokens", "energy was not measured: " + "\n".join(reasons))
    label = next(run.record.energy.label for run in runs if _has_energy(run))
    figure, (per_token, total) = _figure(
        f"{label[:1].upper()}{label[1:]} over tokens", ["energy per token", "energy so far"]
    )
    measured = [run for run in runs if _has_energy(run)]
    for run, name, colour, style in _styled(runs):
        if run not in measured:
            continue
        alone = len(runs) == 1
        joules, train = run.series(names.JOULES_PER_TOKEN), run.series(names.TRAIN_JOULES)
        everything = run.series(names.ALL_IN_JOULES)
        per_token.plot(joules.index, joules, style, color=colour, label=_label_if(not alone and len(joules), name))
        total.plot(everything.index, everything, style, color=colour, label=_label_if(alone, "all-in"))
        if alone:
            total.plot(train.index, train, color=COLOURS[1], label="training steps only")
            average = run.record.energy.joules_per_token_train
            if is_measured(average):
                text = f"whole run: {scaled(average, 'J/token')}"
                per_token.axhline(average, color=GREY, linestyle="--", linewidth=1, label=text)
    if len(runs) > 1:
        total.set_ylabel("all-in energy so far")
    per_token.yaxis.set_major_formatter(ticks("J"))
    total.yaxis.set_major_formatter(ticks("J"))
    _from_zero(per_token)
    _from_zero(total)
    _note(figure, "\n".join(f"no energy of {name}: {no_energy(run)}" for name, run in without.items()))
    return _finish(figure, runs)


PICTURES: dict[str, Callable[[Sequence[Run]], Figure]] = {
    "loss": plot_loss,
    "throughput": plot_throughput,
    "mfu": plot_mfu,
    "energy": plot_energy,
}
# what each picture draws: without any of them it would be a sentence, which the report has in words
_DRAWN = {
    "loss": (names.TRAIN_LOSS, names.VALIDATION_LOSS),
    "throughput": (names.TOKENS_PER_SECOND, names.STEP_MS_MEDIAN),
    "mfu": tuple(UTILISATIONS),
    "energy": (names.JOULES_PER_TOKEN, names.TRAIN_JOULES, names.ALL_IN_JOULES),
}


def save_pictures(runs: Sequence[Run], folder: Path, prefix: str = "") -> dict[str, Path]:
    """Write every picture that has something to show as `folder/{prefix}{name}.png`; returns the paths by name.

    An older picture of what is no longer there is removed, since no report links it.

    Raises:
        ValueError: no runs are given.
    """
    if not runs:
        raise ValueError("got no runs to draw, expected at least one")
    paths = {}
    for name, draw in PICTURES.items():
        path = folder / f"{prefix}{name}.png"
        if any(len(run.series(key)) for run in runs for key in _DRAWN[name]):
            draw(runs).savefig(path, dpi=DOTS_PER_INCH)
            paths[name] = path
        else:
            path.unlink(missing_ok=True)
    return paths


def _has_energy(run: Run) -> bool:
    return any(len(run.series(key)) for key in _DRAWN["energy"])


def _figure(title: str, y_labels: list[str]) -> tuple[Figure, list[Axes]]:
    """A figure with one panel a y label, one below the other over the same tokens."""
    height = 4.4 if len(y_labels) == 1 else 6.2
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    grid = figure.subplots(len(y_labels), 1, sharex=True, squeeze=False)
    panels = [grid[row][0] for row in range(len(y_labels))]
    for axes, y_label in zip(panels, y_labels, strict=True):
        axes.set_ylabel(y_label)
        axes.grid(visible=True, color="#dddddd", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_title(title, loc="left", fontsize=12, fontweight="bold")
    panels[-1].set_xlabel("tokens trained on")
    panels[-1].xaxis.set_major_formatter(ticks())
    panels[-1].xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    return figure, panels


def _styled(runs: Sequence[Run]) -> list[tuple[Run, str, str, str]]:
    """Each run with its label, colour and line style; the style changes where the colours begin again."""
    return [
        (run, label, COLOURS[index % len(COLOURS)], LINE_STYLES[(index // len(COLOURS)) % len(LINE_STYLES)])
        for index, (run, label) in enumerate(zip(runs, _describe(runs), strict=True))
    ]


def _describe(runs: Sequence[Run]) -> list[str]:
    """The label of each run in a legend: its name with the few settings that set it apart, "3 (lr=0.001, seed=2)".

    Long names, as those made of a date and every override, give way to the settings where these tell the runs apart.
    """
    keys = differing_keys(runs)
    configs = [flatten(run.config) for run in runs]
    settings = [", ".join(f"{key.rsplit('.', 1)[-1]}={config.get(key)}" for key in keys) for config in configs]
    names_of_runs = labels(runs)
    distinct = bool(keys) and len(set(settings)) == len(runs) and max(map(len, settings)) <= LONGEST_LABEL
    if not distinct:
        return [_shorten(name) for name in names_of_runs]
    both = [f"{name} ({text})" for name, text in zip(names_of_runs, settings, strict=True)]
    return both if max(map(len, both)) <= LONGEST_LABEL else settings


def _shorten(name: str) -> str:
    """The end of a long name, which is where the names of a sweep's runs differ."""
    return name if len(name) <= LONGEST_LABEL else f"…{name[1 - LONGEST_LABEL :]}"


def _label_if(condition: bool | int, label: str) -> str:
    """matplotlib leaves out of the legend what is named with an underscore first."""
    return label if condition else "_"


def _from_zero(axes: Axes) -> None:
    """Let the y axis begin at zero, so that heights compare as quantities do, with room above the highest line."""
    axes.autoscale_view()
    highest = axes.dataLim.y1
    if math.isfinite(highest):  # nothing is drawn where a run was too short for this quantity
        axes.set_ylim(0, 1.08 * highest)


def ticks(unit: str = "") -> FuncFormatter:
    """Tick labels with SI prefixes and without idle zeros: 0, 500 k, 1.25 M."""

    def text(value: float, _: object) -> str:
        number, _, prefix = scaled(value, unit, digits=3).partition(" ")
        number = number.rstrip("0").rstrip(".") if "." in number else number
        return f"{number} {prefix}".rstrip() if value else "0"

    return FuncFormatter(text)


def message(title: str, text: str) -> Figure:
    """Words in place of an empty picture."""
    figure = Figure(figsize=(WIDTH_INCHES, 1.2), layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    wrapped = "\n".join(textwrap.fill(line, 90) for line in text.splitlines())
    axes.text(0, 0.9, wrapped, transform=axes.transAxes, va="top", color=GREY)
    return figure


def _note(figure: Figure, text: str) -> None:
    if text:
        figure.supxlabel(
            "\n".join(textwrap.fill(line, 110) for line in text.splitlines()), fontsize=9, color=GREY, x=0.01, ha="left"
        )


def _finish(figure: Figure, runs: Sequence[Run]) -> Figure:
    """Let tokens begin at zero, show what is a single point, and add legends; those of many runs beside the picture."""
    figure.axes[0].set_xlim(left=0)
    for line in (line for axes in figure.axes for line in axes.get_lines()):
        if len(line.get_xdata()) == 1:  # type: ignore[arg-type]
            line.set_marker("o")
    for index, axes in enumerate(figure.axes):
        handles, _ = axes.get_legend_handles_labels()
        if not handles or (len(runs) > 1 and index):
            continue
        if len(runs) > 4:
            columns = -(-len(handles) // MOST_LEGEND_ROWS)
            figure.set_figwidth(WIDTH_INCHES + 2.5 * columns)
            figure.legend(handles=handles, loc="outside right upper", frameon=False, fontsize=9, ncols=columns)
        else:
            axes.legend(frameon=False, fontsize=9)
    return figure
