"""The folders of new runs: their names, and what is in them from the start."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from litespark.data.contents import PreparedData
from litespark.run.folder import CONFIG
from litespark.run.new_run import make
from litespark.run.targets import ConfigError
from tests.data.prepared_manifest import manifest
from tests.run.composed import parts


def test_a_run_gets_a_folder_with_its_resolved_config_and_what_its_manifest_says(logs, tmp_path):
    made, data = parts(logs, "name=mine", "optim.lr=0.5"), manifest()
    folder = make(made, [], manifest=data)
    assert folder == tmp_path / "logs" / "runs" / "mine"
    assert yaml.safe_load((folder / CONFIG).read_text()) == made.resolved
    kept = PreparedData.read(folder)
    assert (kept.manifest_hash, kept.left_out[0].rule) == (data.hash, "selection/gopher_quality/symbols")


def test_a_run_without_a_name_is_called_after_its_overrides_and_needs_no_quotes_in_resume(logs):
    said = ["optim.lr=0.1", "optim.betas=[0.9,0.95]", "callbacks.sample_prompt='a b'", "paths.logs=/x", "x=/y"]
    folder = make(parts(logs), said)
    assert folder.name.endswith("_optim.lr-0.1_optim.betas-0.9-0.95-_callbacks.sample_prompt-a-b-_x-y")
    assert parts(logs, f"resume={folder}").resume == str(folder)
    # another of the same second
    assert make(parts(logs), said) != folder


def test_a_folder_in_which_nothing_was_trained_is_used_again(logs):
    folder = make(parts(logs, "name=mine", "seed=1"), [])
    (folder / "run.json").touch()
    made = parts(logs, "name=mine", "seed=2")
    assert make(made, []) == folder
    assert [path.name for path in folder.iterdir()] == [CONFIG]
    assert yaml.safe_load((folder / CONFIG).read_text())["seed"] == 2


@pytest.mark.parametrize(
    ("kept", "advice"),
    [("notes.txt", "or remove it"), ("checkpoints/step-00000002/seal.json", "or continue that run with resume=")],
)
def test_a_folder_with_anything_worth_keeping_is_not(logs, kept, advice):
    folder = make(parts(logs, "name=mine"), [])
    (folder / kept).parent.mkdir(parents=True, exist_ok=True)
    (folder / kept).write_text("{}")
    with pytest.raises(ConfigError, match=f"name=mine: .*exists already; choose another name, {advice}"):
        make(parts(logs, "name=mine"), [])
    assert (folder / kept).read_text() == "{}"


def test_a_folder_that_another_process_writes_is_not_cleared(logs):
    folder = make(parts(logs, "name=mine"), [])

    def hold(_: Path) -> None:
        raise ConfigError("is being written")

    with pytest.raises(ConfigError, match="is being written"):
        make(parts(logs, "name=mine"), [], hold=hold)
    assert (folder / CONFIG).exists()
