"""A prepared data set for a reader: its domains, the lengths of its documents, and what was dropped and why."""

import itertools
from collections.abc import Sequence
from typing import Any

from litespark.data.contents import PreparedData, summed
from litespark.data.dropped import DroppedRow
from litespark.data.manifest import DomainCounts, SplitCounts
from litespark.reports.quantities import count, percent, plain, scaled, short
from litespark.reports.runs import Run
from litespark.reports.table import Column, Table, fenced, one_line, text, texts
from litespark.run.folder import DATA

ALL = "(all)"
NONE = "—"
NOT_COUNTED = "not counted"
NO_LENGTHS = "The lengths of documents were not counted."
EXCERPT_CHARACTERS = 80
_NAMED = 3
_SELECTING = ("quality", "languages", "decontaminate", "exact_duplicates", "near_duplicates")


def kept_data(run: Run) -> PreparedData | None:
    """What the folder of a run keeps of its data, None where nothing; a ValueError where it belongs to other data."""
    kept, expected = run.folder / DATA, run.record.data.manifest_hash
    if not kept.is_file():
        return None
    data = PreparedData.read(kept)
    if data.manifest_hash != expected:
        raise ValueError(
            f"{kept}: got the manifest {data.manifest_hash[:12]}, expected {expected[:12]} as the record of the run "
            "has it; restore the file that the run wrote, or remove it"
        )
    return data


def about(data: PreparedData) -> str:
    """One paragraph: name, packing, selection, and whether the tokenizer keeps every byte."""
    what = f"**{data.name}** (manifest {data.manifest_hash[:12]}), vocabulary {count(data.vocab_size)}"
    return f"{what}; {_packing_and_selection(data)}."


def left_out_by_selection(data: PreparedData) -> str:
    """The share of the training documents that selection dropped, and its rules: 12.3 % by quality=[c4]; or none."""
    rules = _selection(data.settings)
    if rules == "none":
        return rules
    dropped = sum(row.documents for row in data.left_out_of("train") if row.rule.startswith("selection/"))
    return f"{_SHARE.cell(_share(dropped, data.read_documents('train')))} by {rules}"


def domains(data: PreparedData) -> Table:
    """Documents, tokens (EOS included) and bytes of text by split and domain, with a row for all of several."""
    rows = []
    for split in data.split_names:
        parts: list[tuple[str, DomainCounts | SplitCounts]] = list(data.domains_of(split).items())
        whole = data.splits.get(split, SplitCounts({}))
        rows += [
            (split, one_line(name), held.documents, held.tokens, _share(held.tokens, whole.tokens),
             held.text_bytes, _share(held.bytes, held.tokens), _share(held.tokens, held.documents))
            for name, held in ([*parts, (ALL, whole)] if len(parts) > 1 else parts)
        ]  # fmt: skip
    columns = [
        *texts("split", "domain"),
        Column("documents", count),
        Column("tokens", count),
        Column("of the split", percent, NONE),
        Column("text", _size),
        Column("bytes/token", plain, NONE),
        Column("tokens/document", plain, NONE),
    ]
    return Table(columns, rows)


def lengths(data: PreparedData) -> Table:
    """How long the documents are, in tokens: the mean, and the ranges between powers of two that hold the quantiles."""
    rows = [
        (
            split,
            one_line(name),
            held.tokens / held.documents,
            *(_range_of(held.lengths, quantile) for quantile in (0.5, 0.95, 1.0)),
        )
        for split in data.split_names
        for name, held in data.domains_of(split).items()
        if held.lengths and held.documents
    ]
    columns = [*texts("split", "domain"), Column("mean", short), *map(Column, ("median", "95th percentile", "longest"))]
    return Table(columns, rows, title="" if rows else NO_LENGTHS)


def left_out(data: PreparedData) -> Table:
    """What each rule dropped of each domain, with a row for all domains where it dropped something of several."""
    if not data.left_out:
        return Table([], [], title=nothing_left_out(data))
    rows, about = [], []
    for split in data.split_names:
        for rule, group in itertools.groupby(data.by_rule(split), key=lambda row: row.rule):
            parts = list(group)
            if len(parts) > 1:
                parts.append(summed(parts, rule, ALL))
            rows += [_dropped(data, row, rule, row.domain) for row in parts]
        if dropped := data.left_out_of(split):
            documents, read = sum(row.documents for row in dropped), data.read_documents(split)
            about.append(
                f"Dropped from {split}: {count(documents)} of {count(read)} documents and lines "
                f"({_SHARE.cell(_share(documents, read))}), {_size(sum(row.bytes for row in dropped))} of text."
            )
    notes = [
        "Rules apply one after the other; a document that several would drop is counted for the first. `of those read` "
        "is the share of the documents and lines of that domain, or of the whole split."
    ]
    if any(row.tokens is None for row in data.left_out):
        notes.append(
            f"Tokens are {NOT_COUNTED} for lines that are not a document, and with "
            "`data.selection.count_dropped_tokens=false`."
        )
    return Table([*texts("split", "rule", "domain"), *_COUNTED], rows, about=[*about, *_passed_over(data)], notes=notes)


