"""Nothing is lost in silence: what is kept and what was dropped add up to what was read, by split and domain.

The files are nasty on purpose, and all rules of selection are on.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from litespark.data.config import PrepareConfig
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import Manifest
from litespark.data.prepare.prepare import prepare
from litespark.data.select.config import QUALITY_RULES, SelectionConfig
from tests.data.corpus import config
from tests.data.prepare.reading import texts
from tests.data.select.prose import prose
from tests.data.select.test_select import JUNK

for library in ("datatrove", "spacy", "datasketch", "py3langid"):
    pytest.importorskip(library)

UNKNOWN = "unknown"
CYRILLIC = "в начале было слово и слово было здесь для всех людей этого города. " * 12
MENU = "Home\nAbout us\nContact\nSign in\n" * 40


def line(text: object, kind: object = "prose", **more: object) -> bytes:
    return json.dumps({"text": text, "meta": {"kind": kind}, **more}, ensure_ascii=False).encode()


def nasty(seed: int) -> list[bytes]:
    """Good documents of two domains and of none, junk, copies, and lines of every kind that are no documents."""
    good = [prose(seed + number) for number in range(12)]
    return [
        *(line(text, "prose" if number % 2 else "news & views") for number, text in enumerate(good)),
        line(good[0]),
        line(good[1].replace("the", "that", 1)),
        line(CYRILLIC, "news & views"),
        line(MENU),
        line(JUNK["c4/lorem_ipsum"]),
        line("short"),
        line("ünïcode 漢字 🙂 <|endoftext|> " * 5, 7),
        json.dumps({"text": prose(seed + 500)}).encode(),
        b"{not json",
        b'{"text": "\xff\xfe"}',
        b'{"text": "\\ud800 alone"}',
        line("a\0b"),
        line(""),
        line(None),
        line(["no", "text"]),
        b'{"other": 1}',
        b"[1, 2]",
        line("long " * 5000),
        b"",
        line(good[2]) + b"\r",
    ]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training shards, one of which is there twice, and one to validate on; no line break at their ends."""
    root = tmp_path_factory.mktemp("nasty")
    for folder, seeds in (("train", (0, 1000, 2000, 3000, 4000)), ("validation", (9000,))):
        (root / folder).mkdir()
        for number, seed in enumerate(seeds):
            (root / folder / f"{number}.jsonl").write_bytes(b"\n".join(nasty(seed)))
    (root / "train" / "9.jsonl").write_bytes(b"\n".join(nasty(0)))
    root.with_suffix(".txt").write_text(prose(1003))  # what is evaluated on
    return root


def settings(source: Path, root: Path, selection: SelectionConfig, **changes: object) -> PrepareConfig:
    chosen = {"domain_field": "meta.kind", "max_bad_share": 0.9, "max_line_bytes": 20_000, "unit_bytes": 40_000}
    return config(source, root, selection=selection, **{**chosen, **changes})


def documents_read(manifest: Manifest, split: str) -> int:
    kept = manifest.splits[split].documents
    return kept + sum(row.documents for row in manifest.dropped.rows if row.split == split)


def lines_there(source: Path, split: str) -> int:
    """Lines that hold something: an empty one is no line of a document."""
    return sum(
        sum(bool(each.strip()) for each in path.read_bytes().split(b"\n")) for path in (source / split).glob("*.jsonl")
    )


def sums(manifest: Manifest, split: str) -> dict[str, Counter[str]]:
    """Documents, bytes and tokens by domain, of what is text: kept, or left out by a rule of selection."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for domain, counts in manifest.splits[split].domains.items():
        found[domain].update(documents=counts.documents, bytes=counts.text_bytes, tokens=counts.tokens)
    for row in _selected(manifest.dropped, split):
        found[row.domain].update(documents=row.documents, bytes=row.bytes, tokens=row.tokens)
    return found


def _selected(dropped: DroppedDocuments, split: str) -> Iterator:
    return (row for row in dropped.rows if row.split == split and row.rule.startswith("selection/"))


@pytest.fixture(scope="module")
def everything(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared without selection; its tokenizer is that of the others."""
    root = tmp_path_factory.mktemp("everything")
    return prepare(settings(source, root, SelectionConfig(), processes=2), progress=False)


def test_without_selection_all_that_is_there_is_kept_or_named(source: Path, everything: Path) -> None:
    manifest = Manifest.read(everything)
    for split in ("train", "validation"):
        assert documents_read(manifest, split) == lines_there(source, split)
        for domain, counts in manifest.splits[split].domains.items():
            there = texts(everything, split, domain)
            assert (counts.documents, counts.text_bytes) == (len(there), sum(len(each.encode()) for each in there))
    rules = {rule.removeprefix("reading/") for rule in manifest.dropped.by_rule()}
    assert {"duplicate_shard", "empty"} < rules
    assert {row.domain for row in manifest.dropped.rows} >= {"prose", UNKNOWN}


def test_what_the_rules_leave_out_is_named_and_nothing_else_goes(
    source: Path, everything: Path, tmp_path: Path
) -> None:
    selection = SelectionConfig(
        quality=QUALITY_RULES,
        languages=("en",),
        decontaminate=(str(source.with_suffix(".txt")),),
        exact_duplicates=True,
        near_duplicates=True,
    )
    folder = prepare(settings(source, tmp_path, selection, tokenizer=str(everything), processes=1), progress=False)
    manifest, whole = Manifest.read(folder), Manifest.read(everything)
    for split in ("train", "validation"):
        assert documents_read(manifest, split) == lines_there(source, split)
        assert sums(manifest, split) == sums(whole, split)
    assert not list(_selected(manifest.dropped, "validation"))
    # of the others the first leaves nothing to fineweb and the languages; `test_select` has each rule alone
    named = {row.rule.split("/")[1] for row in _selected(manifest.dropped, "train")}
    assert named == {
        *("gopher_repetition", "gopher_quality", "c4", "contaminated"),
        *("exact_duplicate", "near_duplicate"),
    }
    # what the other splits and rules say is not touched by selection
    assert [row for row in manifest.dropped.rows if row.rule.startswith("reading/")] == whole.dropped.rows
    for split in manifest.splits.values():
        assert split.tokens == sum(chunk.tokens for domain in split.domains.values() for chunk in domain.chunks)
    assert manifest.tokenizer_hash == whole.tokenizer_hash
