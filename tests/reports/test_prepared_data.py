"""Tables of a prepared data set: shares add up, what was not counted is said, and no text breaks out of its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from litespark.data.ledger import Ledger
from litespark.data.manifest import Manifest, SplitCounts
from litespark.metrics.records.prepared import PreparedData
from litespark.reports import prepared_data
from tests.metrics.records.prepared_manifest import domain, manifest


def view(made: Manifest | None = None, **changes: object) -> PreparedData:
    return PreparedData.from_values((made or manifest(**changes)).summary())


def rows(table: str, *first: str) -> list[list[str]]:
    """The cells of the rows of a Markdown table that begin with these."""
    found = [
        [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    return [cells for cells in found if tuple(cells[: len(first)]) == first]


def test_each_domain_has_its_share_and_a_split_of_several_a_sum():
    table = prepared_data.domains_table(view())
    assert rows(table, "train", "Common¦Crawl") == [
        ["train", "Common¦Crawl", "70", "7,000", "70.0 %", "28.00 kB", "4.000", "100.0"]
    ]
    assert rows(table, "train", "(all)") == [
        ["train", "(all)", "100", "10.00 k", "100 %", "40.00 kB", "4.000", "100.0"]
    ]
    assert [cells[1] for cells in rows(table, "validation")] == ["Wiki"]


def test_a_domain_without_documents_has_no_means():
    empty = SplitCounts({"Wiki": domain("Wiki", [], 0)})
    data = view(splits={"train": empty, "validation": empty}, ledger=Ledger())
    assert rows(prepared_data.domains_table(data), "train") == [
        ["train", "Wiki", "0", "0", "—", "0 B", "—", "—"],
    ]
    assert prepared_data.lengths_table(data) == "The lengths of documents were not counted."


def test_quantiles_of_lengths_are_ranges():
    table = prepared_data.lengths_table(view())
    assert rows(table, "train", "Common¦Crawl")[0][2:] == ["100", "64 to 127", "128 to 255", "128 to 255"]
    assert rows(table, "train", "Wiki")[0][2:] == ["100", "64 to 127", "256 to 511", "256 to 511"]
    one_token = SplitCounts({"Wiki": domain("Wiki", [3], 3)})
    assert rows(prepared_data.lengths_table(view(splits={"train": one_token})), "train")[0][3:] == ["1", "1", "1"]


def test_a_quantile_at_the_border_of_a_range_is_the_lower_one():
    halves = SplitCounts({"Wiki": domain("Wiki", [0, 10, 10], 80)})
    (cells,) = rows(prepared_data.lengths_table(view(splits={"train": halves})), "train")
    assert cells[3:] == ["2 to 3", "4 to 7", "4 to 7"]


def test_the_ledger_has_every_rule_by_domain_with_its_share_of_what_was_read():
    table = prepared_data.ledger_table(view())
    quality = "`selection/gopher_quality`"
    assert rows(table, "train", quality) == [
        ["train", quality, "Common¦Crawl", "10", "12.5 %", "900", "4,000 B"],
        ["train", quality, "Wiki", "20", "34.5 %", "600", "2,000 B"],
        ["train", quality, "(all)", "30", "21.6 %", "1,500", "6,000 B"],
    ]
    assert len(rows(table, "train", "`selection/exact_duplicate`")) == 1  # of one domain: that is the sum
    assert "Dropped from train: 39 of 139 documents and lines (28.1 %), 6,417 B of text." in table
    assert "Dropped from validation: 1 of 6 documents and lines (16.7 %), 17 B of text." in table


def test_tokens_that_were_not_counted_are_no_zero_and_no_part_of_a_sum():
    table = prepared_data.ledger_table(view())
    assert rows(table, "train", "`reading/malformed_json`")[0][5] == "not counted"
    assert "Tokens are not counted for lines that are not a document" in table
    uncounted = manifest()
    uncounted.ledger.add("train", "Code", "selection/gopher_quality", size=1, tokens=None, file="c", place=1, text="c")
    (total,) = rows(prepared_data.ledger_table(view(uncounted)), "train", "`selection/gopher_quality`", "(all)")
    assert total[3:6] == ["31", "22.1 %", "not counted"]


def test_a_ledger_whose_tokens_are_all_counted_needs_no_note():
    counted = Ledger(row for row in manifest().ledger.rows if row.tokens is not None)
    assert "not counted" not in prepared_data.ledger_table(view(ledger=counted))


def test_nothing_left_out_is_said():
    data = view(ledger=Ledger())
    assert prepared_data.ledger_table(data) == "No documents were dropped."
    assert "Examples of dropped documents" not in prepared_data.markdown(data)
    assert "\nNo documents were dropped.\n" in prepared_data.text(data)


def test_reasons_are_counted_over_all_domains():
    table = prepared_data.reasons_table(view())
    assert rows(table, "train") == [
        ["train", "`selection/gopher_quality/short`", "15", "10.8 %", "450", "1,500 B"],
        ["train", "`selection/gopher_quality/symbols`", "15", "10.8 %", "1,050", "4,500 B"],
    ]
    assert table in prepared_data.markdown(view())


def test_rules_without_reasons_have_no_such_table():
    bare = Ledger(row for row in manifest().ledger.rows if "gopher" not in row.rule)
    assert prepared_data.reasons_table(view(ledger=bare)) == ""
    assert "reasons" not in prepared_data.markdown(view(ledger=bare))


def test_examples_name_file_and_place_and_stay_on_a_line_of_a_fence():
    shown = prepared_data.examples(view())
    assert "train  reading/malformed_json\n    unknown  train/a.jsonl:3  " in shown
    lines = shown.splitlines()
    assert lines[0] == "````text"  # longer than the ``` of an excerpt
    assert lines[-1] == "````"
    (first,) = [line for line in lines if line.startswith("    Common|Crawl  a:0")]
    assert first.startswith("    Common|Crawl  a:0  buy ```now``` \\x1b[31m 0 and again very")
    assert first.endswith("…")
    assert "\x1b" not in shown


def test_examples_are_of_as_many_domains_as_there_are():
    lines = prepared_data.examples(view(), most=3).splitlines()
    begin = lines.index("train  selection/gopher_quality/symbols")
    assert [line.split("  ")[2:4] for line in lines[begin + 1 : begin + 4]] == [
        ["Common|Crawl", "a:0"],
        ["Wiki", "b:15"],
        ["Common|Crawl", "a:1"],
    ]
    assert lines[begin + 4].startswith("validation")
    assert len(prepared_data.examples(view(), most=100).splitlines()) == 2 + 5 + (1 + 5 + 5 + 10 + 1)


def test_a_domain_cannot_begin_a_line_of_its_own():
    made = manifest()
    made.ledger.add("train", "a\n# b", "selection/c4", size=1, tokens=1, file="x\ny", place=1, text="z")
    made = replace(made, splits={"train": SplitCounts({"a\n# \x1b[2Jb": domain("a", [0, 1], 3)})})
    data = view(made)
    assert "train  selection/c4\n    a # b  x y:1  z" in prepared_data.examples(data)
    for shown in (prepared_data.markdown(data), prepared_data.text(data)):
        assert "a # b" in shown
        assert "a # \\x1b[2Jb" in shown
        assert "\x1b" not in shown
        assert not any(line.startswith("# ") for line in shown.splitlines())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"selection": {"quality": ["c4"], "languages": ["en", "de"]}}, "quality=[c4], languages=[en,de]"),
        ({"selection": {"quality": [], "near_duplicates": True}}, "near_duplicates=true"),
        ({"selection": {"quality": [], "near_duplicate_threshold": 0.8}}, "none"),
        ({}, "none"),
    ],
)
def test_the_selection_is_that_of_the_settings(settings, said):
    assert prepared_data.selection(settings) == said
    assert f"selection of training text: {said}." in prepared_data.facts(view(settings=settings))


def test_a_tokenizer_that_does_not_keep_every_byte_is_named():
    assert "does not keep every byte" not in prepared_data.facts(view())
    lossy = SplitCounts({"Wiki": replace(domain("Wiki", [0, 5], 12), text_bytes=40)})
    data = view(splits={"train": lossy})
    for said in (prepared_data.facts(data), prepared_data.text(data)):
        assert "the tokens decode to 48 bytes, the texts have 40: the tokenizer does not keep every byte" in said


def test_rows_of_best_fit_are_said_with_their_length():
    assert "packing best_fit for rows of 4,096 tokens" in prepared_data.facts(view(packing="best_fit", seq_len=4096))


def test_the_terminal_gets_full_numbers_in_columns():
    lines = prepared_data.text(view()).splitlines()
    assert lines[0].split() == "split domain documents tokens of the split text bytes/token tokens/document".split()
    assert "train       (all)               100  10,000         100 %  40,000 B" in lines[3]
    assert any(line.split()[:5] == ["train", "selection/gopher_quality", "Wiki", "20", "34.5"] for line in lines)
    assert lines[-1] == "vocabulary 300; packing concat; selection: quality=[gopher_quality,c4], exact_duplicates=true"


def test_files_that_were_passed_over_are_named_beside_what_was_left_out():
    groups = [{"reason": "of a test split", "files": 5, "names": ["test/0", "test/1", "test/2", "test/3"]}]
    said = "Skipped files: test/0, test/1, test/2 and 2 more: of a test split."
    nothing = view(ledger=Ledger(), listing={"passed_over": groups})
    assert prepared_data.ledger_table(nothing) == f"No documents were dropped. {said}"
    for shown in (prepared_data.text(nothing), prepared_data.markdown(view(listing={"passed_over": groups}))):
        assert said in shown
    assert "Skipped files" not in prepared_data.markdown(view())
