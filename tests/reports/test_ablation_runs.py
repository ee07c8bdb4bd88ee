"""The ablation in the runs of a sweep: recognised by their settings alone, and not where they are something else."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from litespark.reports.ablation import Ablation, table
from litespark.reports.ablation_runs import ablation_of
from litespark.reports.runs import load_runs
from litespark.run.record import RunRecord
from litespark.run.record_ops import OpRecord
from tests.metrics.records.hand_made import changed
from tests.reports.synthetic_runs import write_run

# switch -> its keys, each with its value when off and when on
SWITCHES = {
    "norm": {"ops.rms_norm": ("reference", "auto"), "ops.add_rms_norm": ("reference", "auto")},
    "attention": {"ops.attention": ("reference", "auto")},
    "recompute": {"recompute.mode": ("full", "none")},
    "fused": {"optim.fused": (False, True)},
}
# tokens/s, in the order in which the runs of the sweep are started
SPEEDS = {
    "baseline": 100.0,
    "attention": 200.0,
    "attention norm": 220.0,
    "attention norm recompute": 330.0,
    "attention norm recompute fused": 396.0,
    "norm recompute fused": 198.0,
    "attention recompute fused": 360.0,
    "attention norm fused": 264.0,
}


def write(folder: Path, on: str, speed: float, *, seed: int = 1, minute: int = 0, **changes: Any) -> Path:
    """A run in which the named switches are on; `changes` are of its record, with `__` for the dots."""
    write_run(folder, seed=seed, steps=8)
    config = yaml.safe_load((folder / "config.yaml").read_text()) | {"variant": {"label": folder.name}}
    for name, keys in SWITCHES.items():
        for key, values in keys.items():
            group, leaf = key.split(".")
            config.setdefault(group, {})[leaf] = values[name in on.split()]
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    record = RunRecord.read(folder / "run.json")
    values = {
        "provenance.time": f"2026-01-31T12:{minute:02d}:00+00:00",
        "throughput.tokens_per_second": speed,
        "energy.joules_per_token_train": 10 / speed,
        "quality.validation_loss": 2.0,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    for where, value in values.items():
        record = changed(record, where, value)
    record.write(folder / "run.json")
    return folder


@pytest.fixture
def sweep(tmp_path) -> Path:
    for minute, (on, speed) in enumerate(SPEEDS.items()):
        write(tmp_path / on.replace(" ", "_"), on, speed, minute=minute)
    return tmp_path


def found(folder: Path) -> Ablation:
    made = ablation_of(load_runs([folder]))
    assert isinstance(made, Ablation), made
    return made


def test_switches_are_in_the_order_in_which_they_were_added_and_a_failed_run_leaves_a_gap(sweep):
    rows = found(sweep).rows
    assert [row.switch for row in rows] == [None, "attention", "rms_norm+add_rms_norm", "recompute", "fused"]
    assert [row.gain.median for row in rows[1:] if row.gain] == pytest.approx([2.0, 1.1, 1.5, 1.2])
    lost = [row.lost_without.median for row in rows[1:] if row.lost_without]
    assert lost == pytest.approx([0.5, 1 - 360 / 396, 1 - 264 / 396, 1 - 330 / 396])
    shown = table(found(sweep)).markdown()
    assert "| + attention | 200.0 | 2.000 | 50.0 % | 65.3 % | 50.00 mJ | 0.500 |" in shown
    assert "target over baseline: tokens/s × 3.960; J/token × 0.253" in shown
    record = sweep / "attention_norm" / "run.json"
    changed(RunRecord.read(record), "status", "failed").write(record)
    rows = found(sweep).rows
    assert [row.switch for row in rows[1:] if row.gain is None]
    assert any("not measured" in note for row in rows[1:] for note in row.notes)


def test_a_switch_that_was_tried_alone_first_does_not_break_the_order(sweep):
    write(sweep / "alone", "fused", 110.0, minute=0)
    order = [None, "attention", "rms_norm+add_rms_norm", "recompute", "fused"]
    assert [row.switch for row in found(sweep).rows] == order


def test_seeds_are_repeats_of_which_the_newest_run_counts(sweep):
    write(sweep / "again", "baseline", 99.0, minute=50)
    write(sweep / "second", "baseline", 90.0, seed=2)
    write(sweep / "second_all", "attention norm recompute fused", 450.0, seed=2)
    made = found(sweep)
    assert made.gain is not None
    assert (made.gain.low, made.gain.high, made.gain.count) == (pytest.approx(4.0), pytest.approx(5.0), 2)
    assert made.rows[0].notes == ("baseline: older runs of the same seeds left out: 1",)


def test_runs_in_which_the_same_backends_ran_are_marked_and_incomparable_ones_are_no_ablation(tmp_path):
    ops = [OpRecord("attention", "auto", "reference")]
    write(tmp_path / "a", "", 100.0, ops=ops)
    write(tmp_path / "b", "attention", 150.0, ops=ops)
    assert found(tmp_path).rows[1].unchanged
    of_others = {
        "data__manifest_hash": "ffff",
        "throughput__tokens": 5,
        "provenance__environment__world_size": 2,
        "provenance__environment__devices": [],
    }
    write(tmp_path / "c", "attention", 150.0, **of_others)
    assert ablation_of(load_runs([tmp_path])) == (
        "The runs differ only in attention, but are no ablation: they have different devices, numbers of processes, "
        "data, numbers of tokens."
    )


def test_without_a_baseline_there_is_no_ablation_and_the_reason_is_said(tmp_path):
    write(tmp_path / "a", "attention", 100.0)
    write(tmp_path / "b", "fused", 150.0)
    ends = "no finished run has all of them off; no finished run has all of them on"
    assert ablation_of(load_runs([tmp_path])) == (
        f"The runs differ only in fused, attention, but are no ablation: {ends}."
    )


@pytest.mark.parametrize("change", [("optim", "lr", 0.5), ("ops", "attention", "triton")])
def test_runs_that_differ_in_more_than_switches_are_no_ablation(tmp_path, run_folders, change):
    for name, on in (("a", ""), ("b", "attention"), ("c", "attention")):
        path = write(tmp_path / name, on, 100.0) / "config.yaml"
    group, key, value = change
    config = yaml.safe_load(path.read_text())
    config[group][key] = value
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    for folder in (tmp_path, run_folders / "sweep", run_folders / "dead"):
        assert ablation_of(load_runs([folder])) is None
