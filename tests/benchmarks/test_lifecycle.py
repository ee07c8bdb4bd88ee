"""The life of a model: what each stage begins with, what is read of its run, and the page."""

import json
from dataclasses import replace

import pytest

from litespark.benchmarks.lifecycle.session import bench_lifecycle
from litespark.benchmarks.lifecycle.stages import STAGES, overrides_of, read_stage
from litespark.child_process import Ended
from litespark.metrics.records.index import read_entry
from litespark.metrics.records.lifecycle import Life
from litespark.reports.lifecycle import write_page
from litespark.run.config import ConfigError
from litespark.run.record import EnergyRecord, PhaseJoules, ThroughputRecord
from tests.metrics.lifecycle_records import DPO, lifecycle_record
from tests.metrics.records.hand_made import make_record


def test_each_stage_begins_with_the_run_before_and_grpo_gets_the_reward_model(tmp_path):
    folders = {stage.name: tmp_path / stage.name for stage in STAGES}
    words = {stage.name: overrides_of(stage, folders, ["seed=7"]) for stage in STAGES}
    assert f"run={tmp_path}/sft" in words["dpo"]
    assert f"run={tmp_path}/sft" in words["reward"]
    assert {f"run={tmp_path}/dpo", f"task.reward_models.reward={tmp_path}/reward"} < set(words["grpo"])
    assert not any(word.startswith("run=") for word in words["base"])
    assert {of[-1] for of in words.values()} == {"seed=7"}  # what the user gives is stronger


def test_a_stage_that_fails_ends_the_life_with_what_it_said(tmp_path):
    started = []

    def launch(training):
        started.append(training.overrides[0])
        return Ended("finished") if len(started) == 1 else Ended("failed", "out of memory")

    with pytest.raises(ConfigError, match=r"quickstart_sft failed: out of memory; see .*sft-1-.*\.txt"):
        bench_lifecycle(
            [f"paths.logs={tmp_path}"],
            seeds="1",
            command=[],
            script=tmp_path,
            output=tmp_path,
            say=print,
            launch=launch,
        )
    assert started == ["experiment=quickstart", "experiment=quickstart_sft"]


def test_joules_of_a_pair_and_the_share_of_rollouts_are_read(tmp_path):
    energy = EnergyRecord(
        train_joules=60.0, phases=PhaseJoules(train=60.0, rollout=30.0, reward=10.0), joules_per_token_train=0.6,
        joules_per_example=5.0,
    )  # fmt: skip
    speed = ThroughputRecord(tokens=100, steps=2, examples=20, train_seconds=3.0)
    saved = replace(make_record(), example="completion", throughput=speed, energy=energy)
    saved.write(tmp_path / "run.json")
    rows = [{"step": step, "progress/tokens": 50 * step, "validation/reward": 0.25 * step} for step in (0, 1, 2)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    grpo = read_stage(STAGES[-1], tmp_path)
    assert (grpo.before, grpo.after, grpo.improved) == (0.0, 0.5, True)
    assert (grpo.joules_per_example, grpo.rollout_share, grpo.example) == (5.0, 0.3, "completion")
    (tmp_path / "metrics.jsonl").write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(ValueError, match="got no validation/reward at step 0"):
        read_stage(STAGES[-1], tmp_path)


def test_the_page_has_every_seed_and_what_was_not_measured(tmp_path):
    record = lifecycle_record()
    path = tmp_path / "device" / f"{record.provenance.time[:10]}_bench-lifecycle_tiny_fp32.json"
    record.write(path)
    assert read_entry(path).record == record
    page = write_page(record, path).read_text()
    assert (
        "| dpo | sft | DPO loss of pairs (lower is better) | 0.6900 | 0.7000 (0.6000 to 0.8000) | 1 of 2 seeds |"
        in page
    )
    assert "320 pairs" in page
    assert "J/token: no counter" in page
    with pytest.raises(ValueError, match="expected either joules or a reason"):
        replace(record, lives=[Life(1, [replace(DPO, joules_per_token=1.0)], [])])
