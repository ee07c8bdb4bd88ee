"""Variants × seeds: what each variant reached and what that took, beside the first variant; as tables and a picture.

Differences and ratios are taken seed by seed, where both have a run. The goal to which costs are counted is the
record's target; over equal tokens it is what the first variant reached at its end with that seed. A run that did not
get there has no cost: what it would have taken is not known.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.figure import Figure

from litespark.metrics.records.training import Dropped, Kind, TrainedRun, TrainedVariant, TrainingRecord, Validation
from litespark.metrics.step_round import Interval
from litespark.reports.plots import COLOURS, GREY, LINE_STYLES, ticks
from litespark.reports.quantities import ABSENT, count, duration, joules, percent, plain, rate, scaled
from litespark.reports.repeats import Repeats
from litespark.reports.step import TIMES
from litespark.reports.table import NONE, Column, Table, texts

_MOST_RULES = 3
_DIFFERENCE = Column("difference", "{:+.3%}".format, ABSENT)


@dataclass(frozen=True)
class TrainingRow:
    """One variant beside the first one, whose figures are `first`; None where no run that counts has the figure.

    `repeats` has figures of training steps by seed, with the tokens, seconds and joules to the goal. `difference` is
    that of bits per byte at the end over equal tokens, `late_difference` the largest of the second half; `within` the
    bound with every seed. Of `judged` runs `reached` got to the goal; `missed` is what the others did reach.
    """

    variant: TrainedVariant
    repeats: Repeats
    first: Repeats
    difference: Interval | None
    late_difference: float | None
    within: bool | None
    reached: int
    judged: int
    missed: tuple[str, ...]
    joules_reason: str | None

    @property
    def simulated(self) -> bool:
        return any(run.fp8.simulated for run in self.variant.runs if run.fp8 is not None)

    def ratio(self, figure: str) -> Interval | None:
        return self.repeats.over(self.first, figure)


def rows(record: TrainingRecord) -> dict[str, TrainingRow]:
    return {variant.name: _row(variant, record) for variant in record.variants}


def all_within(record: TrainingRecord) -> bool:
    return record.bound is None or all(row.within for row in rows(record).values())


def _cost(run: TrainedRun, record: TrainingRecord) -> Validation | None:
    first, goal = record.variants[0].run(run.seed), record.target_bits_per_byte
    if goal is None:
        if first is None or run is first:
            return None if first is None else first.end
        goal = first.end.bits_per_byte
    return next((point for point in run.curve if point.bits_per_byte <= goal), None)


def _late_differences(run: TrainedRun, other: TrainedRun) -> list[float]:
    theirs = {point.tokens: point.bits_per_byte for point in other.curve}
    late = [point for point in run.curve if point.tokens in theirs and 2 * point.tokens >= run.end.tokens]
    return [point.bits_per_byte / theirs[point.tokens] - 1 for point in late]


def _repeats(variant: TrainedVariant, record: TrainingRecord) -> Repeats:
    figures: dict[int, dict[str, float | None]] = {}
    for run in variant.runs:
        end, to_goal = run.end, _cost(run, record)
        figures[run.seed] = {
            "bits_per_byte": end.bits_per_byte,
            "tokens_per_second": end.tokens / end.seconds,
            "joules_per_token": None if end.joules is None else end.joules / end.tokens,
        }
        if to_goal is not None:
            figures[run.seed] |= {"tokens": to_goal.tokens, "seconds": to_goal.seconds, "joules": to_goal.joules}
    return Repeats(figures)


def _row(variant: TrainedVariant, record: TrainingRecord) -> TrainingRow:
    first, equal_tokens = record.variants[0], record.target_bits_per_byte is None
    repeats, theirs = _repeats(variant, record), _repeats(first, record)
    pairs = [(run, other) for run in variant.runs if (other := first.run(run.seed)) is not None]
    missed = [run for run in variant.runs if _cost(run, record) is None]
    difference = None
    if equal_tokens:
        difference = repeats.over(theirs, "bits_per_byte", lambda ours, others: ours / others - 1)
    reasons = [run.joules_reason for run in [*variant.runs, *first.runs] if variant.runs and run.joules_reason]
    missed_at = [
        f"seed {run.seed}: best {run.best_bits_per_byte:.4f} bits/byte within {run.end.tokens:,} tokens and "
        f"{run.end.seconds:,.1f} s"
        for run in missed
    ]
    return TrainingRow(
        variant,
        repeats,
        theirs,
        difference,
        late_difference=max((late for pair in pairs for late in _late_differences(*pair)), key=abs, default=None),
        within=None if difference is None or record.bound is None else difference.high <= record.bound,
        reached=len(variant.runs) - len(missed),
        judged=len(pairs) if equal_tokens else len(variant.runs),
        missed=() if equal_tokens else tuple(missed_at),
        joules_reason=next(iter(reasons), None),
    )


# ---------------------------------------------------------------- for a reader


def tables(record: TrainingRecord) -> list[Table]:
    prepared = [(variant.name, variant.prepared) for variant in record.variants if variant.prepared is not None]
    if record.corpus is None or not prepared:
        return [_variants(record)]
    columns = [
        *texts("variant"),
        Column("documents", count),
        Column("tokens", scaled),
        Column("epochs", "{:.2f}".format),
        Column("preparation", duration, "found"),
    ]
    left = [
        (
            name,
            variant.train_documents,
            variant.train_tokens,
            record.stream.budget_tokens / variant.train_tokens,
            variant.prepare_seconds,
        )
        for name, variant in prepared
    ]
    kinds = [
        *texts("kind"),
        Column("documents", count),
        Column("bytes", partial(scaled, unit="B")),
        Column("dropped", percent),
        Column("of its bytes", percent),
        *texts("by"),
    ]
    dropped = [
        Table(kinds, [_dropped(kind, variant.dropped) for kind in record.corpus.kinds], f"{name}: dropped documents")
        for name, variant in prepared[1:]
    ]
    return [_variants(record), Table(columns, left, "What is left of the corpus"), *dropped]


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
    of_kind = [row for row in dropped if row.kind == kind.kind]
    rules: Counter[str] = Counter()
    for row in of_kind:
        rules[row.rule.partition("/")[0]] += row.documents
    most = ", ".join(f"{rule} {documents:,}" for rule, documents in rules.most_common(_MOST_RULES))
    documents, size = sum(row.documents for row in of_kind), sum(row.bytes for row in of_kind)
    by = (most or NONE) + (", …" if len(rules) > _MOST_RULES else "")
    return kind.kind, kind.documents, kind.bytes, documents / kind.documents, size / kind.bytes, by


def _variants(record: TrainingRecord) -> Table:
    """A row for each variant; over equal tokens losses are compared, to a target they are not."""
    table, first = rows(record), record.variants[0].name
    compared = 0 if record.target_bits_per_byte is not None else 2 if record.bound is None else 3

    def figure(row: TrainingRow, name: str, written: Callable[[float], str]) -> str | None:
        value, ratio = row.repeats.of(name), row.ratio(name)
        if value is None:
            return None
        simulated = " simulated" if row.simulated and name != "tokens" else ""
        beside = "" if row.variant is record.variants[0] or ratio is None else f" (× {Column('', TIMES).cell(ratio)})"
        return f"{written(value.median)}{simulated}{beside}"

    def to_goal(row: TrainingRow, name: str, written: Callable[[float], str]) -> str | None:
        return figure(row, name, written) if row.reached else "not reached" if row.judged else NONE

    cells = []
    for name, row in table.items():
        beside = [
            _DIFFERENCE.cell(row.difference),
            _DIFFERENCE.cell(row.late_difference),
            {True: "yes", False: "NO", None: None}[row.within],
        ]
        cells.append((
            name, row.repeats.median("bits_per_byte"), *([NONE] * 3 if name == first else beside)[:compared],
            figure(row, "tokens_per_second", rate), figure(row, "joules_per_token", plain),
            f"{row.reached} of {row.judged}" if row.judged else NONE if row.repeats.figures else "no run",
            to_goal(row, "tokens", scaled), to_goal(row, "seconds", duration), to_goal(row, "joules", joules),
        ))  # fmt: skip
    names = ["difference", "largest late one", "within"][:compared]
    names += ["tokens/s", "J/token", "reached", "tokens to it", "train time", "train energy"]
    columns = [*texts("variant"), Column("bits/byte", plain, ABSENT), *(Column(name, absent=ABSENT) for name in names)]
    return Table(columns, cells, _title(record), notes=_notes(record, table))


def _notes(record: TrainingRecord, table: Mapping[str, TrainingRow]) -> list[str]:
    stream, first, target = record.stream, record.variants[0].name, record.target_bits_per_byte
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
    notes += [f"{name}: {' '.join(row.variant.settings) or 'the config as it is'}" for name, row in table.items()]
    if simulated := [name for name, row in table.items() if row.simulated]:
        notes.append(
            f"{', '.join(simulated)}: products are rounded as in fp8 and computed in a wider dtype: the loss is that "
            "of fp8, the time and the energy are not"
        )
    for variant in record.variants:
        if moves := sum(len(run.fp8.moves) for run in variant.runs if run.fp8 is not None):
            notes.append(f"{variant.name}: layers left their recipe or came back {moves} times")
        if failed := [failure.error for failure in variant.failures if variant.run(failure.seed) is None]:
            notes.append(f"{variant.name} FAILED: {failed[-1]}")
    notes += [f"{name} NOT reached, {missed}" for name, row in table.items() for missed in row.missed]
    notes += [f"no joules: {why}" for why in dict.fromkeys(row.joules_reason for row in table.values()) if why]
    continued = "stopped and continued, warm-up included each time:"
    return notes + [
        f"{continued} {variant.name} with seed {run.seed} in {run.processes} processes"
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
