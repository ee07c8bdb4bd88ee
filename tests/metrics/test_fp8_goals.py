"""The goals of fp8 are held against the fastest of ours that trained like the rest, and only where they are meant."""

from dataclasses import replace

import pytest

from litespark.metrics.fp8_goals import fp8_goals, in_fp8
from litespark.metrics.records.run import DeviceRecord
from litespark.metrics.records.step import StepModel, StepRecord
from litespark.reports.step_text import markdown, text
from tests.metrics.step_records import STEPS, record, round_, variant

TOKENS = 4 * 4096
MODEL = StepModel("llama3b", 3_015_355_392, 28, 28, 1300.0, 1480.0, 1700.0)


def at(name: str, tokens_per_second: float, *settings: str, kind: str = "litespark", **changes):
    milliseconds = 1e3 * TOKENS / tokens_per_second
    pairs = int(TOKENS * 2048.5)
    one = round_(0, [milliseconds] * STEPS, tokens=TOKENS * STEPS, attention_pairs=pairs * STEPS, **changes)
    return variant(name, one, kind=kind, settings=list(settings), floor=[])


def measured(*variants, device: str = "NVIDIA H200", model=MODEL, **changes) -> StepRecord:
    found = record(*variants, model=model, **changes)
    protocol = replace(found.protocol, micro_batch_size=4, seq_len=4096, rounds=1)
    environment = replace(found.provenance.environment, devices=[DeviceRecord(device)])
    return replace(found, protocol=protocol, provenance=replace(found.provenance, environment=environment))


BASELINES = at("compiled", 29e3, kind="huggingface"), at("compiled_fp8", 36e3, kind="huggingface")
OURS = at("litespark", 32e3)


def of(found: StepRecord) -> list[tuple[str, float | None]]:
    return [(each.verdict, None if each.value is None else round(each.value, 3)) for each in fp8_goals(found)]


@pytest.mark.parametrize(
    ("speed", "verdicts"),
    [
        (45e3, ["met", "met", "met", "met"]),
        (42e3, ["met", "met", "met", "NOT met"]),
        (40.5e3, ["NOT met", "NOT met", "met", "NOT met"]),
        (30e3, ["NOT met"] * 4),
    ],
)
def test_each_goal_has_its_verdict(speed, verdicts):
    found = measured(*BASELINES, OURS, at("litespark_fp8", speed, "precision=fp8"))
    assert of(found) == list(zip(verdicts, [round(speed / 36e3, 3), round(speed / 29e3, 3), speed, speed], strict=True))
    for said in (text(found), markdown(found)):
        assert f"ours in fp8 at least 1.4 times as fast as compiled, {speed / 29e3:.4g} reached: {verdicts[1]}" in said
        assert f"at least 44,000 tokens/s on one H200, {speed:.4g} reached" in said.replace(
            f"{speed:,.0f}", f"{speed:.4g}"
        )


def test_the_fastest_recipe_that_trained_alike_counts():
    slow = at("delayed", 41e3, "precision=fp8")
    fast = at("tensorwise", 46e3, "precision=fp8", "precision.fp8.recipe=tensorwise")
    assert [each.reason for each in fp8_goals(measured(*BASELINES, OURS, slow, fast))] == ["tensorwise"] * 4
    other = at("tensorwise", 46e3, "precision=fp8", loss=3.0)
    assert [each.reason for each in fp8_goals(measured(*BASELINES, OURS, slow, other))] == ["delayed"] * 4
    (goal, *_) = fp8_goals(measured(*BASELINES, OURS, other))
    assert goal.verdict == "not measured"
    assert "trained differently" in goal.reason


def test_goals_are_not_measured_elsewhere_and_not_asked_without_fp8():
    mine = at("litespark_fp8", 46e3, "precision=fp8")
    assert fp8_goals(measured(*BASELINES, OURS)) == []
    assert "ours in fp8" not in text(measured(*BASELINES, OURS))
    on_another = fp8_goals(measured(*BASELINES, OURS, mine, device="NVIDIA H100 80GB HBM3"))
    assert [each.verdict for each in on_another] == ["met", "met", "not measured", "not measured"]
    assert on_another[-1].reason == "this device is NVIDIA H100 80GB HBM3"
    assert {each.reason for each in fp8_goals(measured(*BASELINES, mine, device="a processor"))} == {
        "the goals are for GPUs"
    }
    for model in (replace(MODEL, name="tiny"), replace(MODEL, num_layers=2)):
        (reason,) = {each.reason for each in fp8_goals(measured(*BASELINES, mine, model=model))}
        assert "expected all of llama3b with 16384 in whole rows" in reason
    without = fp8_goals(measured(OURS, mine))
    assert [each.reason for each in without[:2]] == ["not part of this benchmark"] * 2
    assert [each.verdict for each in without[2:]] == ["met", "met"]
    absent = variant("litespark_fp8", settings=["precision=fp8"], reason="no fp8 units")
    assert {each.reason for each in fp8_goals(measured(*BASELINES, OURS, absent))} == {"litespark_fp8: no fp8 units"}


@pytest.mark.parametrize(
    ("settings", "protocol", "expected"),
    [
        (["precision=fp8"], "bf16", True),
        (["precision.name=fp8", "ops=reference"], "bf16", True),
        (["precision=fp8", "precision=bf16"], "bf16", False),
        ([], "fp8", True),
        (["precision=bf16"], "fp8", False),
        (["precision.fp8.recipe=tensorwise"], "bf16", False),
    ],
)
def test_fp8_is_what_the_last_word_about_precision_says(settings, protocol, expected):
    found = measured(OURS)
    found.protocol.precision = protocol
    assert in_fp8(at("x", 1e3, *settings), found) is expected
    assert in_fp8(at("compiled_fp8", 1e3, kind="huggingface"), found) is False
