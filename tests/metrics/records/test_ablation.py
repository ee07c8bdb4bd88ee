"""What an ablation measures for its switches, and records that are refused."""

from __future__ import annotations

import json
from itertools import combinations

import pytest

from litespark.metrics.records import ablation
from litespark.metrics.records.ablation import AblationRecord, changes_speed_only, default_name, planned
from litespark.metrics.records.strict_json import RecordError
from tests.metrics.ablation_records import SWITCHES, record


def on(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_every_switch_is_added_once_and_left_out_once():
    assert [(each.name, each.on) for each in planned(["a", "b", "c"])] == [
        ("baseline", on()),
        ("plus_a", on("a")),
        ("plus_b", on("a", "b")),
        ("target", on("a", "b", "c")),
        ("without_a", on("b", "c")),
        ("without_b", on("a", "c")),
    ]
    assert [each.name for each in planned(["a"])] == ["baseline", "target"]


@pytest.mark.parametrize("count", range(1, 7))
def test_no_combination_is_measured_twice(count):
    plans = planned([f"s{number}" for number in range(count)])
    assert all(one.on != other.on and one.name != other.name for one, other in combinations(plans, 2))
    assert len(plans) == (2 * count if count > 1 else 2)


@pytest.mark.parametrize("key", ["ops.attention", "ops.compile", "recompute.mode", "precision.name", "optim.fused"])
def test_how_a_training_is_computed_may_be_switched(key):
    assert changes_speed_only(key)


@pytest.mark.parametrize(
    "key",
    "optim.lr optim.kind model.hidden_size data.seed seed trainer.global_batch_size budget.steps strategy.name".split(),
)
def test_what_is_trained_may_not(key):
    assert not changes_speed_only(key)


@pytest.mark.parametrize(
    ("key", "name"), [("ops.rope", "rope"), ("recompute.mode", "recompute"), ("optim.fused", "fused")]
)
def test_a_switch_of_one_key_is_called_after_it(key, name):
    assert default_name(key) == name


def test_a_record_is_read_as_it_was_written(tmp_path):
    made = record()
    made.write(tmp_path / "record.json")
    read = AblationRecord.read(tmp_path / "record.json")
    assert read == made
    assert read.complete
    assert read.provenance.git_commit == "c0ffee"
    assert read.variant(on("attention", "recompute")).name == "without_loss"


def test_a_record_that_was_changed_by_hand_is_refused(tmp_path):
    path = tmp_path / "record.json"
    record().write(path)
    values = json.loads(path.read_text())
    values["step"]["variants"][3]["rounds"][0]["step_ms"][0] /= 2
    path.write_text(json.dumps(values))
    with pytest.raises(RecordError, match=r"record\.json is not a valid .*seal: .*changed after it was written"):
        AblationRecord.read(path)


def _lose_a_variant(made: AblationRecord) -> None:
    del made.step.variants[2]


def _change_a_setting(made: AblationRecord) -> None:
    made.step.variants[2].settings[0] = "ops.attention=reference"


def _use_a_name_twice(made: AblationRecord) -> None:
    made.switches = [SWITCHES[0], ablation.SwitchRecord("attention", SWITCHES[1].keys)]


def _use_a_key_twice(made: AblationRecord) -> None:
    made.switches = [SWITCHES[0], ablation.SwitchRecord("more", SWITCHES[0].keys)]


def _switch_nothing(made: AblationRecord) -> None:
    made.switches = []


def _break_a_round(made: AblationRecord) -> None:
    made.step.variants[0].rounds[0].step_ms.pop()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_lose_a_variant, r"other settings than the switches make: plus_loss; expected baseline"),
        (_change_a_setting, r"other settings than the switches make: plus_loss; expected"),
        (_use_a_name_twice, r"switches: got the names \['attention', 'attention'\]"),
        (_use_a_key_twice, r"switches: got the keys \['ops.attention', 'ops.attention'\], expected each once"),
        (_switch_nothing, r"switches: got the names \[\], expected at least one"),
        (_break_a_round, r"variants\.baseline\.rounds\[0\]\.step_ms: got 3 times"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(tmp_path, damage, message):
    made = record()
    damage(made)
    made.write(tmp_path / "record.json")
    with pytest.raises(RecordError, match=message):
        AblationRecord.read(tmp_path / "record.json")
