"""The LightningModule under a real Trainer: normalisation, counters, the non-finite guard, validation."""

import itertools
import json
import math
import random
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from litespark.data.batch import batch_from_sequences
from litespark.data.stream import modules as streaming
from litespark.metrics import names
from litespark.models.init import initialise
from litespark.models.llama.model import Llama
from litespark.ops.backend import OpsConfig, resolve
from litespark.training.budget import TokenBudget
from litespark.training.module import NonFiniteError
from litespark.training.optim import AdamWConfig, MuonConfig
from litespark.training.random_state import random_state, restore_random_state
from litespark.training.schedule import CosineSchedule, WarmupStableDecaySchedule
from litespark.training.step import OptimizerStep
from tests.training.small_runs import CPU, LENGTH, Planted, batches, small_llama, small_run, training_module

# of the size of the gradients, so that AdamW feels their scale
FEELS_SCALE = AdamWConfig(lr=1e-2, eps=1e-2, grad_clip=0.5)


def fit(folder, *, micro_batch_size=2, accumulate=1, steps=3, **settings):
    run_settings = {key: settings.pop(key) for key in ("log_every", "validate_every", "precision") if key in settings}
    module = training_module(steps=steps, sequences=micro_batch_size * accumulate, **settings)
    folder.mkdir(exist_ok=True)
    run = small_run(folder, module, accumulate=accumulate, **run_settings)
    run.trainer.fit(module, batches(micro_batch_size))
    return run


def rows_of(run):
    return [json.loads(line) for line in (run.metrics.folder / "metrics.jsonl").read_text().splitlines()]


