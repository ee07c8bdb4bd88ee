"""Pictures of a prepared data set draw what the manifest counts, and say in words what there is not."""

import numpy as np
import pytest
from matplotlib.image import imread

from litespark.data.contents import PreparedData
from litespark.data.dropped import DroppedDocuments
from litespark.data.manifest import SplitCounts
from litespark.reports import prepared_plots
from litespark.reports.plots import ticks
from tests.data.prepared_manifest import domain, manifest
from tests.reports.test_plots import legend, texts


def view(**changes: object) -> PreparedData:
    return PreparedData.of(manifest(**changes))


def test_lengths_are_shares_of_each_domain_with_the_gaps_between_them():
    (axes,) = prepared_plots.plot_lengths(view()).axes
    common, wiki = axes.lines
    assert (common.get_label(), wiki.get_label()) == ("Common|Crawl", "Wiki")
    assert common.get_ydata() == pytest.approx([20 / 70, 40 / 70, 10 / 70])
    assert wiki.get_ydata() == pytest.approx([10 / 30, 14 / 30, 0, 6 / 30])
    assert np.log2(wiki.get_xdata()) == pytest.approx([5.5, 6.5, 7.5, 8.5])


def test_of_many_domains_the_largest_have_a_line():
    many = {f"domain-{number:02}": domain("d", [0, 0, 10 + number], 100) for number in range(14)}
    figure = prepared_plots.plot_lengths(view(splits={"train": SplitCounts(many)}))
    assert legend(figure) == [f"domain-{number:02}" for number in range(13, 3, -1)]
    assert "the 10 largest of 14 domains" in texts(figure)


def test_what_was_left_out_is_stacked_by_rule_over_its_domain():
    figure = prepared_plots.plot_left_out(view())
    assert legend(figure) == ["reading/malformed_json", "selection/exact_duplicate", "selection/gopher_quality"]
    (axes,) = figure.axes
    places = {label.get_text(): place for place, label in enumerate(axes.get_yticklabels())}
    assert list(places) == ["Common|Crawl", "Wiki", "unknown"]  # the one that lost most on top
    bars = {(round(bar.get_y() + bar.get_height() / 2), round(bar.get_x(), 3)): bar.get_width() for bar in axes.patches}
    assert bars[places["Wiki"], 0.0] == pytest.approx(8 / 58)
    assert bars[places["Wiki"], round(8 / 58, 3)] == pytest.approx(20 / 58)
    assert bars[places["Common|Crawl"], 0.0] == pytest.approx(10 / 80)


def test_what_there_is_not_is_said_in_words():
    data = view(dropped=DroppedDocuments(), splits={"train": SplitCounts({"Wiki": domain("Wiki", [], 0)})})
    assert "No documents were dropped." in texts(prepared_plots.plot_left_out(data))
    assert "The lengths of documents were not counted." in texts(prepared_plots.plot_lengths(data))
    assert "The lengths of documents were not counted." in texts(prepared_plots.plot_lengths(data, "validation"))


def test_only_pictures_with_something_to_show_are_written(tmp_path):
    paths = prepared_plots.save_pictures(view(), tmp_path)
    assert {path.name for path in paths.values()} == {"data_lengths.png", "data_left_out.png"}
    for path in paths.values():
        assert np.ptp(imread(path)[..., :3]) > 0.5
    bare = view(dropped=DroppedDocuments(), splits={"train": SplitCounts({"Wiki": domain("Wiki", [], 8)})})
    assert prepared_plots.save_pictures(bare, tmp_path / "missing") == {}


def test_a_name_with_dollars_is_not_read_as_mathematics(tmp_path):
    odd = SplitCounts({"a$b_$c": domain("a", [0, 4], 12), "$\\broken{": domain("b", [0, 4], 12)})
    prepared_plots.save_pictures(view(splits={"train": odd}), tmp_path)


@pytest.mark.parametrize("lengths", [[0, 900, 60, 3], [0] * 11 + [5], [4] + [1] * 20])
def test_ticks_of_lengths_are_round_numbers_at_their_places(lengths):
    one = SplitCounts({"Wiki": domain("Wiki", lengths, 5000)})
    (axes,) = prepared_plots.plot_lengths(view(splits={"train": one})).axes
    axes.figure.canvas.draw()
    places = axes.get_xticks()
    assert len(places) >= 1
    assert {str(f"{place:.0e}")[0] for place in places} <= {"1", "2", "5"}
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert shown == [ticks()(place, 0) for place in places]
    assert len(set(shown)) == len(shown)
