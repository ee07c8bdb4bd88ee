"""A start on prepared data lists the source once, and opens none of its files."""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from litespark.data.prepare import prepare as preparing
from litespark.data.prepare.prepare import look_up, prepare
from litespark.data.select.config import SelectionConfig
from litespark.data.tokenizer import Tokenizer
from tests.data.corpus import config, documents, write_texts

opened: list[str] = []


def note(event: str, arguments: tuple) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes):
        opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(note)


@pytest.fixture
def settings(tmp_path):
    """Text of every kind that preparing has to look into: records, copies of them, files without a suffix."""
    source = write_texts(tmp_path / "raw", documents(5))
    (source / "README").write_text("about")
    for name in ("a.jsonl", "copy.jsonl", "part-00000"):
        (source / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in documents(9, seed=3)))
    (tmp_path / "evaluation.txt").write_text("what one is asked")
    Tokenizer.train(documents(20), vocab_size=300).save(tmp_path)
    selection = SelectionConfig(decontaminate=(str(tmp_path / "evaluation.txt"),), decontaminate_words=3)
    return config(source, tmp_path / "prepared", tokenizer=str(tmp_path), selection=selection)


def test_a_start_on_prepared_data_opens_neither_text_nor_tokenizer(settings, tmp_path, monkeypatch):
    folder = prepare(settings, progress=False)
    assert any(path.startswith(settings.source) for path in opened), "the hook sees nothing"
    monkeypatch.setattr(preparing, "plan_preparation", None)
    opened.clear()
    assert prepare(settings, existing=look_up(settings), progress=False) == folder
    assert [path for path in opened if path.startswith(str(tmp_path)) and not Path(path).is_dir()] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda source, _: (source / "0001.txt").write_text("other text"),
        lambda source, _: os.utime(source / "a.jsonl", ns=(10**18, 10**18)),
        lambda source, _: (source / "0002.txt").unlink(),
        lambda source, _: (source / "new.txt").write_text("more text"),
        lambda _, beside: (beside / "evaluation.txt").write_text("something else"),
        lambda _, beside: Tokenizer.train(documents(30, seed=5), vocab_size=290).save(beside),
    ],
)
def test_whatever_changed_is_looked_at(settings, tmp_path, change):
    prepare(settings, progress=False)
    change(Path(settings.source), tmp_path)
    assert look_up(settings).plan is not None


def test_other_settings_are_looked_at_and_how_sequences_are_read_is_not(settings):
    folder = prepare(settings, progress=False)
    assert look_up(replace(settings, text_field="body")).plan is not None
    assert look_up(replace(settings, seq_len=8, workers=2)).place == folder
    shutil.rmtree(folder)
    assert look_up(settings).plan is not None
