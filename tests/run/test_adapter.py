"""`adapter=lora` through train.py: trained, stopped and resumed, generated from, exported for `peft` and merged."""

import pytest
import torch

from litespark.cli import main
from litespark.run.load import load_trained
from litespark.run.metric_rows import read_metrics
from tests.run.test_model_folder import run_of, words, written

transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")

LORA = ["adapter=lora", "adapter.rank=4", "optim.lr=1e-2", "budget.schedule_end=4"]


@pytest.mark.parametrize(("kind", "dora"), [("llama", True), ("qwen3", False)])
def test_a_folder_is_adapted_resumed_and_exported_for_peft_and_merged(tmp_path, kind, dora, capsys):
    theirs = written(tmp_path / "theirs", kind)
    given = [*LORA, f"adapter.dora={dora}"]
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
