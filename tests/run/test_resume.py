"""Which checkpoint a resume continues from, and what may differ from how its run was started."""

from __future__ import annotations

import pytest
import torch

from litespark.run.folder import CONFIG
from litespark.run.new_run import make
from litespark.run.resume import to_continue
from litespark.run.targets import ConfigError
from tests.checkpoints import written
from tests.run.composed import parts


def checkpoint(folder, step, *overrides):
    """A checkpoint of a run with these overrides, without weights."""
    about = {"model": parts(*overrides).resolved["model"]}
    return written(folder / "checkpoints", step, about, number=torch.tensor(step))


@pytest.fixture
def run(logs):
    """The folder of a run with a checkpoint of step 5."""
    folder = make(parts(logs, "name=mine"), [])
    checkpoint(folder, 5)
    return folder


def test_a_run_goes_on_at_its_newest_checkpoint_or_the_one_that_is_named_wherever_it_lies_now(run, tmp_path, caplog):
    checkpoint(run, 10)
    moved = run.rename(tmp_path / "elsewhere")
    logs = f"paths.logs={tmp_path}/new"
    assert to_continue(parts(logs, f"resume={moved}")).step == 10
    assert to_continue(parts(logs, f"resume={moved}/checkpoints/step-00000005")).step == 5
    assert not caplog.text


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.num_layers=2", "model.num_layers: was 4, is now 2"),
        ("data.seq_len=64", "data.seq_len: was 256, is now 64"),
        ("seed=9", "seed: was 1234, is now 9"),
        ("data.synthetic_sequences=7", "data.synthetic_sequences"),
        ("optim=muon", "optim.kind: was 'adamw', is now 'muon'"),
    ],
)
def test_what_makes_it_another_run_is_refused(logs, run, override, key):
    with pytest.raises(ConfigError, match=f"(?s)differs from the one.*{key}.*give the same overrides again"):
        to_continue(parts(logs, f"resume={run}", override))


def test_a_run_from_before_a_setting_goes_on_where_it_is_left_as_it_is(logs, run, caplog):
    config = run / CONFIG
    with_it, line, group = config.read_text(), "  mlp_bias: false\n", "adapter:\n  kind: none\n"
    assert line in with_it
    assert group in with_it
    config.write_text(with_it.replace(line, "").replace(group, ""))
    assert to_continue(parts(logs, f"resume={run}")).step == 5
    assert "resuming with" not in caplog.text
    with pytest.raises(ConfigError, match=r"model\.mlp_bias: was None, is now True"):
        to_continue(parts(logs, f"resume={run}", "model.mlp_bias=true"))


@pytest.mark.parametrize("override", [*("data.micro_batch_size=4", "optim.lr=0.1", "budget.tokens=5000")])
def test_the_rest_may_change_and_is_said(logs, run, override, caplog):
    to_continue(parts(logs, f"resume={run}", override))
    assert f"resuming with {override.split('=')[0]}=" in caplog.text


def test_a_run_that_was_not_in_fp8_goes_on_in_any_recipe(logs):
    folder = make(parts(logs, "precision=fp32"), [])
    checkpoint(folder, 5)
    in_fp8 = ("precision=fp8", "precision.fp8.simulate=true", "precision.fp8.recipe=tensorwise")
    assert to_continue(parts(logs, *in_fp8, f"resume={folder}")).step == 5


def test_a_checkpoint_of_another_model_is_not_taken_for_the_runs(logs, run):
    checkpoint(run, 6, "model.num_layers=3")
    with pytest.raises(ConfigError, match=r"another model .*model.num_layers is 3, expected 4. Remove it"):
        to_continue(parts(logs, f"resume={run}"))


def test_a_folder_without_a_config_is_no_run(tmp_path, logs):
    (tmp_path / "stray").mkdir()
    checkpoint(tmp_path / "stray", 5)
    with pytest.raises(ConfigError, match=r"has no config.yaml; expected the folder of a run"):
        to_continue(parts(logs, f"resume={tmp_path / 'stray'}"))
