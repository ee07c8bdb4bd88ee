"""Variants × seeds for a reader: the loss beside what it took, as tables for the terminal and for pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from litespark.metrics.records.training import Dropped, Kind, TrainingRecord
from litespark.metrics.step_round import Interval
from litespark.metrics.training_table import Compared, TrainingRow, rows
from litespark.reports.quantities import ABSENT, count, duration, joules, percent, plain, rate, scaled
from litespark.reports.tables import markdown_table
from litespark.reports.text_blocks import aligned, bulleted

# a title, its header and its rows
_Table = tuple[str, tuple[str, ...], Sequence[tuple[str, ...]]]
_CORPUS_HEADER = ("variant", "documents", "tokens", "epochs", "preparation")
_KIND_HEADER = ("kind", "documents", "bytes", "dropped", "of its bytes", "by")
_MOST_RULES = 3


def text(record: TrainingRecord) -> str:
    """The tables with columns for the terminal, and what a reader must know."""
    tables = [
        "\n".join([title, "", *aligned([header, *body], text_columns=None)]) for title, header, body in _tables(record)
    ]
    return "\n\n".join([*tables, "\n".join(_notes(record))])


def markdown(record: TrainingRecord) -> str:
    """The same for a page."""
    tables = [f"{title}\n\n{markdown_table(header, body)}" for title, header, body in _tables(record)]
    return "\n\n".join([*tables, bulleted(_notes(record))])


def all_within(record: TrainingRecord) -> bool:
    """Whether every variant is within the bound with every seed, where there is one."""
    return record.bound is None or all(row.within for row in rows(record))


def title_of(record: TrainingRecord) -> str:
    """What was trained on what, how far, and where."""
    model, stream, target = record.model, record.stream, record.target_bits_per_byte
    goal = f"{scaled(stream.budget_tokens)} equal tokens" if target is None else f"To {target:g} bits per byte"
    data = stream.name if record.corpus is None else f"{record.corpus.source} with planted junk and copies"
    device = ", ".join(each.name for each in record.provenance.environment.devices)
    state = "" if record.complete else ", NOT complete"
    return (
        f"{goal}: {model.name} ({scaled(model.parameters)} parameters), {data}, {stream.global_batch_size} sequences "
        f"of {stream.seq_len} tokens a step, {record.precision}, {device}{state}"
    )


def _tables(record: TrainingRecord) -> list[_Table]:
    table = rows(record)
    columns = _columns(record)
    body = [tuple(cell(row) for cell in columns.values()) for row in table]
    tables: list[_Table] = [(title_of(record), tuple(columns), body)]
    if record.corpus is not None:
        prepared = [
            (
                variant.name,
                count(each.train_documents),
                scaled(each.train_tokens),
                f"{record.stream.budget_tokens / each.train_tokens:.2f}",
                "found" if each.prepare_seconds is None else duration(each.prepare_seconds),
            )
            for variant in record.variants
            if (each := variant.prepared) is not None
        ]
        tables.append(("What is left of the corpus", _CORPUS_HEADER, prepared))
        for variant in record.variants[1:]:
            dropped = [] if variant.prepared is None else variant.prepared.dropped
            cells = [
                _dropped(kind, [each for each in dropped if each.kind == kind.kind]) for kind in record.corpus.kinds
            ]
            tables.append((f"{variant.name}: dropped documents", _KIND_HEADER, cells))
    return tables


def _dropped(kind: Kind, dropped: Sequence[Dropped]) -> tuple[str, ...]:
    """What selection dropped of one kind of document, and the rules that did, without their reasons, most first."""
    rules: Counter[str] = Counter()
    for each in dropped:
        rules[each.rule.partition("/")[0]] += each.documents
    most = ", ".join(f"{rule} {documents:,}" for rule, documents in rules.most_common(_MOST_RULES))
    return (
        kind.kind,
        count(kind.documents),
        scaled(kind.bytes, "B"),
        percent(sum(each.documents for each in dropped) / kind.documents),
        percent(sum(each.bytes for each in dropped) / kind.bytes),
        (most or "-") + (", …" if len(rules) > _MOST_RULES else ""),
    )


def _columns(record: TrainingRecord) -> dict[str, Callable[[TrainingRow], str]]:
    """Header and cell of each column; over equal tokens losses are compared, to a target they are not."""
    first = record.variants[0].name

    def beside(cell: Callable[[TrainingRow], str]) -> Callable[[TrainingRow], str]:
        return lambda row: "-" if row.name == first else cell(row)

    def figure(
        of: Callable[[TrainingRow], Compared], written: Callable[[float], str], *, measured: bool = True
    ) -> Callable[[TrainingRow], str]:
        def cell(row: TrainingRow) -> str:
            compared = of(row)
            if compared.value is None:
                return ABSENT
            simulated = " simulated" if row.simulated and measured else ""
            ratio = "" if row.name == first or compared.ratio is None else f" (× {_spread(compared.ratio, '.3f')})"
            return f"{written(compared.value.median)}{simulated}{ratio}"

        return cell

    def to_goal(cell: Callable[[TrainingRow], str]) -> Callable[[TrainingRow], str]:
        return lambda row: cell(row) if row.reached else "not reached" if row.judged else "-"

    judged = {
        "difference": beside(lambda row: _spread(row.difference, "+.3%")),
        "largest late one": beside(
            lambda row: ABSENT if row.late_difference is None else f"{row.late_difference:+.3%}"
        ),
        "within": beside(lambda row: {True: "yes", False: "NO", None: ABSENT}[row.within]),
    }
    if record.target_bits_per_byte is not None:
        judged = {}
    elif record.bound is None:
        del judged["within"]
    return {
        "variant": lambda row: row.name,
        "bits/byte": lambda row: plain(row.bits_per_byte.median) if row.bits_per_byte else ABSENT,
        **judged,
        "tokens/s": figure(lambda row: row.tokens_per_second, rate),
        "J/token": figure(lambda row: row.joules_per_token, plain),
        "reached": lambda row: f"{row.reached} of {row.judged}" if row.judged else "no run" if not row.runs else "-",
        "tokens to it": to_goal(figure(lambda row: row.tokens, scaled, measured=False)),
        "train time": to_goal(figure(lambda row: row.seconds, duration)),
        "train energy": to_goal(figure(lambda row: row.joules, joules)),
    }


def _spread(found: Interval | None, digits: str) -> str:
    if found is None:
        return ABSENT
    around = "" if found.count == 1 else f", {found.low:{digits}} to {found.high:{digits}}"
    return f"{found.median:{digits}}{around}"


def _notes(record: TrainingRecord) -> list[str]:
    stream, table = record.stream, rows(record)
    first, target = table[0].name, record.target_bits_per_byte
    notes = [
        f"Medians over {_seeds(record)}; × is over {first} with the same seed. Time and energy are of training steps "
        "only, the first ones with their compilation included.",
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
    notes += [f"{row.name}: {' '.join(row.settings) or 'the config as it is'}" for row in table]
    if simulated := [row.name for row in table if row.simulated]:
        notes.append(
            f"{', '.join(simulated)}: products are rounded as in fp8 and computed in a wider dtype: the loss is that "
            "of fp8, the time and the energy are not"
        )
    notes += [f"{row.name}: layers left their recipe or came back {row.moves} times" for row in table if row.moves]
    notes += [f"{row.name} NOT reached, {missed}" for row in table for missed in row.missed]
    notes += [f"{row.name} FAILED: {row.error}" for row in table if row.error is not None]
    notes += [f"no joules: {reason}" for reason in dict.fromkeys(row.joules_reason for row in table) if reason]
    stopped = [
        f"{variant.name} with seed {run.seed} in {run.processes}"
        for variant in record.variants
        for run in variant.runs
        if run.processes > 1
    ]
    return notes + [f"stopped and continued, warm-up included each time: {each} processes" for each in stopped]


def _seeds(record: TrainingRecord) -> str:
    """The seeds that figures are of, by variant where some are missing."""
    seeds = ", ".join(map(str, record.seeds))
    if record.complete:
        return f"seeds {seeds}"
    there = "; ".join(
        f"{variant.name} {', '.join(str(seed) for seed in record.seeds if variant.run(seed)) or 'none'}"
        for variant in record.variants
    )
    return f"the seeds that are there, of {seeds} ({there})"
