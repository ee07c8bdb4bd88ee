"""A resumed run goes on with the data that it was trained on, wherever that lies; other data is refused by name."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace

import pytest
import yaml

from litespark.config.settings import fields_of
from litespark.data.examples.config import ExamplesConfig
from litespark.data.manifest import Manifest
from litespark.data.modules import prepared_folder
from litespark.data.prepare import prepare as preparing
from litespark.data.prepare.prepare import prepare
from litespark.run import run_data
from litespark.run.config import ConfigError
from litespark.run.folder import CONFIG, read_config
from litespark.run.new_run import make
from litespark.run.run_data import data_of_run, record_place
from litespark.training.checkpoint.folder import Checkpoint
from tests.data.corpus import config, documents, write_texts
from tests.data.examples.chats import config as examples
from tests.data.examples.chats import write_lines, write_tokenizer
from tests.run.composed import parts


class Resume:
    """A run on ten texts, and a config that resumes it."""

    def __init__(self, tmp_path):
        self.source = write_texts(tmp_path / "raw", documents(10))
        self.data = config(self.source, tmp_path / "prepared")
        self.prepared = prepare(self.data, progress=False)
        manifest = Manifest.read(self.prepared)
        self.parts = replace(parts(f"paths.logs={tmp_path}/logs", "name=mine"), data=self.data, resume="mine")
        self.folder = make(self.parts, [], self.prepared, manifest)
        record_place(self.folder, self.prepared)
        self.checkpoint = Checkpoint(self.folder, 5, {"manifest_hash": manifest.hash}, {}, {}, {}, "")

    def place(self, *given, **changes):
        return data_of_run(
            replace(self.parts, data=replace(self.data, **changes)), self.folder, self.checkpoint, given or set()
        )


@pytest.fixture
def resume(tmp_path):
    return Resume(tmp_path)


def test_the_text_may_be_gone_and_the_source_left_out(resume, monkeypatch):
    shutil.rmtree(resume.source)
    monkeypatch.setattr(preparing, "plan_preparation", None)
    assert resume.place("source") == str(resume.prepared)
    assert resume.place(source="standard_library") == str(resume.prepared)
    # what says how it was prepared is of no account when it was not set
    assert resume.place(validation_fraction=0.4, text_field="x", root="elsewhere") == str(resume.prepared)


def test_a_run_that_shares_what_another_text_was_prepared_for_goes_on_with_its_own_source(resume):
    values = read_config(resume.folder / CONFIG)
    values["data"]["source"] = own = str(resume.source.parent / "the same text")
    (resume.folder / CONFIG).write_text(yaml.safe_dump(values))
    assert resume.place("source", source=own) == str(resume.prepared)


def test_the_prepared_folder_may_be_moved_and_named_and_the_data_be_prepared_again_from_moved_text(resume, tmp_path):
    text = resume.source.rename(tmp_path / "moved")
    for folder in ("elsewhere", "disk"):
        (tmp_path / folder).mkdir()
    moved = resume.prepared.rename(tmp_path / "elsewhere" / resume.prepared.name)
    assert resume.place("source", "validation_fraction", source=str(moved), validation_fraction=0.4) == moved
    moved = shutil.move(moved, tmp_path / "disk" / moved.name)
    assert resume.place(root=str(tmp_path / "disk")) == str(moved)
    record_place(resume.folder, moved)
    assert resume.place() == str(moved)
    shutil.rmtree(moved)
    again = resume.place("source", source=str(text))
    assert Manifest.read(again).hash == resume.checkpoint.about["manifest_hash"]


def test_other_text_is_refused(resume, tmp_path):
    other = write_texts(tmp_path / "other", documents(10, seed=1))
    with pytest.raises(ConfigError, match=r"got data\.source=.*other, expected .*raw: .* Leave data\.source out"):
        resume.place("source", source=str(other))
    with pytest.raises(ConfigError, match=r"is other data than the run was trained on: manifest hash"):
        resume.place("source", source=str(prepare(replace(resume.data, source=str(other)), progress=False)))


def test_settings_that_would_prepare_other_data_are_refused_by_name(resume):
    with pytest.raises(ConfigError, match=r"data.validation_fraction: was 0.2, is now 0.4"):
        resume.place("validation_fraction", validation_fraction=0.4)
    tokenizer = str(resume.folder / "tokenizer")
    other = resume.data.vocab_size - 1  # no tokenizer is named, so this many ids would be trained
    with pytest.raises(ConfigError, match=rf"data.vocab_size: was {resume.data.vocab_size}, is now {other}"):
        resume.place("vocab_size", vocab_size=other)
    assert resume.place("vocab_size") == str(resume.prepared)
    assert resume.place("tokenizer", "max_bad_share", tokenizer=tokenizer, max_bad_share=0.5) == str(resume.prepared)


def test_data_that_is_gone_is_named_or_prepared_again(resume):
    shutil.rmtree(resume.prepared)
    with pytest.raises(ConfigError, match=r"prepared data of the run is gone \(looked in .*Set data.source=FOLDER"):
        resume.place(source="standard_library")
    assert resume.place("source") == resume.prepared
    shutil.rmtree(resume.prepared)
    (resume.source / "0000.txt").write_text("changed")
    with pytest.raises(ConfigError, match="raw is other data than the run was trained on: manifest hash"):
        resume.place("source")


def test_examples_are_found_by_their_content_too(tmp_path):
    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    records = [{"prompt": f"what is {n}", "completion": "this"} for n in range(9)]
    source = write_lines(tmp_path / "records.jsonl", records)
    mine = examples(source, tmp_path / "prepared", tokenizer=str(tokenizer))
    place = prepared_folder(mine)
    folder = make(
        replace(parts(f"paths.logs={tmp_path}/logs", "name=mine"), data=mine),
        [],
        place,
        manifest := Manifest.read(place),
    )
    record_place(folder, place)

    def found(*given, **changes):
        resumed = replace(parts(f"paths.logs={tmp_path}/logs"), data=replace(mine, **changes), resume="mine")
        return data_of_run(
            resumed, folder, Checkpoint(folder, 5, {"manifest_hash": manifest.hash}, {}, {}, {}, ""), given
        )

    source.unlink()
    assert found() == found("source", "format", "tokenizer") == str(place)
    with pytest.raises(ConfigError, match=r"data.format: was 'conversations', is now 'rated'"):
        found("format", format="rated")
    shutil.rmtree(place)
    write_lines(source, records)
    assert Manifest.read(found("source")).hash == manifest.hash
    assert sorted(path.name for path in (folder / "tokenizer").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_every_setting_is_either_of_the_preparation_or_of_the_reading():
    known = {*asdict(config("x", "y")), *fields_of(ExamplesConfig)}
    assert {"source", "root", "tokenizer", "selection"} <= run_data.PREPARATION < known
    assert not {"seq_len", "shuffle", "mixture"} & run_data.PREPARATION
