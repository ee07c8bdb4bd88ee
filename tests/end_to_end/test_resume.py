"""A run that was killed and resumed ends bit for bit as if nothing had happened, across the ends of epochs.

40 training sequences and 8 a step: an epoch ends every five steps, so every stretch between checkpoints crosses one.
"""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.end_to_end import runs
from tests.end_to_end.runs import (
    assert_bit_equal,
    final_state,
    metrics,
    train,
    train_and_kill,
    train_apart,
    train_on_ranks,
    train_ranks_and_kill,
)

STEPS = 32
EVERY = 4
OVERRIDES = [*runs.TINY, "data.training_sequences=40", f"budget.steps={STEPS}", f"callbacks.checkpoint_every={EVERY}",
             "callbacks.checkpoint_keep=20", "trainer.validate_every=6"]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    runs.write_text(folder / "text")
    return folder


def overrides(place: Path, *more: str) -> list[str]:
    return [*OVERRIDES, f"data.source={place}/text", f"paths.data={place}/data", f"paths.logs={place}/logs", *more]


@pytest.fixture(scope="module")
def undisturbed(place: Path) -> Path:
    train(*overrides(place, "name=undisturbed"))
    return place / "logs/runs/undisturbed"


@pytest.fixture(scope="module")
def undisturbed_fsdp(place: Path) -> Path:
    train_on_ranks(*overrides(place, "name=undisturbed-fsdp", "strategy=fsdp"))
    return place / "logs/runs/undisturbed-fsdp"


def kill(place: Path, strategy: str, processes: int) -> Path:
    folder = place / f"logs/runs/killed-{strategy}"
    given = overrides(place, f"name={folder.name}", f"strategy={strategy}")
    if processes == 1:
        train_and_kill(folder, 2 * EVERY, *given)
    else:
        train_ranks_and_kill(folder, 2 * EVERY, *given, processes=processes)
    before = sorted(p.name for p in (folder / "checkpoints").glob("step-*"))
    assert len(before) < STEPS // EVERY, "the run was over before it was killed"
    return folder


@pytest.fixture(scope="module")
def killed(place: Path) -> Path:
    """What a run of one process leaves that is killed in its midst."""
    return kill(place, "single", 1)


def test_killed_and_resumed_run_is_bit_equal(place: Path, undisturbed: Path, killed: Path):
    folder = shutil.copytree(killed, killed.with_name("continued"))
    train(*overrides(place, f"resume={folder}"))
    assert_same(folder, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_killed_and_resumed_run_of_two_processes_is_bit_equal(
    request: pytest.FixtureRequest, place: Path, strategy: str
):
    # sharded sums round differently, so that run has a reference of its own
    reference = request.getfixturevalue("undisturbed_fsdp" if strategy == "fsdp" else "undisturbed")
    folder = kill(place, strategy, 2)
    train_apart(*overrides(place, f"resume={folder}", f"strategy={strategy}"), processes=2)
    assert_same(folder, reference)


def assert_same(folder: Path, reference: Path) -> None:
    """A run that was killed and resumed ended as the one that was not."""
    ended, expected = final_state(folder, STEPS), final_state(reference, STEPS)
    for part in ("state_dict", "optimizer_states", "TokenDataModule"):
        assert_bit_equal(ended[part], expected[part], part)
    for counter in ("tokens_seen", "steps_taken", "skipped_steps"):
        assert ended["litespark"][counter] == expected["litespark"][counter]
    # of rank 0: the reference of two processes is the run of one
    assert_bit_equal(ended["litespark"]["random"][0], expected["litespark"]["random"][0], "random")
    # the metrics read as if nothing had happened, too
    for key in ("train/loss", "validation/loss", "progress/tokens"):
        assert metrics(folder, key) == metrics(reference, key), key
    segments = json.loads((folder / "run.json").read_text())["segments"]
    assert [segment["reason"] for segment in segments] == ["start", "resume"]
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"


def test_two_sharded_processes_follow_the_loss_of_one(place: Path, undisturbed: Path, undisturbed_fsdp: Path):
    """FSDP2."""
    for key in ("train/loss", "validation/loss", "validation/bits_per_byte"):
        one, two = metrics(undisturbed, key), metrics(undisturbed_fsdp, key)
        assert len(one) == len(two) > 0
        assert two == pytest.approx(one, rel=1e-5), key
    assert metrics(undisturbed_fsdp, "progress/tokens") == metrics(undisturbed, "progress/tokens")
    assert json.loads((undisturbed_fsdp / "run.json").read_text())["provenance"]["environment"]["world_size"] == 2
    # one run, one folder: the second process leaves nothing of its own
    assert [p.name for p in (place / "logs/runs").iterdir() if "fsdp" in p.name and "killed" not in p.name] == [
        undisturbed_fsdp.name
    ]


def test_resume_on_two_processes_continues_a_run_of_one(place: Path, undisturbed: Path, killed: Path):
    """Another number of processes and another micro-batch: the same sequences in the same order, the same loss."""
    folder = shutil.copytree(killed, killed.with_name("grown"))
    train_on_ranks(*overrides(place, f"resume={folder}", "strategy=ddp", "data.micro_batch_size=2"))
    assert metrics(folder, "train/loss") == pytest.approx(metrics(undisturbed, "train/loss"), rel=1e-5)
    assert final_state(folder, STEPS)["TokenDataModule"] == final_state(undisturbed, STEPS)["TokenDataModule"]
    first, second = json.loads((folder / "run.json").read_text())["segments"]
    assert (first["world_size"], second["world_size"]) == (1, 2)
    assert "strategy=ddp" in second["command"]
    (continued,) = folder.glob("config-from-step-*.yaml")
    assert yaml.safe_load(continued.read_text())["data"]["micro_batch_size"] == 2
    assert yaml.safe_load((folder / "config.yaml").read_text())["data"]["micro_batch_size"] == 4
