"""Variants of ours in fp8 train as the others do, cast their weights after each step, and say what casts move."""

from __future__ import annotations

import pytest
import torch

from litespark.benchmarks.step import begin as begin_module
from litespark.benchmarks.step.begin import StepSettings, add_rates, decide, described
from litespark.benchmarks.step.process import build
from litespark.benchmarks.step.stepping import step_batches
from litespark.benchmarks.step.variants import parse
from litespark.data.stream.modules import build_data_module
from litespark.launch import Ranks
from litespark.metrics.records.step import RatesRecord
from litespark.ops.fp8.operands import Operand
from litespark.ops.fp8.reference import Pieces
from litespark.planning.fp8_casts import cast_bytes
from litespark.run.config import ConfigError
from litespark.run.preflight import preflight
from tests.benchmarks.step.tiny_steps import TINY, measured, parts, request
from tests.run.composed import parts as composed

FP8 = ("ops=reference", "precision=fp8", "precision.fp8.simulate=true")
RECIPES = ("delayed", "tensorwise")
RATES = RatesRecord(matmul_flops=1e12, attention_flops=1e12, copy_bytes=1e9, fp8_matmul_flops=2e12)
SETTINGS = StepSettings(rounds=1, warmup_steps=1, steps=2, loss_rows=2)


def begun(overrides, *words):
    decided = decide(overrides, [parse(word) for word in words], SETTINGS)
    record = described(decided, overrides, SETTINGS, ["litespark"])
    add_rates(record, decided)
    return record


def test_every_recipe_trains_on_the_same_tokens_to_nearly_the_same_loss(tmp_path):
    wide = measured(tmp_path, "litespark", "litespark", "ops=reference", "precision=fp32")
    losses = {}
    for recipe in RECIPES:
        found = measured(tmp_path, recipe, "litespark", *FP8, f"precision.fp8.recipe={recipe}")
        assert found.outcome == "measured"
        assert found.tokens_hash == wide.tokens_hash
        assert found.loss == pytest.approx(wide.loss, rel=0.02)
        losses[recipe] = found.train_loss
    # they round differently, and none of them not at all
    assert len({tuple(each) for each in [*losses.values(), wide.train_loss]}) == 3


def test_weights_are_cast_once_after_each_step_and_validation_casts_none(tmp_path, monkeypatch):
    mine = parts(tmp_path, *FP8)
    machine = preflight(mine, Ranks.from_environment())
    data = build_data_module(mine.data, seed=0)
    training = build(mine, machine, data.manifest, request(tmp_path, "litespark_fp8", "litespark"))
    weights = {parameter.data_ptr() for parameter in training.model.blocks.parameters() if parameter.ndim == 2}
    cast: list[int] = []
    honest = Pieces.cast

    def noted(self, x, quantisation) -> Operand:
        cast.append(x.data_ptr())
        return honest(self, x, quantisation)

    monkeypatch.setattr(Pieces, "cast", noted)
    batches = step_batches(mine, machine, data.train_dataloader(), 3)
    counts = []
    for batch in batches:
        cast.clear()
        training.step(batch)
        counts.append(sum(each in weights for each in cast))
    # 2 layers of 4 weights: before the first forward pass and after each step, whatever the number of micro-batches
    assert counts == [16, 8, 8]
    cast.clear()
    training.held_out_loss(batches[0].batches)
    assert not any(each in weights for each in cast)


def test_the_record_says_what_casts_move_and_what_is_only_simulated(monkeypatch):
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RATES)
    overrides = ["data=synthetic", "trainer.accelerator=cpu", "precision=fp32", "precision.fp8.simulate=true", *TINY]
    words = ("litespark", "delayed:precision=fp8", "tensorwise:precision=fp8 precision.fp8.recipe=tensorwise")
    record = begun(overrides, *words)
    about = {each.name: each.about for each in record.variants}
    assert {each.reason for each in record.variants} == {None}
    assert "casts" not in about["litespark"]
    for name in ("delayed", "tensorwise"):
        theirs = composed(*overrides, *parse(next(word for word in words if word.startswith(name))).settings)
        shapes = theirs.model.step_shapes(2, 32, documents=False)
        added = sum(each.added for each in cast_bytes(theirs.model, shapes, theirs.fp8, accumulate=2))
        assert f"its casts move {added / 1e9:+.3g} GB a step against bf16, {added / 1e6:+.3g} ms" in about[name]
        assert "fp8 SIMULATED, whose speed says nothing" in about[name]
        # on a CPU activations are in fp32: neither the rate of bf16 nor that of fp8 was measured
        assert record.variant(name).roofline == []
    assert record.variant("litespark").roofline


def test_on_a_device_with_the_units_the_roofline_is_that_of_fp8(monkeypatch):
    overrides = ["data=synthetic", "trainer.accelerator=cpu", "precision=fp32", "precision.fp8.simulate=true", *TINY]
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RATES)
    monkeypatch.setattr(begin_module, "activation_dtype", lambda precision, device: torch.bfloat16)
    words = ["wide:precision=bf16", "narrow:precision=fp8"]
    record = begun(overrides, *words)
    rooflines = {
        each.name: {part.kernel_class: part.milliseconds for part in each.roofline} for each in record.variants
    }
    assert rooflines["narrow"]["gemm"] < rooflines["wide"]["gemm"]
    assert rooflines["narrow"]["copies"] > rooflines["wide"]["copies"]


def test_without_units_and_unsimulated_it_is_a_reason_in_the_record_and_no_error(monkeypatch):
    monkeypatch.setattr(begin_module, "measured_rates", lambda *given, **named: RATES)
    overrides = ["data=synthetic", "trainer.accelerator=cpu", "precision=fp32", *TINY]
    words = ("litespark", "litespark_fp8:precision=fp8")
    record = begun(overrides, *words)
    assert record.variant("litespark").reason is None
    assert "no fp8 units" in record.variant("litespark_fp8").reason
    # for the whole benchmark it is an error
    with pytest.raises(ConfigError, match="no fp8 units"):
        begun([*overrides, "precision=fp8"], "litespark")
