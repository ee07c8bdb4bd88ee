"""What `data.source` may name, which files come of it, and what is refused."""

from __future__ import annotations

import pytest

from litespark.data.storage import Storage, StorageError
from litespark.data.text import sources
from litespark.data.text.files import SourceFile, fingerprint, size_of, within
from litespark.data.text.sources import corpus
from tests.data.corpus import config
from tests.data.s3_server import fill
from tests.data.slimpajama import write_slimpajama


def found(source, **changes):
    return corpus(config(source, "unused", **changes))


def names(files):
    return [file.name for file in files]


def write(folder, *paths):
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f"text of {path}")
    return folder


def test_a_folder_means_all_known_files_below_it_sorted_and_nothing_hidden(tmp_path):
    write(tmp_path, "b/two.txt", "a.jsonl", "c.parquet", "b/d.json.gz", "e.NDJSON.zst", "f.md")
    write(tmp_path, "picture.png", ".git/x.txt", "b/.hidden.txt", "g.csv")
    expected = ["a.jsonl", "b/d.json.gz", "b/two.txt", "c.parquet", "e.NDJSON.zst", "f.md", "g.csv"]
    assert names(found(tmp_path).training) == expected
    assert not found(tmp_path).validation


def test_folders_and_files_behind_links_are_found_and_a_circle_ends(tmp_path):
    write(tmp_path / "elsewhere", "chunk/a.txt", "b.txt")
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "linked").symlink_to(tmp_path / "elsewhere" / "chunk", target_is_directory=True)
    (tmp_path / "source" / "b.txt").symlink_to(tmp_path / "elsewhere" / "b.txt")
    (tmp_path / "source" / "up").symlink_to(tmp_path / "source", target_is_directory=True)
    assert names(found(tmp_path / "source").training) == ["b.txt", "linked/a.txt"]


def test_one_file_is_taken_whatever_its_name_is_and_brackets_that_are_there_are_no_glob(tmp_path):
    write(tmp_path / "a[1]", "speech.transcript")
    assert names(found(tmp_path / "a[1]").training) == ["speech.transcript"]
    text = found(tmp_path / "a[1]" / "speech.transcript")
    assert (text.name, names(text.training)) == ("speech_transcript", ["speech.transcript"])


def test_globs_name_files_or_folders(tmp_path):
    write(tmp_path, "en/a.txt", "en/deep/b.txt", "de/c.txt", "de/d.jsonl", "other/e.txt")
    assert names(found(tmp_path / "*/*.txt").training) == ["de/c.txt", "en/a.txt", "other/e.txt"]
    assert names(found(tmp_path / "**/*.txt").training) == ["de/c.txt", "en/a.txt", "en/deep/b.txt", "other/e.txt"]
    assert names(found(tmp_path / "[de][en]").training) == ["de/c.txt", "de/d.jsonl", "en/a.txt", "en/deep/b.txt"]
    with pytest.raises(ValueError, match=r"data\.source=.*/z\* matches no file\. Set data"):
        found(tmp_path / "z*")


def test_the_layout_of_slimpajama_has_its_own_splits_and_test_is_left_alone(tmp_path):
    text = found(write_slimpajama(tmp_path / "SlimPajama"))
    assert text.name == "SlimPajama"
    assert names(text.training) == [f"train/chunk{c}/example_train_{s}.jsonl.zst" for c in (1, 2) for s in range(3)]
    assert names(text.validation) == [f"validation/chunk{c}/example_holdout_0.jsonl.zst" for c in (1, 2)]
    limited = found(tmp_path / "SlimPajama", max_files=1)
    assert names(limited.training) == ["train/chunk1/example_train_0.jsonl.zst"]
    assert names(limited.validation) == ["validation/chunk1/example_holdout_0.jsonl.zst"]


def test_a_bucket_gives_the_same_files_as_a_folder(tmp_path, s3_server, s3_bucket):
    write_slimpajama(tmp_path / "slim")
    fill(s3_server, f"{s3_bucket}/slim", tmp_path / "slim")
    here, there = found(tmp_path / "slim"), found(f"{s3_bucket}/slim")
    for mine, theirs in zip(here.sides, there.sides, strict=True):
        assert [(file.name, file.size) for file in mine] == [(file.name, file.size) for file in theirs]
        assert all(file.version for file in theirs)
        assert fingerprint(mine) != fingerprint(theirs), "no time of modification there, no checksum here"
    assert there.name == "slim"
    assert there.training[0].where == f"{s3_bucket}/slim/train/chunk1/example_train_0.jsonl.zst"
    one = found(f"{s3_bucket}/slim/train/chunk1/example_train_0.jsonl.zst")
    assert (one.name, names(one.training)) == ("example_train_0", ["example_train_0.jsonl.zst"])
    fill(s3_server, f"{s3_bucket}/slim", tmp_path / "slim")
    again = found(f"{s3_bucket}/slim")
    assert fingerprint(again.training) == fingerprint(there.training), "the same bytes written anew"
    assert [f"train/{name}" for name in names(found(f"{s3_bucket}/slim/train/chunk*").training)] == names(here.training)
    assert names(found(f"{s3_bucket}/slim/**/*_0.jsonl.zst").validation) == names(here.validation)


