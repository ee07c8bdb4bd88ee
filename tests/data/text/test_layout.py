"""Splits that names of files and folders state, as other people lay their data out, and names that state none."""

from __future__ import annotations

import pytest

from litespark.data.text.layout import OF_TEST, OUTSIDE, lay_out

PLAIN = (".txt", ".md", ".py", ".tokens", ".raw", ".en")

# layout -> names below the source: of training, of validation, of a test
OWN_SPLITS = {
    "the hub": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ["data/validation-00000-of-00001.parquet"],
        ["data/test-00000-of-00001.parquet"],
    ),
    "the hub, splits with qualifiers": (
        ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"],
        ["data/validation_matched-00000-of-00001.parquet"],
        ["data/test_sft-00000-of-00001.parquet"],
    ),
    "The Pile": (["train/00.jsonl.zst", "train/01.jsonl.zst"], ["val.jsonl.zst"], ["test.jsonl.zst"]),
    "WikiText": (["wikitext-2/wiki.train.tokens"], ["wikitext-2/wiki.valid.tokens"], ["wikitext-2/wiki.test.tokens"]),
    "humps and words in one": (["trainData.csv"], ["validset.csv"], ["testData.csv"]),
    "held out": (["train.jsonl"], ["held-out.jsonl"], ["Test Set.jsonl"]),
    "words in the middle": (
        ["wiki.train.german.jsonl", "wiki.train.english.jsonl"],
        ["wiki.valid.german.jsonl"],
        ["wiki.test.german.jsonl", "wiki.test.english.jsonl"],
    ),
    "plain texts with words before": (["train.german.txt"], ["valid.german.txt"], ["test.german.txt"]),
    "splits of each part in a folder of training": (
        ["train/en/train.jsonl", "train/web.jsonl"],
        ["train/en/val.jsonl"],
        ["train/en/test.jsonl", "train/de/test/0.parquet"],
    ),
    "years and languages": (["train2017.en", "train2017.de"], ["val2017.en"], ["test2017.en"]),
    "hive": (["lang=en/split=train/0.parquet"], ["lang=en/split=dev/0.parquet"], ["lang=en/split=testing/0.parquet"]),
    "no training split by name": (["a.jsonl", "b.jsonl"], ["val.jsonl"], ["test.jsonl"]),
    "no validation": (["train/a.txt"], [], ["test/b.txt"]),
    "one test split of records": (["a.jsonl"], [], ["a.test.jsonl"]),
    "a test within a train folder": (["train/repo/test/a.py"], ["validation/b.py"], []),
}


def layout_of(names, **options):
    return lay_out({name: not name.lower().endswith(PLAIN) for name in names}, **options)


@pytest.mark.parametrize("kind", OWN_SPLITS)
def test_the_usual_layouts_are_known_and_no_test_split_is_trained_on(kind):
    train, validation, test = OWN_SPLITS[kind]
    layout = layout_of([*test, *validation, *train])
    assert sorted(layout.training) == sorted(train)
    assert sorted(layout.validation) == sorted(validation)
    assert layout.left_out == dict.fromkeys(test, OF_TEST)


@pytest.mark.parametrize(
    "names",
    [
        ["training_manual.txt", "testing_manual.txt", "a.txt"],
        ["testimony.jsonl", "contest.jsonl", "latest.jsonl", "trainer.jsonl", "devices.jsonl", "validity.jsonl"],
        ["night-train.txt", "driving-test.txt", "web-dev.txt"],
        ["train.py", "test.py", "eval.py", "model.py"],
        ["tests/a.txt", "src/b.txt"],
        ["docs/training/a.md", "docs/usage/b.md"],
        ["dev/setup.txt", "intro.txt"],
        ["training_log.jsonl", "a.jsonl"],
    ],
)
def test_a_word_in_a_name_is_no_split(names):
    layout = layout_of(names)
    assert (sorted(layout.training), layout.validation, layout.left_out) == (sorted(names), (), {})


def test_what_looks_like_a_split_and_is_none_is_reported():
    layout = layout_of(["tests/a.txt", "tests/b.txt", "training_manual.txt", "testimony.txt", "c.txt"])
    assert layout.taken_anyway == ("tests/", "training_manual.txt")
    assert layout_of(["train/repo/test/a.py", "val/b.py"]).taken_anyway == ("train/repo/test/",)
    assert layout_of(OWN_SPLITS["the hub"][0]).taken_anyway == ()


def test_files_outside_the_splits_are_passed_over():
    layout = layout_of(["train/a.jsonl", "test/b.jsonl", "extra/c.jsonl", "d.txt"])
    assert layout.training == ("train/a.jsonl",)
    assert layout.left_out == {"test/b.jsonl": OF_TEST, "extra/c.jsonl": OUTSIDE, "d.txt": OUTSIDE}
    assert layout_of(["train.jsonl", "more.jsonl"]).left_out == {"more.jsonl": OUTSIDE}


def test_files_of_one_split_are_taken_where_they_alone_were_asked_for():
    names = ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]
    assert layout_of(names).training == ()
    asked = layout_of(names, one_split_is_meant=True)
    assert (asked.training, asked.taken_anyway) == (tuple(names), tuple(names))
    assert layout_of([*names, "train.jsonl"], one_split_is_meant=True).training == ("train.jsonl",)
