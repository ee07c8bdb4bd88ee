"""Writes `report.md` with its pictures for one run, and the side-by-side comparison of several."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from litespark.reports import ablation, comparison, fp8, page, prepared_data, prepared_plots, tables
from litespark.reports.ablation_runs import ablation_of
from litespark.reports.plots import save, save_pictures
from litespark.reports.runs import Run, labels, load_run, load_runs, loss_unit
from litespark.reports.table import bulleted
from litespark.run.folder import REPORT, SAMPLES

COMPARISON_FILE = "comparison.md"


def write_report(run_folder: Path | str) -> Path:
    """Write `report.md` and its pictures into the run folder; a ValueError where a file of it is corrupt."""
    run = load_run(run_folder)
    data = prepared_data.kept_data(run)
    return page.write(
        run.folder / REPORT,
        "report",
        run=run,
        record=run.record,
        command=shlex.join(run.record.provenance.command),
        samples=(run.folder / SAMPLES).is_file(),
        tables=tables,
        pictures=save_pictures([run], run.folder),
        fp8=fp8.tables(run),
        ops=tables.ops(run.record),
        prepared_data=prepared_data,
        data=data,
        data_pictures={} if data is None else prepared_plots.save_pictures(data, run.folder),
        absences=absences(run),
    )


def write_comparison(folders: Iterable[Path | str], output: Path | str) -> Path:
    """Write `comparison.md` and one set of pictures of all runs at or below `folders` into the folder `output`."""
    runs, output = load_runs(folders), Path(output)
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: expected a folder to write the comparison into, found a file; name another")
    named = list(zip(labels(runs), runs, strict=True))
    by_absences: dict[str, list[str]] = {}
    for name, run in named:
        by_absences.setdefault(absences(run), []).append(name)
    made, waterfall = ablation_of(runs), None
    if isinstance(made, ablation.Ablation):
        waterfall = save(ablation.waterfall(made), output / "comparison_ablation.png")
    return page.write(
        output / COMPARISON_FILE,
        "comparison",
        runs=runs,
        loss_unit=loss_unit(runs),
        comparison=comparison,
        ablation=ablation.table(made).markdown() if isinstance(made, ablation.Ablation) else made,
        waterfall=waterfall,
        pictures=save_pictures(runs, output, prefix="comparison_"),
        named=named,
        place_of=lambda run: os.path.relpath(run.folder, output),
        tables=tables,
        prepared_data=prepared_data,
        precisions=[tables.precision_of(run.record) for run in runs],
        shared=[name for name, run in named if tables.shared_by(run.record)],
        unfinished=[name for name, run in named if not run.record.complete],
        absences=by_absences,
    )


def absences(run: Run) -> str:
    energy = run.record.energy
    by_reason: dict[str, list[str]] = {}
    for what, reason in tables.absent(run).items():
        by_reason.setdefault(reason, []).append(what)
    lines = [f"{', '.join(figures)}: {reason}" for reason, figures in by_reason.items()]
    if energy.train_joules is not None:
        if energy.coverage != 1:
            lines.append(f"energy of every device: {tables.coverage(energy.coverage)}")
        lines.append(f"energy beyond what “{energy.label}” covers (power supply, cooling, network): no meter reads it")
    return bulleted(lines) or "Everything in this report was measured."
