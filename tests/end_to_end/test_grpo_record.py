"""The record of GRPO on two ranks counts each token and completion once, and has the joules of both by phase."""

import json
import os
import time

import pytest

from litespark.run import train as run
from tests.end_to_end import runs
from tests.end_to_end.runs import metrics, train
from tests.metrics.fake_meter import FakeMeter
from tests.warm_processes import run_ranks, train_py

STEPS, PROMPTS, COMPLETIONS = 4, 4, 3


def metered(*overrides):
    """A run whose second rank alone draws power."""
    meter = FakeMeter([100.0 * int(os.environ["RANK"])], time.monotonic)
    run.choose_meter = lambda *arguments, **settings: meter
    train_py(*overrides)


@pytest.mark.slow
def test_two_ranks_count_what_one_does_and_their_joules_by_phase(tmp_path):
    runs.write_text(tmp_path / "text")
    paths, folder = [f"paths.logs={tmp_path}", f"paths.data={tmp_path}/data"], tmp_path / "runs"
    train(*runs.TINY, *paths, f"data.source={tmp_path}/text", "model.max_seq_len=512", "budget.steps=2", "name=base")
    asked = [one for one in runs.TINY if not one.startswith(("model.", "data.", "trainer.global"))]
    asked += ["task=grpo", "data=prompts", "model=huggingface", f"model.path={folder / 'base'}", *paths]
    asked += ["data.max_bytes=200_000", "data.seq_len=256", "data.max_prompt_length=200", "data.validation_sequences=4"]
    asked += ["data.micro_batch_size=1", f"trainer.global_batch_size={PROMPTS}", f"budget.steps={STEPS}"]
    asked += [
        f"task.num_generations={COMPLETIONS}",
        "task.max_new_tokens=6",
        "task.num_iterations=2",
    ]  # no reference, whose pass is in the rollout too
    asked += ["task.rewards={length: 1.0}", "trainer.validate_every=2"]
    train("name=one", *asked)
    run_ranks(2, metered, "name=two", "strategy=fsdp", *asked)
    one, two = (json.loads((folder / name / "run.json").read_text()) for name in ("one", "two"))
    for count in ("tokens", "steps", "examples"):
        assert two["throughput"][count] == one["throughput"][count], count
    assert two["throughput"]["examples"] == STEPS // 2 * PROMPTS * COMPLETIONS
    for name in ("train/loss", "train/reward", "validation/reward"):
        assert metrics(folder / "two", name) == pytest.approx(metrics(folder / "one", name), rel=1e-4, abs=1e-6), name
    energy = two["energy"]
    spent = {phase: joules for phase, joules in energy["phases"].items() if joules}
    assert spent.keys() >= {"train", "rollout", "reward", "evaluate", "idle"}
    assert sum(spent.values()) == pytest.approx(energy["all_in_joules"], abs=0.01)
    learning = sum(spent[phase] for phase in ("train", "rollout", "reward"))
    assert energy["joules_per_example"] == pytest.approx(learning / two["throughput"]["examples"], rel=1e-3)
