"""A checkpoint on disk is valid or does not count, whatever happens while it is written."""

import json
import logging
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch

from litespark import atomic
from litespark.mesh import Mesh
from litespark.run.folder import SEAL
from litespark.training.checkpoint import files
from litespark.training.checkpoint import state as checkpoint_state
from litespark.training.checkpoint.folder import CheckpointError, begin, find, finished, read
from litespark.training.checkpoint.keep import Keep, prune
from tests.checkpoints import FILE, state_in


def state_of(value):
    return {"state_dict": {"x": torch.full((9,), value)}, "optimizer_states": [{"state": {}}], "value": value}


def write(root, step, value=1.5, about=None, keep=99):
    return checkpoint_state.write(Mesh(), root, step, state_of(value), about or {"run": "a"}, Keep(keep))


def value_of(path):
    state = state_in(path)
    assert torch.equal(state["state_dict"]["x"], torch.full((9,), state["value"]))
    return state["value"]


@pytest.fixture
def root(tmp_path):
    """A run's checkpoint folder with steps 1, 2 and 3."""
    folder = tmp_path / "run" / "checkpoints"
    folder.parent.mkdir()
    for step in (1, 2, 3):
        write(folder, step)
    return folder


def test_what_was_sealed_is_read_back(tmp_path):
    folder = write(tmp_path, 12, about={"run": "mine", "tokens": 5})
    checkpoint = read(folder)
    assert folder.name == "step-00000012"
    assert (checkpoint.step, checkpoint.about) == (12, {"run": "mine", "tokens": 5})
    assert value_of(folder) == 1.5


def test_find_takes_a_run_its_checkpoints_or_one_of_them(root):
    for path in (root.parent, root, root / "step-00000003", str(root.parent)):
        assert find(path).step == 3
    assert find(root / "step-00000001").step == 1


def test_the_same_step_can_be_saved_again(root):
    write(root, 3, 2.5)
    assert value_of(root) == 2.5
    assert not list(root.glob(".*"))


