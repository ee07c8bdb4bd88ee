"""What casts lose is logged and recorded; a layer that loses too much moves, comes back, and does so after a resume."""

import logging
import math
from dataclasses import replace

import lightning.pytorch as pl
import pytest
import torch

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.fp8 import Fp8Monitor
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.metrics.records.base import parse
from litespark.ops.fp8.settings import AdaptiveConfig, Fp8Config
from litespark.run.record import RunRecord
from litespark.training.optim import AdamWConfig
from tests.callbacks.fake_time import rows_of
from tests.metrics.records.hand_made import make_record
from tests.training.small_runs import batches, small_run, training_module

LAYERS, LOUD = 2, "blocks.1.mlp.gate_up"
# one channel of an input far above the others, from the third step on
OUTLIER = {2: 1e6}


def fp8_config(*, recipe="delayed", **adaptive):
    """Every step counts; two readings above a bound move a layer, three bring it back.

    Tensors are so small that a value or two that saturate are more than the usual bound.
    """
    changes = {"sample_every": 1, "patience": 2, "return_after": 3, "overflow_bound": 0.05} | adaptive
    return Fp8Config(recipe=recipe, simulate=True, adaptive=AdaptiveConfig(**changes))


class Plant(pl.Callback):
    """Before the steps that `factors` names, from 0, scales channels of the input of `LOUD`, and its weight back."""

    def __init__(self, factors, channels=1):
        self.factors, self.channels = factors, channels

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (factor := self.factors.get(pl_module.steps_taken)) is not None:
            block = pl_module.model.blocks[1]
            with torch.no_grad():
                block.mlp_norm.weight[: self.channels] *= factor
                block.mlp.gate_up.weight[:, : self.channels] /= factor


class Fp8Run:
    """A run of `steps` steps under the real Trainer with an `Fp8Monitor`, maybe from a checkpoint."""

    def __init__(self, folder, config, *, steps, plant=None, after=(), resume=None, **settings):
        folder.mkdir(exist_ok=True)
        # so slow that what is planted stays
        optimizer = AdamWConfig(lr=1e-15)
        self.module = training_module(steps=steps, sequences=2, optimizer=optimizer, fp8=config, num_layers=LAYERS)
        self.monitor = Fp8Monitor(config, "reference", settings.get("log_every", 1))
        planted = [] if plant is None else [plant]
        run = small_run(folder, self.module, callbacks=[*planted, self.monitor, *after], **settings)
        run.trainer.fit(self.module, batches(2), ckpt_path=resume, weights_only=None if resume is None else True)
        self.rows = rows_of(run)

    def moves(self):
        """Step, layer, from, to."""
        return [(move.step, move.linear, move.before, move.after) for move in self.monitor.record.moves]


# ---------------------------------------------------------------- what is logged and recorded


def test_every_block_is_logged_and_recorded_and_nothing_moves_on_a_quiet_run(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "litespark.callbacks.fp8"):
        run = Fp8Run(tmp_path, fp8_config(), steps=3)
    assert run.moves() == []
    assert caplog.text == ""
    for row in run.rows:
        for key in (names.FP8_OVERFLOW, names.FP8_UNDERFLOW):
            of_blocks = [names.of_block(key, f"blocks.{block}") for block in range(LAYERS)]
            assert [name for name in row if name.startswith(key)] == of_blocks
            assert all(0 <= row[name] < 0.25 for name in of_blocks)
        assert row[names.FP8_LINEARS] == 1.0
        assert names.TRAIN_LOSS in row
    record = parse(RunRecord, make_record(fp8=run.monitor.record).check()).fp8
    assert (record.recipe, record.gradients, record.simulated, record.backend) == ("delayed", "e5m2", True, "reference")
    assert (record.layers, record.linears, record.in_fp8, record.readings) == (LAYERS, 8, 8, 3)
    assert (record.fallback, record.overflow_bound) == ("bf16", 0.05)
    assert {each.tensor for each in record.shares} == set(run.module.model.fp8.scaling.names)
    assert {each.step for each in record.shares} == {3}


def test_shares_are_those_of_the_tensors(tmp_path):
    """A channel that is a million times the others leaves them below the smallest code."""
    run = Fp8Run(tmp_path, fp8_config(fallback="none"), steps=6, plant=Plant(OUTLIER))
    shares = {each.tensor: each for each in run.monitor.record.shares}
    width = run.module.model.config.hidden_size
    loud = shares[f"{LOUD}.input"]
    assert (width - 1) / width * 0.8 < loud.underflow <= (width - 1) / width
    # in the step of the plant the scale was still that of before: the channel alone saturated
    assert loud.overflow_highest == pytest.approx(1 / width, rel=0.2)
    assert loud.overflow == 0
    assert shares["blocks.0.mlp.gate_up.input"].underflow < 0.01
    last = run.rows[-1]
    assert last[names.of_block(names.FP8_UNDERFLOW, "blocks.1")] == loud.underflow
    assert last[names.of_block(names.FP8_UNDERFLOW, "blocks.0")] < 0.01


# ---------------------------------------------------------------- moves


