"""A file or a folder is there whole, or what was there before is, whatever happens while it is written."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from litespark import atomic
from litespark.atomic import write_whole, written_whole


def make(partial: Path, kind: str) -> None:
    """A file, or a folder with one file in a folder."""
    if kind == "folder":
        (partial / "deep").mkdir(parents=True)
        partial = partial / "deep" / "file"
    partial.write_text("new")


def content(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("kind", "files"), [("file", {"new": "new"}), ("folder", {"new/deep/file": "new"})])
def test_all_is_flushed_before_it_gets_its_name_and_the_name_after(tmp_path, monkeypatch, kind, files):
    events, rename, flush = [], Path.replace, atomic._flush
    monkeypatch.setattr(atomic, "_flush", lambda path: (events.append(path.name), flush(path)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append("rename"), rename(path, to)))
    with written_whole(tmp_path / "new") as partial:
        make(partial, kind)
    assert set(events[:-2]) == ({partial.name} if kind == "file" else {partial.name, "deep", "file"})
    assert events[-2:] == ["rename", tmp_path.name]
    assert content(tmp_path) == files


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch, kind):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_whole(tmp_path / "a" / "old", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"), written_whole(tmp_path / "a") as partial:
        make(partial, kind)
    assert content(tmp_path) == {"a/old": "old"}
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_folder_takes_the_place_of_an_empty_one_alone(tmp_path):
    (tmp_path / "a").mkdir()
    with written_whole(tmp_path / "a") as partial:
        make(partial, "folder")
    (tmp_path / "a" / "deep" / "file").write_text("old")
    with pytest.raises(OSError, match="not empty"), written_whole(tmp_path / "a") as partial:
        make(partial, "folder")
    assert content(tmp_path) == {"a/deep/file": "old"}


def write_and_die(path: Path, moment: str) -> None:
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "flush":
        os.fsync = die
    if moment == "rename":
        Path.replace = die
    with written_whole(path) as partial:
        partial.write_text("ne")
        if moment == "write":
            die()
        partial.write_text("new")
    die()


@pytest.mark.parametrize(("moment", "left"), [("write", "old"), ("flush", "old"), ("rename", "old"), ("after", "new")])
def test_kill_9_at_any_moment_leaves_the_old_file_or_the_new(tmp_path, moment, left):
    write_whole(tmp_path / "a", "old")
    writer = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path / "a", moment))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    assert (tmp_path / "a").read_text() == left
