"""The names in the folder of a run, and what is told from them."""

from pathlib import Path

import pytest

from litespark.run.folder import METRICS, RECORD, nothing_trained, run_of


@pytest.mark.parametrize("given", ["a", "a/", "a/checkpoints", "a/checkpoints/step-00000005"])
def test_a_run_is_named_by_itself_its_checkpoints_or_one_of_them(given):
    assert run_of(given) == Path("a").absolute()


def test_a_link_to_a_run_and_a_checkpoint_that_was_moved_lead_to_it(tmp_path):
    run = tmp_path / "run"
    (run / "saved" / "step-1").mkdir(parents=True)
    (run / "saved" / "step-1" / "checkpoint.json").touch()
    (tmp_path / "latest").symlink_to(run)
    assert run_of(tmp_path / "latest") == run_of(run / "saved" / "step-1") == run


@pytest.mark.parametrize(
    ("kept", "nothing"),
    [
        (RECORD, True),
        ("events.out.tfevents.1", True),
        ("checkpoints/.unfinished-00000002/rank-00000.safetensors", True),
        ("checkpoints/step-00000002/checkpoint.json", False),
        (METRICS, False),
        ("notes.txt", False),
    ],
)
def test_what_a_run_writes_before_its_first_step_is_nothing_trained(tmp_path, kept, nothing):
    (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / kept).write_text("{}")
    assert nothing_trained(tmp_path) is nothing