def test_a_planted_outlier_moves_its_layer_to_bf16_with_one_line_and_one_entry(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "litespark.callbacks.fp8"):
        run = Fp8Run(tmp_path, fp8_config(return_after=None), steps=8, plant=Plant(OUTLIER))
    (move,) = run.monitor.record.moves
    # in the first step the channel saturates, in the second the others underflow
    assert (move.step, move.linear, move.before, move.after, move.readings) == (4, LOUD, "delayed", "bf16", 2)
    assert (move.reason, move.tensor) == ("underflow", f"{LOUD}.input")
    assert move.share > 0.5
    (line,) = caplog.messages
    assert line.startswith(f"fp8: step 4: {LOUD} goes from delayed to bf16: ")
    assert caplog.records[0].levelno == logging.WARNING
    linears = run.module.model.fp8.linears
    assert [name for name, linear in linears.items() if linear.recipe is None] == [LOUD]
    assert run.monitor.record.in_fp8 == 7
    assert run.rows[-1][names.FP8_LINEARS] == 7 / 8
    make_record(fp8=run.monitor.record).check()


def test_activations_that_outgrow_the_scales_of_the_last_steps_overflow(tmp_path):
    growing = Plant(dict.fromkeys(range(2, 8), 8.0), channels=None)
    run = Fp8Run(tmp_path, fp8_config(return_after=None), steps=8, plant=growing)
    (move,) = run.monitor.record.moves
    assert (move.step, move.reason, move.tensor) == (4, "overflow", f"{LOUD}.input")
    # a scale that is taken from the tensor itself follows it
    assert Fp8Run(tmp_path / "current", fp8_config(recipe="tensorwise"), steps=8, plant=growing).moves() == []


def test_a_layer_that_healed_comes_back_and_stays(tmp_path, caplog):
    healing = Plant(OUTLIER | {5: 1e-6})
    with caplog.at_level(logging.INFO, "litespark.callbacks.fp8"):
        run = Fp8Run(tmp_path, fp8_config(), steps=14, plant=healing)
    assert run.moves() == [(4, LOUD, "delayed", "bf16"), (7, LOUD, "bf16", "delayed")]
    assert run.monitor.record.in_fp8 == 8
    assert f"{LOUD} goes from bf16 to delayed" in caplog.messages[1]
    assert [each.levelno for each in caplog.records] == [logging.WARNING, logging.INFO]
    assert all(math.isfinite(row[names.TRAIN_LOSS]) for row in run.rows)


def test_a_layer_comes_back_also_when_none_is_left_to_be_read(tmp_path):
    alone = replace(fp8_config(), linears=("gate_up",), bf16_first=1)
    run = Fp8Run(tmp_path, alone, steps=8, plant=Plant(OUTLIER | {5: 1e-6}))
    assert [row[names.FP8_LINEARS] for row in run.rows] == [1, 1, 1, 0, 0, 0, 1, 1]
    assert names.of_block(names.FP8_OVERFLOW, "blocks.1") not in run.rows[4]


# ---------------------------------------------------------------- resumes and ranks


def what_was_measured(row):
    return {key: value for key, value in row.items() if key.startswith(("fp8/", "train/"))}


def test_a_resume_goes_on_as_if_nothing_had_happened(tmp_path):
    """Saved while the layer is away, and once more in the middle of a row of readings above the bound."""
    plant = Plant(OUTLIER)
    phases = Phases()
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=1, keep=99, about={}, phases=phases)
    whole = Fp8Run(tmp_path, fp8_config(), steps=12, plant=plant, after=[checkpointer], phases=phases)
    assert len(whole.moves()) == 3
    expected = {row["step"]: what_was_measured(row) for row in whole.rows}
    for step in (3, 6, 8):
        state = tmp_path / "checkpoints" / f"step-{step:08d}"
        resumed = Fp8Run(tmp_path / f"from-{step}", fp8_config(), steps=12, plant=plant, resume=state)
        assert resumed.monitor.record == whole.monitor.record
        assert resumed.monitor.policy.state_dict() == whole.monitor.policy.state_dict()
        assert all(what_was_measured(row) == expected[row["step"]] for row in resumed.rows)
        weights, expected_weights = (each.module.model.state_dict() for each in (resumed, whole))
        torch.testing.assert_close(weights, expected_weights, rtol=0, atol=0)


def test_a_resume_reads_where_the_run_would_have_read(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=5, keep=9, about={}, phases=(phases := Phases()))
    run = Fp8Run(tmp_path, fp8_config(sample_every=3), steps=11, log_every=2, after=[checkpointer], phases=phases)
    # steps 0, 3, 6 and 9 count; the reading at 6 finds none since 4
    assert [row["step"] for row in run.rows if names.FP8_LINEARS in row] == [2, 4, 8, 10]
    state = tmp_path / "checkpoints" / "step-00000005"
    resumed = Fp8Run(tmp_path / "resumed", fp8_config(sample_every=3), steps=11, log_every=2, resume=state)
    # the last reading before the resume was at 4
    assert [row["step"] for row in resumed.rows if names.FP8_LINEARS in row] == [8, 10]
    assert resumed.monitor.record == run.monitor.record
