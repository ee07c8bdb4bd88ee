"""The stages of a model's life follow one another from the run before."""

import json
import math

import pytest

from litespark.benchmarks.lifecycle.session import bench_lifecycle
from litespark.reports.lifecycle import write_page
from tests.end_to_end.runs import train
from tests.warm_processes import ROOT


def logged(run, name):
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.mark.slow
def test_stages_start_from_the_run_before(tmp_path):
    short = [f"paths.logs={tmp_path}", f"paths.data={tmp_path}/data", "trainer.validate_every=5"]
    short += ["data.validation_sequences=8", "data.max_bytes=2_000_000"]
    train("name=base", "budget.tokens=60_000", *short)
    runs = tmp_path / "runs"
    train(
        "experiment=quickstart_sft", f"run={runs / 'base'}", "name=sft", "budget.steps=15", "budget.tokens=null", *short
    )
    losses = logged(runs / "sft", "validation/loss")
    assert losses[-1] < losses[0]
    stage = ["experiment=quickstart_dpo", f"run={runs / 'sft'}", "name=dpo", "budget.steps=2", "budget.tokens=null"]
    train(*stage, *short, "trainer.log_every=1", "precision=fp32", "trainer.validate_every=null")
    first = logged(runs / "dpo", "train/loss")[0]
    assert first == pytest.approx(math.log(2), abs=1e-4)  # the policy is its own reference before the first step
    # ended between its last step and its last validation: the resume has no step left, and validates
    record = json.loads((runs / "dpo" / "run.json").read_text())
    (runs / "dpo" / "run.json").write_text(json.dumps(record | {"status": "interrupted"}))
    before = len(logged(runs / "dpo", "validation/loss"))
    train(f"resume={runs / 'dpo'}", *stage[:2], *short, "precision=fp32", "budget.steps=2", "budget.tokens=null")
    assert len(logged(runs / "dpo", "validation/loss")) > before


@pytest.mark.slow
def test_every_stage_improves_its_own_measure_with_three_seeds(tmp_path):
    """At the sizes of the quickstarts, from an empty folder."""
    overrides = [f"paths.logs={tmp_path}", f"paths.data={tmp_path}/data"]
    record, path = bench_lifecycle(
        overrides, seeds="1,2,3", command=["litespark"], script=ROOT / "train.py", output=tmp_path, say=print
    )
    print(write_page(record, path).read_text())
    for life in record.lives:
        stages = {stage.name: stage for stage in life.stages}
        assert stages["base"].after < 0.65 * stages["base"].before
        assert stages["sft"].after < 0.95 * stages["sft"].before
        assert stages["dpo"].after < 0.5 < stages["dpo"].before
        assert stages["reward"].after > max(0.65, stages["reward"].before)
        assert stages["grpo"].after > stages["grpo"].before + 0.4
        models = {scores.model: scores for scores in life.scores}
        assert models["base"].parses < models["sft"].parses < models["grpo"].parses
        assert models["base"].preference_accuracy < models["dpo"].preference_accuracy
        bits = {name: scores.bits_per_byte / models["base"].bits_per_byte for name, scores in models.items()}
        assert max(bits["sft"], bits["dpo"]) < 1.03
        assert bits["grpo"] < 1.15
