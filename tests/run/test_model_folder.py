"""`model=huggingface`: a folder that transformers wrote, trained through train.py, resumed, sharded and exported."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from litespark.cli import main
from litespark.data.loss_mask import IGNORE_INDEX
from litespark.data.tokenizer import Tokenizer
from litespark.models.huggingface.folder import load_huggingface
from litespark.models.huggingface.table import FAMILIES, Norm
from litespark.models.huggingface.trial import lost_ops
from litespark.models.init import initialise
from litespark.ops.backend import BACKENDS, Backend, OpsConfig, resolve
from litespark.ops.rms_norm.reference import rms_norm
from litespark.ops.tolerance import relative_distance
from litespark.run.composing import compose
from litespark.run.config import parts_from
from litespark.run.load import load_trained
from litespark.run.metric_rows import read_metrics
from litespark.run.model_folder import ModelFolder
from litespark.run.preflight import place_of
from litespark.run.train import train
from tests.cli.tiny_run import WORDS, tiny

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16,
         "intermediate_size": 64, "vocab_size": 320, "max_position_embeddings": 64, "initializer_range": 0.1,
         "bos_token_id": None, "pad_token_id": None}  # fmt: skip


def written(folder: Path, kind: str, **changed: object) -> Path:
    """A folder as transformers writes it, of random weights, with a tokenizer of fewer ids than rows."""
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**SIZES, eos_token_id=0, **changed)
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = [0, 7]
    model.save_pretrained(folder)
    Tokenizer.train([" ".join(WORDS)] * 9, vocab_size=300).save(folder)
    return folder


@pytest.fixture(scope="module")
def qwen3(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("theirs") / "qwen3", "qwen3")


def words(folder: Path, model: Path, **more: object) -> list[str]:
    """The words of a run below `folder` from a folder of a model, without a size."""
    small = [word for word in tiny(folder, **more) if not word.startswith(("model.", "data.vocab_size"))]
    return ["train", *small, "model=huggingface", f"model.path={model}", "trainer.log_every=1", "precision=fp32"]


def run_of(folder: Path, name: str) -> Path:
    return folder / "logs" / "runs" / name


def test_a_folder_is_trained_resumed_without_it_and_exported(qwen3, tmp_path, capsys):
    theirs = tmp_path / "theirs"
    shutil.copytree(qwen3, theirs)
    more = {"budget__schedule_end": 4, "optim__lr": 1e-2}
    assert main(words(tmp_path, theirs, name="whole", **more)) == 0
    record = json.loads((run_of(tmp_path, "whole") / "run.json").read_text())
    model = transformers.AutoModelForCausalLM.from_pretrained(theirs)
    assert record["model"]["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    assert record["quality"]["sample"]
    assert record["model"]["initial_weights"] == f"read from {theirs}"
    assert f"theirs: weights read from {theirs}\n" in capsys.readouterr().out

    assert main(words(tmp_path, theirs, name="cut", **{**more, "budget__steps": 2})) == 0
    shutil.rmtree(theirs)
    assert main([*words(tmp_path, theirs, name="cut", **more), f"resume={run_of(tmp_path, 'cut')}"]) == 0
    whole, cut = (
        [row["train/loss"] for row in read_metrics(run_of(tmp_path, name)) if "train/loss" in row]
        for name in ("whole", "cut")
    )
    assert len(whole) == 4
    assert cut == whole
    trained, tokenizer, _ = load_trained(run_of(tmp_path, "cut"))
    state = load_trained(run_of(tmp_path, "whole")).model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())

    hf = tmp_path / "hf"
    assert main(["export", str(run_of(tmp_path, "cut")), str(hf)]) == 0
    again = transformers.AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    assert type(again) is transformers.Qwen3ForCausalLM
    assert again.config.eos_token_id == again.generation_config.eos_token_id == [0, 7]
    ids = torch.tensor([Tokenizer.load(tokenizer).encode_batch(["the quick brown fox"])[0]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trained(ids))
        moved = (again(ids).logits - model(ids).logits).abs().max()
    assert moved > 1e-2  # or nothing was trained
    assert Tokenizer.load(hf).difference(Tokenizer.load(qwen3)) is None
    capsys.readouterr()
    for path in (hf, run_of(tmp_path, "cut")):  # the cache gives the same as transformers' own generation
        assert main(["generate", str(path), "--prompt", "the quick", "--tokens", "6", "--temperature", "0"]) == 0
    ours, of_run = capsys.readouterr().out.splitlines()
    prompt = torch.tensor([Tokenizer.load(hf).encode_prompt("the quick")])
    expected = again.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)[0, prompt.shape[1] :]
    assert ours == of_run == Tokenizer.load(hf).decode(expected.tolist()).splitlines()[0]


def test_a_plain_llama_becomes_the_native_one_and_its_run_the_start_of_another(tmp_path):
    theirs = written(tmp_path / "theirs", "llama")
    assert main([*words(tmp_path, theirs, name="first", budget__steps=1), "model.random=true"]) == 0
    record = json.loads((run_of(tmp_path, "first") / "run.json").read_text())
    assert record["model"]["initial_weights"] == "drawn at random"
    found = ModelFolder.find(run_of(tmp_path, "first"))
    assert (found.node["kind"], found.node["num_layers"]) == ("llama", 2)
    other = ModelFolder.find(written(tmp_path / "other", "llama", hidden_act="gelu"))
    assert other.node["kind"] == "huggingface"
    assert "hidden_act" in str(other.reason)


OURS = OpsConfig(rms_norm="torch", add_rms_norm="torch", attention="sdpa", linear_cross_entropy="chunked")


@pytest.mark.parametrize("ops", [OpsConfig(), OURS], ids=["references", "ours"])
@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gpt_neox"])
def test_documents_do_not_see_each_other_and_recomputation_changes_nothing(tmp_path, kind, ops):
    ops = replace(ops, attention="reference") if (kind, ops) == ("gemma2", OURS) else ops  # sdpa caps no scores
    found = ModelFolder.find(written(tmp_path / kind, kind))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(found.path, dtype=torch.float32)
    ids = torch.randint(SIZES["vocab_size"], (1, 12), generator=torch.Generator().manual_seed(1))
    labels, lengths = ids.roll(-1, dims=1), (5, 7)
    labels[0, 4] = IGNORE_INDEX
    expected = 0
    for part, label in zip(ids.split(lengths, dim=1), labels.split(lengths, dim=1), strict=True):
        logits = theirs(part).logits
        expected = expected + functional.cross_entropy(logits[0], label[0], ignore_index=IGNORE_INDEX, reduction="sum")
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    layout = {
        "positions": torch.cat([torch.arange(length) for length in lengths])[None],
        "documents": torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor(lengths))[None],
    }
    assert found.spec.recompute_modes == ("none", "full")
    for recompute in found.spec.recompute_modes:
        with torch.device("meta"):
            model = found.spec.build(resolve(ops), recompute).train()
        found.fill(model.to_empty(device="cpu"))
        loss = model(ids, labels, **layout)
        assert relative_distance(loss, expected) < 1e-6
        loss.backward()
        for name, parameter in model.causal_lm.named_parameters():
            assert relative_distance(parameter.grad, gradients[name]) < 1e-5, name
        assert relative_distance(model(ids, labels, **layout, reduction="none").nats.sum(), expected) < 1e-6
    loaded = load_huggingface(found.path, resolve(ops))
    assert bool(loaded.applied) == (ops != OpsConfig())
    assert relative_distance(loaded(ids, labels, **layout), expected) < 1e-6


@pytest.mark.parametrize("kind", ["qwen3", "gemma2", "gpt2"])
def test_random_weights_are_those_of_transformers_in_distribution_and_buffers_outlive_meta(tmp_path, kind):
    changed = {"n_layer": 8, "tie_word_embeddings": False} if kind == "gpt2" else {}
    spec = ModelFolder.find(written(tmp_path / kind, kind, **changed), weights=False).spec
    # whose layers nobody has compared with our ops
    assert (spec.step_shapes(1, 8, documents=True) is None) == (kind == "gpt2")
    with torch.device("meta"):
        model = spec.build(resolve(OURS), "none")
    initialise(model.to_empty(device="cpu"), spec, 5)
    theirs = transformers.AutoModelForCausalLM.from_config(spec.transformers)
    for name, parameter in theirs.named_parameters():
        ours = model.causal_lm.get_parameter(name)
        if parameter.std() == 0:
            assert torch.equal(ours, parameter), name
        else:
            assert ours.std().item() == pytest.approx(parameter.std().item(), rel=0.15), name
            assert abs(ours.mean().item()) < 0.1 * ours.std().item(), name
    buffers = dict(theirs.named_buffers())
    assert bool(buffers) == (kind != "gpt2")
    for name, buffer in model.to(torch.bfloat16).causal_lm.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


@pytest.mark.parametrize("kind", ["qwen3", "gpt_neox", "mixtral"])
def test_layers_that_are_not_as_the_table_has_them_are_found_in_a_small_model(tmp_path, monkeypatch, kind):
    spec = ModelFolder.find(written(tmp_path / kind, kind)).spec
    ops, cpu = resolve(OURS), torch.device("cpu")
    assert lost_ops(spec, ops, cpu) == {}
    family = FAMILIES[kind]
    if family.norm is not None:  # as if another version of transformers added one to its weight
        monkeypatch.setitem(FAMILIES, kind, replace(family, norm=Norm(offset=1.0)))
        assert "rms_norm" in lost_ops(spec, ops, cpu)


def rounded_norm(x, weight, eps):
    """A backend that computes something else than the layers do."""
    return rms_norm(x, weight, eps).round(decimals=1)


def test_an_op_that_a_layer_cannot_run_with_is_left_out_or_refused(qwen3, tmp_path, monkeypatch, capsys):
    ours = {"rounded": Backend(f"{__name__}:rounded_norm"), **BACKENDS["rms_norm"]}
    monkeypatch.setitem(BACKENDS, "rms_norm", ours)
    assert main(words(tmp_path, qwen3, name="run", budget__steps=1, callbacks__sample_prompt="null")) == 0
    ops = json.loads((run_of(tmp_path, "run") / "run.json").read_text())["ops"]
    used = {op["op"]: op["used"] for op in ops}
    assert used["rms_norm"] == "reference"
    assert used["attention"] != "reference"
    assert re.search(r"ops\.rms_norm: rounded is not in Qwen3RMSNorm .*; reference is used", capsys.readouterr().out)
    with pytest.raises(ValueError, match=r"ops\.rms_norm: got rounded, which is not in Qwen3RMSNorm .*=auto, or ref"):
        train(compose([*words(tmp_path, qwen3, name="named")[1:], "ops.rms_norm=rounded"]))


def test_scores_with_a_soft_cap_are_left_to_backends_that_have_one(tmp_path):
    named = compose([*words(tmp_path, written(tmp_path / "gemma2", "gemma2"))[1:], "ops.attention=sdpa"])
    assert place_of(parts_from(named), torch.device("cpu"), "fp32").softcap
    with pytest.raises(ValueError, match=r"ops\.attention: got sdpa, which cannot run here: it has no soft cap"):
        train(named)
