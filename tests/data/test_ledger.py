"""The ledger: parts of a corpus add up to the whole."""

from __future__ import annotations

from litespark.data.ledger import EXAMPLES, Ledger


def ledger_of(places: range) -> Ledger:
    ledger = Ledger()
    for place in places:
        ledger.add(
            "train", "text", "reading/empty", size=2, tokens=3, file="a.jsonl", place=place, text=f"line {place}"
        )
    return ledger


def test_parts_add_up_to_the_whole_with_its_first_examples():
    merged = Ledger()
    for part in (range(1, 4), range(4, 10), range(10, 12)):
        merged.merge(ledger_of(part))
    assert merged == ledger_of(range(1, 12))
    (row,) = merged.rows
    assert (row.documents, row.bytes, row.tokens) == (11, 22, 33)
    assert [example.place for example in row.examples] == list(range(1, EXAMPLES + 1))
