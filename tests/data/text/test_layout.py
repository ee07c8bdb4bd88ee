"""Splits that names of files and folders state, as other people lay their data out, and names that state none."""

from __future__ import annotations

import pytest

from litespark.data.text.layout import OF_TEST, OUTSIDE, lay_out

PLAIN = (".txt", ".md", ".py", ".tokens", ".raw", ".en")

# layout -> names below the source by what becomes of them
OWN_SPLITS = {
    "the hub": (
        ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"],
        ["data/validation-00000-of-00001.parquet"],
        ["data/test-00000-of-00001.parquet"],
    ),
    "the hub, older names": (
        ["data/train-00000-of-00001-a09b74b3ef9c3b56.parquet"],
        ["data/valid-00000-of-00001-0123456789abcdef.parquet"],
        ["data/test-00000-of-00001-deadbeefdeadbeef.parquet"],
    ),
    "the hub, splits with qualifiers": (
        ["data/train_sft-00000-of-00001.parquet", "data/train_gen-00000-of-00001.parquet"],
        ["data/validation_matched-00000-of-00001.parquet"],
        ["data/test_sft-00000-of-00001.parquet", "data/test_gen-00000-of-00001.parquet"],
    ),
    "converted by the hub": (
        ["default/train/0000.parquet"],
        ["default/validation/0000.parquet"],
        ["default/test/0.parquet"],
    ),
    "a folder a configuration": (
        ["de/train-00000-of-00001.parquet", "en/train-00000-of-00001.parquet"],
        ["en/validation-00000-of-00001.parquet"],
        ["en/test-00000-of-00001.parquet"],
    ),
    "The Pile": (["train/00.jsonl.zst", "train/01.jsonl.zst"], ["val.jsonl.zst"], ["test.jsonl.zst"]),
    "SlimPajama": (
        ["train/chunk1/example_train_0.jsonl.zst"],
        ["validation/chunk1/example_holdout_0.jsonl.zst"],
        ["test/chunk1/example_holdout_0.jsonl.zst"],
    ),
    "C4": (
        ["en/c4-train.00000-of-01024.json.gz", "en/c4-train.00001-of-01024.json.gz"],
        ["en/c4-validation.00000-of-00008.json.gz"],
        [],
    ),
    "WikiText": (["wikitext-2/wiki.train.tokens"], ["wikitext-2/wiki.valid.tokens"], ["wikitext-2/wiki.test.tokens"]),
    "a name before": (["my_corpus.train.jsonl"], ["my_corpus.dev.jsonl"], ["my_corpus.test.jsonl"]),
    "a name behind": (["train_wikipedia.jsonl"], ["val_wikipedia.jsonl"], ["test_wikipedia.jsonl"]),
    "capitals": (["TRAIN.jsonl"], ["Dev.JSONL"], ["Test.jsonl"]),
    "humps": (["trainData.csv"], ["validData.csv"], ["testData.csv"]),
    "words in one": (["trainset.csv"], ["devset.csv"], ["testset.csv"]),
    "versions": (["train-v2.0.json"], ["dev-v2.0.json"], ["test-v2.0.json"]),
    "held out": (["train.jsonl"], ["held-out.jsonl"], ["Test Set.jsonl"]),
    "words in the middle": (
        ["wiki.train.german.jsonl", "wiki.train.english.jsonl"],
        ["wiki.valid.german.jsonl"],
        ["wiki.test.german.jsonl", "wiki.test.english.jsonl"],
    ),
    "plain texts with words in the middle": (["wiki.train.german.txt"], [], ["wiki.test.german.txt"]),
    "plain texts with words before": (["train.german.txt"], ["valid.german.txt"], ["test.german.txt"]),
    "mC4": (["c4-af.tfrecord-00000-of-00064.json.gz"], ["c4-af-validation.tfrecord-00000-of-00001.json.gz"], []),
    "FLORES": (["train/eng.jsonl"], ["dev/eng.jsonl"], ["devtest/eng.jsonl"]),
    "splits of each part in a folder of training": (
        ["train/en/train.jsonl", "train/web.jsonl"],
        ["train/en/val.jsonl"],
        ["train/en/test.jsonl", "train/de/test/0.parquet"],
    ),
    "years": (["train2017.txt"], ["val2017.txt"], ["test2017.txt"]),
    "languages": (["train.en", "train.de"], ["dev.en", "dev.de"], ["test.en", "test.de"]),
    "hive": (["lang=en/split=train/0.parquet"], ["lang=en/split=dev/0.parquet"], ["lang=en/split=testing/0.parquet"]),
    "other words": (["training/a.txt"], ["eval/b.txt"], ["testing/c.txt"]),
    "plain files": (["train.txt"], ["valid.txt"], ["test.txt"]),
    "no training split by name": (["a.jsonl", "b.jsonl"], ["val.jsonl"], ["test.jsonl"]),
    "no validation": (["train/a.txt"], [], ["test/b.txt"]),
    "one test split of records": (["a.jsonl"], [], ["a.test.jsonl"]),
    "a test within a train folder": (["train/repo/test/a.py"], ["validation/b.py"], []),
}  # fmt: skip


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
        ["train.txt", "plane.txt", "car.txt"],
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


def test_what_is_called_validation_comes_before_other_words_for_it():
    layout = layout_of(["train/a.jsonl", "validation/b.jsonl", "evaluation.txt", "dev.jsonl"])
    assert layout.validation == ("validation/b.jsonl",)
    assert layout.left_out == {"evaluation.txt": OUTSIDE, "dev.jsonl": OUTSIDE}


def test_files_of_one_split_are_taken_where_they_alone_were_asked_for():
    names = ["test-00000-of-00002.parquet", "test-00001-of-00002.parquet"]
    assert layout_of(names).training == ()
    asked = layout_of(names, one_split_is_meant=True)
    assert (asked.training, asked.taken_anyway) == (tuple(names), tuple(names))
    assert layout_of([*names, "train.jsonl"], one_split_is_meant=True).training == ("train.jsonl",)
