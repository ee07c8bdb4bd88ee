"""Examples are prepared once, for what decides them, whole or not at all."""

import os
import shutil

import pyarrow
import pyarrow.parquet
import pytest

from litespark.data.examples import prepare as preparing
from litespark.data.examples.prepare import prepare
from litespark.data.manifest import Manifest
from litespark.data.modules import build_data_module
from litespark.data.prepare.check import check_prepared
from litespark.data.tokenizer import Tokenizer
from tests.data.examples.chats import assistant, config, user, write_lines, write_tokenizer

RECORDS = [{"prompt": f"what is {number}? ", "completion": f"the answer {number}"} for number in range(20)]


@pytest.fixture
def settings(tmp_path):
    tokenizer = str(write_tokenizer(tmp_path / "tokenizer"))
    write_lines(tmp_path / "records.jsonl", RECORDS)
    return lambda **changes: config(
        changes.pop("source", tmp_path / "records.jsonl"), tmp_path / "root", tokenizer=tokenizer, **changes
    )


def test_what_decides_the_examples_decides_the_folder_and_nothing_is_prepared_twice(settings, tmp_path, monkeypatch):
    folder = prepare(settings())
    others = [{"chat_template": "chatml"}, {"seq_len": 63}, {"max_prompt_length": 20}, {"validation_fraction": 0.4}]
    folders = [folder, *(prepare(settings(**change)) for change in others)]
    assert len(set(folders)) == len(folders)
    records = tmp_path / "records.jsonl"
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "write_folder", None)
        os.utime(records, (1, 1))
        assert prepare(settings(micro_batch_size=3, max_bad_share=0.5, workers=2)) == folder
        assert prepare(settings(source=folder)) == folder
    write_lines(records, RECORDS[::-1])
    assert prepare(settings()) != folder
    assert not [path.name for path in (tmp_path / "root").iterdir() if path.name.startswith(".")]
    assert check_prepared(folder)[1] == []


def test_a_preparation_that_ends_early_leaves_nothing(settings, tmp_path, monkeypatch):
    def fails(name, config, corpus, encoder, folder):
        folder.mkdir()
        (folder / "half").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(preparing, "write_folder", fails)
        with pytest.raises(KeyboardInterrupt):
            prepare(settings())
    assert list((tmp_path / "root").iterdir()) == []
    assert Manifest.read(prepare(settings())).splits["train"].documents


def test_the_manifest_counts_what_is_kept_and_what_is_left_out(settings, tmp_path):
    bad = [*RECORDS, {"prompt": "x" * 80, "completion": "y"}, {"prompt": "q", "completion": " "}]
    write_lines(tmp_path / "records.jsonl", bad)
    folder = prepare(settings(max_bad_share=0.05, chat_template="chatml"))
    manifest = Manifest.read(folder)
    assert manifest.dropped.by_rule() == {"length/too_long": 1, "reading/empty_completion": 1}
    assert sum(counts.documents for counts in manifest.splits.values()) == len(RECORDS)
    assert (manifest.packing, manifest.seq_len, manifest.vocab_size) == ("examples", 64, 280)
    assert Tokenizer.load(folder).hash == manifest.tokenizer_hash
    assert "generation" in str(Tokenizer.load(folder).chat_template)
    module = build_data_module(settings(source=folder, chat_template="chatml"), seed=1)
    for split, loader in (("train", module.training_once()), ("validation", module.validation_once())):
        counts, batches = manifest.splits[split], list(loader)
        assert sum(batch.example_count for batch in batches) == counts.documents
        assert sum(batch.token_count for batch in batches) == counts.tokens
        rows = sum(int((batch.sequence_of >= 0).any(dim=1).sum()) for batch in batches)
        assert manifest.filled(split) == pytest.approx(counts.tokens / (rows * 64))


