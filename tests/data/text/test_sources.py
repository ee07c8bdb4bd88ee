"""What `data.source` may name, which files come of it, and what is refused."""

from __future__ import annotations

import os

import pytest

from litespark.data.storage import Storage, StorageError
from litespark.data.text import sources
from litespark.data.text.files import SourceFile, fingerprint, size_of, within
from litespark.data.text.sources import corpus
from tests.data.corpus import config, documents, write_texts
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


def test_files_of_a_bucket_without_a_suffix_are_known_by_their_beginning(tmp_path, s3_server, s3_bucket):
    (tmp_path / "part-00000").write_text('{"text": "one"}\n' * 9000)
    (tmp_path / "val-00000").write_text('{"text": "two"}\n')
    (tmp_path / "notes").write_text('{"other": 1}\n')
    (tmp_path / "empty").touch()
    write(tmp_path, "README.md")
    fill(s3_server, s3_bucket, tmp_path)
    text = found(s3_bucket)
    assert [(file.name, file.format) for file in text.training + text.validation] == [
        ("part-00000", "JSON"),
        ("val-00000", "JSON"),
    ]
    assert text.listing.passed_over == {
        "README.md": "documentation or metadata",
        "empty": "empty",
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


def test_copies_in_a_bucket_are_known_by_their_checksums(tmp_path, s3_server, s3_bucket):
    for name, line in (("a", "1"), ("b", "2"), ("c", "1")):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"text": "{line}"}}\n')
    fill(s3_server, s3_bucket, tmp_path)
    assert [file.copy_of for file in found(s3_bucket).training] == [None, None, "a.jsonl"]


def test_unusable_sources_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"does not exist\. Fetch it so"):
        found(tmp_path / "nowhere", how_to_get="Fetch it so")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="neither a file nor a folder"):
        found(tmp_path / "pipe")


def test_an_empty_bucket_and_one_that_is_not_there_are_refused(s3_bucket):
    with pytest.raises(ValueError, match=rf"data\.source={s3_bucket}/slim holds no file .*Set data\.source"):
        found(f"{s3_bucket}/slim")
    with pytest.raises(ValueError, match=r"data\.source=s3://no-such-bucket.*[Nn]o.*such.*bucket|does not exist"):
        found("s3://no-such-bucket/slim")


def test_a_hub_name_is_asked_for_where_there_is_no_such_path(tmp_path, monkeypatch):
    asked = []

    def hub(address, *, attempts=None):
        asked.append((address, attempts))
        return Storage(tmp_path / "hub" / address.removeprefix("hf://"))

    write(tmp_path / "hub" / "datasets" / "owner" / "other", "train/a.parquet", "validation/b.parquet")
    write(tmp_path, "owner/name/a.txt")
    monkeypatch.chdir(tmp_path)
    assert names(found("owner/name").training) == ["a.txt"]
    monkeypatch.setattr(sources, "Storage", hub)
    assert names(found("owner/other").validation) == ["validation/b.parquet"]
    assert asked == [("hf://datasets/owner/other", 1)]


def test_a_hub_name_that_cannot_be_asked_for_says_both(monkeypatch):
    def offline(address, *, attempts=None):
        raise StorageError(f"{address}: no connection")

    monkeypatch.setattr(sources, "Storage", offline)
    with pytest.raises(
        ValueError, match=r"data\.source=a/b does not exist\. Set .* hub: hf://datasets/a/b: no connection"
    ):
        found("a/b")


def test_a_limit_on_files_is_applied_before_one_on_bytes(tmp_path):
    source = write_texts(tmp_path, documents(20))
    assert names(found(source, max_files=3).training) == ["0000.txt", "0001.txt", "0002.txt"]
    assert set(names(found(source, max_files=3, max_bytes=1).training)) < {"0000.txt", "0001.txt", "0002.txt"}


def text_files(*sizes):
    return tuple(SourceFile("/somewhere", f"{number:04}.txt", size) for number, size in enumerate(sizes))


def test_a_limit_takes_at_least_one_file_and_follows_no_order_of_the_listing():
    files = text_files(*range(50, 70))
    assert len(within(files, 0)) == 1
    assert within(files, size_of(files)) == files
    assert within(files, size_of(files) // 3) == within(files[::-1], size_of(files) // 3)


def test_a_limit_takes_a_file_that_would_be_most_of_it_only_where_the_others_do_not_suffice():
    files = text_files(*[100] * 20, *[900] * 20)
    small, tables = {*files[:20]}, {*files[20:]}
    assert set(within(files, 1000)) < small
    assert small < set(within(files, 4000))
    assert size_of(within(files, 4000)) >= 4000
    assert set(within(files, 8 * 900)) & tables, "no longer large beside that limit"
