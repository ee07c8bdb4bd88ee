"""Writes `report.md` with its pictures for one run, and the side-by-side comparison of several.

Everything said here is read from the run folder. What was not measured is named together with the reason, and never
shown as a zero or an estimate.
"""

import os
from collections.abc import Hashable, Iterable
from pathlib import Path

from litespark.metrics.records.prepared import RUN_DATA, PreparedData
from litespark.reports import prepared_data, tables
from litespark.reports.ablation import save_waterfall, table_as_markdown
from litespark.reports.ablation_runs import ablation_of
from litespark.reports.fp8_text import fp8_section, parity_section
from litespark.reports.ops_table import ops_table
from litespark.reports.plots import save_pictures
from litespark.reports.prepared_plots import save_pictures as save_pictures_of_data
from litespark.reports.quantities import count, duration, plain, rate, scaled, seconds_between
from litespark.reports.reasons import absent, coverage
from litespark.reports.runs import SAMPLES_FILE, Run, labels, load_run, load_runs, loss_unit
from litespark.reports.seeds import seeds_section
from litespark.reports.text_blocks import fenced
from litespark.reports.validation_domains import domains_section

REPORT_FILE = "report.md"
COMPARISON_FILE = "comparison.md"
ABLATION_PICTURE = "comparison_ablation.png"
ABLATION_TITLE = "## What bought what"

HOW_TO_READ = """\
- **Loss** is in nats per supervised token (÷ 0.693 gives bits). It depends on the tokenizer; **bits per byte** does
  not, so quote that one when vocabularies differ.
- **Unigram entropy** is the loss of a model that knows only how frequent each token is. A model that is not below it
  has learned nothing from context.
- **MFU** is the model's FLOPs per token × tokens/s ÷ the peak of all devices. (C) counts attention as causal, the
  work that is needed; (F) counts the full square, as much of the literature does. Compare like with like; quote (C).
  The vendor's peak is the dense bf16 figure, for runs in fp8 too. **HFU** also counts activations that are computed
  twice.
- **MFU of the measured peak** divides by the best that a large matmul reached on this device before the run and after.
- **Energy per token** counts training steps only; **all-in** adds evaluation, checkpoints, start-up, idle time and
  steps that a crash threw away.
- Step times are of optimizer steps; tokens are counted in the batches, padding is not a token."""


def write_report(run_folder: Path | str) -> Path:
    """Write `report.md` and its pictures into the run folder; returns the path of the report.

    Raises:
        ValueError: not a run folder, or one of its files is corrupt.
        OSError: the folder cannot be written.
    """
    run = load_run(run_folder)
    pictures = save_pictures([run], run.folder)
    record = run.record
    sections = [
        f"# {record.name}",
        summary(run),
        "## Results",
        tables.headline_table(run),
        *domains_section(run),
        "## Loss beside speed",
        tables.progress_table(run),
        *(f"![{name} over tokens]({path.name})" for name, path in pictures.items()),
        *fp8_section(run),
        "## Ops",
        ops_table(record),
        "## Energy",
        tables.energy_table(run),
        "## Projection",
        tables.projection_table(run),
        "## Model and data",
        tables.model_and_data_table(run),
        "## Prepared data",
        *data_of(run),
        "## Sample",
        sample(run),
        "## Environment",
        tables.environment_table(run),
    ]
    if len(record.segments) > 1:
        sections += ["## Starts and resumes", tables.segments_table(run)]
    sections += ["## How to read the numbers", HOW_TO_READ, "## What was not measured, and why", absences(run)]
    return _write(run.folder / REPORT_FILE, sections)


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
    pictures = save_pictures(runs, output, prefix="comparison_")
    names_of_runs = labels(runs)
    by_absences: dict[str, list[str]] = {}
    for name, run in zip(names_of_runs, runs, strict=True):
        by_absences.setdefault(absences(run), []).append(name)
    sections = [
        f"# Comparison of {len(runs)} {'run' if len(runs) == 1 else 'runs'}",
        tables.comparison_table(runs),
        f"Losses in {loss_unit(runs)}; energy of training steps only; — means not measured (or not set), see below.",
        *seeds_section(runs),
        *_ablation(runs, output),
        *parity_section(runs),
        *(f"![{name} over tokens]({path.name})" for name, path in pictures.items()),
        "## Data and machines",
        tables.markdown_table(
            ("run", "model", "data", "left out", "unigram entropy", "devices", "precision", "folder"),
            [
                (
                    name,
                    f"{run.record.model.name}, {count(run.record.model.parameters)} parameters",
                    f"{run.record.data.name} ({run.record.data.manifest_hash[:12]})",
                    _left_out(run),
                    plain(run.record.data.unigram_entropy, "nats/token"),
                    ", ".join(device.name for device in run.record.environment.devices) or "none recorded",
                    tables.precision_of(run.record),
                    os.path.relpath(run.folder, output),
                )
                for name, run in zip(names_of_runs, runs, strict=True)
            ],
        ),
        *(f"> {warning}" for warning in comparability(runs)),
        "## How to read the numbers",
        HOW_TO_READ,
        "## What was not measured, and why",
        *(f"**{', '.join(same)}**\n\n{text}" for text, same in by_absences.items()),
    ]
    return _write(output / COMPARISON_FILE, sections)