@pytest.mark.parametrize(
    ("records", "changes", "message"),
    [
        ([{"text": "x"}, {"text": "y"}], {}, "2 of 2 records are no examples of data.format=conversations .missing_colu"
            ".*records.jsonl, record 1: got no prompt beside text.*choose the data.format that they have"),
        (RECORDS, {"format": "pairs"}, "no chosen beside prompt, completion, expected chosen and rejected"),
        (RECORDS, {"seq_len": 5}, "data.seq_len=5: got 20 examples, all of them longer.*Raise data.seq_len"),
        (RECORDS[:1] * 9, {}, "no example for validation .left out: none., expected examples of two prompts"),
        ([{"prompt": f"q{n}", "chosen": "a", "rejected": "b"} | ({"margin": n} if n else {}) for n in range(9)],
            {"format": "pairs"}, "got no margin in 1 of 9 examples, expected it in all or in none"),
        (RECORDS, {"tokenizer": None}, "data.tokenizer: got null.*model=huggingface model.path=FOLDER"),
        (RECORDS, {"vocab_size": 100}, "has 280 ids, and the vocabulary is 100"),
        (RECORDS, {"root": "s3://bucket/x"}, "data.root=s3://bucket/x: examples are prepared on this machine"),
    ],
)  # fmt: skip
def test_a_data_set_that_cannot_be_is_refused(settings, tmp_path, records, changes, message):
    write_lines(tmp_path / "records.jsonl", records)
    made = settings(**{name: value for name, value in changes.items() if name not in ("root", "tokenizer")})
    values = {name: getattr(made, name) for name in made.__dataclass_fields__} | changes
    with pytest.raises(ValueError, match=message):
        prepare(type(made)(**values))


def test_text_is_refused_for_examples_and_examples_for_text(settings, tmp_path):
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(ValueError, match=r"a.txt: got plain text, expected JSON lines or parquet"):
        prepare(settings(source=tmp_path / "a.txt"))
    folder = prepare(settings())
    with pytest.raises(ValueError, match=r"prepared for data.seq_len=64, expected 32, data.format=co.* expected pairs"):
        build_data_module(settings(source=folder, seq_len=32, format="pairs"), seed=1)
    from tests.data.corpus import config as text_config

    with pytest.raises(ValueError, match=r"holds examples, expected prepared text; .*choose data=conversations"):
        build_data_module(text_config(folder, tmp_path), seed=1)


def test_nothing_is_read_twice_and_no_prompt_of_validation_is_trained_on(settings, tmp_path, caplog):
    talks = [{"conversations": [{"from": "human", "value": f"q{n}"}, {"from": "gpt", "value": "a"}]} for n in range(9)]
    source = tmp_path / "set"
    for name, rows in (("train-0", talks), ("train-1", talks), ("validation", [*talks[:2], *talks[:1]])):
        write_lines(source / f"{name}.jsonl", rows)
    folder = prepare(settings(source=source, chat_template="chatml"))
    manifest = Manifest.read(folder)
    assert manifest.dropped.by_rule() == {"reading/duplicate_shard": 9, "split/prompt_in_validation": 2}
    assert {split: counts.documents for split, counts in manifest.splits.items()} == {"train": 7, "validation": 3}
    assert "answers end with" not in caplog.text
    assert check_prepared(folder)[1] == []


def test_parquet_is_read_with_all_its_columns_and_its_own_splits(settings, tmp_path):
    talks = [{"messages": [user(f"q{n}"), assistant(f"a{n}", weight=None if n else 2.0)]} for n in range(4)]
    for split, rows in (("train", talks), ("test", talks[:1]), ("validation", talks[3:])):
        (tmp_path / "set").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "set" / f"{split}-0.parquet")
    folder = prepare(settings(source=tmp_path / "set", chat_template="chatml"))
    examples = build_data_module(settings(source=folder, chat_template="chatml"), seed=1).examples("train")
    assert [example.weights[0].max() for example in map(examples.__getitem__, range(len(examples)))] == [2, 1, 1]
    shutil.rmtree(folder / "validation")
    with pytest.raises(ValueError, match=r"validation/text/examples.arrow has 0 bytes"):
        build_data_module(settings(source=folder, chat_template="chatml"), seed=1)
