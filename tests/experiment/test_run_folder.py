"""Run folders: their names, their config, and what may differ when a run goes on."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from litespark.callbacks import checkpoint_folder
from litespark.data.contents import PreparedData
from litespark.experiment import run_folder
from litespark.experiment.run_folder import differences
from litespark.experiment.targets import ConfigError
from tests.data.prepared_manifest import manifest
from tests.experiment.composed import parts


@pytest.fixture
def logs(tmp_path):
    return f"paths.logs={tmp_path}/logs"


def checkpoint(folder: Path, step: int, *overrides: str) -> Path:
    """A sealed checkpoint of a run with these overrides, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = checkpoint_folder.begin(folder / "checkpoints", step, 0)
    torch.save({"step": step}, unfinished / checkpoint_folder.STATE)
    return checkpoint_folder.seal(unfinished, step, {"model": asdict(parts(*overrides).model)})


def test_a_run_gets_a_folder_with_its_resolved_config(logs, tmp_path):
    made = parts(logs, "name=mine", "optim.lr=0.5")
    folder = run_folder.make(made, [])
    assert folder == tmp_path / "logs" / "runs" / "mine"
    assert yaml.safe_load((folder / run_folder.CONFIG).read_text()) == made.resolved


def test_a_run_keeps_what_the_manifest_of_its_data_says(logs):
    made = manifest()
    folder = run_folder.make(parts(logs, "name=mine"), [], manifest=made)
    kept = PreparedData.read(folder)
    assert (kept.manifest_hash, kept.left_out[0].rule) == (made.hash, "selection/gopher_quality/symbols")


def test_a_name_is_used_once(logs):
    checkpoint(run_folder.make(parts(logs, "name=mine"), []), 5)
    with pytest.raises(ConfigError, match=r"name=mine: .* exists already; choose another name, or continue .* resume="):
        run_folder.make(parts(logs, "name=mine"), [])


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "/abs", "x" * 201])
def test_a_name_is_no_path(logs, name):
    with pytest.raises(ConfigError, match="expected a plain folder name"):
        run_folder.make(parts(logs, f"name={name}"), [])


def test_runs_of_the_same_second_do_not_share_a_folder(logs):
    folders = {run_folder.make(parts(logs), ["optim.lr=1"]) for _ in range(3)}
    assert len(folders) == 3


def test_a_run_without_a_name_is_called_after_its_overrides(logs):
    folder = run_folder.make(parts(logs), ["optim.lr=0.1", "paths.logs=/x/y", "data.source=/some/where", "seed=3"])
    assert folder.name.endswith("_optim.lr-0.1_seed-3")
    assert run_folder.make(parts(logs), ["x=" + "long/" * 100]).name.count("/") == 0


def test_a_name_made_of_overrides_needs_no_quotes_in_resume(logs):
    folder = run_folder.make(parts(logs), ["optim.lr=0.1", "optim.betas=[0.9,0.95]", "callbacks.sample_prompt='a b'"])
    assert parts(logs, f"resume={folder}").resume == str(folder)


def test_a_run_is_reopened_at_its_newest_checkpoint(logs):
    folder = run_folder.make(parts(logs, "name=mine"), [])
    first, second = checkpoint(folder, 5), checkpoint(folder, 10)
    assert run_folder.reopen(parts(logs, f"resume={folder}")) == (folder, checkpoint_folder.read(second))
    reopened, found = run_folder.reopen(parts(logs, f"resume={first}"))
    assert (reopened, found.step) == (folder, 5)


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.num_layers=2", "model.num_layers: was 4, is now 2"),
        ("data.seq_len=64", "data.seq_len: was 256, is now 64"),
        ("seed=9", "seed: was 1234, is now 9"),
        ("initial_weights=x", "initial_weights: was None, is now 'x'"),
        ("data.synthetic_sequences=7", "data.synthetic_sequences"),
        ("data.mixture_temperature=2", "data.mixture_temperature: was 1.0, is now 2"),
        ("optim=muon", "optim.kind: was 'adamw', is now 'muon'"),
    ],
)
def test_what_makes_it_another_run_is_refused_on_resume(logs, override, key):
    folder = run_folder.make(parts(logs, "name=mine"), [])
    checkpoint(folder, 5)
    with pytest.raises(ConfigError, match=f"(?s)differs from the one.*{key}.*give the same overrides again"):
        run_folder.reopen(parts(logs, f"resume={folder}", override))


@pytest.mark.parametrize(
    "override",
    [
        *("data.workers=2", "data.micro_batch_size=4", "data.cache=elsewhere", "data.cache_bytes=5"),
        *("optim.lr=0.1", "budget.tokens=5000", "trainer.log_every=3"),
    ],
)
def test_the_rest_may_change_and_is_said(logs, override, caplog):
    folder = run_folder.make(parts(logs, "name=mine"), [])
    checkpoint(folder, 5)
    run_folder.reopen(parts(logs, f"resume={folder}", override))
    assert f"resuming with {override.split('=')[0]}=" in caplog.text


