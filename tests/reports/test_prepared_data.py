"""Tables and pictures of a prepared data set: shares add up, what was not counted is said, no text breaks out."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from litespark.data.contents import PreparedData
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import Manifest, SplitCounts
from litespark.reports import prepared_data, prepared_plots
from litespark.reports.page import render
from litespark.reports.plots import ticks
from tests.data.prepared_manifest import domain, manifest
from tests.reports.rows import notes, row
from tests.reports.test_plots import legend, texts

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


def test_quantiles_of_lengths_are_ranges():
    for lengths, tokens, shown in (
        ([0, 0, 0, 0, 0, 20, 40, 10], 7000, ["100", "64 to 127", "128 to 255", "128 to 255"]),
        ([3], 3, ["1.00", "1", "1", "1"]),
        ([0, 10, 10], 80, ["4.00", "2 to 3", "4 to 7", "4 to 7"]),  # at a border the lower range
    ):
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
    summed = row(prepared_data.left_out(view(uncounted)), "train", QUALITY, "(all)")
    assert summed[:3] == ["31", "22.1 %", "not counted"]


def test_examples_name_file_and_place_and_stay_on_a_line_of_a_fence():
    lines = prepared_data.examples(view(), most=3).splitlines()
    assert (lines[0], lines[-1]) == ("````text", "````")  # longer than the ``` of an excerpt
    assert lines[2].startswith("    unknown  train/a.jsonl:3  ")
    begin = lines.index(f"train  {QUALITY}/symbols")
    assert [line.split("  ")[2:4] for line in lines[begin + 1 : begin + 4]] == [
        ["Common|Crawl", "a:0"],
        ["Wiki", "b:15"],
        ["Common|Crawl", "a:1"],
    ]
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


def test_the_selection_is_that_of_the_settings():
    for settings, said in (
        ({"selection": {"quality": ["c4"], "languages": ["en", "de"]}}, "quality=[c4], languages=[en,de]"),
        ({"selection": {"near_duplicates": True, "near_duplicate_threshold": 0.8}}, "near_duplicates=true"),
        ({}, "none"),
    ):
        assert f"selection of training text: {said}." in prepared_data.about(view(settings=settings))


def test_packing_lossy_tokenizers_and_files_that_were_passed_over_are_named():
    lossy = SplitCounts({"Wiki": replace(domain("Wiki", [0, 5], 12), text_bytes=40)})
    groups = [{"reason": "of a test split", "files": 5, "names": ["test/0", "test/1", "test/2", "test/3"]}]
    passed = {"listing": {"passed_over": groups}}
    data = view(splits={"train": lossy}, packing="best_fit", seq_len=4096, **passed)
    for shown in (section(data), prepared_data.in_terminal(data)):
        assert "the tokens decode to 48 bytes, the texts have 40: the tokenizer does not keep every byte" in shown
        assert "packing best_fit for sequences of 4,096 tokens" in shown
        assert "Skipped files: test/0, test/1, test/2 and 2 more: of a test split." in shown
    nothing = prepared_data.left_out(view(dropped=DroppedDocuments(), **passed)).markdown()
    assert nothing.startswith("No documents were dropped. Skipped files: test/0")
    assert "does not keep every byte" not in section(view())
    assert "Skipped files" not in section(view())


def test_what_there_is_nothing_of_is_left_out_or_said(tmp_path):
    splits = {"train": SplitCounts({"Wiki": domain("Wiki", [], 8)})}
    data = view(dropped=DroppedDocuments(), splits=splits)
    assert "\n\nNo documents were dropped." in section(data)
    assert "Examples of dropped documents" not in section(data)
    assert "No documents were dropped." in prepared_data.in_terminal(data)
    for split in ("train", "validation"):
        assert "The lengths of documents were not counted." in texts(prepared_plots.plot_lengths(data, split))
    assert prepared_plots.save_pictures(data, tmp_path) == {}
    bare = view(dropped=DroppedDocuments(each for each in manifest().dropped.rows if "gopher" not in each.rule))
    assert prepared_data.reasons(bare) is None
    assert "reasons" not in section(bare)


# ---------------------------------------------------------------- pictures


def test_lengths_are_shares_of_each_domain_with_the_gaps_between_them():
    (axes,) = prepared_plots.plot_lengths(view()).axes
    common, wiki = axes.lines
    assert (common.get_label(), wiki.get_label()) == ("Common|Crawl", "Wiki")
    assert common.get_ydata() == pytest.approx([20 / 70, 40 / 70, 10 / 70])
    assert wiki.get_ydata() == pytest.approx([10 / 30, 14 / 30, 0, 6 / 30])
    assert np.log2(wiki.get_xdata()) == pytest.approx([5.5, 6.5, 7.5, 8.5])
    many = {f"domain-{number:02}": domain("d", [0, 0, 10 + number], 100) for number in range(14)}
    figure = prepared_plots.plot_lengths(view(splits={"train": SplitCounts(many)}))
    assert legend(figure) == [f"domain-{number:02}" for number in range(13, 3, -1)]
    assert "the 10 largest of 14 domains" in texts(figure)


def test_pictures_are_painted_whatever_the_names_of_the_domains(tmp_path):
    # what stands between dollars is mathematics to matplotlib
    odd = SplitCounts({"a$b_$c": domain("a", [0, 4], 12), "$\\broken{": domain("b", [0, 4], 12)})
    paths = prepared_plots.save_pictures(view(splits={"train": odd}), tmp_path)
    assert [path.name for path in paths.values()] == ["data_lengths.png"]
    assert np.ptp(imread(*paths.values())[..., :3]) > 0.5


@pytest.mark.parametrize("lengths", [[0, 900, 60, 3], [0] * 11 + [5], [4] + [1] * 20])
def test_ticks_of_lengths_are_round_numbers_at_their_places(lengths):
    one = SplitCounts({"Wiki": domain("Wiki", lengths, 5000)})
    (axes,) = prepared_plots.plot_lengths(view(splits={"train": one})).axes
    axes.figure.canvas.draw()
    places, shown = axes.get_xticks(), [label.get_text() for label in axes.get_xticklabels()]
    assert {str(f"{place:.0e}")[0] for place in places} <= {"1", "2", "5"}
    assert shown == [ticks()(place, 0) for place in places]
    assert len(set(shown)) == len(shown) >= 1
