"""A prepared data set for a reader: its domains, the lengths of its documents, and what was left out and why.

As Markdown for reports and notebooks, and as text for the terminal.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from litespark.metrics.records.prepared import LeftOut, LeftOutExample, PreparedData, PreparedDomain, summed
from litespark.reports.quantities import count, percent, plain, scaled
from litespark.reports.tables import markdown_table
from litespark.reports.text_blocks import aligned, fenced, one_line

ALL = "(all)"
NOT_COUNTED = "not counted"
NOTHING_LEFT_OUT = "No documents were dropped."
EXCERPT_CHARACTERS = 80
_NAMED = 3
_SELECTING = ("quality", "languages", "decontaminate", "exact_duplicates", "near_duplicates")
_DOMAINS = ("split", "domain", "documents", "tokens", "of the split", "text", "bytes/token", "tokens/document")
_LENGTHS = ("split", "domain", "mean", "median", "95th percentile", "longest")
_REASONS = ("split", "rule and reason", "documents", "of those read", "tokens", "text")
_LEFT_OUT = ("split", "rule", "domain", "documents", "of those read", "tokens", "text")


def markdown(data: PreparedData) -> str:
    """Everything about a prepared data set: a section of a report, without its heading."""
    parts = [
        facts(data),
        domains_table(data),
        "### Lengths of documents",
        lengths_table(data),
        "### Dropped documents",
        ledger_table(data),
    ]
    if reasons := reasons_table(data):
        parts += ["The reasons that the rules gave, in all domains:", reasons]
    if data.left_out:
        parts += ["### Examples of dropped documents", examples(data)]
    return "\n\n".join(parts)


def facts(data: PreparedData) -> str:
    """One paragraph: name, packing, selection, and whether the tokenizer keeps every byte."""
    what = f"**{data.name}** (manifest {data.manifest_hash[:12]}), vocabulary {count(data.vocab_size)}"
    chosen = f"selection of training text: {selection(data.settings)}"
    return "; ".join([what, _packing(data), chosen, *_other_bytes(data)]) + "."


def selection(settings: dict[str, Any]) -> str:
    """The rules of `data.selection` that were on, as overrides are written."""
    chosen = settings.get("selection")
    switched_on = {name: chosen[name] for name in _SELECTING if chosen.get(name)} if isinstance(chosen, dict) else {}
    return ", ".join(f"{name}={_setting(value)}" for name, value in switched_on.items()) or "none"


def left_out_by_selection(data: PreparedData) -> str:
    """The share of the training documents that selection left out, and its rules: 12.3 % by quality=[c4]; or none."""
    rules = selection(data.settings)
    if rules == "none":
        return rules
    rows = [row for row in data.left_out_of("train") if row.rule.startswith("selection/")]
    return f"{_share(sum(row.documents for row in rows), data.read_documents('train'))} by {rules}"


def domains_table(data: PreparedData) -> str:
    """Documents, tokens (EOS included) and bytes of text by split and domain, with a row for all of several."""
    rows = [
        (row.split, one_line(row.domain), count(row.documents), count(row.tokens), share, _size(row.text_bytes), *per)
        for row, share, *per in _domains(data)
    ]
    return markdown_table(_DOMAINS, rows)


def lengths_table(data: PreparedData) -> str:
    """How long the documents are, in tokens: the mean, and the ranges between powers of two that hold the quantiles."""
    rows = [
        (row.split, one_line(row.domain), plain(row.tokens / row.documents, digits=3), *_quantiles(row))
        for split in data.splits
        for row in data.domains_of(split)
        if row.lengths and row.documents
    ]
    return markdown_table(_LENGTHS, rows) if rows else "The lengths of documents were not counted."


def ledger_table(data: PreparedData) -> str:
    """What each rule left out of each domain, with a row for all domains where it left something out of several."""
    if not data.left_out:
        return nothing_left_out(data)
    rows = [
        (row.split, f"`{row.rule}`", one_line(row.domain), count(row.documents), share, _tokens(row), _size(row.bytes))
        for row, share in _by_rule(data)
    ]
    return "\n\n".join([*_totals(data), *passed_over(data), markdown_table(_LEFT_OUT, rows), _how_to_read(data)])


def nothing_left_out(data: PreparedData) -> str:
    """One line for a ledger without rows; files that were not read are named."""
    files = passed_over(data)
    return f"No documents were dropped. {files[0]}" if files else NOTHING_LEFT_OUT


def passed_over(data: PreparedData) -> list[str]:
    """A sentence on the files of the source that were not read, with the reason; none where all were."""
    groups = [
        f"{', '.join(one_line(name) for name in group.names[:_NAMED])}"
        f"{f' and {count(group.files - _NAMED)} more' if group.files > _NAMED else ''}: {one_line(group.reason)}"
        for group in data.passed_over
    ]
    return [f"Skipped files: {'; '.join(groups)}."] if groups else []


def reasons_table(data: PreparedData) -> str:
    """What the rules that give reasons left out for each of them, of all domains together; empty without any."""
    rows = []
    for split in data.splits:
        left_out = data.left_out_of(split)
        for rule in sorted({row.rule for row in left_out if row.rule != row.group}):
            row = summed([row for row in left_out if row.rule == rule], rule, ALL)
            share = _share(row.documents, data.read_documents(split))
            rows.append((split, f"`{rule}`", count(row.documents), share, _tokens(row), _size(row.bytes)))
    return markdown_table(_REASONS, rows) if rows else ""


def examples(data: PreparedData, most: int = 3) -> str:
    """The first documents and lines that each rule left out: domain, file, line or record, and how it begins.

    Args:
        data: the prepared data set.
        most: examples of a rule, of as many domains as there are; the ledger has a few for each domain.
    """
    lines: list[str] = []
    for split in data.splits:
        for rule in sorted({row.rule for row in data.left_out_of(split)}):
            rows = [row for row in data.left_out_of(split) if row.rule == rule]
            lines.append(f"{split}  {rule}")
            for domain, each in itertools.islice(_in_turns(rows), most):
                where = f"{one_line(domain)}  {one_line(each.file)}:{each.place}"
                lines.append(f"    {where}  {one_line(each.excerpt, EXCERPT_CHARACTERS)}".rstrip())
    return fenced("\n".join(lines))


def text(data: PreparedData) -> str:
    """The same for the terminal, with numbers in full and without lengths and examples."""
    domains = [
        (row.split, one_line(row.domain), f"{row.documents:,}", f"{row.tokens:,}", share, f"{row.text_bytes:,} B", *per)
        for row, share, *per in _domains(data)
    ]
    lines = aligned([_DOMAINS, *domains], text_columns=range(2))
    left_out = [
        (
            row.split,
            row.rule,
            one_line(row.domain),
            f"{row.documents:,}",
            share,
            _tokens(row, in_full=True),
            f"{row.bytes:,} B",
        )
        for row, share in _by_rule(data)
    ]
    if left_out:
        lines += ["", *aligned([_LEFT_OUT, *left_out], text_columns=range(3)), *passed_over(data)]
    else:
        lines += ["", nothing_left_out(data)]
    said = [f"vocabulary {data.vocab_size:,}", _packing(data), f"selection: {selection(data.settings)}"]
    return "\n".join([*lines, "", "; ".join([*said, *_other_bytes(data)])])


def text_of(summary: dict[str, Any]) -> str:
    """`text` of what `Manifest.summary` gives.

    Raises:
        ValueError: it contradicts itself.
    """
    return text(PreparedData.from_values(summary))


def _domains(data: PreparedData) -> Iterator[tuple[PreparedDomain, str, str, str]]:
    """Each domain, then all of a split that has several: with its share of tokens, bytes and tokens a document."""
    for split in data.splits:
        rows = data.domains_of(split)
        total = PreparedDomain(
            split,
            ALL,
            sum(row.documents for row in rows),
            sum(row.tokens for row in rows),
            sum(row.bytes for row in rows),
            sum(row.text_bytes for row in rows),
        )
        for row in [*rows, total] if len(rows) > 1 else rows:
            yield (
                row,
                _share(row.tokens, total.tokens),
                plain(row.bytes / row.tokens) if row.tokens else "—",
                plain(row.tokens / row.documents) if row.documents else "—",
            )


def _quantiles(row: PreparedDomain) -> tuple[str, str, str]:
    """The ranges that hold the median, the 95th percentile and the longest document."""
    return (_range_of(row.lengths, 0.5), _range_of(row.lengths, 0.95), _range_of(row.lengths, 1.0))


def _range_of(lengths: Sequence[int], quantile: float) -> str:
    wanted, seen = quantile * sum(lengths), 0
    for power, documents in enumerate(lengths):
        seen += documents
        if documents and seen >= wanted:
            return f"{1 << power:,}" if power == 0 else f"{1 << power:,} to {(2 << power) - 1:,}"
    raise AssertionError("a quantile lies in a range")


def _by_rule(data: PreparedData) -> Iterator[tuple[LeftOut, str]]:
    """Each rule of a split by domain, then in all where it touched several; with its share of what was read there."""
    for split in data.splits:
        for rule, group in itertools.groupby(data.by_rule(split), key=lambda row: row.rule):
            rows = list(group)
            for row in rows:
                yield row, _share(row.documents, data.read_documents(split, row.domain))
            if len(rows) > 1:
                total = summed(rows, rule, ALL)
                yield total, _share(total.documents, data.read_documents(split))


def _in_turns(rows: Sequence[LeftOut]) -> Iterator[tuple[str, LeftOutExample]]:
    """The first example of each domain, then the second of each, and so on."""
    for examples_of_a_turn in itertools.zip_longest(*(row.examples for row in rows)):
        for row, example in zip(rows, examples_of_a_turn, strict=True):
            if example is not None:
                yield row.domain, example


def _totals(data: PreparedData) -> Iterator[str]:
    """A sentence for each split that lost something."""
    for split in data.splits:
        rows = data.left_out_of(split)
        if rows:
            documents, read = sum(row.documents for row in rows), data.read_documents(split)
            size = _size(sum(row.bytes for row in rows))
            yield (
                f"Dropped from {split}: {count(documents)} of {count(read)} documents and lines "
                f"({_share(documents, read)}), {size} of text."
            )


def _how_to_read(data: PreparedData) -> str:
    notes = ["Rules apply one after the other; a document that several would drop is counted for the first."]
    notes.append("`of those read` is the share of the documents and lines of that domain, or of the whole split.")
    if any(row.tokens is None for row in data.left_out):
        notes.append(
            f"Tokens are {NOT_COUNTED} for lines that are not a document, and with "
            "`data.selection.count_dropped_tokens=false`."
        )
    return " ".join(notes)


def _packing(data: PreparedData) -> str:
    rows = f" for rows of {data.seq_len:,} tokens" if data.seq_len is not None else ""
    return f"packing {data.packing}{rows}"


def _other_bytes(data: PreparedData) -> list[str]:
    tokens, texts = (sum(getattr(row, name) for row in data.domains) for name in ("bytes", "text_bytes"))
    if tokens == texts:
        return []
    return [f"the tokens decode to {tokens:,} bytes, the texts have {texts:,}: the tokenizer does not keep every byte"]


def _share(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "—"


def _size(number: int) -> str:
    return f"{number:,} B" if number < 10_000 else scaled(float(number), "B")


def _tokens(row: LeftOut, *, in_full: bool = False) -> str:
    if row.tokens is None:
        return NOT_COUNTED
    return f"{row.tokens:,}" if in_full else count(row.tokens)


def _setting(value: object) -> str:
    """As an override is written: [a,b], true."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
