"""What casts lose is logged and recorded; a layer that loses too much moves, comes back, and does so after a resume."""

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.metrics.records.base import parse
from litespark.run.record import RunRecord
from litespark.run.record_ops import OpRecord
from tests.callbacks.fp8_runs import LAYERS, LOUD, Fp8Run, Plant, fp8_config
from tests.training.small_runs import batches

ROOT = Path(__file__).parents[2]
# one channel of an input far above the others, from the third step on
OUTLIER = {2: 1e6}


def fitted(folder, config, **settings):
    folder.mkdir(exist_ok=True)
    run = Fp8Run(folder, config, **settings)
    run.run.trainer.fit(run.module, batches(2))
    return run


# ---------------------------------------------------------------- what is logged and recorded


def test_every_block_is_logged_and_nothing_moves_on_a_quiet_run(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "litespark.callbacks.fp8"):
        run = fitted(tmp_path, fp8_config(), steps=8)
    assert run.moves() == []
    assert caplog.text == ""
    for row in run.rows():
        for key in (names.FP8_OVERFLOW, names.FP8_UNDERFLOW):
            assert [name for name in row if name.startswith(key)] == [
                names.of_block(key, f"blocks.{block}") for block in range(LAYERS)
            ]
            assert all(0 <= row[names.of_block(key, f"blocks.{block}")] < 0.25 for block in range(LAYERS))
        assert row[names.FP8_LINEARS] == 1.0
        assert names.TRAIN_LOSS in row


def test_the_record_tells_settings_and_shares(tmp_path):
    config = fp8_config(fallback="none", overflow_bound=0.01)
    run = Fp8Run(tmp_path, config, steps=3)
    run.record.ops.append(OpRecord("fp8", "auto", "reference"))
    run.run.trainer.fit(run.module, batches(2))
    record = parse(RunRecord, run.record.check()).fp8
    assert record is not None
    assert (record.recipe, record.gradients, record.simulated, record.backend) == ("delayed", "e5m2", True, "reference")
    assert (record.layers, record.linears, record.in_fp8, record.readings) == (LAYERS, 8, 8, 3)
    assert (record.fallback, record.overflow_bound) == ("none", 0.01)
    assert {each.tensor for each in record.shares} == set(run.module.model.fp8.scaling.names)
    assert {each.step for each in record.shares} == {3}


def test_shares_are_those_of_the_tensors(tmp_path):
    """A channel that is a million times the others leaves them below the smallest code."""
    run = fitted(tmp_path, fp8_config(fallback="none"), steps=6, plant=Plant(OUTLIER))
    shares = {each.tensor: each for each in run.record.fp8.shares}
    width = run.module.model.config.hidden_size
    loud = shares[f"{LOUD}.input"]
    assert (width - 1) / width * 0.8 < loud.underflow <= (width - 1) / width
    # in the step of the plant the scale was still that of before: the channel alone saturated
    assert loud.overflow_highest == pytest.approx(1 / width, rel=0.2)
    assert loud.overflow == 0
    assert shares["blocks.0.mlp.gate_up.input"].underflow < 0.01
    last = run.rows()[-1]
    assert last[names.of_block(names.FP8_UNDERFLOW, "blocks.1")] == loud.underflow
    assert last[names.of_block(names.FP8_UNDERFLOW, "blocks.0")] < 0.01


# ---------------------------------------------------------------- moves


def test_a_planted_outlier_moves_its_layer_to_bf16_with_one_line_and_one_entry(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "litespark.callbacks.fp8"):
        run = fitted(tmp_path, fp8_config(return_after=None), steps=8, plant=Plant(OUTLIER))
    (move,) = run.record.fp8.moves
    # in the first step the channel saturates, in the second the others underflow
    assert (move.step, move.linear, move.before, move.after, move.readings) == (4, LOUD, "delayed", "bf16", 2)
    assert (move.reason, move.tensor) == ("underflow", f"{LOUD}.input")
    assert move.share > 0.5
    (line,) = caplog.messages
    assert line.startswith(f"fp8: step 4: {LOUD} goes from delayed to bf16: ")
    assert caplog.records[0].levelno == logging.WARNING
    linears = run.module.model.fp8.linears
    assert [name for name, linear in linears.items() if linear.recipe is None] == [LOUD]
    assert run.record.fp8.in_fp8 == 7
    assert run.rows()[-1][names.FP8_LINEARS] == 7 / 8
    run.record.check()


