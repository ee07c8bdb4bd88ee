"""The dropped: parts of a corpus add up to the whole."""

from __future__ import annotations

from litespark.data.dropped import EXAMPLES, DroppedDocuments


def dropped_of(places: range) -> DroppedDocuments:
    dropped = DroppedDocuments()
    for place in places:
        dropped.add("train", "text", "reading/empty", size=2, tokens=3, file="a", place=place, text=f"line {place}")
    return dropped


def test_parts_add_up_to_the_whole_with_its_first_examples():
    merged = DroppedDocuments()
    for part in (range(1, 4), range(4, 10), range(10, 12)):
        merged.merge(dropped_of(part))
    assert merged == dropped_of(range(1, 12))
    (row,) = merged.rows
    assert (row.documents, row.bytes, row.tokens) == (11, 22, 33)
    assert [example.place for example in row.examples] == list(range(1, EXAMPLES + 1))