def plain_loop(steps, sequences, optimizer_config, schedule):
    """The same training without Lightning, without our optimizer code: the mean loss of whole batches."""
    model = Llama(small_llama(), resolve(OpsConfig()))
    initialise(model, model.config, 1)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    config = optimizer_config
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=config.betas,
        eps=config.eps,
        foreach=False,
    )
    losses, norms, loader = [], [], iter(batches(sequences).train_dataloader())
    for step in range(1, steps + 1):
        batch = next(loader)
        logits = model(batch.tokens, positions=batch.positions, documents=batch.documents)
        loss = functional.cross_entropy(logits.flatten(0, 1), batch.labels.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        losses.append(loss.item())
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * schedule.factor(step, steps)
        optimizer.step()
    return model, losses, norms


@pytest.mark.parametrize(
    "micro_batch_size, accumulate, changes",
    [(8, 1, {"fused": False}), (4, 2, {}), (2, 4, {"grad_clip": None}), (1, 8, {"fused": False}), (1, 8, {})],
)
def test_training_is_that_of_a_plain_loop_however_the_batch_is_cut(tmp_path, micro_batch_size, accumulate, changes):
    schedule = WarmupStableDecaySchedule(warmup=0.5, decay=0.25, final=0.5)
    optimizer = replace(FEELS_SCALE, **changes)
    model, losses, norms = plain_loop(4, 8, optimizer, schedule)
    run = fit(
        tmp_path,
        micro_batch_size=micro_batch_size,
        accumulate=accumulate,
        steps=4,
        optimizer=optimizer,
        schedule=schedule,
    )
    for name, expected in model.named_parameters():
        assert (run.module.model.get_parameter(name) - expected).norm() / expected.norm() < 2e-6, name
    rows = rows_of(run)
    assert [row[names.TRAIN_LOSS] for row in rows] == pytest.approx(losses, rel=1e-6)
    assert [row[names.GRADIENT_NORM] for row in rows] == pytest.approx(norms, rel=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [AdamWConfig(lr=1e-2, grad_clip=0.5), AdamWConfig(lr=1e-2, fused=False), MuonConfig(lr=1e-2)],
    ids=["fused", "unfused", "muon"],
)
def test_steps_in_plain_pytorch_are_those_under_the_trainer_bit_for_bit(tmp_path, optimizer):
    run = fit(tmp_path, accumulate=4, optimizer=optimizer)
    plain = training_module(steps=3, sequences=8, optimizer=optimizer)
    plain.construct(CPU)
    taken = plain.configure_optimizers()
    step = OptimizerStep(plain.task, grad_clip=optimizer.grad_clip, device=CPU)
    stream = iter(batches(2).train_dataloader())
    for row in rows_of(run):
        step.take(plain.model, taken, itertools.islice(stream, 4), row[names.LEARNING_RATE])
        loss, tokens = step.sums.tolist()
        assert loss / tokens == row[names.TRAIN_LOSS]
    torch.testing.assert_close(plain.model.state_dict(), run.module.model.state_dict(), rtol=0, atol=0)


def test_tokens_and_steps_are_counted_in_the_batches(tmp_path):
    run = fit(tmp_path, micro_batch_size=2, accumulate=3, steps=2)
    loader = iter(batches(2).train_dataloader())
    seen = [next(loader) for _ in range(6)]
    assert len({batch.supervised_count for batch in seen}) > 1, "the other tests need micro-batches that differ"
    assert (run.module.tokens_seen, run.module.steps_taken) == (6 * 2 * LENGTH, 2)
    assert run.module.last_step == (
        sum(batch.token_count for batch in seen[3:]),
        sum(batch.supervised_count for batch in seen[3:]),
        sum(batch.attention_pairs for batch in seen[3:]),
    )
    assert [row[names.PROGRESS_TOKENS] for row in rows_of(run)] == [48, 96]


def test_the_learning_rate_that_is_logged_is_the_one_of_the_schedule_and_of_the_step(tmp_path):
    schedule = WarmupStableDecaySchedule(warmup=0.5, decay=0.25, final=0.5)
    run = fit(tmp_path, steps=8, optimizer=AdamWConfig(lr=0.25), schedule=schedule)
    logged = [row[names.LEARNING_RATE] for row in rows_of(run)]
    assert logged == pytest.approx([0.25 * schedule.factor(step, 8) for step in range(1, 9)])
    assert [float(group["lr"]) for group in run.trainer.optimizers[0].param_groups] == [logged[-1]] * 2


def test_a_run_ends_where_the_tokens_seen_reach_the_budget_and_its_schedule_with_it(tmp_path, monkeypatch):
    def partly_filled(ids, **settings):
        batch = batch_from_sequences(ids, **settings)
        batch.token_count = 6 + int(ids[0, 0]) % 11
        return batch

    monkeypatch.setattr(streaming, "batch_from_sequences", partly_filled)
    module = training_module(steps=1, sequences=2, optimizer=AdamWConfig(lr=0.5), schedule=CosineSchedule(0.0, 0.125))
    module.budget = TokenBudget(12, tokens=100)
    run = small_run(tmp_path, module)
    run.trainer.fit(module, batches(2))
    seen = [row[names.PROGRESS_TOKENS] for row in rows_of(run)]
    assert len({b - a for a, b in itertools.pairwise(seen)}) > 2
    assert seen[-2] < 100 <= seen[-1] == module.tokens_seen == module.planned_tokens
    assert module.steps_taken == module.planned_steps == len(seen)
    rates = [row[names.LEARNING_RATE] for row in rows_of(run)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == 0.5 * 0.125 < rates[-2]


def test_a_window_averages_the_tokens_of_all_its_steps_but_the_skipped_ones(tmp_path):
    rows = {}
    for every in (1, 4):
        bad = Planted(lambda micro_batch: micro_batch == 1)
        rows[every] = rows_of(fit(tmp_path / str(every), steps=4, log_every=every, optimizer=FEELS_SCALE, task=bad))
    loader = iter(batches(2).train_dataloader())
    counts = [next(loader).supervised_count for _ in range(4)]
    taken = [
        (row[names.TRAIN_LOSS], count) for row, count in zip(rows[1], counts, strict=True) if names.TRAIN_LOSS in row
    ]
    assert len(taken) == 3
    expected = sum(loss * count for loss, count in taken) / sum(count for _, count in taken)
    assert rows[4][0][names.TRAIN_LOSS] == pytest.approx(expected, rel=1e-5)


def test_bf16_follows_fp32_on_a_cpu(tmp_path):
    exact = fit(tmp_path / "a", steps=3, accumulate=2)
    rounded = fit(tmp_path / "b", steps=3, accumulate=2, precision="bf16")
    assert all(parameter.dtype == torch.float32 for parameter in rounded.module.model.parameters())
    for a, b in zip(rows_of(exact), rows_of(rounded), strict=True):
        assert b[names.TRAIN_LOSS] == pytest.approx(a[names.TRAIN_LOSS], rel=2e-2)
        assert b[names.TRAIN_LOSS] != a[names.TRAIN_LOSS]


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "unfused"])
@pytest.mark.parametrize("what", ["loss", "gradient", "infinite"])
def test_one_bad_micro_batch_skips_its_step_and_nothing_else(tmp_path, fused, what):
    optimizer = AdamWConfig(lr=1e-2, fused=fused)
    bad = Planted(lambda micro_batch: micro_batch == 5, what)  # second micro-batch of the third step
    run = fit(tmp_path, accumulate=2, steps=5, task=bad, optimizer=optimizer)
    weights = run.journal.weights
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    for before, after in ((0, 1), (2, 3), (3, 4)):
        assert any(not torch.equal(weights[before][name], weights[after][name]) for name in weights[0])
    assert run.journal.skipped == [0, 0, 1, 1, 1]
    rows = rows_of(run)
    assert [row[names.SKIPPED_STEPS] for row in rows] == [0, 0, 1, 1, 1]
    assert names.TRAIN_LOSS not in rows[2]
    assert all(math.isfinite(row[names.TRAIN_LOSS]) for row in rows if row is not rows[2])
    # a skipped step is a step: the schedule and the data go on
    assert (run.module.steps_taken, run.module.tokens_seen) == (5, 5 * 4 * LENGTH)


