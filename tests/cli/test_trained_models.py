"""A trained run read back: export, generation, and everything that is refused on the way."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from litespark.cli import main
from litespark.data.tokenizer import Tokenizer
from litespark.run.folder import SEAL
from litespark.run.load import load_trained
from litespark.training.checkpoint import folder as checkpoint_folder
from litespark.training.checkpoint.folder import CheckpointError
from tests.cli.tiny_run import tiny

STEP = "checkpoints/step-00000004"


@pytest.fixture
def copied(run, tmp_path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def reseal(checkpoint: Path, **about: object) -> None:
    """Seal a changed checkpoint as an attacker would: with hashes that are right."""
    seal = json.loads((checkpoint / SEAL).read_text())
    (checkpoint / SEAL).unlink()
    unfinished = checkpoint.rename(checkpoint.with_name("unfinished"))
    checkpoint_folder.seal(unfinished, seal["step"], {**seal["about"], **about})


def test_the_newest_checkpoint_is_loaded_with_its_weights_and_tokenizer(run):
    model, tokenizer, checkpoint = load_trained(run)
    assert checkpoint.step == 4
    state = torch.load(run / STEP / "state.ckpt", weights_only=True)["state_dict"]
    weights = dict(model.named_parameters())
    assert {f"model.{name}" for name in weights} == set(state)
    assert all(torch.equal(weight, state[f"model.{name}"]) for name, weight in weights.items())
    assert tokenizer == run / "tokenizer"
    earlier = load_trained(run / "checkpoints" / "step-00000002")
    assert earlier.checkpoint.step == 2
    assert not torch.equal(earlier.model.head_weight, model.head_weight)


def test_an_export_gives_the_same_logits_in_transformers(run, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    assert main(["export", str(run), str(tmp_path / "hf")]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model, folder, _ = load_trained(run)
    ids = tokenizer("the quick brown fox", add_special_tokens=False).input_ids
    ours = Tokenizer.load(folder)
    assert ids == ours.encode_batch(["the quick brown fox"])[0]
    assert tokenizer.eos_token_id == theirs.config.eos_token_id == ours.eos_id
    with torch.no_grad():
        a, b = model(torch.tensor([ids])), theirs(torch.tensor([ids])).logits
    assert float((a - b).norm() / b.norm()) < 1e-5


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
    state = torch.load(run / STEP / "state.ckpt", weights_only=True)
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
    assert main(["export", str(run), str(tmp_path)]) == 1
    assert "not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    assert main(["generate", str(run.parent), "--prompt", "the"]) == 1
    assert f"{run.parent} is no run, but a folder with 2 (newest first: " in capsys.readouterr().err
    assert main(["generate", str(run), "--prompt", "the", "--tokens", "5000"]) == 1
    assert "max_seq_len" in capsys.readouterr().err
    assert main(["generate", str(tmp_path / "absent"), "--prompt", "the"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_prompts_are_utf_8_whatever_the_locale(run, capsys):
    said = set()
    for prompt in ("é", os.fsencode("é").decode("ascii", "surrogateescape")):  # as a locale without letters has it
        assert main(["generate", str(run), "--prompt", prompt, "--tokens", "5"]) == 0
        said.add(capsys.readouterr().out)
    assert len(said) == 1
    assert main(["generate", str(run), "--prompt", "ab\udcff", "--tokens", "5"]) == 1
    assert "is not UTF-8 at character 2" in capsys.readouterr().err


def test_a_missing_or_changed_tokenizer_is_named(copied):
    file = copied / "tokenizer" / "tokenizer.json"
    other = json.loads(file.read_text())
    other["model"]["merges"].pop()
    file.write_text(json.dumps(other))
    with pytest.raises(ValueError, match="another tokenizer"):
        load_trained(copied)
    shutil.rmtree(copied / "tokenizer")
    with pytest.raises(ValueError, match=r"has no tokenizer.*put it back"):
        load_trained(copied)


def test_a_run_on_synthetic_data_has_no_tokenizer(tmp_path):
    overrides = [each for each in tiny(tmp_path, name="made-up") if not each.startswith("data.source")]
    assert main(["train", "data=synthetic", *overrides]) == 0
    with pytest.raises(ValueError, match="no tokenizer"):
        load_trained(tmp_path / "logs/runs/made-up")


class Payload:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_a_pickle_that_runs_code_is_refused_even_with_a_sound_seal(copied, tmp_path):
    torch.save({"state_dict": Payload(tmp_path / "hacked")}, copied / STEP / "state.ckpt")
    reseal(copied / STEP)
    with pytest.raises(CheckpointError, match="refused"):
        load_trained(copied / STEP)
    assert not (tmp_path / "hacked").exists()


def test_targets_in_the_files_of_a_run_are_never_called(copied, tmp_path):
    config = yaml.safe_load((copied / "config.yaml").read_text())
    config["model"] = {"_target_": "os.mkdir", "path": str(tmp_path / "hacked")}
    (copied / "config.yaml").write_text(yaml.safe_dump(config))
    assert load_trained(copied).checkpoint.step == 4  # sizes come from the seal
    reseal(copied / STEP, model={"_target_": "os.mkdir", "path": str(tmp_path / "hacked")})
    with pytest.raises(CheckpointError, match=r"model\.hidden_size: got nothing"):
        load_trained(copied / STEP)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "sizes, complaint",
    [
        ({"hidden_size": 64}, "expected"),
        ({"num_layers": 2}, "absent"),
        ({"num_heads": 3, "num_kv_heads": 2}, "does not describe a Llama"),
        ({"rope_scaling": {"factor": 2.0}}, r"rope_scaling\.low_frequency_factor: got nothing"),
    ],
    ids=["another width", "more layers", "heads that do not divide", "incomplete scaling"],
)
def test_sizes_that_are_not_those_of_the_weights_are_refused(copied, sizes, complaint):
    about = json.loads((copied / STEP / SEAL).read_text())["about"]
    reseal(copied / STEP, model={**about["model"], **sizes})
    with pytest.raises(CheckpointError, match=complaint):
        load_trained(copied / STEP)


def test_a_checkpoint_outside_of_its_run_says_what_is_missing(copied, tmp_path):
    alone = tmp_path / "x" / "y" / "step-00000004"
    shutil.copytree(copied / STEP, alone)
    with pytest.raises(ValueError, match=r"tokenizer is missing"):
        load_trained(alone)