def test_files_of_a_bucket_are_known_by_their_beginning_and_copies_by_their_checksums(tmp_path, s3_server, s3_bucket):
    for name, line in (("part-00000", '{"text": "one"}'), ("part-00001", '{"text": "one"}'), ("notes", '{"other": 1}')):
        (tmp_path / name).write_text(f"{line}\n" * 9000)
    write(tmp_path, "README.md")
    fill(s3_server, s3_bucket, tmp_path)
    text = found(s3_bucket)
    copies = [(file.name, file.format, file.copy_of) for file in text.training]
    assert copies == [("part-00000", "JSON", None), ("part-00001", "JSON", "part-00000")]
    assert text.listing.passed_over == {
        "README.md": "documentation or metadata",
        "notes": "JSON without the field text",
    }
    assert [file.format for file in found(f"{s3_bucket}/part-00000").training] == ["JSON"]


def test_the_standard_library_has_no_tests_and_no_other_packages():
    source = found("standard_library").training
    assert names(source) == sorted(names(source))
    assert "argparse.py" in names(source)
    assert not [name for name in names(source) if {"test", "tests", "site-packages"} & set(name.split("/"))]


def test_shards_with_the_same_content_are_marked_and_what_validates_is_kept(tmp_path):
    lines = "".join(f'{{"text": "{number}"}}\n' for number in range(9))
    for path in ("train/a.jsonl", "train/b.jsonl", "train/c.jsonl", "validation/v.jsonl", "validation/w.jsonl"):
        write(tmp_path, path)
    for path in ("train/b.jsonl", "train/c.jsonl", "validation/v.jsonl"):
        (tmp_path / path).write_text(lines)
    (tmp_path / "train" / "a.jsonl").write_text(lines.replace("8", "9"))  # as long, and different
    (tmp_path / "train" / "one.txt").write_text(lines)  # a text is a document, not a shard
    text = found(tmp_path)
    assert [file.copy_of for file in text.training] == [None, "validation/v.jsonl", "validation/v.jsonl", None]
    assert [file.copy_of for file in text.validation] == [None, None]


def test_a_hub_name_is_asked_for_once_where_there_is_no_such_path(tmp_path, monkeypatch):
    asked = []

    def hub(address, *, attempts=None):
        asked.append((address, attempts))
        if not address.endswith("other"):
            raise StorageError(f"{address}: no connection")
        return Storage(tmp_path / "hub" / address.removeprefix("hf://"))

    write(tmp_path / "hub" / "datasets" / "owner" / "other", "train/a.parquet", "validation/b.parquet")
    write(tmp_path, "owner/name/a.txt")
    monkeypatch.chdir(tmp_path)
    assert names(found("owner/name").training) == ["a.txt"]
    monkeypatch.setattr(sources, "Storage", hub)
    assert names(found("owner/other").validation) == ["validation/b.parquet"]
    with pytest.raises(ValueError, match=r"a/b does not exist\. Fetch it so .* hub: hf://datasets/a/b: no connection"):
        found("a/b", how_to_get="Fetch it so")
    assert asked == [("hf://datasets/owner/other", 1), ("hf://datasets/a/b", 1)]


def test_a_limit_takes_whole_files_in_an_order_of_their_names_and_large_ones_last():
    files = tuple(
        SourceFile("/somewhere", f"{number:04}.txt", size) for number, size in enumerate([100] * 20 + [900] * 20)
    )
    small, tables = {*files[:20]}, {*files[20:]}
    assert len(within(files, 0)) == 1
    assert within(files, size_of(files)) == files
    assert set(within(files, 1000)) < small
    assert small < set(within(files, 4000))
    assert within(files, 4000) == within(files[::-1], 4000)
    assert set(within(files, 8 * 900)) & tables, "no longer large beside that limit"
