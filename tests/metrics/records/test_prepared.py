"""The view of a prepared data set says what the manifest says, and refuses what is broken, changed or contradictory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from litespark.data.manifest import FILE, Manifest
from litespark.data.manifest import SCHEMA as SCHEMA_OF_MANIFESTS
from litespark.metrics.records.prepared import MANIFEST, RUN_DATA, SCHEMA, PreparedData, write_run_data
from litespark.metrics.records.strict_json import RecordError
from tests.metrics.records.prepared_manifest import SELECTION, manifest, prepared


@pytest.fixture
def folder(tmp_path):
    return prepared(tmp_path / "prepared")


def change(folder: Path, *path: str | int, to: object) -> None:
    """Write one value of the manifest anew."""
    values = json.loads((folder / MANIFEST).read_text())
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    (folder / MANIFEST).write_text(json.dumps(values))


def test_the_names_are_those_of_the_data_room():
    assert (SCHEMA, MANIFEST) == (SCHEMA_OF_MANIFESTS, FILE)


def test_it_says_what_the_manifest_says(folder):
    made, data = Manifest.read(folder), PreparedData.read(folder)
    assert data.manifest_hash == made.hash
    assert (data.name, data.vocab_size, data.packing, data.seq_len) == ("miniature", 300, "concat", None)
    assert data.settings["selection"] == SELECTION
    assert data.splits == ["train", "validation"]
    assert [(row.split, row.domain, row.tokens, sum(row.lengths)) for row in data.domains] == [
        ("train", "Common|Crawl", 7000, 70),
        ("train", "Wiki", 3000, 30),
        ("validation", "Wiki", 12, 5),
    ]
    assert sum(row.documents for row in data.left_out) == made.ledger.documents() == 40
    ((place, excerpt),) = [(row.examples[0].place, row.examples[0].excerpt) for row in data.left_out[-1:]]
    assert (place, excerpt) == (9, '{"text": "cut o')
    assert data.left_out[-1].tokens is None


def test_documents_read_are_those_kept_and_those_left_out(folder):
    data = PreparedData.read(folder)
    assert data.read_documents("train") == 100 + 39
    assert data.read_documents("train", "Wiki") == 30 + 28
    assert data.read_documents("train", "unknown") == 1  # nothing of it was kept
    assert data.read_documents("test") == 0


def test_rows_of_one_rule_are_summed_over_its_reasons(folder):
    data = PreparedData.read(folder)
    assert [(row.rule, row.domain, row.documents, row.bytes, row.tokens) for row in data.by_rule("train")] == [
        ("reading/malformed_json", "unknown", 1, 17, None),
        ("selection/exact_duplicate", "Wiki", 8, 400, 96),
        ("selection/gopher_quality", "Common|Crawl", 10, 4000, 900),
        ("selection/gopher_quality", "Wiki", 20, 2000, 600),
    ]


def test_a_run_keeps_all_of_it_but_chunks_and_bytes_of_ids(folder, tmp_path):
    run = tmp_path / "run"
    write_run_data(run, Manifest.read(folder).summary())
    assert PreparedData.read(run) == PreparedData.read(run / RUN_DATA) == PreparedData.read(folder)
    assert "token_bytes" not in (run / RUN_DATA).read_text()
    assert "chunk-" not in (run / RUN_DATA).read_text()


def test_a_change_to_what_a_run_keeps_is_seen(folder, tmp_path):
    write_run_data(tmp_path, Manifest.read(folder).summary())
    file = tmp_path / RUN_DATA
    file.write_text(file.read_text().replace('"documents": 70', '"documents": 71'))
    with pytest.raises(RecordError, match=r"data\.json is not a valid .* record: seal: got .* changed after"):
        PreparedData.read(tmp_path)


def test_a_folder_with_neither_file_is_refused(tmp_path):
    with pytest.raises(RecordError, match=r"found no manifest\.json of a prepared folder and no data\.json of a run"):
        PreparedData.read(tmp_path)


@pytest.mark.parametrize(
    ("path", "to", "complaint"),
    [
        (("schema",), "litespark.data/1", r"schema: got 'litespark\.data/1', expected .*; prepare the data again"),
        (("vocab_size",), "many", r"vocab_size: got 'many', expected an integer"),
        (("splits",), [], r"splits: got \[\], expected an object"),
        (("splits", "train", "domains"), None, r"splits\.train\.domains: got None, expected an object"),
        (("splits", "train", "domains", "Wiki", "tokens"), 1.5, r"splits\.train\.domains\.Wiki\.tokens: got 1\.5"),
        (("splits", "train", "domains", "Wiki", "tokens"), -1, r"splits\.train\.domains\.Wiki: got a count below 0"),
        (("splits", "train", "domains", "Wiki", "documents"), 29, r".*Wiki\.lengths: got 30 .* its 29"),
        (("splits", "train", "domains", "Wiki"), {}, r"splits\.train\.domains\.Wiki\.documents: missing"),
        (("ledger",), None, r"ledger: got None, expected a list"),
        (("ledger", 0, "rule"), 3, r"ledger\[0\]\.rule: got 3, expected a text"),
        (("ledger", 0, "tokens"), -3, r"ledger\[0\]: got .* and -3 tokens"),
        (("ledger", 0, "documents"), 1, r"ledger\[0\]: got 1 documents .* with 5 examples; expected .* at most one"),
        (("settings",), None, r"settings: got None, expected an object"),
    ],
)
def test_what_is_wrong_is_named_with_its_field(folder, path, to, complaint):
    change(folder, *path, to=to)
    with pytest.raises(RecordError, match=rf"manifest\.json is not a valid litespark\.data/2 record: {complaint}"):
        PreparedData.read(folder)


def test_a_file_that_is_no_json_is_refused(folder):
    (folder / MANIFEST).write_text("{")
    with pytest.raises(RecordError, match=r"manifest\.json is not a valid"):
        PreparedData.read(folder)


def test_a_split_that_is_not_known_by_name_comes_last(tmp_path):
    splits = manifest().splits
    folder = prepared(tmp_path, splits={"extra": splits["validation"], **splits})
    assert PreparedData.read(folder).splits == ["train", "validation", "extra"]
