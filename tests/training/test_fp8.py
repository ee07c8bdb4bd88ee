"""Training in fp8, simulated, under the real Trainer: scales by step, skipped steps, checkpoints and resumes."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import LambdaCallback
from torch.utils import _pytree as pytree

from litespark.callbacks.checkpoint import Checkpointer
from litespark.callbacks.phases import Phases
from litespark.metrics import names
from litespark.models.init import initialise
from litespark.models.llama.fp8 import enable_fp8
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.ops.fp8.formats import E4M3, quantised
from litespark.ops.fp8.reference import PIECES
from litespark.ops.fp8.settings import AdaptiveConfig, Fp8Config
from litespark.ops.linear.state import Fp8State
from litespark.training import fp8
from litespark.training.optim import AdamWConfig, MuonConfig
from tests.training.small_runs import Planted, batches, small_llama, small_run, training_module

STEPS, SAVED = 6, 3
# a history shorter than the run, so that what it forgets counts, and a count in every second step
DELAYED = Fp8Config(simulate=True, history=3, adaptive=AdaptiveConfig(sample_every=2))
CONFIGS = {
    "delayed": DELAYED,
    "tensorwise": Fp8Config("tensorwise", simulate=True, history=3),
    "a part": Fp8Config(simulate=True, history=3, linears=("qkv", "down"), bf16_last=1, gradients="e4m3"),
}
OPTIMIZER = AdamWConfig(lr=3e-2, grad_clip=0.5)


def fit(folder, *, config=DELAYED, steps=STEPS, resume=None, callbacks=(), accumulate=1, micro_batch=2, **settings):
    folder.mkdir(exist_ok=True)
    optimizer = settings.pop("optimizer", OPTIMIZER)
    run_settings = {key: settings.pop(key) for key in ("validate_every",) if key in settings}
    module = training_module(
        steps=steps, sequences=micro_batch * accumulate, optimizer=optimizer, fp8=config, num_layers=2, **settings
    )
    phases = Phases()
    saver = Checkpointer(folder / "checkpoints", every_steps=SAVED, keep=9, about={}, phases=phases)
    run = small_run(folder, module, accumulate=accumulate, callbacks=[*callbacks, saver], phases=phases, **run_settings)
    state = None if resume is None else resume / "checkpoints" / f"step-{SAVED:08d}"
    run.trainer.fit(module, batches(micro_batch), ckpt_path=state, weights_only=None if resume is None else True)
    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fp8")


@pytest.fixture(scope="module")
def whole(folder):
    """An undisturbed run with delayed scales; its checkpoints are below `folder / "whole"`."""
    return fit(folder / "whole")


@pytest.fixture(scope="module")
def exact(folder):
    """The same in fp32."""
    return fit(folder / "exact", config=None)


def losses(run):
    rows = [json.loads(line) for line in (run.metrics.folder / "metrics.jsonl").read_text().splitlines()]
    return [row[names.TRAIN_LOSS] for row in rows if names.TRAIN_LOSS in row]


def assert_same_bits(left, right):
    """Of two models with what they keep for fp8."""
    ours, theirs = (pytree.tree_leaves([model.state_dict(), model.fp8.state_dict()]) for model in (left, right))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# ------------------------------------------------------------------ steps


@pytest.mark.parametrize("optimizer", [OPTIMIZER, MuonConfig(lr=1e-2)], ids=["adamw", "muon"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_every_step_ends_with_new_scales_and_weights_cast_anew(tmp_path, optimizer, accumulate):
    run = fit(tmp_path, steps=3, accumulate=accumulate, optimizer=optimizer)
    state = run.module.model.fp8
    assert state.scaling.steps == run.module.steps_taken == 3
    assert all(state.scaling.known)
    for name, linear in state.linears.items():
        weight = run.module.model.get_submodule(name).weight.detach()
        operand = linear.weight_operand(torch.float32)
        assert torch.equal(operand.rows.values.float(), quantised(weight, operand.rows.scale, E4M3).float()), name


def test_without_the_hook_weights_would_go_on_as_they_were_cast(tmp_path, monkeypatch):
    """The trap that it is there for: a fused optimizer leaves the version of the weights as it was."""
    monkeypatch.setattr(Fp8State, "finish_step", lambda state, mesh: None)
    run = fit(tmp_path, steps=2)
    linear = run.module.model.fp8.linears["blocks.0.mlp.down"]
    operand = linear.weight_operand(torch.float32)
    now = quantised(linear.weight.detach(), operand.rows.scale, E4M3)
    assert not torch.equal(operand.rows.values.float(), now.float())


def test_a_batch_may_be_cut_into_any_micro_batches(tmp_path):
    whole, cut = (
        fit(tmp_path / str(size), steps=4, accumulate=8 // size, micro_batch=size, optimizer=AdamWConfig(eps=1e-2))
        for size in (8, 2)
    )
    # of the first step alone the micro-batches have scales of their own
    assert losses(cut) == pytest.approx(losses(whole), rel=2e-3)


def test_training_in_fp8_follows_that_in_fp32_and_is_another(whole, exact):
    # of a model of width 8 at a high rate; what fp8 costs is seen in the runs that compare losses
    assert losses(whole) == pytest.approx(losses(exact), rel=5e-2)
    assert losses(whole) != losses(exact)
    assert all(parameter.dtype == torch.float32 for parameter in whole.module.model.parameters())


def test_validation_leaves_scales_and_weights_as_they_are(tmp_path, whole):
    between = fit(tmp_path, validate_every=1)
    assert between.module.validation
    assert_same_bits(whole.module.model, between.module.model)


@pytest.mark.parametrize("what", ["loss", "gradient", "infinite"])
def test_a_step_that_is_not_finite_is_skipped_and_spoils_no_scale(tmp_path, what):
    planted = Planted(lambda micro_batch: micro_batch == 3, what)
    run = fit(tmp_path, task=planted)
    weights = run.journal.weights
    assert run.module.skipped_steps == 1
    assert all(torch.equal(weights[2][name], weights[3][name]) for name in weights[2])
    assert any(not torch.equal(weights[3][name], weights[4][name]) for name in weights[3])
    assert all(loss is None or loss == pytest.approx(3.5, abs=0.5) for loss in losses(run))
    scaling = run.module.model.fp8.scaling
    assert scaling.scale.isfinite().all()
    assert (scaling.history.isfinite() & (scaling.history > 0)).all()


# ------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_resumed_run_ends_in_the_same_bits(tmp_path, config):
    whole = fit(tmp_path / "whole", config=config)
    resumed = fit(tmp_path / "resumed", config=config, resume=tmp_path / "whole")
    assert losses(resumed) == losses(whole)[SAVED:]
    assert_same_bits(resumed.module.model, whole.module.model)


def test_a_layer_that_had_moved_is_where_it_was_after_a_resume(tmp_path, whole):
    def move(trainer, module, *_):  # as the policy of a run may
        if module.steps_taken == 2:
            module.model.fp8.linears["blocks.1.mlp.down"].move(None)

    moved = fit(tmp_path / "moved", callbacks=[LambdaCallback(on_train_batch_end=move)])
    resumed = fit(tmp_path / "resumed", resume=tmp_path / "moved")
    assert resumed.module.model.fp8.linears["blocks.1.mlp.down"].recipe is None
    assert losses(resumed) == losses(moved)[SAVED:]
    assert_same_bits(resumed.module.model, moved.module.model)
    assert losses(moved) != losses(whole)


def test_a_resume_that_forgot_the_scales_would_train_otherwise(tmp_path, folder, whole, monkeypatch):
    monkeypatch.setattr(fp8, "restore", lambda *arguments, **settings: None)
    forgetful = fit(tmp_path, resume=folder / "whole")
    assert losses(forgetful) != losses(whole)[SAVED:]


def test_a_run_goes_on_in_fp8_or_without_it_and_says_so(tmp_path, folder, whole, exact, caplog):
    caplog.set_level(logging.WARNING, "litespark")
    entered = fit(tmp_path / "entered", resume=folder / "exact")
    assert "resuming in fp8: the run was not in fp8" in caplog.text
    assert entered.module.model.fp8.scaling.steps == STEPS - SAVED
    caplog.clear()
    fit(tmp_path / "left", config=None, resume=folder / "whole")
    assert "resuming without fp8: the run was in fp8" in caplog.text


def test_what_casts_lost_on_all_ranks_is_counted_once_after_a_resume():
    model = Llama(small_llama(), resolve(OpsConfig()))
    initialise(model, model.config, 1)
    state = enable_fp8(model, DELAYED, PIECES)
    scaling = state.scaling
    lost = torch.arange(scaling.counts.numel()).view_as(scaling.counts).to(scaling.counts)
    scaling.counts += lost
    scaling.seen = list(range(100, 100 + len(scaling.seen)))
    twice = [2 * seen for seen in scaling.seen]
    values = fp8.saved(state, SimpleNamespace(gather=lambda value: [value, value]))
    fp8.restore(state, values, first_rank=False)
    assert not scaling.counts.any()
    assert not any(scaling.seen)
    fp8.restore(state, values, first_rank=True)
    assert torch.equal(scaling.counts, 2 * lost)
    assert scaling.seen == twice