def nothing_left_out(data: PreparedData) -> str:
    return " ".join(["No documents were dropped.", *_passed_over(data)])


def reasons(data: PreparedData) -> Table | None:
    """What the rules that give reasons dropped for each of them, of all domains together; None without any."""
    rows = []
    for split in data.split_names:
        dropped = data.left_out_of(split)
        for rule in sorted({row.rule for row in dropped if row.rule != row.group}):
            rows.append(_dropped(data, summed([row for row in dropped if row.rule == rule], rule, ALL), rule))
    return Table([*texts("split", "rule and reason"), *_COUNTED], rows) if rows else None


def examples(data: PreparedData, most: int = 3) -> str:
    """The first `most` documents and lines that each rule dropped, of as many domains as there are."""
    lines: list[str] = []
    for split in data.split_names:
        for rule in sorted({row.rule for row in data.left_out_of(split)}):
            lines.append(f"{split}  {rule}")
            by_domain = [
                [(one_line(row.domain), example) for example in row.examples]
                for row in data.left_out_of(split)
                if row.rule == rule
            ]
            # the first of each domain, then the second of each, and so on
            in_turns = filter(None, itertools.chain.from_iterable(itertools.zip_longest(*by_domain)))
            for domain, example in itertools.islice(in_turns, most):
                excerpt = one_line(example.excerpt, EXCERPT_CHARACTERS)
                lines.append(f"    {domain}  {one_line(example.file)}:{example.place}  {excerpt}".rstrip())
    return fenced("\n".join(lines))


def in_terminal(data: PreparedData) -> str:
    tables = text([domains(data), left_out(data)])
    return f"{tables}\n\nvocabulary {data.vocab_size:,}; {_packing_and_selection(data)}"


def _dropped(data: PreparedData, row: DroppedRow, *first: str) -> tuple[object, ...]:
    read = data.read_documents(row.split, None if row.domain == ALL else row.domain)
    return row.split, *map(one_line, first), row.documents, _share(row.documents, read), row.tokens, row.bytes


def _range_of(lengths: Sequence[int], quantile: float) -> str:
    up_to = enumerate(itertools.accumulate(lengths))
    power = next(power for power, documents in up_to if documents >= quantile * sum(lengths))
    return f"{1 << power:,} to {(2 << power) - 1:,}" if power else "1"


def _passed_over(data: PreparedData) -> list[str]:
    groups = []
    for group in data.listing.get("passed_over", []):
        names, more = group["names"][:_NAMED], group["files"] - _NAMED
        also = f" and {count(more)} more" if more > 0 else ""
        groups.append(f"{', '.join(map(one_line, names))}{also}: {one_line(group['reason'])}")
    return [f"Skipped files: {'; '.join(groups)}."] if groups else []


def _packing_and_selection(data: PreparedData) -> str:
    sequences = f" for sequences of {data.seq_len:,} tokens" if data.seq_len is not None else ""
    parts = [f"packing {data.packing}{sequences}", f"selection of training text: {_selection(data.settings)}"]
    decoded, size = (sum(getattr(held, name) for held in data.splits.values()) for name in ("bytes", "text_bytes"))
    if decoded != size:
        parts.append(
            f"the tokens decode to {decoded:,} bytes, the texts have {size:,}: the tokenizer does not keep every byte"
        )
    return "; ".join(parts)


def _selection(settings: dict[str, Any]) -> str:
    chosen = settings.get("selection") or {}
    on = {name: chosen[name] for name in _SELECTING if chosen.get(name)}
    return ", ".join(f"{name}={_setting(value)}" for name, value in on.items()) or "none"


def _setting(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _size(number: int) -> str:
    return f"{number:,} B" if number < 10_000 else scaled(number, "B")


_SHARE = Column("of those read", percent, NONE)
_COUNTED = [Column("documents", count), _SHARE, Column("tokens", count, NOT_COUNTED), Column("text", _size)]
