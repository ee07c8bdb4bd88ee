"""`adapter=lora` through train.py: trained, stopped and resumed, exported for `peft` and merged; what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from litespark.cli import main
from litespark.models.adapters import lora
from litespark.ops.backend import OpsConfig, resolve
from litespark.run.composing import compose
from litespark.run.config import parts_from
from litespark.run.load import load_trained
from litespark.run.metric_rows import read_metrics
from litespark.run.train import train
from litespark.training.checkpoint.folder import find
from litespark.training.checkpoint.state import read_state
from litespark.training.model_builder import ModelBuilder
from tests.run.test_model_folder import run_of, words, written

transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")

LORA = ["adapter=lora", "adapter.rank=4", "optim.lr=1e-2", "budget.schedule_end=4"]


def test_a_folder_is_adapted_resumed_and_exported_for_peft_and_merged(tmp_path, capsys):
    theirs = written(tmp_path / "theirs", "llama")
    given = [*LORA, "adapter.dora=true", "adapter.dropout=0.1", "callbacks.sample_prompt=null"]
    assert main([*words(tmp_path, theirs, name="whole"), *given]) == 0
    assert main([*words(tmp_path, theirs, name="cut", budget__steps=2), *given]) == 0
    cut = run_of(tmp_path, "cut")
    assert main([*words(tmp_path, theirs, name="cut"), *given, f"resume={cut}"]) == 0
    whole, again = (
        [row["train/loss"] for row in read_metrics(run_of(tmp_path, name)) if "train/loss" in row]
        for name in ("whole", "cut")
    )
    assert len(whole) == 4
    assert again == whole
    trained = load_trained(cut).model
    state = load_trained(run_of(tmp_path, "whole")).model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in trained.state_dict().items())
    record = json.loads((cut / "run.json").read_text())
    parameters, of_adapter = record["model"]["parameters"], record["adapter"]["trained_parameters"]
    assert record["adapter"]["state_bytes"] == 4 * parameters + 16 * of_adapter
    assert record["adapter"]["full_state_bytes"] == 16 * parameters
    kept = [name for name in read_state(find(cut))["state_dict"] if name.startswith("model.")]
    assert sum(".lora_" in name for name in kept) == len(kept) == 2 * 7 * 3  # and nothing of the base

    assert main(["export", str(cut), str(tmp_path / "merged")]) == 0
    assert main(["export", str(cut), str(tmp_path / "adapter"), "--adapter"]) == 0
    base, merged = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        for folder in (theirs, tmp_path / "merged")
    )
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before = base(ids).logits
        adapted = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")(ids).logits
        torch.testing.assert_close(merged(ids).logits, adapted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(trained(ids), adapted, rtol=1e-4, atol=1e-5)
    assert (adapted - before).abs().max() > 1e-2  # or nothing was trained

    _another_run_goes_on_from(tmp_path / "adapter", theirs, tmp_path)
    (weights,) = theirs.glob("*.safetensors")
    weights.write_bytes((tmp_path / "merged" / weights.name).read_bytes())
    with pytest.raises(ValueError, match="holds other weights than those that the adapter"):
        load_trained(cut)
    shutil.rmtree(theirs)
    with pytest.raises(ValueError, match=r"the model it stands on is not there: .*; put it back, or a link to it"):
        load_trained(cut)


def _another_run_goes_on_from(adapter: Path, theirs: Path, tmp_path: Path) -> None:
    """An adapter of PEFT is what a run begins with; one of other sizes or layers is refused."""
    start = [*words(tmp_path, theirs, name="next")[1:], *LORA, "adapter.dora=true", f"adapter.path={adapter}"]
    parts = parts_from(compose(start))
    builder = ModelBuilder(parts.model, resolve(OpsConfig()), 1, load_weights=parts.weights.fill, adapter=parts.adapter)
    model, weights = builder.build(torch.device("cpu")), load_file(adapter / lora.WEIGHTS)
    assert all(torch.equal(parameter, weights[name]) for name, parameter in lora.weights_of(model).items())
    for wrong, told in (
        ("adapter.rank=8", r"has other settings; set adapter.rank=4$"),
        ("adapter.targets=[q_proj]", r"down_proj.* is \(.*\), expected none .*it is the adapter of another model"),
    ):
        parts = parts_from(compose([*start, wrong]))
        with pytest.raises(ValueError, match=told):
            replace(builder, adapter=parts.adapter).build(torch.device("cpu"))


def test_what_cannot_be_adapted_is_refused_before_the_run(tmp_path):
    theirs = written(tmp_path / "theirs", "qwen3")
    start = [*words(tmp_path, theirs, name="run")[1:], *LORA]
    for changed, told in (
        (["model.random=true"], r"model=theirs with drawn weights, expected trained ones; set model=huggingface"),
        (["adapter.targets=[q_proj,query]"], r"got query, which no linear layer .*expected some of q_proj, k_proj, v_"),
        (["optim=muon"], r"adapter=lora: got optim=muon.*; set optim=adamw"),
        (["adapter.dropout=1.5"], r"adapter.dropout: got 1.5"),
        ([f"adapter.path={theirs}"], r"adapter_config.json cannot be read .*; name a folder of PEFT"),
    ):
        with pytest.raises(ValueError, match=told):
            train(compose([*start, *changed]))
