"""GRPO on two ranks goes on, after a stop within a rollout, with the bits of a run that nothing stopped."""

import json
import shutil

import pytest
import torch

from tests.checkpoints import state_in
from tests.end_to_end.runs import train, train_on_ranks

SHORT = "trainer.log_every=1 budget.tokens=null precision=fp32 metrics.probe_seconds=0 callbacks.report=false".split()
SHORT += ["data.seq_len=256", "data.validation_sequences=4", "data.max_bytes=300_000", "callbacks.sample_tokens=4"]
GRPO = "task=grpo data=prompts model=huggingface task.num_generations=2 task.max_new_tokens=8 task.beta=0.1".split()
GRPO += ["task.rewards={length: 1.0}", "task.num_iterations=2", "data.max_prompt_length=64", "optim.lr=0.01"]
GRPO += ["data.micro_batch_size=1", "trainer.global_batch_size=4", "budget.steps=6"]
GRPO += ["callbacks.checkpoint_every=1", "callbacks.checkpoint_keep=9"]


def tensors(of):
    """All tensors of a checkpoint, by their place in it."""
    if isinstance(of, torch.Tensor):
        return {"": of}
    items = of.items() if isinstance(of, dict) else enumerate(of) if isinstance(of, list | tuple) else ()
    return {f"{name}/{rest}": value for name, held in items for rest, value in tensors(held).items()}


def learnt(run):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    named = ("train/loss", "train/reward", "train/kl", "train/completion_length", "validation/reward", "step")
    return [{name: row[name] for name in named if name in row} for row in rows if "train/loss" in row]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_resume_within_a_rollout_gives_the_same_bits(tmp_path, strategy):
    paths, runs = [f"paths.logs={tmp_path}", f"paths.data={tmp_path}/data"], tmp_path / "runs"
    small = ["model.hidden_size=32", "model.num_layers=2", "model.num_heads=2", "model.num_kv_heads=1"]
    train("name=base", "budget.steps=2", *small, "model.intermediate_size=64", *paths, *SHORT)
    asked = [*GRPO, f"model.path={runs / 'base'}", f"strategy={strategy}", *paths, *SHORT]
    train_on_ranks("name=whole", *asked)
    whole, cut = runs / "whole", runs / "cut"
    shutil.copytree(whole, cut)
    for step in (4, 5, 6):  # as if it had been stopped after the first of two steps of a rollout
        shutil.rmtree(cut / "checkpoints" / f"step-{step:08d}")
    record = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    train_on_ranks(f"resume={cut}", *asked)
    assert len(learnt(whole)) == 6
    assert learnt(cut) == learnt(whole)
    ends = [tensors(state_in(run / "checkpoints" / "step-00000006")) for run in (whole, cut)]
    assert len(ends[0]) > 20
    assert ends[0].keys() == ends[1].keys()
    assert [name for name in ends[0] if not torch.equal(ends[0][name], ends[1][name])] == []