def flip(folder):
    content = bytearray((folder / FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / FILE).write_bytes(content)


def truncate(folder):
    os.truncate(folder / FILE, 20)


def edit(**changes):
    def change(folder):
        content = json.loads((folder / SEAL).read_text()) | changes
        (folder / SEAL).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


DAMAGE = {
    "flipped": (flip, rf"{FILE} was changed since it was written"),
    "truncated": (truncate, rf"{FILE} has 20 bytes, expected [0-9]+; this checkpoint is damaged"),
    "missing file": (lambda folder: (folder / FILE).unlink(), rf"{FILE} is missing"),
    "no seal": (lambda folder: (folder / SEAL).unlink(), "is not a checkpoint of this project: it has no"),
    "half a seal": (lambda folder: (folder / SEAL).write_text('{"schema": "lite'), r"damaged, .*\(JSON: Invalid JSON"),
    "other schema": (
        edit(schema="litespark.checkpoint/1", files=None),
        r"than .*/2 \(schema: .*kpoint/1",
    ),
    "seal without files": (edit(files=None), r"checkpoint\.json is damaged.*files: Field required"),
    "another step in the seal": (edit(step=7), r"checkpoint\.json was changed since it was written"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_refused_by_name_and_the_one_before_is_found(root, name, caplog):
    damage, message = DAMAGE[name]
    newest = root / "step-00000003"
    damage(newest)
    with pytest.raises(CheckpointError, match=message) as error:
        read(newest)
    assert str(newest) in str(error.value)
    with pytest.raises(CheckpointError, match=message):
        find(newest)
    with caplog.at_level(logging.WARNING):
        assert find(root.parent).step == 2
    assert "passing over a checkpoint" in caplog.text
    assert "step-00000003" in caplog.text


def test_nothing_valid_is_an_error(root):
    for folder in finished(root):
        flip(folder)
    with pytest.raises(CheckpointError, match="no valid checkpoint in"):
        find(root.parent)


def test_a_state_is_hashed_while_it_is_written(tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(files, "content_hash", None)
        written = write(tmp_path, 1)
    assert value_of(written) == 1.5


def test_addresses_single_files_and_missing_folders_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="got the address s3://bucket/run, expected a local folder"):
        find("s3://bucket/run")
    pickled = tmp_path / "model.ckpt"
    pickled.write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="pickles that could run code, and are not read"):
        find(pickled)
    with pytest.raises(CheckpointError, match="does not exist; expected a run folder"):
        find(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no valid checkpoint"):
        find(tmp_path)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoints in .*model\.ckpt \("):
        begin(pickled, 1, 0)


def test_the_newest_are_kept_and_what_is_unfinished_does_not_count_and_is_removed(root):
    left = begin(root, 9, 0)
    (left / FILE).write_bytes(b"half")
    assert find(root.parent).step == 3
    prune(root, 3, Keep(2))
    assert not left.exists()
    assert [folder.name for folder in finished(root)] == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_that_went_back_keeps_its_new_checkpoints_not_the_later_old_ones(root, keep):
    flip(root / "step-00000003")
    write(root, 30)  # of the branch that is left
    assert find(root / "step-00000001").step == 1
    write(root, 2, 2.5)
    prune(root, 2, Keep(keep))
    assert [folder.name for folder in finished(root)] == ["step-00000001", "step-00000002"][-keep:]
    assert value_of(root) == 2.5


def write_and_die(root, moment):
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "write":
        os.fsync = die
    if moment == "seal":
        os.fsync = lambda descriptor: die() if list(root.glob(f".*/{SEAL}")) else None
    if moment == "rename":
        Path.replace = die
    write(root, 3)
    die()


@pytest.mark.parametrize("moment, found", [("write", 2), ("seal", 2), ("rename", 2), ("after", 3)])
def test_kill_9_at_any_moment_leaves_a_valid_checkpoint(tmp_path, moment, found):
    for step in (1, 2):
        write(tmp_path, step)
    writer = multiprocessing.get_context("fork").Process(target=write_and_die, args=(tmp_path, moment))
    writer.start()
    writer.join(60)
    assert writer.exitcode == -signal.SIGKILL
    assert find(tmp_path).step == found
    write(tmp_path, 3)
    prune(tmp_path, 3, Keep(3))
    assert find(tmp_path).step == 3
    assert not list(tmp_path.glob(".*"))


def test_the_seal_is_flushed_before_the_rename(tmp_path, monkeypatch):
    events = []
    monkeypatch.setattr(atomic, "_flush", lambda path: events.append(path.name))
    rename = type(tmp_path).replace
    monkeypatch.setattr(type(tmp_path), "replace", lambda self, to: (events.append("rename"), rename(self, to))[1])
    write(tmp_path, 1)
    assert events[-2] == "rename"
    assert {FILE, SEAL, ".unfinished-00000001"} <= set(events[:-2])
    assert events[-1] == tmp_path.name


def test_a_checkpoint_is_saved_where_the_old_ones_cannot_be_removed(tmp_path, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "not allowed", str(path))

    write(tmp_path, 1)
    monkeypatch.setattr(shutil, "rmtree", refuse)
    assert write(tmp_path, 2, keep=1).name == "step-00000002"
    assert "the checkpoint of step 2 is saved; older ones are still in" in caplog.text


@pytest.mark.parametrize("highest, best", [(False, 4), (True, 3)])
def test_those_at_multiples_and_the_best_by_a_metric_are_kept_too(tmp_path, highest, best):
    losses = {1: 2.0, 2: 1.5, 3: 3.0, 4: 0.5, 5: 0.5, 7: None}
    keep = Keep(1, every=5, metric="loss", highest=highest)
    for step in range(1, 8):
        about = {} if losses.get(step) is None else {"validation": {"loss": losses[step], "other": -step}}
        checkpoint_state.write(Mesh(), tmp_path, step, state_of(1.0), about, keep)
    assert [read(folder).step for folder in finished(tmp_path)] == [best, 5, 7]
    assert find(tmp_path / "best").step == best
    assert find(tmp_path).step == 7
    write(tmp_path, 2)  # it went back
    prune(tmp_path, 2, keep)
    assert [folder.name for folder in finished(tmp_path)] == ["step-00000002"]