@pytest.mark.parametrize(
    "bad, log_every, end",
    [(range(2, 12), 1, 5), ({0, 1, 2}, 4, 4), ({3, 4, 5}, 4, 8), ({1, 2, 4, 5, 7, 8, 10, 11}, 4, None)],
    ids=["all", "inside a window", "across windows", "good ones between"],
)
def test_bad_steps_in_a_row_end_the_run_with_the_limit_named(tmp_path, bad, log_every, end):
    module = training_module(
        steps=12, sequences=2, task=Planted(bad.__contains__), optimizer=AdamWConfig(nonfinite_limit=3)
    )
    run = small_run(tmp_path, module, log_every=log_every)
    message = rf"3 steps in a row, up to step {end} \(optim\.nonfinite_limit is 3\)"
    with nullcontext() if end is None else pytest.raises(NonFiniteError, match=message):
        run.trainer.fit(module, batches(2))
    run.metrics.finalize("failed")
    assert module.steps_taken == (end or 12)
    assert rows_of(run)[-1][names.SKIPPED_STEPS] == sum(step in bad for step in range(end or 12))


def test_validation_knows_nothing_of_the_one_before_and_changes_nothing_in_training(tmp_path):
    runs = []
    for name, every in (("often", 1), ("once", 4), ("never", None)):
        runs.append(fit(tmp_path / name, steps=4, accumulate=2, validate_every=every))
    often, once, never = runs
    assert often.module.validation == once.module.validation
    for run in (often, once):
        pairs = zip(run.module.model.parameters(), never.module.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_random_state_comes_back_for_all_three_generators():
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    before = random_state(CPU)
    first = draw()
    assert draw() != first
    restore_random_state(before, CPU)
    assert draw() == first
