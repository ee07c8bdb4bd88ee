"""Every config file composes into dataclasses and a model, and the headline job runs cut down to one layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from litespark.mesh import Mesh
from litespark.models.llama.model import Llama
from litespark.ops.backend import BACKENDS
from litespark.ops.choice import decide
from litespark.run.composing import compose_parts
from litespark.run.folder import flatten
from litespark.run.preflight import place_of
from tests.end_to_end.runs import train

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
STAGES = {name for name in EXPERIMENTS if name.endswith(("_sft", "_dpo", "_reward", "_grpo"))}
"""Whose model is that of the run before."""
DEBUGS = sorted(path.stem for path in (CONFIGS / "debug").glob("*.yaml"))
PAIRS = [name.removesuffix("_litespark") for name in EXPERIMENTS if name.endswith("_litespark")]

PARAMETERS = {"llama3b": 3_015_355_392, "llama8b": 8_030_261_248, "llama30b": 30_026_717_184}
# all that may tell an experiment from its baseline, or the comparison would not be fair
MAY_DIFFER = {"recompute.mode", "optim.fused", *(f"ops.{op}" for op in BACKENDS)}


def test_the_globs_find_the_experiments_and_the_debug_settings():
    """Or the tests below would pass on nothing."""
    assert {"quickstart", "llama160m", "llama1b", "llama3b_litespark", "llama3b_baseline"} <= set(EXPERIMENTS)
    assert {"overfit", "limit", "profiler"} <= set(DEBUGS)
    assert {"llama3b", "llama8b", "llama30b"} <= set(PAIRS)


@pytest.mark.parametrize("overrides", [f"experiment={x}" for x in EXPERIMENTS] + [f"debug={x}" for x in DEBUGS])
def test_each_experiment_composes_into_its_parts_and_a_model(overrides):
    name = overrides.removeprefix("experiment=")
    before = f"model={name.split('_')[0].replace('quickstart', 'tiny')}"
    parts = compose_parts([overrides, *([before] if name in STAGES else [])])
    ops, _ = decide(parts.ops, place_of(parts, torch.device("cpu"), "fp32"), Mesh(), verifying=False)
    with torch.device("meta"):
        model = Llama(parts.model, ops, parts.recompute)
    assert sum(parameter.numel() for parameter in model.parameters()) == parts.model.parameter_count()
    assert parts.data.seq_len <= parts.model.max_seq_len
    assert parts.data.vocab_size == parts.model.vocab_size
    assert parts.trainer.accumulate(parts.data.micro_batch_size, world_size=1) >= 1


def test_each_choice_of_each_group_says_what_it_is():
    first = {path: [line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#")
                    and "@package" not in line] for path in CONFIGS.glob("*/*.yaml")}  # fmt: skip
    assert [str(path) for path, comments in first.items() if not comments or len(comments[0]) <= 15] == []


def test_the_groups_are_those_of_the_defaults_list():
    defaults = yaml.safe_load((CONFIGS / "train.yaml").read_text())["defaults"]
    named = {key.removeprefix("override ") for entry in defaults if isinstance(entry, dict) for key in entry}
    assert named == {path.name for path in CONFIGS.iterdir() if path.is_dir()}


@pytest.mark.parametrize("name", PAIRS)
def test_an_experiment_inherits_its_baseline_and_differs_only_where_it_may(name):
    text = yaml.safe_load((CONFIGS / "experiment" / f"{name}_litespark.yaml").read_text())
    assert text["defaults"][0] == f"{name}_baseline"
    both = [compose_parts([f"experiment={name}_{variant}"]) for variant in ("litespark", "baseline")]
    assert {parts.model.parameter_count() for parts in both} == {PARAMETERS[name]}
    ours, baseline = (flatten(parts.resolved) for parts in both)
    different = {key for key in ours.keys() | baseline.keys() if ours.get(key) != baseline.get(key)}
    assert different, "the experiment is its baseline"
    assert different <= MAY_DIFFER
    assert all(baseline[f"ops.{op}"] == "reference" for op in BACKENDS)


def test_the_headline_job_runs_with_one_narrow_layer_and_short_sequences(tmp_path):
    """A layer of its own width is 100 million parameters, which take a minute to make, check, train and save."""
    cut = (
        "experiment=llama3b_litespark model.num_layers=1 model.hidden_size=256 model.num_heads=2 model.num_kv_heads=1 "
        "model.intermediate_size=512 data=synthetic data.seq_len=64 data.micro_batch_size=1 "
        "trainer.global_batch_size=1 budget.tokens=null budget.steps=2 trainer.accelerator=cpu precision=fp32 name=cut "
        "model.vocab_size=1000"
    )
    train(*cut.split(), f"paths.logs={tmp_path}", f"paths.data={tmp_path}/data")
    run = tmp_path / "runs" / "cut"
    assert (run / "checkpoints" / "step-00000002" / "checkpoint.json").is_file()
    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert (record["throughput"]["steps"], record["throughput"]["tokens"]) == (2, 128)
    assert record["model"]["name"] == "llama3b"
    assert record["model"]["parameters"] == compose_parts(cut.split()).model.parameter_count()
    assert 0 < record["quality"]["validation_loss"] < 20
    settings = yaml.safe_load((run / "config.yaml").read_text())
    assert settings["ops"]["attention"] != "reference"
    assert settings["optim"]["fused"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the GPU whose absence is tested")
def test_the_headline_job_says_at_once_what_this_machine_lacks(tmp_path):
    places = [f"paths.logs={tmp_path}", f"paths.data={tmp_path}/data"]
    printed = train("experiment=llama3b_litespark", *places, expect=1)
    for phrase in (
        "trainer.accelerator=gpu: got no gpu on this machine",
        "trainer.accelerator=cpu precision=fp32",
        f"{tmp_path}/data/slimpajama does not exist",
        "litespark prepare experiment=llama3b_litespark data.source=FOLDER",
        "python train.py experiment=llama3b_litespark data.source=FOLDER",
    ):
        assert phrase in printed
    assert "Traceback" not in printed
    assert len(printed.strip().splitlines()) <= 6
    assert not list(tmp_path.rglob("*.json"))
    assert not (tmp_path / "data").exists()