def _left_out(run: Run) -> str:
    """How much of the training text the selection of its data left out, and by which rules."""
    data = kept_data(run)
    return "—" if data is None else prepared_data.left_out_by_selection(data)


def _ablation(runs: list[Run], output: Path) -> list[str]:
    """Table and waterfall of runs that differ in switches alone; nothing of others."""
    found = ablation_of(runs)
    if found is None:
        return []
    if isinstance(found, str):
        return [ABLATION_TITLE, found]
    picture = save_waterfall(found, output / ABLATION_PICTURE)
    return [ABLATION_TITLE, table_as_markdown(found), f"![tokens/s from the baseline to the target]({picture.name})"]


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
        "failed": f"**The run failed: {record.error or 'the record does not say why'}**",
    }
    loss = record.quality.validation_loss
    learned = [f"It reached a validation loss of **{plain(loss)} {record.loss_unit}**"] if loss is not None else []
    if learned and record.quality.bits_per_byte is not None:
        learned.append(f"({plain(record.quality.bits_per_byte)} bits per byte)")
    if learned and tables.beaten_by(record):
        learned.append(f", {tables.beaten_by(record)}")
    speed = record.throughput.tokens_per_second
    costs = [f", at {rate(speed)} tokens/s" if speed is not None else ", at a speed that was not measured"]
    energy = record.energy.joules_per_token_train
    costs.append(f"and {scaled(energy, 'J/token')}" if energy is not None else "with energy not measured")
    text = f"{' '.join([*learned, *costs])}.".replace(" ,", ",") if learned else ""
    shared = tables.shared_by(record)
    busy = f"**{shared}.**" if shared else ""
    return "\n\n".join(part for part in (ends[record.status], f"{what} {text}".strip(), busy) if part)


def data_of(run: Run) -> list[str]:
    """What the run read, as its folder keeps it: domains, lengths, what was left out, with pictures beside the report.

    Raises:
        ValueError: as `kept_data`.
    """
    data = kept_data(run)
    if data is None:
        return [f"The folder of the run holds no {RUN_DATA}, so it is not known what the data was made of."]
    pictures = save_pictures_of_data(data, run.folder)
    return [prepared_data.markdown(data), *(f"![{what}]({path.name})" for what, path in pictures.items())]


def kept_data(run: Run) -> PreparedData | None:
    """What the folder of a run keeps of its data; None where it keeps nothing.

    Raises:
        ValueError: it was changed after it was written, or belongs to other data than the record names.
    """
    kept = run.folder / RUN_DATA
    if not kept.is_file():
        return None
    data = PreparedData.read(kept)
    if data.manifest_hash != run.record.data.manifest_hash:
        raise ValueError(
            f"{kept}: got the manifest {data.manifest_hash[:12]}, expected {run.record.data.manifest_hash[:12]} as the "
            "record of the run has it; restore the file that the run wrote, or remove it"
        )
    return data


def sample(run: Run) -> str:
    """The generated text, fenced so that nothing in it is read as Markdown."""
    text = run.record.quality.sample
    if text is None:
        return "No sample was generated."
    more = f"\n\nMore samples: [{SAMPLES_FILE}]({SAMPLES_FILE})" if run.samples else ""
    return f"{fenced(text)}{more}"


def absences(run: Run) -> str:
    """A list of every headline figure that is absent, with the reason."""
    energy = run.record.energy
    by_reason: dict[str, list[str]] = {}
    for what, reason in absent(run).items():
        by_reason.setdefault(reason, []).append(what)
    lines = [f"- {', '.join(figures)}: {reason}" for reason, figures in by_reason.items()]
    if energy.train_joules is not None:
        if energy.coverage != 1:
            lines.append(f"- energy of every device: {coverage(energy.coverage)}")
        lines.append(
            f"- energy beyond what “{energy.label}” covers (power supply, cooling, network): no meter reads it"
        )
    return "\n".join(lines) or "Everything in this report was measured."


def comparability(runs: list[Run]) -> list[str]:
    """Warnings where the figures of these runs may not be held against each other."""
    checks: dict[str, list[Hashable]] = {
        "The runs read different data, so their losses do not compare.": [
            run.record.data.manifest_hash for run in runs
        ],
        "The runs saw different numbers of tokens; compare losses at equal tokens in the picture.": [
            run.record.throughput.tokens for run in runs
        ],
        "The runs used different devices; speed and energy compare machines as well as settings.": [
            tuple(device.name for device in run.record.environment.devices) for run in runs
        ],
        "The runs used different precisions.": [tables.precision_of(run.record) for run in runs],
    }
    warnings = [text for text, values in checks.items() if len(set(values)) > 1]
    unfinished = [name for name, run in zip(labels(runs), runs, strict=True) if run.record.status != "finished"]
    if shared := [name for name, run in zip(labels(runs), runs, strict=True) if tables.shared_by(run.record)]:
        warnings.append(f"Other programs shared the machine (step times far apart) in: {', '.join(shared)}.")
    return warnings + ([f"Not finished: {', '.join(unfinished)}."] if unfinished else [])


def _write(path: Path, sections: Iterable[str]) -> Path:
    """Write through a temporary file, so that an older report stays whole until the new one is."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("\n\n".join(sections) + "\n", encoding="utf-8", errors="backslashreplace")
    temporary.replace(path)
    return path
