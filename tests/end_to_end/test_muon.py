"""Muon with warm-up, stable, decay as a user selects them: the loss falls, and the record says what ran."""

import json
from pathlib import Path

import pytest
import yaml

from litespark.metrics import names
from litespark.training.schedule import WarmupStableDecaySchedule
from tests.end_to_end.runs import TINY, train, write_text

STEPS = 30


def test_optim_muon_with_schedule_wsd_trains(tmp_path: Path):
    text = write_text(tmp_path / "text", documents=20)
    train(
        *TINY, "optim=muon", "schedule=wsd", "optim.lr=2e-2", f"budget.steps={STEPS}", "schedule.warmup=0.1",
        "schedule.decay=0.5", f"data.source={text}", f"paths.data={tmp_path}/data", f"paths.logs={tmp_path}/logs",
        "name=muon",
    )  # fmt: skip
    folder = tmp_path / "logs/runs/muon"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    losses = [row[names.TRAIN_LOSS] for row in rows if names.TRAIN_LOSS in row]
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(5.7, abs=0.2)  # ln 300
    assert sum(losses[-3:]) / 3 < losses[0] - 1
    schedule = WarmupStableDecaySchedule(warmup=0.1, decay=0.5, final=0.0)
    rates = [row[names.LEARNING_RATE] for row in rows if names.LEARNING_RATE in row]
    assert rates == pytest.approx([2e-2 * schedule.factor(step, STEPS) for step in range(1, STEPS + 1)])
    assert rates[STEPS // 2 - 1] == 2e-2 > rates[STEPS // 2] > rates[-1] == 0
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    assert settings["optim"]["kind"] == "muon"
    assert settings["schedule"]["kind"] == "wsd"
    record = json.loads((folder / "run.json").read_text())
    assert (record["status"], record["throughput"]["steps"]) == ("finished", STEPS)
