"""Variants × seeds for a reader: the loss beside what it took, and what was dropped where selection is compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

from matplotlib.figure import Figure

from litespark.metrics.records.training import Dropped, Kind, TrainingRecord
from litespark.reports.plots import COLOURS, GREY, LINE_STYLES, ticks
from litespark.reports.quantities import ABSENT, count, duration, joules, percent, plain, rate, scaled
from litespark.reports.step import TIMES
from litespark.reports.table import NONE, Column, Table, texts
from litespark.reports.training_rows import TrainingRow, rows

_MOST_RULES = 3
_DIFFERENCE = Column("difference", "{:+.3%}".format, ABSENT)


def tables(record: TrainingRecord) -> list[Table]:
    """The variants, and where there is a corpus what is left of it and what each variant dropped."""
    prepared = [(variant.name, variant.prepared) for variant in record.variants if variant.prepared is not None]
    if record.corpus is None or not prepared:
        return [_variants(record)]
    columns = [*texts("variant"), Column("documents", count), Column("tokens", scaled),
               Column("epochs", "{:.2f}".format), Column("preparation", duration, "found")]  # fmt: skip
    left = [
        (name, each.train_documents, each.train_tokens, record.stream.budget_tokens / each.train_tokens,
         each.prepare_seconds)
        for name, each in prepared
    ]  # fmt: skip
    kinds = [*texts("kind"), Column("documents", count), Column("bytes", partial(scaled, unit="B")),
             Column("dropped", percent), Column("of its bytes", percent), *texts("by")]  # fmt: skip
    dropped = [
        Table(kinds, [_dropped(kind, each.dropped) for kind in record.corpus.kinds], f"{name}: dropped documents")
        for name, each in prepared[1:]
    ]
    return [_variants(record), Table(columns, left, "What is left of the corpus"), *dropped]


def all_within(record: TrainingRecord) -> bool:
    """Whether every variant is within the bound with every seed, where there is one."""
    return record.bound is None or all(row.within for row in rows(record).values())


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
    drawn.suptitle(_title(record), fontsize=10)
    return drawn


def _title(record: TrainingRecord) -> str:
    model, stream, target = record.model, record.stream, record.target_bits_per_byte
    goal = f"{scaled(stream.budget_tokens)} equal tokens" if target is None else f"To {target:g} bits per byte"
    data = stream.name if record.corpus is None else f"{record.corpus.source} with planted junk and copies"
    return (
        f"{goal}: {model.name} ({scaled(model.parameters)} parameters), {data}, {stream.global_batch_size} sequences "
        f"of {stream.seq_len} tokens a step, {record.precision}, {record.provenance.environment.device_names}"
        + ("" if record.complete else ", NOT complete")
    )


def _dropped(kind: Kind, dropped: Sequence[Dropped]) -> tuple[object, ...]:
    """What selection dropped of one kind of document, and the rules that did, without their reasons, most first."""
    of_kind = [each for each in dropped if each.kind == kind.kind]
    rules: Counter[str] = Counter()
    for each in of_kind:
        rules[each.rule.partition("/")[0]] += each.documents
    most = ", ".join(f"{rule} {documents:,}" for rule, documents in rules.most_common(_MOST_RULES))
    documents, size = sum(each.documents for each in of_kind), sum(each.bytes for each in of_kind)
    by = (most or NONE) + (", …" if len(rules) > _MOST_RULES else "")
    return kind.kind, kind.documents, kind.bytes, documents / kind.documents, size / kind.bytes, by


def _variants(record: TrainingRecord) -> Table:
    """A row for each variant; over equal tokens losses are compared, to a target they are not."""
    table, first = rows(record), record.variants[0].name
    compared = 0 if record.target_bits_per_byte is not None else 2 if record.bound is None else 3

    def figure(row: TrainingRow, name: str, written: Callable[[float], str]) -> str | None:
        """The median, with the ratio over the first variant."""
        value, ratio = row.of(name), row.ratio(name)
        if value is None:
            return None
        simulated = " simulated" if row.simulated and name != "tokens" else ""
        beside = "" if row.name == first or ratio is None else f" (× {Column('', TIMES).cell(ratio)})"
        return f"{written(value.median)}{simulated}{beside}"

    def to_goal(row: TrainingRow, name: str, written: Callable[[float], str]) -> str | None:
        return figure(row, name, written) if row.reached else "not reached" if row.judged else NONE

    cells = []
    for row in table.values():
        beside = [_DIFFERENCE.cell(row.difference), _DIFFERENCE.cell(row.late_difference),
                  {True: "yes", False: "NO", None: None}[row.within]]  # fmt: skip
        cells.append((
            row.name, row.repeats.median("bits_per_byte"), *([NONE] * 3 if row.name == first else beside)[:compared],
            figure(row, "tokens_per_second", rate), figure(row, "joules_per_token", plain),
            f"{row.reached} of {row.judged}" if row.judged else NONE if row.repeats.figures else "no run",
            to_goal(row, "tokens", scaled), to_goal(row, "seconds", duration), to_goal(row, "joules", joules),
        ))  # fmt: skip
    names = ["difference", "largest late one", "within"][:compared]
    names += ["tokens/s", "J/token", "reached", "tokens to it", "train time", "train energy"]
    columns = [*texts("variant"), Column("bits/byte", plain, ABSENT), *(Column(name, absent=ABSENT) for name in names)]
    return Table(columns, cells, _title(record), notes=_notes(record, list(table.values())))


def _notes(record: TrainingRecord, table: Sequence[TrainingRow]) -> list[str]:
    stream, first, target = record.stream, table[0].name, record.target_bits_per_byte
    notes = [
        f"Medians over {_seeds(record)}; × is over {first} with the same seed (lowest to highest). Time and energy are "
        "of training steps only, the first ones with their compilation included.",
        f"Reached: {'the target' if target else f'what {first} has at its end with the same seed'}; validation every "
        f"{stream.validate_every * stream.tokens_per_step:,} tokens: tokens, time and energy to it are that coarse. "
        f"A schedule spans the budget of {stream.budget_tokens:,} tokens.",
    ]
    if target is None:
        notes.append(f"Difference: of bits/byte at the end, over those of {first}; late ones: in the second half.")
    if record.bound is not None:
        notes.append(f"Within: at most {percent(record.bound)} above {first} with every seed.")
    if (corpus := record.corpus) is not None:
        notes.append(
            f"Validated on {corpus.validation_documents:,} clean documents ({scaled(corpus.validation_bytes, 'B')}) "
            f"that are held out and never selected; one tokenizer, that of {first}. Preparation is in no energy."
        )
    notes += [f"{row.name}: {' '.join(row.variant.settings) or 'the config as it is'}" for row in table]
    if simulated := [row.name for row in table if row.simulated]:
        notes.append(
            f"{', '.join(simulated)}: products are rounded as in fp8 and computed in a wider dtype: the loss is that "
            "of fp8, the time and the energy are not"
        )
    for variant in record.variants:
        if moves := sum(len(run.fp8.moves) for run in variant.runs if run.fp8 is not None):
            notes.append(f"{variant.name}: layers left their recipe or came back {moves} times")
        if failed := [failure.error for failure in variant.failures if variant.run(failure.seed) is None]:
            notes.append(f"{variant.name} FAILED: {failed[-1]}")
    notes += [f"{row.name} NOT reached, {missed}" for row in table for missed in row.missed]
    notes += [f"no joules: {reason}" for reason in dict.fromkeys(row.joules_reason for row in table) if reason]
    return notes + [
        f"stopped and continued, warm-up included each time: {variant.name} with seed {run.seed} in {run.processes} "
        "processes"
        for variant in record.variants
        for run in variant.runs
        if run.processes > 1
    ]


def _seeds(record: TrainingRecord) -> str:
    seeds = ", ".join(map(str, record.seeds))
    there = "; ".join(
        f"{variant.name} {', '.join(str(seed) for seed in record.seeds if variant.run(seed)) or 'none'}"
        for variant in record.variants
    )
    return f"seeds {seeds}" if record.complete else f"the seeds that are there, of {seeds} ({there})"
