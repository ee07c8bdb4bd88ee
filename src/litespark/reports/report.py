"""Writes `report.md` with its pictures for one run, and the side-by-side comparison of several.

Everything in them is read from the run folder. What was not measured is named together with the reason, and never
shown as a zero or an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from litespark.reports import ablation, comparison, fp8, ops, page, prepared_data, prepared_plots, tables
from litespark.reports.ablation_rows import Ablation
from litespark.reports.ablation_runs import ablation_of
from litespark.reports.plots import save, save_pictures
from litespark.reports.quantities import count, duration, plain, rate, scaled, seconds_between
from litespark.reports.reasons import coverage
from litespark.reports.runs import Run, labels, load_run, load_runs, loss_unit
from litespark.reports.table import bulleted
from litespark.run.folder import REPORT

COMPARISON_FILE = "comparison.md"
ABLATION_PICTURE = "comparison_ablation.png"


def write_report(run_folder: Path | str) -> Path:
    """Write `report.md` and its pictures into the run folder; returns the path of the report.

    Raises:
        ValueError: not a run folder, or one of its files is corrupt.
        OSError: the folder cannot be written.
    """
    run = load_run(run_folder)
    data = prepared_data.kept_data(run)
    text = page.render(
        "report",
        run=run,
        summary=summary(run),
        tables=tables,
        pictures=save_pictures([run], run.folder),
        fp8=fp8.tables(run),
        ops=ops.table(run.record),
        prepared_data=prepared_data,
        data=data,
        data_pictures={} if data is None else prepared_plots.save_pictures(data, run.folder),
        absences=absences(run),
    )
    return page.write(run.folder / REPORT, text)


def write_comparison(folders: Iterable[Path | str], output: Path | str) -> Path:
    """Write `comparison.md` and one set of pictures of all runs at or below `folders` into the folder `output`.

    Returns the path of `comparison.md`; the pictures lie beside it as `comparison_loss.png` and so on.

    Raises:
        ValueError: no runs are found, one is corrupt, or `output` is a file.
        OSError: `output` cannot be written.
    """
    runs = load_runs(folders)
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: expected a folder to write the comparison into, found a file; name another")
    output.mkdir(parents=True, exist_ok=True)
    by_absences: dict[str, list[str]] = {}
    for name, run in zip(labels(runs), runs, strict=True):
        by_absences.setdefault(absences(run), []).append(name)
    switched, waterfall = ablation_of(runs), None
    if isinstance(switched, Ablation):
        waterfall = save(ablation.waterfall(switched), output / ABLATION_PICTURE)
    text = page.render(
        "comparison",
        runs=runs,
        loss_unit=loss_unit(runs),
        comparison=comparison,
        ablation=ablation.table(switched) if isinstance(switched, Ablation) else switched,
        waterfall=waterfall,
        parity=fp8.parity(runs),
        pictures=save_pictures(runs, output, prefix="comparison_"),
        output=output,
        absences=by_absences,
    )
    return page.write(output / COMPARISON_FILE, text)


def summary(run: Run) -> str:
    """What happened, in a few sentences; how it ended comes first when it did not end well."""
    record = run.record
    took = seconds_between(record.started, record.ended)
    what = (
        f"{record.task.capitalize()} of **{record.model.name}** ({count(record.model.parameters)} parameters) on "
        f"{count(record.throughput.tokens)} tokens of **{record.data.name}**"
        f"{f' in {duration(took)}' if took is not None else ''}."
    )
    ends = {
        "finished": "",
        "running": "**According to the record the run has not ended, or it was killed.**",
        "interrupted": f"**The run was interrupted after step {record.throughput.steps}.**",
        "failed": f"**The run failed: {record.error or 'the record has no reason'}**",
    }
    if (loss := record.quality.validation_loss) is not None:
        bits, speed = record.quality.bits_per_byte, record.throughput.tokens_per_second
        energy, below = record.energy.joules_per_token_train, tables.beaten_by(record)
        what += f" It reached a validation loss of **{plain(loss)} {record.loss_unit}**"
        what += f" ({plain(bits)} bits per byte)" if bits is not None else ""
        what += f", {below}" if below else ""
        what += f", at {rate(speed)} tokens/s" if speed is not None else ", at a speed that was not measured"
        what += f" and {scaled(energy, 'J/token')}." if energy is not None else " with energy not measured."
    shared = tables.shared_by(record)
    return "\n\n".join(part for part in (ends[record.status], what, f"**{shared}.**" if shared else "") if part)


def absences(run: Run) -> str:
    """A list of every headline figure that is absent, with the reason."""
    energy = run.record.energy
    by_reason: dict[str, list[str]] = {}
    for what, reason in tables.absent(run).items():
        by_reason.setdefault(reason, []).append(what)
    lines = [f"{', '.join(figures)}: {reason}" for reason, figures in by_reason.items()]
    if energy.train_joules is not None:
        if energy.coverage != 1:
            lines.append(f"energy of every device: {coverage(energy.coverage)}")
        lines.append(f"energy beyond what “{energy.label}” covers (power supply, cooling, network): no meter reads it")
    return bulleted(lines) or "Everything in this report was measured."