def test_what_differs_is_said_by_one_rank(logs, monkeypatch, caplog):
    folder = run_folder.make(parts(logs, "name=a"), [])
    checkpoint(folder, 5)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    run_folder.reopen(parts(logs, f"resume={folder}", "trainer.log_every=3"))
    assert not caplog.text


def test_a_moved_run_goes_on_where_it_lies_now(logs, tmp_path, caplog):
    folder = run_folder.make(parts(logs, "name=mine"), [])
    checkpoint(folder, 5)
    moved = folder.rename(tmp_path / "elsewhere")
    assert run_folder.reopen(parts(f"paths.logs={tmp_path}/new", f"resume={moved}"))[0] == moved
    assert not caplog.text


def test_a_checkpoint_of_another_model_is_not_taken_for_the_runs(logs):
    folder = run_folder.make(parts(logs, "name=mine"), [])
    checkpoint(folder, 5, "model.num_layers=3")
    with pytest.raises(
        ConfigError, match=r"the checkpoint of another model .*model.num_layers is 3, expected 4. Remove it"
    ):
        run_folder.reopen(parts(logs, f"resume={folder}"))


def test_a_folder_without_a_config_is_no_run(tmp_path, logs):
    checkpoint(tmp_path / "stray", 5)
    with pytest.raises(ConfigError, match=r"has no config.yaml; expected the folder of a run"):
        run_folder.reopen(parts(logs, f"resume={tmp_path / 'stray'}"))


def test_differences_are_of_leaves_and_pass_over_names_and_places():
    old = {"a": {"b": 1, "c": [1]}, "name": "x", "paths": {"logs": "here"}, "resume": None, "gone": 1}
    new = {"a": {"b": 2, "c": [1]}, "name": "y", "paths": {"logs": "there"}, "resume": "z", "come": {}}
    assert differences(old, new) == {"a.b": (1, 2), "gone": (1, None), "come": (None, {})}


@pytest.mark.parametrize(("was", "now"), [("single", "fsdp"), ("fsdp", "ddp")])
def test_a_resume_does_not_change_to_or_from_sharded_optimizer_states(logs, was, now):
    folder = run_folder.make(parts(logs, "name=mine", f"strategy={was}"), [])
    checkpoint(folder, 5)
    with pytest.raises(ConfigError, match=rf"got strategy.name={now}, expected {was} .* Set strategy={was}"):
        run_folder.reopen(parts(logs, f"resume={folder}", f"strategy={now}"))


def test_a_folder_in_which_nothing_was_trained_does_not_stand_in_the_way(logs, tmp_path):
    folder = run_folder.make(parts(logs, "name=mine", "seed=1"), [])
    for name in ("run.json", "metrics.jsonl", "events.out.tfevents.1"):
        (folder / name).touch()
    (folder / "checkpoints" / ".unfinished").mkdir(parents=True)
    made = parts(logs, "name=mine", "seed=2")
    assert run_folder.make(made, []) == folder
    assert [path.name for path in folder.iterdir()] == [run_folder.CONFIG]
    assert yaml.safe_load((folder / run_folder.CONFIG).read_text())["seed"] == 2


@pytest.mark.parametrize(
    ("kept", "advice"),
    [
        ("metrics.jsonl", "or remove it; it has no checkpoint to continue from"),
        ("notes.txt", "or remove it; it has no checkpoint to continue from"),
        ("checkpoints/step-00000002/seal.json", "or continue that run with resume="),
    ],
)
def test_a_folder_with_anything_worth_keeping_does(logs, kept, advice):
    folder = run_folder.make(parts(logs, "name=mine"), [])
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    (folder / kept).write_text("{}")
    with pytest.raises(ConfigError, match=f"exists already; choose another name, {advice}"):
        run_folder.make(parts(logs, "name=mine"), [])
    assert (folder / kept).read_text() == "{}"


def test_a_folder_that_another_process_writes_is_not_cleared(logs, tmp_path):
    folder = run_folder.make(parts(logs, "name=mine"), [])

    def hold(_: Path) -> None:
        raise ConfigError("is being written")

    with pytest.raises(ConfigError, match="is being written"):
        run_folder.make(parts(logs, "name=mine"), [], hold=hold)
    assert (folder / run_folder.CONFIG).exists()


@pytest.mark.parametrize("given", ["a", "a/", "a/checkpoints", "a/checkpoints/step-00000005"])
def test_a_resume_names_a_run_its_checkpoints_or_one_of_them(given):
    assert run_folder.folder_of(given) == Path("a").absolute()
