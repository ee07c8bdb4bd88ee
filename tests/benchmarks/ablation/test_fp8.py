"""fp8 as a switch of an ablation: simulated on a CPU, which shows that it runs and what it does to the loss."""

from __future__ import annotations

import pytest

from litespark.benchmarks.ablation.session import bench_ablation
from litespark.benchmarks.ablation.switches import switches_between
from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.begin import StepSettings
from litespark.benchmarks.step.process import measured
from litespark.benchmarks.step.session import Surroundings
from litespark.metrics.records.step import RatesRecord
from litespark.reports.ablation_rows import from_record
from litespark.run import new_record as provenance_module
from tests.benchmarks.step.tiny_steps import TINY
from tests.run.composed import parts as composed

OVERRIDES = ["data=synthetic", "trainer.accelerator=cpu", "ops=reference", "precision.fp8.simulate=true", *TINY]


@pytest.fixture(autouse=True)
def one_state_of_the_code(monkeypatch):
    monkeypatch.setattr(provenance_module, "source_hash", lambda *folders: "0123456789abcdef")
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RatesRecord(1e15, 1e14, 1e15))


def resolved(*overrides: str):
    return composed(*OVERRIDES, *overrides).resolved


def test_precision_is_one_switch_and_the_recipe_another():
    (switch,) = switches_between(resolved("precision=bf16"), resolved("precision=fp8"), grouped=[], order=[])
    assert (switch.name, [(each.key, each.baseline, each.target) for each in switch.keys]) == (
        "precision",
        [("precision.name", "bf16", "fp8")],
    )
    target = resolved("precision=fp8", "precision.fp8.recipe=tensorwise")
    found = switches_between(resolved("precision=bf16"), target, grouped=[], order=[])
    assert {each.name for each in found} == {"precision", "recipe"}
    # a recipe says nothing of bf16: the two are switched together
    (both,) = switches_between(
        resolved("precision=bf16"), target, grouped=["fp8=precision.name,precision.fp8.recipe"], order=[]
    )
    assert both.name == "fp8"


@pytest.mark.parametrize(("precision", "switched"), [("bf16", False), ("fp32", False), ("fp8", True), ("auto", True)])
def test_what_only_fp8_computes_with_is_no_switch_where_nothing_is_in_fp8(precision, switched):
    words = [word for word in OVERRIDES if not word.startswith("ops=")] + [f"precision={precision}"]
    baseline, target = (composed(*words, f"ops={ops}").resolved for ops in ("reference", "litespark"))
    found = switches_between(baseline, target, grouped=[], order=[])
    assert ("fp8" in {each.name for each in found}) == switched
    assert "rope" in {each.name for each in found}


def test_the_gain_of_fp8_is_measured_beside_its_loss(tmp_path):
    def launch(request, overrides, folder, *, timeout):
        return measured(composed(*overrides, *request.settings), request)

    record, _ = bench_ablation(
        OVERRIDES, baseline=["precision=fp32"], target=["precision=fp8"],
        settings=StepSettings(rounds=1, warmup_steps=1, steps=3, loss_rows=2), command=["litespark"], output=tmp_path,
        around=Surroundings(lambda line: None, launch),
    )  # fmt: skip
    assert record.complete
    assert [each.name for each in record.variants] == ["baseline", "target"]
    wide, narrow = (each.measured[0] for each in record.variants)
    assert wide.train_loss != narrow.train_loss
    assert narrow.loss == pytest.approx(wide.loss, rel=0.01)
    _, row = from_record(record).rows
    assert row.gain is not None
    assert "SIMULATED" in record.variants[1].about
