"""The arithmetic of `litespark bench selection`: what selection gains at equal tokens, and saves at equal quality."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from litespark.metrics.records.selection import SelectionRecord, SelectionRun, SelectionVariant
from litespark.metrics.records.training_runs import CurvePoint
from litespark.metrics.step_round import Interval


@dataclass(frozen=True)
class SelectionRow:
    """One variant; None where it was not measured.

    Attributes:
        epochs: how often the tokens that were left were trained on.
        bits_per_byte: at equal tokens; difference: less that of the first variant with the same seed, below 0 is
            better.
        tokens_ratio, seconds_ratio, joules_ratio: to the first validation that is as good as the end of the first
            variant's run with the same seed, over what that took; below 1 is saved. Only over seeds that got there.
        equal: how many seeds got there, of `compared`: those of which the first variant has a run, too.
        equal_reason: why there are no ratios; None where there are.
        joules_reason: why there are no joules; error: of the last run that failed and was not repeated.
    """

    name: str
    settings: tuple[str, ...]
    train_documents: int
    train_tokens: int
    epochs: float
    prepare_seconds: float | None
    runs: int
    compared: int
    bits_per_byte: Interval | None
    difference: Interval | None
    equal: int
    tokens_ratio: Interval | None
    seconds_ratio: Interval | None
    joules_ratio: Interval | None
    equal_reason: str | None
    joules_reason: str | None
    error: str | None


@dataclass(frozen=True)
class KindRow:
    """What selection left out of one kind of document: shares of its documents and bytes, and the rules that did."""

    kind: str
    documents: int
    bytes: int
    documents_share: float
    bytes_share: float
    rules: tuple[tuple[str, int], ...]
    """(rule without its reason, documents), most first."""


def rows(record: SelectionRecord) -> list[SelectionRow]:
    """One row a variant, the one without selection first."""
    return [_row(variant, record) for variant in record.variants]


def kind_rows(record: SelectionRecord, variant: SelectionVariant) -> list[KindRow]:
    """One row a kind of document, as the corpus lists them."""
    found = []
    for kind in record.corpus.kinds:
        entries = [each for each in variant.left_out if each.kind == kind.kind]
        rules: dict[str, int] = {}
        for each in entries:
            rule = each.rule.partition("/")[0]
            rules[rule] = rules.get(rule, 0) + each.documents
        found.append(
            KindRow(
                kind.kind,
                kind.documents,
                kind.bytes,
                sum(each.documents for each in entries) / max(kind.documents, 1),
                sum(each.bytes for each in entries) / max(kind.bytes, 1),
                tuple(sorted(rules.items(), key=lambda entry: (-entry[1], entry[0]))),
            )
        )
    return found


def _row(variant: SelectionVariant, record: SelectionRecord) -> SelectionRow:
    pairs = [(run, other) for run in variant.runs if (other := record.variants[0].run(run.seed)) is not None]
    met = [(point, other) for run, other in pairs if (point := as_good(run, other.bits_per_byte)) is not None]
    joules = [(point.joules, other.joules) for point, other in met]
    measured = [*variant.runs, *(other for _, other in pairs)]
    reasons = [each.joules_reason for each in measured if each.joules_reason is not None]
    failed = [each.error for each in variant.failures if variant.run(each.seed) is None]
    return SelectionRow(
        name=variant.name,
        settings=tuple(variant.settings),
        train_documents=variant.train_documents,
        train_tokens=variant.train_tokens,
        epochs=record.model.budget_tokens / variant.train_tokens,
        prepare_seconds=variant.prepare_seconds,
        runs=len(variant.runs),
        compared=len(pairs),
        bits_per_byte=_interval(run.bits_per_byte for run in variant.runs),
        difference=_interval(run.bits_per_byte - other.bits_per_byte for run, other in pairs),
        equal=len(met),
        tokens_ratio=_interval(point.tokens / other.tokens for point, other in met),
        seconds_ratio=_interval(point.seconds / other.train_seconds for point, other in met),
        joules_ratio=_interval(ours / theirs for ours, theirs in joules if ours is not None and theirs),
        equal_reason=_no_ratio(variant, record, len(pairs), len(met)),
        joules_reason=reasons[0] if reasons else None,
        error=failed[-1] if failed else None,
    )


def _no_ratio(variant: SelectionVariant, record: SelectionRecord, compared: int, met: int) -> str | None:
    if met:
        return None
    if compared:
        return "not reached"
    first = record.variants[0]
    return "no run yet" if not variant.runs else f"no run of {first.name} with the same seed"


def as_good(run: SelectionRun, bits_per_byte: float) -> CurvePoint | None:
    """The first validation of a run at or below the bits per byte; None where there is none."""
    return next((point for point in run.curve if point.bits_per_byte <= bits_per_byte), None)


def _interval(values: Iterable[float]) -> Interval | None:
    found = list(values)
    return Interval.of(found) if found else None
