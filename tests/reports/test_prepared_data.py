"""Tables of a prepared data set: shares add up, what was not counted is said, and no text breaks out of its place."""

from dataclasses import replace

import pytest

from litespark.data.contents import PreparedData
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import Manifest, SplitCounts
from litespark.reports import prepared_data
from litespark.reports.page import render
from tests.data.prepared_manifest import domain, manifest
from tests.reports.rows import notes, row

QUALITY = "selection/gopher_quality"


def view(made: Manifest | None = None, **changes: object) -> PreparedData:
    return PreparedData.of(made or manifest(**changes))


def section(data: PreparedData) -> str:
    return render("prepared_data", data=data, prepared_data=prepared_data, data_pictures={})


def test_each_domain_has_its_share_and_a_split_of_several_a_sum():
    table = prepared_data.domains(view())
    assert row(table, "train", "Common|Crawl") == ["70", "7,000", "70.0 %", "28.00 kB", "4.000", "100.0"]
    assert row(table, "train", "(all)") == ["100", "10.00 k", "100 %", "40.00 kB", "4.000", "100.0"]
    assert [cells[1] for cells in table.cells if cells[0] == "validation"] == ["Wiki"]


@pytest.mark.parametrize(
    ("lengths", "tokens", "shown"),
    [
        ([0, 0, 0, 0, 0, 20, 40, 10], 7000, ["100", "64 to 127", "128 to 255", "128 to 255"]),
        ([3], 3, ["1.00", "1", "1", "1"]),
        ([0, 10, 10], 80, ["4.00", "2 to 3", "4 to 7", "4 to 7"]),  # at a border the lower range
    ],
)
def test_quantiles_of_lengths_are_ranges(lengths, tokens, shown):
    table = prepared_data.lengths(view(splits={"train": SplitCounts({"Wiki": domain("Wiki", lengths, tokens)})}))
    assert row(table, "train", "Wiki") == shown


def test_every_rule_has_its_share_of_what_was_read_by_domain():
    table = prepared_data.left_out(view())
    assert row(table, "train", QUALITY, "Common|Crawl") == ["10", "12.5 %", "900", "4,000 B"]
    assert row(table, "train", QUALITY, "Wiki") == ["20", "34.5 %", "600", "2,000 B"]
    assert row(table, "train", QUALITY, "(all)") == ["30", "21.6 %", "1,500", "6,000 B"]
    row(table, "train", "selection/exact_duplicate")  # of one domain: that is the sum
    assert "Dropped from train: 39 of 139 documents and lines (28.1 %), 6,417 B of text." in notes(table)
    assert "Dropped from validation: 1 of 6 documents and lines (16.7 %), 17 B of text." in notes(table)
    assert prepared_data.reasons(view()).cells == [
        ["train", f"{QUALITY}/short", "15", "10.8 %", "450", "1,500 B"],
        ["train", f"{QUALITY}/symbols", "15", "10.8 %", "1,050", "4,500 B"],
    ]


def test_tokens_that_were_not_counted_are_no_zero_and_no_part_of_a_sum():
    table = prepared_data.left_out(view())
    assert row(table, "train", "reading/malformed_json", "unknown")[2] == "not counted"
    assert "Tokens are not counted for lines that are not a document" in notes(table)
    uncounted = manifest()
    uncounted.dropped.add("train", "Code", QUALITY, size=1, tokens=None, file="c", place=1, text="c")
    assert row(prepared_data.left_out(view(uncounted)), "train", QUALITY, "(all)")[:3] == [
        "31",
        "22.1 %",
        "not counted",
    ]
    counted = DroppedDocuments(each for each in manifest().dropped.rows if each.tokens is not None)
    assert "not counted" not in prepared_data.left_out(view(dropped=counted)).markdown()


def test_what_there_is_nothing_of_is_left_out_or_said():
    data = view(dropped=DroppedDocuments())
    assert "\n\nNo documents were dropped." in section(data)
    assert "Examples of dropped documents" not in section(data)
    assert "No documents were dropped." in prepared_data.in_terminal(data)
    bare = view(dropped=DroppedDocuments(each for each in manifest().dropped.rows if "gopher" not in each.rule))
    assert prepared_data.reasons(bare) is None
    assert "reasons" not in section(bare)


def test_examples_name_file_and_place_and_stay_on_a_line_of_a_fence():
    lines = prepared_data.examples(view(), most=3).splitlines()
    assert (lines[0], lines[-1]) == ("````text", "````")  # longer than the ``` of an excerpt
    assert lines[2].startswith("    unknown  train/a.jsonl:3  ")
    begin = lines.index(f"train  {QUALITY}/symbols")
    assert [line.split("  ")[2:4] for line in lines[begin + 1 : begin + 4]] == [
        ["Common|Crawl", "a:0"], ["Wiki", "b:15"], ["Common|Crawl", "a:1"],
    ]  # fmt: skip
    assert lines[begin + 1].startswith("    Common|Crawl  a:0  buy ```now``` \\x1b[31m 0 and again very")
    assert lines[begin + 1].endswith("…")
    assert lines[begin + 4].startswith("validation")


def test_a_domain_cannot_begin_a_line_of_its_own():
    made = manifest()
    made.dropped.add("train", "a\n# b", "selection/c4", size=1, tokens=1, file="x\ny", place=1, text="z")
    made = replace(made, splits={"train": SplitCounts({"a\n# \x1b[2Jb": domain("a", [0, 1], 3)})})
    data = view(made)
    assert "train  selection/c4\n    a # b  x y:1  z" in prepared_data.examples(data)
    for shown in (section(data), prepared_data.in_terminal(data)):
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
    assert f"selection of training text: {said}." in prepared_data.about(view(settings=settings))
    assert prepared_data.in_terminal(view(settings=settings)).endswith(f"selection of training text: {said}")


def test_packing_and_a_tokenizer_that_does_not_keep_every_byte_are_named():
    assert "does not keep every byte" not in prepared_data.about(view())
    lossy = SplitCounts({"Wiki": replace(domain("Wiki", [0, 5], 12), text_bytes=40)})
    data = view(splits={"train": lossy}, packing="best_fit", seq_len=4096)
    for said in (prepared_data.about(data), prepared_data.in_terminal(data)):
        assert "the tokens decode to 48 bytes, the texts have 40: the tokenizer does not keep every byte" in said
        assert "packing best_fit for rows of 4,096 tokens" in said


def test_files_that_were_passed_over_are_named_beside_what_was_left_out():
    groups = [{"reason": "of a test split", "files": 5, "names": ["test/0", "test/1", "test/2", "test/3"]}]
    said = "Skipped files: test/0, test/1, test/2 and 2 more: of a test split."
    nothing = view(dropped=DroppedDocuments(), listing={"passed_over": groups})
    assert prepared_data.left_out(nothing).markdown() == f"No documents were dropped. {said}"
    for shown in (prepared_data.in_terminal(nothing), section(view(listing={"passed_over": groups}))):
        assert said in shown
    assert "Skipped files" not in section(view())
