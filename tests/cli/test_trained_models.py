"""A trained run read back: export, generation, and everything that is refused on the way."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from litespark.cli import main
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.folder import SEAL
from litespark.run.load import load_trained
from litespark.run.model_folder import ModelFolder
from litespark.training.checkpoint.folder import CheckpointError
from litespark.training.checkpoint.pieces import StoredTensor
from tests.checkpoints import FILE, reseal, state_in
from tests.cli.tiny_run import tiny

STEP = "checkpoints/step-00000004"


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def test_the_newest_checkpoint_is_loaded_with_its_weights_and_tokenizer(run):
    model, tokenizer, checkpoint = load_trained(run)
    assert checkpoint.step == 4
    state = state_in(run / STEP)["state_dict"]
    weights = {f"model.{name}": weight for name, weight in model.named_parameters()}
    assert set(weights) == set(state)
    assert all(torch.equal(weight, state[name]) for name, weight in weights.items())
    assert tokenizer == run / "tokenizer"
    earlier = load_trained(run / "checkpoints" / "step-00000002")
    assert earlier.checkpoint.step == 2
    assert not torch.equal(earlier.model.head_weight, model.head_weight)


def test_a_run_that_starts_from_another_reads_its_weights_where_they_lie(run, monkeypatch):
    expected = load_trained(run).model.state_dict()
    found = ModelFolder.find(run)
    monkeypatch.setattr(ModelFolder, "read", None)
    monkeypatch.setattr(
        StoredTensor, "whole", lambda stored: torch.empty(stored.shape) if "rest" in stored.name else 1 / 0
    )
    model = found.spec.build(resolve(OpsConfig()), "none")
    found.fill(model)
    assert all(torch.equal(weight, expected[name]) for name, weight in model.state_dict().items())


def test_generation_is_the_same_from_a_run_and_from_its_export(run, tmp_path, capsys):
    main(["export", str(run), str(tmp_path / "hf")])
    capsys.readouterr()
    said = {}
    for seed in (1, 2):
        for path in (run, run / STEP, tmp_path / "hf"):
            assert main(["generate", str(path), "--prompt", "the quick", "--tokens", "12", "--seed", str(seed)]) == 0
            said[seed, path] = capsys.readouterr().out
        assert len({text for (used, _), text in said.items() if used == seed}) == 1
    assert said[1, run] != said[2, run]


def test_a_run_in_fp8_is_exported_and_generates_from_its_weights(tmp_path, capsys):
    settings = ("precision=fp8", "precision.fp8.simulate=true", "name=fp8", "callbacks.sample_prompt=the quick")
    assert main(["train", *tiny(tmp_path), *settings]) == 0
    run = tmp_path / "logs" / "runs" / "fp8"
    state = state_in(run / STEP)
    assert "fp8" in state["litespark"]
    model, _, _ = load_trained(run)
    assert model.fp8 is None
    assert all(torch.equal(each, state["state_dict"][f"model.{name}"]) for name, each in model.named_parameters())
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    said = []
    for path in (run, tmp_path / "hf"):
        capsys.readouterr()
        assert main(["generate", str(path), "--prompt", "the quick", "--tokens", "8"]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] != ""


def test_export_and_generation_refuse_what_does_not_fit(run, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for words, complaint in (
        (["export", str(run), str(tmp_path)], "not empty"),
        (["generate", str(run.parent), "--prompt", "the"], f"{run.parent} is no run, but a folder with 2 (newest"),
        (["generate", str(run), "--prompt", "the", "--tokens", "5000"], "max_seq_len"),
        (["generate", str(tmp_path / "absent"), "--prompt", "the"], "does not exist"),
        (["generate", str(run), "--prompt", "ab\udcff"], "is not UTF-8 at character 2"),
    ):
        assert main(words) == 1
        assert complaint in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_prompts_are_utf_8_whatever_the_locale(run, capsys):
    said = set()
    for prompt in ("é", os.fsencode("é").decode("ascii", "surrogateescape")):  # as a locale without letters has it
        assert main(["generate", str(run), "--prompt", prompt, "--tokens", "5"]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1


def test_a_missing_or_changed_tokenizer_is_named(copied, tmp_path):
    alone = shutil.copytree(copied / STEP, tmp_path / "x" / "y" / "step-00000004")
    file = copied / "tokenizer" / "tokenizer.json"
    other = json.loads(file.read_text())
    other["model"]["merges"].pop()
    file.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="another tokenizer"):
        load_trained(copied)
    shutil.rmtree(copied / "tokenizer")
    with pytest.raises(ValueError, match=r"has no tokenizer.*put it back"):
        load_trained(copied)
    # a checkpoint outside of its run
    with pytest.raises(ValueError, match=r"tokenizer is missing"):
        load_trained(alone)


def test_a_run_on_synthetic_data_has_no_tokenizer(tmp_path):
    overrides = [each for each in tiny(tmp_path, name="made-up") if not each.startswith("data.source")]
    assert main(["train", "data=synthetic", *overrides]) == 0
    with pytest.raises(ValueError, match="no tokenizer"):
        load_trained(tmp_path / "logs/runs/made-up")


def test_a_pickle_that_runs_code_is_refused_even_with_a_sound_seal(copied, tmp_path):
    payload = type("Payload", (), {"__reduce__": lambda self: (os.mkdir, (str(tmp_path / "hacked"),))})
    torch.save({"state_dict": payload()}, copied / STEP / FILE)
    reseal(copied / STEP)
    with pytest.raises(CheckpointError, match=rf"{FILE} is not read"):
        load_trained(copied / STEP)
    assert not (tmp_path / "hacked").exists()


def test_targets_in_the_files_of_a_run_are_never_called(copied, tmp_path):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["model"] = {"_target_": "os.mkdir", "path": str(tmp_path / "hacked")}
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_trained(copied).checkpoint.step == 4  # sizes come from the seal
    reseal(copied / STEP, model={"_target_": "os.mkdir", "path": str(tmp_path / "hacked")})
    with pytest.raises(CheckpointError, match=r"model\._target_: got the target 'os\.mkdir', expected"):
        load_trained(copied / STEP)
    assert not (tmp_path / "hacked").exists()


def test_sizes_that_are_not_those_of_the_weights_are_refused(copied):
    sizes = json.loads((copied / STEP / SEAL).read_text())["about"]["model"]
    for changes, complaint in (
        ({"hidden_size": 64}, "expected"),
        ({"num_layers": 2}, "absent"),
        ({"num_heads": 3, "num_kv_heads": 2}, "describes no model of this version"),
        ({"rope_scaling": {"factor": 2.0}}, r"rope_scaling\.low_frequency_factor: got nothing"),
    ):
        reseal(copied / STEP, model={**sizes, **changes})
        with pytest.raises(CheckpointError, match=complaint):
            load_trained(copied / STEP)