def test_activations_that_outgrow_the_scales_of_the_last_steps_overflow(tmp_path):
    growing = Plant(dict.fromkeys(range(2, 8), 8.0), channels=None)
    run = fitted(tmp_path, fp8_config(return_after=None), steps=8, plant=growing)
    (move,) = run.record.fp8.moves
    assert (move.step, move.reason, move.tensor) == (4, "overflow", f"{LOUD}.input")
    # a scale that is taken from the tensor itself follows it
    assert fitted(tmp_path / "current", fp8_config(recipe="tensorwise"), steps=8, plant=growing).moves() == []


def test_a_layer_that_healed_comes_back_and_stays(tmp_path, caplog):
    healing = Plant(OUTLIER | {5: 1e-6})
    with caplog.at_level(logging.INFO, "litespark.callbacks.fp8"):
        run = fitted(tmp_path, fp8_config(), steps=14, plant=healing)
    assert run.moves() == [(4, LOUD, "delayed", "bf16"), (7, LOUD, "bf16", "delayed")]
    assert run.record.fp8.in_fp8 == 8
    assert f"{LOUD} goes from bf16 to delayed" in caplog.messages[1]
    assert [each.levelno for each in caplog.records] == [logging.WARNING, logging.INFO]
    assert all(math.isfinite(row[names.TRAIN_LOSS]) for row in run.rows())


def test_a_layer_comes_back_also_when_none_is_left_to_be_read(tmp_path):
    alone = replace(fp8_config(), linears=("gate_up",), bf16_first=1)
    run = fitted(tmp_path, alone, steps=8, plant=Plant(OUTLIER | {5: 1e-6}))
    assert [row[names.FP8_LINEARS] for row in run.rows()] == [1, 1, 1, 0, 0, 0, 1, 1]
    assert names.of_block(names.FP8_OVERFLOW, "blocks.1") not in run.rows()[4]


# ---------------------------------------------------------------- resumes and ranks


def test_a_resume_goes_on_as_if_nothing_had_happened(tmp_path):
    """Saved while the layer is away, and once more in the middle of a row of readings above the bound."""
    plant = Plant(OUTLIER)
    phases = Phases()
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=1, keep=99, about={}, phases=phases)
    whole = fitted(tmp_path, fp8_config(), steps=12, plant=plant, after=[checkpointer], phases=phases)
    assert len(whole.moves()) == 3
    for step in (3, 6, 8):
        folder = tmp_path / f"from-{step}"
        folder.mkdir()
        resumed = Fp8Run(folder, fp8_config(), steps=12, plant=plant)
        # as a run record has it that was written after the checkpoint
        resumed.record.fp8 = whole.record.fp8
        state = tmp_path / "checkpoints" / f"step-{step:08d}" / "state.ckpt"
        resumed.run.trainer.fit(resumed.module, batches(2), ckpt_path=state, weights_only=True)
        assert resumed.record.fp8 == whole.record.fp8
        assert resumed.monitor.policy.state_dict() == whole.monitor.policy.state_dict()
        expected = {row["step"]: row for row in whole.rows()}
        for row in resumed.rows():
            assert {key: value for key, value in row.items() if key.startswith(("fp8/", "train/"))} == {
                key: value for key, value in expected[row["step"]].items() if key.startswith(("fp8/", "train/"))
            }
        for name, weight in whole.module.model.state_dict().items():
            assert torch.equal(weight, resumed.module.model.state_dict()[name]), name


def test_a_resume_reads_where_the_run_would_have_read(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints", every_steps=5, keep=9, about={}, phases=(phases := Phases()))
    run = Fp8Run(tmp_path, fp8_config(sample_every=3), steps=11, log_every=2, after=[checkpointer], phases=phases)
    run.run.trainer.fit(run.module, batches(2))
    # steps 0, 3, 6 and 9 count; the reading at 6 finds none since 4
    assert [row["step"] for row in run.rows() if names.FP8_LINEARS in row] == [2, 4, 8, 10]
    (tmp_path / "resumed").mkdir()
    resumed = Fp8Run(tmp_path / "resumed", fp8_config(sample_every=3), steps=11, log_every=2)
    state = tmp_path / "checkpoints" / "step-00000005" / "state.ckpt"
    resumed.run.trainer.fit(resumed.module, batches(2), ckpt_path=state, weights_only=True)
    # the last reading before the resume was at 4
    assert [row["step"] for row in resumed.rows() if names.FP8_LINEARS in row] == [8, 10]
    assert resumed.record.fp8 == run.record.fp8
