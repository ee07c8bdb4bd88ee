"""The view of a prepared data set says what the manifest says, and refuses what is broken, changed or contradictory."""

from __future__ import annotations

import pytest

from litespark.data.contents import PreparedData, write_run_data
from litespark.data.manifest import Manifest
from litespark.run.folder import DATA
from tests.data.prepared_manifest import SELECTION, prepared


@pytest.fixture
def folder(tmp_path):
    return prepared(tmp_path / "prepared")


def test_it_says_what_the_manifest_says(folder):
    made, data = Manifest.read(folder), PreparedData.read(folder)
    assert data.manifest_hash == made.hash
    assert (data.name, data.vocab_size, data.packing, data.seq_len) == ("miniature", 300, "concat", None)
    assert data.settings["selection"] == SELECTION
    assert data.split_names == ["train", "validation"]
    domains = [(split, *each) for split in data.split_names for each in data.domains_of(split).items()]
    assert [(split, name, held.tokens, sum(held.lengths)) for split, name, held in domains] == [
        ("train", "Common|Crawl", 7000, 70),
        ("train", "Wiki", 3000, 30),
        ("validation", "Wiki", 12, 5),
    ]
    assert sum(row.documents for row in data.left_out) == made.dropped.documents() == 40
    ((place, excerpt),) = [(row.examples[0].place, row.examples[0].excerpt) for row in data.left_out[-1:]]
    assert (place, excerpt) == (9, '{"text": "cut o')
    assert data.left_out[-1].tokens is None


def test_documents_are_summed_over_what_was_kept_and_over_the_reasons_of_a_rule(folder):
    data = PreparedData.read(folder)
    assert [data.read_documents("train", name) for name in (None, "Wiki", "unknown")] == [100 + 39, 30 + 28, 1]
    assert [(row.rule, row.domain, row.documents, row.bytes, row.tokens) for row in data.by_rule("train")] == [
        ("reading/malformed_json", "unknown", 1, 17, None),
        ("selection/exact_duplicate", "Wiki", 8, 400, 96),
        ("selection/gopher_quality", "Common|Crawl", 10, 4000, 900),
        ("selection/gopher_quality", "Wiki", 20, 2000, 600),
    ]


def test_a_run_keeps_all_of_it_but_chunks_and_bytes_of_ids(folder, tmp_path):
    run = tmp_path / "run"
    write_run_data(run, Manifest.read(folder))
    assert PreparedData.read(run) == PreparedData.read(run / DATA) == PreparedData.read(folder)
    assert "token_bytes" not in (run / DATA).read_text()
    assert "chunk-" not in (run / DATA).read_text()


@pytest.mark.parametrize(
    "was, now, complaint",
    [
        ('"litespark.data/3"', '"litespark.data/1"', r"schema: .*litespark\.data/3"),
        ('"tokens": 3000', '"tokens": -1', r"splits\.train\.domains\.Wiki\.tokens: .*got -1"),
    ],
)
def test_what_is_wrong_with_what_a_run_kept_is_named_with_its_field(folder, tmp_path, was, now, complaint):
    write_run_data(tmp_path, Manifest.read(folder))
    content = (tmp_path / DATA).read_text()
    assert content.count(was) == 1
    (tmp_path / DATA).write_text(content.replace(was, now))
    with pytest.raises(ValueError, match=rf"data\.json is not a manifest .*{complaint}"):
        PreparedData.read(tmp_path)


def test_a_folder_with_neither_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"found no manifest\.json of a prepared folder and no data\.json of a run"):
        PreparedData.read(tmp_path)
